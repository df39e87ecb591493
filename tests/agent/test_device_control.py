"""Changing accelerators: by name over a pseudo-terminal, bounded, verified by reading the table again."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
from fakes.container import build_home
from moai_agent.devices import menus
from moai_agent.devices.control import Control
from moai_agent.environments.activate import Activated
from moai_agent.errors import AgentError
from moai_worker.terminal import Hung, Terminal


def control_of(home, timeout_s=20.0):
    env = home.environ()
    env["PATH"] = os.pathsep.join([home.tools, os.path.join(home.conda_base, "bin"), env["PATH"]])
    return Control(Activated(env), os.path.join(home.home, "lock"), timeout_s)


@pytest.fixture
def home(tmp_path):
    return build_home(str(tmp_path / "home"))


def refused(call, reason):
    with pytest.raises(AgentError) as caught:
        call()
    assert caught.value.reason == reason, caught.value.message
    assert caught.value.next
    return caught.value


MENUS = [
    dict(menu_order="new"),
    dict(menu_order="old"),
    dict(menu_order="new", group="mg1", star_gap=0),
    dict(menu_order="old", star_gap=1, name="KT AI Accelerator"),
    dict(catalogue=["micro", "small", "large", "xlarge", "2xlarge", "4xlarge"], flavor="micro", variant="H"),
]


@pytest.mark.parametrize("switches", MENUS, ids=range(len(MENUS)))
def test_a_flavor_is_chosen_by_name_whatever_its_number(tmp_path, switches):
    switches = dict(switches)
    flavor = switches.pop("flavor", "4xLarge.2048GB")
    home = build_home(str(tmp_path / "home"), flavor=flavor, **switches)
    control = control_of(home)
    found = control.flavors()
    assert found.current.lower() == home.state()["devices"][0]["flavor"].lower()
    assert [item.flavor for item in found.items if item.flavor == "2xlarge" or item.flavor == "2xLarge.1024GB"]
    assert control.switch_flavor("2xlarge").current.lower().startswith("2xlarge")
    assert home.state()["devices"][0]["flavor"].lower().startswith("2xlarge")
    assert control.switch_flavor("2XLARGE").current.lower().startswith("2xlarge"), "again is harmless"


def test_sizes_that_only_begin_alike_are_not_mixed_up(home):
    control = control_of(home)
    assert control.switch_flavor("xlarge").current == "xLarge.512GB"
    assert control.switch_flavor("1.5xLarge.768GB").current == "1.5xLarge.768GB"
    refused(lambda: control.switch_flavor("8xLarge.2048GB"), "FLAVOR_NOT_FOUND")
    error = refused(lambda: control.switch_flavor("huge"), "FLAVOR_NOT_FOUND")
    assert "48xLarge.24576GB" in error.message and error.next == "moai remote device flavors"
    assert home.state()["devices"][0]["flavor"] == "1.5xLarge.768GB"


def test_a_running_process_is_named_and_not_disturbed(home):
    home.set_running(os.getpid(), "python train_llama3.py | tee log", 1000)
    control = control_of(home)
    error = refused(lambda: control.switch_flavor("small"), "DEVICE_IN_USE")
    assert str(os.getpid()) in error.message and "train_llama3.py" in error.message
    refused(lambda: control.switch_flavor("small", force=True), "DEVICE_IN_USE")  # The platform refuses too.
    assert home.state()["devices"][0]["flavor"] == "4xLarge.2048GB"
    refused(control.reset, "DEVICE_IN_USE")
    assert home.state()["running"], "a living owner keeps its device"


def test_a_dead_owner_is_released(home):
    gone = subprocess.Popen(["true"])
    gone.wait()
    home.set_running(gone.pid, "python gone.py", 1000)
    assert control_of(home).reset() == "released"
    assert control_of(home).reset() == "idle"


def test_a_forced_reset_ends_the_owner(home):
    owner = subprocess.Popen(["sleep", "600"])
    home.set_running(owner.pid, "python busy.py", 1000, kill_on_reset=True)
    assert control_of(home).reset(force=True) == "released"
    assert owner.wait(10) == -9


def test_devices_are_added_selected_and_removed(tmp_path):
    home = build_home(str(tmp_path / "home"), max_devices=3)
    control = control_of(home)
    report = control.add("Small.64GB")
    assert [(d.id, d.flavor) for d in report.devices] == [(0, "4xLarge.2048GB"), (1, "Small.64GB")]
    assert next(d.id for d in control.select(0).devices if d.is_default) == 0
    assert next(d.id for d in control.select(1).devices if d.is_default) == 1
    assert [d.id for d in control.remove(0).devices] == [1]
    refused(lambda: control.select(0), "DEVICE_NOT_FOUND")
    refused(lambda: control.remove(7), "DEVICE_NOT_FOUND")
    refused(lambda: control.remove(1), "DEVICE_IN_USE")
    control.add("small")
    control.add("small")
    error = refused(lambda: control.add("small"), "DEVICE_LIMIT")
    assert "limited to 3" in error.message


def test_old_short_tables_after_a_change_are_understood(tmp_path):
    home = build_home(str(tmp_path / "home"), maf="23.9.0", variant="B")
    control = control_of(home)
    assert any(d.flavor == "Large.256GB" for d in control.add("large").devices)
    assert next(d.id for d in control.select(0).devices if d.is_default) == 0


@pytest.mark.parametrize("call", ["flavors", "switch", "reset", "add"])
def test_a_hung_tool_is_stopped_within_its_time(home, call):
    control = control_of(home, timeout_s=1.0)
    home.set(hang=True)
    calls = {
        "flavors": control.flavors,
        "switch": lambda: control.switch_flavor("small", force=True),
        "reset": lambda: control.reset(force=True),
        "add": lambda: control.add("small"),
    }
    refused(calls[call], "DEVICE_TOOL_FAILED")
    left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and home.home in _cmdline(p)]
    assert left == []


def _cmdline(folder):
    try:
        return (folder / "cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def test_two_changes_at_once_do_not_mix(home):
    control = control_of(home)
    inside, out = threading.Event(), threading.Event()

    def hold():
        with control._locked():
            inside.set()
            out.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    refused(lambda: control.switch_flavor("small"), "DEVICE_IN_USE")
    out.set()
    thread.join()
    assert control.switch_flavor("small").current == "Small.64GB"


def test_where_flavors_are_set_per_job_it_says_so(tmp_path):
    home = build_home(str(tmp_path / "home"), variant="I")
    error = refused(control_of(home).flavors, "UNSUPPORTED")
    assert "ACCELERATOR_PLATFORM_FLAVOR" in error.next
    refused(lambda: control_of(home).add("x"), "UNSUPPORTED")


def test_no_platform_at_all_is_unsupported(tmp_path):
    empty = Control(Activated({"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}), str(tmp_path / "lock"))
    refused(empty.flavors, "UNSUPPORTED")
    refused(empty.reset, "UNSUPPORTED")


def test_a_terminal_answers_only_what_was_asked(tmp_path):
    script = "printf 'Selection (1-2, q, Q): '; read a; echo got $a; printf 'Selection (1-2, q, Q): '; read b; echo left with $b"
    with Terminal(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, 10.0) as terminal:
        assert terminal.read_until(menus.PROMPT).endswith("Selection (1-2, q, Q): ")
        terminal.send("2")
        assert "got 2" in terminal.read_until(menus.PROMPT)
        terminal.send("q")
        assert "left with q" in terminal.rest()


def test_a_prompt_in_the_middle_of_the_output_is_no_question(tmp_path):
    script = "printf 'Selection (1-2, q, Q): 1\\n'; echo more; sleep 30"
    with Terminal(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, 0.5) as terminal:
        with pytest.raises(Hung) as caught:
            terminal.read_until(menus.PROMPT)
        assert "more" in caught.value.said


def test_every_spelling_of_a_flavor_is_one():
    for one, other in [("4xLarge.2048GB", "4xlarge"), ("4xLarge.2048", "4xlarge.2048GB"), ("micro", "MICRO")]:
        assert menus.same_flavor(one, other)
    for one, other in [("4xLarge.2048GB", "8xLarge.4096GB"), ("8xLarge.2048GB", "8xLarge.4096GB"), ("large", "xlarge")]:
        assert not menus.same_flavor(one, other)
