"""The model card: ``README.md`` beside a result, for people and for the Hub.

Owns its words and its metadata block (huggingface.co/docs/hub/model-cards: YAML between two ``---``
lines), and the rule that a card somebody else wrote, or changed, is never replaced: ours ends with a
comment that holds the digest of what stands before it. Runs in the steps that make a result. Standard
library only; no value from outside reaches the YAML unquoted.
"""

import hashlib
import json
import os
import re
from typing import Any, Dict, List, Optional

from .jobdir import write_atomic

NAME = "README.md"
_MARK = re.compile(r"\n<!-- moai card ([0-9a-f]{16}) -->\n?\Z")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")
#: Settings that are no news to a reader: their values stand elsewhere, or mean nothing away from here.
_LEFT_OUT = ("model", "dataset", "output", "method", "resume", "device", "extra")

#: Of a chain of runs that are listed.
_MOST_RUNS = 8


def foreign(folder: str) -> Optional[bytes]:
    """The card in ``folder`` when somebody else wrote or changed it; None when it is ours or absent.

    Libraries write a card of their own while they save (peft does): read this before saving, and give it
    to ``write``.
    """
    try:
        with open(os.path.join(folder, NAME), "rb") as file:
            raw = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if _is_ours(raw.decode("utf-8", "replace")) else raw


def write(folder: str, facts: Dict[str, Any], kept: Optional[bytes] = None) -> bool:
    """Write the card of a result.

    Args:
        folder: of the result.
        facts: see ``text``.
        kept: what ``foreign`` returned before the result was saved; it is put back as it was.

    Returns:
        False when a card of somebody else's stays. Raises OSError.
    """
    path = os.path.join(folder, NAME)
    if kept is not None:
        write_atomic(path, kept, mode=0o644)
        return False
    write_atomic(path, text(facts).encode("utf-8", "replace"), mode=0o644)
    return True


def text(facts: Dict[str, Any]) -> str:
    """The card.

    Args:
        facts: ``kind`` (``model``, ``adapter`` or ``merged``), ``model`` (as it was named),
            ``model_revision``, ``model_commit``, ``base_path``, ``dataset``, ``dataset_revision``,
            ``dataset_digest``, ``dataset_rows``, ``template``, ``block_size``, ``command``, ``name``,
            ``code_commit``, ``moai``, ``summary`` (``moai-training.json``). What is missing is left out.
    """
    summary = facts.get("summary") or {}
    parts = [_metadata(facts), "# {}\n".format(_title(facts)), _what(facts, summary)]
    parts += [_data(facts, summary), _training(summary), _loading(facts, summary), _how(facts, summary)]
    body = "\n".join(part for part in parts if part)
    return "{}\n<!-- moai card {} -->\n".format(body, _digest(body))


def commit_of(path: str) -> str:
    """The commit a folder of the Hub's cache holds (``.../snapshots/COMMIT``); "" for any other folder."""
    parent, name = os.path.split(os.path.abspath(path))
    hub = os.path.basename(parent) == "snapshots" and re.match(r"[0-9a-f]{40}\Z", name)
    return name if hub else ""


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "replace")).hexdigest()[:16]


def _is_ours(card: str) -> bool:
    found = _MARK.search(card)
    return found is not None and found.group(1) == _digest(card[: found.start()])


def _yaml(value: str) -> str:
    # A JSON string is a YAML double-quoted scalar (YAML 1.2, section 1.3).
    return json.dumps(value)


def _hub_id(name: Any) -> str:
    text = str(name or "").partition(":")[0]
    return text if _HUB_ID.match(text) and not text.startswith(("/", ".", "~")) else ""


def _metadata(facts: Dict[str, Any]) -> str:
    adapter = facts.get("kind") == "adapter"
    lines = ["---", "library_name: {}".format("peft" if adapter else "transformers")]
    model, dataset = _hub_id(facts.get("model")), _hub_id(facts.get("dataset"))
    if model:
        lines += [
            "base_model: {}".format(_yaml(model)),
            "base_model_relation: {}".format("adapter" if adapter else "finetune"),
        ]
    if dataset:
        lines += ["datasets:", "- {}".format(_yaml(dataset))]
    tags = ["moai", "fine-tuned"] + (["lora"] if facts.get("kind") in ("adapter", "merged") else [])
    lines += ["tags:"] + ["- " + tag for tag in tags] + ["pipeline_tag: text-generation", "---", ""]
    return "\n".join(lines)


def _title(facts: Dict[str, Any]) -> str:
    model = str(facts.get("model") or "a model").rstrip("/").split("/")[-1]
    return _line(str(facts.get("name") or "") or "{}, fine-tuned".format(model))


def _what(facts: Dict[str, Any], summary: Dict[str, Any]) -> str:
    kinds = {
        "adapter": "A LoRA adapter for {}.",
        "merged": "{} with a LoRA adapter merged into its weights.",
        "model": "{}, all weights fine-tuned.",
    }
    rows = [("base model", _named(facts.get("model"), facts.get("model_revision"), facts.get("model_commit")))]
    result = summary.get("result") or {}
    rows.append(("method", {"lora": "LoRA", "full": "full fine-tuning"}.get(result.get("method", ""), "")))
    trust = (summary.get("settings") or {}).get("trust_remote_code")
    if trust is not None:
        rows.append(("code of the model's own", "run (trust_remote_code)" if trust else "not run"))
    about = kinds[facts.get("kind") or "model"].format(_code(facts.get("model") or "its base model"))
    return about + "\n\n" + _table(rows)


