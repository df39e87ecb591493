"""May this token write to that repository? Asked before anything is trained or sent.

Owns the reading of ``/api/whoami-v2`` (roles ``read``, ``write`` and ``fineGrained`` with its scopes, and the
organisations of an account). Sends nothing but questions. Used by the agent at submission and by the upload
step; standard library only.
"""

from typing import Any, List, Mapping, NamedTuple, Optional

from . import hub
from .errors import StepError

_WRITE = ("repo.write", "repo.content.write")


class Writer(NamedTuple):
    """Whose token it is (``account``), its role as the Hub words it, and the full name of the repository."""

    account: str
    role: str
    repo: str


def check(
    endpoint: str, token: Optional[str], repo: str, attempts: int = 3, timeout_s: float = 30.0
) -> Writer:
    """Make sure that a token may write to a repository, or make it.

    Args:
        repo: ``ORG/NAME``; ``NAME`` alone is one of the account's own.

    Returns:
        The account and the repository's full name.

    Raises:
        StepError: TOKEN_INVALID (none, or refused), UPLOAD_REFUSED (read-only, no scope, or a name of another
            account), USAGE (not a name), HUB_UNREACHABLE.
    """
    name = repo.strip().strip("/")
    if not name or name.count("/") > 1 or ".." in name or "--" in name or not hub.is_repo_id(name):
        raise StepError(
            "USAGE", "{} is not the name of a repository.".format(hub.printable(repo) or "''"), "Write ORG/NAME."
        )
    if not token:
        raise StepError(
            "TOKEN_INVALID",
            "Uploading to {} needs a token, and none was given.".format(name),
            "make a token with write access in your Hub settings and export it as HF_TOKEN on the laptop",
        )
    answer = hub.whoami(endpoint, token, attempts=attempts, timeout_s=timeout_s)
    return judge(answer, name)


def judge(answer: Mapping[str, Any], name: str) -> Writer:
    """What an answer of whoami-v2 means for a repository; raises as ``check``."""
    account = str(answer.get("name") or "")
    access = _inside(_inside(answer, "auth"), "accessToken")
    role = str(access.get("role") or "")
    full = name if "/" in name else "{}/{}".format(account, name)
    namespace = full.partition("/")[0]
    shown, settings = hub.printable(account) or "somebody", "make a token with write access in your Hub settings"
    if role == "read":
        raise _refused(
            full,
            "The token of {} is read-only, so it cannot write to {}.".format(shown, full),
            settings + " and export it as HF_TOKEN",
            "read-only",
        )
    organisations = [one for one in answer.get("orgs") or [] if isinstance(one, Mapping)]
    mine = [account] + [str(one.get("name") or "") for one in organisations]
    # A fine-grained token may be granted a repository of somebody else's; its scopes tell.
    if role == "fineGrained":
        if not _granted(_inside(access, "fineGrained"), namespace, full):
            raise _refused(
                full,
                "The fine-grained token of {} has no write access to {}.".format(shown, full),
                "add repo.write for {} to it in your Hub settings, or make another".format(namespace),
                "no scope",
            )
    elif namespace not in mine:
        raise _refused(
            full,
            "{} belongs to {}, and the token is one of {}.".format(full, namespace, shown),
            "name a repository of {}, for example {}/{}".format(
                " or ".join(one for one in mine if one), account, full.partition("/")[2]
            ),
            "another account",
        )
    for one in organisations:
        if str(one.get("name") or "") == namespace and one.get("roleInOrg") in ("read", "no_access"):
            raise _refused(
                full,
                "{} may only read in {}.".format(shown, namespace),
                "ask an administrator of {} for write access".format(namespace),
                "read-only",
            )
    return Writer(account, role, full)


def _granted(scopes: Mapping[str, Any], namespace: str, full: str) -> bool:
    granted: List[str] = [str(one) for one in scopes.get("global") or []]
    for scope in scopes.get("scoped") or []:
        if not isinstance(scope, Mapping):
            continue
        if str(_inside(scope, "entity").get("name") or "") in (namespace, full):
            granted += [str(one) for one in scope.get("permissions") or []]
    return any(one in _WRITE for one in granted)


def _inside(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, Mapping) else {}


def _refused(repo: str, message: str, next_action: str, cause: str) -> StepError:
    return StepError("UPLOAD_REFUSED", message, next_action, {"repo_id": repo, "cause": cause})
