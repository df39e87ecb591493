"""State of a look-alike container, shared by its fake tools: one JSON file, replaced atomically.

Written from what the platform's public guides show of the real tools, never from our own readers.
Standard library only; runs under ``python -I -S`` of any Python 3.8 or newer.
"""

import fcntl
import json
import os
import re
import sys

STATE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "state.json")

MIB_PER_GPU = 65520
FLAVORS = [
    ("Small.64GB", 1),
    ("Medium.128GB", 2),
    ("Large.256GB", 4),
    ("xLarge.512GB", 8),
    ("1.5xLarge.768GB", 12),
    ("2xLarge.1024GB", 16),
    ("3xLarge.1536GB", 24),
    ("4xLarge.2048GB", 32),
    ("6xLarge.3072GB", 48),
    ("8xLarge.4096GB", 64),
    ("12xLarge.6144GB", 96),
    ("24xLarge.12288GB", 192),
    ("48xLarge.24576GB", 384),
]
SMALL_CATALOGUE = ["micro", "small", "large", "xlarge", "2xlarge", "3xlarge", "4xlarge", "8xlarge"]


def load():
    with open(STATE, encoding="utf-8") as file:
        return json.load(file)


def change(edit, path=STATE):
    """Apply ``edit(state)`` under a lock; returns the new state."""
    with open(path + ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        edit(state)
        temporary = "{}.{}".format(path, os.getpid())
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
        os.replace(temporary, path)
    return state


def gpus(flavor):
    """Number of GPUs behind a flavor name of any catalogue."""
    if flavor.startswith("flavor-default-"):
        return int(flavor.rsplit("-", 1)[1])
    for name, count in FLAVORS:
        if name.lower() == flavor.lower() or name.lower().rsplit(".", 1)[0] == flavor.lower():
            return count
    return 1


def total_mib(flavor):
    old = re.search(r"\.(\d+)gb$", flavor)
    if old:  # catalogue of 0.8
        return int(old.group(1)) * 1023
    return gpus(flavor) * MIB_PER_GPU


def menu(state):
    """Flavor names in the order this server lists them."""
    names = list(state["catalogue"])
    if state["menu_order"] == "old" and "1.5xLarge.768GB" in names:
        names.remove("1.5xLarge.768GB")  # ordered by database id: the newest row comes last
        names.append("1.5xLarge.768GB")
    return names


def device(state, number):
    for one in state["devices"]:
        if one["id"] == number:
            return one
    return None


def default(state):
    return device(state, state["default"])


def running(state, number):
    return state["running"].get(str(number))


def menu_lines(state, current):
    star = " " * state["star_gap"] + "*"
    group = " " + state["group"] if state["group"] else ""
    return [
        "{}. {}{}{}".format(number, name, group, star if name == current else "")
        for number, name in enumerate(menu(state), 1)
    ]


def ask(prompt):
    """Print a prompt without a line end; returns the stripped answer, None at end of input."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None


def at_end_of_input(state):
    """What the real tools do at end of input is not known: leave, or wait for ever."""
    if state["at_eof"] == "hang":
        import threading

        threading.Event().wait()
    return 1


def refuse_trouble(state):
    """Exit as a tool does without token, or behind a proxy; hang when the state says so."""
    if state["hang"]:
        import threading

        threading.Event().wait()
    if any(os.environ.get(key) for name in ("http_proxy", "https_proxy") for key in (name, name.upper())):
        sys.stderr.write(
            "[error] The connection to the server has been lost. "
            "Please contact technical support if the problem persists.\n"
        )
        raise SystemExit(1)
    if state.get("outdated"):
        sys.stderr.write(
            "[error] The current version of Moreh AI Framework is outdated and no longer supported in the system.\n"
        )
        raise SystemExit(1)
    if not (os.environ.get("MOREH_SDA_TOKEN") or state["token"]):
        sys.stderr.write(
            "terminate called after throwing an instance of 'moreh::InvalidToken'\n"
            "  what():  The SDA token is not set.\nAborted (core dumped)\n"
        )
        raise SystemExit(134)
