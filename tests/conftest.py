"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from fakes.box import Box, Laptop, kill_below
from fakes.sshd import find_sshd


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch):
    """Nothing of the person who runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("MOAI_", "HF_")) and name not in ("MOAI_TRAIN_PYTHON", "MOAI_TEST_BUNDLES"):
            monkeypatch.delenv(name)


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A laptop for ``--on local``; its state folder is ``local.moai_home``, this process uses it too."""
    laptop = Laptop(tmp_path / "laptop")
    laptop.moai_home = tmp_path / "state"
    laptop.env["MOAI_HOME"] = str(laptop.moai_home)
    for name, value in laptop.env.items():
        if name.startswith("MOAI_") or name in ("HOME", "USER", "LOGNAME"):
            monkeypatch.setenv(name, value)
    yield laptop
    kill_below(tmp_path)


@pytest.fixture
def need_sshd():
    """Skips loudly where OpenSSH's server is missing."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")


@pytest.fixture
def box(tmp_path, need_sshd):
    """A fresh container behind its own sshd."""
    with Box(tmp_path) as one:
        yield one


@pytest.fixture(scope="session")
def shared_box(tmp_path_factory):
    """One container for tests that leave no trace in each other's way."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    with Box(Path(tmp_path_factory.mktemp("box"))) as one:
        yield one


@pytest.fixture
def as_laptop(monkeypatch):
    """Makes this process the user of a laptop: ``as_laptop(box.laptop)``."""

    def become(laptop):
        for name, value in laptop.env.items():
            if name.startswith("MOAI_") or name in ("HOME", "USER", "LOGNAME"):
                monkeypatch.setenv(name, value)

    return become
