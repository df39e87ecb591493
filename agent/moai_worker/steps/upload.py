"""Step ``upload``: a result folder to a repository of the Hub, by the huggingface_hub of the environment.

Owns which files go (checkpoints, event files and what only this container can use stay), the check that the
token may write there, and the telling apart of refusals. Repeating it continues: files the Hub has are not
sent again, and a commit of equal content changes nothing. The token is read from the variable ``HF_TOKEN``
and is part of no message. Runs on the Python of the user's environment; with ``check_only`` on any.
"""

import json
import os
import re
import sys
import traceback
from fnmatch import fnmatch
from typing import Any, Callable, Dict, List, Optional, Tuple

from .. import compat, hub, hubwrite, modelfiles
from ..errors import StepError
from ..jobdir import read_json
from ..reporter import Reporter

#: Never sent: what training needs only, half-written folders, and paths of this container.
LEFT_OUT = (
    "checkpoints*/*", "merged/*", "tensorboard/*", "*.partial-*", ".cache/*", ".git/*", "smoke.jsonl",
    "moai-training.json", "moai-merge.json", "training_args.bin", "optimizer.pt", "*.tmp*",
)  # fmt: skip
#: Above this, or above so many files, upload_large_folder: several commits, each resumable by itself. Not
#: every huggingface_hub has it (0.24 brought it, 2.x dropped it); one commit does the same otherwise, and
#: large files that were sent are not sent again either.
_LARGE_BYTES, _LARGE_FILES = 50 << 30, 500
_CONFIG = "adapter_config.json"


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Check, or check and upload.

    Args:
        inputs: ``repo`` (ORG/NAME), ``endpoint``, ``check_only`` (ask only), ``path`` (folder), ``private``
            (of a repository that is made), ``revision`` (branch, made if missing), ``message`` (of the
            commit), ``base_model`` (Hub id that replaces the container's path in an adapter's config),
            ``token_env`` (name of the variable with the token).
        report: the step's Reporter.

    Returns:
        ``repo``, ``account``; and of an upload ``url``, ``commit``, ``files``, ``bytes``.

    Raises:
        StepError: TOKEN_INVALID, UPLOAD_REFUSED, HUB_UNREACHABLE, USAGE, MODEL_INVALID, PACKAGE_MISSING.
    """
    endpoint = str(inputs.get("endpoint") or os.environ.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT).rstrip("/")
    token = os.environ.get(str(inputs.get("token_env") or "HF_TOKEN"), "").strip() or None
    report.phase("checking", "write access to {}".format(inputs.get("repo")))
    writer = hubwrite.check(endpoint, token, str(inputs.get("repo") or ""))
    found = {"repo": writer.repo, "account": writer.account}
    if inputs.get("check_only"):
        text = "{} may write to {}".format(writer.account, writer.repo)
        report.message(text + ".", code="UPLOAD_ALLOWED")
        return dict(found, summary=text)
    path = os.path.abspath(os.path.expanduser(str(inputs.get("path") or "")))
    if not inputs.get("path") or not os.path.isdir(path):
        raise StepError("MODEL_INVALID", "There is no folder {!r}.".format(inputs.get("path") or ""),
                        "Name a job with a result, or a folder.")  # fmt: skip
    files = chosen(path)
    if not files:
        raise StepError("MODEL_INVALID", "{} holds nothing to upload.".format(path), "Name a result's folder.")
    sizes = sum(os.path.getsize(os.path.join(path, name)) for name in files)
    compat.require(("huggingface_hub",))
    if endpoint != hub.DEFAULT_ENDPOINT:
        # A mirror or private Hub has no Xet store behind it.
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ.pop("HF_HUB_OFFLINE", None)
    sent = _Upload(endpoint, token, writer, inputs, report).send(path, files, sizes)
    report.message("{} files, {:,} bytes are at {}.".format(len(files), sizes, sent["url"]), code="UPLOADED")
    return dict(found, files=len(files), bytes=sizes, summary=sent["url"], **sent)


def chosen(path: str) -> List[str]:
    """Relative names of the files that go, sorted; links are left out."""
    found = []
    for parent, _, names in os.walk(path):
        for name in names:
            full = os.path.join(parent, name)
            relative = os.path.relpath(full, path).replace(os.sep, "/")
            if not os.path.islink(full) and not any(fnmatch(relative, pattern) for pattern in LEFT_OUT):
                found.append(relative)
    return sorted(found)


def portable_config(path: str, base_model: str) -> Optional[bytes]:
    """An adapter's config with the Hub's name of its base in the place of a path of this container.

    None where nothing has to be changed; without a Hub name the path stays, and the card says what it was.
    """
    config = read_json(os.path.join(path, _CONFIG))
    if config is None or not base_model or not hub.is_repo_id(base_model):
        return None
    if config.get("base_model_name_or_path") == base_model:
        return None
    changed = dict(config, base_model_name_or_path=base_model)
    return json.dumps(changed, indent=2, sort_keys=True).encode("utf-8") + b"\n"


class _Upload:
    def __init__(
        self, endpoint: str, token: Optional[str], writer: hubwrite.Writer, inputs: Dict[str, Any], report: Reporter
    ) -> None:
        import huggingface_hub

        self._library = huggingface_hub
        self._api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
        self._endpoint, self._writer, self._report = endpoint, writer, report
        self._private = bool(inputs.get("private"))
        self._branch = str(inputs.get("revision") or "main")
        self._message = str(inputs.get("message") or "Upload by moai")
        self._base = str(inputs.get("base_model") or "")

    def send(self, path: str, files: List[str], size_bytes: int) -> Dict[str, Any]:
        """Make the repository and branch where needed, then send; ``url`` and ``commit``."""
        repo = self._writer.repo
        self._report.phase("uploading", "{} files, {:,} bytes to {}".format(len(files), size_bytes, repo))
        # Not private=False: an organisation may make its repositories private by default.
        wanted = {"private": True} if self._private else {}
        self._guarded("making " + repo, lambda: self._api.create_repo(repo, exist_ok=True, **wanted))
        if self._branch != "main":
            self._guarded(
                "making the branch " + self._branch,
                lambda: self._api.create_branch(repo, branch=self._branch, exist_ok=True),
            )
        large = size_bytes > _LARGE_BYTES or len(files) > _LARGE_FILES
        config = portable_config(path, self._base) if modelfiles.is_adapter(path) else None
        if large and hasattr(self._api, "upload_large_folder"):
            self._guarded("uploading " + path, lambda: self._large(path))
            files = [_CONFIG] if config else []
        commit = self._guarded("uploading " + path, lambda: self._commit(path, files, config)) if files else ""
        return {"url": "{}/{}/tree/{}".format(self._endpoint, repo, self._branch), "commit": commit}

    def _commit(self, path: str, files: List[str], config: Optional[bytes]) -> str:
        """One commit of everything; what the Hub holds already is not sent again."""
        add: Callable[..., Any] = self._library.CommitOperationAdd
        operations = [
            add(path_in_repo=name, path_or_fileobj=config if config and name == _CONFIG else os.path.join(path, name))
            for name in files
        ]
        made = self._api.create_commit(
            self._writer.repo, operations, commit_message=self._message, revision=self._branch
        )
        return str(getattr(made, "oid", "") or "")

    def _large(self, path: str) -> None:
        options = {"revision": self._branch, "ignore_patterns": list(LEFT_OUT)}
        self._api.upload_large_folder(
            repo_id=self._writer.repo, folder_path=path, repo_type="model", print_report=False, **options
        )

    def _guarded(self, doing: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except StepError:
            raise
        except Exception as error:  # requests and httpx raise classes of their own, by version: judged below.
            failure = refusal(error, doing, self._endpoint, self._writer.repo)
            if failure is None:
                raise
            traceback.print_exc(file=sys.stderr)
            raise failure from None


def refusal(error: BaseException, doing: str, endpoint: str, repo: str) -> Optional[StepError]:
    """What an exception of huggingface_hub means for a person; None for a defect.

    The library's text may hold signed addresses: only its first line, without a query, is repeated.
    """
    status, text = _status(error)
    if status in (401, 403):
        return StepError(
            "UPLOAD_REFUSED" if status == 403 else "TOKEN_INVALID",
            "The Hub refused {}: {}".format(doing, text),
            "export HF_TOKEN of a token with write access to {}, then upload again".format(repo),
            {"repo_id": repo, "status": str(status)},
        )
    if status in (404, 409):
        return StepError(
            "UPLOAD_REFUSED" if status == 409 else "REPO_NOT_FOUND",
            "The Hub refused {}: {}".format(doing, text),
            "check the name {}, then upload again".format(repo),
            {"repo_id": repo, "status": str(status)},
        )
    if status == 400:
        return StepError("MODEL_INVALID", "The Hub refused {}: {}".format(doing, text), "Correct what it names.")
    kinds = [kind.__name__ for one in _chain(error) for kind in type(one).__mro__]
    network = ("HTTPError", "RequestException", "TransportError", "ConnectionError", "TimeoutException", "HfHubHTTPError")
    if status or any(kind in network for kind in kinds):
        return StepError(
            "HUB_UNREACHABLE",
            "{} did not answer while {}: {}".format(hub.public_url(endpoint), doing, text),
            "check the network and proxy of this host, then upload again: what was sent is kept",
        )
    return None


def _status(error: BaseException) -> Tuple[int, str]:
    text = ""
    for one in _chain(error):
        line = (str(one).strip().splitlines() or [""])[0]
        text = text or re.sub(r"\?\S*", "", hub.printable(line))
        response = getattr(one, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            told = str(getattr(response, "headers", {}).get("X-Error-Message") or "")
            return status, hub.printable(told) or text or "status {}".format(status)
    return 0, text or type(error).__name__


def _chain(error: Optional[BaseException]) -> List[BaseException]:
    found: List[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
