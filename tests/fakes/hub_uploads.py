"""What the stand-in Hub answers to uploads: repositories made, LFS files taken, commits.

Written from the public reference (huggingface.co/docs/hub/api, git-lfs's docs/api/batch.md) for what
``huggingface_hub`` 0.36 and 2.x send: ``/api/repos/create``, ``branch``, ``preupload``, the LFS batch with one
PUT a file, ``verify``, ``commit`` as NDJSON, ``/api/validate-yaml``. The store takes no token, like the Hub's.

``accounts`` maps a token to what whoami-v2 tells of it (``account``); a token that is not there stays a reader.
"""

import base64
import hashlib
import json
import threading
import urllib.parse
from typing import Any, Dict, List, Optional

if __package__:
    from .hub_repos import Repo
else:  # hub.py run as a program
    from hub_repos import Repo

LFS = (".safetensors", ".bin", ".pt", ".model")


def account(
    name: str, role: str = "write", orgs: Optional[Dict[str, str]] = None, scopes: Optional[Dict[str, List[str]]] = None
) -> Dict[str, Any]:
    """A whoami-v2 answer.

    Args:
        role: ``read``, ``write`` or ``fineGrained``. orgs: name -> role in it. scopes: of a fine-grained
            token, entity -> permissions.
    """
    access: Dict[str, Any] = {"displayName": "test", "role": role}
    if role == "fineGrained":
        scoped = [{"entity": {"name": entity, "type": "user"}, "permissions": p} for entity, p in (scopes or {}).items()]
        access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
    return {
        "type": "user",
        "id": "0" * 24,
        "name": name,
        "orgs": [{"type": "org", "name": org, "roleInOrg": inside} for org, inside in (orgs or {}).items()],
        "auth": {"type": "access_token", "accessToken": access},
    }


