"""Ask a Hub what a repository holds and whether this token may have it.

Owns the Hub's HTTP API as the public documentation describes it (huggingface.co/docs/hub/api and
the ``huggingface_hub`` reference): ``/api/{models,datasets}/ID/revision/REV`` for the commit,
``.../tree/COMMIT?recursive=true`` for sizes and digests (pages linked by ``Link: rel="next"``),
``/api/whoami-v2`` for the token, ``X-Error-Code`` and ``X-Error-Message`` for refusals.

A plan is made before any byte of a file is asked for, so licence, token, name and revision are
told apart first, and everything comes from one commit even if the branch moves meanwhile.

Refuses names that would leave the target folder, digests that are not hexadecimal, commits that
are not hashes: what a server says is material, not an instruction.

Runs in a step's process on the container.
"""

import http.client
import json
import re
import threading
import time
import urllib.parse
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .errors import StepError
from .hubfiles import COMMIT, PlanFile, bad_path, parse_entry, refuse_clashes, select
from .patience import backoff_s, describe, printable, retry_after_s, token_invalid, unreachable
from .web import NETWORK_ERRORS, Web, origin, public_url

DEFAULT_ENDPOINT = "https://huggingface.co"
BACKOFF_BASE_S = 0.5
#: An answer of the API longer than this is not one (a tree page has at most 1000 entries).
_MAX_JSON_BYTES = 64 * 1024 * 1024
_REPO_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
_NEXT_LINK = re.compile(r'<([^>]*)>\s*;[^,]*rel="?next"?')
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)


class Plan(NamedTuple):
    """What to download: the files of one commit; ``left_out`` holds (path, why)."""

    repo_id: str
    repo_type: str
    revision: str
    commit: str
    files: List[PlanFile]
    left_out: List[Tuple[str, str]]
    total_bytes: int
    gated: bool


def plan_download(
    repo_id: str,
    repo_type: str = "model",
    revision: str = "main",
    endpoint: str = DEFAULT_ENDPOINT,
    token: Optional[str] = None,
    allow: Optional[Sequence[str]] = None,
    ignore: Optional[Sequence[str]] = None,
    attempts: int = 5,
    timeout_s: float = 30.0,
    proxy: str = "",
    silence_s: Optional[float] = None,
) -> Plan:
    """Pin the commit of a revision and list what has to be fetched of it.

    Args:
        repo_type: ``model`` or ``dataset``.
        allow, ignore: shell patterns on paths (``huggingface_hub``'s meaning). Without ``allow``,
            second copies of a model's weights in other formats are left out.
        attempts: tries of each request before HUB_UNREACHABLE (429 and 5xx included).
        timeout_s: limit of each wait on the network.
        proxy, silence_s: as of ``Hub``.

    Raises StepError: USAGE, HUB_UNREACHABLE, TOKEN_INVALID, ACCESS_GATED, REPO_NOT_FOUND,
    REVISION_NOT_FOUND, FILE_NOT_FOUND (no file is left), MODEL_INVALID or DATASET_INVALID (the
    list holds names or digests that cannot be trusted).
    """
    hub = Hub(endpoint, token, attempts, timeout_s, proxy, silence_s)
    try:
        return plan_with(hub, repo_id, repo_type, revision, allow, ignore)
    finally:
        hub.close()


def whoami(
    endpoint: str, token: Optional[str], attempts: int = 3, timeout_s: float = 30.0, proxy: str = ""
) -> Mapping[str, Any]:
    """The account of a token, as ``/api/whoami-v2`` tells it (``name``, ``type`` ...).

    Raises StepError TOKEN_INVALID or HUB_UNREACHABLE.
    """
    hub = Hub(endpoint, token, attempts, timeout_s, proxy)
    try:
        answer, _ = hub.get_json("/api/whoami-v2", Subject())
        return answer if isinstance(answer, dict) else {}
    finally:
        hub.close()


def is_repo_id(name: str) -> bool:
    """Whether a text may be the name of a repository (``NAME`` or ``ORG/NAME``)."""
    return _REPO_ID.fullmatch(name) is not None


class Subject(NamedTuple):
    """What a request was about, for the message of its failure."""

    repo_id: str = ""
    repo_type: str = "model"
    revision: str = ""
    path: str = ""


