"""The prepare step: rows of text in, fixed-length token ids out, as Arrow and as a self-contained ``.pt``.

Owns one output folder::

    DIR/dataset_dict.json, DIR/<split>/*     what datasets.load_from_disk reads: input_ids, attention_mask (, labels)
    DIR/llama3_dataset.pt                    what the tutorials' trainers torch.load (see torchfile.py)
    DIR/moai-dataset.json                    what it was made from; written last, so it marks "finished"

Runs as a process of the user's environment (transformers and pyarrow; no torch). The folder is built beside
DIR and renamed, under a lock, so DIR is either absent, the former one, or complete; a finished DIR made
from the same inputs is reused. A run that was killed goes on behind its last whole shard (journal.json in
the folder beside) and writes the same bytes. Refuses to replace a folder that it did not make, to publish
ids outside the model's vocabulary, and the network.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from importlib import metadata
from typing import Any, Dict, Iterator, List, Optional

from ..adopted import check_adopted, made_from
from ..datasource import open_source
from ..encoding import Counts, Encoder
from ..engines import Chooser
from ..errors import StepError
from ..jobdir import read_json
from ..jobdir import write_json as write_atomic
from ..modeltokenizer import ModelTokenizer, sha256_of, vocabulary
from ..prepare_inputs import Plan, Wanted, jobs_for, plan_splits, read_rows, spread_rows
from ..preparedset import (
    MARKER,
    ArrowSplitWriter,
    check_folder,
    finished,
    marker_of,
    publish,
    refuse_foreign,
    sizes,
    sweep,
    write_json,
)
from ..torchfile import TorchFileWriter

#: Rows of the source on which an engine is compared with the model's own tokenizer.
_COMPARED_ROWS = 64
_JOURNAL = "journal.json"
_NICE = 10
#: The inputs that decide what the rows are, kept as they were given.
_MADE_WITH = (
    "source", "config", "split", "template", "block_size", "sample", "validation_fraction", "pack", "mask_prompt", "cache_dir",
)  # fmt: skip


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Prepare a dataset; repeating with the same inputs finds the finished folder.

    Args:
        inputs: the step's dictionary:

            - ``source``: file or folder; ``config`` (of a Hub dataset), ``split`` (only this one, as training
              data) and ``cache_dir`` (of datasets) belong to it.
            - ``model``: folder of the model or tokenizer; ``trust_remote_code`` (and ``trust_dataset_code``,
              by default the same), ``pad_token_id``.
            - ``template``: name, path or text (default ``summarize``); ``block_size``: ids in a row (1024).
            - ``output``: the folder to make; a ``source`` that is a prepared folder already is used as it is
              when it is the ``output`` too; ``file_name``: of the .pt in it; ``torch_attention_mask``: store
              masks in the .pt (None: as the template's tutorial does).
            - ``sample``: at most so many rows of each split; ``validation_fraction``: share of the training
              rows to hold out when there is no validation split (0.05; 0 for none).
            - ``pack``: join rows with the end-of-text token and cut whole blocks; ``mask_prompt``: write
              ``labels``, which are -100 on prompts and padding.
            - ``engine``: auto, gigatoken, fastokens or tokenizers; ``engines``: where fast ones could run
              (see ``engines.Chooser``), ``engine_note``: why none could; ``jobs``: threads or processes.
        report: a ``Reporter``.

    Returns:
        ``path``, ``torch_file``, ``rows`` by split, ``block_size``, ``pad_token_id``, ``truncated_share`` (of
        all rows, 0 to 1), ``engine`` and ``reused``.

    Raises:
        StepError: TOKENIZER_FAILED, ENGINE_UNAVAILABLE, COLUMN_MISSING, DATASET_EMPTY, DATASET_INVALID,
            TEMPLATE_INVALID, FILE_NOT_FOUND, PACKAGE_MISSING, DISK_FULL, USAGE.
    """
    wanted = Wanted(inputs)
    be_polite(wanted)
    try:
        described = marker_of(wanted.source)
        if described is not None:
            check_adopted(wanted.source, wanted.output, described)
            report.message("using {} as it was prepared".format(wanted.source), code="REUSED")
            return _result(wanted, described, report, reused=True)
        return _prepare(wanted, report, {key: inputs.get(key) for key in _MADE_WITH})
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StepError(
                "DISK_FULL",
                "the disk of {} filled up while the dataset was written; nothing was left behind".format(
                    wanted.output
                ),
                "free space there, or choose an output folder on a larger disk",
                {"path": wanted.output},
            ) from error
        raise


