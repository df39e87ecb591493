"""The doctor's checks on look-alike containers: each verdict, what was seen, a remedy that can be typed."""

import importlib
import os
import subprocess
import types

import pytest
from fakes.container import TOKEN, build_home
from fakes.hub import HubServer
from moai_agent import checks
from moai_agent.checks import environment, ground, machine, remedies
from moai_agent.config import Config
from moai_agent.environments.registry import Registry
from moai_agent.errors import AgentError

activate = importlib.import_module("moai_agent.environments.activate")
#: Nothing listens on port 1 of the loopback.
NOWHERE = "http://127.0.0.1:1"


class Patient:
    """A look-alike home with an agent's registry in it."""

    def __init__(self, tmp_path, monkeypatch, **options):
        self.monkeypatch = monkeypatch
        self.kit = build_home(str(tmp_path / "home"), **options)
        self.root = tmp_path / "root"
        (self.root / "etc" / "ssh").mkdir(parents=True)
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name, value in self.kit.environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(ground.hub, "BACKOFF_BASE_S", 0.0)
        self.config = Config(str(tmp_path / "state"), str(tmp_path / "payload"), 900.0)

    @property
    def registry(self):
        """A new one: an agent keeps what it found for a while."""
        activate._cache.clear()
        return Registry(self.config)

    @property
    def agent(self):
        return types.SimpleNamespace(config=self.config, registry=self.registry)

    def bashrc(self, line):
        """Put a line at the end of ``.bashrc``."""
        with open(os.path.join(self.kit.home, ".bashrc"), "a") as out:
            out.write(line + "\n")

    def etc(self, path, text):
        target = self.root / "etc" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def look(self, **options):
        """Name -> check."""
        options.setdefault("endpoint", NOWHERE)
        found = checks.run_all(checks.Ground(self.config, self.registry, root=str(self.root), **options))
        assert len({one.name for one in found}) == len(found)
        for one in found:
            assert one.evidence and one.verdict in ("ok", "warning", "failed", "skipped")
            if one.verdict in ("failed", "warning"):
                assert one.remedy, one
            assert TOKEN not in one.evidence + one.remedy
        return {one.name: one for one in found}

    def drop(self, name):
        """Take a package out of the environment."""
        self.put(name, None)

    def put(self, name, version):
        """Another version of a package in the environment; None takes it out."""
        prefix = self.kit.prefix("pytorch")
        lib = os.path.join(prefix, "lib")
        [python] = os.listdir(lib)
        site = os.path.join(lib, python, "site-packages")
        for entry in os.listdir(site):
            if entry.lower().startswith(name + "-"):
                os.rename(os.path.join(site, entry), os.path.join(site, "gone-" + entry + ".x"))
        if version is not None:
            os.makedirs(os.path.join(site, "%s-%s.dist-info" % (name, version)))

    def local(self, name, version):
        """A package in ``~/.local``."""
        minor = [e.python_version for e in self.registry.list() if e.name == "pytorch"][0]
        folder = os.path.join(self.kit.home, ".local", "lib", "python" + ".".join(minor.split(".")[:2]), "site-packages")
        os.makedirs(os.path.join(folder, "%s-%s.dist-info" % (name, version)))


@pytest.fixture
def patient(tmp_path, monkeypatch):
    return Patient(tmp_path, monkeypatch)


def gone_pid():
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_a_healthy_container_has_nothing_to_mend(patient):
    patient.etc("ssh/sshd_config", "MaxSessions 10\n")
    patient.etc("moreh/token", TOKEN)
    found = patient.look()
    names = [
        "login", "locale", "proxy", "sshd", "home", "work folder", "disk", "inodes", "mounts", "device", "framework",
        "moreh token", "device lock", "environment", "torch", "glibc", "local packages", "packages", "accelerator", "token",
        "licence", "hub",
    ]  # fmt: skip
    assert list(found) == names
    about_us = set(names) - {"home", "disk", "inodes", "mounts", "token", "licence", "hub"}
    assert {name: found[name].verdict for name in about_us} == {name: "ok" for name in about_us}
    assert found["torch"].evidence == "torch 1.13.1+cu116.moreh24.5.0, Moreh framework 24.5.0"
    assert found["accelerator"].evidence == "torch.cuda.device_count() is 1"
    assert patient.kit.state().get("attached", 0) == 0, "counting attaches nothing"


