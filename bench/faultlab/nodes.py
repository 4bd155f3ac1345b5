"""Faults between two nodes of one fleet: cable, power, clocks, certificates, files. Network and nodes are those of `two_nodes.py`."""
import contextlib, os, signal, subprocess, time
from two_nodes import FLEET, SIDES, Node, agree, drop, heal, network, processes
from .fleet import Missed, end_all, healed, reported, until
from .outside import FAKETIME


class Pair:
    """Two nodes in a network of two paths; `join` makes them one fleet that agrees."""

    def __init__(self, folder, programs):
        self.folder, self.programs = folder, programs
        (folder / "fleet.toml").write_text(FLEET)
        self.left, self.right = self.nodes = [Node(side, folder, programs / "tandem") for side in SIDES]
        self.ends = contextlib.ExitStack()
        self.ends.enter_context(network())

    def found(self):
        self.left.call("init", self.folder / "fleet.toml", "--node", "left")
        self.left.up()
        return self.left.call("invite", "right").split()[-1]

    def join(self):
        """Answers the used invitation."""
        line = self.found()
        self.right.call("join", line)
        self.right.up()
        self.agreed(60)
        for node in self.nodes:
            until("all groups ready", lambda: all(g["state"] == "ready" for g in node.status()["groups"]), 60)
        return line

    def agreed(self, limit):
        def look():
            with contextlib.suppress(OSError, IndexError):
                return all(n.status()["peers"][0]["state"] == "alive" for n in self.nodes) and agree(self.nodes)
        try:
            return until("they agree", look, limit)[1]
        except Missed:
            raise Missed(f"the two do not agree within {limit} s: {[self.peer(n) for n in self.nodes]}") from None

    def peer(self, node):
        """A node's words about the other one."""
        with contextlib.suppress(OSError, IndexError):
            peer = node.status()["peers"][0]
            return f"{peer['state'].replace('_', ' ')}: {peer['reason']}"
        return "no node"

    def says(self, node, limit, *words):
        """Waits until a node's words about the other one have all of these; answers them and how long it took."""
        look = lambda: (text if all(word in (text := self.peer(node)) for word in words) else None)
        try:
            return until("", look, limit)
        except Missed:
            raise Missed(f"{node.side} does not say {', '.join(words)} within {limit} s, but: {self.peer(node)}") from None

    def refused(self, node, *words):
        """What a command says that must fail."""
        try:
            node.call(*words)
        except subprocess.CalledProcessError as failed:
            return " ".join((failed.stdout + failed.stderr).split())
        raise Missed(f"`tandem {words[0]}` was not refused")

    def unlike(self, node, shift):
        """Has the programs of a node see a clock shifted so from their next start on; none sets it right again."""
        node.tandem = self.programs / "tandem"
        if shift:
            if not FAKETIME.exists():
                raise Missed("left out: needs libfaketime")
            clock = f"LD_PRELOAD={FAKETIME} FAKETIME={shift} DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1"
            node.tandem = self.folder / f"{node.side}.sh"
            node.tandem.write_text(f'#!/bin/sh\n{clock} exec {self.programs / "tandem"} "$@"\n')
            node.tandem.chmod(0o755)

    def power_off(self, node):
        """All of a machine ends at once."""
        pids = [node.status()["pid"], *(g["pid"] for g in node.status()["groups"] if g["pid"])]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        node.process.wait(10)

    def close(self):
        for node in self.nodes:
            with contextlib.suppress(Exception):
                node.down()
        end_all(self.folder)
        self.ends.close()


def unchanged(pair, before, *sides):
    now = processes(pair.nodes)
    if other := [key for key in before if key[0] in (sides or SIDES) and now[key] != before[key]]:
        raise Missed(f"stopped, restarted or doubled: {other}")


def cut(pair, said, stay=0, **which):
    """Packets of the left machine are dropped until it says so of the right one, and `stay` seconds more."""
    pair.join()
    before = processes(pair.nodes)
    drop("left", "", **which)
    words, noticed = pair.says(pair.left, 30, said)
    if stay:
        time.sleep(stay)
        words = pair.peer(pair.left)
        unchanged(pair, before)
    heal("left")
    took = pair.agreed(30)
    unchanged(pair, before)
    return healed(took, f"once it was healed; noticed after {noticed:.1f} s: {words}")


