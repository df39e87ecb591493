"""Waiting for access to a gated repository: asked again, told, bounded."""

import threading
import time

import pytest
from fakes.hub import HubServer
from moai_worker import access
from moai_worker.access import when_granted
from moai_worker.errors import StepError
from moai_worker.hub import plan_download
from moai_worker.steps import download as step

TOKEN = "hf_canarytoken0123456789"
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


class Told:
    """A reporter that keeps phases."""

    def __init__(self):
        self.phases = []

    def phase(self, name, text="", **data):
        self.phases.append((name, text, data))

    def message(self, *values, **data):
        """Nobody reads it."""

    artifact = progress = message


@pytest.fixture()
def hub(clean_hub_environment):
    with HubServer() as server:
        server.add_model("org/name", FILES, gated=True)
        server.tokens[TOKEN] = []
        yield server


@pytest.fixture()
def clean_hub_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)


def asking(hub, token=TOKEN):
    return lambda: plan_download("org/name", endpoint=hub.endpoint, token=token, attempts=1)


def test_the_plan_comes_as_soon_as_access_is_granted(hub):
    waits = []

    def pause(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            hub.tokens[TOKEN] = ["org/name"]

    report = Told()
    plan = when_granted(asking(hub), 3600.0, report, pause=pause)
    assert plan.gated and len(plan.files) == 2
    assert len(waits) == 3 and all(24.0 <= seconds <= 36.0 for seconds in waits)
    assert len(set(waits)) > 1
    page = hub.endpoint + "/org/name"
    assert [(name, page in text) for name, text, _ in report.phases] == [("waiting", True), ("downloading", False)]
    assert report.phases[0][2] == {"url": page, "limit_seconds": 3600.0}


def test_the_wait_is_bounded_and_ends_typed_with_the_page(hub):
    error = refused(asking(hub), 0.3, pause=lambda seconds: threading.Event().wait(min(seconds, 0.05)))
    assert error.reason == "ACCESS_GATED"
    assert hub.endpoint + "/org/name" in error.next
    assert "waited" in error.message and error.details["waited_seconds"] == "0"


def refused(ask, limit_s, **options):
    with pytest.raises(StepError) as caught:
        when_granted(ask, limit_s, Told(), **options)
    assert TOKEN not in repr(caught.value.as_dict())
    return caught.value


def test_nobody_waits_without_a_token_or_for_another_refusal(hub):
    def never(seconds):
        raise AssertionError("waited %s s" % seconds)

    assert refused(asking(hub, None), 60.0, has_token=False, pause=never).reason == "ACCESS_GATED"
    assert refused(asking(hub, "hf_wrong"), 60.0, pause=never).reason == "TOKEN_INVALID"
    hub.repos.clear()
    assert refused(asking(hub), 60.0, pause=never).reason == "REPO_NOT_FOUND"


def test_a_hub_that_goes_away_meanwhile_is_waited_for_and_a_repository_that_does_is_not(hub):
    waits = []

    def pause(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            hub.fault("status", where="api", status=503, times=2)
        if len(waits) == 3:
            hub.repos.clear()

    report = Told()
    with pytest.raises(StepError) as caught:
        when_granted(asking(hub), 3600.0, report, pause=pause)
    assert caught.value.reason == "REPO_NOT_FOUND" and len(waits) == 3
    assert ["503" in text for _, text, _ in report.phases] == [False, True, True]


def test_a_network_that_is_gone_from_the_start_is_not_waited_for(hub):
    hub.fault("status", where="api", status=503, times=None)
    assert refused(asking(hub), 60.0, pause=lambda seconds: None).reason == "HUB_UNREACHABLE"


def test_the_step_waits_when_it_is_told_to(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(access, "_EVERY_S", 0.01)
    inputs = {"repo_id": "org/name", "endpoint": hub.endpoint, "hf_home": str(tmp_path)}
    with pytest.raises(StepError) as caught:
        step.run(inputs, Told())
    assert caught.value.reason == "ACCESS_GATED"
    report, results = Told(), []
    thread = threading.Thread(target=lambda: results.append(step.run(dict(inputs, wait_for_access=60.0), report)))
    thread.start()
    end = time.monotonic() + 20.0
    while "waiting" not in [name for name, _, _ in report.phases]:
        assert time.monotonic() < end
        threading.Event().wait(0.01)
    hub.tokens[TOKEN] = ["org/name"]
    thread.join(20.0)
    assert results and results[0]["files"] == 2
    assert hub.tokens_seen(hub.cdn_host) == []
