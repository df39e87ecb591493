"""How a dataset row becomes one training text: templates with ``{column}`` fields.

Owns the template language, the tutorials' templates by name and the mistakes one can make in them. It is not
``str.format``: a field is a column name and nothing else, so a template can reach no attribute, index or
format code. Runs in the prepare and generate steps; standard library only.

The named templates are those of Moreh's quickstart repository (``tutorial/prepare_*_dataset.py``, MAF 24.5).
"""

import difflib
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .errors import StepError

#: What a column name in a template may not contain; each is something str.format would act on.
_REFUSED = {
    ".": "attributes cannot be reached",
    "[": "items cannot be reached",
    "!": "conversions are not offered",
    ":": "format codes are not offered",
}
_MAX_FILE_BYTES = 1 << 20


class Named(NamedTuple):
    """A template of the tutorials and the tokenizer settings that go with it.

    ``answer_after`` is the text the answer follows (None: what stands before the last field). ``pad`` names
    the pad token when the tokenizer has none: ``zero`` (id 0), ``eos`` or ``unk``. ``attention_mask`` says
    whether the tutorial's training script reads the mask from the ``.pt``.
    """

    text: str
    answer_after: Optional[str] = None
    pad: str = "zero"
    padding_side: Optional[str] = None
    attention_mask: bool = False


NAMED: Dict[str, Named] = {
    "summarize": Named("[SUMMARIZE] {article} [/SUMMARIZE]\n{highlights}</s>", "[/SUMMARIZE]\n"),
    "mistral": Named("{prompt}</s>", "### Output:\n", "eos", None, True),
    "qwen": Named("{prompt}<|endoftext|>", "### Output:\n", "eos", "left", True),
    "baichuan": Named(
        "[INST] {instruction} \n Category is {category} \n Intent is {intent} [/INST]\n{response}",
        "[/INST]\n",
        "zero",
        None,
        True,
    ),
    "gpt": Named("[INST] {instruction} [/INST]\n{output}</s>", "[/INST]\n", "unk", None, True),
}
#: Other names people try; the Llama tutorials all use one template.
ALIASES = {
    "summarise": "summarize",
    "llama2": "summarize",
    "llama3": "summarize",
    "llama": "summarize",
    "qwen1.5": "qwen",
    "baichuan2": "baichuan",
}