# -- login -----------------------------------------------------------------------------------------


def test_a_login_that_never_ends_is_told(patient):
    patient.bashrc("while :; do read -r line || :; done")
    patient.monkeypatch.setattr(ground, "login", lambda base_env: activate.login(0.5, base_env))
    patient.monkeypatch.setattr(Registry, "login", lambda self: dict(os.environ))
    assert "gave no variables" in patient.look()["login"].evidence


@pytest.mark.parametrize(
    ("line", "verdict"),
    [("unset LANG LC_ALL LC_CTYPE", "ok"), ("export LANG=ko_KR.utf8", "ok"), ("export LC_ALL=POSIX", "warning"), ("export LANG=ko_KR.EUC-KR", "warning")],
)
def test_the_locale(patient, line, verdict):
    patient.bashrc(line)
    assert patient.look()["locale"].verdict == verdict


def test_a_proxy_breaks_moreh_and_its_password_is_not_shown(patient):
    patient.bashrc("export https_proxy=http://mina:s3cret@proxy:3128")
    found = patient.look()
    assert found["proxy"].verdict == "warning" and "https_proxy=http://proxy:3128" in found["proxy"].evidence
    assert "s3cret" not in str(found) and "moai remote set NAME --proxy" in found["proxy"].remedy
    assert found["device"].verdict == found["accelerator"].verdict == "ok", "the checks themselves go around it"


def test_a_proxy_is_harmless_where_there_is_no_moreh(patient):
    patient.bashrc("export https_proxy=http://proxy:3128 PATH=%s" % "/usr/bin:/bin")
    found = patient.look()
    assert found["proxy"].verdict == "ok" and "proxy:3128" in found["proxy"].evidence
    assert not {"framework", "moreh token", "device lock"} & set(found)
    assert found["device"].verdict == "warning" and "no accelerator" in found["device"].evidence
    assert found["accelerator"].verdict == "skipped"


@pytest.mark.parametrize(
    ("settings", "verdict", "words"),
    [
        ("# MaxSessions 1\nMaxSessions 10\nMaxSessions 1\n", "ok", "no limit"),
        ("maxsessions=1\n", "ok", "one command at a time"),
        ("ClientAliveInterval 5m\nClientAliveCountMax 2\n", "ok", "600 s"),
        ("MaxStartups 2:30:10\n", "warning", "MaxStartups"),
        ("Include sshd_config.d/*.conf\nForceCommand none\n", "warning", "/usr/bin/menu"),
        ("Match User x\nForceCommand /usr/bin/other\n", "ok", "no limit"),
    ],
)
def test_limits_of_sshd_are_noticed(patient, settings, verdict, words):
    patient.etc("ssh/sshd_config", settings)
    patient.etc("ssh/sshd_config.d/10-menu.conf", "ForceCommand /usr/bin/menu\n")
    told = patient.look()["sshd"]
    assert (told.verdict, words in told.evidence) == (verdict, True), told


def test_without_settings_of_sshd_nothing_is_claimed(patient):
    assert patient.look()["sshd"].verdict == "skipped"


# -- disks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "verdict"), [(10**8, "failed"), (10**9, "warning"), (10**10, "ok")])
def test_space_in_the_home(patient, free, verdict):
    patient.monkeypatch.setattr(machine, "_free", lambda path: (free, 2 * 10**10))
    found = patient.look()
    assert found["home"].verdict == verdict
    assert found["disk"].verdict == ("ok" if free == 10**10 else "warning")


def test_a_home_on_a_network_disk_is_noted(patient):
    patient.monkeypatch.setattr(machine.identity, "mount_of", lambda path: ("/home", "nfs4"))
    assert "network disk (nfs4)" in patient.look()["home"].evidence


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_to(patient):
    os.chmod(patient.kit.home, 0o500)
    try:
        assert patient.look()["home"].verdict == "failed"
    finally:
        os.chmod(patient.kit.home, 0o700)


