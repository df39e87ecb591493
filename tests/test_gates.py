"""What the sources must not do, read from their syntax trees: a gate, not a style.

Each exception is named with its reason; one that is no longer needed fails too.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SOURCES = {str(p.relative_to(REPO)): p for folder in ("client", "agent") for p in sorted((REPO / folder).rglob("*.py"))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in SOURCES.items()}


@functools.cache
def nodes() -> dict[str, list[ast.AST]]:
    """Calls, imports and lists of every file, read once."""
    wanted = (ast.Call, ast.Import, ast.ImportFrom, ast.List)
    return {name: [n for n in ast.walk(ast.parse(text, name)) if isinstance(n, wanted)] for name, text in TEXTS.items()}

#: Reading these runs code of whoever wrote them.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "ruamel", "jsonpickle"}
ALLOWED_MODULES = {
    ("agent/moai_worker/compat.py", "pickle"): "names the exception torch raises, loads nothing",
}


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute; what cannot be named is ``?``."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def calls() -> list[tuple[str, ast.Call, str]]:
    return [(name, node, dotted(node.func)) for name, found in nodes().items() for node in found if isinstance(node, ast.Call)]


def test_no_module_whose_data_is_code_is_imported():
    found = set()
    for name, inside in nodes().items():
        for node in inside:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {(name, module.split(".")[0]) for module in modules if module.split(".")[0] in UNSAFE_MODULES}
    assert found == set(ALLOWED_MODULES)


def test_nothing_loads_a_pickle():
    """Not through pickle, and not through what hides one."""
    loads = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "numpy.load", "np.load", "joblib.load", "pandas.read_pickle"}
    unsafe = []
    for name, node, function in calls():
        if function in loads:
            words = {word.arg: word.value for word in node.keywords}
            weights = words.get("weights_only")
            if not (isinstance(weights, ast.Constant) and weights.value is True):
                unsafe.append(f"{name}:{node.lineno} {function}")
    assert unsafe == []


def test_no_text_is_run_as_code():
    """eval, exec, compile: the container's installer is the one program sent as text, and it is ours."""
    found = [f"{name}:{node.lineno} {f}" for name, node, f in calls() if f in ("eval", "exec", "compile", "builtins.eval", "execfile")]
    assert found == []


def test_no_command_goes_through_a_shell_unasked():
    """Argument lists only; whoever wants a shell names it, and the tests below name who does."""
    found = []
    for name, node, function in calls():
        shell = next((word.value for word in node.keywords if word.arg == "shell"), None)
        if function.startswith(("subprocess.", "asyncio.")) and shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append(f"{name}:{node.lineno} shell=")
        if function in ("os.system", "os.popen", "commands.getoutput", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"):
            found.append(f"{name}:{node.lineno} {function}")
    assert found == []


def test_who_gives_a_line_to_a_shell_is_known():
    """Every list that begins with a shell: the user's own lines, or lines that are constant."""
    shells = re.compile(r"(^|/)(ba|da|z|c|fi|k)?sh$")
    known = {
        "agent/moai_agent/jobs/submit.py": "--setup, written by the user; the command follows as arguments",
        "agent/moai_agent/environments/activate.py": "the login shell and activation scripts of the user's own environments",
        "agent/moai_worker/notify.py": "--on-finish, written by the user",
        "client/moai/_ssh/dial.py": "ProxyCommand of the user's ssh configuration",
    }
    found = set()
    for name, inside in nodes().items():
        for node in inside:
            if isinstance(node, ast.List) and len(node.elts) > 2:
                first, second = node.elts[:2]
                is_shell = isinstance(first, ast.Constant) and isinstance(first.value, str) and shells.search(first.value)
                if isinstance(second, ast.Constant) and second.value in ("-c", "-lc") and (is_shell or dotted(first) == "shell"):
                    found.add(name)
    assert found == set(known)


@pytest.mark.parametrize("module", ["grpc_reflection", "grpc_channelz", "grpc_health", "http.server", "socketserver", "xmlrpc", "multiprocessing.managers"])
def test_nothing_else_serves(module):
    for name, inside in nodes().items():
        imported = [a.name for n in inside if isinstance(n, ast.Import) for a in n.names]
        imported += [n.module or "" for n in inside if isinstance(n, ast.ImportFrom)]
        assert not [one for one in imported if one == module or one.startswith(module + ".")], name


def test_who_opens_a_socket_is_known():
    """A network listener would stand here; Unix sockets do, and the one offer of ``train --nodes``."""
    found = {name for name, node, function in calls() if function.endswith(".listen") or function.endswith("start_server")}
    assert found == {"agent/moai_agent/peers.py", "client/moai/_link/upstream.py"}
    servers = {name for name, node, function in calls() if function.endswith("add_insecure_port")}
    assert servers == {"agent/moai_agent/server.py", "client/moai/_link/holder.py"}
    for name in servers:
        assert "unix:" in TEXTS[name]


def test_certificates_are_never_left_unchecked():
    text = re.compile(r"verify\s*=\s*False|CERT_NONE|check_hostname\s*=\s*False|_create_unverified_context|AutoAddPolicy|WarningPolicy")
    assert [name for name, source in TEXTS.items() if text.search(source)] == []


def test_nobody_calls_home():
    """Addresses in the sources: the Hub, which jobs ask for, and pages for people."""
    address = re.compile(r"https?://([A-Za-z0-9.-]+\.[a-z]{2,})")
    asked = {"huggingface.co"}
    for_people = {"github.com", "docs.kernel.org", "packaging.python.org", "pip.pypa.io", "pypi.org"}
    found = {host for text in TEXTS.values() for host in address.findall(text)}
    assert found & asked, "this test sees no addresses"
    strangers = {host for host in found - asked - for_people if not re.search(r"(^|\.)example(\.(org|com))?$", host)}
    assert strangers == set()


def test_the_audit_fails_on_what_is_known_and_says_what_it_could_not_look_up(monkeypatch, capsys):
    """The program behind ``make audit``, with pip-audit's answers in the place of the network's."""
    spec = importlib.util.spec_from_file_location("audit", REPO / "scripts" / "audit.py")
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    well = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    skipped = {"name": "c", "skip_reason": "Dependency not found"}

    def ends(dependencies, *words):
        raw = json.dumps({"dependencies": dependencies}).encode() if dependencies is not None else b""
        monkeypatch.setattr(audit.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, raw, b"no route"))
        monkeypatch.setattr("sys.argv", ["audit.py", *words])
        return audit.main()

    assert ends([well]) == 0 and "cp38.txt: 1 packages looked up" in capsys.readouterr().out
    assert ends([well, bad]) == 1 and "b 2: CVE-1 (fixed in 3)" in capsys.readouterr().out
    for answer in ([skipped], None):
        assert ends(answer) == 0 and "NOTHING was audited" in capsys.readouterr().err
        assert ends(answer, "--strict") == 1
