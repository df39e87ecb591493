"""K1: a container whose clock is off is said to be, with by how much; what is there in order stays in order."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import moai
import pytest
from moai._cli.check import _checks


def target(skew_s):
    def info():
        return SimpleNamespace(
            user="u", hostname="h", version=moai.__version__, python="/p", python_version="3.11", clock=datetime.now(timezone.utc) + timedelta(seconds=skew_s)
        )

    config = SimpleNamespace(is_local=False, transport="paramiko")
    return SimpleNamespace(name="kt", config=config, info=info, check=lambda **_: [])


@pytest.mark.parametrize(("skew_s", "verdict", "word"), [(0, "ok", "apart"), (-3600, "warning", "3600 s behind"), (864000, "warning", "864000 s ahead"), (86400, "warning", "ahead"), (-86400, "warning", "behind")])
def test_k1_a_clock_that_is_off_is_shown(skew_s, verdict, word):
    found = {one.name: one for one in _checks(target(skew_s), "", "", False)}
    assert found["clock"].verdict == verdict and word in found["clock"].evidence
