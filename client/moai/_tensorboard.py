"""TensorBoard event files of a job, brought to the laptop's cache as they grow.

Event files are only appended to, so a look fetches the bytes behind what is here. Names from the container are
untrusted: nothing is written outside the job's folder in the cache. Runs in the caller's process.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from moai_proto.v1 import file_pb2, file_pb2_grpc

from moai._errors import MoaiError
from moai._files import _check_name, _inside, listing, on_laptop
from moai._paths import cache_folder, private
from moai._rpc import Session


class EventFiles:
    """One job's event files.

    Attributes:
        folder: on the laptop; what TensorBoard's ``--logdir`` takes. there: on the container.
    """

    def __init__(self, session: Session, there: str, job: str) -> None:
        self._session, self.there = session, there
        self.folder: Path = cache_folder() / "tensorboard" / job

    def pull(self) -> int:
        """Fetch what is new; returns its bytes. Safe to repeat; a file that became shorter is fetched anew.

        Raises MoaiError: FILE_NOT_FOUND while the job has written none, USAGE (a hostile name), DISK_FULL, LINK_LOST.
        """
        try:
            root, _, entries = listing(self._session, self.there, digest=False)
        except MoaiError as error:
            if error.reason != "FILE_NOT_FOUND":
                raise
            entries = []
        entries = [entry for entry in entries if ".tfevents." in entry.path]
        if not entries:
            raise MoaiError(
                "FILE_NOT_FOUND", f"there are no event files in {self.there}", "train with --set report_to=tensorboard"
            )
        with on_laptop():
            private(self.folder)
        new = 0
        for entry in entries:
            for part in PurePosixPath(entry.path).parts:
                _check_name(part)
            with on_laptop():
                new += self._append(f"{root}/{entry.path}", _inside(self.folder, entry.path), entry.size_bytes)
        return new

    def _append(self, remote: str, local: Path, size_bytes: int) -> int:
        local.parent.mkdir(parents=True, exist_ok=True)
        if local.is_symlink() or (local.exists() and not local.is_file()):
            raise MoaiError("USAGE", f"{local} is there and is not a file", f"rm {local}")
        have = local.stat().st_size if local.exists() else 0
        if have > size_bytes:
            local.unlink()
            have = 0
        if have == size_bytes:
            return 0
        new = 0
        with open(local, "ab") as out:
            request = file_pb2.GetFilesRequest(path=remote, offset=have)
            for answer in self._session.stream(file_pb2_grpc.FileServiceStub, "GetFiles", request):
                data = answer.data[: size_bytes - have - new]
                out.write(data)
                new += len(data)
                if have + new >= size_bytes:
                    break
        return new
