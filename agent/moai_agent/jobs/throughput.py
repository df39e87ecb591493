"""How fast a script of the user's really is: steps, and tokens where they are known, over the wall clock.

What a script prints about its own speed often leaves out evaluation, saving and compiling. Owns the window
between two step lines and the reading of rows and tokens a row from the command line. Refuses to guess:
without both numbers there are steps a second only. Pure: the caller knows the time.
"""

import re
from typing import Any, Dict, List, Optional, Tuple

#: The log's clock is exact to about a second, so a shorter window says little; a longer one lags behind.
LEAST_S, LONGEST_S = 10.0, 60.0
#: Flags as scripts spell them, "-" for "_" too.
_ROWS = ("batch_size", "global_batch_size", "total_batch_size", "train_batch_size")
_TOKENS = (
    "block_size", "seq_len", "seq_length", "sequence_length", "max_seq_len", "max_seq_length", "max_length",
    "model_max_length", "context_length",
)  # fmt: skip


class Throughput:
    """Follows the step lines of one log.

    Args:
        argv: words of the command. state: what ``state`` held when an earlier one stopped; {} at first.
    """

    def __init__(self, argv: List[str], state: Dict[str, Any]) -> None:
        self.state = state
        self.tokens, self.source = tokens_a_step(argv)

    def add(self, data: Dict[str, Any], moment: float) -> None:
        """Put ``steps_per_second`` (and ``tokens_per_second``) into the values of a training step's metric.

        The first line only starts the clock: attaching and compiling are before it.
        """
        step, values = data.get("step"), data.get("values") or {}
        if not isinstance(step, int) or "loss" not in values:
            return
        began, since = self.state.get("step"), self.state.get("time")
        if began is None or since is None or step < began:
            self.state.update(step=step, time=moment)
            return
        seconds = moment - since
        if step == began or seconds < LEAST_S:
            return
        rate = (step - began) / seconds
        values["steps_per_second"] = round(rate, 6)
        if self.tokens and "tokens_per_second" not in values:
            values["tokens_per_second"] = round(rate * self.tokens, 1)
            data["rate_source"] = self.source
        if seconds > LONGEST_S:
            self.state.update(step=step, time=moment)


def tokens_a_step(argv: List[str]) -> Tuple[Optional[int], str]:
    """(rows x tokens a row, the two flags as typed), or (None, "") when one of them is not on the command line."""
    rows, tokens = _flag(argv, _ROWS), _flag(argv, _TOKENS)
    if rows is None or tokens is None:
        return None, ""
    return rows[1] * tokens[1], "%s %d x %s %d" % (rows + tokens)


def _flag(argv: List[str], names: Tuple[str, ...]) -> Optional[Tuple[str, int]]:
    found = None
    for at, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag[2:].replace("-", "_") not in names:
            continue
        text = value if equals else (argv[at + 1] if at + 1 < len(argv) else "")
        if re.match(r"^[1-9]\d{0,8}$", text):
            found = (flag, int(text))  # The last one counts, as argparse has it.
    return found
