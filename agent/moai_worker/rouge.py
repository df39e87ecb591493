"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").

Owns tokenisation and counting; knows no model. F-measure: with precision P = overlap / candidate units and
recall R = overlap / reference units, F = 2PR / (P + R), 0 where nothing overlaps. Units are tokens (1),
pairs of neighbours (2), or the longest common subsequence of tokens (L, over the whole text, as "rougeL" of
other packages; not the sentence-wise "rougeLsum").

Tokens: the text in lower case (Unicode case folding, NFKC), cut into runs of letters, marks and digits; a
Han, Hiragana or Katakana character is a token of its own, as no blanks stand between words there. No
stemming, no stop words. For ASCII text this is what rouge_score does without its stemmer.
"""

import unicodedata
from collections import Counter
from typing import Any, Dict, List, Sequence, Tuple

#: (first, last) of the scripts written without blanks: kana, CJK extension A, CJK, compatibility.
_SINGLE = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
NAMES = ("rouge1", "rouge2", "rougeL")


def tokens(text: str) -> List[str]:
    """The tokens of a text, see the module docstring."""
    found: List[str] = []
    word = ""
    for char in unicodedata.normalize("NFKC", text).casefold():
        single = any(low <= ord(char) <= high for low, high in _SINGLE)
        if single or unicodedata.category(char)[0] not in "LMN":
            if word:
                found.append(word)
                word = ""
            if single:
                found.append(char)
        else:
            word += char
    return found + [word] if word else found


def scores(candidate: str, reference: str) -> Dict[str, float]:
    """``rouge1``, ``rouge2`` and ``rougeL`` of one text against one reference, each 0 to 1."""
    mine, theirs = tokens(candidate), tokens(reference)
    return {
        "rouge1": _f(_overlap(mine, theirs, 1), len(mine), len(theirs)),
        "rouge2": _f(_overlap(mine, theirs, 2), len(mine) - 1, len(theirs) - 1),
        "rougeL": _f(_longest_common(mine, theirs), len(mine), len(theirs)),
    }


def mean(pairs: Sequence[Tuple[str, str]]) -> Dict[str, Any]:
    """Mean of the scores of (candidate, reference) pairs, with their count as ``rows``."""
    each = [scores(candidate, reference) for candidate, reference in pairs]
    total = {name: sum(one[name] for one in each) / len(each) if each else 0.0 for name in NAMES}
    return dict({"rows": len(each)}, **total)


def _overlap(mine: List[str], theirs: List[str], size: int) -> int:
    ours = Counter(tuple(mine[at : at + size]) for at in range(len(mine) - size + 1))
    wanted = Counter(tuple(theirs[at : at + size]) for at in range(len(theirs) - size + 1))
    return sum((ours & wanted).values())


def _longest_common(mine: List[str], theirs: List[str]) -> int:
    """Length of the longest common subsequence; one row of the table at a time."""
    row = [0] * (len(theirs) + 1)
    for word in mine:
        before = 0
        for at, other in enumerate(theirs, 1):
            above = row[at]
            row[at] = before + 1 if word == other else max(above, row[at - 1])
            before = above
    return row[-1]


def _f(overlap: int, mine: int, theirs: int) -> float:
    if overlap < 1:
        return 0.0
    precision, recall = overlap / mine, overlap / theirs
    return 2 * precision * recall / (precision + recall)
