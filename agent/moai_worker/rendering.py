"""Templates that need a library: Jinja, and the tokenizer's own chat template.

``load`` understands these and everything ``templates.load`` does. ``jinja:TEXT``, a text with ``{%`` and a
file ending in ``.j2`` or ``.jinja`` are Jinja (sandboxed, a missing column is an error); ``chat`` or
``chat:COLUMN`` renders a list of messages (column ``messages``) by the tokenizer. Runs in the prepare and
preview steps; jinja2 is imported inside functions only.
"""

import os
from typing import Any, Dict, List, Mapping, Optional, Union

from . import templates
from .datafiles import package_missing
from .errors import StepError
from .templates import Named, Template

_JINJA_ENDINGS = (".j2", ".jinja", ".jinja2")


class JinjaTemplate:
    """A Jinja template over the columns of a row; same surface as ``Template``.

    Raises:
        StepError: TEMPLATE_INVALID with the line of the mistake; PACKAGE_MISSING without jinja2.
    """

    #: Whether the tokenizer frames the text with its special tokens.
    specials = True

    def __init__(self, text: str) -> None:
        self.text = "jinja:" + text
        self.named = Named(text)
        try:
            import jinja2
            from jinja2 import meta
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise package_missing("jinja2", "a Jinja template", error) from error
        self._errors: Any = jinja2.TemplateError
        environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        try:
            self.columns: List[str] = sorted(meta.find_undeclared_variables(environment.parse(text)))
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise StepError(
                "TEMPLATE_INVALID", "line {} of the template: {}".format(error.lineno, error.message), "correct it and run again",
                {"line": str(error.lineno)},
            ) from error  # fmt: skip
        if not self.columns:
            raise StepError("TEMPLATE_INVALID", "the template uses no column", "for example {{ article }}")

    @property
    def ending(self) -> str:
        """Not known of a program."""
        return ""

    def bind(self, tokenizer: Any) -> None:
        """Nothing of the tokenizer is used."""

    def check_columns(self, columns: Any) -> None:
        """COLUMN_MISSING for the first column used here that the data lacks."""
        for column in self.columns:
            if column not in columns:
                raise templates.missing_column(column, columns)

    def render(self, row: Mapping[str, Any]) -> str:
        """The whole training text of ``row``."""
        values: Dict[str, Any] = {column: "" if row[column] is None else row[column] for column in self.columns}
        try:
            return str(self._template.render(values))
        except (self._errors, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise StepError("TEMPLATE_INVALID", "the template fails: {}".format(str(error)[:300]), "correct it and run again") from error

    def prompt(self, row: Mapping[str, Any]) -> str:
        """A Jinja template does not tell where the answer begins. Raises USAGE."""
        raise StepError(
            "USAGE", "prompts cannot be masked with a Jinja template: it does not tell where the answer begins",
            "use a text with {column} fields, or the chat template (--template chat)",
        )  # fmt: skip


class ChatTemplate:
    """The tokenizer's chat template over a column of messages; ``bind`` gives it the tokenizer.

    A message is ``{"role", "content"}`` (or ``{"from", "value"}``, as some data sets write it).
    """

    specials = False  # the chat template writes them itself
    ending = ""

    def __init__(self, column: str = "messages") -> None:
        self.text = "chat:" + column
        self.named = Named(self.text)
        self.columns = [column]
        self._tokenizer: Any = None

    def bind(self, tokenizer: Any) -> None:
        """Use this transformers tokenizer. Raises TEMPLATE_INVALID when it has no chat template."""
        if not getattr(tokenizer, "chat_template", None):
            raise StepError(
                "TEMPLATE_INVALID", "the model's tokenizer has no chat template", "take the -Instruct or -Chat model, or another template"
            )
        self._tokenizer = tokenizer

    def check_columns(self, columns: Any) -> None:
        """COLUMN_MISSING when the data lacks the column of messages."""
        if self.columns[0] not in columns:
            raise templates.missing_column(self.columns[0], columns)

    def render(self, row: Mapping[str, Any]) -> str:
        """The whole conversation."""
        return self._apply(_messages(row[self.columns[0]]), False)

    def prompt(self, row: Mapping[str, Any]) -> str:
        """The conversation up to where the last answer starts."""
        messages = _messages(row[self.columns[0]])
        if messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return self._apply(messages, True)

    def _apply(self, messages: List[Dict[str, Any]], answer_next: bool) -> str:
        try:
            import jinja2
        except ImportError as error:
            raise package_missing("jinja2", "the tokenizer's chat template", error) from error
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_next))
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise StepError(
                "TEMPLATE_INVALID", "the tokenizer's chat template refuses the messages: {}".format(str(error)[:300]),
                "correct the row, or use another template",
            ) from error  # fmt: skip


class TextTemplate(Template):
    """A ``{column}`` template, with what the others have beside."""

    specials = True

    def bind(self, tokenizer: Any) -> None:
        """Nothing of the tokenizer is used."""


AnyTemplate = Union[TextTemplate, JinjaTemplate, ChatTemplate]


def load(spec: str) -> AnyTemplate:
    """Find the template that ``spec`` means; see the module and ``templates.load``.

    Raises:
        StepError: TEMPLATE_INVALID, FILE_NOT_FOUND, PACKAGE_MISSING.
    """
    if spec == "chat" or (spec.startswith("chat:") and "\n" not in spec):
        return ChatTemplate(spec.partition(":")[2].strip() or "messages")
    if spec.startswith("jinja:"):
        return JinjaTemplate(spec[len("jinja:") :])
    path = os.path.expanduser(spec)
    if "\n" not in spec and "\0" not in spec and spec.lower().endswith(_JINJA_ENDINGS) and os.path.isfile(path):
        return JinjaTemplate(templates.read_file(path))
    if "{%" in spec:
        return JinjaTemplate(spec)
    found = templates.load(spec)
    return TextTemplate(found.text, found.named)


def _messages(value: Any) -> List[Dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise StepError(
            "TEMPLATE_INVALID", "the messages are a {} instead of a list of objects".format(type(value).__name__),
            'a row looks like {"messages": [{"role": "user", "content": "..."}, ...]}',
        )  # fmt: skip
    return [_message(one) for one in value]


def _message(one: Dict[str, Any]) -> Dict[str, Any]:
    if "role" in one:
        return {key: content for key, content in one.items() if content is not None}
    role: Optional[str] = {"human": "user", "gpt": "assistant"}.get(str(one.get("from")), one.get("from"))
    return {"role": role, "content": one.get("value")}
