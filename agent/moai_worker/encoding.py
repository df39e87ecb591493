"""Turn rows of text into blocks of token ids of one length: padded, or packed without padding.

Owns rendering rows (with their place in error messages), the batches, padding, packing and the labels that
leave prompts out. Ids of a padded row equal ``tokenizer(text, truncation=True, max_length=block_size,
padding="max_length")``. Batches depend on the rows alone, never on the engine or the machine, so a run that
goes on after a kill writes the same bytes. Runs in the prepare step; numpy inside functions only.
"""

from collections import deque
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .datafiles import PlacedRow
from .engine_process import EngineFailed
from .errors import StepError
from .modeltokenizer import ModelTokenizer

_BATCH_ROWS = 256
_MAX_BATCH_CHARACTERS = 4 << 20
#: Batches that an engine may have at once: one it works on, one it can begin, one being read.
_UNDER_WAY = 3
#: A row of so many characters is said to be there: it is hardly meant.
LONG_ROW = 1 << 20
#: The index the loss of transformers' models leaves out (torch's CrossEntropyLoss ignore_index).
IGNORED = -100


class Block(NamedTuple):
    """Some rows of the result (numpy): int32 ``ids`` and int8 ``mask``, rows by block size, ``labels`` or None.

    ``consumed``: rows of the source that are in this and the blocks before it, those left out included.
    """

    ids: Any
    mask: Any
    labels: Any
    consumed: int


class Counts:
    """What went by: rows ``truncated`` and ``skipped`` (blank), ``tokens`` without padding, ``rows`` encoded.

    ``mute``: rows whose labels leave out everything. ``leftover`` are ids (and labels) of a pack that fill no block yet.
    """

    def __init__(self, state: Optional[Dict[str, Any]] = None) -> None:
        state = state or {}
        self.truncated: int = state.get("truncated", 0)
        self.skipped: int = state.get("skipped", 0)
        self.tokens: int = state.get("tokens", 0)
        self.rows: int = state.get("rows", 0)
        self.mute: int = state.get("mute", 0)
        self.leftover: List[List[int]] = state.get("leftover", [[], []])

    def state(self) -> Dict[str, Any]:
        """As JSON, for the journal."""
        return dict(vars(self))


