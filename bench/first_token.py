#!/usr/bin/env python3
"""Time to the first token through the whole path, and of the engine asked directly; the difference is what the path costs.

Both ways carry the same conversation to the same engine; they alternate, and every prompt is new from its first word on.

usage: bench/first_token.py [--pairs N]
"""
import argparse, base64, itertools, json, os, random, statistics, time, urllib.parse
from common import MODEL, PORTS, fleet, machine, spread, stream, unary

numbers = itertools.count(random.randrange(10**6))


def conversation():
    return [{"role": "user", "content": f"{next(numbers)} is a number. Tell me something about it."}]


def through(port):
    body = {"idempotencyKey": base64.b64encode(os.urandom(16)).decode(), "userId": "owner", "channel": "cli",
            "messages": conversation(), "options": {"maxTokens": 2, "temperature": 0}}
    first = None
    for at, part in stream("127.0.0.1", port, "tandem.coordinator.v1.Coordinator/Submit", body):
        if part["event"].get("delta", {}).get("text"):
            first = first or at
    return first


def direct(endpoint, ticket):
    body = {"ticketId": ticket, "messages": conversation(), "maxTokens": 2, "sampling": {"temperature": 0}}
    first = None
    for at, part in stream(endpoint.hostname, endpoint.port, "tandem.model.v1.Engine/Generate", body):
        if part.get("text"):
            first = first or at
    return first


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=60)
    pairs = options.parse_args().pairs
    with fleet():
        port = PORTS["coordination"]
        wanted = {"role": "llm.fast", "holder": "bench", "maxWaitMs": 30000}
        ticket = unary(port, "tandem.model.v1.Models/Acquire", wanted)["ticket"]
        endpoint = urllib.parse.urlparse(ticket["endpoint"])
        seen = {"path": [], "direct": []}
        through(port)
        for n in range(pairs):
            ways = [("path", lambda: through(port)), ("direct", lambda: direct(endpoint, ticket["ticketId"]))]
            for name, way in ways if n % 2 else ways[::-1]:
                seen[name].append(way() * 1000)
                time.sleep(0.02)  # An engine's threads spin for a moment after work.
    more = statistics.median(seen["path"]) - statistics.median(seen["direct"])
    print(json.dumps({"machine": machine(), "model": MODEL, "pairs": pairs, "unit": "ms",
                      "path": spread(seen["path"]), "direct": spread(seen["direct"]), "more_p50": round(more, 2)}, indent=2))


if __name__ == "__main__":
    main()
