"""Requirements files of the laptop: which are sent, under which names."""

import pytest
from moai._errors import MoaiError
from moai._requirements import MOST_BYTES, collect, collect_source


def sent(files):
    return [(one.name, one.text) for one in files]


def test_files_and_those_they_name_are_sent_under_flat_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "base.txt").write_text("numpy\n-r requirements.txt\n")
    (tmp_path / "a" / "requirements.txt").write_text("x==1\n")
    (tmp_path / "requirements.txt").write_bytes(b"\xef\xbb\xbf-r base.txt  # first\n-ca/requirements.txt\n-r https://host/x.txt\ny\n")
    files, count = collect(["there.txt", f"laptop:{tmp_path / 'requirements.txt'}"])
    assert count == 1 and sent(files) == [
        ("requirements.txt", "-r base.txt  # first\n-c2-requirements.txt\n-r https://host/x.txt\ny\n"),
        ("base.txt", "numpy\n-r requirements.txt\n"),
        ("2-requirements.txt", "x==1\n"),
    ]
    assert collect(["there.txt"]) == ([], 0)


def test_a_lock_takes_its_project_along_and_an_environment_goes_alone(tmp_path):
    (tmp_path / "uv.lock").write_text("version = 1\n")
    with pytest.raises(MoaiError) as refused:
        collect_source(f"laptop:{tmp_path / 'uv.lock'}")
    assert refused.value.reason == "USAGE" and "pyproject.toml" in refused.value.message
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert [one.name for one in collect_source(f"laptop:{tmp_path / 'uv.lock'}")] == ["uv.lock", "pyproject.toml"]
    (tmp_path / "environment.yml").write_text("-r x\n")
    assert sent(collect_source(f"laptop:{tmp_path / 'environment.yml'}")) == [("environment.yml", "-r x\n")]
    assert collect_source("requirements.txt") == []


@pytest.mark.parametrize("text, reason", [(None, "FILE_NOT_HERE"), (b"\xff\xfe", "USAGE"), (b"-r absent.txt\n", "FILE_NOT_HERE")])
def test_what_cannot_be_sent_is_said(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "r.txt").write_bytes(text)
    with pytest.raises(MoaiError) as refused:
        collect([f"laptop:{tmp_path / 'r.txt'}"])
    assert refused.value.reason == reason and refused.value.next


def test_too_much_is_refused(tmp_path):
    (tmp_path / "r.txt").write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(MoaiError, match="larger than 2 MiB"):
        collect([f"laptop:{tmp_path / 'r.txt'}"])