class Hub:
    """JSON requests to one endpoint, with patience for 429, 5xx and broken connections.

    Args:
        endpoint: base address; a path after the host is kept (mirrors below a prefix).
        token: None for anonymous. Never part of a message.
        proxy: used instead of the environment's; empty = the environment's.
        silence_s: give up after so long when nothing has answered yet, for people who wait; None
            leaves it to ``attempts``.

    Raises StepError USAGE for an unusable endpoint, TOKEN_INVALID for a token that cannot be a
    header value (its text is not repeated).
    """

    def __init__(
        self,
        endpoint: str,
        token: Optional[str] = None,
        attempts: int = 5,
        timeout_s: float = 30.0,
        proxy: str = "",
        silence_s: Optional[float] = None,
    ) -> None:
        origin(endpoint)
        if token is not None and not _TOKEN.fullmatch(token):
            raise token_invalid("The Hub token is empty or holds characters no token has")
        self.endpoint = endpoint.rstrip("/")
        self.token = token
        self._attempts = max(1, attempts)
        self._web = Web(timeout_s, proxy, silence_s)
        self._silence_s = silence_s
        self._answered = False
        self._pause = threading.Event()

    def close(self) -> None:
        """Close the connections."""
        self._web.close()

    def get_json(self, path: str, subject: Subject) -> Tuple[Any, http.client.HTTPResponse]:
        """GET a JSON document; returns it with its answer (for headers).

        Raises StepError for every refusal and, after all attempts, HUB_UNREACHABLE.
        """
        answer, response = self._ask("GET", path, subject)
        try:
            return json.loads(answer.decode("utf-8")), response
        except ValueError:
            raise StepError(
                "HUB_UNREACHABLE",
                "%s answered with something that is not JSON (a login page or a proxy?)"
                % public_url(self.endpoint + path),
                "check HF_ENDPOINT and the proxy settings of this host",
            )

    def head(self, path: str, subject: Subject) -> http.client.HTTPResponse:
        """HEAD, redirects followed; raises StepError for every refusal."""
        return self._ask("HEAD", path, subject)[1]

    def _ask(self, method: str, path: str, subject: Subject) -> Tuple[bytes, http.client.HTTPResponse]:
        url = self.endpoint + path
        why, start_s = "", time.monotonic()
        for attempt in range(self._attempts):
            wait_s = backoff_s(attempt, BACKOFF_BASE_S, 8.0)
            try:
                response, final = self._web.request(
                    method, url, {"Accept": "application/json"}, self.token, self.endpoint
                )
                body = self._web.read_all(final, response, _MAX_JSON_BYTES, 120.0)
            except NETWORK_ERRORS as error:
                why = describe(error)
            else:
                self._answered = True
                if 200 <= response.status < 300:
                    return body, response
                if response.status not in _RETRY_STATUS:
                    if origin(final) != origin(self.endpoint) and method == "HEAD":
                        return b"", response  # the Hub let us through; the store may refuse HEAD
                    raise self.refusal(response.status, response.headers, subject)
                why = "status %d" % response.status
                wait_s = retry_after_s(response.headers, wait_s)
            spent_s = time.monotonic() - start_s + wait_s
            if self._silence_s is not None and not self._answered and spent_s > self._silence_s:
                break
            if attempt + 1 < self._attempts:
                self._pause.wait(wait_s)
        raise unreachable(self.endpoint, why)

    def refusal(self, status: int, headers: Mapping[str, str], subject: Subject) -> StepError:
        """What a status of 4xx of the Hub (not of a file store behind it) means for a person."""
        code = headers.get("X-Error-Code") or ""
        told = printable(headers.get("X-Error-Message") or "")
        name = "%s %s" % (subject.repo_type, subject.repo_id)
        page = self.endpoint + ("/datasets/" if subject.repo_type == "dataset" else "/") + subject.repo_id
        if code == "GatedRepo" or (status == 403 and subject.repo_id and "disabled" not in told):
            first = "" if self.token else "give a token (export HF_TOKEN=...), "
            return StepError(
                "ACCESS_GATED",
                "Access to %s is not granted%s%s"
                % (name, " to this token" if self.token else " without a token", ": " + told if told else ""),
                "%sopen %s, accept the licence with the token's account, then run again" % (first, page),
                {"url": page, "repo_id": subject.repo_id},
            )
        if status == 403 and subject.repo_id:
            return StepError("REPO_NOT_FOUND", "The Hub has disabled %s" % name, "choose another repository")
        blames_token = status in (401, 403) and code in ("", "RepoNotFound")
        if self.token and blames_token and not self._token_works(status, told, subject):
            return token_invalid("%s refused the token%s" % (self.endpoint, ": " + told if told else ""))
        if status == 401 and not subject.repo_id:
            return token_invalid("%s needs a token" % self.endpoint)
        if code == "RevisionNotFound":
            return StepError(
                "REVISION_NOT_FOUND",
                "%s has no revision %s" % (name, subject.revision),
                "see the branches and tags at %s/tree/main" % page,
            )
        if code == "EntryNotFound":
            return StepError(
                "FILE_NOT_FOUND",
                "%s has no file %s at revision %s" % (name, subject.path, subject.revision),
                "see the files at %s/tree/%s" % (page, subject.revision or "main"),
            )
        if status in (401, 404, 410) and subject.repo_id:
            return StepError(
                "REPO_NOT_FOUND",
                "No %s at %s; it does not exist or is private%s"
                % (name, self.endpoint, "" if self.token else " (no token was given)"),
                "check the name" + ("" if self.token else ", or export HF_TOKEN of an account with access"),
            )
        return StepError(
            "HUB_UNREACHABLE",
            "%s answered with status %d%s" % (self.endpoint, status, ": " + told if told else ""),
            "check HF_ENDPOINT, then try again later",
        )

    def _token_works(self, status: int, told: str, subject: Subject) -> bool:
        """Whether a 401 is about the repository although a token was sent: ask who we are."""
        if status != 401 or not subject.repo_id or "Invalid" in told:
            return False
        try:
            self._ask("GET", "/api/whoami-v2", Subject())
        except StepError:
            return False
        return True


