"""Every process of the container has a wall clock that is an hour behind or ten days ahead: order, limits and bytes are right.

Row K1 of the fault list in docs/reliability.md. A library of a few lines, preloaded by every program of the container
(ld.so(8), /etc/ld.so.preload in a mount namespace), moves the wall clock and leaves the monotonic one alone.
"""

import json
import shutil
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import oracles
import pytest
from e2e.reach import in_own_mounts, ready, said
from fakes import box as boxes
from fakes.box import Box
from fakes.rooted import need_root
from test_kills import EXIT, Listener

pytestmark = [pytest.mark.faults, need_root, pytest.mark.usefixtures("need_sshd")]

#: The three calls of the C library that tell the wall clock.
SHIM = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *out) {
  int done = syscall(SYS_clock_gettime, id, out);
  if (!done && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) out->tv_sec += OFFSET;
  return done;
}
int gettimeofday(struct timeval *out, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
"""


@pytest.fixture(params=[-3600, 864_000], ids=["an hour behind", "ten days ahead"])
def elsewhen(request, tmp_path):
    """(container, seconds its clock is off)."""
    ready()
    if shutil.which("gcc") is None:
        pytest.skip("SKIPPED LOUDLY: gcc is not installed, so there is no other clock for the container")
    (tmp_path / "shim.c").write_text(SHIM)
    words = ["gcc", "-shared", "-fPIC", "-O1", f"-DOFFSET={request.param}", "-o", str(tmp_path / "shim.so"), str(tmp_path / "shim.c")]
    subprocess.run(words, check=True, timeout=60)
    etc = tmp_path / "etc"
    shutil.copytree("/etc", etc, symlinks=True)
    (etc / "ld.so.preload").write_text(f"{tmp_path / 'shim.so'}\n")
    prefix = in_own_mounts(tmp_path, f"mount --bind {etc} /etc\n")
    with Box(tmp_path, look_alike=False, command_prefix=prefix) as box:
        shutil.copy(Path(boxes.__file__).with_name("ticker.py"), box.home / "ticker.py")
        yield box, request.param


def test_k1_a_container_with_another_clock_loses_nothing_and_keeps_order_and_limits(elsewhen, tmp_path):
    box, off_s = elsewhen
    shown = box.moai("remote", "run", "--", "python3", "-c", "import time; print(time.time())")
    assert abs(float(shown.stdout) - time.time() - off_s) < 60.0, "the clock is not off"
    folder, kept = tmp_path / "job", tmp_path / "listener"
    folder.mkdir()
    done = box.moai("remote", "run", "-d", "--", "python3", "ticker.py", str(folder), "600", "60", str(EXIT), "2")
    assert done.returncode == 0, said(done)
    job = done.stdout.decode().strip()
    listen = Listener(box, job, kept)
    listen.start()
    try:
        listen.wait(60.0)
    finally:
        if listen.process.poll() is None:
            listen.kill()
    events = oracles.read_events(kept / "events")
    oracles.check_ev(events)
    oracles.check_log((kept / "log").read_bytes(), (folder / "sha256").read_text())
    oracles.check_exit(events, "FAILED", EXIT)
    oracles.check_one(folder, events)
    told_s = datetime.fromisoformat(events[-1]["time"].replace("Z", "+00:00")).timestamp()
    assert abs(told_s - datetime.now(timezone.utc).timestamp() - off_s) < 120.0, "times are the container's"
    # How long it ran, and how long it may run, is not the wall clock's business.
    row = json.loads(box.moai("remote", "show", job, "--json").stdout)
    began, ended = (datetime.fromisoformat(row[name].replace("Z", "+00:00")) for name in ("start_time", "end_time"))
    assert 1.5 < (ended - began).total_seconds() < 30.0, row
    begun_s = time.monotonic()
    done = box.moai("remote", "run", "--max-duration", "2s", "--", "sleep", "300")
    assert done.returncode == 3 and b"TIMED_OUT" in done.stderr and 2.0 < time.monotonic() - begun_s < 30.0, said(done)
    done = box.moai("remote", "check")
    word = f"{abs(off_s)} s {'ahead' if off_s > 0 else 'behind'}"
    near = f"{abs(off_s) - 1} s {'ahead' if off_s > 0 else 'behind'}"
    assert word.encode() in done.stdout or near.encode() in done.stdout, said(done)
