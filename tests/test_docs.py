"""The documentation and the code say the same: reasons, exit codes, commands, JSON fields."""

import json
import re
from pathlib import Path

import moai._errors
import moai_agent.errors
import pytest
from moai._cli import common
from moai._cli.lazy import load
from moai._cli.main import REMOTE, TOP
from moai_agent.jobs import fault_rules
from moai_proto.v1 import errors_pb2

REPO = Path(__file__).resolve().parents[1]
DOCS = REPO / "docs"
SCHEMAS = REPO / "client" / "moai" / "schemas"
REASONS = [name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()]
DOCUMENTED = [name for name in REASONS if name != "UNSPECIFIED"]
#: What a job's end makes of the command that follows it.
JOB_CODES = {3, 6, 7, 8}
SOURCES = sorted(p for folder in ("client", "agent") for p in (REPO / folder).rglob("*.py"))
PAGES = sorted([*DOCS.rglob("*.md"), *REPO.glob("README*.md")])


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# -- reasons ---------------------------------------------------------------------------------------


def sections(page: str) -> dict[str, str]:
    """Heading of the second level -> its text, of a page of reasons; repeated headings are an error."""
    found: dict[str, str] = {}
    for part in re.split(r"^## ", read(DOCS / page), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        assert heading not in found, f"{page} has two sections {heading}"
        found[heading] = re.split(r"^# ", body, flags=re.MULTILINE)[0]
    return found


@pytest.mark.parametrize("page", ["errors.md", "errors.ko.md"])
def test_every_reason_has_one_section_in_the_order_of_the_contract(page):
    assert list(sections(page)) == DOCUMENTED


@pytest.mark.parametrize("page", ["errors.md", "errors.ko.md"])
def test_a_section_is_short(page):
    long = {name: body for name, body in sections(page).items() if not 2 <= len(re.findall(r"^- ", body, re.M)) <= 5}
    assert not long


def exit_codes(body: str) -> set[int]:
    line = re.search(r"^- (?:Exit code|종료 코드): (.*)$", body, re.M)
    assert line, body
    text = re.sub(r"`[^`]*`", "", line.group(1))
    # 126 and 127 are the job's own codes, not ours.
    return {int(code) for code in re.findall(r"\b\d+\b|(?<!\d)\d+(?!\d)", text)} - {126, 127}


def test_the_exit_codes_of_a_section_are_those_of_the_code():
    for name, body in sections("errors.md").items():
        own = moai._errors.CLASSES[name].exit_code
        codes = exit_codes(body)
        assert codes <= {own} | JOB_CODES, name
        assert own in codes or "as the end of a job" in body or "condition, not a failure" in body, name


def test_both_languages_give_the_same_exit_codes_and_commands():
    english, korean = sections("errors.md"), sections("errors.ko.md")
    for name in DOCUMENTED:
        assert exit_codes(english[name]) == exit_codes(korean[name]), name
        assert sorted(spans(english[name])) == sorted(spans(korean[name])), name


def test_the_laptop_has_one_class_for_every_reason():
    named = [name for names in moai._errors._GROUPS.values() for name in names.split()]
    assert sorted(named) == sorted(REASONS)
    assert set(moai._errors.CLASSES) == set(REASONS)


def test_the_agent_has_one_status_for_every_reason():
    named = [name for names in moai_agent.errors._GROUPS.values() for name in names.split()]
    assert sorted(named) == sorted(REASONS)
    assert set(moai_agent.errors.STATUS) == set(REASONS)


#: Calls whose first text is a reason.
_RAISED = re.compile(
    r"\b(?:AgentError|StepError|MoaiError|UsageError|PersonNeeded|JobFailed|WaitTimeout|DeviceError|_reason|_error)"
    r"\(\s*[\"']([A-Z][A-Z0-9_]*)[\"']"
)


def test_every_reason_in_the_sources_is_in_the_contract():
    used = [(path.relative_to(REPO), name) for path in SOURCES for name in _RAISED.findall(read(path))]
    assert len(used) > 200, "the expression does not find them any more"
    assert [(str(path), name) for path, name in used if name not in DOCUMENTED] == []


def test_every_reason_read_from_a_log_is_in_the_contract():
    rules = [rule.code for rule in (*fault_rules._ANYWHERE, *fault_rules._IN_EXCEPTION)]
    assert set(rules) | {code for code, _ in fault_rules._CLASSES.values()} <= set(DOCUMENTED)


# -- exit codes ------------------------------------------------------------------------------------


def test_the_table_of_exit_codes_is_that_of_the_classes():
    table = [int(code) for code in re.findall(r"^\| (\d+) \|", read(DOCS / "exit-codes.md"), re.M)]
    classes = {cls.exit_code for cls in (*moai._errors.CLASSES.values(), *moai._errors.ENDINGS.values())}
    assert table == sorted({0, 130} | classes)


def test_the_order_of_several_hosts_is_the_one_used():
    order = re.search(r"\d(?: > \d)+", read(DOCS / "exit-codes.md"))
    assert order and tuple(int(code) for code in order.group().split(" > ")) == common.SEVERITY


# -- commands --------------------------------------------------------------------------------------


def spans(text: str) -> list[str]:
    """Code of a Markdown text: spans, and lines of blocks, each without its line breaks."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]


def commands(text: str) -> list[list[str]]:
    """The words behind each ``moai`` that is typed in the code of a page, up to a comment, a pipe or ``--``."""
    found = []
    for code in spans(text):
        for typed in re.finditer(r"(?:^|[\s;&|(])moai((?: +[^\s`;&|#)]+)+)", code):
            words = typed.group(1).split()
            found.append(words[: words.index("--")] if "--" in words else words)
    return found


def aliases(table):
    return {alias: name for name, entry in table.items() for alias in [name, *entry.aliases]}


def wrong(words: list[str]) -> str:
    """What of a command does not exist; "" when all does. Placeholders in capitals are not looked at."""
    table = TOP
    for known, place in ((TOP, "moai"), (REMOTE, "moai remote")):
        if not words or words[0].startswith(("-", "[")) or not words[0].islower():
            return ""
        table, verb = known, words.pop(0)
        if verb not in aliases(table):
            return f"{place} {verb}"
        if verb != "remote":
            break
    command = load(table[aliases(table)[verb]].module, aliases(table)[verb])
    members = getattr(command, "commands", None)
    if members and words and words[0].islower() and not words[0].startswith("-"):
        if words[0] not in members:
            return f"{verb} {words[0]}"
        command = members[words.pop(0)]
    options = {name for p in command.params for name in [*p.opts, *p.secondary_opts]} | {"--help"}
    unknown = [w for w in words if re.match(r"^--[a-z]", w) and w.partition("=")[0].rstrip(".,") not in options]
    return f"{verb} {' '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_every_command_in_the_documentation_exists(page):
    assert [problem for words in commands(read(page)) if (problem := wrong(list(words)))] == []


def test_commands_are_found_in_code_and_judged():
    text = "`moai remote nothing`, moai remote prose, `moai remote ps --on\nkt --bad x -- ls --all`\n```sh\n$ moai version | cat\n```\n"
    found = commands(text)
    assert [wrong(words) for words in found] == ["", "moai remote nothing", "ps --bad"]
    assert wrong(["remote", "env", "erase"]) == "env erase"
    assert wrong(["bundle", "build", "TARGET", "-o", "x"]) == ""


def test_every_command_the_code_tells_to_type_exists():
    found = []
    for path in SOURCES:
        for typed in re.finditer(r"\bmoai remote ([a-z]+)(?: (list|show|install|create|switch|reset|select)\b)?", read(path)):
            words = ["remote", *[word for word in typed.groups() if word]]
            if wrong(list(words)):
                found.append(f"{path.relative_to(REPO)}: {' '.join(words)}")
    assert found == []


# -- tests named by a page -------------------------------------------------------------------------


def test_every_test_that_the_page_on_reliability_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", read(DOCS / "reliability.md"))
    assert len(named) > 50
    missing = [f"{path}::{name}" for path, name in named if not re.search(rf"^(?:async )?def {name}\(", read(REPO / path) if (REPO / path).exists() else "", re.M)]
    assert missing == []


# -- JSON ------------------------------------------------------------------------------------------


def resolved(node, root):
    """The node a ``$ref`` of this file points to."""
    return root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def can_be_null(node, root) -> bool:
    node = resolved(node, root)
    kinds = node.get("type", [])
    return (
        "null" in ([kinds] if isinstance(kinds, str) else kinds)
        or None in node.get("enum", [])
        or ("const" in node and node["const"] is None)
        or any(can_be_null(part, root) for part in node.get("anyOf", []))
        or not any(key in node for key in ("type", "enum", "const", "anyOf", "oneOf", "$ref"))
    )


def fields(node, root, before: str = "") -> dict[str, bool]:
    """Path -> may be null, of every field of an object that is not one of the shared parts."""
    found = {}
    for name, inner in node.get("properties", {}).items():
        path = before + name
        found[path] = can_be_null(inner, root)
        for part in [inner, *inner.get("anyOf", [])]:
            found.update(fields(part, root, path + "."))
            if isinstance(part.get("items"), dict):
                found.update(fields(part["items"], root, path + "[]."))
            if isinstance(part.get("additionalProperties"), dict):
                found.update(fields(part["additionalProperties"], root, path + ".*."))
    return found


def table_under(heading: str) -> dict[str, bool]:
    """Path -> may be null, as the table below a heading of docs/json.md says."""
    text = read(DOCS / "json.md")
    part = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert part, f"docs/json.md has no section {heading}"
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", part.group(2), re.M)
    return {path: kind == "any" or bool(re.search(r"\bnull\b", kind)) for path, kind in rows}


def schema(name: str):
    return json.loads(read(SCHEMAS / f"{name}.json"))


DOCUMENTS = [p.stem for p in sorted(SCHEMAS.glob("*.json")) if p.stem not in ("events-1", "job-1")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_of_a_document_is_described(name):
    root = schema(name)
    assert table_under(root["title"]) == fields(root, root)


def test_every_field_of_a_job_is_described():
    root = schema("job-1")
    both = table_under("A job") | table_under("moai.job/1")
    assert both == fields(root, root)
    assert table_under("A job") == fields(schema("jobs-1")["$defs"]["job"], schema("jobs-1"))


def test_every_field_of_the_shared_parts_is_described():
    root = schema("jobs-1")
    for heading, name in (("A reason", "reason"), ("An error of a host", "host_error")):
        assert table_under(heading) == fields(root["$defs"][name], root)
    assert table_under("An error") == fields(schema("error-1"), schema("error-1"))


def test_every_field_of_every_event_is_described():
    root = schema("events-1")
    kinds = {name.removeprefix("event_"): node for name, node in root["$defs"].items() if name.startswith("event_")}
    assert sorted(kinds) == sorted(["state", "step", "phase", "progress", "metric", "message", "artifact", "gap"])
    for kind, node in kinds.items():
        assert table_under(kind) == fields(node["properties"]["data"], root)
        assert list(table_under("The event stream")) == list(node["properties"])
    assert table_under("log") == fields(root["$defs"]["log"], root)


def test_shared_parts_are_the_same_in_every_schema():
    seen: dict[str, tuple[str, str]] = {}
    for path in sorted(SCHEMAS.glob("*.json")):
        for name, node in schema(path.stem).get("$defs", {}).items():
            text = json.dumps(node, sort_keys=True)
            first = seen.setdefault(name, (path.stem, text))
            assert first[1] == text, f"{name} differs in {first[0]} and {path.stem}"


def test_every_schema_is_listed():
    listed = set(re.findall(r"`([a-z-]+-1)\.json`", read(DOCS / "json.md")))
    assert listed == {p.stem for p in SCHEMAS.glob("*.json")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_every_link_of_a_page_leads_somewhere(page):
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", read(page))):
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (page.parent / target) if target else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", read(there), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{target}#{anchor}"


def test_the_korean_sentences_are_those_of_the_page():
    import importlib.util
    import json

    spec = importlib.util.spec_from_file_location("korean", REPO / "scripts" / "korean.py")
    korean = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(korean)
    made = korean.sentences(korean.PAGE.read_text(encoding="utf-8"))
    assert json.loads(korean.TARGET.read_text(encoding="utf-8")) == made, "run scripts/korean.py"


# -- the checklist of docs/security.md -------------------------------------------------------------

CHECKLIST = {"H": 7, "A": 5, "G": 7, "F": 3, "K": 6, "C": 3, "P": 4, "X": 3, "U": 3, "Y": 5, "W": 1, "I": 6}


def checklist() -> dict[str, tuple[str, str]]:
    """id -> (what holds, what shows it)."""
    rows = re.findall(r"^\| ([A-Z]-\d) \| (.*?) \| (.*?) \|$", read(DOCS / "security.md"), re.M)
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


def test_every_line_of_the_security_checklist_has_a_test_or_an_exception():
    rows = checklist()
    assert set(rows) == {f"{letter}-{number}" for letter, count in CHECKLIST.items() for number in range(1, count + 1)}
    assert [i for i, (what, tests) in rows.items() if "::" not in tests and "Exception" not in what] == []


def test_every_test_the_security_checklist_names_exists():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", read(DOCS / "security.md"))
    assert len(named) > 100
    missing = [f"{file}::{name}" for file, name in named if not re.search(rf"^ *(async )?def {name}\(", read(REPO / "tests" / file), re.M)]
    assert missing == []
