"""The agent on every Python it promises to serve, and plain words where there is none."""

from __future__ import annotations

import glob
import json
import os
import sys
from pathlib import Path

import moai
import pytest
from e2e.reach import SYSTEM_PATH, holders, in_own_mounts, pyenv_folder, ready, runs, said, shell_script
from fakes.box import Box

pytestmark = pytest.mark.usefixtures("need_sshd")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_agent_serves_this_python(tmp_path, as_laptop, version):
    path = f"{pyenv_folder(version)}:{SYSTEM_PATH}"
    exact = ready(path)
    assert exact.startswith(version + ".")
    with Box(tmp_path, look_alike=False, path=path) as box:
        runs(box)
        done = box.moai("remote", "devices", "--json")
        assert done.returncode == 0, said(done)
        assert json.loads(done.stdout)["hosts"][0]["devices"], said(done)
        done = box.moai("remote", "env", "list", "--json")
        assert done.returncode == 0, said(done)
        as_laptop(box.laptop)
        with moai.connect("box") as host:
            info = host.info()
        assert info.python_version == exact
        assert os.path.dirname(info.python) == path.split(":")[0]
        log = (box.host_dir / "run" / "agent.log").read_text()
        assert "Traceback" not in log and "Warning" not in log, log


def test_a_login_whose_first_python_is_too_old_uses_another_one(tmp_path):
    old = pyenv_folder("3.6")
    ready(f"{old}:{SYSTEM_PATH}")
    with Box(tmp_path, look_alike=False, path=f"{old}:{SYSTEM_PATH}") as box:
        runs(box)


@pytest.mark.parametrize(
    "unlike",
    ["sys.version_info = (3, 15, 0); platform.python_version = lambda: '3.15.0'", "sys.implementation.name = 'pypy'"],
    ids=["too new", "pypy"],
)
def test_a_first_python_that_no_wheels_fit_is_passed_over(tmp_path, unlike):
    _pretend(tmp_path, "import sys, platform\n" + unlike)
    path = f"{tmp_path}/bin:{SYSTEM_PATH}"
    ready(path)
    with Box(tmp_path, look_alike=False, path=path) as box:
        runs(box)


def _pretend(tmp_path: Path, lines: str) -> None:
    """A ``python3`` in TMP/bin that is one of ours after ``lines``; called as ``python3 -I -S -c PROGRAM NONCE``."""
    source = tmp_path / "pretend.py"
    source.write_text(lines + "\nexec(sys.argv.pop(1))\n")
    shell_script(tmp_path / "bin" / "python3", f'exec {sys.executable} -I -S {source} "$4" "$5"\n')


def _without_system_pythons(tmp_path: Path) -> list[str]:
    """Argv that runs a program where no system Python can be executed."""
    hidden = sorted({os.path.realpath(p) for p in glob.glob("/usr/bin/python3*") + glob.glob("/usr/local/bin/python3*")})
    if os.path.realpath(sys.executable) in hidden:
        pytest.skip("SKIPPED LOUDLY: hiding the system's Python would hide the one of these tests")
    return in_own_mounts(tmp_path, "".join(f'mount --bind /dev/null "{path}"\n' for path in hidden))


@pytest.mark.parametrize("found", ["none", "3.6", "crippled"])
def test_a_container_without_a_usable_python_is_told_what_was_found(tmp_path, found):
    pretend = {
        "3.6": "import sys, platform; sys.version_info = (3, 6, 9); platform.python_version = lambda: '3.6.9'",
        "crippled": "import sys; sys.modules['ssl'] = None",
    }
    if found in pretend:
        _pretend(tmp_path, pretend[found])
    prefix = _without_system_pythons(tmp_path)
    with Box(tmp_path, look_alike=False, path=f"{tmp_path}/bin:/usr/bin:/bin", command_prefix=prefix) as box:
        done = box.moai("remote", "run", "--json", "--", "true")
        assert done.returncode == 1, said(done)
        answer = json.loads(done.stdout)
        assert answer["reason"] == "PYTHON_NOT_FOUND", said(done)
        assert "3.8" in answer["message"] and answer["next"]
        if found == "none":
            assert "found only" not in answer["message"]
        if found == "3.6":
            assert "3.6.9" in answer["message"] and "older than 3.8" in answer["message"]
        if found == "crippled":
            assert "ssl" in answer["message"]
        assert not box.moai_home.exists() and holders(box) == []
