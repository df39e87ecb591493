"""Repositories of the stand-in Hub: files, commits, refs, and the digests the real Hub gives them.

Owns the data only; ``hub`` serves it. A file below ``LFS_BYTES`` with an ordinary name is a plain
git blob (its ETag is the git blob id), everything else is LFS (its ETag is the SHA-256), as the Hub
documents for ``.gitattributes`` and large files. Commit ids are SHA-1 over names and digests, so the
same folder has the same commit in every run.

Runs inside the stand-in's process.
"""

import hashlib
import os
from typing import Dict, List, Optional, Union

LFS_BYTES = 1024 * 1024
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".parquet", ".arrow", ".pt", ".h5", ".onnx", ".model")

Content = Union[bytes, str]


class RepoFile:
    """One file of a commit: bytes in memory, or the path of a file on disk (read when asked for)."""

    def __init__(self, path: str, content: Content) -> None:
        self.path = path
        self._content = content
        self.on_disk = "" if isinstance(content, bytes) else content
        self.size = len(content) if isinstance(content, bytes) else os.path.getsize(content)
        sha1, sha256 = hashlib.sha1(b"blob %d\0" % self.size), hashlib.sha256()
        at = 0
        while at < self.size:
            piece = self.read(at, 1024 * 1024)
            sha1.update(piece)
            sha256.update(piece)
            at += len(piece)
        self.sha256 = sha256.hexdigest()
        self.lfs = self.size >= LFS_BYTES or path.endswith(LFS_SUFFIXES)
        self.oid = sha1.hexdigest()
        self.etag = self.sha256 if self.lfs else self.oid
        #: Set to pretend that it lies in Xet storage (which the stand-in does not speak).
        self.xet_hash = ""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``, at most ``size``."""
        if isinstance(self._content, bytes):
            return self._content[offset : offset + size]
        with open(self._content, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def entry(self, expand: bool, commit: str) -> Dict[str, object]:
        """The file as the tree and paths-info answers show it."""
        shown: Dict[str, object] = {"type": "file", "oid": self.oid, "size": self.size, "path": self.path}
        if self.lfs:
            shown["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        if self.xet_hash:
            shown["xetHash"] = self.xet_hash
        if expand:
            shown["lastCommit"] = {"id": commit, "title": "data", "date": "2024-01-01T00:00:00.000Z"}
        return shown


class Repo:
    """A model or dataset repository.

    Args:
        kind: ``model`` or ``dataset``.
        gated: files need a token that was granted access.
        private: everything needs a valid token.
    """

    def __init__(self, kind: str, name: str, gated: bool = False, private: bool = False) -> None:
        self.kind, self.name, self.gated, self.private = kind, name, gated, private
        self.disabled = False
        self.commits: Dict[str, Dict[str, RepoFile]] = {}
        self.refs: Dict[str, str] = {}

    def commit(self, files: Dict[str, Content], branch: str = "main") -> str:
        """Make a commit of exactly these files, move the branch to it and return its id."""
        entries = {path: RepoFile(path, content) for path, content in files.items()}
        text = "".join("%s %s\n" % (path, entries[path].sha256) for path in sorted(entries))
        commit = hashlib.sha1((self.kind + self.name + text).encode("utf-8")).hexdigest()
        self.commits[commit] = entries
        self.refs[branch] = commit
        return commit

    def find(self, revision: str) -> Optional[str]:
        """The commit of a branch, a ref or a commit id."""
        if revision in self.commits:
            return revision
        return self.refs.get(revision) or self.refs.get(revision.replace("refs/heads/", "", 1))

    def info(self, commit: str) -> Dict[str, object]:
        """The answer of ``/api/{models,datasets}/ID/revision/REV``."""
        return {
            "_id": "0" * 24,
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": commit,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": self.disabled,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in sorted(self.commits[commit])],
        }

    def tree(self, commit: str, folder: str, recursive: bool, expand: bool) -> List[Dict[str, object]]:
        """Entries below a folder (empty: the root), folders included."""
        prefix = folder.strip("/") + "/" if folder.strip("/") else ""
        shown, folders = [], set()
        for path in sorted(self.commits[commit]):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                if recursive or depth == 1:
                    folders.add(prefix + "/".join(parts[:depth]))
            if recursive or len(parts) == 1:
                shown.append(self.commits[commit][path].entry(expand, commit))
        for path in sorted(folders):
            oid = hashlib.sha1(path.encode("utf-8")).hexdigest()
            shown.append({"type": "directory", "oid": oid, "size": 0, "path": path})
        return shown


def load_repos(root: str) -> List[Repo]:
    """Repositories of a folder laid out as ``models/ORG/NAME`` and ``datasets/ORG/NAME``."""
    repos = []
    for kind in ("model", "dataset"):
        base = os.path.join(root, kind + "s")
        for org in sorted(os.listdir(base)) if os.path.isdir(base) else []:
            for name in sorted(os.listdir(os.path.join(base, org))):
                repo = Repo(kind, "%s/%s" % (org, name))
                repo.commit(folder_files(os.path.join(base, org, name)))
                repos.append(repo)
    return repos


def folder_files(folder: str) -> Dict[str, Content]:
    """Paths below a folder and where their bytes lie; ``.git`` and ``.cache`` are left out."""
    files: Dict[str, Content] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", ".cache")]
        for name in names:
            full = os.path.join(parent, name)
            files[os.path.relpath(full, folder).replace(os.sep, "/")] = full
    return files
