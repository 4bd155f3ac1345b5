#!/usr/bin/env python3
"""A matrix of faults done to a running fleet, and what became of each: healed, reported with the reason, or neither.

Every fault has a fleet of its own, in a space of its own (network, mounts, processes, control groups) that ends with this program, whatever
happens. Nothing outside it is touched, no clock is set. Verdicts are looked for, none is written down here:

  healed       it came back by itself, after so many seconds
  unharmed     nothing that somebody needs was lost meanwhile
  reported     it needs a person, who is told these words
  not noticed  what was to happen did not
  left out     what the fault is made with is not here
  –            the peer has nothing of the kind, such as limits or probes

Prints one JSON object and a table in Markdown. Needs root. Peers take minutes: docker-compose with a Docker engine, and supervisord.

usage: bench/faults.py [--programs FOLDER] [--only NAME...] [--peers] [--list]
"""
import argparse, json, pathlib, signal, sys, tempfile, textwrap, time

from common import ROOT, machine
from faultlab import callers, nodes, outside, peers, processes, space
from faultlab.fleet import Fleet, Missed

# Name, in words, what it does, seconds that all of it may take.
FAULTS = [
    ("kill", "a group is killed (`kill -9`)", processes.kill_group, 120),
    ("kill-node", "the supervisor itself is killed", processes.kill_node, 120),
    ("kill-engine", "the engine is killed in mid-answer", processes.kill_engine, 240),
    ("pause", "a group is stopped for 8 s (SIGSTOP, SIGCONT)", processes.pause, 120),
    ("stop", "a group is stopped for good", processes.stop_for_good, 150),
    ("hang", "a group hangs (frozen by the kernel)", processes.hang, 150),
    ("stop-node", "the supervisor is stopped for 12 s", processes.stop_node, 150),
    ("stop-engine", "the engine is stopped for good in mid-answer", processes.stop_engine, 420),
    ("memory", "a group runs out of memory", processes.out_of_memory, 150),
    ("descriptors", "a group runs out of file descriptors", processes.descriptors, 150),
    ("fork-bomb", "a fork bomb in a group", processes.fork_bomb, 240),
    ("port-stolen", "its port is taken while a group restarts, then free again", processes.port_stolen, 180),
    ("crash-loop", "a group always ends (its port stays taken)", processes.crash_loop, 300),
    ("flapping", "a group ends again and again", processes.flapping, 180),
    ("flapping-500", "every other probe of a group is answered by 500", processes.flapping_500, 420),
    ("term", "SIGTERM to the supervisor in mid-answer", processes.drained, 180),
    ("disk-full", "the disk is full, then not", outside.disk_full, 180),
    ("disk-full-restart", "a group ends while the disk is full", outside.disk_full_restart, 240),
    ("read-only", "a group ends while the data folder is read-only", outside.read_only, 240),
    ("dns", "no name server", outside.no_names, 240),
    ("bad-reload", "the fleet file is spoilt while it runs", outside.bad_reload, 150),
    ("clock", "the clock jumps a day ahead, then two back", outside.clock_jump, 300),
    ("state", "the supervisor dies and its files are spoilt", outside.spoilt_state, 180),
    ("store", "a store's file is spoilt", outside.spoilt_store, 240),
    ("model-spoilt", "the model's file is spoilt", outside.model_spoilt, 240),
    ("model-gone", "the model's file is gone, then back", outside.model_gone, 240),
    ("program-replaced", "the program is replaced, then a group ends", outside.program_replaced, 150),
    ("program-gone", "the program is gone while a group restarts, then back", outside.program_gone, 180),
    ("sockets-gone", "all sockets of a node are deleted", outside.sockets_gone, 180),
    ("second-node", "a second node on the same data folder", outside.second_node, 120),
    ("slow-loris", "200 connections that send a byte a second", callers.slow_loris, 240),
    ("bodies", "10 MB bodies and broken JSON", callers.bad_bodies, 150),
    ("leavers", "ten callers leave in mid-answer", callers.leavers, 240),
    ("log-flood", "700 MB are written to a group's log", callers.log_flood, 240),
    ("hub-down", "the hub is killed again and again", callers.hub_down, 240),
    ("registry-down", "the registry is killed again and again", callers.registry_down, 240),
    ("memory-down", "the group that a turn needs is killed as it is asked", callers.memory_down, 150),
    ("cable", "two machines: the cable is pulled", nodes.cable, 150),
    ("one-way", "packets pass one way only", nodes.one_way, 150),
    ("overlay", "the overlay is dead, the local network is not", nodes.overlay, 150),
    ("reboot", "a machine loses power and boots", nodes.reboot, 180),
    ("expired", "both were off until their certificates had expired", nodes.expired, 240),
    ("expired-alone", "the same, and the founder is away", nodes.expired_alone, 300),
    ("clocks", "the clock of one is three hours wrong", nodes.clocks, 240),
    ("other-file", "the fleet file of one is another one", nodes.other_file, 180),
    ("older-peer", "the program of one speaks an older version of the link, then the same", nodes.older_peer, 180),
    ("invitation", "an invitation is used twice, or misspelt", nodes.used_invitation, 180),
]


