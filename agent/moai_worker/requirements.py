"""Requirements files: read with those they name, mended where a known mistake stands, copied for pip.

Owns the table of mistakes that the platform's tutorials carry (github.com/moreh-dev/quickstart, 2024):
a name that lost its first letter, a blank after ``==``, a pin of the framework's torch that would
change its version, a tokenizers that its transformers refuses. Each repair is told with file, line,
what was wrong and what is used instead. Every other line goes to pip as it is: this is no parser of
requirements (PEP 508), and what it does not know it does not judge.

Nothing of the user's is changed: pip gets copies. Standard library only; runs in a step.
"""

import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .errors import StepError

#: ``1.13.1+cu116.moreh24.5.0``: a build of the Moreh framework.
MOREH = re.compile(
    r"(?P<torch>\d+\.\d+\.\d+)\+(?:[a-z0-9]+\.)?moreh(?P<moreh>\d+\.\d+\.\d+)", re.ASCII | re.IGNORECASE
)
#: The local part of torch's version names the CUDA release it imitates; later ones name none.
_CUDA = {"1.7.1": "cu110.", "1.10.0": "cu111.", "1.13.1": "cu116."}

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PIN = re.compile(
    r"^(?P<lead>\s*)(?P<name>" + _NAME + r")(?P<extras>\[[^\]]*\])?(?P<before>\s*)===?(?P<gap>\s*)"
    r"(?P<version>[^\s;,#\\*]+)(?P<rest>\s*(?:;[^#]*)?(?:\s#.*)?)$"
)
_NAMED = re.compile(r"^\s*(?P<name>" + _NAME + r")\s*(?:\[[^\]]*\])?\s*(?P<spec>[^;#]*)")
_NESTED = re.compile(r"^(?P<option>\s*(?:-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-[rc])))(?P<path>[^\s#]+)")
_LINKS = re.compile(r"^(?P<option>\s*(?:-f|--find-links)(?:\s+|=))(?P<path>[^\s#]+)")
_MOST_FILES = 50
_MOST_BYTES = 4 << 20

#: Names that lost their first letter, as three commits of May 2024 have one.
_TYPOS = {"ccelerate": "accelerate", "ransformers": "transformers", "atasets": "datasets", "okenizers": "tokenizers"}

#: transformers from this version on -> what it requires of tokenizers (the setup.py of each release).
_TOKENIZERS: Sequence[Tuple[Tuple[int, ...], str]] = (
    ((4, 47), ">=0.21,<0.22"),
    ((4, 45), ">=0.20,<0.21"),
    ((4, 40), ">=0.19,<0.20"),
    ((4, 35, 1), ">=0.14,<0.19"),
    ((4, 34), ">=0.14,<0.15"),
    ((4, 22), ">=0.11.1,<0.14"),
)
#: Later releases are left to pip.
_TOKENIZERS_END = (4, 52)


class Repair(NamedTuple):
    """One line that was mended.

    Attributes:
        file, line: where it stands, 1-based. was: the line. why: what is wrong with it.
        used: what pip gets instead; "" for nothing.
    """

    file: str
    line: int
    was: str
    why: str
    used: str

    def text(self) -> str:
        """A sentence for people."""
        instead = "used instead: {}".format(self.used) if self.used else "left out"
        return "{} line {}: {!r} {}; {}".format(self.file, self.line, self.was.strip(), self.why, instead)


class Prepared(NamedTuple):
    """What pip is given: copies of the files asked for, and the repairs made in them."""

    paths: List[str]
    repairs: List[Repair]


def moreh_version(torch: str, moreh: str) -> str:
    """The version string of a Moreh build of torch: ``1.13.1+cu116.moreh24.5.0``."""
    return "{}+{}moreh{}".format(torch, _CUDA.get(torch, ""), moreh)


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> Tuple[int, ...]:
    """The leading integers of a version; () when it begins with none."""
    found: List[int] = []
    for part in version.split("+")[0].split("."):
        digits = re.match(r"\d{1,9}", part, re.ASCII)
        if digits is None:
            break
        found.append(int(digits.group()))
        if digits.group() != part:
            break
    return tuple(found)


