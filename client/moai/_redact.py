"""Takes secrets out of text and JSON before it leaves the laptop in a report.

Owns what looks like a secret: known token forms, authorization headers, signatures and passwords in
URLs, private keys, token columns of device tables, values of names such as ``HF_TOKEN`` or
``--password``, and every value that one of these rules found, wherever else it stands. Prefers to take
too much: a report without a figure is of use, one with a password is not. Figures that only sound
alike (``pad_token_id``, ``tokens/sec``) stay. Give whole texts: a value cut in two is not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

MARK = "[redacted]"

#: Colours inside a value would hide it: rich paints numbers, a terminal paints matches.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|[\x00\u200b\u2060\ufeff]")

_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_KEY_LINES = re.compile(r"(?:\s{0,8}[A-Za-z0-9+/=:,-]{16,}){0,400}")
_LONGEST_KEY = 20000
#: Forms that are secrets wherever they stand.
_FORMS = re.compile(
    r"hf_[A-Za-z0-9]{6,}|api_org_[A-Za-z0-9]{6,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|(?<![\w-])sk-[\w-]{16,}|(?<!\w)A(?:KIA|SIA)[0-9A-Z]{12,}|xox[abeoprs]-[\w-]{8,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{30,}"
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?|AIza[\w-]{30,}|wandb_v1_\w{8,}"
)
_HEADER = re.compile(
    r"(?P<key>\b(?:proxy-)?authorization\b\\*[\"']?\s*[:=,]\s*\\*[\"']?|\b(?:set-)?cookie\b\\*[\"']?\s*:\s*\\*[\"']?)(?P<value>[^\r\n\"'\\]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(
    r"(?P<key>\b(?:bearer\s+|(?:basic|negotiate|digest)\s+(?=[^\s\"']*[\d+/=_.-])))(?P<value>[\w+/=.~-]{8,})", re.IGNORECASE
)
_USERINFO = re.compile(r"(?P<key>\b[A-Za-z][A-Za-z0-9+.-]{1,20}://)(?P<value>[^\s/@\"'<>]{1,400})@")
_QUERY = re.compile(r"\?(?P<value>[^\s\"'<>?=]{1,200}=[^\s\"'<>]*)")
_SIGNED = re.compile(r"sig|token|key|policy|credential|auth|secret|expires|x-amz|x-goog|x-ms", re.IGNORECASE)
_NETRC = re.compile(r"(?P<key>\blogin\s+\S{1,200}\s+password\s+)(?P<value>\S+)", re.IGNORECASE)

_NAME = re.compile(r"(?<![A-Za-z0-9_])(?P<dashes>-{0,2})(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,120})")
#: What stands between a name and its value: `=`, `: `, `":"`, `', '` of a list, a blank after an option.
_BETWEEN = re.compile(r"\\*[\"']?\]?[ \t]{0,3}(?:=>|:=|[:=])[ \t]{0,3}")
_AFTER_OPTION = re.compile(r"(?:\\*[\"'][ \t]{0,3},[ \t]{0,3}(?=\\*[\"'])|[ \t]+(?=[^\s-]))")
_QUOTED = re.compile(r"[bBuUrRfF]{0,2}(?P<quote>\\*[\"'])(?P<value>(?:(?!(?P=quote)|[\r\n]).){0,8000})")
_BARE = re.compile(r"(?P<value>[^\s|]+)")

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = {
    "token", "secret", "secrets", "password", "passwd", "passphrase", "pwd", "pass", "credential", "credentials", "apikey",
    "auth", "authorization", "cookie", "bearer", "signature", "sas", "dsn", "pat", "accesskey", "secretkey", "privatekey",
}  # fmt: skip
#: Words that make a secret of a `key` behind them.
_KEY_WORDS = {
    "api", "access", "private", "secret", "ssh", "signing", "encryption", "service", "account", "wandb", "openai", "aws",
    "azure", "storage", "license", "licence", "subscription", "client", "master", "deploy", "host", "comet", "neptune",
}  # fmt: skip
#: `token` beside one of these is a matter of tokenizers.
_OF_TOKENIZERS = {
    "pad", "eos", "bos", "unk", "sep", "cls", "mask", "image", "special", "decoder", "start", "end", "id", "ids", "type",
    "count", "counts", "per", "num", "max", "min", "new", "added", "audio", "video", "prefix", "suffix", "tokenizer", "len",
    "length", "index", "level", "rate", "throughput", "suppress", "forced", "begin",
}  # fmt: skip
_HINT = re.compile(r"token|secret|pass|pwd|cred|key|auth|cookie|bearer|sig|sas|dsn|pat", re.IGNORECASE)
_NOT_NAMES = {"PWD", "OLDPWD", "pwd"}
_PLAIN = re.compile(r"(?:true|false|none|null|yes|no|\[redacted\])\W*", re.IGNORECASE)
_BASE64_CELL = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+/_-]{16,}={0,2}")
_SHORTEST = 8


class Redactor:
    """Redacts several texts with what it learnt from all of them: ``learn`` each, then ``text`` or ``value``.

    Args:
        known: secrets known to the laptop; shorter ones than 6 characters are left alone.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = {one for one in known if len(one) >= 6}
        self._pattern: re.Pattern[str] | None = None

    def learn(self, value: Any) -> None:
        """Remember what the rules find in a text or JSON value, so that it is taken out everywhere."""
        for text, name in _strings(value):
            if name and is_secret_name(name):
                self._remember(text)
            self._rules(plain(text))

    def text(self, text: str) -> str:
        """The text without secrets and escape sequences."""
        return self._replace_known(self._rules(self._replace_known(plain(text))))

    def value(self, value: Any, name: str = "") -> Any:
        """A JSON value whose strings hold no secrets; what a secret's name names is gone whole."""
        if isinstance(value, str):
            return MARK if value and name and is_secret_name(name) else self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(inner, str(key)) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return self._list(list(value), name)
        if name and is_secret_name(name) and isinstance(value, int) and not isinstance(value, bool):
            return MARK
        return value

    def _list(self, values: list[Any], name: str) -> list[Any]:
        """Arguments: what follows ``--token`` is its value. Names of secrets (``secrets``) are no secrets."""
        out: list[Any] = []
        for at, one in enumerate(values):
            before = values[at - 1] if at else ""
            option = isinstance(before, str) and before.startswith("-") and "=" not in before and is_secret_name(before.lstrip("-"))
            if option and isinstance(one, str) and not one.startswith("-"):
                self._remember(one)
                out.append(MARK)
            else:
                out.append(self.value(one, "" if name.lower() in ("secrets", "optional_secrets") else name))
        return out

    # -- rules ---------------------------------------------------------------------------------

    def _remember(self, value: str) -> None:
        if len(value) >= _SHORTEST and not _PLAIN.fullmatch(value) and value not in self._known:
            self._known.add(value)
            self._pattern = None

    def _replace_known(self, text: str) -> str:
        if not self._known:
            return text
        if self._pattern is None:
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        return self._pattern.sub(MARK, text)

    def _rules(self, text: str) -> str:
        text = _without_private_keys(text)
        text = _FORMS.sub(self._whole, text)
        text = _USERINFO.sub(lambda m: m["key"] + MARK + "@", text)
        text = _QUERY.sub(lambda m: "?" + (MARK if _SIGNED.search(m["value"]) else m["value"]), text)
        text = _HEADER.sub(lambda m: m["key"] + MARK, text)
        text = _BEARER.sub(self._after_key, text)
        text = _NETRC.sub(self._after_key, text)
        return self._assignments(self._columns(text))

    def _whole(self, found: re.Match[str]) -> str:
        self._remember(found.group())
        return MARK

    def _after_key(self, found: re.Match[str]) -> str:
        self._remember(found["value"])
        return found["key"] + MARK

    def _assignments(self, text: str) -> str:
        """``NAME=value``, ``"name": "value"``, ``--name value``, where the name sounds secret."""
        out: list[str] = []
        done = at = 0
        while (found := _NAME.search(text, at)) is not None:
            at = found.end()
            if not is_secret_name(found["name"]):
                continue
            between = _BETWEEN.match(text, at) or (_AFTER_OPTION.match(text, at) if found["dashes"] else None)
            if between is None:
                continue
            value = _QUOTED.match(text, between.end()) or _BARE.match(text, between.end())
            if value is None or not value["value"]:
                continue
            if not _PLAIN.fullmatch(value["value"]):
                self._remember(value["value"].rstrip("\"',;)}]"))
                out += [text[done : value.start("value")], MARK]
                done = value.end("value")
            at = value.end("value")
        return "".join([*out, text[done:]])

    def _columns(self, text: str) -> str:
        """Token cells of device tables; cells that look like one in rows that lost their header."""
        if "|" not in text:
            return text
        lines = text.split("\n")
        columns: list[int] = []
        width = 0
        for at, line in enumerate(lines):
            row = line.strip()
            if len(row) < 3 or row[0] != "|" or row[-1] != "|":
                if row and not set(row) <= set("+-=*| "):
                    columns, width = [], 0
                continue
            cells = row[1:-1].split("|")
            names = [cell.strip("*` ").lower() for cell in cells]
            if any(name in ("device", "dev", "#") for name in names):
                columns, width = [n for n, name in enumerate(names) if "token" in name], len(cells)
                continue
            for n, cell in enumerate(cells):
                value = cell.strip()
                in_column = n in columns and len(cells) == width and value not in ("", "-")
                if in_column or _BASE64_CELL.fullmatch(value):
                    self._remember(value)
                    line = line.replace(value, MARK)
            lines[at] = line
        return "\n".join(lines)