class Template:
    """A parsed template.

    Args:
        text: plain text with ``{column}`` fields; ``{{`` and ``}}`` stand for braces.
        named: the tutorial settings, when it is one of theirs.

    Attributes:
        text: as given. columns: the columns it uses, each once, in order of appearance.
        named: its settings (defaults for a text of the user's own).

    Raises:
        StepError: TEMPLATE_INVALID with line and column of the mistake.
    """

    def __init__(self, text: str, named: Optional[Named] = None) -> None:
        self.text = text
        self.named = named or Named(text)
        self._parts = _parse(text)  # (literal, column or None) pairs
        self.columns: List[str] = []
        for _, column in self._parts:
            if column is not None and column not in self.columns:
                self.columns.append(column)
        if not self.columns:
            raise StepError(
                "TEMPLATE_INVALID",
                "the template uses no column: {!r}".format(_shortened(text)),
                "put columns in braces, for example {article}; a literal brace is written twice",
            )

    @property
    def ending(self) -> str:
        """The literal text after the last field, for example ``</s>``; may be empty."""
        literal, column = self._parts[-1]
        return literal if column is None else ""

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise COLUMN_MISSING for the first column used here that is not among ``columns``."""
        for column in self.columns:
            if column not in columns:
                raise missing_column(column, columns)

    def render(self, row: Mapping[str, Any]) -> str:
        """The whole training text of ``row``; an empty value (None) leaves its place empty.

        Raises:
            StepError: COLUMN_MISSING; TEMPLATE_INVALID when a value is a list or an object.
        """
        return "".join(literal + _value(row, column) for literal, column in self._parts)

    def prompt(self, row: Mapping[str, Any]) -> str:
        """The text up to where the answer starts: what a model is given to complete.

        For a named template that is its marker; a row that ends without it (a bare question) is given whole,
        without the ending. Other templates: everything before the last field, or all of a single one.
        The columns of the answer may be absent from ``row``.
        """
        marker = self.named.answer_after
        built = ""
        last = max(i for i, (_, column) in enumerate(self._parts) if column is not None)
        if marker is not None and marker in self.text:
            for literal, column in self._parts:
                if (
                    marker in literal
                ):  # in the template's own words: an article that quotes it does not cut here
                    return built + literal[: literal.index(marker) + len(marker)]
                built += literal + _value(row, column)
        if len(self.columns) > 1:
            for literal, column in self._parts[:last]:
                built += literal + _value(row, column)
            return built + self._parts[last][0]
        built = "".join(literal + _value(row, column) for literal, column in self._parts[: last + 1])
        if marker is not None and marker in built:
            return built[: built.index(marker) + len(marker)]
        return built


def load(spec: str) -> Template:
    """Find the template that ``spec`` means: a name (``summarize``), a file's path, or the text itself.

    A file is read as UTF-8 (a BOM is dropped, and so is one newline at its very end, which editors add).

    Raises:
        StepError: TEMPLATE_INVALID, or FILE_NOT_FOUND for a path where nothing is.
    """
    name = ALIASES.get(spec.lower(), spec.lower())
    if name in NAMED:
        return Template(NAMED[name].text, NAMED[name])
    if "\n" not in spec and "\0" not in spec and os.path.isfile(os.path.expanduser(spec)):
        return Template(read_file(os.path.expanduser(spec)))
    if "{" in spec or "}" in spec or "\n" in spec:
        return Template(spec)
    if "/" in spec or os.path.splitext(spec)[1].lower() in (".txt", ".tmpl", ".template", ".md", ".j2"):
        raise StepError(
            "FILE_NOT_FOUND",
            "there is no template file {} in {}".format(spec, os.getcwd()),
            "give an absolute path, a name ({}) or the text itself".format(", ".join(sorted(NAMED))),
        )
    raise StepError(
        "TEMPLATE_INVALID",
        "{!r} is no template: not a name ({}), not a file, and a text without {{column}} fields".format(
            _shortened(spec), ", ".join(sorted(NAMED))
        ),
        _did_you_mean(spec, list(NAMED) + list(ALIASES)) or "write the text with its columns in braces",
    )


def missing_column(column: str, columns: Sequence[str]) -> StepError:
    """The COLUMN_MISSING error for ``column``, with the columns there are and the nearest of them."""
    near = _did_you_mean(column, columns)
    return StepError(
        "COLUMN_MISSING",
        "the template uses the column {!r}, which the dataset does not have; its columns are {}".format(
            column, ", ".join(repr(name) for name in columns) or "none"
        ),
        near
        or "choose a template that fits, or write one: --template '{{{}}}</s>'".format(
            columns[0] if columns else "text"
        ),
        {"column": column, "columns": ",".join(columns)},
    )


def _parse(text: str) -> List[Tuple[str, Optional[str]]]:
    parts: List[Tuple[str, Optional[str]]] = []
    literal = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char in "{}" and text[at : at + 2] == char * 2:
            literal += char
            at += 2
        elif char == "}":
            raise _mistake(text, at, "a } that closes nothing", "write }} for a literal brace")
        elif char == "{":
            end = text.find("}", at)
            inner = text[at + 1 : end] if end >= 0 else ""
            if end < 0 or "{" in inner or "\n" in inner:
                raise _mistake(text, at, "a { without its }", "write {{ for a literal brace")
            parts.append((literal, _column(text, at, inner)))
            literal = ""
            at = end + 1
        else:
            literal += char
            at += 1
    if literal:
        parts.append((literal, None))
    return parts


def _column(text: str, at: int, inner: str) -> str:
    name = inner.strip()
    if not name:
        raise _mistake(text, at, "a field without a column name", "write {{}} for literal braces")
    for char, why in _REFUSED.items():
        if char in name:
            raise _mistake(text, at, "{{{}}}: {}".format(name, why), "use the plain column name")
    return name


def _mistake(text: str, at: int, what: str, next_step: str) -> StepError:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return StepError(
        "TEMPLATE_INVALID",
        "line {}, column {} of the template: {}".format(line, column, what),
        next_step,
        {"line": str(line), "column": str(column)},
    )


def _value(row: Mapping[str, Any], column: Optional[str]) -> str:
    if column is None:
        return ""
    if column not in row:
        raise missing_column(column, list(row))
    value = row[column]
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    raise StepError(
        "TEMPLATE_INVALID",
        "the column {!r} holds a {}, but a template needs text or numbers".format(
            column, type(value).__name__
        ),
        "choose another column, or flatten this one first",
    )


def read_file(path: str) -> str:
    """A template file's text: UTF-8, at most 1 MiB. Raises TEMPLATE_INVALID."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise StepError(
                "TEMPLATE_INVALID", "the template file {} is larger than 1 MiB".format(path), "shorten it"
            )
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StepError(
            "TEMPLATE_INVALID",
            "the template file {} is not UTF-8 (byte {})".format(path, error.start),
            "save it as UTF-8",
        ) from error
    except OSError as error:
        raise StepError(
            "TEMPLATE_INVALID",
            "the template file {} cannot be read: {}".format(path, error.strerror),
            "check its permissions",
        ) from error
    text = text.replace("\r\n", "\n")
    return text[:-1] if text.endswith("\n") else text


def _did_you_mean(word: str, choices: Sequence[str]) -> str:
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.5)
    return "did you mean {!r}?".format(lowered[near[0]]) if near else ""


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
