"""What two containers of one training give each other: two processes joined by gloo, each with a disk of its own."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from fakes import tinymodel

_AGENT = Path(__file__).resolve().parents[2] / "agent"

_MEMBER = r"""
import json, os, sys, types
sys.path.insert(0, sys.argv[1])
import torch
from moai_worker import checkpoints, compat, sharing, train_start
from moai_worker.errors import StepError
torch.distributed.init_process_group("gloo")
folder, code = sys.argv[2:4]
class Report:
    def message(self, text, **more): print(text, flush=True)
exec(code)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def python():
    found = tinymodel.train_python()
    if found is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    return str(found)


def together(python, folders, code):
    """Run ``code`` in two processes, each the first of its container; what each of them left in ``answer``."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    members = []
    for rank, folder in enumerate(folders):
        env = dict(
            os.environ, RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", GROUP_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
        )  # fmt: skip
        argv = [python, "-c", _MEMBER, str(_AGENT), str(folder), code + "\nprint(json.dumps(answer))"]
        members.append(subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True))
    said = [member.communicate(timeout=120)[0] for member in members]
    assert [member.returncode for member in members] == [0, 0], "\n".join(said)
    return [json.loads(text.splitlines()[-1]) for text in said]


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)


def test_what_a_container_lacks_is_given_and_what_is_its_own_stays(python, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    weights = os.urandom(70 << 20)  # More than two pieces.
    put(a, model__safetensors=weights, config__json=b"{}", rng_state_0__pth=b"a", training_args__bin=b"a", README__md=b"a", empty__json=b"")
    # Where weights were gathered elsewhere an empty file of their name is left.
    put(b, model__safetensors=b"", rng_state_1__pth=b"b", state__json=b"b")
    (a / "folder").mkdir()
    answers = together(python, [a, b], "answer = sharing.spread(folder, leave=('README.md',))")
    assert answers == [len(weights) + 2] * 2
    assert (b / "model.safetensors").read_bytes() == weights
    assert sorted(os.listdir(str(b))) == ["config.json", "empty.json", "model.safetensors", "rng_state_1.pth", "state.json"]
    assert together(python, [a, b], "answer = sharing.spread(folder, leave=('README.md',))") == [0, 0]


#: Complete as ``checkpoints.why_incomplete`` sees it: weights, optimizer, scheduler, state, and the mark.
_SAVE = r"""
def save(step, whole=True):
    path = os.path.join(folder, "checkpoint-%d" % step)
    os.makedirs(path)
    for name in ("pytorch_model.bin", "optimizer.pt", "scheduler.pt"):
        torch.save({"step": step}, os.path.join(path, name))
    json.dump({"global_step": step}, open(os.path.join(path, "trainer_state.json"), "w"))
    if whole:
        checkpoints.seal(path, step, {"seed": 1})
    else:
        os.truncate(os.path.join(path, "optimizer.pt"), 5)
"""
_CHOOSE = r"""
settings = types.SimpleNamespace(resume=%r, save_steps=5, save_minutes=0)
try:
    start, rejected = train_start.choose(settings, folder, {"seed": 1}, 100, Report())
    answer = [start.step, sorted(checkpoints.complete_steps(folder)), [item.step for item, _ in rejected]]
except StepError as error:
    answer = error.as_dict()
"""


@pytest.mark.parametrize(
    ("have", "found"),
    [
        # Killed while the second one wrote its first: it is given the other's.
        ("save(5) if here == 0 else save(5, whole=False)", [[5, [5], []]] * 2),
        # All of one container's are gone.
        ("[save(step) for step in (10, 15)] if here == 1 else None", [[15, [15], []], [15, [10, 15], []]]),
        # The newest that each has, and nothing travels.
        ("save(10); here == 0 and save(15)", [[10, [10, 15], [15]], [10, [10], []]]),
    ],
)
def test_members_begin_at_one_checkpoint(python, tmp_path, have, found):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    here = "here = compat.process_rank()\n"
    assert together(python, folders, _SAVE + here + have + "\ncompat.gather(None)\n" + _CHOOSE % True) == found


def test_a_checkpoint_that_was_named_is_not_replaced_by_another(python, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    code = _SAVE + "save(5 * (1 + compat.process_rank()))\nnamed = os.path.join(folder, os.listdir(folder)[0])\n"
    answers = together(python, folders, code + _CHOOSE.replace("%r", "named"))
    assert [answer["code"] for answer in answers] == ["CHECKPOINT_NOT_FOUND"] * 2 and "of steps 5, 10" in answers[0]["message"]
