"""The same faults done to docker-compose and supervisord, whose service is `stub.py`. All faults at once, each to a service of its own."""
import concurrent.futures, contextlib, io, json, os, pathlib, re, resource, shutil, signal, subprocess, tarfile, time, urllib.error, urllib.request
from .fleet import Missed, alive, end_all, healed, reported, unharmed, until
from .processes import steal

STUB = pathlib.Path(__file__).with_name("stub.py").resolve()
PYTHON, FALSE = "/usr/bin/python3", "/usr/bin/false"
# How long a service is watched: three probes 30 s apart that wait 10 s each, and more.
WATCH = 180
NAMES = ["kill", "pause", "stop", "memory", "descriptors", "port-stolen", "crash-loop", "flapping", "flapping-500", "log-flood"]
PORT = {name: 23000 + n for n, name in enumerate(NAMES)}


def answers(name, path="/", limit=2):
    """The process that answers; none when none does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT[name]}{path}", timeout=limit) as answer:
            return int(answer.read())
    except (OSError, ValueError, urllib.error.URLError):
        return None


class Peer:
    """A supervisor with one service for each fault."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "broken").mkdir()

    def words(self, name):
        """The service's process id, as the supervisor has it, and all that it says of the service."""
        raise NotImplementedError

    def pid(self, name):
        return self.words(name)[0]

    def after(self, name, former, watched=WATCH):
        """Watches until a new process answers; else what the supervisor says."""
        began = time.monotonic()
        told = []
        while time.monotonic() - began < watched:
            pid, words, trouble = self.words(name)
            if pid and pid != former and alive(pid) and answers(name):
                return healed(time.monotonic() - began, told[-1][1] if told else "")
            if trouble and (not told or told[-1][1] != words):
                told.append((time.monotonic() - began, words))
            time.sleep(0.2)
        words = self.words(name)[1]
        if told:
            return {**reported(f"after {told[0][0]:.0f} s `{words}`; not restarted within {watched} s"), "verdict": "noticed, not healed"}
        return {"verdict": "not noticed", "words": f"`{words}` {watched} s later"}

    def kill(self, name):
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return self.after(name, pid)

    def pause(self, name):
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(8)
        os.kill(pid, signal.SIGCONT)
        time.sleep(5)
        return unharmed("0 restarts") if answers(name) and self.pid(name) == pid else self.after(name, pid)

    def memory(self, name):
        """The service takes more than it may; only for a peer that has limits."""
        pid = self.pid(name)
        answers(name, "/eat", 60)
        return self.after(name, pid)

    def stop(self, name):
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        return self.after(name, pid)

    def descriptors(self, name):
        pid = self.pid(name)
        now = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (now, now))
        return self.after(name, pid)

    def port_stolen(self, name):
        os.kill(self.pid(name), signal.SIGKILL)
        taken = steal(PORT[name])
        time.sleep(20)
        words = self.words(name)[1]
        taken.close()
        outcome = self.after(name, None)
        return {**outcome, "words": f"after the port was free; until then `{words}`" if outcome["verdict"] == "healed" else outcome["words"]}

    def crash_loop(self, name):
        time.sleep(90)
        return reported(f"after 90 s `{self.words(name)[1]}`")

    def flapping(self, name):
        for _ in range(3):
            pid = self.pid(name)
            os.kill(pid, signal.SIGKILL)
            outcome = self.after(name, pid, 60)
            if outcome["verdict"] != "healed":
                return outcome
            time.sleep(2)
        _, words, trouble = self.words(name)
        return reported(f"`{words}`") if trouble else {"verdict": "healed", "words": f"each time; that it flaps is not said: `{words}`"}

    def flapping_500(self, name):
        """Every other probe is answered by 500."""
        pid, told = self.pid(name), set()
        (self.folder / "broken" / name).touch()
        end = time.monotonic() + WATCH + 20
        while time.monotonic() < end:
            told.add(re.sub(r"Up .*? \(", "Up (", self.words(name)[1]))
            time.sleep(1)
        if self.pid(name) != pid:
            raise Missed("it was restarted")
        return {"verdict": "noticed, not healed" if any("unhealthy" in words for words in told) else "not noticed",
                "words": f"`{'`, `'.join(sorted(told))}`"}

    def log_flood(self, name):
        pid = self.pid(name)
        answers(name, "/flood", 120)
        time.sleep(5)
        if self.pid(name) != pid or not answers(name):
            return {"verdict": "lost", "words": self.words(name)[1]}
        size = self.log_bytes(name) >> 20
        return unharmed(f"logs take {size} MiB") if size < 600 else {"verdict": "not noticed", "words": f"logs take {size} MiB"}

    def run(self, left_out=()):
        """All faults at once, then the one that is done to the supervisor itself."""
        deeds = {"kill": self.kill, "pause": self.pause, "stop": self.stop, "memory": self.memory, "descriptors": self.descriptors,
                 "port-stolen": self.port_stolen, "crash-loop": self.crash_loop, "flapping": self.flapping,
                 "flapping-500": self.flapping_500, "log-flood": self.log_flood}
        with concurrent.futures.ThreadPoolExecutor(len(deeds)) as pool:
            begun = {name: pool.submit(deed, name) for name, deed in deeds.items() if name not in left_out}
        outcomes = {}
        for name, done in begun.items():
            try:
                outcomes[name] = done.result()
            except Missed as missed:
                outcomes[name] = {"verdict": "not noticed", "words": str(missed)}
        outcomes["kill-node"] = self.kill_node("kill")
        return outcomes


