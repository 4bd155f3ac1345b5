"""A space of its own for everything that is started: network, mounts, processes and control groups. Its end ends and removes all of it."""
import os, pathlib, shutil, signal, subprocess, sys, time

INSIDE = "TANDEM_FAULTS_INSIDE"
ROOT = pathlib.Path("/sys/fs/cgroup")
CONTROLLERS = ["memory", "cpu", "pids", "unified"]


def folders(name):
    return [ROOT / part / name for part in CONTROLLERS if (ROOT / part).is_dir()]


def remove(folder, limit=20):
    """A control group and all below it, as soon as its last processes have ended."""
    for inner in folder.iterdir() if folder.is_dir() else []:
        if inner.is_dir():
            remove(inner, limit)
    end = time.monotonic() + limit
    while folder.is_dir():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def enter():
    """Runs this program again in a space of its own, unless it is in one; returns inside of it."""
    if INSIDE in os.environ:
        reap()
        return
    if os.geteuid() or not shutil.which("unshare"):
        raise SystemExit("needs root and `unshare`: faults of network, disk and memory are made in a space of their own")
    name = f"tandem-faults-{os.getpid()}"

    def inside():
        for folder in folders(name):
            (folder / "cgroup.procs").write_text("0")

    for folder in folders(name):
        folder.mkdir()
    words = ["unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
             sys.executable, *sys.argv]
    process = subprocess.Popen(words, preexec_fn=inside, env={**os.environ, INSIDE: name})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: process.kill())
    code = process.wait()
    for folder in folders(name):
        remove(folder)
    raise SystemExit(code)


def reap():
    """The first process of a space inherits every orphan: it stays behind and buries them while its child goes on."""
    child = os.fork()
    if child:
        while True:
            pid, outcome = os.wait()
            if pid == child:
                os._exit(os.waitstatus_to_exitcode(outcome) & 0xff)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Names of network namespaces are files there: here they can be the same as somebody else's.
    os.makedirs("/run/netns", exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)


def cgroup(part, pid):
    """The folder of a process's control group."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, parts, path = line.split(":", 2)
        if part in parts.split(","):
            return ROOT / part / path.strip("/")
    raise SystemExit(f"this machine has no control group for {part} (version 1)")
