"""What a drill runs on the container, as jobs: ``ticker EVERY CODE``, ``kill-agent ...`` or ``end-ticker ...``.

Sent as text to the container's own Python (3.8 and newer, ``-I -S``); standard library only. A process is signalled
only when pid, start time, owner and what is known of it all agree; nothing is ever found by its name.
"""

import hashlib
import json
import os
import signal
import sys
import time

#: The ticker ends by itself after this long, should nobody ask it to.
_LIMIT_S = 900.0
_PACE_S = 0.05


def ticker(every, code):
    """Numbered lines, each with a digest of all before; a report every so many; ends at SIGUSR1."""
    asked = []
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    reports = os.open(os.environ["MOAI_REPORTS"], os.O_WRONLY | os.O_APPEND)
    digest, count, start_s = hashlib.sha256(), 0, time.monotonic()
    while not asked and time.monotonic() - start_s < _LIMIT_S:
        count += 1
        line = ("line %06d %s\n" % (count, digest.hexdigest()[:16])).encode()
        digest.update(line)
        os.write(1, line)
        if count % every == 0:
            data = {"step": count // every, "values": {"tick": count}}
            os.write(reports, json.dumps({"t": time.time(), "step": "", "type": "metric", "data": data}).encode() + b"\n")
        time.sleep(_PACE_S)
    os.write(1, ("end %d %s\n" % (count, digest.hexdigest())).encode())
    return code


def _start_ticks(pid):
    """Start time of a process in clock ticks since boot (proc(5), field 22)."""
    with open("/proc/%d/stat" % pid, "rb") as source:
        raw = source.read()
    return int(raw[raw.rfind(b")") + 2 :].split()[19])


def _signal(pid, ticks, number):
    """Signal exactly that process of ours: its identity is checked after it has been taken hold of."""
    held = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    try:
        if _start_ticks(pid) != ticks:
            raise SystemExit("process %d is another one now" % pid)
        if os.stat("/proc/%d" % pid).st_uid != os.getuid():
            raise SystemExit("process %d is not ours" % pid)
        if held is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(held, number)
    finally:
        if held is not None:
            os.close(held)


def kill_agent(home, host_id, pid, incarnation):
    """SIGKILL for the agent that said it is ``pid`` and ``incarnation``, if its own facts on disk say the same."""
    with open(os.path.join(home, "hosts", host_id, "run", "agent.json")) as source:
        facts = json.load(source)
    if facts.get("pid") != pid or facts.get("incarnation") != incarnation:
        raise SystemExit("agent %d has been replaced by %s meanwhile" % (pid, facts.get("pid")))
    with open("/proc/%d/cmdline" % pid, "rb") as source:
        if b"moai_agent" not in source.read():
            raise SystemExit("process %d is not an agent" % pid)
    _signal(pid, facts["start_ticks"], signal.SIGKILL)
    print("killed agent %d" % pid)
    return 0


def main(argv):
    """See the module docstring."""
    what, rest = argv[0], argv[1:]
    if what == "ticker":
        return ticker(int(rest[0]), int(rest[1]))
    try:
        if what == "kill-agent":
            return kill_agent(rest[0], rest[1], int(rest[2]), rest[3])
        _signal(int(rest[0]), int(rest[1]), signal.SIGUSR1)
    except OSError as error:
        raise SystemExit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
