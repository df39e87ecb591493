"""Checks of the chosen environment: its torch, what the accelerator says to it, packages, shadows, glibc.

Reads files, and starts the environment's interpreter once, bounded, to count devices. Refuses to ask
torch for a device's name unless ``deep`` was asked for: on MoAI that attaches GPUs, and they are billed.
"""

import mmap
import os
import re
from typing import Dict, Iterator, List, Optional, Tuple

from moai_agent.checks.devices import lives
from moai_agent.checks.ground import REMEMBER_ENVIRONMENT, Check, Ground, listed
from moai_agent.devices import redact
from moai_agent.environments import EnvironmentChoice, bounded, choose, packages_of, shadowing, version_key
from moai_agent.environments.inspect import site_packages

_NEEDED = ("transformers", "datasets", "accelerate", "safetensors", "numpy")
_FOR_LORA = ("peft", "jinja2")
_COUNT_S = 60.0
_NAME_S = 300.0
_COUNT = "import torch; print('moai-count', torch.cuda.device_count())"
_NAME = "import torch; print('moai-name', torch.cuda.get_device_name(0))"
#: From MAF 23.7 on, when its own files do not tell.
_GLIBC_NEEDED = (2, 29)
_GLIBC = re.compile(rb"GLIBC_(\d{1,2})\.(\d{1,3})\b")
_FRAMEWORK_FILE = re.compile(r"_moreh_f.*\.so")
_MOST_BYTES = 256 * 1024 * 1024


def all_of(ground: Ground) -> List[Check]:
    """Checks of the environment; without one, only why there is none."""
    found = [_environment(ground)]
    if ground.chosen is None:
        names = ("torch", "packages", "accelerator")
        return found + [Check(name, "skipped", "no environment was chosen") for name in names]
    found.append(_torch(ground))
    if ground.chosen.moreh_version:
        found.append(_glibc(ground))
    return found + [_shadows(ground), _packages(ground), _accelerator(ground)]


# -- choice and versions ---------------------------------------------------------------------------


def _environment(ground: Ground) -> Check:
    error = ground.choice_error
    if error is not None:
        first = error.details.get("environments", "").partition(" (")[0]
        remedy = "moai remote env list --on NAME"
        if error.reason == "ENVIRONMENT_AMBIGUOUS" and first and "/" not in error.next:
            remedy = "moai remote check --on NAME --env %s --fix (remembers it)" % first
        return Check("environment", "failed", error.message, remedy)
    chosen = ground.chosen
    assert chosen is not None
    text = "%s (%s): %s" % (chosen.name, chosen.python, ground.why)
    remedy = "moai remote set NAME --env %s" % (ground.asked or chosen.name)
    if "; the remembered " in ground.why:
        return Check("environment", "warning", text, remedy, REMEMBER_ENVIRONMENT, chosen.name)
    if ground.asked and _otherwise(ground) != chosen.python:
        return Check("environment", "ok", text, "", REMEMBER_ENVIRONMENT, ground.asked)
    return Check("environment", "ok", text)


def _otherwise(ground: Ground) -> Optional[str]:
    """The interpreter that would be chosen if none were asked for; None when the rules leave it open."""
    try:
        found, _ = choose(
            ground.registry.list(), None, ground.report.provider or "cpu", ground.registry.remembered(), ground.login
        )
    except EnvironmentChoice:
        return None
    return found.python


def _torch(ground: Ground) -> Check:
    chosen = ground.chosen
    assert chosen is not None
    if not chosen.torch_version:
        return Check("torch", "failed", "%s has no torch" % chosen.name, "moai remote env list --on NAME")
    text = "torch %s" % chosen.torch_version
    if not ground.is_moai:
        return Check("torch", "ok", text)
    if not chosen.moreh_version:
        text += " is not a Moreh build: it cannot use this accelerator"
        return Check("torch", "failed", text, ground.in_environment("sh -c 'echo y | update-moreh --force'"))
    return Check("torch", "ok", "%s, Moreh framework %s" % (text, chosen.moreh_version))


