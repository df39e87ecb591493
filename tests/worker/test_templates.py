"""Templates: the tutorials' texts exactly, plain fields only, mistakes named with their place."""

import pytest
from moai_worker import templates
from moai_worker.errors import StepError
from moai_worker.templates import Template, load

ROW = {"article": "A long story.", "highlights": "Short."}


def _error(call, *args):
    with pytest.raises(StepError) as caught:
        call(*args)
    return caught.value


def test_summarize_is_the_tutorials_text():
    template = load("summarize")
    assert template.columns == ["article", "highlights"]
    assert template.render(ROW) == "[SUMMARIZE] A long story. [/SUMMARIZE]\nShort.</s>"
    assert template.prompt(ROW) == "[SUMMARIZE] A long story. [/SUMMARIZE]\n"
    assert template.ending == "</s>"


def test_the_prompt_needs_no_answer_and_survives_a_quoted_marker():
    row = {"article": "It said [/SUMMARIZE]\n and went on."}
    assert load("summarize").prompt(row) == "[SUMMARIZE] It said [/SUMMARIZE]\n and went on. [/SUMMARIZE]\n"


@pytest.mark.parametrize(
    "name, row, text, prompt",
    [
        (
            "mistral",
            {"prompt": "Do.\n### Output:\nx = 1"},
            "Do.\n### Output:\nx = 1</s>",
            "Do.\n### Output:\n",
        ),
        ("qwen", {"prompt": "only a question"}, "only a question<|endoftext|>", "only a question"),
        (
            "baichuan2",
            {"instruction": "Help", "category": "C", "intent": "i", "response": "Yes"},
            "[INST] Help \n Category is C \n Intent is i [/INST]\nYes",
            "[INST] Help \n Category is C \n Intent is i [/INST]\n",
        ),
        (
            "gpt",
            {"instruction": "Add", "output": "1+1"},
            "[INST] Add [/INST]\n1+1</s>",
            "[INST] Add [/INST]\n",
        ),
        (
            "Llama3",
            ROW,
            "[SUMMARIZE] A long story. [/SUMMARIZE]\nShort.</s>",
            "[SUMMARIZE] A long story. [/SUMMARIZE]\n",
        ),
    ],
)
def test_named_templates(name, row, text, prompt):
    assert load(name).render(row) == text
    assert load(name).prompt(row) == prompt


def test_own_text_with_doubled_braces_and_repeated_columns():
    template = load("{{json: {a}}} {b} {a}\n{c}")
    assert template.columns == ["a", "b", "c"]
    row = {"a": 1, "b": None, "c": "z"}
    assert template.render(row) == "{json: 1}  1\nz"
    assert template.prompt(row) == "{json: 1}  1\n"


def test_columns_may_have_spaces_and_other_letters():
    assert load("{input text}: {요약}").render({"input text": "a", "요약": "b"}) == "a: b"


def test_a_file_is_a_template_too(tmp_path):
    path = tmp_path / "mine {odd}.txt"
    path.write_bytes(b"\xef\xbb\xbfQ: {q}\r\nA: {a}\r\n")
    template = load(str(path))
    assert template.render({"q": "x", "a": "y"}) == "Q: x\nA: y"
    assert template.prompt({"q": "x"}) == "Q: x\nA: "


@pytest.mark.parametrize(
    "text, place, words",
    [
        ("one\ntwo {a", ("2", "5"), "without its }"),
        ("{a} }", ("1", "5"), "closes nothing"),
        ("{a.__class__}", ("1", "1"), "attributes"),
        ("{a[0]}", ("1", "1"), "items"),
        ("{a!r}", ("1", "1"), "conversions"),
        ("{a:>99999999}", ("1", "1"), "format codes"),
        ("x {}", ("1", "3"), "without a column name"),
        ("{a {b}}", ("1", "1"), "without its }"),
    ],
)
def test_mistakes_are_named_with_line_and_column(text, place, words):
    error = _error(load, text)
    assert error.reason == "TEMPLATE_INVALID" and words in error.message and error.next
    assert (error.details["line"], error.details["column"]) == place


def test_a_text_without_fields_or_a_misspelt_name_is_refused():
    assert "uses no column" in _error(Template, "hello").message
    error = _error(load, "sumarize")
    assert error.reason == "TEMPLATE_INVALID" and "'summarize'" in error.next
    assert _error(load, "no/such/file.txt").reason == "FILE_NOT_FOUND"


def test_a_missing_column_names_the_others_and_the_nearest():
    error = _error(load("{highlights}").check_columns, ["article", "Highlight", "id"])
    assert error.reason == "COLUMN_MISSING"
    assert "'highlights'" in error.message and "'article', 'Highlight', 'id'" in error.message
    assert error.next == "did you mean 'Highlight'?"
    assert _error(load("{zzz}").render, {"article": "x"}).reason == "COLUMN_MISSING"


def test_lists_are_no_text():
    error = _error(load("{a}").render, {"a": ["x"]})
    assert error.reason == "TEMPLATE_INVALID" and "list" in error.message


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"{a} \xff")
    assert "not UTF-8" in _error(load, str(tmp_path / "t.txt")).message


def test_every_named_template_parses_and_its_marker_fits():
    for name, named in templates.NAMED.items():
        assert load(name).named is named
        assert set(templates.ALIASES.values()) <= set(templates.NAMED)
