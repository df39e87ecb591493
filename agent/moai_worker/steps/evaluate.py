"""Step ``evaluate``: loss and perplexity on prepared rows, ROUGE of generated answers; beside the base model.

Owns the figures and their file. Loads local folders only and asks no network. The loss is the mean over all
tokens that the mask does not leave out (the Trainer's eval_loss is a mean over batches: equal where rows hold
equally many tokens). Runs on the Python of the user's environment.

Shapes: B rows of a batch, T tokens of a row, V vocabulary.
"""

import gc
import json
import math
import os
import time
import traceback
from typing import Any, Callable, Dict, List, Optional, Tuple

from .. import compat, modelfiles, rouge, templates, train_data
from ..errors import StepError
from ..jobdir import write_atomic
from ..train_settings import number
from .generate import Answerer, Prompt, base_of
from .prepare import raw_rows

#: Numbers of a batch's logits held at once (4 bytes each): 1 GiB.
_LOGITS = 1 << 28
_SPLITS = ("", "train", "validation", "test")


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Measure a model.

    Args:
        inputs: ``model`` (folder of a model or an adapter), ``base_model`` (instead of the one the
            adapter names), ``compare`` (also measure the base), ``dataset`` (prepared folder), ``split``
            ("" = validation, else test), ``rows`` (at most so many; absent = all), ``rouge`` (absent, or
            the prepare step's inputs the rows were made from), ``max_new_tokens`` (64), ``output`` (JSON
            file), ``device`` (``cpu`` or absent), ``trust_remote_code``.
        report: the step's Reporter.

    Returns:
        What the file holds: ``model, base, dataset, split, rows, tokens, figures, base_figures``, with
        figures ``{"loss", "perplexity", "seconds", "rouge"}``; and ``output``.

    Raises:
        StepError: USAGE, MODEL_INVALID, DATASET_INVALID, DATASET_EMPTY, COLUMN_MISSING, TOKENIZER_FAILED,
            PACKAGE_MISSING, DEVICE_OUT_OF_MEMORY, DISK_FULL.
    """
    path = os.path.abspath(os.path.expanduser(str(inputs.get("model") or "")))
    if not inputs.get("model") or not os.path.isdir(path):
        raise StepError("MODEL_INVALID", "There is no model folder {!r}.".format(inputs.get("model") or ""),
                        "Name the folder of a model or an adapter.")  # fmt: skip
    split = str(inputs.get("split") or "")
    if split not in _SPLITS:
        raise StepError("USAGE", "split is {!r}.".format(split), "Use train, validation or test.")
    limit = number(inputs, "rows", None, 1, whole=True)
    output = os.path.abspath(os.path.expanduser(str(inputs.get("output") or "evaluation.json")))
    adapter = modelfiles.is_adapter(path)
    base = base_of(path, adapter, str(inputs.get("base_model") or ""), bool(inputs.get("compare")))
    compat.require(("torch", "transformers", "datasets") + (("peft",) if adapter else ()))
    compat.prepare_process(report)

    dataset = os.path.abspath(os.path.expanduser(str(inputs.get("dataset") or "")))
    report.phase("loading", "dataset {}".format(dataset))
    config = modelfiles.check_model_folder(base if adapter else path)
    split, rows = train_data.open_split(dataset, split, *modelfiles.limits(config))
    if limit is not None and limit < len(rows):
        rows = rows.select(range(limit))
    report.phase("loading", "model {}".format(path))
    trust = bool(inputs.get("trust_remote_code"))
    holder = path if modelfiles.has_tokenizer(path) or not base else base
    measure = _Measure(inputs, rows, split, holder, report)
    if adapter:
        model = modelfiles.load_adapter(modelfiles.load_model(base, measure.dtype, trust), path)
        figures, base_figures = measure.figures(model, path), None
        if inputs.get("compare"):
            with model.disable_adapter():
                base_figures = measure.figures(model, base)
    else:
        model = modelfiles.load_model(path, measure.dtype, trust)
        figures, base_figures = measure.figures(model, path), None
        if base:
            del model
            gc.collect()
            base_figures = measure.figures(modelfiles.load_model(base, measure.dtype, trust), base)
    result = {
        "model": path,
        "base": base or None,
        "dataset": dataset,
        "split": split,
        "rows": len(rows),
        "tokens": measure.tokens,
        "figures": figures,
        "base_figures": base_figures,
    }
    _write(output, result)
    report.artifact("text", output)
    return dict(result, output=output)


class _Measure:
    """The same rows for one model after the other."""

    def __init__(self, inputs: Dict[str, Any], rows: Any, split: str, holder: str, report: Any) -> None:
        import torch

        self.rows = rows
        self.report = report
        self.tokens = 0
        device = inputs.get("device")
        self.device = "cuda" if compat.accelerator_available(device) else "cpu"
        self.dtype = torch.bfloat16 if compat.use_bf16(None, device) else torch.float32
        self._answerer: Optional[Answerer] = None
        self._references: List[str] = []
        made_from = inputs.get("rouge")
        if made_from:
            template = templates.load(str(made_from.get("template") or "summarize"))
            prompts, self._references = references(made_from, template, split, len(rows))
            self._answerer = Answerer(
                modelfiles.load_tokenizer(holder, bool(inputs.get("trust_remote_code"))),
                template,
                prompts,
                number(inputs, "max_new_tokens", None, 0, whole=True) or 64,
                device,
                report,
            )

    def figures(self, model: Any, name: str) -> Dict[str, Any]:
        """Loss, perplexity and ROUGE of one model; reported as metrics too."""
        began = time.monotonic()
        self.report.phase("evaluating", name)
        try:
            loss = self._loss(model)
        except StepError:
            raise
        except compat.library_errors() as error:
            traceback.print_exc()
            raise compat.failure(
                error, "evaluating {}".format(name), "MODEL_INVALID", "Read the log above."
            ) from error
        found: Dict[str, Any] = {"loss": round(loss, 6), "perplexity": round(perplexity(loss), 4)}
        scores = None
        if self._answerer is not None:
            texts = self._answerer.answer(model, name)
            scores = {
                key: round(value, 6) if isinstance(value, float) else value
                for key, value in rouge.mean(list(zip(texts, self._references))).items()
            }
        values = {"eval_loss": found["loss"], "perplexity": found["perplexity"]}
        values.update({key: value for key, value in (scores or {}).items() if key != "rows"})
        self.report.metric(None, values, model=name)
        found.update(seconds=round(time.monotonic() - began, 3), rouge=scores)
        print("{}: {}".format(name, json.dumps(values)), flush=True)
        return found

    def _loss(self, model: Any) -> float:
        import torch

        model.to(self.device)
        model.eval()
        size = self._batch_size(model)
        total, count, done = 0.0, 0, 0
        self.report.progress(0, len(self.rows), "rows", force=True)
        while done < len(self.rows):
            part = [self.rows[at] for at in range(done, min(done + size, len(self.rows)))]
            batch = train_data.collate(part)
            with torch.no_grad():
                logits_BTV = model(
                    input_ids=batch["input_ids"].to(self.device),
                    attention_mask=batch["attention_mask"].to(self.device),
                ).logits
                # Position t predicts token t+1; summed, so that rows of unlike length weigh by tokens.
                labels_BT = batch["labels"][:, 1:].to(self.device)
                total += float(
                    torch.nn.functional.cross_entropy(
                        logits_BTV[:, :-1].float().reshape(-1, logits_BTV.shape[-1]),
                        labels_BT.reshape(-1),
                        ignore_index=train_data.IGNORED,
                        reduction="sum",
                    )
                )
            count += int((labels_BT != train_data.IGNORED).sum())
            done += len(part)
            self.report.progress(done, len(self.rows), "rows", force=done == len(self.rows))
        self.tokens = count
        if count == 0:
            raise StepError("DATASET_EMPTY", "No row holds two tokens to learn from.", "Name another split.")
        return total / count

    def _batch_size(self, model: Any) -> int:
        vocabulary = int(getattr(model.config, "vocab_size", None) or 128000)
        return max(1, min(16, _LOGITS // (vocabulary * max(1, len(self.rows[0]["input_ids"])))))


def perplexity(loss: float) -> float:
    """``exp(loss)``; infinite where that is no number of a float."""
    return math.exp(loss) if loss < 700 else math.inf


def references(
    made_from: Dict[str, Any], template: templates.Template, split: str, limit: int
) -> Tuple[List[Prompt], List[str]]:
    """Prompts and reference answers of a split's first ``limit`` rows; rows without an answer are left out.

    The reference is what the template puts behind the prompt, without the template's ending.

    Raises:
        StepError: as ``prepare.raw_rows``; DATASET_EMPTY when no row has an answer.
    """
    prompts, answers = [], []
    for row in _first(raw_rows(made_from, split), limit):
        answer = reference_of(template, row)
        if answer:
            prompts.append(Prompt(row, template))
            answers.append(answer)
    if not prompts:
        raise StepError(
            "DATASET_EMPTY",
            "No row of {} has an answer to compare with by this template.".format(split),
            "Name a template whose last column is the answer, or leave --rouge out.",
        )
    return prompts, answers


def reference_of(template: templates.Template, row: Dict[str, Any]) -> str:
    """What a row's training text holds behind its prompt, without the ending."""
    whole, prompt = template.render(row), template.prompt(row)
    if not whole.startswith(prompt):
        return ""
    answer, ending = whole[len(prompt) :], template.ending
    if ending and answer.endswith(ending):
        answer = answer[: -len(ending)]
    return answer.strip()


def _first(rows: Any, limit: int) -> Any:
    for at, row in enumerate(rows):
        if at >= limit:
            return
        yield row


def _write(output: str, result: Dict[str, Any]) -> None:
    doing: Callable[[str], str] = "writing {}".format
    try:
        os.makedirs(os.path.dirname(output), exist_ok=True)
        write_atomic(output, json.dumps(result, sort_keys=True).encode("utf-8") + b"\n", mode=0o644)
    except OSError as error:
        raise compat.failure(error, doing(output), "USAGE", "Name another output.") from error
