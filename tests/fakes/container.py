"""A home folder that looks like a MoAI container's, for tests and demonstrations.

``build_home`` makes ``miniconda3`` with environments, ``.bashrc`` and ``.profile`` that put conda and
``.moreh/bin`` on PATH for interactive or login shells only, and the platform's tools. What the
tools print follows the platform's public guides (docs.moreh.io, the KT Cloud HAC manuals); it is
written from them, not from the readers under test. Nothing is installed and nothing outside the
folder is touched; any Python 3.8 or newer can build and run it.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional

_BIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin")
_VARIANTS = "ABCDEFGHI"

TOKEN = "ZmFrZS1tb2FpLXRva2VuLTAwMDE="
#: What a login without ``.bashrc`` has.
BARE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Packages of an environment made for the Llama 3 tutorial of MAF 24.5.
PACKAGES = {
    "transformers": "4.36.2",
    "accelerate": "0.30.1",
    "datasets": "2.19.0",
    "safetensors": "0.4.3",
    "numpy": "1.23.5",
    "jinja2": "3.1.4",
    "peft": "0.6.1",
}

_LIST_PACKAGES = """
import importlib.metadata
for one in importlib.metadata.distributions():
    print((one.metadata["Name"] or "").lower(), one.version)
"""


@dataclass
class ContainerHome:
    """A look-alike home and the switches of its fake tools.

    Attributes:
        home: the folder; give it to a process as HOME.
        state_path: JSON file every tool reads on each start and changes under a lock.
        env_python: interpreter of each environment, by name.
    """

    home: str
    state_path: str
    env_pythons: Dict[str, str] = field(default_factory=dict)

    @property
    def env_python(self) -> str:
        """Interpreter of the first environment."""
        return next(iter(self.env_pythons.values()))

    @property
    def conda_base(self) -> str:
        return os.path.join(self.home, "miniconda3")

    @property
    def tools(self) -> str:
        """Folder of the platform's tools."""
        return os.path.join(self.home, ".moreh", "bin")

    def prefix(self, name: str) -> str:
        """Folder of a conda environment."""
        return os.path.join(self.conda_base, "envs", name)

    def environ(self) -> Dict[str, str]:
        """Variables sshd gives to a command: no conda, no tools."""
        return {
            "HOME": self.home,
            "USER": "ubuntu",
            "LOGNAME": "ubuntu",
            "SHELL": "/bin/bash",
            "PATH": BARE_PATH,
            "LANG": "C.UTF-8",
        }

    def state(self) -> Dict[str, Any]:
        """The tools' state as it is now."""
        with open(self.state_path, encoding="utf-8") as file:
            return json.load(file)

    def set(self, **values: Any) -> None:
        """Set top-level values of the state (see ``build_home`` for their meaning)."""
        self._change(lambda state: state.update(values))

    def set_running(
        self,
        pid: int,
        command: str,
        memory: int,
        device: Optional[int] = None,
        utilization: int = 97,
        job_id: int = 981204,
        kill_on_reset: bool = False,
    ) -> None:
        """A process holds a device (the default one): the tables show it, switching is refused.

        Args:
            pid: its number; it need not exist.
            command: as the process table prints it.
            memory: MiB.
            kill_on_reset: ``moreh-smi -r`` really kills ``pid``; only for a process of the test's own.
        """

        def edit(state: Dict[str, Any]) -> None:
            number = state["default"] if device is None else device
            state["running"][str(number)] = {
                "pid": pid,
                "command": command,
                "memory_mib": memory,
                "utilization": utilization,
                "job_id": str(job_id),
                "kill_on_reset": kill_on_reset,
            }

        self._change(edit)

    def set_idle(self, device: Optional[int] = None) -> None:
        """Nothing runs on one device, or on any."""

        def edit(state: Dict[str, Any]) -> None:
            if device is None:
                state["running"].clear()
            else:
                state["running"].pop(str(device), None)

        self._change(edit)

    def set_variant(self, letter: str) -> None:
        """Draw tables as another release did.

        A: 0.8 with Token column. B: 23.x, clock line, three devices, dash slots. C and D: 24.x (idle
        or running is decided by the state, not here). E: short table. F: token table. G: per-GPU
        table. H: 24.9-25.1, short flavor names. I: ``ap-smi``, and no ``moreh-smi``.
        """
        if letter not in _VARIANTS:
            raise ValueError("no variant {!r}; there are {}".format(letter, ", ".join(_VARIANTS)))
        values: Dict[str, Any] = {"variant": letter}
        if letter == "A":
            values.update(name="KT AI Accelerator", maf="0.8.2", latest="0.8.3", starless=True)
            values.update(devices=[{"id": 1, "flavor": "small.16gb"}], default=1)
        elif letter == "B":
            values.update(name="KT AI Accelerator", maf="23.9.0", latest="23.8.1", default=1, max_devices=5)
            flavors = ("2xLarge.1024GB", "Medium.128GB", None)
            values.update(devices=[{"id": number, "flavor": flavor} for number, flavor in enumerate(flavors)])
        elif letter == "H":
            values.update(name="Ambre AI Accelerator", maf="24.9.212", latest="25.1.202")
            values.update(devices=[{"id": 0, "flavor": "micro"}], catalogue=_state_module().SMALL_CATALOGUE)
        elif letter == "I":
            values.update(maf="25.5.3007", latest="25.5.3007")
            values.update(devices=[{"id": 0, "flavor": "flavor-default-16"}], default=0)
        self.set(**values)
        self._install_tools(letter == "I")

    def run(self, *argv: str, input: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run one of the fake tools directly, as a shell with the right PATH would."""
        given = dict(self.environ(), **variables)
        given["PATH"] = os.pathsep.join([self.tools, os.path.join(self.conda_base, "bin"), given["PATH"]])
        return subprocess.run(
            list(argv),
            env=given,
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=30,
        )

    def _change(self, edit: Callable[[Dict[str, Any]], None]) -> None:
        _state_module().change(edit, self.state_path)

    def _install_tools(self, only_ap_smi: bool) -> None:
        shutil.rmtree(self.tools, ignore_errors=True)
        os.makedirs(self.tools)
        if only_ap_smi:
            self._tool("ap-smi", "moreh_smi.py", "ap-smi")
            return
        self._tool("moreh-smi", "moreh_smi.py", "moreh-smi")
        self._tool("moreh-switch-model", "moreh_switch_model.py")
        self._tool("update-moreh", "update_moreh.py")

    def _tool(self, name: str, script: str, *words: str) -> None:
        path = os.path.join(self.home, ".moreh", "lib", script)
        _script(os.path.join(self.tools, name), [sys.executable, "-I", "-S", path] + list(words))


def build_home(
    folder: str,
    flavor: str = "4xLarge.2048GB",
    maf: str = "24.5.0",
    envs: Optional[Dict[str, Optional[str]]] = None,
    variant: str = "D",
    default_env: Optional[str] = "",
    torch: str = "1.13.1",
    max_devices: int = 1,
    noise: str = "",
    token_in_bashrc: bool = False,
    **state: Any,
) -> ContainerHome:
    """Make a look-alike home.

    Args:
        folder: the home to make; may exist.
        flavor: of device 0.
        maf: framework version that tables, ``update-moreh`` and torch's version show.
        envs: conda environments by name. None: an interpreter (this one), with package metadata of
            a MAF environment but no packages. A path: that interpreter with its real packages; its
            torch is shown as Moreh's.
        variant: table style, see ``ContainerHome.set_variant``.
        default_env: environment ``.bashrc`` activates; the first when empty, none when None.
        torch: version of torch in environments given as None.
        max_devices: how many devices the token allows; the platform's own default is 1.
        noise: lines put into ``.bashrc`` before anything else it does.
        token_in_bashrc: export ``MOREH_SDA_TOKEN`` there, as pods do.
        state: further values: ``latest``, ``name``, ``token``, ``devices``, ``default``,
            ``catalogue``, ``menu_order`` ("new" or "old"), ``star_gap`` (0-2 blanks), ``group``,
            ``menu_option`` (``-M`` works), ``at_eof`` ("exit" or "hang"), ``hang`` (every tool),
            ``clock``, ``starless``, ``header_word``, ``star_after_add``, ``outdated`` (the server
            refuses this framework), ``torch_devices`` and ``torch_trouble`` (``hang``, ``glibc``,
            ``numpy``, ``token`` or a message) of ``python -c '... torch.cuda ...'``.
    """
    folder = os.path.abspath(folder)
    wanted = {"pytorch": None} if envs is None else envs
    home = ContainerHome(folder, os.path.join(folder, ".moreh", "state.json"))
    os.makedirs(os.path.join(folder, ".moreh", "lib"), exist_ok=True)
    for name in sorted(os.listdir(_BIN)):
        if name.endswith(".py"):
            shutil.copy(os.path.join(_BIN, name), os.path.join(folder, ".moreh", "lib", name))
    values: Dict[str, Any] = {
        "maf": maf,
        "latest": maf,
        "name": "MoAI Accelerator",
        "token": TOKEN,
        "variant": variant,
        "devices": [{"id": 0, "flavor": flavor}],
        "default": 0,
        "max_devices": max_devices,
        "running": {},
        "catalogue": [name for name, _ in _state_module().FLAVORS],
        "menu_order": "new",
        "star_gap": 2,
        "group": "",
        "menu_option": False,
        "at_eof": "exit",
        "hang": False,
        "clock": False,
        "starless": False,
        "header_word": "Flavor",
        "star_after_add": True,
        "outdated": False,
        "torch_devices": 1,
        "torch_trouble": "",
    }
    unknown = sorted(set(state) - set(values))
    if unknown:
        raise TypeError("build_home() got unknown state values: {}".format(", ".join(unknown)))
    with open(home.state_path, "w", encoding="utf-8") as file:
        json.dump(values, file)
    _build_conda(home, wanted, torch, maf)
    first = next(iter(wanted), None) if default_env == "" else default_env
    _fill(
        "bashrc",
        os.path.join(folder, ".bashrc"),
        BASE=shlex.quote(home.conda_base),
        MOREH=shlex.quote(os.path.join(folder, ".moreh")),
        NOISE=noise,
        TOKEN="export MOREH_SDA_TOKEN={}".format(TOKEN) if token_in_bashrc else "",
        ACTIVATE="conda activate {}".format(first) if first else "",
    )
    _fill("profile", os.path.join(folder, ".profile"))
    home.set_variant(variant)
    if state:
        home.set(**state)
    return home


def _build_conda(home: ContainerHome, envs: Dict[str, Optional[str]], torch: str, maf: str) -> None:
    base = home.conda_base
    script = os.path.join(home.home, ".moreh", "lib", "conda.py")
    for folder in ("bin", "condabin"):
        _script(os.path.join(base, folder, "conda"), [sys.executable, "-I", "-S", script, base])
    _script(os.path.join(base, "bin", "python"), [sys.executable])
    _mark_conda(base, _python_version(sys.executable))
    _fill("conda.sh", os.path.join(base, "etc", "profile.d", "conda.sh"), BASE=shlex.quote(base))
    os.makedirs(os.path.join(base, "envs"), exist_ok=True)
    prefixes: List[str] = [base]
    for name, python in envs.items():
        prefix = home.prefix(name)
        interpreter = python or sys.executable
        version = _python_version(interpreter)
        home.env_pythons[name] = os.path.join(prefix, "bin", "python")
        # A wrapper, not a link: a link into a virtual environment would leave its packages behind.
        for link in ("python", "python3"):
            _python(os.path.join(prefix, "bin", link), interpreter, home)
        _mark_conda(prefix, version)
        site = os.path.join(prefix, "lib", "python" + ".".join(version.split(".")[:2]), "site-packages")
        os.makedirs(site, exist_ok=True)
        for package, of_package in _packages(python, torch, maf).items():
            _dist_info(site, package, of_package)
        prefixes.append(prefix)
    _write(os.path.join(home.home, ".conda", "environments.txt"), "\n".join(prefixes) + "\n")


def _packages(python: Optional[str], torch: str, maf: str) -> Dict[str, str]:
    if python is None:
        local = {"1.7.1": "cu110.", "1.10.0": "cu111.", "1.13.1": "cu116."}.get(torch, "")
        return dict(PACKAGES, torch="{}+{}moreh{}".format(torch, local, maf))
    names = ("torch", *PACKAGES)
    found = {}
    for line in _ask(python, _LIST_PACKAGES).splitlines():
        name, _, version = line.partition(" ")
        if name in names:
            found.setdefault(name, version)
    if "torch" in found:
        found["torch"] = "{}+moreh{}".format(found["torch"].split("+")[0], maf)
    return found


def _python_version(python: str) -> str:
    if python == sys.executable:
        return "{}.{}.{}".format(*sys.version_info[:3])
    return _ask(python, "import platform; print(platform.python_version())").strip()


def _ask(python: str, code: str) -> str:
    return subprocess.run(
        [python, "-c", code], stdout=subprocess.PIPE, universal_newlines=True, check=True, timeout=60
    ).stdout


def _mark_conda(prefix: str, version: str) -> None:
    _write(os.path.join(prefix, "conda-meta", "history"), "==> 2024-05-20 09:00:00 <==\n")
    _write(os.path.join(prefix, "conda-meta", "python-{}-h955ad1f_0.json".format(version)), "{}\n")


def _dist_info(site: str, name: str, version: str) -> None:
    text = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n".format(name, version)
    _write(os.path.join(site, "{}-{}.dist-info".format(name, version), "METADATA"), text)


def _script(path: str, argv: List[str]) -> None:
    _write(path, '#!/bin/sh\nexec {} "$@"\n'.format(" ".join(map(shlex.quote, argv))))
    os.chmod(path, 0o755)


def _python(path: str, interpreter: str, home: ContainerHome) -> None:
    """An interpreter whose torch, asked in one line about the accelerator, answers as Moreh's does."""
    fake = [sys.executable, "-I", "-S", os.path.join(home.home, ".moreh", "lib", "torch_cuda.py")]
    _script(path, [interpreter])
    with open(path, encoding="utf-8") as file:
        usual = file.read().partition("\n")[2]
    ask = 'case "$1 $2" in "-c "*torch.cuda.*) exec {} "$@";; esac'.format(" ".join(map(shlex.quote, fake)))
    _write(path, "#!/bin/sh\n{}\n{}".format(ask, usual))


def _fill(template: str, path: str, **values: str) -> None:
    """Write a shell file of ``bin/`` with its ``@NAMES@`` replaced."""
    with open(os.path.join(_BIN, template), encoding="utf-8") as file:
        text = file.read()
    for name, value in values.items():
        text = text.replace("@{}@".format(name), value)
    _write(path, text)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _state_module() -> Any:
    if _BIN not in sys.path:
        sys.path.append(_BIN)
    import moai_state

    return moai_state
