"""The look-alike container's tools answer as the platform's guides show them.

The expressions here are the guides' literal texts. A driver tested only against these fakes is worth
as much as the fakes are faithful.
"""

import re
import subprocess
import sys

import pytest
from fakes.container import TOKEN, build_home

CURRENT = re.compile(r"^Current (?P<name>.+?): (?P<flavor>\S+)(?: at (?P<group>\S+))?$", re.MULTILINE)
ITEM = re.compile(r"^\s*(\d+)\.\s+(?P<flavor>[^\s*]+)(?:\s+(?P<group>[^\s*]+))?\s*(\*)?\s*$", re.MULTILINE)
PROMPT = re.compile(r"Selection \((\d+)-(\d+), q, Q\):\s*")
SWITCHED = re.compile(
    r'^(?:Selection .*: )?The (.+?) (?:model|flavor) is successfully switched to  "([^"]+)"\.', re.MULTILINE
)


def items(text):
    return [
        (int(found.group(1)), found.group("flavor"), bool(found.group(4))) for found in ITEM.finditer(text)
    ]


def test_listing_shows_the_current_flavor_and_one_star(tmp_path):
    home = build_home(str(tmp_path), flavor="Medium.128GB")
    shown = home.run("moreh-switch-model", input="q\n")
    assert shown.returncode == 0 and CURRENT.search(shown.stdout).group("name", "flavor") == (
        "MoAI Accelerator",
        "Medium.128GB",
    )
    assert [item[1] for item in items(shown.stdout) if item[2]] == ["Medium.128GB"]
    assert PROMPT.search(shown.stdout).groups() == ("1", "13")


def test_switching_loops_until_q_and_the_table_shows_it(tmp_path):
    home = build_home(str(tmp_path))
    shown = home.run("moreh-switch-model", input="3\nQ\n").stdout
    assert SWITCHED.search(shown).groups() == ("MoAI Accelerator", "Large.256GB")
    assert [item[1] for item in items(shown) if item[2]] == ["4xLarge.2048GB", "Large.256GB"]
    assert "Large.256GB" in home.run("moreh-smi").stdout