@pytest.mark.parametrize(("free", "verdict"), [(10, "failed"), (20000, "warning"), (10**6, "ok")])
def test_inodes(patient, free, verdict):
    real = os.statvfs

    def statvfs(path):
        facts = real(path)
        return types.SimpleNamespace(
            f_bavail=facts.f_bavail, f_frsize=facts.f_frsize, f_blocks=facts.f_blocks, f_bfree=facts.f_bfree, f_files=10**7, f_favail=free
        )

    patient.monkeypatch.setattr(os, "statvfs", statvfs)
    assert patient.look()["inodes"].verdict == verdict


def test_file_systems_without_a_count_of_inodes(patient):
    patient.monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=10**9, f_frsize=4096, f_blocks=10**9, f_bfree=10**9, f_files=0, f_favail=0))
    assert patient.look()["inodes"].verdict == "ok"


def test_mounts_name_what_a_network_disk_is(patient):
    mounts = [machine.work.Mount("/data", "nfs4", 10**12, 10**13), machine.work.Mount("/", "overlay", 10**10, 10**11)]
    patient.monkeypatch.setattr(machine.work, "writable_mounts", lambda: mounts)
    assert patient.look()["mounts"].evidence == "/data 1000.0 GB (nfs4), / 10.0 GB"
    mounts[:] = []
    assert patient.look()["mounts"].verdict == "skipped"


def test_a_disk_that_is_nearly_full_is_a_warning_however_large(patient):
    patient.monkeypatch.setattr(machine, "_free", lambda path: (9 * 10**11, 10**13))
    told = patient.look()["disk"]
    assert told.verdict == "warning" and "91 % full" in told.evidence and "moai remote clean --on NAME --dry-run" in told.remedy


def test_a_model_that_does_not_fit_names_a_larger_disk(patient):
    mounts = [machine.work.Mount("/big", "ext4", 10**13, 10**13)]
    patient.monkeypatch.setattr(machine.work, "writable_mounts", lambda: mounts)
    patient.monkeypatch.setattr(machine, "_free", lambda path: (10**10, 10**11))
    with HubServer() as hub:
        hub.add_model("org/name", {"config.json": b"{}", "model.safetensors": b"x" * 1000})
        assert patient.look(model="org/name", endpoint=hub.endpoint)["disk"].verdict == "ok"
        patient.monkeypatch.setattr(machine, "_free", lambda path: (10, 10**11))
        told = patient.look(model="org/name", endpoint=hub.endpoint)["disk"]
        assert told.verdict == "failed" and told.remedy.startswith("moai remote set NAME --work /big/moai-work")
    told = patient.look(model="org/name")["disk"]
    assert told.verdict == "skipped" and "could not be sized" in told.evidence


def test_a_work_folder_that_is_not_there_is_made_and_one_that_cannot_be_is_told(patient):
    folder = os.path.join(patient.kit.home, "new", "work")
    told = patient.look(folder=folder)["work folder"]
    assert (told.verdict, told.fix, told.argument) == ("ok", ground.MAKE_WORK_FOLDER, folder)
    assert remedies.apply(patient.agent, told.fix, told.argument) == "%s is there" % folder and os.path.isdir(folder)
    again = patient.look(folder=folder)["work folder"]
    assert (again.verdict, again.fix) == ("ok", "")
    inside_a_file = os.path.join(patient.kit.home, ".bashrc", "work")
    told = patient.look(folder=inside_a_file)["work folder"]
    assert told.verdict == "failed" and not told.fix
    with pytest.raises(AgentError) as refused:
        remedies.apply(patient.agent, ground.MAKE_WORK_FOLDER, inside_a_file)
    assert refused.value.reason == "HOME_NOT_WRITABLE"


# -- devices ---------------------------------------------------------------------------------------


def test_a_device_tool_that_fails(patient):
    patient.kit.set(token="")
    found = patient.look()
    assert found["device"].verdict == "failed" and "The SDA token is not set." in found["device"].evidence
    assert found["moreh token"].verdict == "failed" and "--secret MOREH_SDA_TOKEN" in found["moreh token"].remedy


