#!/usr/bin/env python3
"""Start of 25 services with a real assistant's dependencies: Tandem's node beside two peers, in one run.

Peers: an ideal event-driven starter without supervision (polls every 5 ms), and, when a Docker engine answers,
docker-compose with the health interval given (default 1 s). Prints one JSON object with ratios to the critical path.

usage: bench/start.py [--compose-interval SECONDS]
"""
import argparse, json, os, pathlib, shutil, socket, subprocess, tempfile, time

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


def compose(dag, interval):
    if not shutil.which("docker-compose") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        return None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        static = folder / "stub"
        shutil.copy(STUB, static)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY root /\nENTRYPOINT [\"/stub\"]\n")
        libs = subprocess.run(["ldd", static], capture_output=True, text=True).stdout
        for line in [str(static)] + [w for w in libs.split() if w.startswith("/")]:
            target = folder / "root" / ("stub" if line == str(static) else line.lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(line, target)
        subprocess.run(["docker", "build", "-q", "-t", "tandem-bench-stub", folder], check=True, capture_output=True)
        lines = ["services:"]
        for n, needs in dag.items():
            lines += [f"  {n}:", "    image: tandem-bench-stub", "    command: ['stub','8080','500']",
                      "    healthcheck:", "      test: ['CMD','/stub','probe','8080']",
                      f"      interval: {interval}s", "      timeout: 10s", "      retries: 3"]
            if needs:
                lines += ["    depends_on:"] + [f"      {x}: {{condition: service_healthy}}" for x in needs]
        (folder / "c.yml").write_text("\n".join(lines) + "\n")
        call = ["docker-compose", "-p", "tandembench", "-f", str(folder / "c.yml")]
        began = time.time()
        try:
            subprocess.run(call + ["up", "-d", "--wait"], check=True, capture_output=True)
            return time.time() - began
        finally:
            subprocess.run(call + ["down", "-t", "1"], capture_output=True)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--compose-interval", type=float, default=1.0)
    interval = options.parse_args().compose_interval
    subprocess.run(["cargo", "build", "--release", "-q", "-p", "tandem-node", "--example", "start_graph"], cwd=ROOT, check=True)
    dag = graph()
    tandem = [json.loads(subprocess.run([STUB], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    tandem.sort(key=lambda r: r["all_ready_s"])
    peer, composed = ideal(dag), compose(dag, interval)
    path = tandem[1]["critical_path_s"]
    print(json.dumps({
        "critical_path_s": path,
        "tandem": {"all_ready_s": tandem[1]["all_ready_s"], "ratio": tandem[1]["ratio"], "node_rss_mib": tandem[1]["node_rss_mib"],
                   "runs": [r["all_ready_s"] for r in tandem]},
        "ideal_poller": {"all_ready_s": round(peer, 3), "ratio": round(peer / path, 3)},
        "docker_compose": None if composed is None else {"all_ready_s": round(composed, 2), "ratio": round(composed / path, 2), "interval_s": interval},
    }, indent=1))


if __name__ == "__main__":
    main()
