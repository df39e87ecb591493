"""Did a training log end well? Judges a foreign command that ended with exit code 0.

Some trainers print a traceback, save nothing and still exit with 0 (a shell pipe without
``pipefail``, a caught exception, an abort inside ``tee``). The rule: fatal when the last fatal line
comes after the last good one. Good lines are step lines with a loss, evaluation and saving lines.
Run by the supervisor; standard library only.
"""

import os
import re

#: Bytes of the log's end that are judged.
TAIL_BYTES = 256 * 1024

_FATAL = re.compile(
    rb"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*|^.*\bError Code \d+: [A-Z_]+.*"
    rb"|^terminate called after throwing.*|^.*\bThe connection to the server has been lost\b.*"
    rb"|^.*\bFailed to initialize the worker daemon\b.*|^.*\bCUDA out of memory\b.*|^(?:Aborted|Segmentation fault)\b.*"
)
_GOOD = re.compile(
    rb"\[Step \d+(?:/\d+)?\].*|\bLoss\s*:\s*[-+\d.]+|['\"]loss['\"]:\s*['\"]?[-+\d.]+|Model saved in\b"
    rb"|model save finished|Eval Loss\s*:|['\"](?:eval_loss|train_runtime)['\"]:|^Training Done",
    re.IGNORECASE,
)
_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


#: Lines the supervisor writes into the log itself begin with this; they say nothing about the command.
OURS = b"[moai] "


def fatal_line(path: str, since: int = 0) -> str:
    """The fatal line that ends the log at ``path``, or "" when it ends well or cannot be read.

    Args:
        since: only what stands from this byte on is judged (an earlier try's end says nothing).
    """
    try:
        with open(path, "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(since, source.tell() - TAIL_BYTES))
            tail = source.read()
    except OSError:
        return ""
    fatal = b""
    for line in re.split(rb"[\r\n]+", _ANSI.sub(b"", tail)):
        if line.startswith(OURS):
            continue
        if _FATAL.search(line):
            fatal = line
        elif _GOOD.search(line):
            fatal = b""
    return fatal.decode("utf-8", "replace").strip()[:500]
