"""Step ``generate``: greedy answers of a model, or of an adapter and its base side by side.

Owns the shape of the prompts, the loop and the answer file. Loads local folders only and asks no
network. Runs on the Python of the user's environment.
"""

import gc
import json
import os
import traceback
from typing import Any, Dict, List, Optional, Tuple

from .. import compat, modelfiles, templates
from ..errors import StepError
from ..jobdir import read_json, write_atomic
from ..train_settings import number

#: Columns taken as the prompt when no template says otherwise.
_PROMPT_COLUMNS = ("prompt", "text", "article", "instruction")
_SHOWN_CHARACTERS = 200


class Prompt:
    """One prompt: the row it is made from, and the template that shapes it (None: as it is)."""

    def __init__(self, row: Dict[str, Any], template: Optional[templates.Template]) -> None:
        self.row = row
        self.template = template
        self.text = template.prompt(row) if template else str(row["prompt"])

    def fitting(self, tokenizer: Any, limit: int) -> Tuple[List[int], bool]:
        """Token ids of at most ``limit``, and whether something was cut.

        The row's longest text is shortened at its end, never the template's own words: a prompt
        without its closing marker is not answered but continued.
        """
        ids = tokenizer(self.text)["input_ids"]
        if len(ids) <= limit:
            return ids, False
        if self.template is None:
            return ids[:limit], True
        # The answer's column may be the longest of the row, but it is no part of the prompt.
        used = [name for name in self.template.columns if str(self.row.get(name) or "") in self.text]
        longest = max(used, key=lambda name: len(str(self.row.get(name) or "")))
        words = tokenizer(str(self.row[longest]), add_special_tokens=False)["input_ids"]
        keep = len(words) - (len(ids) - limit)
        while keep > 0:
            row = dict(self.row)
            row[longest] = tokenizer.decode(words[:keep], skip_special_tokens=True)
            ids = tokenizer(self.template.prompt(row))["input_ids"]
            if len(ids) <= limit:
                return ids, True
            # Cutting inside a word may make new tokens; try a little less.
            keep -= len(ids) - limit
        raise StepError(
            "USAGE",
            "The template alone is longer than the {} tokens there are for a prompt.".format(limit),
            "Use a smaller max_new_tokens or a shorter template.",
        )


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Answer every prompt.

    Args:
        inputs: ``model`` (folder of a model or an adapter), ``base_model`` (instead of the one the
            adapter names), ``prompts`` (texts) and/or ``prompt_file`` (JSON lines: objects with the
            template's columns, or texts), ``template`` (name, file or text; absent = prompts as they
            are), ``max_new_tokens`` (default 64), ``compare`` (also answer with the base model),
            ``output`` (JSON lines file), ``device`` (``cpu`` or absent), ``trust_remote_code``.
        report: the step's Reporter.

    Returns:
        ``count`` and ``output``. The file has a line a prompt: ``{"prompt", "text", "base_text"}``.

    Raises:
        StepError: USAGE, FILE_NOT_FOUND, COLUMN_MISSING, DATASET_INVALID, MODEL_INVALID,
            TOKENIZER_FAILED, PACKAGE_MISSING, DEVICE_OUT_OF_MEMORY, DISK_FULL.
    """
    path = os.path.abspath(os.path.expanduser(str(inputs.get("model") or "")))
    if not inputs.get("model") or not os.path.isdir(path):
        raise StepError("MODEL_INVALID", "There is no model folder {!r}.".format(inputs.get("model") or ""),
                        "Name the folder of a model or an adapter.")  # fmt: skip
    template = templates.load(str(inputs["template"])) if inputs.get("template") else None
    prompts = read_prompts(inputs, template)
    output = os.path.abspath(os.path.expanduser(str(inputs.get("output") or "generated.jsonl")))
    max_new_tokens = number(inputs, "max_new_tokens", None, 0, whole=True) or 64
    adapter = modelfiles.is_adapter(path)
    base = base_of(path, adapter, str(inputs.get("base_model") or ""), bool(inputs.get("compare")))
    trust = bool(inputs.get("trust_remote_code"))

    report.phase("loading", path)
    compat.require(("torch", "transformers") + (("peft",) if adapter else ()))
    compat.prepare_process(report)
    holder = path if modelfiles.has_tokenizer(path) or not base else base
    tokenizer = modelfiles.load_tokenizer(holder, trust)
    writer = Answerer(tokenizer, template, prompts, max_new_tokens, inputs.get("device"), report)
    base_texts: List[Optional[str]] = [None] * len(prompts)
    if adapter:
        model = modelfiles.load_adapter(modelfiles.load_model(base, writer.dtype, trust), path)
        texts = writer.answer(model, path)
        if inputs.get("compare"):
            with model.disable_adapter():
                base_texts = list(writer.answer(model, base))
    else:
        model = modelfiles.load_model(path, writer.dtype, trust)
        texts = writer.answer(model, path)
        if base:
            del model
            gc.collect()
            base_texts = list(writer.answer(modelfiles.load_model(base, writer.dtype, trust), base))
    _show(prompts, texts, base_texts)
    _write(output, prompts, texts, base_texts)
    report.artifact("text", output, rows=len(prompts))
    return {"count": len(prompts), "output": output}


def read_prompts(inputs: Dict[str, Any], template: Optional[templates.Template]) -> List[Prompt]:
    """The prompts of ``prompts`` and ``prompt_file``, in that order.

    A text stands for the template's first column. Raises StepError (see ``run``).
    """
    rows: List[Tuple[str, Any]] = [
        ("prompt {}".format(at), text) for at, text in enumerate(inputs.get("prompts") or [], 1)
    ]
    if inputs.get("prompt_file"):
        rows += _read_file(os.path.abspath(os.path.expanduser(str(inputs["prompt_file"]))))
    if not rows:
        raise StepError("USAGE", "There are no prompts.", "Give prompts, or a prompt_file with a line each.")
    first = template.columns[0] if template else "prompt"
    prompts = []
    for where, value in rows:
        if isinstance(value, str):
            row: Dict[str, Any] = {first: value}
        elif isinstance(value, dict):
            row = dict(value)
        else:
            what = "{} is neither a text nor an object.".format(where)
            raise StepError("DATASET_INVALID", what, 'Write lines like {"article": "..."}.')
        if template is None:
            found = [name for name in _PROMPT_COLUMNS if isinstance(row.get(name), str)]
            if not found:
                raise StepError(
                    "COLUMN_MISSING",
                    "{} has none of the columns {}; it has: {}.".format(
                        where, ", ".join(_PROMPT_COLUMNS), ", ".join(row) or "none"
                    ),
                    "Name a template that says how the columns become a prompt.",
                )
            row = {"prompt": row[found[0]]}
        prompts.append(Prompt(row, template))
    return prompts


class Answerer:
    """Generates answers on one device, one prompt after the other; ``evaluate`` uses it too."""

    def __init__(
        self,
        tokenizer: Any,
        template: Optional[templates.Template],
        prompts: List[Prompt],
        max_new_tokens: int,
        device: Optional[str],
        report: Any,
    ) -> None:
        import torch

        self.tokenizer = tokenizer
        # What ends a training text need not be a token of this tokenizer, so nothing stops there.
        self.ending = template.ending.strip() if template else ""
        self.prompts = prompts
        self.max_new_tokens = max_new_tokens
        self.report = report
        self.device = "cuda" if compat.accelerator_available(device) else "cpu"
        self.dtype = torch.bfloat16 if compat.use_bf16(None, device) else torch.float32

    def answer(self, model: Any, name: str) -> List[str]:
        self.report.phase("generating", name)
        try:
            return self._answer(model)
        except StepError:
            raise
        except compat.library_errors() as error:
            traceback.print_exc()
            raise compat.failure(
                error, "generating with {}".format(name), "MODEL_INVALID", "Read the log above."
            ) from error

    def _answer(self, model: Any) -> List[str]:
        import torch

        model.to(self.device)
        model.eval()
        limit = getattr(model.config, "max_position_embeddings", None)
        limit = limit or getattr(model.config, "n_positions", None) or 2048
        room = max(1, limit - self.max_new_tokens)
        pad = self.tokenizer.pad_token_id
        end = self.tokenizer.eos_token_id
        texts = []
        total = len(self.prompts)
        self.report.progress(0, total, "rows", force=True)
        for index, prompt in enumerate(self.prompts):
            ids, cut = prompt.fitting(self.tokenizer, room)
            if cut:
                self.report.message(
                    "Prompt {} was shortened to the {} tokens the model has room for.".format(
                        index + 1, room
                    ),
                    level="warning",
                )
            ids_BT = torch.tensor([ids], dtype=torch.int64, device=self.device)
            with torch.no_grad():
                out_BT = model.generate(
                    input_ids=ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    generation_config=self._greedy(model, pad if pad is not None else (end or 0)),
                )
            text = self.tokenizer.decode(out_BT[0][len(ids) :].tolist(), skip_special_tokens=True)
            if self.ending and self.ending in text:
                text = text[: text.index(self.ending)]
            texts.append(text)
            self.report.progress(index + 1, total, "rows", force=index + 1 == total)
        return texts

    def _greedy(self, model: Any, pad: int) -> Any:
        """A config of our own: the model's may sample, and sampling answers differ between runs."""
        import transformers

        own = model.generation_config
        config = transformers.GenerationConfig(
            do_sample=False, num_beams=1, pad_token_id=pad, max_new_tokens=self.max_new_tokens
        )
        config.bos_token_id = own.bos_token_id
        config.eos_token_id = (
            own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id
        )
        return config


