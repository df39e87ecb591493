"""The way in for programs: hosts and jobs by name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from moai import _index
from moai._config import HostConfig, config
from moai._errors import MoaiError
from moai._host import Host
from moai._job import Job
from moai._rpc import Say
from moai._ssh.prompts import Prompter


def connect(name: str = "", *, prompts: Prompter | None = None, say: Say | None = None, link: bool = True) -> Host:
    """A host by its configured name, an SSH alias, ``user@host[:port]`` or ``local``.

    Nothing is dialled before the first call. Without a name: the default or only host.
    """
    picked = config().pick(name)
    if len(picked) > 1:
        raise MoaiError("USAGE", f"{name!r} names {len(picked)} hosts", "name one")
    return Host(picked[0], prompts, say, link)


def hosts(names: str = "all", *, prompts: Prompter | None = None, say: Say | None = None) -> list[Host]:
    """Several hosts: names and ``@group`` separated by commas, or ``all``.

    Args:
        say: as for ``Host``; where there are several, the host's name stands before what it is told.
    """
    picked = config().pick(names)
    return [Host(one, prompts, _named(one.name, say) if len(picked) > 1 else say) for one in picked]


def _named(name: str, say: Say | None) -> Say | None:
    return None if say is None else lambda text: say(f"{name}: {text}")


def job(text: str, *, on: str = "", prompts: Prompter | None = None, say: Say | None = None) -> Job:
    """A job by id, unique prefix, ``HOST/JOB``, name or ``last``, wherever it runs.

    Looked for on the host(s) named, else in the laptop's index, else on all configured hosts at once. Raises NotFound (JOB_NOT_FOUND) and Conflict (JOB_AMBIGUOUS).
    """
    host_name, slash, rest = text.partition("/")
    if slash and rest:
        return connect(host_name, prompts=prompts, say=say).job(rest)
    if on:
        return _first_with(config().pick(on), text, prompts, say)
    known = _index.find(text)
    if len(known) > 1:
        shown = ", ".join(f"{where}/{job_id}" for job_id, where in known[:5])
        raise MoaiError("JOB_AMBIGUOUS", f"{text!r} fits several jobs: {shown}", "type more of the id")
    if known:
        job_id, where = known[0]
        try:
            return connect(where, prompts=prompts, say=say).job(job_id)
        except MoaiError as error:
            if error.reason != "JOB_NOT_FOUND" or error.details.get("elsewhere"):
                raise
            _refuse_recreated(job_id, where, prompts, say)
            _index.forget(job_id)
    settings = config()
    if not settings.hosts:
        raise MoaiError("JOB_NOT_FOUND", f"there is no job {text!r} known here", "moai remote jobs --on HOST")
    return _first_with(list(settings.hosts.values()), text, prompts, say)


def _refuse_recreated(job_id: str, where: str, prompts: Prompter | None, say: Say | None) -> None:
    """JOB_NOT_FOUND saying so when the host is another container now than the one the job was submitted on."""
    then = _index.container_of(job_id)
    now = connect(where, prompts=prompts, say=say).info().host_id if then else ""
    if then and now != then:
        raise MoaiError(
            "JOB_NOT_FOUND",
            f"{where} is another container now ({now}) than the one job {job_id} was submitted on ({then}); the job is gone with it",
            f"moai remote jobs --on {where}",
        )


def _first_with(candidates: list[HostConfig], text: str, prompts: Prompter | None, say: Say | None) -> Job:
    if len(candidates) == 1:
        return Host(candidates[0], prompts, say).job(text)
    found: list[Job] = []
    problems: list[MoaiError] = []

    def ask(one: HostConfig) -> None:
        try:
            found.append(Host(one, prompts, say).job(text))
        except MoaiError as error:
            problems.append(error)

    with ThreadPoolExecutor(min(16, len(candidates))) as pool:
        list(pool.map(ask, candidates))
    if text == "last" and found:
        found.sort(key=lambda one: one.info.create_time.timestamp() if one.info.create_time else 0.0)
        return found[-1]
    if len(found) > 1:
        shown = ", ".join(f"{one.host.name}/{one.id}" for one in found)
        raise MoaiError("JOB_AMBIGUOUS", f"{text!r} fits several jobs: {shown}", "type HOST/JOB")
    if found:
        return found[0]
    others = [p for p in problems if p.reason != "JOB_NOT_FOUND"]
    if len(others) == len(problems):
        raise others[0]
    unasked = f"; {len(others)} host(s) could not be asked ({others[0].message})" if others else ""
    raise MoaiError(
        "JOB_NOT_FOUND", f"there is no job {text!r} on {', '.join(c.name for c in candidates)}{unasked}", "moai remote jobs"
    )
