"""Faults of processes: killed, stopped, hung, out of memory, of descriptors, of tasks; crash loops."""
import os, pathlib, re, resource, shutil, signal, socket, subprocess, sys, time
from common import GROUPS, PORTS
from .fleet import Missed, alive, cause, deltas, door, healed, health, page, reported, rest, unharmed, until
from .space import ROOT, cgroup, INSIDE

STUB = pathlib.Path(__file__).with_name("stub.py").resolve()


def own_programs(fleet):
    """Copies of the programs for this fleet, which may be replaced; answers that of `tandem`."""
    copy = fleet.folder / "bin"
    copy.mkdir()
    for name in ("tandem", "tandem-llama"):
        shutil.copy(fleet.programs / name, copy / name)
    fleet.programs = copy
    return copy / "tandem"


def kill_group(fleet):
    fleet.up()
    before = fleet.pids()
    os.kill(before["memory_stack"], signal.SIGKILL)
    after = fleet.renewed("memory_stack", before["memory_stack"], 30)
    fleet.whole(before, "memory_stack")
    how = fleet.exit("memory_stack")
    if "SIGKILL" not in how:
        raise Missed(f"its end is told as: {how}")
    fleet.answers()
    return healed(after, how)


def kill_node(fleet):
    fleet.up()
    before = fleet.pids()
    os.kill(fleet.node()["pid"], signal.SIGKILL)
    until("the node's end", lambda: fleet.node() is None, 10)
    if not all(alive(pid) for pid in before.values()) or not page():
        raise Missed("groups ended with their node, or the page did")
    began = time.monotonic()
    said = fleet.up(asked=False)
    took = time.monotonic() - began
    fleet.whole(before)
    fleet.answers()
    return healed(took, "groups and page went on; `up`: " + next((line for line in said.splitlines() if "took over" in line), "nothing"))


def kill_engine(fleet):
    fleet.up()
    before, stream = fleet.pids(), fleet.stream()
    deltas(stream, 5)
    engine = fleet.engine()
    began = time.monotonic()
    os.kill(engine, signal.SIGKILL)
    said = rest(stream, 90)
    fleet.answers()
    took = time.monotonic() - began
    fleet.whole(before)
    if fleet.engine() == engine:
        raise Missed("the engine is the former one")
    told = re.search(r'"reason":"engine_lost","message":"([^"]*)"', said)
    if not told:
        raise Missed(f"the stream ended with: {said[-300:]}")
    return healed(took, f"the running stream ended with: {told[1]} (engine_lost)")


def stop_engine(fleet):
    fleet.up()
    before, stream = fleet.pids(), fleet.stream()
    deltas(stream, 5)
    engine = fleet.engine()
    began = time.monotonic()
    os.kill(engine, signal.SIGSTOP)
    said = rest(stream, 150)
    words = re.findall(r'"message":"([^"]*)"', said) or [said[-200:]]
    fleet.answers(150)
    fleet.whole(before)
    return healed(time.monotonic() - began, "the running stream ended with: " + words[-1])


def pause(fleet):
    fleet.up()
    before = fleet.pids()
    os.kill(before["memory_stack"], signal.SIGSTOP)
    until("it is seen to be paused", lambda: fleet.group("memory_stack")["state"] == "paused", 6)
    time.sleep(6)
    os.kill(before["memory_stack"], signal.SIGCONT)
    began = time.monotonic()
    until("ready again", lambda: fleet.group("memory_stack")["state"] == "ready", 10)
    took = time.monotonic() - began
    fleet.answers()
    fleet.whole(before)
    return healed(took, "0 restarts, said to be `paused` meanwhile")


def stop_for_good(fleet):
    fleet.up()
    before = fleet.pids()
    os.kill(before["memory_stack"], signal.SIGSTOP)
    after = fleet.renewed("memory_stack", before["memory_stack"], 60)
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return healed(after, fleet.exit("memory_stack"))


def hang(fleet):
    """The kernel's freezer: the process runs, as far as anyone can see, and does nothing."""
    fleet.up()
    before = fleet.pids()
    ice = ROOT / "unified" / os.environ[INSIDE] / "ice"
    ice.mkdir()
    try:
        (ice / "cgroup.procs").write_text(str(before["memory_stack"]))
        (ice / "cgroup.freeze").write_text("1")
        after = fleet.renewed("memory_stack", before["memory_stack"], 60)
    finally:
        (ice / "cgroup.freeze").write_text("0")
        until("the frozen group is empty", lambda: not (ice / "cgroup.procs").read_text(), 10)
        ice.rmdir()
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return healed(after, fleet.exit("memory_stack"))


def stop_node(fleet):
    fleet.up()
    before, node = fleet.pids(), fleet.node()["pid"]
    os.kill(node, signal.SIGSTOP)
    time.sleep(12)
    answer = door()
    _, words = fleet.call("status")
    os.kill(node, signal.SIGCONT)
    began = time.monotonic()
    until("the node answers", lambda: fleet.node(), 10)
    took = time.monotonic() - began
    if answer is None:
        raise Missed("no turn by the door while the node was stopped")
    time.sleep(6)
    fleet.whole(before)
    fleet.answers()
    return healed(took, "0 restarts; the door answered meanwhile, `tandem status` said: " + words.strip())


