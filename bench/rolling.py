#!/usr/bin/env python3
"""Starts every group anew, one after the other, while people ask: how many requests are lost, and how long the longest waits.

Clients ask the OpenAI door of the default fleet without pause, each request on a connection of its own, half of them as streams;
one lists the models. Lost is every request that was refused, broken off or answered with an error. Prints one JSON object.

usage: bench/rolling.py [--clients N] [--rounds N]
"""
import argparse, http.client, json, statistics, subprocess, threading, time
from common import PAGE, TANDEM, fleet, machine


def ask(stream):
    """One chat; what went wrong, or None."""
    connection = http.client.HTTPConnection("127.0.0.1", PAGE, timeout=120)
    try:
        body = {"model": "tandem", "stream": stream, "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            return f"{answer.status}: {text[:200]}"
        if stream:
            return None if text.rstrip().endswith("[DONE]") and '"error"' not in text else f"stream ended with {text[-200:]}"
        return None if json.loads(text)["choices"][0]["message"]["content"] else "an empty answer"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def models():
    connection = http.client.HTTPConnection("127.0.0.1", PAGE, timeout=120)
    try:
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        text = answer.read().decode()
        return None if answer.status == 200 and json.loads(text)["data"] else f"{answer.status}: {text[:200]}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def keep_asking(what, ends, took, lost):
    while not ends.is_set():
        began = time.perf_counter()
        problem = what()
        took.append(time.perf_counter() - began)
        if problem:
            lost.append(problem)
        time.sleep(0.02)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clients", type=int, default=3)
    options.add_argument("--rounds", type=int, default=2)
    asked = options.parse_args()
    with fleet() as data:
        # The first answer waits for the model.
        if problem := ask(False):
            raise SystemExit(f"the fleet does not answer: {problem}")
        ends, lost, chats, lists = threading.Event(), [], [], []
        callers = [(lambda stream=n % 2 == 1: ask(stream), chats) for n in range(asked.clients)] + [(models, lists)]
        threads = [threading.Thread(target=keep_asking, args=(what, ends, took, lost)) for what, took in callers]
        for thread in threads:
            thread.start()
        time.sleep(2)
        rounds = []
        for _ in range(asked.rounds):
            began = time.perf_counter()
            subprocess.run([TANDEM, "--data", data, "restart", "--all"], check=True, stdout=subprocess.DEVNULL, timeout=300)
            rounds.append(round(time.perf_counter() - began, 1))
        time.sleep(2)
        ends.set()
        for thread in threads:
            thread.join()
    spread = lambda took: {"median_s": round(statistics.median(took), 2), "longest_s": round(max(took), 2)}
    print(json.dumps({"machine": machine(), "rounds_s": rounds, "chats": len(chats), "lists": len(lists), "lost": len(lost),
                      "of_them": sorted(set(lost))[:20], "chat": spread(chats), "list": spread(lists)}, indent=1))


if __name__ == "__main__":
    main()
