"""The engine part of a request: what the container has, else wheels, else a reason; and nothing sent in vain."""

from types import SimpleNamespace

import pytest
from moai import MoaiError, _engine
from moai_proto.v1 import dataset_pb2


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A host with ``pythons``; ``sent`` = (engine, facts) of wheels that travelled; ``fails``: why they cannot."""
    monkeypatch.setenv("MOAI_CACHE", str(tmp_path))
    monkeypatch.delenv("MOAI_ENGINE", raising=False)
    found = SimpleNamespace(pythons=[], sent=[], fails=None, asked=[])

    def call(stub, method, request, timeout_s):
        found.asked.append(request.environment)
        return dataset_pb2.PlanEngineResponse(pythons=found.pythons)

    def send(host, wanted, facts, work):
        found.sent.append((wanted, facts["machine"]))
        if found.fails:
            raise found.fails
        return "f" * 64

    monkeypatch.setattr(_engine, "_send", send)
    host = SimpleNamespace(config=SimpleNamespace(environment="own"), session=SimpleNamespace(call=call))
    found.engine = lambda name="", environment="": _engine.engine(host, name, environment, "")
    return found


def python(path, installed=(), machine="x86_64"):
    return dataset_pb2.EnginePython(python=path, installed=installed, facts={"machine": machine})


def test_what_is_installed_there_is_used_and_nothing_travels(box):
    box.pythons = [python("/a", ["fastokens"]), python("/b", ["gigatoken", "fastokens"])]
    assert [(one.name, one.python) for one in box.engine().candidates] == [("fastokens", "/a"), ("gigatoken", "/b")]
    assert [(one.name, one.python) for one in box.engine("gigatoken", "mine").candidates] == [("gigatoken", "/b")]
    assert box.sent == [] and box.asked == ["own", "mine"]


def test_else_wheels_are_sent_for_the_first_python_that_has_some(box, monkeypatch):
    box.pythons = [python("/a"), python("/b")]
    (one,) = box.engine().candidates
    assert (one.name, one.python, one.snapshot) == ("fastokens", "/a", "f" * 64)
    monkeypatch.setenv("MOAI_ENGINE", "gigatoken")
    assert box.engine().candidates[0].name == "gigatoken" and box.sent[-1][0] == "gigatoken"


def test_tokenizers_ask_nobody_and_an_unknown_engine_is_named(box):
    assert box.engine("tokenizers").name == "tokenizers" and box.asked == []
    with pytest.raises(MoaiError) as caught:
        box.engine("rusty")
    assert caught.value.reason == "USAGE" and "'rusty'" in caught.value.message


@pytest.mark.parametrize(
    ("pythons", "fails", "why"),
    [
        ([], None, "no Python 3.10"),
        ([python("/a"), python("/b")], MoaiError("PLATFORM_UNSUPPORTED", "no wheel fits riscv64", ""), "no wheel fits"),
    ],
)
def test_without_one_a_preparation_goes_on_and_says_why(box, pythons, fails, why):
    box.pythons, box.fails = pythons, fails
    made = box.engine()
    assert not made.candidates and why in made.note
    assert len(box.sent) == len(pythons), "each is tried"
    with pytest.raises(MoaiError) as caught:
        box.engine("gigatoken")
    assert caught.value.reason == "ENGINE_UNAVAILABLE" and why in caught.value.message


def test_an_index_that_does_not_answer_is_not_asked_again_within_the_hour(box):
    box.pythons, box.fails = [python("/a"), python("/b")], MoaiError("BUNDLE_UNAVAILABLE", "the index is away", "")
    assert "is away" in box.engine().note and len(box.sent) == 1
    assert "within the hour" in box.engine().note and len(box.sent) == 1
    with pytest.raises(MoaiError):
        box.engine("fastokens")  # Asked for by name, it is tried.
    assert len(box.sent) == 2


def test_other_failures_are_not_swallowed(box):
    box.pythons, box.fails = [python("/a")], MoaiError("DISK_FULL", "no room", "")
    with pytest.raises(MoaiError) as caught:
        box.engine()
    assert caught.value.reason == "DISK_FULL"
