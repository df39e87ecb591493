"""``top`` over real look-alikes: two containers, one job runs, one container goes away."""

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import moai
import pytest
from fakes.box import Box
from fakes.sshd import find_sshd, wait_until
from moai._cli.clean import width
from moai._cli.top_model import Model
from moai._cli.top_poll import Poller

#: A training that prints its losses and then stands still until it is ended.
_TRAINING = "for n in 1 2 3 4 5 6 7 8; do echo \"[Step $n/560] | Loss: $((9 - n)).5 | Duration: 2.7\"; done; exec sleep 600"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Two containers and a laptop that knows both."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    made = [Box(tmp_path_factory.mktemp(name), alias=name) for name in ("kt", "gone")]
    made[1].sshd.ssh_config(made[0].ssh_config, alias="gone", append=True)
    (made[0].folder / "laptop" / "config" / "config.toml").write_text('[hosts.kt]\naddress = "kt"\n[hosts.gone]\naddress = "gone"\n')
    yield made
    for box in made:
        box.end()


@pytest.fixture
def laptop(boxes, as_laptop):
    as_laptop(boxes[0].laptop)
    return boxes[0].laptop


def once(laptop, columns=100):
    done = laptop.moai("remote", "top", "--once", COLUMNS=str(columns))
    lines = done.stdout.decode().splitlines()
    assert max(width(line) for line in lines) <= columns
    return done.returncode, lines


def line_of(lines, word):
    """The row that holds a word; the title may repeat it as a filter."""
    return next((line for line in lines[1:] if word in line), "")


def test_without_a_terminal_it_names_what_works_there(laptop):
    done = laptop.moai("remote", "top")
    assert done.returncode == 2 and not done.stdout
    assert b"moai remote top --once, or moai remote jobs" in done.stderr


def test_what_runs_is_shown_and_who_goes_away_is_said_with_its_age(boxes, laptop):
    with moai.Fleet("all") as fleet:
        jobs = fleet.run(["sh", "-c", _TRAINING], moai.JobOptions(name="요약-학습"), kind="train").check()
        wait_until(lambda: all(job.refresh().metrics_step == 8 for job in jobs.values()), "both to train", 60)
        code, lines = once(laptop)
        assert code == 0 and lines[0].startswith("moai top  2 hosts  2 running, 0 queued")
        shown = line_of(lines, jobs["kt"].id)
        assert "RUNNING" in shown and "train 8/560" in shown and "█" in shown and "1.5" in shown and "ago" not in shown
        assert "4xLarge.2048GB" in line_of(lines, "* kt")

        # Live: one poller and the screen, while a container goes away.
        from moai._cli.top_view import TopApp

        model = Model(["kt", "gone"])
        hosts = moai.hosts("kt,gone")
        poller = Poller(hosts, model, 0.3)
        app = TopApp(model, {host.name: host for host in hosts})

        def frame():
            return ["".join(segment.text for segment in strip).rstrip() for strip in app.screen._compositor.render_strips()]

        async def until(pilot, found, limit_s=60.0):
            end_s = time.monotonic() + limit_s
            while not found():
                assert time.monotonic() < end_s, "\n".join(frame())
                await pilot.pause(0.05)

        async def main():
            async with app.run_test(size=(120, 20)) as pilot:
                poller.start()
                await until(pilot, lambda: all("RUNNING" in line_of(frame(), job.id) for job in jobs.values()))
                boxes[1].sshd.stop()
                await until(pilot, lambda: "unreachable, last seen" in line_of(frame(), "x gone"))
                await until(pilot, lambda: line_of(frame(), jobs["gone"].id).endswith("s ago"))
                assert "ago" not in line_of(frame(), jobs["kt"].id), "the other one goes on"
                await pilot.press("f", *jobs["kt"].id, "enter", "c", "y")
                await until(pilot, lambda: "CANCELLED" in line_of(frame(), jobs["kt"].id))
                await pilot.press("a")
                await until(pilot, lambda: app.return_value is not None)
            return app.return_value

        try:
            assert asyncio.run(main()) == ("kt", jobs["kt"].id)
        finally:
            poller.close()
            for host in hosts:
                host.close()
    code, lines = once(laptop)
    assert code == 4 and line_of(lines, "CANCELLED")
    assert re.search("x gone +unreachable, last seen [0-9]+ (s|min) ago", line_of(lines, "x gone"))


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["colour", "no-colour"])
def test_a_terminal_gets_the_screen_and_its_own_back(boxes, laptop, variables):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 90, 0, 0))
    env = {k: v for k, v in laptop.env.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | variables
    argv = [*laptop.argv, "remote", "top", "--on", "kt"]
    process = subprocess.Popen(argv, env=env, stdin=slave, stdout=slave, stderr=slave, cwd=laptop.folder / "work", start_new_session=True)
    os.close(slave)
    seen = b""
    end_s = time.monotonic() + 60
    pressed = False
    try:
        while time.monotonic() < end_s:
            if not select.select([master], [], [], 0.5)[0]:
                continue
            try:
                data = os.read(master, 65536)
            except OSError:
                break  # The other end is closed: it has ended.
            if not data:
                break
            seen += data
            if not pressed and b"4xLarge" in seen:
                pressed = True
                os.write(master, b"q")
        assert process.wait(30) == 0, seen[-2000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(master)
    text = seen.decode()
    assert "moai top" in text and "\x1b[?1049h" in text and "\x1b[?1049l" in text
    colours = {int(part) for code in re.findall("\x1b\\[([0-9;]*)m", text) for part in code.split(";") if part}
    used = colours & {31, 32, 33, 36, 38, 48}
    assert not used if variables else 32 in used, colours