def _packages(ground: Ground) -> Check:
    chosen = ground.chosen
    assert chosen is not None
    have = packages_of(chosen, ground.home, _NEEDED + _FOR_LORA + ("torch",))
    missing = [name for name in _NEEDED if name not in have]
    optional = [name for name in _FOR_LORA if name not in have]
    there = ", ".join("%s %s" % (name, have[name]) for name in _NEEDED + _FOR_LORA if name in have) or "none"
    remedy = ground.install(" ".join(missing + optional))
    if missing:
        return Check("packages", "failed", "missing: %s; there: %s" % (", ".join(missing + optional), there), remedy)
    misfit = _numpy_misfit(have)
    if misfit:
        return Check("packages", "failed", misfit[0], ground.install("'%s'" % misfit[1]))
    if optional:
        text = "missing for --method lora: %s; there: %s" % (", ".join(optional), there)
        return Check("packages", "warning", text, remedy)
    return Check("packages", "ok", there)


def _numpy_misfit(have: Dict[str, str]) -> Optional[Tuple[str, str]]:
    """Why numpy and torch do not go together, and what pip should install instead."""
    numpy, torch = have.get("numpy", ""), have.get("torch", "")
    if version_key(numpy) < (1, 16):
        return "numpy %s is too old for torch (numpy.core.multiarray fails to import)" % numpy, "numpy>=1.16,<2"
    if torch and version_key(torch) < (2, 3) and version_key(numpy) >= (2,):
        return "numpy %s, but torch %s was built for numpy 1" % (numpy, torch), "numpy<2"
    return None


def _shadows(ground: Ground) -> Check:
    chosen = ground.chosen
    assert chosen is not None
    found = shadowing(chosen, ground.home)
    if not found:
        return Check("local packages", "ok", "nothing in ~/.local hides the environment's packages")
    shown = ["%s %s hides %s" % (name, user, own) for name, (user, own) in sorted(found.items())]
    verdict = "failed" if "torch" in found else "warning"
    remedy = ground.in_environment("COMMAND").replace(" -- ", " --setenv PYTHONNOUSERSITE=1 -- ")
    return Check("local packages", verdict, "in ~/.local: " + listed(shown), remedy)


# -- glibc -----------------------------------------------------------------------------------------


def _glibc(ground: Ground) -> Check:
    chosen = ground.chosen
    assert chosen is not None
    text = ground.libc if ground.libc is not None else _libc()
    have = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    need, source = _glibc_need(chosen.prefix)
    if not need:
        if version_key(chosen.moreh_version) < (23, 7):
            return Check("glibc", "ok", "%s; framework %s states no need" % (text or "unknown", chosen.moreh_version))
        need, source = _GLIBC_NEEDED, "known of releases from 23.7 on"
    wanted = "the framework needs %d.%d (%s)" % (need[0], need[1], source)
    if not have:
        return Check("glibc", "skipped", "the C library does not tell its version; " + wanted)
    if have < need:
        remedy = "moai remote add NAME ADDRESS (of a container with Ubuntu 20.04 or newer)"
        return Check("glibc", "failed", "%s is too old: %s" % (text, wanted), remedy)
    return Check("glibc", "ok", "%s; %s" % (text, wanted))


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        return ""


def _glibc_need(prefix: str) -> Tuple[Tuple[int, ...], str]:
    """The newest GLIBC symbol version that the framework's own extension asks for."""
    for path in _framework_files(prefix):
        try:
            with open(path, "rb") as source:
                if not os.fstat(source.fileno()).st_size:
                    continue
                length = min(os.fstat(source.fileno()).st_size, _MOST_BYTES)
                with mmap.mmap(source.fileno(), length, access=mmap.ACCESS_READ) as data:
                    found = {(int(m.group(1)), int(m.group(2))) for m in _GLIBC.finditer(data)}
        except (OSError, ValueError):
            continue
        if found:
            return max(found), os.path.basename(path)
    return (), ""


