"""A fleet of the real programs that faults are done to, and how to look at what became of it."""
import contextlib, http.client, json, os, pathlib, re, signal, socket, subprocess, time
from common import GROUPS, MODEL, PAGE, PORTS, ROOT

FIRST = 90


class Missed(Exception):
    """What was to happen did not; says what was seen instead."""


def healed(after, words=""):
    return {"verdict": "healed", "after_s": round(after, 1), "words": words}


def reported(words):
    return {"verdict": "reported", "words": " ".join(words.split())}


def unharmed(words):
    return {"verdict": "unharmed", "words": words}


def until(what, look, limit):
    """Looks until there is something to see; answers it and how long that took."""
    began = time.monotonic()
    while True:
        seen = look()
        took = time.monotonic() - began
        if seen:
            return seen, took
        if took > limit:
            raise Missed(f"not within {limit} s: {what}")
        time.sleep(0.02)


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid):
    """Processes that any thread of a process has started."""
    return [int(child) for listed in pathlib.Path(f"/proc/{pid}/task").glob("*/children") for child in listed.read_text().split()]


def cause(words):
    """Of what `tandem status` shows of a group: its state, and how it last ended."""
    return re.sub(r"^(\S+) (backing off|crash loop) .* last ended [\d.]+ \w+ ago, ", r"\1 \2: ", words)


