"""What ``python -c '... torch.cuda ...'`` prints on a MoAI container, whatever torch is really there.

Counting devices attaches nothing; asking for a name does, prints the framework's lines, and waits
while another process holds the accelerator. ``state.json`` says what goes wrong (``torch_trouble``).
"""

import os
import sys
import threading
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import moai_state as moai

_LIB = "/home/ubuntu/miniconda3/envs/pytorch/lib/python3.8/site-packages/torch/_M/driver/_moreh_f.so"


def fail(trouble):
    if trouble == "hang":
        threading.Event().wait()
    if trouble == "glibc":
        raise ImportError("/lib/x86_64-linux-gnu/libm.so.6: version `GLIBC_2.29' not found (required by %s)" % _LIB)
    if trouble == "numpy":
        raise ImportError("numpy.core.multiarray failed to import")
    if trouble == "token":
        sys.stderr.write("terminate called after throwing an instance of 'moreh::InvalidToken'\n")
        sys.stderr.write("  what():  The SDA token is not set.\nAborted (core dumped)\n")
        raise SystemExit(134)
    raise RuntimeError(trouble)


def device_name(_=0):
    state = moai.load()
    if moai.running(state, state["default"]) is not None:
        print("[warning] {} is already in use by another process:".format(state["name"]), flush=True)
        threading.Event().wait()
    moai.change(lambda fresh: fresh.update(attached=fresh.get("attached", 0) + 1))
    print("[info] Requesting resources for {} from the server...".format(state["name"]))
    print("[info] {} is ready to use.".format(state["name"]))
    return state["name"]


def main(words):
    code = words[1]
    state = moai.load()
    if state.get("torch_trouble"):
        fail(state["torch_trouble"])
    if any(os.environ.get(key) for name in ("http_proxy", "https_proxy") for key in (name, name.upper())):
        raise RuntimeError("The connection to the server has been lost.")
    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(device_count=lambda: state.get("torch_devices", 1), get_device_name=device_name)
    sys.modules["torch"] = torch
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(sys.argv[1:])