def out_of_memory(fleet):
    """Something in the group's control group takes all that it may have; the kernel is told to choose the group."""
    fleet.up()
    before = fleet.pids()
    pid = before["memory_stack"]
    pathlib.Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
    glutton = subprocess.Popen([sys.executable, "-c", "import sys\nopen(sys.argv[1], 'w').write('0')\nheld = []\n"
                                "while len(held) < 600: held.append(bytearray(b'x') * (1 << 20))\ninput()",
                                cgroup("memory", pid) / "cgroup.procs"], stdin=subprocess.PIPE)
    try:
        until("the kernel ends it", lambda: not alive(pid), 30)
    finally:
        glutton.kill()
        glutton.wait()
    after = fleet.renewed("memory_stack", pid, 30)
    fleet.whole(before, "memory_stack")
    how = fleet.exit("memory_stack")
    if not how.startswith("out of memory"):
        raise Missed(f"its end is told as: {how}")
    fleet.answers()
    return healed(after, how)


def descriptors(fleet):
    fleet.up()
    before = fleet.pids()
    pid = before["memory_stack"]
    now = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (now, now))
    after = fleet.renewed("memory_stack", pid, 60)
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return healed(after, fleet.exit("memory_stack"))


def fork_bomb(fleet):
    """Processes without end in the control group of a group."""
    fleet.up()
    before = fleet.pids()
    tasks = cgroup("pids", before["memory_stack"])
    limit = int((tasks / "pids.max").read_text())
    bomb = subprocess.Popen(["sh", "-c", f"echo 0 > {tasks}/cgroup.procs; while :; do sleep 300 & done"], stderr=subprocess.DEVNULL)
    try:
        until("the limit of tasks is reached", lambda: int((tasks / "pids.current").read_text()) >= limit - 1, 60)
        ok, words = fleet.ask()
        noticed = fleet.group("memory_stack")
    finally:
        bomb.kill()
        bomb.wait()
        for line in (tasks / "cgroup.procs").read_text().split():
            if int(line) != before["memory_stack"]:
                os.kill(int(line), signal.SIGKILL)
    took = fleet.answers()
    fleet.whole(before, "memory_stack")
    held = f"held at {limit} tasks"
    words = "a turn was answered meanwhile" if ok else f"a turn meanwhile: {words[-200:]}"
    return healed(took, f"{held}; {words}; {noticed['state']} {noticed['reason']}".strip())


def steal(port):
    """Takes a port of a group that has just ended."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    def bind():
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            return True
        except OSError:
            return False
    until(f"port {port} is free to steal", bind, 10)
    return taken


def stolen(fleet):
    """Ends a group twice, as the second start waits, and takes its port meanwhile."""
    first = fleet.pid("memory_stack")
    os.kill(first, signal.SIGKILL)
    fleet.renewed("memory_stack", first, 30)
    os.kill(fleet.pid("memory_stack"), signal.SIGKILL)
    return steal(PORTS["memory_stack"])


def port_stolen(fleet):
    fleet.up()
    before = fleet.pids()
    taken = stolen(fleet)
    words = fleet.says("memory_stack", 30, "backing off", "127.0.0.1:8203", "another program has it")
    taken.close()
    began = time.monotonic()
    fleet.renewed("memory_stack", None, 60)
    took = time.monotonic() - began
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return healed(took, "after the port was free; until then: " + cause(words))


def crash_loop(fleet):
    fleet.up()
    before = fleet.pids()
    taken = stolen(fleet)
    words = fleet.says("memory_stack", 200, "crash loop", "another program has it")
    fleet.whole(before, "memory_stack")
    taken.close()
    if fleet.call("restart", "memory_stack")[0]:
        raise Missed("an order does not start it again")
    fleet.renewed("memory_stack", None, 30)
    fleet.answers()
    return reported(cause(words) + " (the other five groups untouched; `tandem restart` brought it back)")


def flapping(fleet):
    fleet.up()
    before = fleet.pids()
    for _ in range(3):
        pid = fleet.pid("memory_stack")
        os.kill(pid, signal.SIGKILL)
        fleet.renewed("memory_stack", pid, 60)
    words = fleet.says("memory_stack", 10, "flap")
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return reported(words)


def flapping_500(fleet):
    """Every other probe of a group is answered by 500: a stub stands in for the hub, started by the real node in its place."""
    originals, program = fleet.programs, own_programs(fleet)
    fleet.up()
    before, fleet.programs = fleet.pids(), originals
    flaps, instead = fleet.folder / "flaps", program.with_suffix(".sh")
    flaps.touch()
    instead.write_text(f'#!/bin/sh\n[ "$2" = solo/observability ] && exec {sys.executable} {STUB} {PORTS["observability"]} {flaps} {fleet.folder}\n'
                       f'exec {originals}/tandem "$@"\n')
    instead.chmod(0o755)
    instead.rename(program)
    os.kill(before["observability"], signal.SIGKILL)
    fleet.renewed("observability", before["observability"], 30)
    words = fleet.says("observability", 300, "flaps")
    fleet.whole(before, "observability")
    fleet.answers()
    return reported(words)


def drained(fleet):
    """SIGTERM to the node in the middle of an answer."""
    fleet.up()
    stream, node = fleet.stream(), fleet.node()["pid"]
    deltas(stream, 5)
    os.kill(node, signal.SIGTERM)
    said = rest(stream, 90)
    until("the node's end", lambda: not alive(node), 60)
    left = [name for name in GROUPS if health(name, 1)]
    if left:
        raise Missed(f"still there: {left}")
    if '"final"' in said:
        return unharmed("the running answer was finished, then everything ended in order")
    words = re.findall(r'"message":"([^"]*)"', said)
    if not words:
        raise Missed(f"the stream ended with: {said[-300:]}")
    return reported(words[-1])
