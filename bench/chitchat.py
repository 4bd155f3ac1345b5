#!/usr/bin/env python3
"""How well the default model for people chats: does it answer in the language it was spoken to, and does it recall a name?

The conversations are those of the suite `chitchat` of `tandem models evaluate`, here through the whole path:

- language: an answer counts when its words are of the language of the last message, as ChitchatAgent itself tells it from
  the answer's words
- no answer: those of them that say again what was said before, or one thing over and over, for a weak model has the words
  of a language without being able to speak it
- recall: a name is given, eight messages about other things follow, then the name is asked for

usage: bench/chitchat.py [--model NAME]
"""
import argparse, base64, collections, json, os, re, time, tomllib
from common import PORTS, ROOT, fleet, machine, stream, unary

USER = "owner"

CHATS = tomllib.loads((ROOT / "crates/agents/src/control/model_manager_suite/evaluation/chitchat.toml").read_text())["question"]


def key():
    return base64.b64encode(os.urandom(16)).decode()


def turn(text, session):
    body = {"idempotencyKey": key(), "userId": USER, "sessionId": session, "modality": "MODALITY_TEXT", "channel": "cli", "text": text,
            "options": {"temperature": 0, "maxTokens": 48}}
    last = None
    for _, part in stream("127.0.0.1", PORTS["coordination"], "tandem.coordinator.v1.Coordinator/Submit", body):
        last = part["event"]
    if "final" not in last:
        raise SystemExit(f"a turn ended with {last}")
    return last["final"]


def session(name, before):
    """A session in which this was said before."""
    who, port = {"userId": USER, "sessionId": f"chat-{name}"}, PORTS["memory_stack"]
    unary(port, "tandem.session.v1.Sessions/CreateSession", {"idempotencyKey": key(), "channel": "cli"} | who)
    for n, (role, text) in enumerate(before):
        entry = {"turnId": f"{n // 2 + 1:032x}", "role": role, "text": text}
        unary(port, "tandem.session.v1.Sessions/AppendTurn", {"idempotencyKey": key(), "turn": entry} | who)
    return who["sessionId"]


def runs(text):
    words = re.findall(r"\w+", text.lower().replace("_", " "))
    return [tuple(words[n:n + 3]) for n in range(len(words) - 2)]


def is_answer(before, text):
    """As the suite has it: neither what was said before nor one thing over and over, by runs of three words."""
    said, before = runs(text), {run for _, message in before for run in runs(message)}
    return bool(text.strip()) and 4 * sum(run in before for run in said) <= 3 * len(said) and 2 * len(set(said)) >= len(said)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="qwen2.5-coder-1.5b")
    model = options.parse_args().model
    right, empty, recalled, wrong = {}, collections.Counter(), [], []
    with fleet(model=model):
        time.sleep(20)
        for chat in CHATS:
            *before, (_, text) = chat["say"]
            answer = turn(text, session(chat["name"], before))
            said = answer["provenance"].get("language")
            if chat["kind"] == "recall":
                fits = any(name in answer["text"] for name in chat["any"])
                recalled.append(fits)
            else:
                fits = said == chat["language"]
                right.setdefault(chat["language"], []).append(fits)
                if fits and not is_answer(chat["say"], answer["text"]):
                    empty[chat["language"]] += 1
            if not fits:
                wrong.append({"chat": chat["name"], "asked": text, "language": said, "answer": answer["text"]})
    every = [fits for each in right.values() for fits in each]
    share = lambda hits: {"right": sum(hits), "of": len(hits), "share": round(sum(hits) / len(hits), 3)}
    print(json.dumps({"machine": machine(), "model": model, "language": {k: share(v) for k, v in right.items()} | {"all": share(every), "wanted": 0.95},
                      "no_answer": empty, "recall": share(recalled) | {"wanted": 0.9}, "wrong": wrong}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
