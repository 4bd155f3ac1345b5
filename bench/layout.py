#!/usr/bin/env python3
"""Records which functions of the release build run, for the linker (scripts/layout): renews scripts/layout/functions.gz.

Runs the default fleet under `valgrind --tool=callgrind`, which counts every function: first idle for a while, then one turn, the
page and the end. Functions that idle processes run come first, those that most of them run before the others. To be run
again when bench/memory.py shows that processes have grown; the next release build follows the new list.

usage: bench/layout.py [--idle SECONDS]
"""
import argparse, collections, gzip, http.client, json, pathlib, re, subprocess, tempfile, time
from common import MODEL, PAGE, ROOT, TANDEM

LIST = ROOT / "scripts/layout/functions.gz"


def own_symbols():
    """Functions of the program itself; those of libraries are not ours to put in order."""
    rows = subprocess.run(["nm", "-P", "--defined-only", TANDEM], capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name, kind in (row.split()[:2] for row in rows) if kind in "tT"}


def without_numbers(name):
    """As scripts/layout/order does it."""
    if not name.startswith("_R"):
        return name
    return re.sub(r"(\.llvm)?\.[0-9]+$", "", re.sub(r"Cs[0-9A-Za-z]+_", "C", name))


def functions(file):
    """Names of what ran, from a profile in callgrind's format: `fn=(3) name` the first time, `fn=(3)` after that."""
    names, ran = {}, set()
    for line in file.read_text(errors="replace").splitlines():
        if found := re.match(r"(c?)fn=\((\d+)\)(?: (.*))?", line):
            called, number, name = found.groups()
            if name:
                names[number] = name.strip()
            if not called:
                ran.add(number)
    # Callgrind marks a function that calls itself with 'DEPTH.
    return {re.sub(r"'\d+$", "", names[number]) for number in ran}


def record(folder, idle):
    text = (ROOT / "fleets/solo.toml").read_text().replace('"auto"', f'"{MODEL}"')
    (folder / "fleet.toml").write_text(text)
    data = folder / "data"
    tandem = [TANDEM, "--data", data]
    under = ["valgrind", "--tool=callgrind", "--trace-children=yes", "--trace-children-skip=*tandem-llama", "--demangle=no",
             f"--callgrind-out-file={folder}/ran.%p"]
    control = lambda what: subprocess.run(["callgrind_control", what], check=True, capture_output=True)
    node = subprocess.Popen([*under, *tandem, "up", folder / "fleet.toml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(180):
            time.sleep(1)
            shown = subprocess.run([*tandem, "status", "--json"], capture_output=True, text=True)
            if shown.returncode == 0 and all(group["state"] == "ready" for group in json.loads(shown.stdout)["groups"]):
                break
        else:
            raise SystemExit(f"the fleet does not come up under valgrind: {shown.stderr or shown.stdout}")
        time.sleep(idle / 2)  # What follows a start belongs to it.
        control("--zero")
        time.sleep(idle)
        control("--dump")
        subprocess.run([*tandem, "ask", "What can you do?"], check=True, stdout=subprocess.DEVNULL)
        for path in ("/", "/v1/models"):
            page = http.client.HTTPConnection("127.0.0.1", PAGE, timeout=60)
            page.request("GET", path)
            page.getresponse().read()
        subprocess.run([*tandem, "down"], check=True, stdout=subprocess.DEVNULL)
    finally:
        node.terminate()
        node.wait(60)
    # The dump while idle has number 1, the one at the end none.
    return [functions(file) for file in folder.glob("ran.*.1")], [functions(file) for file in folder.glob("ran.*[0-9]") if file.name.count(".") == 1]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--idle", type=float, default=75.0)
    idle = options.parse_args().idle
    with tempfile.TemporaryDirectory() as folder:
        parts = record(pathlib.Path(folder), idle)
    ours, order, counts = own_symbols(), {}, []
    for processes in parts:
        ran = collections.Counter(name for names in processes for name in names & ours)
        counts.append(len(ran))
        order.update(dict.fromkeys(without_numbers(name) for name in sorted(ran, key=lambda name: (-ran[name], name))))
    if not order:
        raise SystemExit("no function of the program ran: is it stripped of its symbols?")
    # A file's time in the archive would make every recording another one.
    LIST.write_bytes(gzip.compress("".join(f"{name}\n" for name in order).encode(), mtime=0))
    print(json.dumps({"idle": counts[0], "start_turn_and_end": counts[1], "listed": len(order), "bytes": LIST.stat().st_size}))


if __name__ == "__main__":
    main()
