"""Faults of what a fleet stands on: disk, files, names, clock, program, model."""
import contextlib, json, os, pathlib, re, shutil, signal, subprocess, time
from common import MODEL
from .fleet import FIRST, Missed, cause, healed, reported, unharmed, until
from .processes import own_programs

FAKETIME = pathlib.Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True)


@contextlib.contextmanager
def small_disk(fleet):
    """The data folder on a small disk of its own; yields what fills it and what frees it again."""
    fleet.data.mkdir()
    # A start wants 2 GiB of room.
    mount("-t", "tmpfs", "-o", "size=2200m", "tmpfs", fleet.data)
    ballast = fleet.data / "ballast"

    def fill():
        with open(ballast, "ab", buffering=0) as file:
            for size in (8 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)

    try:
        yield fill, ballast.unlink
    finally:
        fleet.close()
        subprocess.run(["umount", "-l", fleet.data], check=True)


def disk_full(fleet):
    with small_disk(fleet) as (fill, free):
        fleet.up()
        before = fleet.pids()
        fill()
        ok, words = fleet.ask()
        if ok or "disk" not in words.lower() and "space" not in words.lower():
            raise Missed(f"a turn on a full disk: {words[-300:]}")
        free()
        took = fleet.answers()
        fleet.whole(before)
        return healed(took, "once there was space; until then: " + " ".join(words.split())[-220:])


def disk_full_restart(fleet):
    """A group ends while the disk is full."""
    with small_disk(fleet) as (fill, free):
        fleet.up()
        before = fleet.pids()
        fill()
        os.kill(before["memory_stack"], signal.SIGKILL)
        time.sleep(4)
        words = fleet.shown("memory_stack")
        free()
        began = time.monotonic()
        fleet.renewed("memory_stack", before["memory_stack"], 90)
        took = time.monotonic() - began
        fleet.whole(before, "memory_stack")
        fleet.answers()
        return healed(took, "once there was space; until then " + words)


def read_only(fleet):
    with small_disk(fleet):
        fleet.up()
        before = fleet.pids()
        # Files that are open for writing would keep the disk writable; whoever opens one now finds that it is not.
        mount("--bind", fleet.data, fleet.data)
        try:
            mount("-o", "bind,remount,ro", fleet.data)
            os.kill(before["memory_stack"], signal.SIGKILL)
            words = fleet.says("memory_stack", 30, "ead-only")
        finally:
            subprocess.run(["umount", "-l", fleet.data], check=True)
        began = time.monotonic()
        fleet.renewed("memory_stack", before["memory_stack"], 90)
        took = time.monotonic() - began
        fleet.whole(before, "memory_stack")
        fleet.answers()
        return healed(took, "once it could be written; until then: " + cause(words))


def no_names(fleet):
    """No name server, and a group that starts meanwhile."""
    fleet.up()
    before = fleet.pids()
    empty = fleet.folder / "resolv.conf"
    empty.write_text("")
    mount("--bind", empty, os.path.realpath("/etc/resolv.conf"))
    try:
        os.kill(before["memory_stack"], signal.SIGKILL)
        fleet.renewed("memory_stack", before["memory_stack"], 30)
        fleet.answers()
        fleet.whole(before, "memory_stack")
        fleet.env["TANDEM_CACHE"] = str(fleet.folder / "cache")
        code, words = fleet.call("models", "pull", MODEL, limit=90)
        if not code:
            raise Missed("a model was fetched without a network")
    finally:
        subprocess.run(["umount", os.path.realpath("/etc/resolv.conf")], check=True)
    told = re.search(r"failed to lookup[^;\n]*", words)
    if not told:
        raise Missed(f"`models pull` does not say that names cannot be looked up: {words}")
    return reported("groups start and answer without; `models pull`: " + told[0])