class Compose(Peer):
    """docker-compose with `restart: unless-stopped` and health checks 30 s / 10 s / 3."""
    PROJECT = "tandemfaults"

    def __enter__(self):
        self.ends = contextlib.ExitStack()
        try:
            self.start_engine()
            held = io.BytesIO()
            tarfile.open(fileobj=held, mode="w").close()
            subprocess.run(["docker", "import", "-", self.PROJECT], input=held.getvalue(), check=True, capture_output=True)
            self.ends.callback(subprocess.run, ["docker", "rmi", "-f", self.PROJECT], capture_output=True)
            file = self.folder / "compose.json"
            file.write_text(json.dumps({"version": "2.4", "services": {name: self.service(name) for name in NAMES}}))
            self.call = ["docker-compose", "-p", self.PROJECT, "-f", str(file)]
            self.ends.callback(subprocess.run, [*self.call, "down", "-t", "1"], capture_output=True)
            subprocess.run([*self.call, "up", "-d"], check=True, capture_output=True, timeout=120)
            for name in set(NAMES) - {"crash-loop"}:
                until(f"{name} answers", lambda: answers(name), 60)
            return self
        except BaseException:
            self.ends.close()
            raise

    def __exit__(self, *_):
        self.ends.close()
        end_all(self.folder)

    def start_engine(self):
        """A Docker engine of this space: its containers are in the same network and are seen by the same process ids."""
        self.socket = f"unix://{self.folder}/docker.sock"
        os.environ["DOCKER_HOST"] = self.socket
        log = open(self.folder / "dockerd.log", "ab")
        self.engine = subprocess.Popen(
            ["dockerd", "--host", self.socket, "--data-root", self.folder / "docker", "--exec-root", self.folder / "exec",
             "--pidfile", self.folder / "docker.pid", "--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"],
            stdout=log, stderr=log)
        self.ends.callback(self.stop_engine)
        info = lambda: subprocess.run(["docker", "info"], capture_output=True).returncode == 0
        until(f"a Docker engine; {self.folder}/dockerd.log", info, 60)

    def stop_engine(self):
        self.engine.terminate()
        self.engine.wait(60)

    def service(self, name):
        check = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT[name]}/health', timeout=9)"
        command = [PYTHON, "/stub.py", str(PORT[name]), f"/broken/{name}", str(self.folder)]
        mounts = ["/usr:/usr:ro", "/lib:/lib:ro", "/lib64:/lib64:ro", f"{STUB}:/stub.py:ro", f"{self.folder}/broken:/broken:ro"]
        return {"image": self.PROJECT, "command": [FALSE] if name == "crash-loop" else command, "network_mode": "host", "volumes": mounts,
                "restart": "unless-stopped", "mem_limit": "64m",
                "healthcheck": {"test": ["CMD", PYTHON, "-c", check], "interval": "30s", "timeout": "10s", "retries": 3}}

    def words(self, name):
        done = subprocess.run(["docker", "inspect", f"{self.PROJECT}_{name}_1"], capture_output=True, text=True)
        if done.returncode:
            return None, "the engine does not answer", True
        seen = json.loads(done.stdout)[0]
        state = seen["State"]
        shown = subprocess.run(["docker", "ps", "-a", "--filter", f"name=^{self.PROJECT}_{name}_1$", "--format", "{{.Status}}"],
                               capture_output=True, text=True).stdout.strip()
        told = shown + (", OOMKilled" if state["OOMKilled"] else "")
        return state["Pid"] or None, told, "unhealthy" in shown or state["Status"] != "running"

    def log_bytes(self, name):
        path = json.loads(subprocess.run(["docker", "inspect", f"{self.PROJECT}_{name}_1"], capture_output=True, text=True).stdout)[0]["LogPath"]
        return sum(file.stat().st_size for file in pathlib.Path(path).parent.glob("*json.log*"))

    def kill_node(self, name):
        pid = self.pid(name)
        self.engine.kill()
        self.engine.wait()
        time.sleep(3)
        went_on = answers(name) is not None
        self.start_engine()
        meanwhile = "the service went on" if went_on else "the service ended with it"
        time.sleep(20)
        if alive(pid) and answers(name):
            return healed(0, f"{meanwhile}; taken over when the engine was started again")
        outcome = self.after(name, pid, 60)
        return {**outcome, "words": f"{meanwhile}; when the engine was started again: {outcome['words']}"}


