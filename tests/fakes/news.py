"""Made-up news for tests: articles and their summaries, generated from word lists.

The same seed always gives the same rows, on every Python. A summary is a regular function of its
article (who did what, where), so a tiny model can visibly learn it within a few dozen steps. Rows
carry the columns of cnn_dailymail (``article``, ``highlights``, ``id``), so the tutorial's template
fits them unchanged.
"""

import json
import random
from typing import Dict, List

_PEOPLE = (
    "The mayor",
    "A young engineer",
    "The harbour master",
    "A retired teacher",
    "The football coach",
    "A local farmer",
    "The museum director",
    "A school choir",
    "The fire brigade",
    "A group of students",
    "The head nurse",
    "A ferry captain",
)
_DEEDS = (
    ("opened", "a new bridge"),
    ("closed", "the old market"),
    ("won", "a cooking contest"),
    ("found", "a lost painting"),
    ("repaired", "the clock tower"),
    ("planted", "a thousand trees"),
    ("sold", "the last steam train"),
    ("rescued", "a stranded whale"),
    ("built", "a wooden theatre"),
    ("cancelled", "the winter fair"),
    ("discovered", "an ancient well"),
    ("painted", "the station wall"),
)
_CITIES = (
    "Busan",
    "Seoul",
    "Daegu",
    "Incheon",
    "Oslo",
    "Porto",
    "Leeds",
    "Malmö",
    "Zürich",
    "Quito",
    "Nairobi",
    "Kyoto",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FILLERS = (
    "Neighbours said they had waited {n} years for this.",
    "The weather was mild and about {n} people came to watch.",
    "A spokesperson added that the work had cost {n} thousand euros.",
    "\u201cNobody expected it to go so well,\u201d said one of the {n} volunteers.",
    "The council will discuss the matter again in {n} weeks.",
    "Shops in the centre stayed open until late, and buses ran every {n} minutes.",
    "It was the first time in {n} years that the town had seen anything like it.",
    "Pictures of the day were shared {n} times before noon.",
)


def news(n: int, seed: int = 7, sentences: int = 6) -> List[Dict[str, str]]:
    """Make ``n`` rows with ``article``, ``highlights`` and ``id``.

    Args:
        n: how many rows; the first k rows do not depend on ``n``.
        seed: chooses the sequence of rows.
        sentences: filler sentences in an article (about 12 words each), after its lead.

    Returns:
        A list of dictionaries of strings; some hold letters outside ASCII.
    """
    rng = random.Random(seed)
    rows = []
    for index in range(n):
        who, (verb, what) = rng.choice(_PEOPLE), rng.choice(_DEEDS)
        city, day = rng.choice(_CITIES), rng.choice(_DAYS)
        lead = "{} -- {} {} {} here on {}.".format(city.upper(), who, verb, what, day)
        body = [rng.choice(_FILLERS).format(n=rng.randint(2, 90)) for _ in range(sentences)]
        rows.append(
            {
                "article": " ".join([lead] + body),
                "highlights": "{} {} {} in {}.".format(who, verb, what, city),
                "id": "{:08x}".format(index),
            }
        )
    return rows


def write_jsonl(path: str, n: int, seed: int = 7, sentences: int = 6) -> str:
    """Write ``news(n)`` to ``path`` as UTF-8 JSON lines and return ``path``."""
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for row in news(n, seed, sentences):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path