def wants_other_torch(requirement: str, protected: Dict[str, str]) -> Optional[str]:
    """The name of a protected package that a requirement pins to another version, or None."""
    found = _PIN.match(requirement)
    if found is None:
        return None
    name = canonical(found.group("name"))
    have = protected.get(name)
    if have is None or found.group("version") in (have, have.split("+")[0]):
        return None
    return name


def prepare(
    paths: Sequence[str],
    files: Sequence[Dict[str, str]],
    asked: int,
    folder: str,
    protected: Dict[str, str],
    cwd: str = "",
) -> Prepared:
    """Copy requirements files into ``folder``, mended.

    Args:
        paths: files on this machine, relative to ``cwd``; those they name are followed.
        files: ``{"name", "text"}`` of files from elsewhere, which may name each other.
        asked: how many of ``files``, from the front, are asked for themselves.
        protected: distributions (canonical name -> version) that must stay as they are.

    Raises:
        StepError: FILE_NOT_FOUND, USAGE (not text, too many, too large).
    """
    copier = _Copier(folder, {one["name"]: one["text"] for one in files}, protected)
    wanted = [copier.local(os.path.join(cwd, os.path.expanduser(path)), path) for path in paths]
    wanted += [copier.sent(one["name"]) for one in files[:asked]]
    return Prepared(wanted, copier.repairs)


