"""Which program turns texts into ids, and the proof that it gives the ids of the model's own tokenizer.

Three kinds: a fast library in a process of its own (gigatoken, fastokens), ``tokenizers`` called directly,
and the model's own tokenizer where it is written in Python. Owns choosing one, comparing it with the
model's own tokenizer before it is used, and going on with the next when it dies. An engine with another id
for any of the compared texts is refused. Runs in the prepare step; numpy inside functions only.
"""

import importlib.util
import json
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence

from .engine_process import EngineFailed, EngineProcess
from .errors import StepError
from .modeltokenizer import ModelTokenizer, TokenizerErrors

#: Fast libraries, the one tried first leading.
FAST = ("gigatoken", "fastokens")
NAMES = ("auto",) + FAST + ("tokenizers",)
#: Texts on which tokenizers are known to part ways: spaces, scripts, controls, joined emoji, digits, tags.
AWKWARD = (
    " ", "  a", "a  ", "\n\n a\n", "\t\tx", "a\u00a0b", "\u3000x", "\u200b", "\ufeffx", "\r\n", "\r a", "\x00a", "\x1b[0m", "\ufffd",
    "I'm you'RE we'll'd", "don\u2019t", "1234567", "3.14159e-10", "1 000,000", "\u0661\u0662\u0663", "\u2160\u00bd\u00b2",
    "\u00e9e\u0301", "\u1ea0A\u0323\u0302", "\uac00\u1100\u1161\u11a8", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.", "\u65e5\u672c\u8a9e\u306e\u6587", "\u4f60\u597d\uff0c\u4e16\u754c",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1f0\U0001f1f7\U0001f44d\U0001f3fd", "\U00010348\U000e0041",
    "</s>", "<s>a</s> b", "<|endoftext|>x", "[INST] a [/INST]", "<unk><pad>", "http://a.b/c?d=e&f#g", "{\"a\": [1, 2]}", "a" * 300, "\u00e9" * 70, " " * 50, "_a_B__c", "\ufb01\uff21\u00df\u0130\u0131\u017f",
)  # fmt: skip


class Encoded(NamedTuple):
    """Ids of several texts: ``ids`` back to back (numpy int32), their ``lengths`` (int64), and which were ``cut``."""

    ids: Any
    lengths: Any
    cut: Any


class Direct:
    """``tokenizers`` called without transformers around it: no Python object an id, the GIL free meanwhile."""

    def __init__(self, tokenizer: ModelTokenizer, limit: int) -> None:
        from importlib import metadata

        self.name, self.version = "tokenizers", metadata.version("tokenizers")
        # A copy: truncation is a setting of the object, and the tokenizer's own rows must not depend on it.
        backend = type(tokenizer.own.backend_tokenizer).from_str(tokenizer.own.backend_tokenizer.to_str())
        backend.no_padding()
        if limit:
            backend.enable_truncation(limit, direction="left" if tokenizer.cut_left else "right")
        else:
            backend.no_truncation()
        split = getattr(tokenizer.own, "split_special_tokens", False)
        if hasattr(backend, "encode_special_tokens"):
            backend.encode_special_tokens = bool(split)
        self._encode = getattr(backend, "encode_batch_fast", backend.encode_batch)
        self._tokenizer, self._limit = tokenizer, limit
        self._pool = ThreadPoolExecutor(1)
        self._waiting: Deque[Any] = deque()

    def submit(self, texts: List[str]) -> None:
        """Send a batch."""
        self._waiting.append(self._pool.submit(self._batch, texts))

    def result(self) -> Encoded:
        """The oldest batch without an answer."""
        with TokenizerErrors(self._tokenizer.model, "failed on a text"):
            rows = self._waiting.popleft().result()
        return _encoded([row.ids for row in rows], [len(row) == self._limit and bool(row.overflowing) for row in rows])

    def _batch(self, texts: List[str]) -> Any:
        return self._encode(texts, add_special_tokens=self._tokenizer.specials)

    def close(self) -> None:
        """End its thread."""
        self._pool.shutdown()


