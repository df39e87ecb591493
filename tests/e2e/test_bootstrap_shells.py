"""Bootstrap through any login shell, whatever its rc files print, and plain words where none helps."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from e2e.reach import holders, ready, runs, said, shell_script
from fakes.box import Box

pytestmark = pytest.mark.usefixtures("need_sshd")

NOISE = "Welcome to the machine!\n$HOME `id` \"quoted' \\ MOAI1 MOAI-HOME /nowhere\nMOAI-PY {}\n\x1b[31mred\x1b[0m \xe9\n"


@pytest.fixture(autouse=True)
def _bundle_of_the_system_python():
    ready()


@pytest.mark.parametrize("shell", ["sh", "bash", "fish", "csh", "tcsh", "zsh"])
def test_any_login_shell_with_noisy_rc_files_carries_bootstrap_and_jobs(tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"SKIPPED LOUDLY: {shell} is not installed")
    with Box(tmp_path, look_alike=False, shell=shell, rc_noise=NOISE) as box:
        runs(box)
        done = box.moai("remote", "run", "--", "sh", "-c", "echo 'a  b' \"$0\"; exit 7", "x*y!z")
        assert (done.returncode, done.stdout) == (3, b"a  b x*y!z\n"), said(done)
        runs(box, "again", "--no-link")


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_nine_hundred_kilobytes_of_greeting_are_read_over(tmp_path, transport):
    (tmp_path / "motd").write_text("a line of a very long message of the day\n" * (900_000 // 41))
    shell = shell_script(tmp_path / "greeter", f'cat {tmp_path}/motd\nexec /bin/sh "$@"\n')
    with Box(tmp_path, look_alike=False, transport=transport, shell=shell) as box:
        runs(box)
        runs(box, "again", "--no-link")


def test_a_greeting_without_end_of_line_hides_no_answer(tmp_path):
    """What the shell printed stands on the same line as the first thing that we say."""
    shell = shell_script(tmp_path / "greeter", 'printf "loading modules ... "\nexec /bin/sh "$@"\n')
    with Box(tmp_path, look_alike=False, shell=shell) as box:
        runs(box)
        runs(box, "again", "--no-link")


def test_noise_on_standard_error_does_not_hold_up_the_answer(tmp_path):
    """8 MB of it: an error stream that nobody reads would stop the login before it answers."""
    shell = shell_script(tmp_path / "mutterer", 'head -c 8000000 /dev/zero | tr "\\0" x >&2\nexec /bin/sh "$@"\n')
    with Box(tmp_path, look_alike=False, shell=shell) as box:
        runs(box)


@pytest.mark.parametrize(
    "script",
    ['echo "This account is currently not available."\nexit 1\n', 'echo "interactive shells only" >&2\nexit 0\n'],
    ids=["nologin", "interactive only"],
)
def test_a_login_that_runs_no_commands_is_named_as_such(tmp_path, script):
    with Box(tmp_path, look_alike=False, shell=shell_script(tmp_path / "closed", script)) as box:
        began = time.monotonic()
        done = box.moai("remote", "run", "--json", "--", "true")
        assert time.monotonic() - began < 15.0
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["reason"]) == (4, "SHELL_RESTRICTED"), said(done)
        assert "not available" in answer["message"] or "interactive shells only" in answer["message"]
        assert answer["next"] and b"Traceback" not in done.stderr
        assert holders(box) == []


def test_a_login_that_prints_without_end_is_named_as_such(tmp_path):
    with Box(tmp_path, look_alike=False, shell=shell_script(tmp_path / "chatter", "exec yes\n")) as box:
        done = box.moai("remote", "run", "--json", "--", "true")
        assert json.loads(done.stdout)["reason"] == "SHELL_RESTRICTED", said(done)
        assert holders(box) == []
