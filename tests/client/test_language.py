"""Korean where Korean is spoken: errors, endings, the fixed talk; names, commands and JSON stay."""

import json

import pytest
from moai._cli import language


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "MOAI_LANG": "ko"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "MOAI_LANG": "en"}, "en"),
        ({"LC_MESSAGES": "ko_KR"}, "ko"),
    ],
)
def test_the_language_is_that_of_the_variable_or_the_locale(monkeypatch, variables, expected):
    for name in ("MOAI_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language.language() == expected


def test_every_fixed_text_keeps_its_values(monkeypatch):
    import string

    for english, korean in language._KOREAN.items():
        names = {field for _, field, _, _ in string.Formatter().parse(english) if field}
        assert {field for _, field, _, _ in string.Formatter().parse(korean) if field} == names, english
    monkeypatch.setenv("MOAI_LANG", "ko")
    assert language.state_word("FAILED") == "FAILED(실패)" and language.state_word("RUNNING") == "RUNNING"
    monkeypatch.setenv("MOAI_LANG", "en")
    assert language.state_word("FAILED") == "FAILED" and language.reason_sentence("USAGE") == ""


def test_errors_and_endings_are_said_in_korean(local):
    unknown = local.moai("remote", "show", "nosuch", "--on", "local", MOAI_LANG="ko")
    lines = unknown.stderr.decode("utf-8").splitlines()
    assert unknown.returncode == 1
    assert lines[0].startswith("오류: ") and lines[0].endswith(" [JOB_NOT_FOUND]")
    assert "nosuch" in lines[1] and lines[2] == "  다음: moai remote jobs"
    failed = local.moai("remote", "run", "--on", "local", "--", "sh", "-c", "exit 3", MOAI_LANG="ko")
    said = failed.stderr.decode("utf-8")
    assert failed.returncode == 3 and "FAILED(실패)" in said and "  다음" in said
    as_json = local.moai("remote", "show", "nosuch", "--on", "local", "--json", MOAI_LANG="ko")
    assert json.loads(as_json.stdout) == {
        "reason": "JOB_NOT_FOUND", "message": "there is no job 'nosuch' on this host", "next": "moai remote jobs",
    }  # fmt: skip
