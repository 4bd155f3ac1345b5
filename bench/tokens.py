#!/usr/bin/env python3
"""Tokens per second of an OpenAI request through the whole path, beside llama-server with the same GGUF, in one run.

Both get the same file, threads, slots, context per slot and requests; rounds alternate. `read` is a long prompt with one
token of answer, tokens of the prompt per second; `write` is a short prompt with a long answer, tokens of the answer per
second from the first piece to the last; with 8 streams the tokens of all of them over the time from the first request to
the last end. Both get the same prompts in a round, for an answer that ends early leaves the others more of the machine.
Every prompt is new to a side from its first word on; tokens of the chat form before it that came from a cache are not
counted.

usage: bench/tokens.py LLAMA_SERVER [--rounds N] [--threads N]
  LLAMA_SERVER is the program; `bench/llama-server.sh` builds it
"""
import argparse, concurrent.futures, contextlib, itertools, json, os, random, socket, subprocess, time
from common import MODEL, PAGE, events, fleet, machine, model_file, spread

SLOTS, CONTEXT, PEER = 8, 1024, 18080
WORDS = "river stone window garden winter market silver engine paper harbour candle forest mirror bridge copper ladder".split()
fresh = itertools.count(random.randrange(10**6))


def prompt(words):
    # Numbers first: no two prompts share a beginning.
    number = next(fresh)
    chosen = random.Random(number)
    return f"{number} is the number of this list: " + " ".join(chosen.choice(WORDS) for _ in range(words))


def ask(port, words, most):
    """One request: tokens read, tokens written, seconds to the first piece, seconds to the last."""
    text = prompt(words) + ("" if most == 1 else ". Write a long story about it.")
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": most, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}}
    first = last = usage = None
    for at, chunk in events(port, "/v1/chat/completions", body):
        usage = chunk.get("usage") or usage
        if any(c["delta"].get("content") for c in chunk["choices"]):
            first, last = first or at, at
    read = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    return read, usage["completion_tokens"], first, last


def one(port):
    read, _, first, _ = ask(port, 500, 1)
    _, written, begun, end = ask(port, 10, 192)
    return {"read": read / first, "write": (written - 1) / (end - begun)}


def eight(port):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        began = time.perf_counter()
        read = sum(r[0] for r in pool.map(lambda _: ask(port, 200, 1), range(8)))
        middle = time.perf_counter()
        written = sum(r[1] for r in pool.map(lambda _: ask(port, 10, 96), range(8)))
        return {"read": read / (middle - began), "write": written / (time.perf_counter() - middle)}


@contextlib.contextmanager
def llama_server(program, threads):
    call = [program, "-m", model_file(), "--port", str(PEER), "-t", str(threads), "-tb", str(threads), "-np", str(SLOTS),
            "-c", str(SLOTS * CONTEXT), "--no-webui"]
    peer = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PEER), 1) as s:
                s.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                if b" 200 " in s.recv(100):
                    break
            if peer.poll() is not None:
                raise SystemExit(f"{program} ended with {peer.returncode}: {' '.join(map(str, call))}")
            time.sleep(0.1)
        yield
    finally:
        peer.terminate()
        peer.wait()


def from_number(number):
    """Has the next prompts be those from this number on."""
    global fresh
    fresh = itertools.count(number)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("llama_server")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    given = options.parse_args()
    settings = f"""
[settings.ModelManagerSuite]
threads = {given.threads}
slots = {SLOTS}
engines."llm.tiny" = {{ context_tokens = {CONTEXT}, slots = {SLOTS} }}
engines."llm.fast" = {{ context_tokens = {CONTEXT}, slots = {SLOTS} }}

[settings.RequestCoordinator]
per_user = 8
"""
    seen = {}
    with fleet(settings), llama_server(given.llama_server, given.threads):
        sides = {"tandem": PAGE, "llama_server": PEER}
        for port in sides.values():
            one(port)  # Warms up: pages of the file, first tickets.
        for turn in range(given.rounds):
            for name, work in (("1", one), ("8", eight)):
                order, number = list(sides.items()), next(fresh)
                for side, port in order if turn % 2 else order[::-1]:
                    from_number(number)
                    for kind, rate in work(port).items():
                        seen.setdefault((name, kind), {}).setdefault(side, []).append(rate)
    rows = {}
    for (streams, kind), sides in seen.items():
        ratios = [ours / theirs for ours, theirs in zip(sides["tandem"], sides["llama_server"])]
        rows[f"{kind}, {streams} streams"] = {side: spread(rates) for side, rates in sides.items()} | {"ratio": spread(ratios)}
    print(json.dumps({"machine": machine(), "model": MODEL, "threads": given.threads, "rounds": given.rounds,
                      "unit": "tokens/s", "results": rows}, indent=2))


if __name__ == "__main__":
    main()