def _data(facts: Dict[str, Any], summary: Dict[str, Any]) -> str:
    seen = summary.get("dataset") or {}
    rows = [
        ("data set", _named(facts.get("dataset"), facts.get("dataset_revision"), facts.get("dataset_commit"))),
        ("training rows", _figure(seen.get("rows"))),
        ("tokens a row", _figure(seen.get("tokens_per_row"))),
        ("digest of the prepared rows", _code(seen.get("digest"))),
    ]
    template = str(facts.get("template") or "")
    if "\n" not in template and "{" not in template:
        rows.append(("template", _code(template)))
        return "## Data\n\n" + _table(rows)
    return "## Data\n\n{}\nTemplate:\n\n{}".format(_table(rows), _block(template))


def _training(summary: Dict[str, Any]) -> str:
    if not summary:
        return ""
    result, best = summary.get("result") or {}, summary.get("best") or {}
    evaluations = summary.get("eval_losses") or []
    rows = [
        ("steps", _steps(result)),
        ("loss", _losses(result.get("first_loss"), result.get("final_loss"))),
        ("evaluation loss", _losses(evaluations[0][1], evaluations[-1][1]) if evaluations else ""),
        ("best evaluation", "{:.4f} at step {}".format(best["loss"], best["step"]) if best else ""),
        ("seconds", _seconds(summary)),
        ("runs", _runs(summary.get("runs") or [])),
        ("bf16", "yes" if summary.get("bf16") else "no"),
    ]
    settings = dict(summary.get("settings") or {})
    settings.update(settings.get("extra") or {})
    for name in sorted(settings):
        if name not in _LEFT_OUT and settings[name] not in (None, "", {}, []):
            rows.append((name, _code(json.dumps(settings[name], sort_keys=True))))
    versions = summary.get("versions") or {}
    rows += [(name, _code(versions[name])) for name in sorted(versions)]
    return "## Training\n\n" + _table(rows)


def _loading(facts: Dict[str, Any], summary: Dict[str, Any]) -> str:
    trust = ", trust_remote_code=True" if (summary.get("settings") or {}).get("trust_remote_code") else ""
    here = "REPOSITORY_OR_FOLDER"
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if facts.get("kind") == "adapter":
        base = str(facts.get("model") or "BASE_MODEL")
        lines += [
            "from peft import PeftModel",
            "",
            "base = AutoModelForCausalLM.from_pretrained({}{})".format(_yaml(base), trust),
            'model = PeftModel.from_pretrained(base, "{}")'.format(here),
        ]
    else:
        lines += ["", 'model = AutoModelForCausalLM.from_pretrained("{}"{})'.format(here, trust)]
    lines.append('tokenizer = AutoTokenizer.from_pretrained("{}"{})'.format(here, trust))
    return "## Loading\n\n" + _block("\n".join(lines), "python")


def _how(facts: Dict[str, Any], summary: Dict[str, Any]) -> str:
    rows = [("moai", _code(facts.get("moai"))), ("commit of the code", _code(facts.get("code_commit")))]
    command = str(facts.get("command") or "")
    shown = _block(command, "sh") if command else ""
    table = _table(rows)
    return "## How it was made\n\n" + "\n".join(part for part in (shown, table) if part) if shown or table else ""


def _named(name: Any, revision: Any, commit: Any) -> str:
    if not name:
        return ""
    more = [_code(part) for part in (revision, commit) if part and part != "main"]
    return _code(name) + (" at " + ", ".join(more) if more else "")


def _steps(result: Dict[str, Any]) -> str:
    done, total = result.get("steps"), result.get("total_steps")
    if done is None:
        return ""
    early = ", ended early" if result.get("stopped_early") else ""
    return _figure(done) if done == total else "{} of {}{}".format(_figure(done), _figure(total), early)


def _seconds(summary: Dict[str, Any]) -> str:
    """Of all runs; a chain whose first runs an older version made does not know theirs."""
    known, runs = _figure(summary.get("seconds")), summary.get("runs") or []
    unknown = runs[0]["start_step"] if runs else 0
    return "{}, not counting what led to step {}".format(known, _figure(unknown)) if known and unknown else known


def _runs(runs: List[Dict[str, Any]]) -> str:
    """Which run made which steps, where it was more than one; steps that were lost and made again are in two."""
    if len(runs) < 2:
        return ""
    parts = ["{} to {}".format(_figure(one["start_step"] + 1), _figure(one["step"])) for one in runs]
    if len(parts) > _MOST_RUNS:
        parts[_MOST_RUNS // 2 : -_MOST_RUNS // 2] = ["..."]
    return "{}: steps {}".format(len(runs), ", ".join(parts))


def _losses(first: Any, last: Any) -> str:
    if not isinstance(first, (int, float)) or not isinstance(last, (int, float)):
        return ""
    return "{:.4f} at first, {:.4f} at last".format(first, last)


def _figure(value: Any) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return ""
    return "{:,.0f}".format(value) if float(value).is_integer() else "{:,.1f}".format(value)


def _line(value: str) -> str:
    return " ".join(value.split())


def _code(value: Any) -> str:
    """A value as inline code; longer runs of backticks around it than in it (CommonMark 6.1)."""
    shown = _line(str(value or "")).replace("|", "\\|")
    if not shown:
        return ""
    fence = "`" * (_longest_run(shown) + 1)
    pad = " " if fence != "`" else ""
    return fence + pad + shown + pad + fence


def _block(value: str, language: str = "") -> str:
    fence = "`" * max(3, _longest_run(value) + 1)
    return "{}{}\n{}\n{}\n".format(fence, language, value, fence)


def _longest_run(value: str) -> int:
    return max((len(run) for run in re.findall("`+", value)), default=0)


def _table(rows: List[Any]) -> str:
    lines = ["| {} | {} |".format(label, value) for label, value in rows if value]
    return "\n".join(["| | |", "|---|---|"] + lines) + "\n" if lines else ""
