#!/usr/bin/env python3
"""A machine that boots: does the fleet come up with it, in order, and answer, after a reboot and after a power cut?

The machine is a Debian of its own with systemd as its first process, in namespaces of the kernel (processes, mounts, network,
control groups): to boot it is to start that process, a power cut is its SIGKILL. `tandem install` is called in it once, as a
person would; nobody starts anything afterwards. Makes and removes all of it; needs root, `mmdebstrap` and the test model.

usage: bench/reboot.py [--debian FOLDER] [--boots N]
  FOLDER keeps the system for the next time; it is made when it is not there
"""
import argparse, json, os, pathlib, shutil, signal, subprocess, tempfile, time
from common import MODEL, ROOT, TANDEM, machine, model_file
from faultlab.fleet import Missed, children, until
from faultlab.space import remove

CGROUPS = pathlib.Path("/sys/fs/cgroup")
ONE_TREE = (CGROUPS / "cgroup.controllers").exists()
TREES = ["."] if ONE_TREE else ["systemd", "memory", "pids", "cpu"]
PACKAGES = "systemd-sysv,dbus,procps,libgomp1,libstdc++6,ca-certificates"
DATA, FLEET = "/var/lib/tandem", "/etc/tandem/fleet.toml"
WAIT = 120

# What a machine's first process finds: its own view of processes and control groups, few devices, an empty /run.
BOOT = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
if [ "$2" = one ]; then mount -t cgroup2 cgroup sys/fs/cgroup; else
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  for tree in systemd memory pids cpu; do
    mkdir sys/fs/cgroup/$tree
    [ $tree = systemd ] && which=none,name=systemd || which=$tree
    mount -t cgroup -o $which cgroup sys/fs/cgroup/$tree
  done
fi
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
ip link set lo up
hostname solo
pivot_root . mnt
umount -l /mnt
exec env -i container=tandem-bench PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"""


class Machine:
    def __init__(self, root):
        self.root, self.process, self.pid = root, None, None
        self.name = f"tandem-reboot-{os.getpid()}"
        self.said = tempfile.TemporaryFile("w+")

    def boot(self):
        """Starts the machine; the time it began."""
        def inside():
            for tree in TREES:
                (CGROUPS / tree / self.name).mkdir(exist_ok=True)
                (CGROUPS / tree / self.name / "cgroup.procs").write_text("0")
        words = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child",
                 "bash", "-c", BOOT, "boot", self.root, "one" if ONE_TREE else "many"]
        began = time.time()
        self.process = subprocess.Popen(words, preexec_fn=inside, stdin=subprocess.DEVNULL, stdout=self.said,
                                        stderr=self.said)
        first = lambda: self.process.poll() is not None or children(self.process.pid)
        (pid, _) = until("it has a first process", first, WAIT)
        if pid is True:
            self.said.seek(0)
            raise Missed(f"the machine does not boot: {self.said.read()[-2000:]}")
        self.pid = str(pid[0])
        until("it has booted", lambda: self.call("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), WAIT)
        return began

    def call(self, *words, check=False):
        done = subprocess.run(["nsenter", "-t", self.pid, "-a", *map(str, words)], capture_output=True, text=True, timeout=WAIT)
        if check and done.returncode:
            raise SystemExit(f"{' '.join(map(str, words))} failed: {(done.stdout + done.stderr)[-2000:]}")
        return done

    def tandem(self, *words):
        return self.call("env", "TANDEM_CACHE=/var/cache/tandem", "/opt/tandem/tandem", "--data", DATA, *words, check=True).stdout

    def status(self):
        done = self.call("/opt/tandem/tandem", "--data", DATA, "status", "--json")
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None

    def ready(self):
        """The groups, once all of them are ready."""
        def all_ready():
            groups = (self.status() or {"groups": []})["groups"]
            return groups if groups and all(g["state"] == "ready" for g in groups) else None
        return until("its groups are ready", all_ready, WAIT)[0]

    def reboot(self):
        self.call("systemctl", "reboot", "--no-wall")
        self.process.wait(WAIT)
        return self.boot()

    def power_cut(self):
        self.off()
        return self.boot()

    def off(self):
        if self.process and self.process.poll() is None:
            os.kill(int(self.pid), signal.SIGKILL)
            self.process.wait(WAIT)

    def clear(self):
        self.off()
        for tree in TREES:
            remove(CGROUPS / tree / self.name)


def debian(folder):
    if not (folder / "lib/systemd/systemd").exists():
        if not shutil.which("mmdebstrap"):
            raise SystemExit("`apt-get install mmdebstrap` makes the machine's system")
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder], check=True)


def furnish(root):
    """The programs, the fleet and the model, as somebody would have put them there; nothing of an earlier time."""
    for left in (root / DATA[1:], root / "etc/systemd/system/tandem.service",
                 root / "etc/systemd/system/multi-user.target.wants/tandem.service"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    for folder in ("opt/tandem", "etc/tandem", f"var/cache/tandem/models/{MODEL}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for program in ("tandem", "tandem-llama"):
        shutil.copy2(TANDEM.with_name(program), root / "opt/tandem" / program)
    shutil.copy2(model_file(), root / f"var/cache/tandem/models/{MODEL}")
    (root / FLEET[1:]).write_text((ROOT / "fleets/solo.toml").read_text().replace('"auto"', f'"{MODEL}"'))


def in_order(m, groups):
    """Whether no group's process began before those were ready that it needs."""
    plan = json.loads(m.tandem("plan", "--json", FLEET))
    needs = {g["id"].split("/")[1]: g["needs"] for node in plan["nodes"].values() for g in node["groups"]}
    ready = {g["group"].split("/")[1]: g["since"] / 1e6 for g in groups}
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for g in groups:
        name = g["group"].split("/")[1]
        ticks = int(m.call("cat", f"/proc/{g['pid']}/stat", check=True).stdout.rsplit(")", 1)[1].split()[19])
        began = booted + ticks / os.sysconf("SC_CLK_TCK")
        # The kernel gives the beginning of a process in hundredths of a second.
        if any(began < ready[need] - 0.02 for need in needs[name]):
            return False
    return True


