"""Step ``install``: packages into an environment, told before it is done.

pip's resolver runs dry first (pip 22.2 or newer), and what it would change is reported and kept in a
file. Then pip installs the same. A Moreh build of torch that is there stays: it constrains both runs,
and when the requirements cannot be had with it the step fails with TORCH_PROTECTED before anything is
changed. Known mistakes of the tutorials' requirements files are mended (``requirements.py``).

Runs on the agent's Python; the environment's own Python runs pip.
"""

import os
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .. import packages, requirements
from ..errors import StepError
from ..jobdir import read_json, write_json

_OTHER = "for another framework version make another environment: moai remote env create NAME --moreh VERSION"
_REPAIR = "update-moreh --force in that environment puts it back"


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Install, or only tell what would change.

    Args:
        inputs: ``python`` (interpreter of the environment), ``environment`` (its name, for people),
            ``requirements`` (as pip takes them), ``paths`` (requirements files here), ``files`` and
            ``asked`` (files sent along, see ``requirements.prepare``), ``cwd``, ``folder`` (for copies),
            ``output`` (file of the changes), ``dry_run``, ``torch`` (the Moreh build that lies there,
            "" for none).
        report: the step's Reporter.

    Returns:
        ``changed`` (count), ``summary``, ``repairs`` (count), ``previewed``; ``reused`` when there was
        nothing to do.

    Raises:
        StepError: TORCH_PROTECTED, INSTALL_FAILED, PACKAGE_MISSING (no pip), ENVIRONMENT_NOT_FOUND,
            FILE_NOT_FOUND, USAGE.
    """
    return _Install(inputs, report).run()


class _Install:
    def __init__(self, inputs: Dict[str, Any], report: Any) -> None:
        self.report = report
        self.dry_run = bool(inputs.get("dry_run"))
        self.name = str(inputs.get("environment") or inputs["python"])
        self.folder, self.output = str(inputs["folder"]), str(inputs["output"])
        self.cwd = str(inputs.get("cwd") or os.getcwd())
        self.asked = [str(one) for one in inputs.get("requirements") or []]
        self.inputs = inputs
        self.python = packages.Interpreter(str(inputs["python"]), os.environ, self.cwd)
        self.before = self.python.installed()
        self.held = packages.protected(self.before)
        self._refuse_another_place(str(inputs.get("torch") or ""))

    def run(self) -> Dict[str, Any]:
        """See ``run`` of the module."""
        self.report.phase("resolving", "asking pip what would change in {}".format(self.name))
        pip = self.python.pip_version()
        prepared = requirements.prepare(
            self.inputs.get("paths") or [],
            self.inputs.get("files") or [],
            int(self.inputs.get("asked") or 0),
            self.folder,
            self.held,
            self.cwd,
        )
        for repair in prepared.repairs:
            self.report.message(
                repair.text(), "warning", "REQUIREMENT_REPAIRED", file=repair.file, line=repair.line,
                was=repair.was, why=repair.why, used=repair.used,
            )  # fmt: skip
        arguments = list(self.asked)
        for path in prepared.paths:
            arguments += ["-r", path]
        self._refuse_pins(arguments)
        known = pip >= packages.PREVIEW_FROM
        changes: List[packages.Change] = []
        if known:
            changes = packages.changes_of(self._resolve(arguments), self.before)
            self._refuse_changes(changes, {})
        else:
            text = "pip {} cannot tell beforehand what it will change (22.2 can)".format(".".join(map(str, pip)))
            kept = "; it is kept from replacing {}".format(self._held_text()) if self.held else ""
            self.report.message(text + kept, "warning", "PREVIEW_UNAVAILABLE")
        self._keep(changes, known, prepared.repairs)
        summary = packages.listing(changes) or ("nothing would change" if known else "")
        if known:
            self.report.message("in {}: {}".format(self.name, summary), code="CHANGES")
        result = {"previewed": known, "repairs": len(prepared.repairs), "summary": summary, "changed": len(changes)}
        if self.dry_run or (known and not changes):
            return dict(result, reused=not self.dry_run)
        return dict(result, **self._install(arguments, len(changes)))

    def _refuse_another_place(self, torch: str) -> None:
        # A wrapper script, or PYTHONHOME, can make pip of this interpreter work somewhere else: what is
        # held there says nothing about here. Versions are not compared: torch may spell its own otherwise.
        if torch and "torch" not in self.held:
            raise StepError(
                "TORCH_PROTECTED",
                "torch {} lies in {}, but {} does not see it: pip would change another place".format(
                    torch, self.name, self.inputs["python"]
                ),
                "name its own interpreter: moai remote env list, then --env PATH",
            )

    # -- before --------------------------------------------------------------------------------

    def _held_text(self) -> str:
        return ", ".join("{} {}".format(name, version) for name, version in sorted(self.held.items()))

    def _constraints(self) -> List[str]:
        if not self.held:
            return []
        path = os.path.join(self.folder, "moreh-constraints.txt")
        with open(path, "w", encoding="utf-8") as out:
            for name, version in sorted(self.held.items()):
                out.write("{}=={}\n".format(name, version))
        return ["-c", path]

    def _refuse_pins(self, arguments: List[str]) -> None:
        """Refuse what says in so many words that a held package is to change: no resolver is needed."""
        for line in self.asked:
            name = requirements.wants_other_torch(line, self.held)
            if name:
                raise self._protected(name, "{} asks for another build of it".format(line))
        for at, word in enumerate(arguments):
            if word == "-r":
                with open(arguments[at + 1], encoding="utf-8") as source:
                    for number, line in enumerate(source, 1):
                        name = requirements.wants_other_torch(line.rstrip("\n"), self.held)
                        if name:
                            shown = os.path.basename(arguments[at + 1]).partition("-")[2]
                            raise self._protected(name, "{} line {} asks for {}".format(shown, number, line.strip()))

    def _resolve(self, arguments: List[str]) -> Mapping[str, Any]:
        """pip's report of what the requirements would change, with held packages held."""
        answer, ended = self._dry(arguments + self._constraints())
        if answer is not None:
            return answer
        if self.held:
            # Without the constraint pip can say what it would put in their place, and for whose sake.
            free, _ = self._dry(arguments)
            if free is not None:
                self._refuse_changes(packages.changes_of(free, self.before), free)
            account = [line for line in packages.conflict_lines(ended.lines) if line]
            if any("constraint" in line for line in account):
                name = next((n for n in sorted(self.held) if any(n in line for line in account)), sorted(self.held)[0])
                raise self._protected(name, "; ".join(account))
        raise _failed("pip cannot resolve the requirements", ended)

    def _dry(self, arguments: List[str]) -> Tuple[Optional[Dict[str, Any]], packages.Ended]:
        target = os.path.join(self.folder, "report.json")
        if os.path.exists(target):
            os.unlink(target)
        seen = [0]

        def on_line(line: str) -> None:
            if line.startswith("Collecting "):
                seen[0] += 1
                self.report.progress(seen[0], None, "packages")

        ended = self.python.pip_install(["--dry-run", "--report", target] + arguments, on_line)
        return (read_json(target) if ended.code == 0 else None), ended

    def _refuse_changes(self, changes: List[packages.Change], report: Mapping[str, Any]) -> None:
        for one in changes:
            name = requirements.canonical(one.name)
            have = self.held.get(name)
            if have is not None and (one.action == "remove" or one.after != have):
                who = packages.requiring(report, name)
                raise self._protected(name, "; ".join(who[:4]) or "pip would put {} there".format(one.after), one.after)

    def _protected(self, name: str, why: str, would: str = "") -> StepError:
        return StepError(
            "TORCH_PROTECTED",
            "{} {} is a Moreh build and stays as it is in {}: {}".format(name, self.held[name], self.name, why),
            "leave it out of the requirements, or choose versions that go with it; " + _OTHER,
            {"package": name, "installed": self.held[name], "would_be": would, "why": why[:1000]},
        )

    def _keep(self, changes: List[packages.Change], known: bool, repairs: List[requirements.Repair]) -> None:
        write_json(
            self.output,
            {
                "environment": self.name,
                "python": self.python.python,
                "previewed": known,
                "held": dict(self.held),
                "changes": [one._asdict() for one in changes],
                "repairs": [one._asdict() for one in repairs],
            },
        )

    # -- the installation ----------------------------------------------------------------------

    def _install(self, arguments: List[str], expected: int) -> Dict[str, Any]:
        self.report.phase("installing", "installing into {}".format(self.name))
        fetched = [0]

        def on_line(line: str) -> None:
            if line.lstrip().startswith(("Downloading ", "Using cached ", "Processing ")) and ".metadata" not in line:
                fetched[0] += 1
                self.report.progress(fetched[0], max(expected, fetched[0]) if expected else None, "packages")
            elif line.startswith("Installing collected packages"):
                self.report.phase("installing", "unpacking {} packages".format(max(expected, fetched[0])))

        ended = self.python.pip_install(arguments + self._constraints(), on_line)
        after = self.python.installed()
        for name, version in self.held.items():
            if after.get(name) != version:
                raise StepError(
                    "TORCH_PROTECTED",
                    "{} {} is {} now, although pip was told to leave it".format(name, version, after.get(name) or "gone"),
                    _REPAIR,
                    {"package": name, "installed": after.get(name) or "", "was": version},
                )
        if ended.code != 0:
            raise _failed("pip could not install into {}".format(self.name), ended)
        done = packages.difference(self.before, after)
        summary = packages.listing(done) or "nothing changed"
        self.report.message("done in {}: {}".format(self.name, summary), code="CHANGED")
        return {"changed": len(done), "summary": summary}


def _failed(what: str, ended: packages.Ended) -> StepError:
    account = packages.conflict_lines(ended.lines)
    why = "; ".join(account) if account else packages.last_line(ended.lines)
    if packages.is_cut(ended.lines):
        next_ = "check that the container reaches the index; a proxy is set with moai remote set NAME --proxy URL"
    elif "externally-managed" in " ".join(ended.lines) or "Permission denied" in why:
        next_ = "make an environment of your own: moai remote env create NAME --from requirements.txt"
    else:
        next_ = "correct the requirements; moai remote logs shows all that pip said"
    return StepError("INSTALL_FAILED", "{}: {}".format(what, why), next_, {"exit_code": str(ended.code)})
