"""Fixtures shared by all tests."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the person who runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("MOAI_", "HF_")) and name != "MOAI_TRAIN_PYTHON":
            monkeypatch.delenv(name)