def cable(pair):
    return cut(pair, "unknown", stay=15)


def one_way(pair):
    return cut(pair, "unknown", ways=("in",))


def overlay(pair):
    return cut(pair, "overlay dead", paths=("ov",))


def reboot(pair):
    pair.join()
    before = processes(pair.nodes)
    pair.power_off(pair.right)
    words, noticed = pair.says(pair.left, 30, "unknown")
    began = time.monotonic()
    pair.right.up()
    pair.agreed(60)
    took = time.monotonic() - began
    unchanged(pair, before, "left")
    until("its groups are ready", lambda: all(g["state"] == "ready" for g in pair.right.status()["groups"]), 60)
    return healed(took, f"after it was started again; noticed after {noticed:.1f} s: {words}")


def certificate(node):
    """What `tandem trust` says of a node's own certificate."""
    lines = node.call("trust").splitlines()
    return next((line.strip() for line in lines if "its certificate" in line), "nothing of its certificate")


def expired(pair):
    """Both machines were off for eight days; certificates hold for seven."""
    pair.join()
    for node in pair.nodes:
        node.down()
        pair.unlike(node, "+8d")
    pair.left.up()
    pair.right.up()
    took = pair.agreed(120)
    return healed(took, "renewed by the founder; `tandem trust`: " + certificate(pair.right))


def expired_alone(pair):
    """A member was off for eight days while the founder is away."""
    pair.join()
    for node in pair.nodes:
        node.down()
        pair.unlike(node, "+8d")
    pair.right.up()
    states = {g["state"] for g in pair.right.status()["groups"]}
    words = certificate(pair.right)
    if states != {"ready"} or "expired" not in words:
        raise Missed(f"its own groups are {states}; `tandem trust` says: {words}")
    pair.left.up()
    took = pair.agreed(120)
    return healed(took, "once the founder was there; until then its own groups were ready, and `tandem trust` said: " + words)


def clocks(pair):
    pair.join()
    pair.right.down()
    pair.unlike(pair.right, "+3h")
    pair.right.up()
    words, _ = pair.says(pair.left, 30, "clock")
    pair.right.down()
    pair.unlike(pair.right, None)
    pair.right.up()
    took = pair.agreed(60)
    return healed(took, "once the clock was right; until then: " + words)


def other_file(pair):
    pair.join()
    before = processes(pair.nodes)
    pair.right.down()
    kept = pair.right.data / "fleet.toml"
    good = kept.read_text()
    kept.write_text(good.replace("drain_s = 2", "drain_s = 3"))
    pair.right.up()
    words, _ = pair.says(pair.left, 30, "differ", "drain_s")
    unchanged(pair, before, "left")
    return reported(words)


def older_peer(pair):
    """One machine runs the program of a time when nodes spoke otherwise, then that of the other one."""
    older = pair.programs / "older-link/tandem"
    if not older.exists():
        raise Missed("left out: needs a program with an older link; bench/older-link.sh builds one")
    pair.join()
    pair.right.down()
    pair.right.tandem = older
    pair.right.up()
    before = processes(pair.nodes)
    words, _ = pair.says(pair.left, 30, "version")
    back, _ = pair.says(pair.right, 30, "version")
    # Whoever knew a change of the other before knows none now, and goes on by itself.
    time.sleep(10)
    unchanged(pair, before)
    pair.right.down()
    pair.right.tandem = pair.programs / "tandem"
    pair.right.up()
    took = pair.agreed(60)
    unchanged(pair, before, "left")
    return healed(took, f"once it was replaced; until then: {words}; the other: {back}")


def used_invitation(pair):
    line = pair.join()
    before = processes(pair.nodes)
    third = Node("right", pair.folder, pair.programs / "tandem")
    third.data = pair.folder / "third"
    used = pair.refused(third, "join", line)
    wrong = pair.refused(third, "join", line[:-6] + "AAAAAA")
    unchanged(pair, before)
    return reported(f"used: {used}; misspelt: {wrong}")