def file_path(plan: Plan, path: str) -> str:
    """The address of a file of a plan, below the endpoint."""
    kind = "/datasets/" if plan.repo_type == "dataset" else "/"
    return "%s%s/resolve/%s/%s" % (kind, plan.repo_id, plan.commit, urllib.parse.quote(path))


def plan_with(
    hub: Hub,
    repo_id: str,
    repo_type: str = "model",
    revision: str = "main",
    allow: Optional[Sequence[str]] = None,
    ignore: Optional[Sequence[str]] = None,
) -> Plan:
    """As ``plan_download``, over a ``Hub`` that stays open for further questions."""
    if repo_type not in ("model", "dataset"):
        raise StepError("USAGE", "Unknown kind of repository: %s" % repo_type, "use model or dataset")
    if not _REPO_ID.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id:
        raise StepError(
            "USAGE",
            "%s is neither a folder here nor the name of a repository" % printable(repo_id),
            "write ORG/NAME, or the absolute path of a folder",
        )
    if bad_path(revision):
        raise StepError(
            "USAGE", "Not a revision: %s" % printable(revision), "give a branch, a tag or a commit"
        )
    subject = Subject(repo_id, repo_type, revision)
    base = "/api/%ss/%s" % (repo_type, repo_id)
    info = _repo_info(hub, base, revision, subject)
    commit = info.get("sha")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise StepError(
            "HUB_UNREACHABLE", "%s named no commit for %s" % (hub.endpoint, repo_id), "check HF_ENDPOINT"
        )
    files = _tree(hub, "%s/tree/%s?recursive=true&expand=false" % (base, commit), subject)
    chosen, left_out = select(files, repo_type, allow, ignore)
    plan = Plan(
        repo_id,
        repo_type,
        revision,
        commit,
        chosen,
        left_out,
        sum(file.size_bytes for file in chosen),
        bool(info.get("gated")),
    )
    if not chosen:
        raise StepError(
            "FILE_NOT_FOUND",
            "%s %s has no file to download at %s" % (repo_type, repo_id, revision),
            "check the allow and ignore patterns",
        )
    if plan.gated or info.get("private"):
        # The lists of a gated repository are public: only a file tells whether access is granted.
        probe = min(chosen, key=lambda file: file.size_bytes)
        hub.head(file_path(plan, probe.path), subject._replace(path=probe.path))
    return plan


def _repo_info(hub: Hub, base: str, revision: str, subject: Subject) -> Mapping[str, Any]:
    try:
        info, _ = hub.get_json("%s/revision/%s" % (base, urllib.parse.quote(revision, safe="")), subject)
    except StepError as error:
        if error.reason != "REPO_NOT_FOUND":
            raise
        # Not every Hub marks a missing revision: if the repository itself answers, it was that.
        hub.get_json(base, subject)
        raise hub.refusal(404, {"X-Error-Code": "RevisionNotFound"}, subject)
    return info if isinstance(info, dict) else {}


def _tree(hub: Hub, path: str, subject: Subject) -> List[PlanFile]:
    files, seen = [], set()
    while True:
        if path in seen:
            raise StepError(
                "HUB_UNREACHABLE", "The file list of %s has no end" % subject.repo_id, "try again later"
            )
        seen.add(path)
        entries, response = hub.get_json(path, subject)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("type") == "file":
                files.append(parse_entry(entry, subject.repo_type, subject.repo_id))
        link = _NEXT_LINK.search(response.headers.get("Link") or "")
        if link is None:
            break
        # Mirrors pass the original's absolute links on: only path and query count, so the token
        # stays with the endpoint the user chose.
        rest = urllib.parse.urlsplit(urllib.parse.urljoin(hub.endpoint + path, link.group(1)))
        path = "%s?%s" % (rest.path, rest.query)
        prefix = urllib.parse.urlsplit(hub.endpoint).path
        if prefix and path.startswith(prefix + "/"):
            path = path[len(prefix) :]
    refuse_clashes(files, subject.repo_type, subject.repo_id)
    return files