class Called:
    """The model's own tokenizer, as anybody calls it: for those written in Python."""

    def __init__(self, tokenizer: ModelTokenizer, limit: int) -> None:
        self.name, self.version = "transformers", ""
        self._tokenizer, self._limit = tokenizer, limit
        self._waiting: Deque[List[str]] = deque()

    def submit(self, texts: List[str]) -> None:
        """Keep a batch for ``result``."""
        self._waiting.append(texts)

    def result(self) -> Encoded:
        """Encode the oldest batch."""
        options: Dict[str, Any] = {"truncation": False}
        if self._limit:
            options = {"truncation": True, "max_length": self._limit}
        with TokenizerErrors(self._tokenizer.model, "failed on a text"):
            got = self._tokenizer.own(
                self._waiting.popleft(), add_special_tokens=self._tokenizer.specials, padding=False,
                return_attention_mask=False, return_token_type_ids=False, **options
            )  # fmt: skip
        # It does not tell whether it cut: a row that just fills the block counts.
        rows = got["input_ids"]
        return _encoded(rows, [bool(self._limit) and len(row) >= self._limit for row in rows])

    def close(self) -> None:
        """Nothing is held."""


class Processes:
    """One or several ``EngineProcess``; adds the special tokens that frame a text."""

    def __init__(
        self, name: str, python: str, folder: str, source: str, tokenizer: ModelTokenizer, limit: int, count: int, threads: int
    ) -> None:
        self.name = name
        self._frame = tokenizer.prefix, tokenizer.suffix
        self._limit = max(1, limit - len(tokenizer.prefix) - len(tokenizer.suffix)) if limit else 0
        self._workers: List[EngineProcess] = []
        self._turns: Deque[EngineProcess] = deque()
        self._next = 0
        try:
            for _ in range(count):
                self._workers.append(EngineProcess(name, python, folder, source, tokenizer.cut_left, threads))
            for worker in self._workers:
                worker.wait_ready()
        except EngineFailed:
            self.close()
            raise
        self.version = self._workers[0].version

    def submit(self, texts: List[str]) -> None:
        """Send a batch to the next process."""
        worker = self._workers[self._next % len(self._workers)]
        self._next += 1
        self._turns.append(worker)
        worker.submit([text.encode("utf-8") for text in texts], self._limit)

    def result(self) -> Encoded:
        """The oldest batch without an answer. Raises EngineFailed."""
        import numpy

        raw, counts, cut = self._turns.popleft().result()
        ids = numpy.frombuffer(raw, dtype=numpy.int32)
        lengths = numpy.frombuffer(counts, dtype=numpy.int32).astype(numpy.int64)
        prefix, suffix = self._frame
        if prefix or suffix:
            more = len(prefix) + len(suffix)
            ends = numpy.cumsum(lengths + more)
            starts = ends - lengths - more
            framed = numpy.empty(int(ends[-1]) if len(ends) else 0, dtype=numpy.int32)
            inside = numpy.ones(len(framed), dtype=bool)
            for number, value in enumerate(prefix):
                framed[starts + number], inside[starts + number] = value, False
            for number, value in enumerate(reversed(suffix), 1):
                framed[ends - number], inside[ends - number] = value, False
            framed[inside] = ids
            ids, lengths = framed, lengths + more
        return Encoded(ids, lengths, numpy.frombuffer(bytes(cut), dtype=numpy.uint8).astype(bool))

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()


def _encoded(rows: List[List[int]], cut: List[bool]) -> Encoded:
    from array import array

    import numpy

    flat = array("i")
    for row in rows:
        flat.extend(row)
    lengths = numpy.fromiter(map(len, rows), dtype=numpy.int64, count=len(rows))
    return Encoded(numpy.frombuffer(flat, dtype=numpy.int32) if flat else numpy.zeros(0, numpy.int32), lengths, numpy.array(cut, dtype=bool))


def difference(engine: Any, tokenizer: ModelTokenizer, texts: Sequence[str], whole: bool) -> Optional[str]:
    """The first text for which an engine gives other ids than the model's own tokenizer; None when all agree.

    Raises:
        EngineFailed: it died of one.
    """
    engine.submit(list(texts))
    got = engine.result()
    at = 0
    for text, length in zip(texts, got.lengths.tolist()):
        if got.ids[at : at + length].tolist() != tokenizer.row(text, whole):
            return text
        at += length
    return None