def raw_rows(inputs: Dict[str, Any], split: str) -> Iterator[Dict[str, Any]]:
    """The rows of a split as texts, in the order and choice in which ``run`` tokenises them.

    Args:
        inputs: those of ``run``; ``output`` is not touched.
        split: ``train``, ``validation`` (held out of train where the source has none) or ``test``.

    Raises:
        StepError: as ``run``; DATASET_INVALID when there is no such split.
    """
    wanted = Wanted(made_from(inputs))
    source = open_source(wanted.source, wanted.config, wanted.cache_dir, wanted.trust_dataset_code)
    plan = plan_splits(source, wanted)
    if split not in plan:
        raise StepError(
            "DATASET_INVALID",
            "{} has no split {!r}; it has {}".format(wanted.source, split, ", ".join(plan)),
            "choose one of them with --split",
        )
    part, chosen, _ = plan[split]
    wanted.template.check_columns(part.columns)
    for _, _, row in read_rows(part, wanted.template.columns, chosen):
        yield row


def be_polite(wanted: Wanted) -> None:
    """Others on the machine go first, and the tokenizer libraries take only the threads meant for them."""
    if os.getpriority(os.PRIO_PROCESS, 0) < _NICE:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    wanted.jobs = jobs_for(wanted.jobs)
    os.environ.setdefault("RAYON_NUM_THREADS", str(wanted.jobs))