class Encoder:
    """Rows to blocks.

    Args:
        tokenizer: the model's own. chooser: gives engines (see engines.py); the next one when one dies.
        template: makes a text of a row. report: a ``Reporter``.
        pack: join rows with the end-of-text token and cut whole blocks, instead of a row a block.
        mask_prompt: also give labels, which leave out the prompt of each row.
        counts: to add to.
    """

    def __init__(
        self, tokenizer: ModelTokenizer, chooser: Any, template: Any, report: Any, pack: bool, mask_prompt: bool, counts: Counts
    ) -> None:
        self._tokenizer, self._chooser, self._template, self._report = tokenizer, chooser, template, report
        self._pack, self._mask_prompt = pack, mask_prompt
        self.counts = counts
        self._long = 0
        if pack and tokenizer.eos is None:
            raise StepError(
                "TOKENIZER_FAILED", "rows cannot be packed: the tokenizer in {} has no end-of-text token".format(tokenizer.model),
                "prepare without --pack",
            )  # fmt: skip
        if mask_prompt and tokenizer.cut_left:
            raise StepError(
                "USAGE", "prompts cannot be masked: this tokenizer cuts long rows on the left", "prepare without --mask-prompt"
            )
        self.engine = chooser.next()

    def close(self) -> None:
        """End the engine."""
        self.engine.close()

    def encode(self, rows: Iterator[PlacedRow], consumed: int = 0) -> Iterator[Block]:
        """Yield blocks in the order of the rows; ``consumed`` rows of the source went before these.

        Raises:
            StepError: TOKENIZER_FAILED; DATASET_INVALID or COLUMN_MISSING for a row, with its place.
        """
        waiting: Deque[Tuple[List[str], int, int]] = deque()
        for texts, seen, skipped in self._batches(rows, consumed):
            waiting.append((texts, seen, skipped))
            if texts:
                self.engine.submit(texts)
            while len(waiting) >= _UNDER_WAY:
                for block in self._finish(waiting):
                    yield block
        while waiting:
            for block in self._finish(waiting):
                yield block

    def _finish(self, waiting: Deque[Tuple[List[str], int, int]]) -> Iterator[Block]:
        texts, seen, skipped = waiting[0]
        encoded = self._result([batch[0] for batch in waiting]) if texts else None
        waiting.popleft()
        self.counts.skipped += skipped
        if encoded is not None:
            yield self._packed(texts, encoded, seen) if self._pack else self._padded(texts, encoded, seen)

    def _result(self, batches: List[List[str]]) -> Any:
        """The answer to the first of these batches, from the next engine when this one dies."""
        while True:
            try:
                return self.engine.result()
            except EngineFailed as error:
                self._report.message(
                    "the engine {} failed and another goes on: {}".format(self.engine.name, error), "warning", "ENGINE_REFUSED",
                    engine=self.engine.name,
                )  # fmt: skip
                self.engine.close()
                self.engine = self._chooser.next()
                for texts in batches:
                    if texts:
                        self.engine.submit(texts)

    # --- Texts --------------------------------------------------------------------------------------

    def _batches(self, rows: Iterator[PlacedRow], seen: int) -> Iterator[Tuple[List[str], int, int]]:
        """(texts, rows of the source so far, rows left out since the last); with labels a prompt after every text."""
        texts: List[str] = []
        characters = skipped = count = 0
        for file, number, row in rows:
            seen += 1
            text = self._text(file, number, row)
            if text is None:
                skipped += 1
                continue
            texts.append(text)
            if self._mask_prompt:
                texts.append(placed_text(file, number, self._template.prompt, row))
            count += 1
            characters += len(text)
            if count == _BATCH_ROWS or characters >= _MAX_BATCH_CHARACTERS:
                yield texts, seen, skipped
                texts, characters, skipped, count = [], 0, 0, 0
        if texts or skipped:
            yield texts, seen, skipped

    def _text(self, file: str, number: int, row: Dict[str, Any]) -> Optional[str]:
        for column in self._template.columns:
            if column not in row:
                raise StepError(
                    "DATASET_INVALID",
                    "{}, row or line {}: has no {!r}".format(file, number, column),
                    "correct or remove it and run again",
                    {"file": file, "line": str(number)},
                )
        if all(blank(row[column]) for column in self._template.columns):
            return None
        text = placed_text(file, number, self._template.render, row)
        if len(text) >= LONG_ROW:
            self._long += 1
            if self._long <= 3:
                self._report.message(
                    "{}, row or line {}: a text of {:.1f} million characters{}".format(
                        file, number, len(text) / 1e6, "" if self._pack else ", of which a row keeps the first ids"
                    ),
                    "warning", "ROW_LONG", file=file, line=number,
                )  # fmt: skip
        return text

    # --- Blocks -------------------------------------------------------------------------------------

    def _split(self, encoded: Any) -> Tuple[List[Any], List[Any], List[int], Any]:
        """(ids of each row, its labels or None, its prompt's length, which were cut)."""
        import numpy

        ends = numpy.cumsum(encoded.lengths)
        rows = numpy.split(encoded.ids, ends[:-1]) if len(ends) else []
        return rows[::2], rows[1::2], encoded.lengths[::2], encoded.cut[::2]

    def _prompt_length(self, row: Any, prompt: Any) -> int:
        """How many leading ids of a row are those of its prompt alone; one that reaches into the answer is not."""
        import numpy

        suffix = len(self._tokenizer.suffix)
        if suffix and prompt[-suffix:].tolist() == self._tokenizer.suffix:
            prompt = prompt[:-suffix]
        common = min(len(row), len(prompt))
        unlike = numpy.flatnonzero(row[:common] != prompt[:common])
        return int(unlike[0]) if len(unlike) else common

    def _check(self, ids: Any) -> None:
        if len(ids):
            self._tokenizer.check_ids(int(ids.min()), int(ids.max()))

    def _padded(self, texts: List[str], encoded: Any, consumed: int) -> Block:
        import numpy

        block, prompts = self._tokenizer.block_size, None
        ids, lengths, cut = encoded.ids, encoded.lengths, encoded.cut
        if self._mask_prompt:
            rows, asked, lengths, cut = self._split(encoded)
            prompts = numpy.array([self._prompt_length(row, prompt) for row, prompt in zip(rows, asked)], dtype=numpy.int64)
            ids = numpy.concatenate(rows)
        self._check(ids)
        if len(lengths) and int(lengths.max()) > block:
            raise StepError(
                "TOKENIZER_FAILED",
                "the tokenizer in {} gave a row of {} ids though told to stop at {}".format(
                    self._tokenizer.model, int(lengths.max()), block
                ),
                "use the tokenizer that belongs to the model",
            )
        columns = numpy.arange(block)[None, :]
        starts = (block - lengths if self._tokenizer.side == "left" else numpy.zeros(len(lengths), dtype=numpy.int64))[:, None]
        mask = (columns >= starts) & (columns < starts + lengths[:, None])
        out = numpy.full((len(lengths), block), self._tokenizer.pad_token_id, dtype=numpy.int32)
        out[mask] = ids
        labels = None
        if prompts is not None:
            self.counts.mute += int((prompts >= lengths).sum())
            labels = numpy.where(mask & (columns >= starts + prompts[:, None]), out, numpy.int32(IGNORED)).astype(numpy.int32)
        self._count(len(lengths), int(lengths.sum()), int(cut.sum()))
        return Block(out, mask.view(numpy.int8), labels, consumed)

    def _packed(self, texts: List[str], encoded: Any, consumed: int) -> Block:
        import numpy

        block, eos = self._tokenizer.block_size, self._tokenizer.eos
        self._check(encoded.ids)
        pieces = [numpy.array(self.counts.leftover[0], dtype=numpy.int32)]
        labels = [numpy.array(self.counts.leftover[1], dtype=numpy.int32)]
        ends = numpy.cumsum(encoded.lengths)
        rows = numpy.split(encoded.ids, ends[:-1])
        step = 2 if self._mask_prompt else 1
        for index in range(0, len(rows), step):
            row = rows[index]
            if not len(row) or row[-1] != eos:
                row = numpy.append(row, numpy.int32(eos))
            pieces.append(row)
            if self._mask_prompt:
                told = row.copy()
                told[: self._prompt_length(row, rows[index + 1])] = IGNORED
                labels.append(told)
        count = len(rows) // step
        flat = numpy.concatenate(pieces)
        whole = len(flat) // block * block
        ids = flat[:whole].reshape(-1, block).astype(numpy.int32)
        self.counts.leftover = [flat[whole:].tolist(), []]
        told_ids = None
        if self._mask_prompt:
            flat_labels = numpy.concatenate(labels)
            told_ids = flat_labels[:whole].reshape(-1, block).astype(numpy.int32)
            self.counts.leftover[1] = flat_labels[whole:].tolist()
        self._count(count, whole, 0)
        return Block(ids, numpy.ones(ids.shape, dtype=numpy.int8), told_ids, consumed)

    def _count(self, rows: int, tokens: int, truncated: int) -> None:
        self.counts.rows += rows
        self.counts.tokens += tokens
        self.counts.truncated += truncated


def blank(value: Any) -> bool:
    """Whether a cell says nothing."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, (list, dict)):
        return not value
    return not str(value).strip()


def placed_text(file: str, number: int, make: Any, row: Dict[str, Any]) -> str:
    """What ``make`` (a template's render or prompt) gives for a row; a mistake is named with its place.

    Raises:
        StepError: that of the template, or DATASET_INVALID for half a character.
    """
    try:
        text: str = make(row)
        if not text.isascii():
            text.encode("utf-8")
        return text
    except StepError as error:
        raise StepError(
            error.reason, "{}, row or line {}: {}".format(file, number, error.message), error.next
        ) from error
    except UnicodeEncodeError as error:
        raise StepError(
            "DATASET_INVALID",
            "{}, row or line {}: holds half a character (U+{:04X}, a lone surrogate)".format(
                file, number, ord(error.object[error.start])
            ),
            "correct or remove it and run again",
            {"file": file, "line": str(number)},
        ) from error