def _without_private_keys(text: str) -> str:
    """Keys in PEM form up to their last line; up to where their letters end when that is missing."""
    out: list[str] = []
    done = 0
    while (begin := _KEY_BEGINS.search(text, done)) is not None:
        end = text.find("-----END ", begin.end(), begin.end() + _LONGEST_KEY)
        lines = _KEY_LINES.match(text, begin.end())
        stop = text.find("-----", end + 9) + 5 if end >= 0 else lines.end() if lines else begin.end()
        out += [text[done : begin.start()], MARK]
        done = max(stop, begin.end())
    return "".join([*out, text[done:]])


def plain(text: str) -> str:
    """The text without escape sequences and characters that are not seen."""
    return _ESCAPES.sub("", text)


def is_secret_name(name: str) -> bool:
    """Whether a variable, option, header or field of that name holds a secret, as far as one can tell."""
    if name in _NOT_NAMES or not _HINT.search(name):
        return False
    words = [word.lower() for word in _WORDS.findall(name)]
    for at, word in enumerate(words):
        if word in ("token", "tokens"):
            if word == "token" and not _OF_TOKENIZERS & set(words):
                return True
        elif word in _SECRET_WORDS:
            # `secrets` in a specification lists names; in capitals or as part of a name it is one.
            if word not in ("secrets", "pass", "pat", "dsn", "sas", "pwd", "signature") or len(words) > 1:
                return True
        elif word in ("key", "keys") and at and (words[at - 1] in _KEY_WORDS or (name.isupper() and at == len(words) - 1)):
            return True
    return False


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(text, name of its field) of every string in a JSON value."""
    if isinstance(value, str):
        yield value, name
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner, "" if name.lower() in ("secrets", "optional_secrets") else name)