def base_of(path: str, adapter: bool, override: str, compare: bool) -> str:
    """Folder of the base model; "" when none is needed."""
    if adapter:
        return modelfiles.adapter_base(path, override)
    if not compare:
        return ""
    summary = read_json(os.path.join(path, "moai-training.json")) or {}
    base = override or (summary.get("settings") or {}).get("model") or ""
    base = os.path.abspath(os.path.expanduser(base)) if base else ""
    if not os.path.isdir(base):
        raise StepError(
            "USAGE",
            "There is nothing to compare {} with: its base model {!r} is not there.".format(path, base),
            "Name it with base_model, or leave compare out.",
        )
    return base


def _read_file(path: str) -> List[Tuple[str, Any]]:
    try:
        with open(path, encoding="utf-8-sig") as source:
            lines = source.read().splitlines()
    except FileNotFoundError:
        raise StepError(
            "FILE_NOT_FOUND", "There is no prompt file {}.".format(path), "Push it, or give an absolute path."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StepError("DATASET_INVALID", "The prompt file {} cannot be read: {}".format(path, error),
                        "It must be UTF-8 text, one JSON value a line.") from error  # fmt: skip
    rows = []
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = "{} line {}".format(path, at)
        try:
            rows.append((where, json.loads(line)))
        except ValueError as error:
            raise StepError("DATASET_INVALID", "{} is not JSON: {}".format(where, error),
                            "Write one JSON object or text a line.") from error  # fmt: skip
    return rows


def _show(prompts: List[Prompt], texts: List[str], base_texts: List[Optional[str]]) -> None:
    for index, (prompt, text, base_text) in enumerate(zip(prompts, texts, base_texts)):
        shown = " ".join(prompt.text.split())
        if len(shown) > _SHOWN_CHARACTERS:
            shown = shown[: _SHOWN_CHARACTERS // 2] + " ... " + shown[-_SHOWN_CHARACTERS // 2 :]
        print("[{}/{}] {}".format(index + 1, len(prompts), shown))
        print("  answer: {}".format(text.strip()))
        if base_text is not None:
            print("  base:   {}".format(base_text.strip()))
        print(flush=True)


def _write(output: str, prompts: List[Prompt], texts: List[str], base_texts: List[Optional[str]]) -> None:
    lines = [
        json.dumps({"prompt": prompt.text, "text": text, "base_text": base_text}, ensure_ascii=False)
        for prompt, text, base_text in zip(prompts, texts, base_texts)
    ]
    try:
        os.makedirs(os.path.dirname(output), exist_ok=True)
        write_atomic(output, ("\n".join(lines) + "\n").encode("utf-8", "replace"), mode=0o644)
    except OSError as error:
        raise compat.failure(error, "writing {}".format(output), "USAGE", "Name another output.") from error
