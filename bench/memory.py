#!/usr/bin/env python3
"""Resident memory of the idle default fleet without its engines, release build.

Settles for a while, then reads RSS and PSS of the node and of every group from /proc. RSS counts pages that processes
share (the program itself) once for each of them; PSS shares them out, so that its sum is what the machine spends.

usage: bench/memory.py [--settle SECONDS]
"""
import argparse, json, pathlib, re, time
from common import fleet, machine, status

WANTED = {"node": 20.0, "group": 15.0, "all": 150.0}


def resident(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {key.lower(): round(int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) * 1024 / 1e6, 1) for key in ("Rss", "Pss")}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--settle", type=float, default=20.0)
    settle = options.parse_args().settle
    with fleet() as data:
        time.sleep(settle)
        now = status(data)
        node = resident(now["pid"])
        groups = {g["group"]["group"] if isinstance(g["group"], dict) else g["group"]: resident(g["pid"]) for g in now["groups"]}
    largest = max(g["rss"] for g in groups.values())
    every = {key: round(sum(g[key] for g in groups.values()), 1) for key in ("rss", "pss")}
    print(json.dumps({
        "machine": machine(), "unit": "MB", "node": node, "groups": groups, "all_groups": every,
        "ratio_to_wanted": {"node": round(node["rss"] / WANTED["node"], 2), "largest_group": round(largest / WANTED["group"], 2),
                            "all_groups": round(every["rss"] / WANTED["all"], 2)},
    }, indent=2))


if __name__ == "__main__":
    main()
