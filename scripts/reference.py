"""Make docs/reference.md: every public name of ``moai`` with its signature and docstring.

``--check`` only compares, and says what to run (``make check`` does that).
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

_REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_REPO / "client"), str(_REPO / "proto")]

import moai

TARGET = _REPO / "docs" / "reference.md"
_HEAD = """# Python API reference

Every public name of `moai`, from the docstrings; made by `scripts/reference.py`. The guide is [python.md](python.md).
"""


def page() -> str:
    """The whole page."""
    groups: dict[str, list[str]] = {"Functions": [], "Hosts, jobs, fleets": [], "Values": [], "Errors": []}
    for name in moai.__all__:
        value = getattr(moai, name)
        if name.startswith("__"):
            continue
        if not inspect.isclass(value):
            groups["Functions"].append(name)
        elif issubclass(value, Exception):
            groups["Errors"].append(name)
        elif name in ("Host", "Job", "Fleet", "EventStream", "Results", "JobOptions"):
            groups["Hosts, jobs, fleets"].append(name)
        else:
            groups["Values"].append(name)
    groups["Errors"].sort(key=lambda name: len(getattr(moai, name).__mro__))
    parts = [_HEAD]
    for title, names in groups.items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, getattr(moai, name)) for name in names]
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    lines = [f"### moai.{name}\n", "```python", _signature(f"moai.{name}", value), "```\n", _text(value)]
    if inspect.isclass(value) and not issubclass(value, Exception):
        for member, inner in _members(value):
            shown = inner.fget if isinstance(inner, property) else inner
            head = f"{name}.{member}" if isinstance(inner, property) else _signature(f"{name}.{member}", shown)
            lines += [f"#### {name}.{member}\n", "```python", head, "```\n", _text(shown)]
    return "\n".join(lines)


def _members(cls: type) -> list[tuple[str, Any]]:
    """Public methods and properties that are ours, in the order they are defined, a class's own first."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("moai."):
            for name, value in vars(base).items():
                if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    found.setdefault(name, value)
    return list(found.items())


def _signature(name: str, value: Any) -> str:
    if inspect.isclass(value):
        if issubclass(value, Exception):
            bases = ", ".join(base.__name__ for base in value.__bases__)
            return f"class {name}({bases})"
        if is_dataclass(value):
            given = [f"{f.name}: {_annotation(f.type)}" + _default(f) for f in fields(value)]
            return _wrapped(f"class {name}", given, "")
        if hasattr(value, "model_fields"):
            return _wrapped(f"class {name}", list(value.model_fields), "")
        value = value.__init__
    signature = inspect.signature(value)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    given = [_parameter(p) for p in parameters]
    kinds = [p.kind for p in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        given.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    back = _annotation(signature.return_annotation)
    return _wrapped(name, given, f" -> {back}" if back not in ("", "None") else "")


def _default(field: Any) -> str:
    if field.default is not MISSING:
        return f" = {field.default!r}"
    return f" = {field.default_factory()!r}" if field.default_factory is not MISSING else ""


def _annotation(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    text = value if isinstance(value, str) else value.__name__
    return re.sub(r"\b(?:t|_files|job_pb2)\.(?=[A-Z])", "", text)


def _parameter(p: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(p.kind, "")
    kind = _annotation(p.annotation)
    default = "" if p.default is inspect.Parameter.empty else repr(p.default)
    return f"{stars}{p.name}" + (f": {kind}" if kind else "") + (f" = {default}" if default else "")


def _wrapped(name: str, given: list[str], back: str) -> str:
    line = f"{name}({', '.join(given)}){back}"
    if len(line) <= 110:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in given) + f"){back}"


def _text(value: Any) -> str:
    text = inspect.getdoc(value) or ""
    out, in_list = [], False
    for line in text.splitlines():
        if line.strip() in ("Args:", "Attributes:", "Returns:", "Raises:"):
            out += ["", f"*{line.strip()[:-1]}*", ""]
            in_list = True
        elif in_list and line.startswith("    "):
            out.append(line.strip())
        else:
            in_list = in_list and not line.strip()
            out.append(line)
    # A line that ends in :: opens an example, which Markdown takes by its indentation.
    return "\n".join(out).replace("``", "`").replace("::\n", ":\n").strip() + "\n"


def main() -> int:
    """Write the page, or compare it."""
    made = page()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(made, encoding="utf-8")
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != made:
        print(f"{TARGET.relative_to(_REPO)} is not what the docstrings give: .venv/bin/python scripts/reference.py", file=sys.stderr)
        return 1
    print("reference: up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
