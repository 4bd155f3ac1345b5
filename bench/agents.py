#!/usr/bin/env python3
"""What single agents of the default fleet do under the load that they are made for, each against its wanted number.

- registry: Resolve calls per second over a few connections that never pause, and how long the slowest of a hundred takes
- memory: the window of a session of 500 entries
- twin: how soon a process that takes 1 GiB is seen, and how far its size is off
- metrics: the page of the whole node, as Prometheus reads it, with one group stopped in mid-life; and what `promtool check
  metrics` (from Debian's package prometheus) has against it, where that is at hand

usage: bench/agents.py [--seconds N]
"""
import argparse, base64, concurrent.futures, http.client, json, math, os, shutil, signal, subprocess, sys, time
from common import PORTS, fleet, machine, status, unary

RESOLVE = json.dumps({"rpc": "/tandem.session.v1.Sessions/GetWindow", "callerNode": "solo"})
EATER = "b = bytearray(1 << 30)\nb[::4096] = b'x' * len(b[::4096])\nprint(flush=True)\nimport time; time.sleep(600)"


def percentile(times, share):
    return sorted(times)[max(0, math.ceil(len(times) * share) - 1)] * 1000


def resolving(seconds):
    """Times of calls over one connection, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", PORTS["infra_core"], timeout=10)
    times, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        connection.request("POST", "/tandem.registry.v1.Registry/Resolve", RESOLVE, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"Resolve answered {answer.status}")
        times.append(time.perf_counter() - began)
    return times


def registry(seconds):
    # Processes: threads of one Python would wait for each other rather than for the registry.
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        runs = list(pool.map(resolving, [seconds] * 2))
    times = [t for run in runs for t in run]
    return {"calls_per_s": round(len(times) / seconds), "p50_ms": round(percentile(times, 0.5), 2), "p99_ms": round(percentile(times, 0.99), 2),
            "wanted": {"calls_per_s": 2000, "p99_ms": 5}}


def memory():
    key = lambda: base64.b64encode(os.urandom(16)).decode()
    port, who = PORTS["memory_stack"], {"userId": "bench", "sessionId": "long"}
    unary(port, "tandem.session.v1.Sessions/CreateSession", {"idempotencyKey": key(), "channel": "cli"} | who)
    words = "The garden behind the house has a wall of stone and a gate that nobody has opened since the winter. " * 4
    for n in range(500):
        turn = {"turnId": f"{n // 2:032x}", "role": "assistant" if n % 2 else "user", "text": f"{n}: {words}"}
        unary(port, "tandem.session.v1.Sessions/AppendTurn", {"idempotencyKey": key(), "turn": turn} | who)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        window = unary(port, "tandem.session.v1.Sessions/GetWindow", who)
        times.append(time.perf_counter() - began)
    return {"p95_ms": round(percentile(times, 0.95), 2), "tokens": window.get("tokens"), "entries": len(window["turns"]),
            "wanted": {"p95_ms": 30, "tokens": 2000}}


def used():
    state = unary(PORTS["infra_core"], "tandem.twin.v1.Twin/GetState", {"scope": "solo"})["nodes"][0]
    return int(state["ramUsedBytes"])


def twin():
    before = [used() for _ in range(5) if time.sleep(1) is None]
    eater = subprocess.Popen([sys.executable, "-c", EATER], stdout=subprocess.PIPE)
    try:
        eater.stdout.readline()
        began, base = time.perf_counter(), sum(before) / len(before)
        lines = open(f"/proc/{eater.pid}/status").read().splitlines()
        takes = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
        while time.perf_counter() - began < 15:
            off = abs(used() - base - takes) / takes
            if off <= 0.02:
                return {"seen_after_s": round(time.perf_counter() - began, 1), "off_percent": round(off * 100, 2),
                        "wanted": {"seen_after_s": 6, "off_percent": 2}}
            time.sleep(0.2)
        return {"seen_after_s": None, "off_percent": round(off * 100, 2), "wanted": {"seen_after_s": 6, "off_percent": 2}}
    finally:
        eater.kill()
        eater.wait()


def checked(page):
    """What promtool says about a page: nothing, if it is clean."""
    if not shutil.which("promtool"):
        return "promtool is not at hand"
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True)
    return "clean" if done.returncode == 0 and not done.stderr else (done.stderr + done.stdout).decode()[-2000:]


def metrics(data):
    group = next(g for g in status(data)["groups"] if g["group"].endswith("memory_stack"))
    times = []
    os.kill(group["pid"], signal.SIGSTOP)
    try:
        for _ in range(500):
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", PORTS["observability"], timeout=30)
            connection.request("GET", "/metrics")
            page = connection.getresponse().read()
            times.append(time.perf_counter() - began)
            connection.close()
            time.sleep(0.02)
    finally:
        os.kill(group["pid"], signal.SIGCONT)
    return {"p50_ms": round(percentile(times, 0.5), 2), "p99_ms": round(percentile(times, 0.99), 2), "bytes": len(page),
            "promtool": checked(page), "wanted": {"p99_ms": 5, "promtool": "clean"}}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=10)
    seconds = options.parse_args().seconds
    with fleet() as data:
        time.sleep(20)  # The models are there, and memory no longer moves by itself.
        # The long session comes last: the model sums it up for a while, on every core.
        results = {"twin": twin(), "metrics": metrics(data), "registry": registry(seconds), "memory": memory()}
    print(json.dumps({"machine": machine()} | results, indent=2))


if __name__ == "__main__":
    main()
