#!/usr/bin/env python3
"""Two nodes of one fleet in two network namespaces, with the cable between them cut, half cut, flapping and losing packets by nft.

Makes the namespaces, the fleet and everything it starts itself, and removes them; needs root, `ip` and `nft`. Times are taken on one
clock, as both namespaces are on one machine. Nothing here needs a model.

The right node can have many groups (`--services`); all of them are restarted while the cable is cut.

usage: bench/two_nodes.py [--tandem PROGRAM] [--flips N] [--partition SECONDS] [--flaps N] [--loss-for SECONDS] [--services N]
"""
import argparse, contextlib, http.client, json, os, pathlib, signal, socket, statistics, subprocess, tempfile, time
from common import TANDEM, machine

SIDES = {"left": 1, "right": 2}
FLEET = """
[fleet]
name = "pair"
drain_s = 2
""" + "".join(f"""
[node.{side}]
address = "10.77.0.{n}"
lan = "192.168.77.{n}"

[group."{side}/infra_core"]
agents = ["ServiceRegistry", "SystemDigitalTwin"]
ram_mib = 256

[group."{side}/observability"]
agents = ["ObservabilityHub"]
needs = ["infra_core"]
ram_mib = 256

[group."{side}/memory_stack"]
agents = [{{ name = "SessionMemoryAgent", needs = [] }}]
needs = ["infra_core"]
ram_mib = 256
""" for side, n in SIDES.items())
WAIT = 60


def more_services(count):
    """Groups that bring the right node to so many in all."""
    return "".join(f"""
[group."right/more_{n}"]
agents = [{{ name = "SessionMemoryAgent", needs = [] }}]
needs = ["infra_core"]
ram_mib = 64
""" for n in range(4, count + 1))


def run(*words, **more):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, **more)


def space(side):
    return f"tandem-bench-{side}"


def inside(side, *words, **more):
    return run("ip", "netns", "exec", space(side), *words, **more)


@contextlib.contextmanager
def network():
    """Two namespaces joined by an overlay and a local network."""
    for side in SIDES:
        run("ip", "netns", "add", space(side))
    try:
        for name, prefix in (("ov", "10.77.0"), ("lan", "192.168.77")):
            run("ip", "link", "add", f"{name}-l", "netns", space("left"), "type", "veth", "peer", f"{name}-r", "netns", space("right"))
            for side, n in SIDES.items():
                inside(side, "ip", "addr", "add", f"{prefix}.{n}/24", "dev", f"{name}-{side[0]}")
                inside(side, "ip", "link", "set", f"{name}-{side[0]}", "up")
        for side in SIDES:
            inside(side, "ip", "link", "set", "lo", "up")
        yield
    finally:
        for side in SIDES:
            subprocess.run(["ip", "netns", "del", space(side)])


def drop(side, what, paths=("ov", "lan"), ways=("in", "out")):
    """Has one side's kernel drop what `what` says of what passes on these paths in these directions."""
    key = {"in": "iifname", "out": "oifname"}
    chains = "".join(
        f"chain {way} {{ type filter hook {way}put priority 0; " + " ".join(f'{key[way]} "{p}-{side[0]}" {what} drop;' for p in paths) + " }\n"
        for way in ways)
    inside(side, "nft", "-f", "-", input=f"table inet bench {{\n{chains}}}\n")


def heal(side):
    inside(side, "nft", "delete", "table", "inet", "bench")