def test_a_token_in_the_login_is_never_shown(tmp_path, monkeypatch):
    patient = Patient(tmp_path, monkeypatch, token_in_bashrc=True)
    told = patient.look()["moreh token"]
    assert told.verdict == "ok" and "MOREH_SDA_TOKEN is set" in told.evidence


def test_an_empty_token_file_and_none_at_all(patient):
    assert "yet the device tool answers" in patient.look()["moreh token"].evidence
    patient.etc("moreh/token", "")
    assert patient.look()["moreh token"].verdict == "failed"


def test_a_newer_framework_is_a_warning_and_an_older_latest_is_none(patient):
    patient.kit.set(latest="24.8.0")
    told = patient.look()["framework"]
    assert told.verdict == "warning" and "24.5.0 is in use, 24.8.0 is the latest" in told.evidence
    assert told.remedy == "moai remote run --on NAME --env pytorch -- sh -c 'echo y | update-moreh --target 24.8.0'"
    patient.kit.set(latest="24.2.0")
    assert patient.look()["framework"].verdict == "ok"
    patient.kit.set(latest="24.5.0", maf="24.3.0")
    told = patient.look()["framework"]
    assert told.verdict == "warning" and told.remedy.endswith("--target 24.5.0'")


def test_another_framework_in_the_environment_than_on_the_platform(patient):
    patient.kit.set(maf="24.6.0", latest="24.6.0")
    told = patient.look()["framework"]
    assert told.verdict == "warning" and "the platform says 24.6.0, the torch of pytorch has 24.5.0" in told.evidence


def test_a_framework_that_is_refused_has_failed(patient):
    patient.kit.set(outdated=True)
    told = patient.look()["framework"]
    assert told.verdict == "failed" and "no longer supported" in told.evidence and "update-moreh" in told.remedy


def test_a_framework_without_a_version_is_skipped(patient):
    patient.kit.set(maf="", latest="24.5.0")
    assert patient.look()["framework"].verdict in ("skipped", "warning")


def test_a_living_owner_is_named_and_left_alone(patient):
    patient.kit.set_running(os.getpid(), "python train.py --hf-token hf_abcdefghijkl", 1000)
    found = patient.look()
    assert found["device"].verdict == "warning" and str(os.getpid()) in found["device"].evidence
    assert found["device lock"].verdict == "ok" and "hf_abc" not in str(found)


def test_a_dead_owner_is_released_by_the_remedy(patient):
    pid = gone_pid()
    patient.kit.set_running(pid, "python gone.py", 1000, utilization=0)
    told = patient.look()["device lock"]
    assert (told.verdict, told.fix) == ("failed", ground.RESET_DEVICE) and "pid %d" % pid in told.evidence
    assert told.remedy == "moai remote device reset --on NAME"
    assert remedies.apply(patient.agent, told.fix, told.argument) == "the device was released"
    assert patient.look()["device lock"].verdict == "ok" and not patient.kit.state()["running"]
    assert "nothing was running" in remedies.apply(patient.agent, told.fix, told.argument)


def test_an_owner_in_another_container_that_computes_is_no_dead_one(patient):
    patient.kit.set_running(gone_pid(), "python elsewhere.py", 1000, utilization=62)
    told = patient.look()["device lock"]
    assert (told.verdict, told.fix) == ("warning", "") and "another container" in told.evidence


def test_a_dead_owner_of_another_device_than_the_default(tmp_path, monkeypatch):
    patient = Patient(tmp_path, monkeypatch, variant="B", maf="23.9.0")
    patient.kit.set_running(gone_pid(), "python gone.py", 1000, device=0, utilization=0)
    told = patient.look()["device lock"]
    assert (told.verdict, told.fix) == ("failed", "") and "device select 0 " in told.remedy


def test_an_owner_that_came_back_is_not_reset(patient):
    patient.kit.set_running(os.getpid(), "python busy.py", 1000)
    with pytest.raises(AgentError) as refused:
        remedies.apply(patient.agent, ground.RESET_DEVICE, "1")
    assert refused.value.reason == "DEVICE_IN_USE" and patient.kit.state()["running"]