def overdue(*_):
    raise Missed("no verdict within the time that all of it may take")


def hurt(deed, limit, programs):
    """Does a fault to a new fleet; answers the verdict, also where it broke something of this program."""
    signal.signal(signal.SIGALRM, overdue)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        fleet = (nodes.Pair if deed.__module__ == nodes.__name__ else Fleet)(pathlib.Path(folder), programs)
        signal.alarm(limit)
        try:
            outcome = deed(fleet)
            return {**outcome, "words": outcome["words"].replace(folder, "FOLDER")}
        except (Missed, SystemExit) as missed:
            left_out = str(missed).startswith("left out")
            return {"verdict": "left out" if left_out else "not noticed", "words": str(missed)}
        finally:
            signal.alarm(0)
            fleet.close()


def cell(outcome):
    if outcome is None:
        return "–"
    words = textwrap.shorten(outcome.get("words", ""), 220, placeholder=" …").replace("|", "\\|")
    after = f" after {outcome['after_s']} s" if "after_s" in outcome else ""
    return f"{outcome['verdict']}{after}" + (f": {words}" if words else "")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--programs", type=pathlib.Path, default=ROOT / "target/release", help="folder of tandem and tandem-llama")
    options.add_argument("--only", nargs="+", metavar="NAME", help="these faults alone")
    options.add_argument("--peers", action="store_true", help="the same done to docker-compose and supervisord")
    options.add_argument("--list", action="store_true", help="names of faults")
    asked = options.parse_args()
    if asked.list:
        print("\n".join(f"{name:18} {words}" for name, words, _, _ in FAULTS))
        return
    if unknown := set(asked.only or []) - {name for name, *_ in FAULTS}:
        options.error(f"no fault is called {', '.join(sorted(unknown))}; --list shows them")
    space.enter()
    results, columns = {}, {}
    for name, words, deed, limit in FAULTS:
        if asked.only and name not in asked.only:
            continue
        began = time.monotonic()
        results[name] = {"tandem": hurt(deed, limit, asked.programs.resolve()), "took_s": None}
        results[name]["took_s"] = round(time.monotonic() - began, 1)
        print(f"{name}: {cell(results[name]['tandem'])}", file=sys.stderr, flush=True)
    if asked.peers:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            columns = peers.run(pathlib.Path(folder))
    print(json.dumps({**machine(), "faults": results, "peers": columns}, indent=1))
    print("\n" + table(results, columns))


def table(results, columns):
    """What became of each fault, one a line: first those that were done to peers too. A peer that could not be had is said below."""
    there = {title: outcomes for title, outcomes in columns.items() if isinstance(outcomes, dict)}
    shared = [name for name in results if any(name in outcomes for outcomes in there.values())]
    lines = []
    for names, titles in ((shared, [*there]), ([name for name in results if name not in shared], [])):
        if names:
            lines += ["| Fault | " + " | ".join(["Tandem", *titles]) + " |", "| --- " * (2 + len(titles)) + "|"]
        for name, words, _, _ in FAULTS:
            if name in names:
                cells = [cell(results[name]["tandem"]), *(cell(there[title].get(name)) for title in titles)]
                lines.append(f"| {words} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines + [f"{title}: {why}" for title, why in columns.items() if title not in there])


if __name__ == "__main__":
    main()
