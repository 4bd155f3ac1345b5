"""Faults that callers make, and of those that others call."""
import contextlib, http.client, os, signal, socket, threading, time
from common import PAGE, PORTS
from .fleet import Missed, healed, health, page, reported, unharmed, until


@contextlib.contextmanager
def again_and_again(deed, pause):
    """Does something until the block ends; yields a count of how often."""
    over, done = threading.Event(), []

    def work():
        while not over.is_set():
            with contextlib.suppress(OSError, TypeError):
                deed()
                done.append(1)
            over.wait(pause)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def asked(fleet, count):
    """Turns one after the other; answers how many were answered and the last words of one that was not."""
    told = [fleet.ask(f"Say hello, number {n}.") for n in range(count)]
    return sum(ok for ok, _ in told), next((words for ok, words in reversed(told) if not ok), "")


def slow_loris(fleet):
    """200 connections to the door and to a group's port that send a byte a second of a request without an end."""
    fleet.up()
    before = fleet.pids()
    lines = [socket.create_connection(("127.0.0.1", port), 5) for port in [PAGE] * 100 + [PORTS["coordination"]] * 100]
    text = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"x" * 4000
    sent = [0]

    def drip():
        for line in lines:
            with contextlib.suppress(OSError):
                line.send(text[sent[0]:sent[0] + 1])
        sent[0] += 1

    try:
        with again_and_again(drip, 1):
            answered, words = asked(fleet, 3)
            served = page() and health("coordination") == 200
            # The door gives a request's head 75 s.
            time.sleep(max(0, 85 - sent[0]))
            more, _ = asked(fleet, 1)
        closed = 0
        for line in lines:
            line.setblocking(False)
            try:
                line.recv(4096)
                closed += 1
            except BlockingIOError:
                pass
            except OSError:
                closed += 1
    finally:
        for line in lines:
            line.close()
    if answered + more < 4 or not served:
        raise Missed(f"{answered + more} of 4 turns answered, page and health {served}: {words}")
    fleet.whole(before)
    return unharmed(f"4 of 4 turns answered meanwhile; {closed} of 200 connections were ended by the fleet within {sent[0]} s")


def post(port, path, body, kind="application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body, {"content-type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read(2000).decode(errors="replace")
    except (BrokenPipeError, ConnectionResetError):
        # It was refused before all of it was sent.
        try:
            answer = connection.getresponse()
            return answer.status, answer.read(2000).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return None, "the connection was ended without an answer"
    finally:
        connection.close()


def bad_bodies(fleet):
    fleet.up()
    before = fleet.pids()
    big = b'{"text":"' + b"x" * 10_000_000 + b'"}'
    door, group = "/v1/chat/completions", "/tandem.session.v1.Sessions/CreateSession"
    told = {
        "10 MB to the door": post(PAGE, door, big), "broken to the door": post(PAGE, door, b'{"model": "x", "messages": [}'),
        "10 MB to a group": post(PORTS["memory_stack"], group, big), "broken to a group": post(PORTS["memory_stack"], group, b'{"a": [}'),
    }
    wrong = {what: answer for what, answer in told.items() if answer[0] not in (400, 413, 429) or len(answer[1]) < 10}
    if wrong:
        raise Missed(str(wrong)[:500])
    fleet.whole(before)
    fleet.answers()
    return reported("; ".join(f"{what}: {status} {' '.join(words.split())[:110]}" for what, (status, words) in told.items()))


def killed_again_and_again(fleet, name, times):
    """A group is killed whenever it runs while somebody asks."""
    fleet.up()
    before = fleet.pids()
    killed = []

    def kill():
        if (pid := fleet.pid(name)) and len(killed) < times and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    began = time.monotonic()
    with again_and_again(kill, 0.1):
        answered, words = asked(fleet, 5)
        until(f"{name} was killed {times} times", lambda: len(killed) == times, 60)
    fleet.renewed(name, killed[-1], 90)
    took = time.monotonic() - began
    if answered < 5:
        raise Missed(f"{answered} of 5 turns answered: {words[-300:]}")
    fleet.whole(before, name)
    fleet.answers()
    return healed(took, f"killed {times} times; 5 of 5 turns answered meanwhile")


def hub_down(fleet):
    return killed_again_and_again(fleet, "observability", 4)


def registry_down(fleet):
    return killed_again_and_again(fleet, "infra_core", 3)


def memory_down(fleet):
    """The group that keeps the conversation ends while one is asked: the turn waits, or says why not."""
    fleet.up()
    before = fleet.pids()
    os.kill(before["memory_stack"], signal.SIGKILL)
    ok, words = fleet.ask()
    fleet.renewed("memory_stack", before["memory_stack"], 30)
    fleet.whole(before, "memory_stack")
    took = fleet.answers()
    if not ok and "memory_stack" not in words and "SessionMemoryAgent" not in words:
        raise Missed(f"a turn meanwhile: {words[-300:]}")
    return healed(took, "a turn meanwhile was answered" if ok else f"a turn meanwhile: {words[-250:]}")


def leavers(fleet):
    """Ten callers leave in the middle of their answers: nobody may have to wait for what nobody reads."""
    fleet.up()
    before = fleet.pids()
    for _ in range(10):
        stream = fleet.stream()
        for line in stream.stdout:
            if '"delta"' in line:
                break
        stream.kill()
        stream.communicate()
    took = fleet.answers(60)
    fleet.whole(before)
    if took > 30:
        raise Missed(f"the next turn waited {took:.0f} s")
    return unharmed(f"the next turn was answered after {took:.1f} s")


def log_flood(fleet):
    """700 MB of words written to a group's log as the group itself would."""
    fleet.up()
    before = fleet.pids()
    line, answered = (b"flood " * 166 + b"flow\n") * 1000, []
    size = lambda: sum(path.stat().st_size for path in (fleet.data / "logs").iterdir())
    with open(f"/proc/{before['memory_stack']}/fd/2", "ab", buffering=0) as log:
        for n in range(700):
            log.write(line)
            if n % 100 == 50:
                answered.append(fleet.ask()[0])
    if not all(answered):
        raise Missed(f"{sum(answered)} of {len(answered)} turns answered")
    fleet.whole(before)
    try:
        took = until("the logs together take less than 64 MiB", lambda: size() < 64 << 20, 45)[1]
    except Missed:
        raise Missed(f"{len(answered)} of {len(answered)} turns answered, but the logs take {size() >> 20} MiB 45 s later") from None
    fleet.answers()
    return healed(took, f"{len(answered)} of {len(answered)} turns answered; logs then take {size() >> 20} MiB")