class Node:
    def __init__(self, side, folder, tandem):
        self.side, self.data, self.tandem = side, folder / side, tandem
        self.process = None

    def call(self, *words):
        return inside(self.side, self.tandem, "--data", self.data, *words).stdout

    def up(self):
        log = open(self.data.with_suffix(".log"), "w")
        words = ["ip", "netns", "exec", space(self.side), self.tandem, "--data", self.data, "up"]
        self.process = subprocess.Popen([str(w) for w in words], stdout=log, stderr=log)
        self.until(lambda s: s["settled"], "it has started")

    def down(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def status(self):
        """Straight from the node's socket: a process for each look would cost more than what is measured."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.data / "run/node.sock"))
        connection.request("GET", "/status")
        return json.loads(connection.getresponse().read())

    def until(self, wanted, what):
        end = time.time() + WAIT
        while time.time() < end:
            try:
                status = self.status()
                if wanted(status):
                    return status
            except OSError:
                pass
            time.sleep(0.005)
        raise SystemExit(f"{self.side} never saw that {what}; its log: {self.data.with_suffix('.log').read_text()[-2000:]}")

    def peer(self, state):
        began = time.time()
        self.until(lambda s: s["peers"][0]["state"] == state, f"its peer is {state}")
        return time.time() - began


def processes(nodes):
    return {(n.side, g["group"].split("/")[1]): (g["pid"], g["restarts"]) for n in nodes for g in n.status()["groups"]}


def agree(nodes):
    """Whether each node's picture of the other is what the other says of itself."""
    a, b = (n.status() for n in nodes)
    facts = lambda groups: [(g["group"].split("/")[1], g["state"], g["pid"], g["restarts"], g["since"]) for g in groups]
    return all(facts(x["groups"]) == facts(y["peers"][0]["groups"]) for x, y in ((a, b), (b, a)))


def until_agreed(nodes):
    began = time.time()
    while not (all(n.status()["peers"][0]["state"] == "alive" for n in nodes) and agree(nodes)):
        if time.time() - began > WAIT:
            raise SystemExit("the two nodes never agreed")
        time.sleep(0.01)
    return time.time() - began


def flips(left, right, count):
    """Kills a group on the right and takes the time from when its own node knows until the left one does."""
    late = []
    for _ in range(count):
        group = next(g for g in right.status()["groups"] if g["group"].split("/")[1] == "memory_stack")
        os.kill(group["pid"], signal.SIGKILL)
        changed = lambda g: g["group"].split("/")[1] == "memory_stack" and g["pid"] != group["pid"]
        right.until(lambda s: any(changed(g) for g in s["groups"]), "its group ended")
        began = time.time()
        left.until(lambda s: any(changed(g) for g in s["peers"][0]["groups"]), "the group of its peer ended")
        late.append(time.time() - began)
        right.call("restart", "memory_stack")
        right.until(lambda s: all(g["state"] == "ready" for g in s["groups"]), "its groups are ready")
    return late


def spread(values):
    values = sorted(values)
    return {"p50": round(statistics.median(values), 3), "p95": round(values[min(len(values) - 1, int(len(values) * 0.95))], 3), "n": len(values)}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tandem", type=pathlib.Path, default=TANDEM)
    options.add_argument("--flips", type=int, default=20)
    options.add_argument("--partition", type=float, default=60.0)
    options.add_argument("--flaps", type=int, default=20)
    options.add_argument("--loss-for", type=float, default=60.0)
    options.add_argument("--services", type=int, default=50)
    chosen = options.parse_args()
    result = {"machine": machine(), "unit": "s"}
    with tempfile.TemporaryDirectory() as folder, network():
        folder = pathlib.Path(folder)
        (folder / "fleet.toml").write_text(FLEET + more_services(chosen.services))
        left, right = nodes = [Node(side, folder, chosen.tandem) for side in SIDES]
        try:
            left.call("init", folder / "fleet.toml", "--node", "left")
            left.up()
            line = left.call("invite", "right").split()[-1]
            began = time.time()
            right.call("join", line)
            result["join"] = round(time.time() - began, 3)
            right.up()
            until_agreed(nodes)
            for node in nodes:
                node.until(lambda s: all(g["state"] == "ready" for g in s["groups"]), "its groups are ready")
            result["flip seen on the peer"] = spread(flips(left, right, chosen.flips))
            until_agreed(nodes)
            before = processes(nodes)

            drop("left", "", paths=("ov",))
            result["overlay cut: told from a dead peer after"] = round(left.peer("overlay_dead"), 3)
            heal("left")
            result["overlay healed: agreed after"] = round(until_agreed(nodes), 3)

            drop("left", "")
            result["both cut: unknown after"] = [round(n.peer("unknown"), 3) for n in nodes]
            time.sleep(chosen.partition)
            heal("left")
            result[f"agreed after a cut of {chosen.partition:.0f} s"] = round(until_agreed(nodes), 3)

            drop("left", "")
            left.peer("unknown")
            right.call("restart", "--all")
            right.until(lambda s: all(g["state"] == "ready" for g in s["groups"]), "its groups are ready")
            heal("left")
            result[f"agreed after a cut in which {chosen.services} groups were restarted"] = round(until_agreed(nodes), 3)
            before |= {key: value for key, value in processes(nodes).items() if key[0] == "right"}

            drop("left", "", ways=("in",))
            result["one way cut: unknown after"] = round(left.peer("unknown"), 3)
            heal("left")
            result["one way healed: agreed after"] = round(until_agreed(nodes), 3)

            for _ in range(chosen.flaps):
                drop("left", "")
                time.sleep(1.5)
                heal("left")
                time.sleep(1.5)
            result[f"agreed after {chosen.flaps} flaps"] = round(until_agreed(nodes), 3)

            for side in SIDES:
                drop(side, "numgen random mod 100 < 30", ways=("in",))
            end, away = time.time() + chosen.loss_for, 0
            while time.time() < end:
                away += left.status()["peers"][0]["state"] != "alive"
                time.sleep(0.1)
            result["30 % loss: share of looks at which the peer was not alive"] = round(away / (chosen.loss_for / 0.1), 3)
            for side in SIDES:
                heal(side)
            result["agreed after loss"] = round(until_agreed(nodes), 3)

            after = processes(nodes)
            result["groups stopped, restarted or doubled by all of it"] = sum(before[k] != after[k] for k in before)
        finally:
            for node in nodes:
                node.down()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