class Supervisord(Peer):
    """supervisord with `autorestart=true`."""

    def __enter__(self):
        self.config = self.folder / "supervisord.conf"
        command = lambda name: FALSE if name == "crash-loop" else f"{PYTHON} {STUB} {PORT[name]} {self.folder}/broken/{name}"
        self.config.write_text(
            f"[supervisord]\nlogfile={self.folder}/log\npidfile={self.folder}/pid\nchildlogdir={self.folder}\n"
            f"[unix_http_server]\nfile={self.folder}/sock\n[supervisorctl]\nserverurl=unix://{self.folder}/sock\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            + "".join(f"[program:{name}]\ncommand={command(name)}\nautorestart=true\n" for name in NAMES))
        self.start()
        for name in set(NAMES) - {"crash-loop"}:
            until(f"{name} answers", lambda: answers(name), 60)
        return self

    def start(self):
        self.process = subprocess.Popen(["supervisord", "-n", "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        end_all(self.folder)

    def words(self, name):
        said = subprocess.run(["supervisorctl", "-c", str(self.config), "status", name], capture_output=True, text=True)
        words = " ".join((said.stdout + said.stderr).split()).removeprefix(name).strip()
        pid = re.search(r"pid (\d+)", words)
        return int(pid[1]) if pid else None, words, not words.startswith("RUNNING")

    def log_bytes(self, name):
        return sum(file.stat().st_size for file in self.folder.glob(f"{name}-std*"))

    def kill_node(self, name):
        pid = self.pid(name)
        self.process.kill()
        self.process.wait()
        time.sleep(3)
        if not alive(pid) or not answers(name):
            return {"verdict": "lost", "words": "the service ended with it"}
        self.start()
        time.sleep(30)
        now, words, trouble = self.words(name)
        if now == pid:
            return healed(0, "the service went on and was taken over")
        former = "goes on unwatched" if alive(pid) else "ended"
        verdict = "noticed, not healed" if trouble else "not noticed"
        return {"verdict": verdict, "words": f"the service {former}; when supervisord was started again: `{words}`"}


def missing(*programs):
    return next((f"left out: {program} is not installed" for program in programs if not shutil.which(program)), None)


def run(folder):
    """What each peer makes of the faults; a sentence where it cannot be had."""
    results = {}
    for title, kind, needs, left_out in [("docker-compose", Compose, ("dockerd", "docker", "docker-compose"), ()),
                                         ("supervisord", Supervisord, ("supervisord", "supervisorctl"), ("memory", "flapping-500"))]:
        inner = folder / kind.__name__.lower()
        inner.mkdir()
        if lacking := missing(*needs):
            results[title] = lacking
            continue
        try:
            with kind(inner) as peer:
                results[title] = peer.run(left_out)
        except (Missed, subprocess.SubprocessError, OSError) as failed:
            results[title] = f"left out: {failed}"
    return results