def bad_reload(fleet):
    fleet.up()
    before, good = fleet.pids(), fleet.file.read_text()
    fleet.file.write_text(good.replace('needs = ["infra_core"]', 'needs = ["infra_cor"]', 1).replace("ram_mib = 256", 'ram_mib = "much"', 1)
                          .replace('"ChitchatAgent"', '"ChitchatAgen"', 1))
    os.kill(before["memory_stack"], signal.SIGKILL)
    fleet.renewed("memory_stack", before["memory_stack"], 30)
    fleet.answers()
    fleet.whole(before, "memory_stack")
    code, words = fleet.call("up", fleet.file, "--detach")
    lacking = [word for word in ("infra_cor", "much", "ChitchatAgen") if word not in words]
    if not code or lacking:
        raise Missed(f"`up` with three faults does not name {lacking}: {words}")
    errors = [line for line in words.splitlines() if line.startswith("error[")]
    return reported("groups restart by the good file; `up` names all three: " + "; ".join(errors))


def clock_jump(fleet):
    """The wall clock of the whole fleet jumps a day ahead and two days back; no other clock is touched."""
    if not FAKETIME.exists():
        raise Missed("left out: needs libfaketime")
    clock = fleet.folder / "clock"
    clock.write_text("+0")
    fleet.env |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                  "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    fleet.up()
    before = fleet.pids()
    took = []
    for jump in ("+1d", "-1d"):
        fresh = clock.with_suffix(".new")
        fresh.write_text(jump)
        fresh.rename(clock)
        took.append(fleet.answers())
        # Leases of 15 s and probes of 30 s have their turn.
        time.sleep(33)
        fleet.whole(before)
        took.append(fleet.answers())
        states = {name: fleet.group(name)["reason"] for name in before if fleet.group(name)["state"] != "ready"}
        if states:
            raise Missed(f"after {jump}: {states}")
    return unharmed(f"0 restarts, all ready, turns answered after {', '.join(f'{t:.1f}' for t in took)} s")


def spoilt_state(fleet):
    """All that the node wrote down for the next one is spoilt when it dies."""
    fleet.up()
    pid = fleet.pid("memory_stack")
    os.kill(pid, signal.SIGKILL)
    fleet.renewed("memory_stack", pid, 30)
    before = fleet.pids()
    os.kill(fleet.node()["pid"], signal.SIGKILL)
    until("the node's end", lambda: fleet.node() is None, 10)
    for path in [*fleet.data.glob("run/*.process"), *fleet.data.glob("ends/*"), fleet.data / "run/node.lock", fleet.data / "life"]:
        path.write_bytes(b"\x00\xffspoilt{")
    began = time.monotonic()
    said = fleet.up(asked=False)
    until("all groups serve", lambda: all(fleet.group(name)["state"] in ("ready", "degraded") for name in before), 60)
    fleet.answers()
    took = time.monotonic() - began
    doubled = subprocess.run(["pgrep", "-fc", f"serve solo/memory_stack .*{fleet.folder}"], capture_output=True, text=True).stdout.strip()
    if doubled != "1":
        raise Missed(f"memory_stack runs {doubled} times")
    return healed(took, next((line for line in said.splitlines() if "of a node that died" in line), said))


