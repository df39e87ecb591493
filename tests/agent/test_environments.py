"""Python environments: found without running them, chosen by the rules, activated as conda would."""

import os
import shutil
import sys

import pytest
from fakes.container import build_home
from moai_agent.environments import find
from moai_agent.environments.activate import activate, activation_env, login, login_env
from moai_agent.environments.choosing import EnvironmentChoice, choose
from moai_agent.environments.inspect import ask_python, installed, torch_version, version_key


def write(path, text="", executable=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if executable:
        path.chmod(0o755)
    return path


def add_python(prefix, names=("python",), **packages):
    """A prefix with an interpreter that fails when run, and metadata of packages."""
    for name in names:
        write(prefix / "bin" / name, "#!/bin/sh\nexit 97\n", executable=True)
    site = prefix / "lib" / "python3.10" / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    for name, version in packages.items():
        write(
            site / "{}-{}.dist-info".format(name, version) / "METADATA",
            "Name: {}\nVersion: {}\n".format(name, version),
        )
    return prefix


def add_conda(prefix, **packages):
    write(prefix / "conda-meta" / "python-3.8.18-h955ad1f_0.json", "{}")
    return add_python(prefix, **packages)


def add_venv(prefix, version="3.10.12", **packages):
    write(
        prefix / "pyvenv.cfg",
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = {}\n".format(version),
    )
    return add_python(prefix, **packages)


def listed(home, path="", variables=None, root=None):
    return find.list_environments(str(home), path, variables, root=str(root or home / "no-root"))


MOREH = "1.13.1+cu116.moreh24.5.0"


# --- versions ---


@pytest.mark.parametrize(
    "text, torch, moreh",
    [
        ("1.7.1+cu110.moreh22.8.0", "1.7.1", "22.8.0"),
        ("1.10.0+cu111.moreh23.9.0", "1.10.0", "23.9.0"),
        (MOREH, "1.13.1", "24.5.0"),
        ("1.13.1+cpuonly.moreh24.5.301", "1.13.1", "24.5.301"),
        ("2.1.0+moreh25.5.3005", "2.1.0", "25.5.3005"),
        ("2.13.0+cpu", "2.13.0+cpu", None),
        ("2.4.1", "2.4.1", None),
        ("2.4.1+notmoreh", "2.4.1+notmoreh", None),
    ],
)
def test_torch_version_is_taken_apart(text, torch, moreh):
    assert torch_version(text) == (torch, moreh)


def test_framework_versions_compare_as_numbers():
    assert version_key("24.11.0") > version_key("24.9.212") > version_key("24.9.3") > version_key("24.5.3005")


def test_stale_metadata_of_a_broken_upgrade_loses(tmp_path):
    write(tmp_path / "torch-2.1.0+moreh25.1.202.dist-info" / "RECORD")
    write(
        tmp_path / "torch-1.13.1+cu116.moreh24.5.0.dist-info" / "METADATA",
        "Name: torch\nVersion: " + MOREH + "\n",
    )
    os.utime(str(tmp_path / "torch-1.13.1+cu116.moreh24.5.0.dist-info"), (1, 1))
    write(tmp_path / "torchvision-0.16.0.dist-info" / "METADATA", "Version: 0.16.0\n")
    write(tmp_path / "Transformers-4.36.2-py3.8.egg-info" / "PKG-INFO", "Version: 4.36.2\n")
    assert installed([str(tmp_path)]) == {"torch": MOREH, "transformers": "4.36.2"}


def test_torch_without_metadata_is_read_from_its_version_file(tmp_path):
    write(tmp_path / "torch" / "version.py", "__version__ = '2.1.0+moreh25.1.202'\ndebug = False\n")
    assert installed([str(tmp_path)]) == {"torch": "2.1.0+moreh25.1.202"}


# --- finding ---


def test_every_kind_of_place_is_found_without_running_an_interpreter(tmp_path):
    home = tmp_path / "home of é'; $x"
    add_conda(home / "miniconda3")
    write(home / "miniconda3" / "bin" / "conda", "", executable=True)
    add_conda(home / "miniconda3" / "envs" / "pytorch", torch=MOREH, transformers="4.36.2", peft="0.6.1")
    add_conda(tmp_path / "root" / "opt" / "conda" / "envs" / "opt-env")
    add_conda(tmp_path / "data" / "far")
    write(home / ".conda" / "environments.txt", str(tmp_path / "data" / "far") + "\n/no/such/place\n")
    add_conda(tmp_path / "elsewhere" / "mamba" / "envs" / "viaexe")
    write(tmp_path / "elsewhere" / "mamba" / "bin" / "conda", "", executable=True)
    add_venv(home / "plain-venv", torch="2.4.1", datasets="2.19.0", accelerate="0.30.1")
    add_venv(home / "project" / ".venv")
    add_python(home / ".local" / "share" / "uv" / "python" / "cpython-3.12.1-linux-x86_64-gnu")
    add_python(tmp_path / "root" / "usr", names=("python3.9",))
    (tmp_path / "root" / "usr" / "bin" / "python3").symlink_to("python3.9")
    variables = {"CONDA_EXE": str(tmp_path / "elsewhere" / "mamba" / "bin" / "conda")}
    found = {one.name: one for one in listed(home, "", variables, root=tmp_path / "root")}
    assert {name: one.kind for name, one in found.items()} == {
        "base": "conda",
        "pytorch": "conda",
        "opt-env": "conda",
        "far": "conda",
        "viaexe": "conda",
        "plain-venv": "venv",
        "project": "venv",
        "cpython-3.12.1-linux-x86_64-gnu": "uv",
        "python3.9": "system",
    }
    moreh = found["pytorch"]
    assert (moreh.torch_version, moreh.moreh_version, moreh.python_version) == (MOREH, "24.5.0", "3.8.18")
    assert (moreh.transformers, moreh.peft, moreh.datasets) == ("4.36.2", "0.6.1", None)
    venv = found["plain-venv"]
    assert (venv.torch_version, venv.moreh_version, venv.python_version) == ("2.4.1", None, "3.10.12")
    assert (venv.datasets, venv.accelerate) == ("2.19.0", "0.30.1")
    assert found["cpython-3.12.1-linux-x86_64-gnu"].python_version == "3.12.1"
    assert found["python3.9"].python_version == "3.9"


def test_an_environment_reached_by_two_ways_is_listed_once(tmp_path):
    add_conda(tmp_path / "miniconda3" / "envs" / "pytorch")
    write(tmp_path / ".conda" / "environments.txt", str(tmp_path / "miniconda3" / "envs" / "pytorch") + "\n")
    write(tmp_path / "bin2" / "python3", "", executable=True)
    (tmp_path / "bin2" / "python3").unlink()
    (tmp_path / "bin2" / "python3").symlink_to(
        tmp_path / "miniconda3" / "envs" / "pytorch" / "bin" / "python"
    )
    path = "{}:{}".format(tmp_path / "miniconda3" / "envs" / "pytorch" / "bin", tmp_path / "bin2")
    variables = {"CONDA_PREFIX": str(tmp_path / "miniconda3" / "envs" / "pytorch")}
    assert [one.name for one in listed(tmp_path, path, variables)] == ["pytorch"]


def test_packages_in_the_users_local_folder_shadow_conda_but_not_a_closed_venv(tmp_path):
    add_conda(tmp_path / "miniconda3" / "envs" / "pytorch", torch=MOREH, transformers="4.36.2")
    add_venv(tmp_path / "v", version="3.8.18", torch="2.4.1")
    write(tmp_path / ".local/lib/python3.8/site-packages/torch-2.0.0.dist-info/METADATA", "Version: 2.0.0\n")
    found = {one.name: one for one in listed(tmp_path)}
    assert (found["pytorch"].torch_version, found["pytorch"].shadowed) == ("2.0.0", ("torch",))
    assert (found["v"].torch_version, found["v"].shadowed) == ("2.4.1", ())


def test_shims_and_unreadable_places_are_passed_over(tmp_path):
    write(tmp_path / ".pyenv" / "shims" / "python3", "#!/bin/sh\nexit 97\n", executable=True)
    (tmp_path / "miniconda3").symlink_to(tmp_path / "miniconda3")
    path = "{}::relative:/no/such/bin".format(tmp_path / ".pyenv" / "shims")
    assert listed(tmp_path, path) == []


def test_the_interpreter_itself_tells_what_files_do_not():
    answer = ask_python(sys.executable, dict(os.environ), ["pytest", "no-such-package"], timeout_s=60)
    assert answer["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert answer["package pytest"] == pytest.__version__ and "package no-such-package" not in answer


def test_an_interpreter_that_fails_or_hangs_gives_no_answer(tmp_path):
    assert ask_python(str(write(tmp_path / "a", "#!/bin/sh\nexit 1\n", True)), dict(os.environ)) is None
    hangs = write(tmp_path / "b", "#!/bin/sh\nsleep 600\n", True)
    assert ask_python(str(hangs), dict(os.environ), timeout_s=0.3) is None


# --- choosing ---


def env(name, torch=None, kind="conda", prefix=None):
    prefix = prefix or "/envs/" + name
    moreh = torch_version(torch).moreh if torch else None
    return find.Environment(name, kind, prefix, prefix + "/bin/python", "3.8.18", torch, moreh)


BASE, MAF, OTHER_MAF = env("base"), env("pytorch", MOREH), env("moreh2", "1.13.1+cu116.moreh24.2.0")
CPU, CUDA = env("cpu", "2.4.1+cpu"), env("cuda", "2.4.1")
SYSTEM = env("python3", None, "system", "/usr")
MOAI = "moreh-smi"


def chosen(environments, want=None, provider=MOAI, remembered=None, login=None, need_torch=True):
    one, why = choose(environments, want, provider, remembered, login or {}, need_torch)
    assert why
    return one


def refused(environments, **arguments):
    with pytest.raises(EnvironmentChoice) as caught:
        chosen(environments, **arguments)
    assert str(caught.value) and caught.value.next
    return caught.value


def test_what_was_asked_for_wins_over_everything():
    everything = [BASE, MAF, CPU]
    login = {"CONDA_PREFIX": MAF.prefix}
    assert chosen(everything, want="base", remembered=MAF.prefix, login=login) is BASE
    assert chosen(everything, want=CPU.prefix, login=login) is CPU
    assert chosen(everything, want=CPU.python, login=login) is CPU


def test_what_was_asked_for_may_be_outside_the_list(tmp_path):
    add_venv(tmp_path / "my env", torch="2.4.1")
    for want in (
        str(tmp_path / "my env"),
        str(tmp_path / "my env" / "bin" / "python"),
        "~/my env",
        "./my env",
    ):
        one = chosen([BASE], want=want, login={"HOME": str(tmp_path)})
        assert (one.prefix, one.kind, one.torch_version) == (str(tmp_path / "my env"), "venv", "2.4.1")


def test_asking_for_what_is_not_there_names_the_table():
    failure = refused([BASE, MAF], want="nope")
    assert (
        failure.reason == "ENVIRONMENT_NOT_FOUND" and failure.table == [BASE, MAF] and "nope" in str(failure)
    )
    assert refused([BASE], want="/no/such/python").reason == "ENVIRONMENT_NOT_FOUND"


def test_a_name_two_environments_share_is_ambiguous():
    twin = env("pytorch", "2.4.1", prefix="/opt/conda/envs/pytorch")
    failure = refused([MAF, twin], want="pytorch")
    assert failure.reason == "ENVIRONMENT_AMBIGUOUS" and failure.table == [MAF, twin]


def test_system_pythons_are_told_apart_by_their_path():
    other = find.Environment("python3.9", "system", "/usr", "/usr/bin/python3.9")
    assert chosen([SYSTEM, other], want="/usr/bin/python3.9", need_torch=False) is other


def test_the_remembered_one_comes_second():
    assert chosen([MAF, OTHER_MAF, CPU], remembered=CPU.prefix, login={"CONDA_PREFIX": MAF.prefix}) is CPU


def test_a_remembered_one_that_is_gone_is_said_and_passed_over():
    one, why = choose([MAF], None, MOAI, "/envs/gone", {})
    assert one is MAF and "/envs/gone" in why


def test_the_only_torch_that_fits_the_device_wins_over_the_login_shells():
    assert chosen([BASE, CPU, MAF, CUDA], login={"CONDA_PREFIX": CPU.prefix}) is MAF
    assert chosen([BASE, CPU, MAF, CUDA], provider="ap-smi") is MAF
    assert chosen([BASE, CPU, MAF, CUDA], provider="nvml", login={"CONDA_PREFIX": CPU.prefix}) is CUDA


def test_of_several_that_fit_the_login_shells_is_taken():
    assert chosen([MAF, OTHER_MAF, CPU], login={"CONDA_PREFIX": OTHER_MAF.prefix}) is OTHER_MAF
    assert (
        chosen([CPU, CUDA], provider="cpu", login={"CONDA_PREFIX": CPU.prefix, "VIRTUAL_ENV": CUDA.prefix})
        is CUDA
    )


def test_a_login_environment_that_does_not_fit_does_not_break_a_tie():
    failure = refused([MAF, OTHER_MAF, CPU], login={"CONDA_PREFIX": CPU.prefix})
    assert failure.reason == "ENVIRONMENT_AMBIGUOUS" and failure.table == [MAF, OTHER_MAF]


def test_one_torch_that_does_not_fit_is_taken_and_said():
    one, why = choose([BASE, CPU], None, MOAI, None, {})
    assert one is CPU and "does not fit" in why


def test_several_that_fit_and_no_choice_is_ambiguous_with_the_table():
    failure = refused([BASE, MAF, OTHER_MAF])
    assert failure.reason == "ENVIRONMENT_AMBIGUOUS" and failure.table == [MAF, OTHER_MAF]
    assert "--env" in failure.next and "pytorch" in str(failure)


def test_no_torch_at_all_is_not_found():
    assert refused([BASE, SYSTEM], login={"CONDA_PREFIX": BASE.prefix}).reason == "ENVIRONMENT_NOT_FOUND"
    assert refused([], need_torch=False).reason == "ENVIRONMENT_NOT_FOUND"


def test_a_job_without_torch_falls_back_to_login_shell_then_system():
    assert chosen([BASE, SYSTEM], login={"CONDA_PREFIX": BASE.prefix}, need_torch=False) is BASE
    assert chosen([BASE, SYSTEM], need_torch=False) is SYSTEM
    assert chosen([MAF, OTHER_MAF, SYSTEM], need_torch=False) is SYSTEM


def test_the_fallback_is_the_python_a_shell_would_start(tmp_path):
    add_python(tmp_path / "a", names=("python3.9",))
    add_python(tmp_path / "b", names=("python3.10",))
    (tmp_path / "b" / "bin" / "python3").symlink_to("python3.10")
    path = "{}:{}".format(tmp_path / "a" / "bin", tmp_path / "b" / "bin")
    assert chosen(listed(tmp_path, path), login={"PATH": path}, need_torch=False).name == "python3.10"


# --- activation ---


def test_conda_activation_sets_markers_and_replaces_the_active_one(tmp_path):
    prefix = add_conda(tmp_path / "envs" / "pytorch")
    base = {
        "PATH": "/tools:/old/bin:/usr/bin",
        "CONDA_PREFIX": "/old",
        "CONDA_DEFAULT_ENV": "old",
        "CONDA_SHLVL": "2",
        "CONDA_PREFIX_1": "/older",
        "PYTHONHOME": "/wrong",
        "PYTHONPATH": "/mine",
        "VIRTUAL_ENV": "/v",
    }
    before = dict(base)
    result = activation_env(find.describe("pytorch", "conda", str(prefix), str(prefix / "bin/python")), base)
    assert result == {
        "PATH": "{}/bin:/tools:/usr/bin".format(prefix),
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": "pytorch",
        "CONDA_SHLVL": "1",
        "CONDA_PROMPT_MODIFIER": "(pytorch) ",
        "PYTHONPATH": "/mine",
    }
    assert base == before


def conda_env(prefix):
    return find.Environment("e", "conda", str(prefix), str(prefix / "bin" / "python"))


def test_activation_scripts_run_in_order_over_stored_variables(tmp_path):
    prefix = tmp_path / "it's; a $HOME"
    scripts = prefix / "etc" / "conda" / "activate.d"
    write(scripts / "10_a.sh", 'echo noise; printf "\\0"; export A="one\ntwo=$STORED" GONE=1; cd /\n')
    write(scripts / "20_b.sh", '[[ -n "$A" ]] && export B="$A!" FROM="$CONDA_PREFIX"; unset GONE\n')
    write(scripts / "30.fish", "set -x FISH 1\n")
    write(prefix / "etc" / "conda" / "env_vars.d" / "pkg.json", '{"STORED": "package", "PKG": "1"}')
    write(prefix / "conda-meta" / "state", '{"env_vars": {"STORED": "user", "OFF": "***unset***"}}')
    result = activate(conda_env(prefix), {"PATH": "/usr/bin:/bin", "KEEP": "é\n", "PWD": "/here"})
    got = result.variables
    assert result.problems == []
    assert (got["A"], got["B"], got["FROM"]) == ("one\ntwo=user", "one\ntwo=user!", str(prefix))
    assert (got["PKG"], got["KEEP"], got["PWD"]) == ("1", "é\n", "/here")
    assert not {"GONE", "OFF", "FISH", "OLDPWD", "SHLVL", "_"} & set(got)


def test_an_activation_script_that_exits_or_hangs_is_named_and_harms_no_other(tmp_path):
    scripts = tmp_path / "etc" / "conda" / "activate.d"
    write(scripts / "1.sh", "export ONE=1; exit 0\n")
    write(scripts / "2.sh", "export TWO=2\n")
    write(scripts / "3.sh", "sleep 600\n")
    result = activate(conda_env(tmp_path), {"PATH": "/usr/bin:/bin"}, timeout_s=2.0)
    assert result.variables["TWO"] == "2" and "ONE" not in result.variables
    assert len(result.problems) == 2 and "1.sh" in result.problems[0] and "hung" in result.problems[1]


def test_broken_stored_variables_are_no_obstacle(tmp_path):
    write(tmp_path / "conda-meta" / "state", "{not json")
    write(tmp_path / "etc" / "conda" / "env_vars.d" / "x.json", '["list"]')
    assert activation_env(conda_env(tmp_path), {})["CONDA_PREFIX"] == str(tmp_path)


def test_venv_activation_sets_its_marker(tmp_path):
    prefix = add_venv(tmp_path / "v")
    one = find.environment_at(str(prefix))
    got = activation_env(one, {"PATH": "/c/bin:/usr/bin", "CONDA_PREFIX": "/c"})
    assert got["VIRTUAL_ENV"] == str(prefix) and got["PATH"] == "{}/bin:/usr/bin".format(prefix)
    assert "CONDA_PREFIX" not in got


def test_a_system_python_on_path_changes_nothing():
    assert activation_env(SYSTEM, {"PATH": "/first:/usr/bin"}) == {"PATH": "/first:/usr/bin"}
    assert activation_env(SYSTEM, {"PATH": "/first"})["PATH"] == "/usr/bin:/first"


# --- the login shell ---


def test_login_shell_gives_conda_and_the_device_tool_that_sshd_does_not(tmp_path):
    home = build_home(str(tmp_path / "home"), token_in_bashrc=True)
    given = home.environ()
    assert shutil.which("moreh-smi", path=given["PATH"]) is None
    result = login(20, given)
    assert result.problem is None
    assert shutil.which("moreh-smi", path=result.variables["PATH"]) == os.path.join(home.tools, "moreh-smi")
    assert result.variables["CONDA_DEFAULT_ENV"] == "pytorch" and result.variables["MOREH_SDA_TOKEN"]
    assert result.variables["HOME"] == home.home
    assert not {"_", "SHLVL", "PWD", "TERM", "MOAI_RESOLVING_ENVIRONMENT"} & set(result.variables)


NOISE = """echo 'welcome! CONDA_PREFIX=/wrong'; printf 'PATH=/wrong\\0\\0moai-\\0'; echo warning >&2
read -r answer; cat; stty -echo; bind 'set bell-style none'
export ODD='line one
PATH=/wrong'
PS1='$ '; PROMPT_COMMAND='echo prompt'; trap 'echo bye' EXIT; set -o noclobber
"""


def test_a_noisy_bashrc_does_not_alter_what_is_read(tmp_path):
    home = build_home(str(tmp_path), noise=NOISE)
    got = login_env(20, home.environ())
    assert got["ODD"] == "line one\nPATH=/wrong"
    assert got["PATH"].split(":")[0] == home.tools and "/wrong" not in got["PATH"]


def test_a_login_shell_that_never_ends_costs_a_bounded_time_and_is_said(tmp_path):
    home = build_home(str(tmp_path), noise="sleep 600")
    given = home.environ()
    result = login(0.5, given)
    assert "/bin/bash" in result.problem and result.variables == given


def test_a_bashrc_that_hangs_only_when_interactive_still_gives_the_rest(tmp_path):
    home = build_home(str(tmp_path), noise="case $- in *i*) sleep 600;; esac")
    result = login(6.0, home.environ())
    assert result.problem is None and home.tools in result.variables["PATH"]


def test_the_login_shell_is_asked_once_in_the_life_of_the_agent(tmp_path):
    home = build_home(str(tmp_path), noise="echo x >>'{}'".format(tmp_path / "count"))
    first = login_env(20, home.environ())
    first["MINE"] = "1"
    assert "MINE" not in login_env(20, home.environ())
    assert (tmp_path / "count").read_text() == "x\n"
    login(20, home.environ(), fresh=True)
    assert (tmp_path / "count").read_text() == "x\nx\n"


@pytest.mark.parametrize(
    "shell", ["/bin/sh", "/bin/dash", "/bin/bash", "/usr/bin/fish", "/bin/csh", "/bin/tcsh", "/bin/zsh"]
)
def test_every_login_shell_is_understood(tmp_path, shell):
    if not os.path.exists(shell):
        pytest.skip("{} is not installed".format(shell))
    write(tmp_path / ".profile", "export FROM_RC=yes\n")
    write(tmp_path / ".cshrc", "echo noise\n")
    write(tmp_path / ".login", "setenv FROM_RC yes\n")  # read by login shells only
    write(tmp_path / ".zprofile", "export FROM_RC=yes\n")
    write(tmp_path / ".config" / "fish" / "config.fish", "set -x FROM_RC yes\necho noise\n")
    given = {"HOME": str(tmp_path), "SHELL": shell, "PATH": "/usr/bin:/bin", "ODD NAME": "a'b\nc"}
    result = login(30, given)
    assert result.problem is None and result.variables["FROM_RC"] == "yes"


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false", "/no/such/shell"])
def test_a_shell_that_runs_nothing_is_replaced(tmp_path, shell):
    result = login(20, {"HOME": str(tmp_path), "SHELL": shell, "PATH": "/usr/bin:/bin", "X": "1"})
    assert result.problem is None and result.variables["X"] == "1"


# --- the look-alike home, end to end ---


def test_in_a_look_alike_home_the_moreh_environment_is_found_chosen_and_runs(tmp_path):
    home = build_home(str(tmp_path / "home"), envs={"other": None, "pytorch": None}, default_env="pytorch")
    variables = login_env(20, home.environ())
    found = find.list_environments(home.home, variables["PATH"], variables, root=str(tmp_path))
    environments = [one for one in found if one.kind == "conda"]
    assert sorted(one.name for one in environments) == ["base", "other", "pytorch"]
    one, why = choose(environments, None, MOAI, None, variables)
    assert (one.name, one.moreh_version) == ("pytorch", "24.5.0") and "login shell" in why
    variables = activation_env(one, variables)
    answer = ask_python(one.python, variables, [], timeout_s=60)
    assert answer["python"] == one.python_version
    assert shutil.which("python", path=variables["PATH"]) == one.python
