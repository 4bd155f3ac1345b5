#!/usr/bin/env python3
"""Start of 25 services with a real assistant's dependencies: Tandem's node beside two peers, in one run.

Peers: an ideal event-driven starter without supervision (polls every 5 ms), and docker-compose with the health intervals
given; without docker-compose or a Docker engine the result says so. Prints one JSON object with ratios to the critical path.

After that random graphs, each started four times by one node after the other: how long the last start took beyond the
critical path, and how far the node's forecast, made of the first three, was off.

usage: bench/start.py [--compose-intervals SECONDS...] [--sizes SERVICES...] [--seeds COUNT]
"""
import argparse, contextlib, io, json, os, pathlib, shutil, socket, subprocess, tarfile, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STUB = ROOT / "target/release/examples/start_graph"


def graph():
    """The graph as the benchmark program has it, so that all peers start the same one."""
    import re
    source = (ROOT / "crates/node/examples/start_graph.rs").read_text()
    table = source.split("const GRAPH", 1)[1].split("];", 1)[0]
    return {n: re.findall(r'"(\w+)"', needs) for n, needs in re.findall(r'\("(\w+)", &\[(.*?)\]\)', table, re.S)}


def healthy(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as s:
            s.settimeout(0.5)
            s.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            return b" 200 " in s.recv(100)
    except OSError:
        return False


def ideal(dag):
    port = {n: 22080 + i for i, n in enumerate(dag)}
    began, started, ready = time.time(), {}, set()
    try:
        while len(ready) < len(dag):
            for n, needs in dag.items():
                if n not in started and all(x in ready for x in needs):
                    started[n] = subprocess.Popen([STUB, "stub", str(port[n]), "500"])
            ready |= {n for n in started if n not in ready and healthy(port[n])}
            time.sleep(0.005)
        return time.time() - began
    finally:
        for p in started.values():
            p.kill()
            p.wait()


def missing():
    """What docker-compose lacks here; nothing when it can run."""
    if not shutil.which("docker-compose"):
        return "docker-compose is not installed"
    try:
        info = subprocess.run(["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True)
    except FileNotFoundError:
        return "docker is not installed"
    return f"no Docker engine answers: {info.stderr.strip()}" if info.returncode else None


@contextlib.contextmanager
def image():
    """An image of nothing but the stub and the libraries it loads; yields its name."""
    libraries = [word for word in subprocess.run(["ldd", STUB], capture_output=True, text=True).stdout.split() if word.startswith("/")]
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        tar.add(STUB, "stub")
        for library in libraries:
            tar.add(os.path.realpath(library), library)
    name = "tandem-bench-stub"
    subprocess.run(["docker", "import", "--change", 'ENTRYPOINT ["/stub"]', "-", name], input=held.getvalue(), check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["docker", "rmi", name], check=True, capture_output=True)


def compose_file(dag, stub, interval):
    """The graph for docker-compose. Without a network a container has its loopback, which is all that a stub needs."""
    service = lambda needs: {
        "image": stub, "command": ["stub", "8080", "500"], "network_mode": "none",
        "healthcheck": {"test": ["CMD", "/stub", "probe", "8080"], "interval": f"{interval:g}s", "timeout": "10s", "retries": 3},
    } | ({"depends_on": {need: {"condition": "service_healthy"} for need in needs}} if needs else {})
    return json.dumps({"services": {name: service(needs) for name, needs in dag.items()}})


def healths(project):
    """How many containers a project has, and the states of those that are not healthy."""
    listed = ["docker", "ps", "-a", "--filter", f"label=com.docker.compose.project={project}", "--format"]
    states = subprocess.run(listed + ["{{.Status}}"], capture_output=True, text=True, check=True).stdout.splitlines()
    return len(states), [state for state in states if "(healthy)" not in state]


def compose(dag, stub, interval):
    """Seconds until docker-compose has every service healthy."""
    with tempfile.TemporaryDirectory() as folder:
        project = "tandembench"
        file = pathlib.Path(folder) / "compose.json"
        file.write_text(compose_file(dag, stub, interval))
        call = ["docker-compose", "-p", project, "-f", file]
        began = time.time()
        try:
            up = subprocess.run(call + ["up", "-d"], capture_output=True, text=True)
            if up.returncode:
                raise SystemExit(f"docker-compose up failed: {up.stderr[-2000:]}")
            # It has started the last ones and does not wait for them.
            while (there := healths(project)) != (len(dag), []):
                if time.time() - began > 60 * (interval + 10):
                    raise SystemExit(f"docker-compose has {there[0]} services, not healthy are: {there[1]}")
                time.sleep(0.1)
            return time.time() - began
        finally:
            subprocess.run(call + ["down", "-t", "1"], capture_output=True)


def random_graphs(size, seeds):
    """How random graphs of a size start once the node has seen three starts of them."""
    results = []
    for seed in range(1, seeds + 1):
        printed = subprocess.run([STUB, "random", str(size), str(seed), "4"], capture_output=True, text=True, check=True).stdout
        runs = [json.loads(line) for line in printed.splitlines()]
        last, foretold = runs[-1], runs[-1]["foretold"]
        results.append({
            "seed": seed, "critical_path_s": last["critical_path_s"], "ratio": round(last["ratio"], 3),
            "beyond_s": [round(run["all_ready_s"] - run["critical_path_s"], 3) for run in runs],
            "forecast_off": round(foretold["total_ms"] / 1000 / last["all_ready_s"] - 1, 3) if foretold else "none was made",
            "chain": len(foretold["chain"]) if foretold else 0, "cut": foretold and foretold["cut"],
            "node_rss_mib": last["node_rss_mib"],
        })
    return results


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--compose-intervals", type=float, nargs="*", default=[1.0, 30.0])
    options.add_argument("--sizes", type=int, nargs="*", default=[10, 25, 100, 250, 500])
    options.add_argument("--seeds", type=int, default=2)
    asked = options.parse_args()
    intervals = asked.compose_intervals
    subprocess.run(["cargo", "build", "--release", "-q", "-p", "tandem-node", "--example", "start_graph"], cwd=ROOT, check=True)
    dag = graph()
    tandem = [json.loads(subprocess.run([STUB], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    tandem.sort(key=lambda r: r["all_ready_s"])
    path = tandem[1]["critical_path_s"]
    peer, composed = ideal(dag), {"missing": missing() if intervals else "not asked for"}
    if not composed["missing"]:
        with image() as name:
            took = [(interval, compose(dag, name, interval)) for interval in intervals]
        composed = [{"interval_s": interval, "all_ready_s": round(s, 2), "ratio": round(s / path, 2)} for interval, s in took]
    print(json.dumps({
        "critical_path_s": path,
        "tandem": {"all_ready_s": tandem[1]["all_ready_s"], "ratio": tandem[1]["ratio"], "node_rss_mib": tandem[1]["node_rss_mib"],
                   "runs": [r["all_ready_s"] for r in tandem]},
        "ideal_poller": {"all_ready_s": round(peer, 3), "ratio": round(peer / path, 3)},
        "docker_compose": composed,
        "random_graphs": {size: random_graphs(size, asked.seeds) for size in asked.sizes},
    }, indent=1))


if __name__ == "__main__":
    main()
