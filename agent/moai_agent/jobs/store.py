"""All jobs of this container: made once per request, found by prefix, followed while they live.

Owns the life of job folders on the agent's side. Everything it knows can be read again from disk.
"""

import asyncio
import glob
import hashlib
import json
import os
import shutil
import time
from typing import Any, Dict, List, Optional, Tuple

from moai_worker import endings, identity, jobdir, records, stopping
from moai_worker.evidence import Evidence
from moai_worker.jobdir import TERMINAL_STATES, JobDir

from moai_agent.config import Config
from moai_agent.errors import AgentError
from moai_agent.jobs import names
from moai_agent.jobs.follower import Follower
from moai_agent.spawner import Spawner


class Entry:
    """A job as listed: its folder, what was asked, and its folded view."""

    def __init__(self, job: JobDir, spec: Dict[str, Any], plan: Dict[str, Any], view: Dict[str, Any]) -> None:
        self.job, self.spec, self.plan, self.view = job, spec, plan, view


class JobStore:
    """See the module docstring. Methods run on the agent's event loop unless they say otherwise."""

    def __init__(self, config: Config, spawner: Spawner) -> None:
        self.config = config
        self.host = config.host
        self.spawner = spawner
        self._active: Dict[str, Follower] = {}
        self._tasks: Dict[str, "asyncio.Task[None]"] = {}
        self._ended: Dict[str, Entry] = {}

    # -- making --------------------------------------------------------------------------------

    def find_request(self, request_id: str, digest: str) -> Optional[str]:
        """Id of the job this request made before; REQUEST_CONFLICT when it asked for something else."""
        for job_id in names.candidates(request_id):
            spec = jobdir.read_json(self.host.job(job_id).spec)
            if spec is None:
                return None
            if spec.get("request_id") == request_id:
                if spec.get("request_digest") != digest:
                    raise AgentError(
                        "REQUEST_CONFLICT", "request id %s was used for another request" % request_id, "use a new one"
                    )
                return job_id
        return None

    def create(
        self,
        spec: Dict[str, Any],
        plan: Dict[str, Any],
        private: Dict[str, Any],
        notes: List[Dict[str, Any]],
    ) -> str:
        """Publish a job folder and start its supervisor; blocking, call it off the loop.

        Args:
            spec, plan: as kept. private: environment and secrets of the steps, never written.
            notes: report lines that open the journal.

        Returns the job's id (``spec["id"]``). Raises AgentError (DISK_FULL, START_FAILED).
        """
        job = self.host.job(spec["id"])
        temp = JobDir(os.path.join(self.host.jobs, ".new-%s-%s" % (spec["id"], os.urandom(4).hex())))
        try:
            jobdir.make_private(temp.path)
            jobdir.make_private(temp.control)
            jobdir.write_json(temp.plan, plan)
            lines = [json.dumps(dict(note, t=time.time()), separators=(",", ":")) for note in notes]
            jobdir.write_atomic(temp.reports, "".join(line + "\n" for line in lines).encode())
            jobdir.write_atomic(temp.log, b"")
            jobdir.write_json(temp.spec, spec)
            try:
                os.rename(temp.path, job.path)
            except OSError:
                if os.path.isdir(job.path):
                    return spec["id"]  # The same request, committed a moment ago.
                raise
            jobdir.sync_folder(self.host.jobs)
        except OSError as error:
            reason = "DISK_FULL" if error.errno in (28, 122) else "START_FAILED"
            place = identity.mount_of(self.host.jobs)[0]
            raise AgentError(
                reason, "the job folder cannot be written on %s: %s" % (place, error.strerror), "free some space there"
            )
        finally:
            shutil.rmtree(temp.path, ignore_errors=True)
        self._spawn(job, private)
        return spec["id"]

    def _spawn(self, job: JobDir, private: Dict[str, Any]) -> None:
        env = {k: os.environ[k] for k in ("PATH", "HOME", "LANG", "USER", "LOGNAME") if k in os.environ}
        env["MOAI_HOME"] = self.config.home
        try:
            self.spawner.spawn(self.config.supervisor_argv + [job.path], env, private)
        except OSError as error:
            self._record_failed(job, "START_FAILED", "no supervisor could be started: %s" % endings.why_not_started(error))

    def _record_failed(self, job: JobDir, code: str, text: str, state: str = "FAILED") -> None:
        reason = {"code": code, "message": text, "next": "moai remote resume %s" % job.id, "details": {}}
        outcome = {"state": state, "exit_code": None, "reason": reason, "end_time": time.time(), "log_bytes": 0}
        jobdir.write_json(job.exit, outcome)

    # -- following -----------------------------------------------------------------------------

    def start_following(self) -> None:
        """Adopt every job that has not ended, in the order of their age; called once at start."""
        for job_id in self.host.job_ids():
            self.entry_or_none(job_id)

    def follow(self, job_id: str) -> Follower:
        """The follower of a living job, started if needed."""
        follower = self._active.get(job_id)
        if follower is None:
            job = self.host.job(job_id)
            spec, plan = jobdir.read_json(job.spec) or {}, jobdir.read_json(job.plan) or {}
            follower = self._active[job_id] = Follower(job, spec, plan)
            self._tasks[job_id] = asyncio.ensure_future(self._run(job_id, follower))
        return follower

    async def _run(self, job_id: str, follower: Follower) -> None:
        try:
            await follower.run()
        finally:
            # A follower that failed is made anew by the next look at its job.
            self._active.pop(job_id, None)
            self._tasks.pop(job_id, None)
            follower.journal.close()

    def respawn_if_unstarted(self, job_id: str, private: Dict[str, Any]) -> None:
        """Go on with a submission that an agent did not live to finish; the lock keeps it at one."""
        evidence = Evidence(self.host.job(job_id))
        if not evidence.started and not evidence.supervised and evidence.exit is None:
            self._spawn(self.host.job(job_id), private)

    def follower(self, job_id: str) -> Optional[Follower]:
        """The follower if the job lives."""
        self.entry_or_none(job_id)
        return self._active.get(job_id)

    @property
    def active_count(self) -> int:
        """Jobs that have not ended."""
        return len(self._active)

    async def close(self) -> None:
        """Stop following; nothing is lost by that."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # -- looking -------------------------------------------------------------------------------

    def entry_or_none(self, job_id: str) -> Optional[Entry]:
        """The job of exactly this id."""
        follower = self._active.get(job_id)
        if follower is not None:
            return Entry(follower.job, follower.spec, follower.plan, follower.view)
        cached = self._ended.get(job_id)
        if cached is not None and os.path.exists(cached.job.spec):
            return cached
        self._ended.pop(job_id, None)
        job = self.host.job(job_id)
        spec = jobdir.read_json(job.spec)
        if spec is None:
            return None
        plan = jobdir.read_json(job.plan) or {}
        view = tail_view(job, spec, plan)
        if view["state"] in TERMINAL_STATES:
            entry = self._ended[job_id] = Entry(job, spec, plan, view)
            return entry
        follower = self.follow(job_id)
        return Entry(job, spec, plan, follower.view)

    def entries(self) -> List[Entry]:
        """All jobs, newest first."""
        found = [self.entry_or_none(job_id) for job_id in self.host.job_ids()]
        return sorted(
            (e for e in found if e is not None), key=lambda e: (e.spec.get("create_time") or 0, e.job.id), reverse=True
        )

    def find(self, text: str) -> Entry:
        """By id, unique prefix, name (the newest of that name) or ``last``."""
        entries = self.entries()
        if text == "last" and entries:
            return entries[0]
        exact = [e for e in entries if e.job.id == text]
        fits = exact or [e for e in entries if text and e.job.id.startswith(text)]
        if len(fits) > 1:
            shown = ", ".join(e.job.id for e in fits[:5])
            raise AgentError("JOB_AMBIGUOUS", "%r fits several jobs: %s" % (text, shown), "type more of the id")
        named = fits or [e for e in entries if text and e.spec.get("name") == text][:1]
        if not named:
            raise AgentError("JOB_NOT_FOUND", "there is no job %r on this host" % text, "moai remote jobs")
        return named[0]

    # -- changing ------------------------------------------------------------------------------

    def check_owner(self, entry: Entry, owner: str, force: bool) -> None:
        """JOB_NOT_OWNED unless the caller owns the job, it has no owner, or force is set."""
        theirs = entry.spec.get("owner") or ""
        if theirs and owner != theirs and not force:
            raise AgentError(
                "JOB_NOT_OWNED", "job %s belongs to %s" % (entry.job.id, theirs), "repeat with --force if you mean it"
            )

    def cancel(self, entry: Entry, by: str, grace_s: float) -> None:
        """Leave the request in control/ and wake the supervisor; ends children of a lost one itself."""
        if entry.view["state"] in TERMINAL_STATES:
            return
        path = entry.job.control_file("cancel")
        if not os.path.exists(path):
            jobdir.write_json(path, {"by": by, "grace_s": grace_s or 10.0, "time": time.time()})
        evidence = Evidence(entry.job)
        if evidence.supervised and evidence.supervisor:
            _wake_supervisor(evidence.supervisor)
        elif evidence.started and not evidence.supervised:
            asyncio.get_running_loop().run_in_executor(None, self._stop_orphans, entry, grace_s or 10.0)

    def _stop_orphans(self, entry: Entry, grace_s: float) -> None:
        """End what a killed supervisor left; the outcome stays UNKNOWN because nobody saw it."""
        marker = "MOAI_JOB=%s/%s" % (self.config.host_id, entry.job.id)
        stopping.stop_all(lambda: stopping.family(None, marker), grace_s, lambda: time.sleep(0.05))

    def delete(self, entry: Entry) -> None:
        """Remove the folder of an ended job: renamed first, so half of it is never seen."""
        if entry.view["state"] not in TERMINAL_STATES:
            raise AgentError(
                "JOB_ACTIVE", "job %s still runs" % entry.job.id, "moai remote cancel %s" % entry.job.id
            )
        trash = os.path.join(self.host.jobs, ".deleted-%s-%s" % (entry.job.id, os.urandom(4).hex()))
        os.rename(entry.job.path, trash)
        self._ended.pop(entry.job.id, None)
        shutil.rmtree(trash, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed agents left half-made or half-deleted."""
        for path in glob.glob(os.path.join(glob.escape(self.host.jobs), ".*")):
            if os.path.basename(path).startswith((".new-", ".deleted-")) and os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)


def tail_view(job: JobDir, spec: Dict[str, Any], plan: Dict[str, Any]) -> Dict[str, Any]:
    """The view from the last megabytes of the journal; an ended job closes with a cursor line."""
    try:
        with open(job.events, "rb") as source:
            size = source.seek(0, os.SEEK_END)
            start = max(0, size - 4 * 1024 * 1024)
            source.seek(start)
            data = source.read()
    except FileNotFoundError:
        data, start = b"", 0
    if start:
        data = data[data.find(b"\n") + 1 :]
    return records.read_view(spec, plan, data)


def _wake_supervisor(who: Dict[str, Any]) -> None:
    if identity.describes_living(who):
        try:
            os.kill(int(who["pid"]), 10)  # SIGUSR1: look at control/ now, not at the next tick.
        except ProcessLookupError:
            return


def request_digest(*parts: bytes) -> str:
    """Digest of a request, secrets left out by the caller."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def job_id_for(store: JobStore, request_id: str) -> Tuple[str, bool]:
    """First free id of this request."""
    for job_id in names.candidates(request_id):
        if not os.path.exists(store.host.job(job_id).path):
            return job_id, True
    raise AgentError("INTERNAL", "no free job id for request %s" % request_id)
