"""A tokenizer in a process of its own: texts come in frames on stdin, ids go out on stdout.

Runs by its path on a Python that may be another than the user's (``PYTHON -I engine_worker.py``), with
the library's wheels in a folder, or on the user's own for tokenizers written in Python. Owns the frames
(see ``FRAME`` and ``ANSWER``). Adds no special tokens, pads nothing, and keeps at most ``limit`` ids of a
text; the parent does the rest. Standard library at import; asks no network. Whatever the library prints
goes to stderr. Ends when stdin ends.
"""

import json
import os
import queue
import struct
import sys
import threading
from array import array
from typing import Any, BinaryIO, Callable, List, Optional, Tuple

#: A request: magic, number of texts, most ids of a text (0: all), bytes of text. Then a u32 length of each
#: text in UTF-8, then the texts back to back.
FRAME = struct.Struct("<4sIIQ")
#: An answer: magic, number of texts, number of ids. Then an i32 number of ids of each text, a byte each
#: that tells whether it was cut, and the ids as i32, back to back.
ANSWER = struct.Struct("<4sIQ")
MAGIC = b"moai"

#: Ids back to back (i32, machine order), their numbers, and one byte a text: was it cut?
Ragged = Tuple[bytes, "array[int]", bytearray]
Encode = Callable[[List[bytes], int], Ragged]


def read_frame(stream: BinaryIO) -> Optional[Tuple[List[bytes], int]]:
    """The texts of the next request and the limit; None at the end."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    magic, count, limit, size = FRAME.unpack(head)
    if magic != MAGIC:
        raise ValueError("not a frame: {!r}".format(magic))
    lengths = array("I", stream.read(4 * count))
    data = stream.read(size)
    if len(data) < size:
        return None
    texts, at = [], 0
    for length in lengths:
        texts.append(data[at : at + length])
        at += length
    return texts, limit


def load_gigatoken(source: str, left: bool, threads: int) -> Tuple[Encode, str]:
    """See https://pypi.org/project/gigatoken/; its padded batch is the one that needs numpy alone."""
    from gigatoken.gigatoken_rs import PadTruncate, load_hf_json

    with open(source, encoding="utf-8") as file:
        tokenizer = load_hf_json(file.read())
    import numpy

    def encode(texts: List[bytes], limit: int) -> Ragged:
        # One more than wanted tells the texts that were cut from those that just fill a row.
        options = PadTruncate(0, max_length=limit + 1 if limit else None, truncate=bool(limit), truncate_left=left)
        matrix, lengths = tokenizer.encode_batch_padded(texts, options, parallel=threads > 1)
        lengths = numpy.asarray(lengths, dtype=numpy.int64)
        cut = lengths > limit if limit else numpy.zeros(len(lengths), dtype=bool)
        kept = numpy.minimum(lengths, limit) if limit else lengths
        first = lengths - kept if left else numpy.zeros(len(lengths), dtype=numpy.int64)
        columns = numpy.arange(matrix.shape[1])[None, :]
        chosen = (columns >= first[:, None]) & (columns < (first + kept)[:, None])
        ids = matrix[chosen].astype(numpy.int32)
        return ids.tobytes(), array("i", kept.tolist()), bytearray(cut.astype(numpy.uint8).tobytes())

    return encode, _version("gigatoken")


def load_fastokens(source: str, left: bool, threads: int) -> Tuple[Encode, str]:
    """See https://github.com/crusoecloud/fastokens."""
    from fastokens._native import Tokenizer

    with open(source, encoding="utf-8") as file:
        tokenizer = Tokenizer.from_json_str(file.read())

    def encode(texts: List[bytes], limit: int) -> Ragged:
        raw, offsets = tokenizer.encode_batch_flat([text.decode("utf-8") for text in texts], False)
        starts = array("Q", offsets)
        flat = memoryview(raw)
        pieces, lengths, cut = [], array("i"), bytearray()
        for begin, end in zip(starts, starts[1:]):
            over = bool(limit) and end - begin > limit
            if over:
                begin, end = (end - limit, end) if left else (begin, begin + limit)
            pieces.append(flat[4 * begin : 4 * end])
            lengths.append(end - begin)
            cut.append(over)
        return b"".join(pieces), lengths, cut

    return encode, _version("fastokens")


def load_own(source: str, left: bool, threads: int) -> Tuple[Encode, str]:
    """The model's own tokenizer, written in Python; ``source`` names its folder and whether to trust its code."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    want = json.loads(source)
    tokenizer = AutoTokenizer.from_pretrained(
        want["model"], trust_remote_code=want["trust_remote_code"], local_files_only=True
    )

    def encode(texts: List[bytes], limit: int) -> Ragged:
        ids, lengths, cut = array("i"), array("i"), bytearray()
        for text in texts:
            row = tokenizer.encode(text.decode("utf-8"), add_special_tokens=False, truncation=False)
            over = bool(limit) and len(row) > limit
            if over:
                row = row[-limit:] if left else row[:limit]
            ids.extend(row)
            lengths.append(len(row))
            cut.append(over)
        return ids.tobytes(), lengths, cut

    return encode, _version("transformers")


_LOADERS = {"gigatoken": load_gigatoken, "fastokens": load_fastokens, "own": load_own}


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def main(argv: List[str]) -> int:
    """``engine_worker.py NAME FOLDER SOURCE SIDE THREADS``; FOLDER "" for what is installed."""
    name, folder, source, side, threads = argv
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    os.environ["RAYON_NUM_THREADS"] = threads
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # this is one of several processes
    if folder:
        sys.path.insert(0, folder)
    try:
        encode, version = _LOADERS[name](source, side == "left", int(threads))
    except BaseException as error:  # whatever a library's loader throws (pyo3 panics are BaseException) is its answer
        _send(answers, json.dumps({"error": "{}: {}".format(type(error).__name__, str(error)[:400])}).encode() + b"\n")
        return 1
    _send(answers, json.dumps({"engine": name, "version": version}).encode() + b"\n")

    # Reading goes on while a batch is encoded: the parent never waits for us to take a frame it could write.
    frames: "queue.Queue[Any]" = queue.Queue(2)
    stdin = os.fdopen(os.dup(0), "rb", buffering=1 << 20)

    def read() -> None:
        frame: Any = None
        try:
            while True:
                frame = read_frame(stdin)
                frames.put(frame)
                if frame is None:
                    return
        except ValueError as error:
            print("moai: the engine got {}".format(error), file=sys.stderr)
            frames.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        frame = frames.get()
        if frame is None:
            return 0
        ids, lengths, cut = encode(*frame)
        head = ANSWER.pack(MAGIC, len(lengths), len(ids) // 4)
        _send(answers, b"".join((head, lengths.tobytes(), cut, ids)))


def _send(stream: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