def _framework_files(prefix: str) -> Iterator[str]:
    for site in site_packages(prefix):
        for base in (os.path.join(site, "torch", "_M"), os.path.join(site, "moreh"), os.path.join(site, "torch", "lib")):
            for folder, _, names in os.walk(base):
                for name in names:
                    if _FRAMEWORK_FILE.fullmatch(name):
                        yield os.path.join(folder, name)


# -- asking torch ----------------------------------------------------------------------------------


def _accelerator(ground: Ground) -> Check:
    chosen = ground.chosen
    assert chosen is not None
    if not chosen.torch_version or ground.report.provider in (None, "cpu"):
        return Check("accelerator", "skipped", "there is none to ask torch about")
    remedy = ground.in_environment("python -c 'import torch; print(torch.cuda.device_count())'")
    answer, problem, late = _asked(ground, _COUNT, "moai-count", _COUNT_S)
    if late:
        text = "torch did not count its devices within %d s" % _COUNT_S
        return Check("accelerator", "warning", text, remedy)
    if answer is None:
        return Check("accelerator", "failed", "torch cannot count its devices: " + problem, _remedy_of(ground, problem) or remedy)
    if answer == "0":
        remedy = ground.in_environment("sh -c 'echo y | update-moreh --force'") if ground.is_moai else remedy
        return Check("accelerator", "failed", "torch.cuda.device_count() is 0", remedy)
    text = "torch.cuda.device_count() is %s" % answer
    return _named(ground, text, remedy) if ground.deep else Check("accelerator", "ok", text)


def _named(ground: Ground, text: str, remedy: str) -> Check:
    """Attach the accelerator for a moment; never while somebody holds it, for it would wait."""
    busy = [p.pid for d in ground.report.devices for p in d.processes]
    if busy:
        owner = "pid %s" % busy[0] if busy[0] is not None and lives(busy[0]) else "a process that is gone"
        return Check("accelerator", "skipped", "%s; not attached, because %s holds it" % (text, owner))
    answer, problem, late = _asked(ground, _NAME, "moai-name", _NAME_S)
    if late:
        return Check("accelerator", "failed", "%s, but attaching it took over %d s" % (text, _NAME_S), remedy)
    if answer is None:
        return Check("accelerator", "failed", "%s, but it cannot be attached: %s" % (text, problem), remedy)
    return Check("accelerator", "ok", "%s; attached as %s and released" % (text, answer[:100]))


def _asked(ground: Ground, code: str, mark: str, timeout_s: float) -> Tuple[Optional[str], str, bool]:
    """(what was printed after the mark, why nothing was, whether time ran out)."""
    assert ground.chosen is not None
    outcome = bounded.run([ground.chosen.python, "-c", code], ground.variables(), timeout_s, cwd="/")
    for line in outcome.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith(mark + " "):
            return line[len(mark) + 1 :].strip(), "", False
    if outcome.timed_out:
        return None, "", True
    lines = [line.strip() for line in outcome.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if "what():" in line or "GLIBC_" in line] or lines[-1:]
    why = telling[0] if telling else outcome.error or "it ended with code %s" % outcome.exit_code
    return None, redact(why)[:300], False


def _remedy_of(ground: Ground, problem: str) -> str:
    if "GLIBC_" in problem:
        return "moai remote add NAME ADDRESS (of a container with Ubuntu 20.04 or newer)"
    if "SDA token" in problem or "InvalidToken" in problem:
        return "moai remote run --on NAME --secret MOREH_SDA_TOKEN -- moreh-smi"
    if "numpy.core.multiarray" in problem:
        return ground.install("'numpy>=1.16,<2'")
    return ""
