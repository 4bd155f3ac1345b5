"""Asks a running fleet through the official OpenAI client.

    python openai_client.py BASE_URL [TOKEN] [--model NAME]

BASE_URL is the page's address, for example http://127.0.0.1:8280. The fleet needs a chat model. One line a check; ends with 0
when all held, 1 when one did not, 2 when the fleet could not be asked at all.
"""

import argparse
import sys
import threading
import time

import openai

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def ask(client, model, text, **settings):
    settings = {"max_tokens": 24, "temperature": 0, "seed": 7} | settings
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **settings)


def stopping_point(text):
    """A part of an answer that ends it when it is said again, and what comes before. One that comes once only says where."""
    words = [word for word in text.split() if text.count(word) == 1 and text.index(word) > 0]
    assert words, f"nothing to stop at in {text!r}"
    return words[0], text[: text.index(words[0])]


def refused(kind, call):
    """The error of a call that must be refused."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"was not refused with {kind.__name__}")


@check
def models_are_listed(client, model):
    names = [entry.id for entry in client.models.list()]
    assert "tandem" in names, names
    assert any(name.startswith("llm.") for name in names), names
    for name in names:
        assert client.models.retrieve(name).id == name


@check
def whole_answer(client, model):
    answer = ask(client, model, "Say hello.")
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
    assert choice.message.role == "assistant" and choice.message.content.strip(), choice
    assert choice.finish_reason in ("stop", "length"), choice
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert abs(answer.created - time.time()) < 3600, answer.created
    assert answer._request_id and answer.id == f"chatcmpl-{answer._request_id}", answer._request_id


@check
def streamed_answer_is_the_whole_answer(client, model):
    whole = ask(client, model, "Count from one to five.")
    chunks = list(ask(client, model, "Count from one to five.", stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole.choices[0].message.content)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason, chunks[-2]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1])


@check
def streaming_helper_understands_it(client, model):
    question = "Count from one to nine, with commas."
    # The helper takes an answer that was cut at its length for an error, so this one ends at a word of its own.
    stop, expected = stopping_point(ask(client, model, question).choices[0].message.content)
    settings = {"max_tokens": 24, "temperature": 0, "seed": 7, "stop": stop}
    messages = [{"role": "user", "content": question}]
    with client.chat.completions.stream(model=model, messages=messages, **settings) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion().choices[0].message.content
    assert "".join(pieces) == whole, (pieces, whole)
    assert whole.rstrip() == expected.rstrip(), (whole, expected)


@check
def limit_is_kept(client, model):
    answer = ask(client, model, "Tell a long story about a river.", max_tokens=3)
    assert answer.usage.completion_tokens <= 3, answer.usage
    assert answer.choices[0].finish_reason == "length", answer.choices[0]


@check
def stop_ends_the_answer(client, model):
    word, expected = stopping_point(ask(client, model, "Count from one to nine, with commas.").choices[0].message.content)
    for stop in (word, [word, "never said"]):
        cut = ask(client, model, "Count from one to nine, with commas.", stop=stop).choices[0]
        assert cut.finish_reason == "stop", cut
        assert cut.message.content.rstrip() == expected.rstrip(), (cut.message.content, expected)


@check
def same_seed_same_answer(client, model):
    answers = [
        ask(client, model, "Invent a name for a boat.", temperature=1.0, seed=seed).choices[0].message.content
        for seed in (11, 11)
    ]
    assert answers[0] == answers[1], answers


@check
def conversation_is_the_callers(client, model):
    messages = [
        {"role": "developer", "content": "Answer in one short sentence."},
        {"role": "user", "content": [{"type": "text", "text": "My name is Ana."}]},
        {"role": "assistant", "content": "Hello Ana."},
        {"role": "user", "content": "What is my name?"},
    ]
    long = client.chat.completions.create(model=model, messages=messages, max_tokens=24, temperature=0)
    short = ask(client, model, "What is my name?")
    assert long.usage.prompt_tokens > short.usage.prompt_tokens, (long.usage, short.usage)
    # What came back can be sent again as it is.
    messages += [long.choices[0].message, {"role": "user", "content": "Thanks."}]
    client.chat.completions.create(model=model, messages=messages, max_tokens=4)


@check
def several_at_once(client, model):
    failures = []

    def one(number):
        try:
            assert ask(client, model, f"Say the number {number}.", max_tokens=8).choices[0].message.content
        except Exception as error:  # told below, by the thread that can fail the check
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@check
def leaving_early_harms_nobody(client, model):
    with ask(client, model, "Tell a long story.", max_tokens=512, stream=True) as stream:
        next(iter(stream))
    assert ask(client, model, "Say hello.", max_tokens=4).choices[0].message.content


@check
def wrong_requests_are_refused_by_name(client, model):
    for settings, param, code in (
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"extra_body": {"temprature": 1}}, "temprature", "unknown_parameter"),
    ):
        error = refused(openai.BadRequestError, lambda: ask(client, model, "Hi", **settings))
        assert (error.param, error.code) == (param, code), (error.param, error.code)
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    error = refused(openai.BadRequestError, lambda: ask(client, model, picture))
    assert error.param == "messages[0].content[0].type", error.param


@check
def unknown_models_are_not_found(client, model):
    for call in (lambda: ask(client, "gpt-4o", "Hi"), lambda: client.models.retrieve("gpt-4o")):
        assert refused(openai.NotFoundError, call).code == "model_not_found"


@check
def too_long_a_prompt_is_refused_with_counts(client, model):
    text = "river " * 200_000
    for stream in (False, True):
        error = refused(openai.BadRequestError, lambda: ask(client, model, text, stream=stream))
        assert error.code == "context_length_exceeded", error.code
        assert error.request_id, "the error does not say which turn it ended"
        assert sum(character.isdigit() for character in str(error.message)) >= 4, error.message


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("base_url")
    arguments.add_argument("token", nargs="?", default="none-needed")
    arguments.add_argument("--model", default="tandem", help="name of a model or role, `tandem` by default")
    given = arguments.parse_args()
    base_url = given.base_url.rstrip("/") + "/v1"
    client = openai.OpenAI(base_url=base_url, api_key=given.token, max_retries=1, timeout=300)
    try:
        client.models.list()
    except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
        print(f"cannot ask {base_url}: {error}", file=sys.stderr)
        return 2
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        began = time.monotonic()
        try:
            function(client, given.model)
        except (AssertionError, openai.OpenAIError) as error:
            failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")
        else:
            print(f"ok     {name} ({time.monotonic() - began:.1f} s)")
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