def test_an_unknown_remedy_is_refused(patient):
    with pytest.raises(AgentError) as refused:
        remedies.apply(types.SimpleNamespace(), "install-everything", "")
    assert refused.value.reason == "UNSUPPORTED"


# -- environment -----------------------------------------------------------------------------------


def test_environments_to_choose_from_and_the_one_remembered(tmp_path, monkeypatch):
    patient = Patient(tmp_path, monkeypatch, envs={"one": None, "two": None}, default_env=None)
    found = patient.look()
    assert found["environment"].verdict == "failed" and "moai remote check --on NAME --env " in found["environment"].remedy
    assert {found[name].verdict for name in ("torch", "packages", "accelerator")} == {"skipped"}
    told = patient.look(environment="two")["environment"]
    assert (told.verdict, told.fix, told.argument) == ("ok", ground.REMEMBER_ENVIRONMENT, "two")
    remedies.apply(patient.agent, told.fix, told.argument)
    assert "remembered" in patient.look()["environment"].evidence
    assert patient.look(environment="two")["environment"].fix == ""


def test_a_remembered_environment_that_is_gone(patient):
    patient.registry.remember("lost")
    told = patient.look()["environment"]
    assert (told.verdict, told.fix, told.argument) == ("warning", ground.REMEMBER_ENVIRONMENT, "pytorch")
    assert told.remedy == "moai remote set NAME --env pytorch"


def test_an_environment_that_is_not_there_is_one_failure_among_the_others(patient):
    found = patient.look(environment="nowhere")
    assert found["environment"].verdict == "failed" and found["device"].verdict == "ok"


def test_a_torch_that_is_not_morehs(tmp_path, monkeypatch):
    patient = Patient(tmp_path, monkeypatch)
    patient.put("torch", "2.3.0")
    found = patient.look(environment="pytorch")
    assert found["torch"].verdict == "failed" and "not a Moreh build" in found["torch"].evidence
    assert "update-moreh --force" in found["torch"].remedy and "glibc" not in found


def test_an_environment_without_torch(patient):
    patient.drop("torch")
    found = patient.look(environment="pytorch")
    assert found["torch"].verdict == "failed" and found["accelerator"].verdict == "skipped"


def test_packages_of_the_recipe(patient):
    patient.drop("peft")
    told = patient.look()["packages"]
    assert told.verdict == "warning" and "missing for --method lora: peft" in told.evidence
    assert told.remedy == "moai remote env install --on NAME --env pytorch peft"
    patient.drop("numpy")
    patient.drop("jinja2")
    told = patient.look()["packages"]
    assert told.verdict == "failed" and told.remedy.endswith("env install --on NAME --env pytorch numpy peft jinja2")


@pytest.mark.parametrize(("version", "words"), [("1.14.0", "too old"), ("2.1.0", "built for numpy 1")])
def test_a_numpy_that_does_not_fit_torch(patient, version, words):
    patient.put("numpy", version)
    told = patient.look()["packages"]
    assert told.verdict == "failed" and words in told.evidence and "<2'" in told.remedy


def test_packages_in_the_home_hide_the_environments(patient):
    patient.local("transformers", "4.50.0")
    patient.local("peft", "0.6.1")
    told = patient.look()["local packages"]
    assert told.verdict == "warning" and "transformers 4.50.0 hides 4.36.2" in told.evidence and "peft" not in told.evidence
    assert "--setenv PYTHONNOUSERSITE=1" in told.remedy
    patient.local("torch", "2.3.0")
    found = patient.look(environment="pytorch")
    assert found["local packages"].verdict == "failed" and found["torch"].verdict == "failed"


@pytest.mark.parametrize(
    ("libc", "verdict"), [("glibc 2.31", "ok"), ("glibc 2.29", "ok"), ("glibc 2.27", "failed"), ("", "skipped")]
)
def test_glibc_against_what_is_known_of_the_framework(patient, libc, verdict):
    assert patient.look(libc=libc)["glibc"].verdict == verdict