def test_the_prompt_comes_before_any_input_and_without_a_line_end(tmp_path):
    home = build_home(str(tmp_path))
    child = subprocess.Popen(
        [home.tools + "/moreh-switch-model"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=home.environ(),
    )
    seen = b""
    while not seen.endswith(b"q, Q): "):
        piece = child.stdout.read(1)
        assert piece, seen
        seen += piece
    child.communicate(b"q\n", timeout=30)
    assert child.returncode == 0


def test_switching_is_refused_while_a_job_runs(tmp_path):
    home = build_home(str(tmp_path))
    home.set_running(1, "python x.py", 5)
    shown = home.run("moreh-switch-model", input="3\nq\n").stdout
    assert "The model cannot be switched while the MoAI Accelerator is in use." in shown
    assert home.state()["devices"][0]["flavor"] == "4xLarge.2048GB"


@pytest.mark.parametrize("order, number", [("new", 5), ("old", 13)])
def test_menu_numbers_differ_between_servers(tmp_path, order, number):
    home = build_home(str(tmp_path), menu_order=order, star_gap=0, group="mg1")
    found = {flavor: at for at, flavor, _ in items(home.run("moreh-switch-model", input="q\n").stdout)}
    assert found["1.5xLarge.768GB"] == number and len(found) == 13


def test_devices_are_added_selected_and_removed_with_sparse_ids(tmp_path):
    home = build_home(str(tmp_path), max_devices=3)
    assert home.run("moreh-smi", "device", "--add", "1").stdout.endswith("Create device success.\n")
    assert home.run("moreh-smi", "device", "--add", "2").stdout.endswith("Create device success.\n")
    assert "success" not in home.run("moreh-smi", "device", "--add", "2").stdout
    assert home.run("moreh-smi", "device", "--switch", "0").stdout.endswith(
        "Switch Current Device success.\n"
    )
    assert home.run("moreh-smi", "--rm", "0").stdout.endswith("Remove device success.\n")
    assert [device["id"] for device in home.state()["devices"]] == [1, 2] and home.state()["default"] == 1


def test_adding_without_a_number_asks(tmp_path):
    home = build_home(str(tmp_path), max_devices=2)
    shown = home.run("moreh-smi", "device", "--add", input="4\n").stdout
    assert PROMPT.search(shown) and "Create device success." in shown
    assert home.state()["devices"][1]["flavor"] == "xLarge.512GB"


def test_a_token_for_one_device_hides_the_device_command(tmp_path):
    home = build_home(str(tmp_path))
    assert "device --" not in home.run("moreh-smi", "--help").stdout
    assert "success" not in home.run("moreh-smi", "device", "--add", "1").stdout


def test_reset_releases_a_running_job_only(tmp_path):
    home = build_home(str(tmp_path))
    assert home.run("moreh-smi", "-r").stdout == "Device release failed. (Not running job.)\n"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    home.set_running(child.pid, "python", 1, kill_on_reset=True)
    assert home.run("moreh-smi", "-r").stdout == "Device release success.\n"
    assert child.wait(30) == -9
    child.stdin.close()
    assert "Processes" not in home.run("moreh-smi").stdout


def test_token_and_hardware_tables_are_shown_on_request(tmp_path):
    home = build_home(str(tmp_path))
    assert TOKEN in home.run("moreh-smi", "-t").stdout and TOKEN not in home.run("moreh-smi").stdout
    assert home.run("moreh-smi", "-p").stdout.count("node") == 32


def test_tools_fail_behind_a_proxy_and_without_a_token(tmp_path):
    home = build_home(str(tmp_path))
    assert home.run("moreh-smi", https_proxy="http://127.0.0.1:1").returncode != 0
    home.set(token="")
    assert "The SDA token is not set." in home.run("moreh-smi").stderr


def test_update_asks_and_a_bare_line_end_means_no(tmp_path):
    home = build_home(str(tmp_path), latest="24.8.0")
    prefix = home.prefix("pytorch")
    shown = home.run("update-moreh", input="\n", CONDA_PREFIX=prefix).stdout
    assert (
        "Currently installed: 24.5.0\nPossible upgrading version: 24.8.0\n\nDo you want to upgrade?" in shown
    )
    assert "1.13.1+cu116.moreh24.5.0" in home.run("conda", "list", "torch", CONDA_PREFIX=prefix).stdout
    shown = home.run("update-moreh", input="y\n", CONDA_PREFIX=prefix).stdout
    assert shown.endswith("Moreh Framework installation successful.\n")
    assert "1.13.1+cu116.moreh24.8.0" in home.run("conda", "list", "torch", CONDA_PREFIX=prefix).stdout
    assert home.run("update-moreh", CONDA_PREFIX=prefix).stdout == "Already installed : 24.8.0\n"


def test_conda_lists_environments_and_needs_its_shell_function_to_activate(tmp_path):
    home = build_home(str(tmp_path), envs={"pytorch": None, "mine": None})
    assert home.run("conda", "info", "--base").stdout.strip() == home.conda_base
    listed = home.run("conda", "env", "list").stdout
    assert home.prefix("mine") in listed and home.prefix("pytorch") in listed
    assert home.run("conda", "activate", "mine").returncode == 1
    line = "conda activate mine; echo $CONDA_DEFAULT_ENV; command -v python"
    shown = subprocess.run(
        ["bash", "-lic", line],
        env=home.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        timeout=60,
        start_new_session=True,
    ).stdout.decode()
    assert shown.split() == ["mine", home.prefix("mine") + "/bin/python"]


def test_an_unknown_state_value_or_variant_is_refused(tmp_path):
    with pytest.raises(TypeError):
        build_home(str(tmp_path), no_such_value=1)
    with pytest.raises(ValueError):
        build_home(str(tmp_path), variant="Z")


def test_a_real_interpreter_keeps_its_packages_and_shows_a_moreh_torch(tmp_path):
    home = build_home(str(tmp_path), envs={"real": sys.executable})
    out = subprocess.run(
        [home.env_python, "-c", "import sys; print(sys.prefix)"], stdout=subprocess.PIPE
    ).stdout
    assert out.decode().strip() == sys.prefix