class Uploads:
    """The writing half of a ``HubServer``; ``handle`` answers what belongs to it.

    Attributes:
        accounts: see the module docstring. stored: LFS objects by SHA-256. puts: SHA-256 of each PUT, in order.
        messages: of the commits, in order. room: PUTs to come that are taken, the rest answers 403; None = all.
    """

    def __init__(self) -> None:
        self.accounts: Dict[str, Dict[str, Any]] = {}
        self.stored: Dict[str, bytes] = {}
        self.puts: List[str] = []
        self.messages: List[str] = []
        self.room: Optional[int] = None
        self._lock = threading.Lock()

    def whoami(self, token: str) -> Optional[Dict[str, Any]]:
        """What a token's account is; None for a token that only reads."""
        return self.accounts.get(token)

    def store(self, handler: Any, path: str) -> None:
        """A PUT of an LFS object to the store."""
        oid = path.rpartition("/")[2]
        with self._lock:
            if self.room == 0:
                return handler._error(403, "", "the address has expired")
            self.room = None if self.room is None else self.room - 1
        if hashlib.sha256(handler._body).hexdigest() != oid:
            return handler._error(400, "", "the content is not that of its name")
        self.stored[oid] = handler._body
        self.puts.append(oid)
        return handler._send(200, {"ETag": '"%s"' % oid[:32]}, b"")

    def handle(self, handler: Any, pieces: List[str]) -> bool:
        """Answer a request that writes; False when it is none."""
        if handler.command != "POST":
            return False
        if pieces == ["api", "validate-yaml"]:
            handler._json({"errors": [], "warnings": []})
        elif pieces == ["api", "repos", "create"]:
            self._create(handler)
        elif len(pieces) > 4 and pieces[:2] == ["api", "models"] and pieces[4] in ("branch", "preupload", "commit"):
            repo = self._writable(handler, "/".join(pieces[2:4]))
            if repo is not None:
                getattr(self, "_" + pieces[4])(handler, repo, pieces[5] if len(pieces) > 5 else "main")
        elif pieces[-3:] == ["lfs", "objects", "batch"]:
            repo = self._writable(handler, "/".join(pieces[:2])[: -len(".git")])
            if repo is not None:
                self._batch(handler, "/".join(pieces[:2]))
        elif pieces[-3:] == ["lfs", "objects", "verify"]:
            asked = json.loads(handler._body.decode("utf-8"))
            ok = len(self.stored.get(asked["oid"], b"")) == asked["size"]
            handler._json({}) if ok else handler._error(404, "", "there is no such object")
        else:
            return False
        return True

    def _may_write(self, handler: Any, namespace: str) -> bool:
        told = self.accounts.get(handler._token)
        role = told["auth"]["accessToken"]["role"] if told else "read"
        mine = [told["name"]] + [org["name"] for org in told["orgs"]] if told else []
        if role == "read" or namespace not in mine:
            handler._error(403, "", "You don't have the rights to write in the namespace %r" % namespace)
            return False
        return True

    def _create(self, handler: Any) -> None:
        hub = handler.server.hub
        asked = json.loads(handler._body.decode("utf-8"))
        told = self.accounts.get(handler._token) or {"name": ""}
        namespace = asked.get("organization") or told["name"]
        name = "%s/%s" % (namespace, asked["name"])
        if not self._may_write(handler, namespace):
            return None
        address = "%s/%s" % (hub.endpoint, name)
        if ("model", name) in hub.repos:
            shown = {"Content-Type": "application/json", "X-Error-Message": "You already created this model repo"}
            return handler._send(409, shown, json.dumps({"error": "exists", "url": address}).encode("utf-8"))
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repo = Repo("model", name, private=private)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        hub.repos["model", name] = repo
        return handler._json({"url": address, "name": name, "id": "0" * 24})

    def _writable(self, handler: Any, name: str) -> Optional[Repo]:
        repo = handler.server.hub.repos.get(("model", name))
        if repo is None:
            handler._error(404, "RepoNotFound", "Repository not found")
            return None
        return repo if self._may_write(handler, name.partition("/")[0]) else None

    def _branch(self, handler: Any, repo: Repo, branch: str) -> None:
        if branch in repo.refs:
            return handler._error(409, "", "Reference already exists")
        repo.refs[branch] = repo.refs["main"]
        return handler._json({})

    def _preupload(self, handler: Any, repo: Repo, branch: str) -> None:
        there = repo.commits[repo.refs[branch]] if branch in repo.refs else {}
        files = []
        for asked in json.loads(handler._body.decode("utf-8"))["files"]:
            known = there.get(asked["path"])
            lfs = asked["path"].endswith(LFS)
            files.append({
                "path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False,
                "oid": (known.sha256 if known.lfs else known.oid) if known else None,
            })  # fmt: skip
        return handler._json({"files": files})

    def _batch(self, handler: Any, address: str) -> None:
        hub = handler.server.hub
        objects = []
        for asked in json.loads(handler._body.decode("utf-8"))["objects"]:
            shown = dict(asked)
            if asked["oid"] not in self.stored:
                shown["actions"] = {
                    "upload": {"href": "%s/upload/%s" % (hub.endpoint, asked["oid"])},
                    "verify": {"href": "%s/%s/info/lfs/objects/verify" % (hub.endpoint, urllib.parse.quote(address))},
                }
            objects.append(shown)
        return handler._json({"transfer": "basic", "objects": objects})

    def _commit(self, handler: Any, repo: Repo, branch: str) -> None:
        if branch not in repo.refs:
            return handler._error(404, "RevisionNotFound", "Invalid rev id: %s" % branch)
        files = {path: file.read(0, file.size) for path, file in repo.commits[repo.refs[branch]].items()}
        for line in handler._body.decode("utf-8").splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
        commit = repo.commit(files, branch)
        address = "%s/%s/commit/%s" % (handler.server.hub.endpoint, repo.name, commit)
        return handler._json({"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""})