class _Copier:
    def __init__(self, folder: str, sent: Dict[str, str], protected: Dict[str, str]) -> None:
        self._folder, self._sent, self._protected = folder, sent, protected
        self._copies: Dict[str, str] = {}
        self.repairs: List[Repair] = []
        os.makedirs(folder, exist_ok=True)

    def local(self, path: str, shown: str) -> str:
        path = os.path.abspath(path)
        key = "file:" + os.path.realpath(path)
        if key not in self._copies:
            text = read(path, shown)
            self._copies[key] = self._reserve(os.path.basename(path))
            self._write(self._copies[key], text, shown, os.path.dirname(path))
        return self._copies[key]

    def sent(self, name: str) -> str:
        key = "sent:" + name
        if key not in self._copies:
            self._copies[key] = self._reserve(os.path.basename(name))
            self._write(self._copies[key], self._sent[name], name, "")
        return self._copies[key]

    def _reserve(self, name: str) -> str:
        if len(self._copies) >= _MOST_FILES:
            raise StepError(
                "USAGE", "the requirements name more than {} files".format(_MOST_FILES), "put them into one file"
            )
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name) or "requirements.txt"
        return os.path.join(self._folder, "{}-{}".format(len(self._copies) + 1, safe))

    def _write(self, copy: str, text: str, shown: str, base: str) -> None:
        lines, repairs = mend(text, shown, self._protected)
        self.repairs += repairs
        lines = [self._placed(line, base) for line in lines]
        with open(copy, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")

    def _placed(self, line: str, base: str) -> str:
        """A line whose path still leads to the same place from the copy."""
        nested = _NESTED.match(line)
        if nested and "://" not in nested.group("path"):
            name = nested.group("path")
            if not base and name in self._sent:
                there = self.sent(name)
            elif base or os.path.isabs(name):
                there = self.local(os.path.join(base, name), name)
            else:
                raise StepError("FILE_NOT_FOUND", "the requirements name {}, which was not sent".format(name))
            return nested.group("option") + there + line[nested.end() :]
        links = _LINKS.match(line)
        if links and base and os.path.exists(os.path.join(base, links.group("path"))):
            return links.group("option") + os.path.join(base, links.group("path")) + line[links.end() :]
        return line


def read(path: str, shown: str) -> str:
    """A small text file. Raises StepError (FILE_NOT_FOUND, USAGE)."""
    try:
        with open(path, "rb") as source:
            raw = source.read(_MOST_BYTES + 1)
    except OSError as error:
        raise StepError(
            "FILE_NOT_FOUND",
            "{} cannot be read on the container: {}".format(shown, error.strerror),
            "check the path, or send the laptop's file with laptop:PATH",
        )
    if len(raw) > _MOST_BYTES:
        raise StepError("USAGE", "{} is larger than {} MiB".format(shown, _MOST_BYTES >> 20), "name a text file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise StepError("USAGE", "{} is not UTF-8 text".format(shown), "save it as UTF-8")


def mend(text: str, shown: str, protected: Dict[str, str]) -> Tuple[List[str], List[Repair]]:
    """The lines of a file with known mistakes mended, and what was done.

    Args:
        shown: the file's name for people. protected: as in ``prepare``.
    """
    lines = text.splitlines()
    repairs: List[Repair] = []
    pins: Dict[str, Tuple[int, str]] = {}
    for at, line in enumerate(lines):
        continued = line.rstrip().endswith("\\") or (at > 0 and lines[at - 1].rstrip().endswith("\\"))
        found = None if continued else _PIN.match(line)
        if found is None:
            continue
        why, used = _mended(found, protected)
        if why:
            repairs.append(Repair(shown, at + 1, line, why, used))
            lines[at] = used if used else "# " + line
        again = _PIN.match(lines[at])
        if again:
            pins[canonical(again.group("name"))] = (at, again.group("version"))
    conflict = _tokenizers(lines, pins, shown)
    if conflict is not None:
        lines[conflict.line - 1] = conflict.used
        repairs.append(conflict)
    return lines, repairs


def _mended(found: "re.Match[str]", protected: Dict[str, str]) -> Tuple[str, str]:
    """(what is wrong with a pin, what is used instead); ("", "") when nothing is."""
    name, version = found.group("name"), found.group("version")
    have = protected.get(canonical(name))
    if have is not None and MOREH.fullmatch(version) and version != have:
        return (
            "pins another build of the Moreh framework than the environment's {} {}, and would replace it".format(
                canonical(name), have
            ),
            "",
        )
    reasons = []
    right = _TYPOS.get(name.lower())
    if right:
        reasons.append("names no package: the first letter of {} is missing".format(right))
        name = right
    if found.group("gap") and not right:
        reasons.append("has a blank after ==")
    if not reasons:
        return "", ""
    return " and ".join(reasons), "{}{}=={}{}".format(
        name, found.group("extras") or "", version, found.group("rest").rstrip()
    )


def _tokenizers(lines: List[str], pins: Dict[str, Tuple[int, str]], shown: str) -> Optional[Repair]:
    """A pin of tokenizers that the pinned transformers refuses."""
    if "tokenizers" not in pins or "transformers" not in pins:
        return None
    at, tokenizers = pins["tokenizers"]
    transformers = numbers(pins["transformers"][1])
    wanted = next((spec for since, spec in _TOKENIZERS if transformers >= since), None)
    if wanted is None or transformers >= _TOKENIZERS_END or _within(numbers(tokenizers), wanted):
        return None
    why = "does not go with transformers {}, which requires tokenizers{}".format(pins["transformers"][1], wanted)
    return Repair(shown, at + 1, lines[at], why, "tokenizers" + wanted)


def _within(version: Tuple[int, ...], spec: str) -> bool:
    low, high = (numbers(part.lstrip(">=<")) for part in spec.split(","))
    return low <= version < high


def requirement_names(lines: Sequence[str]) -> Dict[str, Any]:
    """Canonical name -> what is required of it, of the plain lines among requirements."""
    found: Dict[str, Any] = {}
    for line in lines:
        named = _NAMED.match(line)
        if named and "://" not in line and "/" not in named.group("name"):
            found[canonical(named.group("name"))] = named.group("spec").strip()
    return found
