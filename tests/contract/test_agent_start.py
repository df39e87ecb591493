"""An agent that is killed every time it starts: who follows a job waits for the one that stays.

Row A17 of the fault list in docs/reliability.md. On the container python3 is a script that runs the real one, and kills
what would become the agent while it is told to.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
from e2e.reach import SYSTEM_PATH, one_agent, ready
from fakes import box as boxes
from fakes.box import Box
from fakes.sshd import wait_until
from test_root_network import Followed

pytestmark = pytest.mark.usefixtures("need_sshd")

PYTHON = """#!/bin/bash
case "$*" in *moai_agent/__main__.py*) if [ -e {dying} ]; then echo died >>{died}; kill -9 $$; fi ;; esac
exec -a "$0" /usr/bin/python3 "$@"
"""


@pytest.fixture
def deadly(tmp_path):
    """A container, the file that makes starting agents die, and the one that tells of each."""
    ready()
    tools, dying, died = tmp_path / "bin", tmp_path / "dying", tmp_path / "died"
    tools.mkdir()
    (tools / "python3").write_text(PYTHON.format(dying=dying, died=died))
    (tools / "python3").chmod(0o755)
    with Box(tmp_path / "box", look_alike=False, path=f"{tools}:{SYSTEM_PATH}") as box:
        yield box, dying, died


def kill_and_let_two_die(box, dying, died):
    agent = one_agent(box)
    dying.touch()
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: died.exists() and died.read_text().count("died") >= 2, "two agents to die as they start", 60.0)
    dying.unlink()


def test_a17_a_stream_goes_on_after_agents_that_are_killed_as_they_start(deadly, tmp_path):
    box, gate = deadly[0], tmp_path / "gate"
    shutil.copy(Path(boxes.__file__).with_name("ticker.py"), box.home / "ticker.py")
    with Followed(box, tmp_path, 1.0, gate=str(gate)) as one:
        kill_and_let_two_die(*deadly)
        gate.touch()
        one.finish(90.0)
