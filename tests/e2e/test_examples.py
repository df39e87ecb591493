"""Every example and every command of docs/ci.md runs, on one look-alike that all of them share."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import moai
import pytest
from e2e.reach import ready, said
from fakes.box import Box, Laptop, processes_of
from fakes.sshd import find_sshd

REPO = Path(__file__).resolve().parents[2]
EXAMPLES = REPO / "examples"
NAMES = ("one_container.py", "fleet_status.py", "train_on_first_free.py", "follow_from_elsewhere.py", "ci_pipeline.py")


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A MoAI look-alike that the laptop calls ``box``."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    ready()
    with Box(tmp_path_factory.mktemp("examples")) as one:
        yield one


def example(box, name: str, *words: str, code: int = 0) -> str:
    """What an example printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words], env=box.laptop.env, cwd=str(box.laptop.folder / "work"),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == code, said(done)
    return done.stdout.decode()


def test_no_example_is_forgotten():
    assert sorted(p.name for p in EXAMPLES.iterdir() if p.is_file()) == sorted([*NAMES, "notebook.ipynb"])


def test_one_container(box):
    text = example(box, "one_container.py", "box")
    assert "MoAI Accelerator" in text and "step 3" in text and text.rstrip().endswith("SUCCEEDED")


def test_fleet_status(box):
    assert "free" in example(box, "fleet_status.py", "box")
    assert "nobody" in example(box, "fleet_status.py", "box,nobody@127.0.0.1:1", code=4)


def test_train_on_the_first_free(box):
    text = example(box, "train_on_first_free.py", "box")
    assert "step 3: {'loss': 0.6" in text and text.splitlines()[-1].startswith("SUCCEEDED")
    assert "FAILED" in example(box, "train_on_first_free.py", "box", "--", "sh", "-c", "exit 3", code=3)


def test_follow_from_elsewhere(box, tmp_path):
    job = box.moai("remote", "run", "-d", "--", "sh", "-c", "echo one; echo two").stdout.decode().strip()
    first = example(box, "follow_from_elsewhere.py", f"box/{job}", str(tmp_path / "state.json"))
    assert "one\n" in first and "two\n" in first and "[1]" in first
    again = example(box, "follow_from_elsewhere.py", f"box/{job}", str(tmp_path / "state.json"))
    assert "one" not in again and "[1]" not in again and again.strip() == "SUCCEEDED", "nothing twice"


def test_ci_pipeline(box):
    words = ("submit", "box", "1a2b3c", "--", "sh", "-c", "echo built; exit 4")
    first, second = example(box, "ci_pipeline.py", *words), example(box, "ci_pipeline.py", *words)
    assert first == second and first.startswith("box/")
    assert "built" in example(box, "ci_pipeline.py", "wait", "box", "1a2b3c", code=3)


def test_the_notebook_runs_and_shows_tables(box, as_laptop):
    as_laptop(box.laptop)
    book = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    shown = []
    for cell in (c for c in book["cells"] if c["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    text = "\n".join(shown)
    assert text.count("<table>") == 4 and "MoAI Accelerator" in text and "SUCCEEDED" in text and "(3, 0.3)" in text
    assert moai._html.table(("<b>",), [("<i>",)]) == "<table><tr><th>&lt;b&gt;</th></tr><tr><td>&lt;i&gt;</td></tr></table>"


def test_every_command_of_the_page_on_pipelines(box, tmp_path):
    page = (REPO / "docs" / "ci.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    script = "set -e\n" + "".join(blocks)
    assert script.count("moai remote") >= 7
    runner = Laptop(tmp_path / "runner", box.ssh_config)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "uv").write_text("#!/bin/sh\nexit 0\n")
    (tools / "moai").write_text(f'#!/bin/sh\nexec {sys.executable} -m moai "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    work = runner.folder / "work"
    (work / ".moai-cache").mkdir()
    from fakes.box import share_cache

    share_cache(work / ".moai-cache")
    offer = subprocess.run(
        ["ssh-keygen", "-lf", str(next(box.sshd.folder.glob("*host*.pub")))], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    env = dict(
        runner.env, PATH=f"{tools}:{runner.env['PATH']}", TRAIN_HOST="box", TRAIN_HOST_KEY=offer, COMMIT="0a1b2c3d",
        WANDB_API_KEY="a-secret-value",
    )  # fmt: skip
    try:
        done = subprocess.run(["bash", "-c", script], env=env, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
        assert done.returncode == 0, said(done)
        job = json.loads((work / "job.json").read_text())["job"]
        assert (work / "job.name").read_text().strip() == f"ci/{job}" and json.loads((work / "report.json").read_text())["state"] == "SUCCEEDED"
        assert b"training" in done.stdout and f"{job} SUCCEEDED".encode() in done.stdout
        assert b"a-secret-value" not in b"".join(p.read_bytes() for p in box.job_dir(job).rglob("*") if p.is_file())
    finally:
        for pid in processes_of(work):
            os.kill(pid, 9)
