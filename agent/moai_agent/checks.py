"""The checks of ``moai remote check`` that are made on the container.

Each has a name, a verdict (``ok``, ``warning``, ``failed``, ``skipped``), what was seen, and the
command that mends it. Nothing is imported from the environment and no device is touched beyond its
listing tool: on MoAI, asking torch for a device name would attach GPUs.
"""

import os
import shutil
from typing import Any, Callable, List, NamedTuple, Optional

from moai_worker import hub
from moai_worker.errors import StepError

from moai_agent import work
from moai_agent.config import Config
from moai_agent.environments.registry import Registry
from moai_agent.errors import AgentError
from moai_agent.servicers.models import existing

_MOAI = ("moreh-smi", "ap-smi")
_GB = 10**9


class Check(NamedTuple):
    """One line of the list."""

    name: str
    verdict: str
    evidence: str
    remedy: str = ""


def run_all(
    config: Config, registry: Registry, environment: str, model: str, token: str, endpoint: str, folder: str = ""
) -> List[Check]:
    """All checks, in the order a person would make them; blocking, up to about a minute."""
    login = registry.login()
    endpoint = (endpoint or login.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    token = token or login.get("HF_TOKEN") or _stored_token(login)
    report = registry.devices(environment if environment else "")
    found: List[Check] = [_device(report)]
    chosen: Optional[Any] = None
    try:
        chosen, why = registry.choose(environment, True, report.provider or "cpu")
        found.append(Check("environment", "ok", "%s (%s): %s" % (chosen.name, chosen.python, why)))
    except AgentError as error:
        found.append(Check("environment", "failed", error.message, error.next))
    found += [_torch(chosen, report.provider), _packages(chosen)]
    home = login.get("HOME") or os.path.expanduser("~")
    found.append(_disk(work.asked(folder, home) or work.folder(config), model, token, endpoint))
    found += _hub(token, endpoint)
    return found


def _device(report: Any) -> Check:
    if report.error is not None:
        return Check("device", "failed", report.error.message, report.error.next)
    if not report.devices:
        return Check("device", "failed", "no device is listed by %s" % (report.provider or "any tool"))
    shown = ", ".join("%s %s" % (d.name or "device %s" % d.id, d.flavor or "") for d in report.devices).strip()
    version = " (framework %s)" % report.platform_version if report.platform_version else ""
    busy = [str(p.pid) for d in report.devices for p in d.processes]
    if busy:
        return Check("device", "warning", "%s%s; in use by pid %s" % (shown, version, ", ".join(busy)))
    if report.provider == "cpu":
        return Check("device", "warning", "%s: no accelerator was found" % shown)
    return Check("device", "ok", shown + version)


def _torch(chosen: Optional[Any], provider: Optional[str]) -> Check:
    if chosen is None:
        return Check("torch", "skipped", "no environment was chosen")
    if not chosen.torch_version:
        return Check("torch", "failed", "%s has no torch" % chosen.name, "choose another one with --env")
    text = "torch %s" % chosen.torch_version
    if provider in _MOAI:
        if not chosen.moreh_version:
            return Check("torch", "failed", text + " is not a Moreh build", "update-moreh --force in %s" % chosen.name)
        text += ", Moreh framework %s" % chosen.moreh_version
    return Check("torch", "ok", text)


def _packages(chosen: Optional[Any]) -> Check:
    if chosen is None:
        return Check("packages", "skipped", "no environment was chosen")
    names = ("transformers", "datasets", "peft", "accelerate")
    have = ["%s %s" % (n, getattr(chosen, n)) for n in names if getattr(chosen, n)]
    lack = [n for n in names if not getattr(chosen, n)]
    if lack:
        remedy = "moai remote env install --env %s %s" % (chosen.name, " ".join(lack))
        needed = [n for n in lack if n != "peft"]
        verdict = "failed" if needed else "warning"
        return Check("packages", verdict, "missing: %s; there: %s" % (", ".join(lack), ", ".join(have) or "none"), remedy)
    return Check("packages", "ok", ", ".join(have))


def _disk(folder: str, model: str, token: str, endpoint: str) -> Check:
    usage = shutil.disk_usage(existing(folder))
    text = "%.1f GB free in %s" % (usage.free / _GB, folder)
    need = 0
    if model and not os.path.exists(os.path.expanduser(model)):
        try:
            plan = hub.plan_download(model, endpoint=endpoint, token=token or None)
        except StepError as error:
            return Check("disk", "skipped", "%s; %s could not be sized: %s" % (text, model, error.message), error.next)
        # Weights once in the cache, and the trained model saved in fp32 beside them.
        need = plan.total_bytes * 3
        text += "; %s needs about %.1f GB (weights %.1f GB and the result)" % (model, need / _GB, plan.total_bytes / _GB)
    if usage.free < need:
        best = work.writable_mounts()[:1]
        hint = "moai remote set NAME --work %s/moai-work (%.0f GB free)" % (best[0].path.rstrip("/"), best[0].free_bytes / _GB)
        return Check("disk", "failed", text, hint if best else "free some space")
    if usage.free < 5 * _GB:
        return Check("disk", "warning", text, "free some space")
    return Check("disk", "ok", text)


def _hub(token: str, endpoint: str) -> List[Check]:
    def who() -> Check:
        if not token:
            return Check("token", "warning", "no Hub token; gated models need one", "export HF_TOKEN=... on the laptop")
        answer = hub.whoami(endpoint, token)
        return Check("token", "ok", "signed in as %s" % (answer.get("name") or "?"))

    return [_asked("token", who), _asked("hub", lambda: _reach(endpoint))]


def _reach(endpoint: str) -> Check:
    try:
        hub.plan_download("hf-internal-testing/tiny-random-gpt2", endpoint=endpoint, timeout_s=10.0)
    except StepError as error:
        if error.reason == "HUB_UNREACHABLE":
            raise
    return Check("hub", "ok", "%s answers" % endpoint)


def _asked(name: str, ask: Callable[[], Check]) -> Check:
    try:
        return ask()
    except StepError as error:
        return Check(name, "failed", error.message, error.next)


def _stored_token(login: Any) -> str:
    """The container's own login, where huggingface_hub keeps it (HF_TOKEN_PATH, HF_HOME/token)."""
    home = os.path.join(login.get("HOME") or os.path.expanduser("~"), ".cache", "huggingface")
    path = login.get("HF_TOKEN_PATH") or os.path.join(login.get("HF_HOME") or home, "token")
    try:
        with open(path) as source:
            return source.read(4096).strip()
    except OSError:
        return ""