def _prepare(wanted: Wanted, report: Any, made_with: Dict[str, Any]) -> Dict[str, Any]:
    basis = wanted.basis()
    key = hashlib.sha256(json.dumps(basis, sort_keys=True).encode("utf-8")).hexdigest()
    parent, name = os.path.split(wanted.output)
    os.makedirs(parent, exist_ok=True)
    # Whoever holds the lock may take every other half-built folder for abandoned.
    with open(os.path.join(parent, ".{}.lock".format(name)), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.phase("waiting", "another job prepares {}".format(wanted.output))
            fcntl.flock(lock, fcntl.LOCK_EX)
        partial = "{}.partial-{}".format(wanted.output, key[:16])
        sweep(parent, name, keep=os.path.basename(partial))
        described = finished(wanted.output, key)
        if described is not None:
            shutil.rmtree(partial, ignore_errors=True)
            report.message("reusing {}: made from the same inputs".format(wanted.output), code="REUSED")
            return _result(wanted, described, report, reused=True)
        refuse_foreign(wanted.output)
        try:
            described = _Build(wanted, partial, report).run()
            described.update({"key": key, "basis": basis, "made_with": dict(made_with, source=wanted.source)})
            write_json(os.path.join(partial, MARKER), described)
            publish(partial, wanted.output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return _result(wanted, described, report, reused=False)


class _Build:
    """Fills one folder; goes on where a killed run stopped."""

    def __init__(self, wanted: Wanted, folder: str, report: Any) -> None:
        self._wanted, self._folder, self._report = wanted, folder, report
        self._state = self._earlier()

    def run(self) -> Dict[str, Any]:
        """The folder's description (without the key)."""
        wanted, report = self._wanted, self._report
        report.phase("reading", "reading {}".format(wanted.source))
        source = open_source(wanted.source, wanted.config, wanted.cache_dir, wanted.trust_dataset_code)
        plan = plan_splits(source, wanted)
        for split, _, _ in plan.values():
            wanted.template.check_columns(split.columns)
        for note in sorted({note for split, _, _ in plan.values() for note in split.notes}):
            report.message(note, code="ENCODING")
        report.phase("loading", "loading the tokenizer of {}".format(wanted.model))
        tokenizer = ModelTokenizer(
            wanted.model, wanted.template.named, wanted.block_size, wanted.template.specials, report,
            wanted.pad_token_id, wanted.trust_remote_code,
        )  # fmt: skip
        wanted.template.bind(tokenizer.own)
        tokenizer.warn_of_ending(wanted.template.ending, report)
        total = sum(rows for _, _, rows in plan.values())
        self._columns = 1 + wanted.torch_mask + wanted.mask_prompt
        _check_disk(self._folder, total * wanted.block_size * (8 * self._columns + 5 + 4 * wanted.mask_prompt))
        counts = Counts((self._state or {}).get("counts"))
        chooser = Chooser(
            wanted.engine, wanted.engines, wanted.engine_note, tokenizer, texts_of(wanted, plan),
            self._folder, wanted.jobs, report, 0 if wanted.pack else wanted.block_size,
        )  # fmt: skip
        encoder = Encoder(tokenizer, chooser, wanted.template, report, wanted.pack, wanted.mask_prompt, counts)
        try:
            report.phase("tokenizing", "{} rows into {} ids each".format(total, wanted.block_size), rows=total)
            written, dropped = self._write(plan, encoder, total)
        finally:
            encoder.close()
        self._say(counts, dropped)
        if not written["train"]:
            raise StepError(
                "DATASET_EMPTY",
                "no row of {} {}".format(wanted.source, "fills a block" if wanted.pack and counts.rows else "has any text"),
                "choose a smaller block size" if wanted.pack and counts.rows else "check the template",
            )
        if wanted.mask_prompt and counts.mute >= counts.rows:
            raise StepError(
                "DATASET_INVALID",
                "every row of {} is cut before its answer begins, so nothing would be learnt".format(wanted.source),
                "choose a block size above {}, or leave --mask-prompt out".format(wanted.block_size),
            )
        return self._finish(tokenizer, encoder, counts, written)

    def _write(self, plan: Plan, encoder: Encoder, total: int) -> Any:
        """Encode and write every split; (rows written by split, ids of packs that filled no block)."""
        wanted, state = self._wanted, self._state or {}
        written: Dict[str, int] = state.get("written", {})
        pace = _Pace(self._report, total, state.get("done", 0))
        dropped = state.get("dropped", 0)
        path = os.path.join(self._folder, wanted.file_name)
        with TorchFileWriter(
            path, wanted.block_size, wanted.torch_mask, wanted.mask_prompt, state.get("torch")
        ) as torch_writer:
            for name, (split, chosen, _) in plan.items():
                if name in written:
                    continue
                here = state if state.get("split") == name else {}
                if not here:
                    torch_writer.begin_split(name)
                after = here.get("consumed", 0)
                rows = read_rows(split, wanted.template.columns, chosen, after)
                with ArrowSplitWriter(
                    self._folder, name, wanted.block_size, wanted.mask_prompt, here.get("arrow")
                ) as arrow_writer:
                    for block in encoder.encode(rows, after):
                        columns = [block.ids, block.mask] + ([] if block.labels is None else [block.labels])
                        pace.step(block.consumed - after)
                        after = block.consumed
                        if len(block.ids):
                            torch_writer.write_wide(self._wide(columns))
                            if arrow_writer.write(*columns):
                                self._keep(
                                    {
                                        "split": name,
                                        "consumed": block.consumed,
                                        "arrow": arrow_writer.end_shard(),
                                        "torch": torch_writer.checkpoint(),
                                        "written": written,
                                        "done": pace.done,
                                        "dropped": dropped,
                                        "counts": encoder.counts.state(),
                                    }
                                )
                written[name] = torch_writer.end_split()
                dropped += len(encoder.counts.leftover[0])
                encoder.counts.leftover = [[], []]
        pace.finish()
        return written, dropped

    def _wide(self, columns: List[Any]) -> memoryview:
        """Rows as they lie in the ``.pt``."""
        import numpy

        used = [columns[0]] + ([columns[1]] if self._wanted.torch_mask else []) + columns[2:]
        whole = used[0] if len(used) == 1 else numpy.concatenate(used, axis=1)
        return memoryview(whole.astype(numpy.int64).reshape(-1))

    def _say(self, counts: Counts, dropped: int) -> None:
        if counts.skipped:
            self._report.message("{} rows without any text were left out".format(counts.skipped), "warning", "ROWS_SKIPPED")
        if counts.mute:
            self._report.message(
                "{} of {} rows are cut before their answer begins: nothing of them is learnt; a larger block size keeps more".format(
                    counts.mute, counts.rows
                ),
                "warning", "ROWS_WITHOUT_ANSWER",
            )  # fmt: skip
        if dropped:
            self._report.message("{} ids at the ends of the packs fill no block and were left out".format(dropped), code="PACK_REST")

    def _finish(self, tokenizer: ModelTokenizer, encoder: Encoder, counts: Counts, written: Dict[str, int]) -> Dict[str, Any]:
        wanted, folder = self._wanted, self._folder
        write_json(os.path.join(folder, "dataset_dict.json"), {"splits": list(written)})
        for name in (_JOURNAL, ".tokenizer.json"):
            if os.path.exists(os.path.join(folder, name)):
                os.unlink(os.path.join(folder, name))
        self._report.phase("checking", "reading the result back")
        check_folder(folder, wanted.file_name, written, wanted.block_size, self._columns)
        return {
            "rows": written,
            "columns": ["input_ids", "attention_mask"] + (["labels"] if wanted.mask_prompt else []),
            "block_size": wanted.block_size,
            "packed": wanted.pack,
            "pad_token_id": tokenizer.pad_token_id,
            "padding_side": tokenizer.side,
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_class": type(tokenizer.own).__name__,
            "tokenizer_vocabulary": vocabulary(tokenizer.own),
            "tokens": counts.tokens,
            "truncated_share": round(counts.truncated / max(1, counts.rows), 6),
            "engine": encoder.engine.name,
            "torch_file": wanted.file_name,
            "torch_file_sha256": sha256_of(os.path.join(folder, wanted.file_name)),
            "files": sizes(folder),
            "versions": _versions(),
        }

    # --- The journal --------------------------------------------------------------------------------

    def _keep(self, state: Dict[str, Any]) -> None:
        write_atomic(os.path.join(self._folder, _JOURNAL), state)

    def _earlier(self) -> Optional[Dict[str, Any]]:
        """The state of a killed run of the same basis; an empty folder when there is none to go on from."""
        state = read_json(os.path.join(self._folder, _JOURNAL))
        temp = os.path.join(self._folder, ".{}.partial".format(self._wanted.file_name))
        if state is not None and os.path.exists(temp) and os.path.getsize(temp) >= state["torch"]["zip"]["at"]:
            self._report.message("going on behind row {} of a run that was ended".format(state["done"]), code="RESUMED")
            return state
        shutil.rmtree(self._folder, ignore_errors=True)
        os.mkdir(self._folder)
        return None


def texts_of(wanted: Wanted, plan: Plan) -> List[str]:
    """Texts of rows from all over the training split, for comparing engines."""
    split, chosen, rows = plan["train"]
    texts = []
    for _, _, row in spread_rows(split, wanted.template.columns, chosen, rows, _COMPARED_ROWS):
        if all(column in row for column in wanted.template.columns):
            try:
                text = wanted.template.render(row)
                text.encode("utf-8")
            except (StepError, UnicodeEncodeError):
                continue  # named with its place when its turn comes
            texts.append(text[: 1 << 20])
    return texts


class _Pace:
    """Progress in rows of the source, with the rate since the start."""

    def __init__(self, report: Any, total: int, done: int) -> None:
        self._report = report
        self._total = total
        self.done = self._before = done
        self._started = time.monotonic()

    def step(self, rows: int, force: bool = False) -> None:
        self.done += rows
        seconds = time.monotonic() - self._started
        rate = (self.done - self._before) / seconds if seconds > 0 else None
        left = max(0, self._total - self.done) / rate if rate else None
        self._report.progress(self.done, self._total, "rows", rate=rate, eta_seconds=left, force=force)

    def finish(self) -> None:
        self._total = self.done  # blank lines are not still to come
        self.step(0, force=True)


# --- The result -----------------------------------------------------------------------------------


def _check_disk(folder: str, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise StepError(
            "DISK_FULL",
            "the prepared dataset needs about {:.1f} GiB, and {} has {:.1f} GiB free".format(
                needed_bytes / 2**30, os.path.dirname(folder), free_bytes / 2**30
            ),
            "free space there, or choose an output folder on a larger disk",
            {"needed_bytes": str(needed_bytes), "free_bytes": str(free_bytes)},
        )


def _versions() -> Dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("transformers", "tokenizers", "datasets", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _result(wanted: Wanted, described: Dict[str, Any], report: Any, reused: bool) -> Dict[str, Any]:
    report.artifact("dataset", wanted.output, rows=described["rows"], torch_file=described["torch_file"])
    return {
        "path": wanted.output,
        "torch_file": os.path.join(wanted.output, described["torch_file"]),
        "rows": described["rows"],
        "block_size": described["block_size"],
        "pad_token_id": described["pad_token_id"],
        "truncated_share": described["truncated_share"],
        "engine": described["engine"],
        "reused": reused,
    }
