"""The language of what is said to people: Korean when ``MOAI_LANG=ko`` or the locale says so, else English.

Names, commands, JSON and the log stay as they are; the message of an error keeps its English words below a
Korean sentence that says what kind of error it is.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from importlib.resources import files

_KOREAN = {
    "error": "오류",
    "next": "다음",
    "output": "결과",
    "SUCCEEDED": "성공",
    "FAILED": "실패",
    "CANCELLED": "취소됨",
    "INTERRUPTED": "중단됨",
    "UNKNOWN": "알 수 없음",
    "{job} on {host}. Ctrl-C detaches; the job goes on.": "{host}에서 {job} 시작. Ctrl-C는 화면만 뗍니다. 작업은 계속됩니다.",
    "detached; {job} goes on. moai remote attach {job} comes back, moai remote cancel {job} ends it": (
        "화면을 뗐습니다. {job} 작업은 계속됩니다. 다시 보기: moai remote attach {job}, 끝내기: moai remote cancel {job}"
    ),
    "the link is gone ({why}); reconnecting. The job goes on.": "연결이 끊겼습니다({why}). 다시 연결하는 중입니다. 작업은 계속됩니다.",
    "the link is back": "연결이 돌아왔습니다.",
}


def language() -> str:
    """``ko`` or ``en``: MOAI_LANG, else LC_ALL, LC_MESSAGES, LANG, in this order."""
    for name in ("MOAI_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return "ko" if value.lower().startswith("ko") else "en"
    return "en"


def say(text: str, **values: str) -> str:
    """A fixed text in the user's language, its ``{names}`` filled in."""
    if language() == "ko":
        text = _KOREAN.get(text, text)
    return text.format(**values) if values else text


def state_word(state: str) -> str:
    """A state for people: its name, with a Korean word beside it where Korean is spoken."""
    return f"{state}({_KOREAN[state]})" if language() == "ko" and state in _KOREAN else state


def reason_sentence(reason: str) -> str:
    """What kind of error a reason is, in Korean; "" in English, where the message says it."""
    return _sentences().get(reason, "") if language() == "ko" else ""


@lru_cache(maxsize=1)
def _sentences() -> dict[str, str]:
    return dict(json.loads(files("moai._cli").joinpath("ko.json").read_text(encoding="utf-8")))