def test_glibc_against_the_frameworks_own_file(patient):
    folder = os.path.join(environment.site_packages(patient.kit.prefix("pytorch"))[0], "torch", "_M", "driver")
    os.makedirs(folder)
    with open(os.path.join(folder, "_moreh_f.cpython-38.so"), "wb") as out:
        out.write(b"\x7fELF\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_PRIVATE\0" + b"\0" * 5000)
    told = patient.look(libc="glibc 2.31")["glibc"]
    assert told.verdict == "failed" and "needs 2.34 (_moreh_f.cpython-38.so)" in told.evidence
    assert patient.look(libc="glibc 2.34")["glibc"].verdict == "ok"


def test_an_old_framework_states_no_need_of_glibc(tmp_path, monkeypatch):
    patient = Patient(tmp_path, monkeypatch, maf="22.8.0", torch="1.7.1")
    assert patient.look(libc="glibc 2.27")["glibc"].verdict == "ok"


# -- asking torch ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "words", "remedy"),
    [
        ("glibc", "GLIBC_2.29", "moai remote add NAME"),
        ("token", "SDA token is not set", "--secret MOREH_SDA_TOKEN"),
        ("numpy", "numpy.core.multiarray", "env install --on NAME --env pytorch 'numpy"),
        ("CUDA error: no kernel", "CUDA error", "device_count"),
    ],
)
def test_a_torch_that_cannot_count(patient, trouble, words, remedy):
    patient.kit.set(torch_trouble=trouble)
    told = patient.look()["accelerator"]
    assert told.verdict == "failed" and words in told.evidence and remedy in told.remedy


def test_a_torch_that_hangs_costs_its_time_and_no_more(patient):
    patient.kit.set(torch_trouble="hang")
    patient.monkeypatch.setattr(environment, "_COUNT_S", 1.0)
    told = patient.look()["accelerator"]
    assert told.verdict == "warning" and "within 1 s" in told.evidence


def test_no_device_for_torch(patient):
    patient.kit.set(torch_devices=0)
    assert patient.look()["accelerator"].verdict == "failed"


def test_a_name_is_asked_for_only_when_deep_and_never_of_a_held_device(patient):
    patient.look()
    assert patient.kit.state().get("attached", 0) == 0
    patient.kit.set_running(os.getpid(), "python busy.py", 1000)
    told = patient.look(deep=True)["accelerator"]
    assert told.verdict == "skipped" and str(os.getpid()) in told.evidence and patient.kit.state().get("attached", 0) == 0
    patient.kit.set_idle()
    told = patient.look(deep=True)["accelerator"]
    assert told.verdict == "ok" and "attached as MoAI Accelerator" in told.evidence and patient.kit.state()["attached"] == 1


# -- the Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_model("org/open", {"config.json": b"{}", "model.safetensors": b"x" * 100})
        yield server


def test_the_hub_and_its_token(patient, hub):
    found = patient.look(endpoint=hub.endpoint)
    assert found["hub"].verdict == "ok" and found["token"].verdict == "warning" and found["licence"].verdict == "skipped"
    found = patient.look(endpoint=hub.endpoint, model="org/open")
    assert found["licence"].verdict == "ok" and "open to everybody" in found["licence"].evidence
    assert patient.look(endpoint=hub.endpoint, model="org/none")["licence"].verdict == "failed"
    found = patient.look(endpoint=hub.endpoint, token="hf_wrongwrongwrong")
    assert found["token"].verdict == "failed" and "hf_wrong" not in str(found)


def test_a_gated_model_names_the_page_of_its_licence(patient, hub):
    hub.add_model("org/gated", {"config.json": b"{}"}, gated=True)
    hub.tokens["hf_granted"] = {"org/gated"}
    hub.tokens["hf_other"] = set()
    for token in ("", "hf_other"):
        told = patient.look(endpoint=hub.endpoint, model="org/gated", token=token)["licence"]
        assert told.verdict == "failed" and "/org/gated" in told.remedy and "accept the licence" in told.remedy
    told = patient.look(endpoint=hub.endpoint, model="org/gated", token="hf_granted")["licence"]
    assert told.verdict == "ok" and "gated" in told.evidence


def test_a_hub_that_does_not_answer(patient):
    found = patient.look(model="org/open")
    assert found["hub"].verdict == "failed" and "--proxy" in found["hub"].remedy
    assert found["licence"].verdict == "skipped"