class Fleet:
    """`solo` with one model in every role, on a data folder of its own."""

    def __init__(self, folder, programs):
        self.folder, self.programs = folder, programs
        self.data, self.file, self.env = folder / "data", folder / "fleet.toml", dict(os.environ)
        self.file.write_text((ROOT / "fleets/solo.toml").read_text().replace('"auto"', f'"{MODEL}"'))

    def call(self, *words, limit=60):
        """One command to its end: exit code and all it said."""
        try:
            done = subprocess.run([self.programs / "tandem", "--data", self.data, *map(str, words)], capture_output=True, text=True,
                                  timeout=limit, env=self.env, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Missed(f"`tandem {words[0]}` did not end within {limit} s") from None
        return done.returncode, done.stdout + done.stderr

    def up(self, asked=True):
        """Starts it and has it answer once, so that its model is loaded; answers what the start said."""
        code, said = self.call("up", self.file, "--detach", limit=120)
        if code:
            raise Missed(f"`tandem up` failed: {said}")
        if asked:
            until("a first answer", lambda: self.ask("hello", FIRST)[0], FIRST)
        return said

    def node(self):
        """The node's own words; none while none listens."""
        try:
            with contextlib.closing(http.client.HTTPConnection("localhost", timeout=10)) as connection:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(str(self.data / "run/node.sock"))
                connection.request("GET", "/status")
                return json.loads(connection.getresponse().read())
        except OSError:
            return None

    def group(self, name):
        groups = (self.node() or {"groups": []})["groups"]
        return next((g for g in groups if g["group"].endswith(f"/{name}")), None) or {"pid": None, "state": "unseen", "reason": ""}

    def pid(self, name):
        return self.group(name)["pid"]

    def pids(self):
        return {name: self.pid(name) for name in GROUPS}

    def engine(self):
        found = [child for child in children(self.pid("coordination"))
                 if b"tandem-llama" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()]
        if not found:
            raise Missed("no engine runs")
        return found[0]

    def renewed(self, name, former, limit):
        """Waits until a group serves with another process than the former one; answers how long."""
        again = lambda: (g := self.group(name))["state"] in ("ready", "degraded") and g["pid"] not in (None, former)
        return until(f"{name} ready with a new process (it is {self.group(name)['state']}: {self.group(name)['reason']})", again, limit)[1]

    def shown(self, name):
        """What `tandem status` shows of a group, without its agents."""
        own = None
        for line in self.call("status")[1].splitlines():
            if line[:2] in ("├─", "└─") and line.split()[1] == name:
                own = [line[2:]]
            # The next group, its first agent, or the end.
            elif own and (line[:1] not in ("│", " ") or line[3:5] in ("├─", "└─")):
                break
            elif own:
                own.append(line.lstrip("│ "))
        return " ".join(" ".join(own or []).split())

    def says(self, name, limit, *words):
        """Waits until `tandem status` shows all of these words with a group; answers all that it shows."""
        last = []
        def look():
            last[:] = [self.shown(name)]
            return last[0] if all(word in last[0] for word in words) else None
        try:
            return until("", look, limit)[0]
        except Missed:
            raise Missed(f"`tandem status` does not show {', '.join(words)} within {limit} s, but: {last[0]}") from None

    def exit(self, name):
        """How a group last ended, by the command that shows it."""
        code, text = self.call("status", "--exits")
        lines = text.splitlines()
        at = next((n for n, line in enumerate(lines) if line.strip() == name), None)
        if code or at is None:
            raise Missed(f"`tandem status --exits` does not tell how {name} ended: {text}")
        ends = []
        for line in lines[at + 1:]:
            if not line.startswith(" "):
                break
            # Below an end is what was kept of it as evidence.
            if re.match(r" +[\d.]+ \w+ ago ", line):
                ends.append(re.sub(" {2,}", ": ", line.split(" ago ", 1)[1].strip()))
        return ends[-1] if ends else ""

    def ask(self, text="Say hello.", limit=60):
        """A turn by the command line: whether it was answered, and the words."""
        try:
            code, said = self.call("ask", text, limit=limit)
        except Missed as missed:
            return False, str(missed)
        return code == 0 and bool(said.strip()), said.strip()

    def answers(self, limit=60):
        """Waits until a turn is answered; answers how long that took."""
        last = []
        def look():
            ok, words = self.ask(limit=limit)
            last[:] = [words]
            return ok
        began = time.monotonic()
        while not look():
            if time.monotonic() - began > limit:
                raise Missed(f"no turn was answered within {limit} s: {last[0][-300:]}")
            time.sleep(0.2)
        return time.monotonic() - began

    def stream(self, text="Tell me a very long story about a lighthouse."):
        """A turn whose events can be read one a line while it goes on."""
        return subprocess.Popen([self.programs / "tandem", "--data", self.data, "ask", "--json", text], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, env=self.env, stdin=subprocess.DEVNULL)

    def whole(self, before, *but):
        """Nothing but these groups has another process than before."""
        now = self.pids()
        if other := [name for name in GROUPS if name not in but and now[name] != before[name]]:
            raise Missed(f"restarted too: {', '.join(other)}")

    def close(self):
        """Ends it, by force where an order does not, and whatever names its folder."""
        with contextlib.suppress(Missed, OSError):
            self.call("down", limit=30)
        end_all(self.folder)


def end_all(folder):
    """Ends by force whatever names this folder in its arguments, which only what was started here does."""
    left = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid() and os.fsencode(folder) in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
                left.append(int(entry.name))
    until("everything has ended", lambda: not any(map(alive, left)), 30)


def page(limit=5):
    """Whether the page answers."""
    return web(PAGE, "/", limit) == 200


def web(port, path="/health", limit=5):
    """The status of an answer; none without one."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=limit)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None


def door(text="Say hello.", limit=60):
    """A turn by the door for programs: its answer, none without one."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", PAGE, timeout=limit)) as connection:
            connection.request("GET", "/v1/models")
            model = json.loads(connection.getresponse().read())["data"][0]["id"]
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            return json.loads(connection.getresponse().read())["choices"][0]["message"]["content"]
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        return None


def health(name, limit=5):
    return web(PORTS[name], "/health", limit)


def deltas(process, count):
    """Reads events of a stream until that many pieces of its answer have come."""
    for line in process.stdout:
        count -= '"delta"' in line
        if not count:
            return
    raise Missed("the stream ended before it was hurt")


def rest(process, limit):
    """The events that are left of a stream, as text."""
    try:
        return process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise Missed(f"a stream neither went on nor ended within {limit} s") from None