class Chooser:
    """Starts engines in the order of preference, each compared before it is used.

    Args:
        wanted: one of ``NAMES``. candidates: ``{"name", "python", "folder"}`` of fast engines that could be
            run on this machine. note: why there is none, for people.
        tokenizer: the model's own. texts: rendered rows of the source, compared beside ``AWKWARD``.
        scratch: a folder for the tokenizer's description. jobs: threads or processes that may be used.
        report: a ``Reporter``. limit: longest row; 0 = whole texts.
    """

    def __init__(
        self, wanted: str, candidates: Sequence[Dict[str, str]], note: str, tokenizer: ModelTokenizer, texts: Sequence[str],
        scratch: str, jobs: int, report: Any, limit: int,
    ) -> None:  # fmt: skip
        self._wanted, self._note, self._tokenizer, self._limit = wanted, note, tokenizer, limit
        self._texts = list(texts) + list(AWKWARD)
        self._scratch, self._jobs, self._report = scratch, jobs, report
        self._left: List[Dict[str, str]] = []
        if tokenizer.is_fast and wanted != "tokenizers":
            self._left = [c for c in list(candidates) + installed() if wanted in ("auto", c["name"])]

    def next(self) -> Any:
        """The next engine that gives the right ids.

        Raises:
            StepError: ENGINE_UNAVAILABLE when a fast engine was asked for by name and cannot be used.
        """
        why = self._note
        while self._left:
            candidate = self._left.pop(0)
            try:
                engine = self._start(candidate)
            except EngineFailed as error:
                why = str(error)
                self._refused(candidate["name"], "could not be used: {}".format(error))
                continue
            try:
                unlike = difference(engine, self._tokenizer, self._texts, not self._limit)
            except EngineFailed as error:
                engine.close()
                why = str(error)
                self._refused(candidate["name"], "could not be used: {}".format(error))
                continue
            if unlike is None:
                self._chosen(engine, "on {}".format(candidate["python"]))
                return engine
            engine.close()
            why = "it gives other ids for {!r}".format(unlike[:60])
            self._refused(candidate["name"], "gives other ids than the model's own tokenizer, for example for {!r}".format(unlike[:60]))
        if self._wanted in FAST:
            if not self._tokenizer.is_fast:
                why = "the model's tokenizer is written in Python"
            raise StepError(
                "ENGINE_UNAVAILABLE",
                "the engine {} cannot be used: {}".format(self._wanted, why or "no Python 3.10 or newer has it here"),
                "leave --engine out: the fastest that gives the right ids is taken",
                {"engine": self._wanted},
            )
        if self._wanted == "auto" and self._note and self._tokenizer.is_fast:
            self._report.message("no fast engine: {}".format(self._note), code="ENGINE")
            self._note = ""
        return self._own()

    def _own(self) -> Any:
        if self._tokenizer.is_fast:
            direct = Direct(self._tokenizer, self._limit)
            if difference(direct, self._tokenizer, self._texts, not self._limit) is None:
                self._chosen(direct, "in this environment")
                return direct
            direct.close()  # a subclass that changes texts before they reach its backend
        if self._jobs > 1 and not self._tokenizer.is_fast:
            want = {"model": self._tokenizer.model, "trust_remote_code": self._tokenizer.trust_remote_code}
            try:
                several = Processes("own", sys.executable, "", json.dumps(want), self._tokenizer, self._limit, self._jobs, 1)
            except EngineFailed as error:
                self._refused("transformers", "could not be run in {} processes: {}".format(self._jobs, error))
            else:
                if difference(several, self._tokenizer, self._texts, not self._limit) is None:
                    several.name = "transformers"
                    self._chosen(several, "in {} processes".format(self._jobs))
                    return several
                several.close()
        called = Called(self._tokenizer, self._limit)
        self._chosen(called, "row by row, as the tokenizer itself does it")
        return called

    def _start(self, candidate: Dict[str, str]) -> Any:
        path = os.path.join(self._scratch, ".tokenizer.json")
        if not os.path.exists(path):
            # What the loaded tokenizer does, which may be more than its tokenizer.json says.
            backend = type(self._tokenizer.own.backend_tokenizer).from_str(self._tokenizer.own.backend_tokenizer.to_str())
            backend.no_padding()
            backend.no_truncation()
            with open(path, "w", encoding="utf-8") as file:
                file.write(backend.to_str())
        return Processes(
            candidate["name"], candidate["python"], candidate.get("folder") or "", path, self._tokenizer, self._limit, 1, self._jobs
        )

    def _refused(self, name: str, why: str) -> None:
        self._report.message("the engine {} {}".format(name, why), "warning", "ENGINE_REFUSED", engine=name)

    def _chosen(self, engine: Any, where: str) -> None:
        shown = "{} {}".format(engine.name, engine.version).strip()
        self._report.message(
            "tokenising with {} {}: the ids of the model's own tokenizer on {} texts".format(shown, where, len(self._texts)),
            code="ENGINE", engine=engine.name, version=engine.version,
        )  # fmt: skip


def installed() -> List[Dict[str, str]]:
    """Fast engines that this very Python has."""
    if sys.version_info < (3, 9):
        return []
    return [{"name": n, "python": sys.executable, "folder": ""} for n in FAST if importlib.util.find_spec(n) is not None]
