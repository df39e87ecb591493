"""The parent's side of an engine process: start it, send it batches, read its ids, bound every wait.

Owns the process and the thread that writes to it. A worker that dies, hangs or answers nonsense raises
``EngineFailed`` and nothing else; the caller then tokenises with another engine. Memory: at most three
batches are under way. Runs in the prepare step; see engine_worker.py for the frames.
"""

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from typing import Any, List, Optional, Tuple

from .engine_worker import ANSWER, FRAME, MAGIC, Ragged

#: Seconds for loading the library and the tokenizer (a cold network disk included), and for one batch.
LOAD_S = 120.0
BATCH_S = 300.0
_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "engine_worker.py")
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; in the module fcntl from Python 3.10 on


class EngineFailed(Exception):
    """The engine cannot be used (any more); the text says why, for people."""


class EngineProcess:
    """One worker, started at once; ``wait_ready`` before the first batch. Not for several threads.

    Args:
        name: ``gigatoken``, ``fastokens`` or ``own`` (the model's own, in Python).
        python: the interpreter. folder: of its wheels; "" for what is installed there.
        source: what the worker's loader wants. left: which side of a text is cut.
        threads: that the library may use.

    Attributes:
        version: of the library, once it is ready.

    Raises:
        EngineFailed: it cannot be started; from ``wait_ready``: it was not ready within two minutes.
    """

    def __init__(self, name: str, python: str, folder: str, source: str, left: bool, threads: int) -> None:
        self.name = name
        # -I keeps the user's PYTHONPATH out of a Python that is not the user's; the own one needs it.
        flags = [] if name == "own" else ["-I"]
        argv = [python] + flags + [_WORKER, name, folder, source, "left" if left else "right", str(threads)]
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
            )
        except OSError as error:
            self._errors.close()
            raise EngineFailed("{} cannot be run: {}".format(python, error.strerror)) from error
        self._out = self._process.stdout.fileno()
        _widen(self._process.stdin.fileno())
        _widen(self._out)
        self._waiting: "queue.Queue[Optional[List[bytes]]]" = queue.Queue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        self.version = ""

    def wait_ready(self) -> None:
        """Wait until the tokenizer is loaded. Raises EngineFailed; the worker is ended then."""
        line = b""
        try:
            line = self._line(time.monotonic() + LOAD_S)
            told = json.loads(line.decode("utf-8"))
        except ValueError as error:
            self.close()
            raise EngineFailed("it answered nonsense: {!r}".format(line[:100])) from error
        except EngineFailed:
            self.close()
            raise
        if told.get("error"):
            self.close()
            raise EngineFailed(str(told["error"]))
        self.version = str(told.get("version") or "")

    def submit(self, texts: List[bytes], limit: int) -> None:
        """Send a batch; ``result`` gives the answers in the same order."""
        lengths = array("I", map(len, texts))
        self._waiting.put([FRAME.pack(MAGIC, len(texts), limit, sum(lengths)), lengths.tobytes(), b"".join(texts)])

    def result(self) -> Ragged:
        """The ids of the oldest batch without an answer.

        Raises:
            EngineFailed: it died, or took longer than five minutes.
        """
        deadline = time.monotonic() + BATCH_S
        magic, count, total = ANSWER.unpack(self._read(ANSWER.size, deadline))
        if magic != MAGIC:
            raise EngineFailed("its answer is no frame")
        lengths = array("i", bytes(self._read(4 * count, deadline)))
        cut = self._read(count, deadline)
        if sum(lengths) != total:
            raise EngineFailed("its answer counts {} ids and lists {}".format(total, sum(lengths)))
        return bytes(self._read(4 * total, deadline)), lengths, cut

    def close(self) -> None:
        """End the worker. Repeating does nothing."""
        self._waiting.put(None)
        if self._process.poll() is None:
            self._process.kill()  # it holds nothing
        self._process.wait(30)
        self._writer.join(30)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            stream.close()

    def _write(self) -> None:
        fd = self._process.stdin.fileno()
        while True:
            pieces = self._waiting.get()
            if pieces is None:
                return
            for piece in pieces:
                view = memoryview(piece)
                try:
                    while view:
                        view = view[os.write(fd, view) :]
                except OSError:
                    return  # it died: whoever reads its answers hears of it

    def _line(self, deadline: float) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._read(1, deadline)
            if len(line) > 4096:
                break
        return bytes(line)

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        at = 0
        while at < size:
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise EngineFailed("it gave no answer in time")
            got = os.readv(self._out, [view[at:]])
            if not got:
                raise EngineFailed(self._death())
            at += got
        return data

    def _death(self) -> str:
        try:
            code: Any = self._process.wait(10)
        except subprocess.TimeoutExpired:
            code = "?"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 300))
        said = " ".join(self._errors.read().decode("utf-8", "replace").split())
        return "it died with exit code {}{}".format(code, ": " + said if said else "")


def _widen(fd: int) -> None:
    """A pipe of 1 MiB, so that a whole batch fits; a kernel that refuses costs speed only."""
    import fcntl

    if sys.platform == "linux":
        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, 1 << 20)
        except OSError:
            return


def encoded(texts: List[str]) -> Tuple[Optional[List[bytes]], int]:
    """The texts as UTF-8, or None and the index of the first that cannot be (half a surrogate pair)."""
    raw = []
    for index, text in enumerate(texts):
        try:
            raw.append(text.encode("utf-8"))
        except UnicodeEncodeError:
            return None, index
    return raw, -1
