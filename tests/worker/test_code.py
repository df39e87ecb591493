"""The ``code`` step: a job's own copy, whole or marked unfinished; repeatable after a kill."""

import json
import os

import pytest
from moai_worker.errors import StepError
from moai_worker.steps import code


def read(path):
    """Text of a file."""
    with open(path) as source:
        return source.read()


class Report:
    """Takes what a step says."""

    def phase(self, name, text="", **data):
        """Nothing to keep."""


@pytest.fixture
def inputs(tmp_path):
    """A snapshot of two files, one of them a program."""
    contents = tmp_path / "contents"
    entries = []
    for path, text, executable in (("a/b.txt", "text", False), ("tool", "#!/bin/sh", True)):
        digest = ("%02d" % len(entries)) * 32
        (contents / digest[:2]).mkdir(parents=True)
        (contents / digest[:2] / digest).write_text(text)
        entries.append({"path": path, "sha256": digest, "size": len(text), "executable": executable})
    manifest = tmp_path / ("f" * 32 + ".json")
    manifest.write_text(json.dumps(entries))
    return {"manifest": str(manifest), "contents": str(contents), "target": str(tmp_path / "copy")}


def test_files_modes_and_marker(inputs):
    result = code.run(inputs, Report())
    target = inputs["target"]
    assert (result["files"], result["bytes"]) == (2, 13)
    assert read(os.path.join(target, "a", "b.txt")) == "text"
    assert os.access(os.path.join(target, "tool"), os.X_OK) and not os.access(os.path.join(target, "a", "b.txt"), os.X_OK)
    assert read(os.path.join(target, ".moai", "snapshot")) == "f" * 32 + "\n"


def test_a_job_that_changed_its_copy_keeps_it_when_the_step_repeats(inputs):
    code.run(inputs, Report())
    path = os.path.join(inputs["target"], "a", "b.txt")
    with open(path, "w") as out:
        out.write("mine")
    assert code.run(inputs, Report())["reused"]
    assert read(path) == "mine"
    assert "text" in [read(os.path.join(d, f)) for d, _, fs in os.walk(inputs["contents"]) for f in fs], "never the content"


def test_a_copy_cut_short_is_made_again(inputs):
    os.makedirs(inputs["target"])
    with open(os.path.join(inputs["target"], "tool"), "w") as out:
        out.write("ha")
    code.run(inputs, Report())
    assert read(os.path.join(inputs["target"], "tool")) == "#!/bin/sh"


def test_a_content_that_is_gone_is_named(inputs):
    for folder, _, names in os.walk(inputs["contents"]):
        for name in names:
            os.unlink(os.path.join(folder, name))
    with pytest.raises(StepError) as caught:
        code.run(inputs, Report())
    assert caught.value.reason == "FILE_NOT_FOUND" and "a/b.txt" in str(caught.value)
