"""The preview step: what a few rows of a dataset become for a model, before anything is written.

Renders and tokenises rows from all over the training split with the model's own tokenizer, as the prepare
step would, and tells how many of a larger sample would be cut. Owns one JSON file in the job's folder; runs
in the user's environment. Asks no network.
"""

import json
from typing import Any, Dict, List

from ..datasource import open_source
from ..encoding import blank, placed_text
from ..engines import Called
from ..errors import StepError
from ..modeltokenizer import ModelTokenizer
from ..prepare_inputs import Wanted, plan_splits, spread_rows
from .prepare import be_polite

#: Rows whose lengths are looked at.
_MEASURED = 512
_BATCH = 32


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Show rows.

    Args:
        inputs: as of the prepare step, without ``output``; ``preview``: how many rows to show (3);
            ``file``: where the JSON goes.

    Returns:
        ``path`` (of the JSON), ``rows`` by split, ``block_size``, ``measured`` rows, ``truncated_share`` of
        those, ``longest`` and ``mean`` in ids, ``summary`` in words. The JSON holds these and ``samples``:
        ``file``, ``row``, ``text``, ``prompt`` (None unless prompts are masked), ``count`` of all ids,
        ``ids`` as a row would have them (without padding), ``tokens`` (their texts), ``cut``.

    Raises:
        StepError: as of the prepare step.
    """
    wanted = Wanted(inputs, needs_output=False)
    be_polite(wanted)
    report.phase("reading", "reading {}".format(wanted.source))
    source = open_source(wanted.source, wanted.config, wanted.cache_dir, wanted.trust_dataset_code)
    plan = plan_splits(source, wanted)
    template = wanted.template
    for split, _, _ in plan.values():
        template.check_columns(split.columns)
    for note in sorted({note for split, _, _ in plan.values() for note in split.notes}):
        report.message(note, code="ENCODING")
    report.phase("loading", "loading the tokenizer of {}".format(wanted.model))
    tokenizer = ModelTokenizer(
        wanted.model, template.named, wanted.block_size, template.specials, report, wanted.pad_token_id,
        wanted.trust_remote_code,
    )  # fmt: skip
    template.bind(tokenizer.own)
    tokenizer.warn_of_ending(template.ending, report)
    split, chosen, count = plan["train"]
    report.phase("tokenizing", "up to {} of {} rows".format(_MEASURED, count))
    rows = [
        placed
        for placed in spread_rows(split, template.columns, chosen, count, max(_MEASURED, wanted.preview))
        if not all(blank(placed[2].get(column)) for column in template.columns)
    ]
    if not rows:
        raise StepError("DATASET_EMPTY", "no row of {} has any text".format(wanted.source), "check the template")
    texts = [placed_text(file, number, template.render, row) for file, number, row in rows]
    lengths = _lengths(tokenizer, texts)
    block = wanted.block_size
    told: Dict[str, Any] = {
        "rows": {name: rows for name, (_, _, rows) in plan.items()},
        "block_size": block,
        "packed": wanted.pack,
        "template": template.text,
        "tokenizer": type(tokenizer.own).__name__,
        "pad_token_id": tokenizer.pad_token_id,
        "measured": len(rows),
        "truncated_share": 0.0 if wanted.pack else round(sum(n > block for n in lengths) / len(rows), 6),
        "longest": max(lengths),
        "mean": round(sum(lengths) / len(lengths), 1),
    }
    samples: List[Dict[str, Any]] = []
    step = max(1, len(rows) // wanted.preview)
    for (file, number, row), text, length in list(zip(rows, texts, lengths))[::step][: wanted.preview]:
        ids = tokenizer.row(text, wanted.pack)
        samples.append(
            {
                "file": file,
                "row": number,
                "text": text,
                "prompt": placed_text(file, number, template.prompt, row) if wanted.mask_prompt else None,
                "count": length,
                "ids": ids,
                "tokens": [tokenizer.own.decode([one]) for one in ids[:64]],
                "cut": length > block and not wanted.pack,
            }
        )
    tokenizer.check_ids(min(min(s["ids"], default=0) for s in samples), max(max(s["ids"], default=0) for s in samples))
    with open(inputs["file"], "w", encoding="utf-8") as out:
        json.dump(dict(told, samples=samples), out, ensure_ascii=True)
    shown = "1 row" if len(samples) == 1 else "{} rows".format(len(samples))
    summary = "{} shown, {:,.0f} ids on average".format(shown, told["mean"])
    return dict(told, path=inputs["file"], summary=summary)


def _lengths(tokenizer: ModelTokenizer, texts: List[str]) -> List[int]:
    engine = Called(tokenizer, 0)
    lengths: List[int] = []
    for start in range(0, len(texts), _BATCH):
        engine.submit(texts[start : start + _BATCH])
        lengths += engine.result().lengths.tolist()
    return lengths
