#!/usr/bin/env python3
"""How the node supervises: hangs healed, kill -9 noticed, no false alarms, storms kept within budgets, what it costs idle.

Stub groups are processes of the benchmark program itself. Lost packets are real: that part runs in a network of its own
(`unshare -n`) whose loopback drops them by iptables, so it needs root; without it the part is left out and said to be.
Prints one JSON object.

usage: bench/supervise.py [--rounds N] [--pause SECONDS] [--loss SECONDS] [--storm SECONDS] [--idle SECONDS] [--percent N]
"""
import argparse, json, os, shutil, subprocess

from common import ROOT, machine

PROGRAM = ROOT / "target/release/examples/supervise"


def run(*args, before=()):
    done = subprocess.run([*before, PROGRAM, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, args))} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def lossy(percent):
    """What starts a program in a network that loses packets; none where that cannot be made."""
    if os.geteuid() or not shutil.which("iptables"):
        return None
    script = (f"ip link set lo up && iptables -A INPUT -i lo -p tcp -m statistic --mode random --probability {percent / 100} "
              "-j DROP && exec \"$@\"")
    return ["unshare", "-n", "sh", "-c", script, "sh"]


def rounds(count, *args):
    """Several rounds, each with its own node: a node has a budget of restarts."""
    return [run(*args) for _ in range(count)]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in [("rounds", 3), ("pause", 120), ("loss", 300), ("storm", 600), ("idle", 60), ("percent", 30)]:
        options.add_argument(f"--{name}", type=int, default=value)
    asked = options.parse_args()
    build = ["cargo", "build", "--release", "-q", "-p", "tandem-node", "--example", "supervise"]
    subprocess.run(build, cwd=ROOT, check=True)
    network = lossy(asked.percent)
    print(json.dumps({
        **machine(),
        "hang_with_heartbeats": rounds(asked.rounds, "hang", "beats"),
        "hang_by_probes": rounds(asked.rounds, "hang", "silent"),
        "kill": rounds(asked.rounds, "kill"),
        "stopped_processes": run("pause", asked.pause),
        "lost_packets": run("loss", asked.loss, before=network) if network else "left out: needs root, unshare and iptables",
        "storm": run("storm", asked.storm),
        "idle": run("idle", asked.idle),
    }, indent=1))


if __name__ == "__main__":
    main()