def came_back(m, began):
    """After a boot: seconds until all groups are ready, whether they came in order, and whether the fleet answers."""
    groups = m.ready()
    ready = time.time() - began
    answers = bool(m.tandem("ask", "What can you do?").strip())
    return {"ready_after_s": round(ready, 2), "in_order": in_order(m, groups), "answers": answers}


def node_killed(m):
    """`kill -9` of the node: systemd starts it again, and it takes its groups over."""
    main = lambda: int(m.call("systemctl", "show", "--property=MainPID", "--value", "tandem").stdout)
    before, pids = main(), {g["group"]: g["pid"] for g in m.ready()}
    m.call("kill", "-9", before, check=True)
    took = until("the node is back", lambda: main() not in (0, before) and m.status(), WAIT)[1]
    return {"back_after_s": round(took, 2), "groups_kept": {g["group"]: g["pid"] for g in m.ready()} == pids}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--debian", type=pathlib.Path)
    options.add_argument("--boots", type=int, default=5)
    chosen = options.parse_args()
    if os.geteuid():
        raise SystemExit("needs root: it makes namespaces")
    with tempfile.TemporaryDirectory() as temporary:
        root = (chosen.debian or pathlib.Path(temporary) / "debian").absolute()
        debian(root)
        furnish(root)
        m = Machine(root)
        try:
            m.boot()
            m.tandem("install", FLEET)
            m.ready()
            reboots = [came_back(m, m.reboot()) for _ in range(chosen.boots)]
            cuts = [came_back(m, m.power_cut()) for _ in range(chosen.boots)]
            killed = node_killed(m)
            m.tandem("uninstall")
            m.reboot()
            left = m.call("pgrep", "-c", "tandem").stdout.strip()
        finally:
            m.clear()
    spread = lambda runs: {"ready_after_s": sorted(run["ready_after_s"] for run in runs),
                           "in_order": sum(run["in_order"] for run in runs), "answers": sum(run["answers"] for run in runs)}
    print(json.dumps({"machine": machine(), "model": MODEL, "boots": chosen.boots, "reboots": spread(reboots),
                      "power_cuts": spread(cuts), "node_killed": killed, "processes_after_uninstall": left}, indent=2))


if __name__ == "__main__":
    try:
        main()
    except Missed as missed:
        raise SystemExit(str(missed)) from None