def spoil(path, at=0.5, size=16384):
    with open(path, "r+b") as file:
        file.seek(int(path.stat().st_size * at) // 4096 * 4096)
        file.write(os.urandom(size))


def spoilt_store(fleet):
    """Pages of the conversations' store are overwritten while nothing runs."""
    fleet.up()
    for n in range(6):
        fleet.ask(f"Message {n}: " + "the quick brown fox jumps over the lazy dog " * 8)
    fleet.call("down")
    # What was written last may be in the log beside it.
    for path in fleet.data.glob("solo/memory_stack/sessions.db*"):
        spoil(path, 0.0, path.stat().st_size)
    fleet.call("up", fleet.file, "--detach", limit=120)
    words = fleet.says("memory_stack", 60, "failed", "sessions.db")
    ok, _ = fleet.ask()
    others = [name for name in fleet.pids() if name != "memory_stack" and fleet.group(name)["state"] not in ("ready", "degraded")]
    if others:
        raise Missed(f"others suffer: {others}")
    return reported(words + (" (turns are answered without it)" if ok else " (turns are not answered)"))


def own_models(fleet):
    """A store of models of its own for this fleet; answers the model's file."""
    cache = fleet.folder / "cache"
    _, text = fleet.call("models", "list", "--json")
    source = pathlib.Path(next(m for m in json.loads(text) if m["name"] == MODEL)["path"])
    shutil.copytree(source.parent, cache / "models" / MODEL)
    fleet.env["TANDEM_CACHE"] = str(cache)
    return cache / "models" / MODEL / source.name


def model_spoilt(fleet):
    model = own_models(fleet)
    fleet.up()
    before = fleet.pids()
    # The engine has it mapped: a new file in its place, as a bad copy is.
    fresh = model.with_suffix(".fresh")
    shutil.copy(model, fresh)
    spoil(fresh, 0.0, 65536)
    fresh.rename(model)
    os.kill(fleet.engine(), signal.SIGKILL)
    told = until("the model's fault is told", lambda: named(fleet, model.name), 60)[0]
    fleet.whole(before)
    return reported(told)


def model_gone(fleet):
    model = own_models(fleet)
    fleet.up()
    before = fleet.pids()
    aside = model.with_suffix(".aside")
    model.rename(aside)
    os.kill(fleet.engine(), signal.SIGKILL)
    told = until("the model's absence is told", lambda: named(fleet, "no model for llm.fast"), 60)[0]
    fleet.says("language_stack", 40, "degraded", "no model for llm.fast")
    if not re.search(rf"{MODEL} .* absent", fleet.call("models", "list")[1]):
        raise Missed("`tandem models list` does not say that the file is absent")
    aside.rename(model)
    took = fleet.answers(FIRST)
    fleet.whole(before)
    return healed(took, "once the file was back; until then: " + " ".join(told.split()) + ", and `models list`: absent")


def named(fleet, word):
    """What a turn says that fails and names this."""
    ok, words = fleet.ask()
    return words if not ok and word in words else None


def program_replaced(fleet):
    program = own_programs(fleet)
    fleet.up()
    before = fleet.pids()
    fresh = program.with_suffix(".fresh")
    shutil.copy(program, fresh)
    fresh.rename(program)
    os.kill(before["memory_stack"], signal.SIGKILL)
    after = fleet.renewed("memory_stack", before["memory_stack"], 30)
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return healed(after, "with the new program; the other groups went on")


def program_gone(fleet):
    originals, program = fleet.programs, own_programs(fleet)
    fleet.up()
    before, fleet.programs = fleet.pids(), originals
    aside = program.with_suffix(".aside")
    program.rename(aside)
    os.kill(before["memory_stack"], signal.SIGKILL)
    try:
        words = fleet.says("memory_stack", 20, str(program))
    finally:
        aside.rename(program)
    began = time.monotonic()
    fleet.renewed("memory_stack", before["memory_stack"], 60)
    took = time.monotonic() - began
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return healed(took, "once it was back; until then: " + cause(words))


def sockets_gone(fleet):
    """Somebody cleans up sockets."""
    fleet.up()
    before = fleet.pids()
    for path in [*fleet.data.glob("run/*.sock"), *fleet.data.glob("run/*.notify")]:
        path.unlink()
    _, said = fleet.call("status")
    os.kill(before["memory_stack"], signal.SIGKILL)
    after = until("the node can be reached", fleet.node, 60)[1]
    fleet.renewed("memory_stack", before["memory_stack"], 60)
    fleet.whole(before, "memory_stack")
    fleet.answers()
    return healed(after, "a group was restarted meanwhile; until then `tandem status` said: " + said.strip())


def second_node(fleet):
    fleet.up()
    before = fleet.pids()
    code, words = fleet.call("up", fleet.file, "--detach")
    if not code:
        raise Missed("a second node was started")
    fleet.whole(before)
    fleet.answers()
    told = next((line for line in words.splitlines() if "runs on this data directory already" in line), None)
    if not told:
        raise Missed(f"why is not said: {words}")
    return reported(told)
