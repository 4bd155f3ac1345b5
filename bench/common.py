"""What the benchmarks share: a fleet of the release build on a data folder of its own, and two ways to ask."""
import contextlib, http.client, json, os, pathlib, platform, re, statistics, struct, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TANDEM = ROOT / "target/release/tandem"
MODEL = "smollm2-135m"
GROUPS = ["infra_core", "coordination", "observability", "memory_stack", "language_stack", "web_interface"]
PORTS = {name: port for port, name in zip([8200, 8201, 8202, 8203, 8204, 8205], GROUPS)}
PAGE = 8280


def machine():
    """What a result has to name."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) // 1024
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return {"cpu": cpu[1] if cpu else platform.machine(), "cores": os.cpu_count(), "ram_mib": memory,
            "kernel": platform.release(), "commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d")}


def model_file():
    """The test model's file; it must have been pulled."""
    listed = subprocess.run([TANDEM, "models", "list", "--json"], capture_output=True, text=True, check=True).stdout
    row = next(m for m in json.loads(listed) if m["name"] == MODEL)
    if row["state"] != "present":
        raise SystemExit(f"the model is missing: `tandem models pull {MODEL}` gets it")
    return row["path"]


@contextlib.contextmanager
def fleet(settings="", model=MODEL):
    """The default fleet with one model in every role, up and ready; yields its data folder."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        text = (ROOT / "fleets/solo.toml").read_text().replace('"auto"', f'"{model}"')
        (folder / "fleet.toml").write_text(text + settings)
        call = [TANDEM, "--data", folder / "data"]
        subprocess.run(call + ["up", folder / "fleet.toml", "--detach"], check=True, stdout=subprocess.DEVNULL)
        try:
            yield folder / "data"
        finally:
            subprocess.run(call + ["down"], check=True, stdout=subprocess.DEVNULL)


def status(data):
    """`tandem status --json`."""
    text = subprocess.run([TANDEM, "--data", data, "status", "--json"], capture_output=True, text=True, check=True).stdout
    return json.loads(text)


def events(port, path, body):
    """Lines of a server-sent stream as (seconds since the request, object)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    began = time.perf_counter()
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"port {port} answered {answer.status}: {answer.read(2000).decode()}")
    for line in answer:
        line = line.decode().strip()
        if line.startswith("data: ") and line != "data: [DONE]":
            yield time.perf_counter() - began, json.loads(line[6:])
    connection.close()


def unary(port, method, body):
    """One Connect call in JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", f"/{method}", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{method} answered {answer.status}: {text[:2000].decode()}")
    return json.loads(text)


def stream(host, port, method, body):
    """Messages of a Connect stream in JSON as (seconds since the request, object)."""
    message = json.dumps(body).encode()
    connection = http.client.HTTPConnection(host, port, timeout=300)
    began = time.perf_counter()
    connection.request("POST", f"/{method}", struct.pack(">BI", 0, len(message)) + message,
                       {"content-type": "application/connect+json", "connect-protocol-version": "1"})
    answer = connection.getresponse()
    while head := answer.read(5):
        flags, size = struct.unpack(">BI", head)
        part = json.loads(answer.read(size))
        if flags & 2:
            if "error" in part:
                raise SystemExit(f"{method} ended with {part['error']}")
            break
        yield time.perf_counter() - began, part
    connection.close()


def spread(values):
    """Median, least and greatest, rounded."""
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "greatest": round(max(values), 3)}
