"""What a job is busy with, read from the lines of the Moreh AI Framework (MAF) and of scripts.

Owns the MAF start-up sequence (request, connect, link, ready, compile, select, train), its two
waiting states (accelerator locked by another process, no free resources) and the phase lines of the
tutorial scripts (tokenising, evaluating, saving). Refuses to judge outcomes: a wait is a condition,
never an error, and ``Training Done`` is not success. Runs in the agent (Python 3.8, standard library
only).

MAF prefixes its lines with ``[time] [info]`` or ``[info]``; the opening bracket can be missing, and
a progress bar without newline can stand before it, so prefixes are searched for, not matched at the
start.
"""

import json
import re
import zlib
from typing import Any, Dict, List, Optional, Tuple

Report = Tuple[str, Dict[str, Any]]

_PREFIX = re.compile(
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\]\s*)?(?:\[|(?<!\w))(info|warning|error)\]\s+"
)
#: (words that must be there, phase, text for people, expression); named groups become data. No
#: phase: the line only tells a value.
_MAF = tuple(
    (token, phase, text, re.compile(expression))
    for token, phase, text, expression in (
        (
            "Got DBs",
            "configuring",
            "reading the parallelization settings",
            r"Got DBs from backend for auto config",
        ),
        (
            "Requesting",
            "requesting",
            "requesting resources for {accelerator}",
            r"Requesting resources for (?P<accelerator>[^.]{1,80}?) from the server",
        ),
        (
            "Initializing",
            "initializing",
            "starting the worker daemon for {accelerator}",
            r"Initializing the worker daemon for (?P<accelerator>[^.]{1,80})",
        ),
        (
            "Connecting",
            "connecting",
            "connecting to the accelerator, {done} of {total}",
            r"\[(?P<done>\d{1,6})/(?P<total>\d{1,6})\] Connecting to resources on the server"
            r"(?: \((?P<server>[^)]{1,80})\))?",
        ),
        ("Establishing", "linking", "linking the resources", r"Establishing links to the resources"),
        (
            "ready to use",
            "ready",
            "{accelerator} is attached",
            r"(?P<accelerator>\S[^.]{0,79}?) is ready to use\.",
        ),
        ("Moreh Version", "", "", r"Moreh Version:\s*(?P<maf_version>[\w.+-]{1,40})"),
        ("Moreh Job ID", "", "", r"Moreh Job ID:\s*(?P<moreh_job_id>\d{1,15})"),
        (
            "number of candidates",
            "compiling",
            "compiling {candidates} candidates",
            r"The number of candidates is (?P<candidates>\d{1,9})",
        ),
        ("Graph Compile start", "compiling", "compiling", r"Parallel Graph Compile start"),
        (
            "compile all",
            "compiled",
            "all candidates are compiled",
            r"Elapsed Time to compile all candidates = (?P<elapsed_ms>\d{1,15})",
        ),
        (
            "Graph Compile finished",
            "compiled",
            "all candidates are compiled",
            r"Parallel Graph Compile finished",
        ),
        (
            "possible candidates",
            "selecting",
            "choosing among {candidates} candidates",
            r"The number of possible candidates is (?P<candidates>\d{1,9})",
        ),
        (
            "FromCandidates start",
            "selecting",
            "choosing a candidate",
            r"SelectBestGraphFromCandidates start",
        ),
        (
            "survived candidates",
            "",
            "",
            r"Elapsed Time to compute cost for survived candidates = (?P<select_ms>\d{1,15})",
        ),
        ("FromCandidates finished", "", "", r"SelectBestGraphFromCandidates finished"),
        (
            "is selected",
            "selected",
            "a parallelization is chosen",
            r"Configuration for parallelism is selected",
        ),
        (
            "recomputation",
            "selected",
            "parallelization: {parallelism}",
            r"(?P<parallelism>(?:No PP|num_stages\s*:).{0,400}?recomputation\s*:.{0,200})",
        ),
        ("train: true", "training", "training; the first step can take minutes", r"train: true"),
    )
)
#: How long a phase usually lasts, in seconds, in the timestamped runs of Moreh's public guides for 24.2 to
#: 24.5 (7 to 70 billion parameters). Shown as what it is: a range that was seen, not a limit.
USUAL_SECONDS = {
    "configuring": [2, 26],
    "initializing": [2, 6],
    "compiling": [1, 384],
    "selecting": [1, 168],
    "training": [120, 2400],
}
USUAL_SOURCE = "runs in Moreh's public guides, MAF 24.2 to 24.5"
_COUNTS = ("done", "total", "candidates", "moreh_job_id", "elapsed_ms", "select_ms")

_IN_USE = re.compile(r"(?P<accelerator>\S.{0,79}?) is already in use by another process")
_OWNER = re.compile(r"\(pid:\s*(\d{1,10})\)\s*(.*)")
_TWO_PROCESSES = re.compile(
    r"Two or more processes cannot use .{0,200}after the process (\d{1,10}) terminates"
)
_RELEASE_HINT = re.compile(r"If this message is displayed even though the process")
_NO_RESOURCES = re.compile(r"Not enough resources are currently available for (?P<accelerator>[^.]{1,80})\.")
_NEWER = re.compile(r"A newer version of Moreh AI Framework is available")

#: Lines of scripts: (words that must be there in lower case, phase, text, expression). A named group
#: ``path`` is where something is written.
_SCRIPT = tuple(
    (token, phase, text, re.compile(expression))
    for token, phase, text, expression in (
        ("epoch eval", "evaluating", "evaluating", r"(?i)\[START EPOCH EVAL\]"),
        (
            "eval step",
            "evaluating",
            "evaluating, {done} of {total}",
            r"(?i)\bEVAL STEP\s*:\s*(?P<done>\d{1,15})\s*/\s*(?P<total>\d{1,15})",
        ),
        ("***** running", "training", "training", r"(?i)\*\*\*\*\* Running training \*\*\*\*\*"),
        (
            "***** running",
            "evaluating",
            "evaluating",
            r"(?i)\*\*\*\*\* Running (?:evaluation|prediction) \*\*\*\*\*",
        ),
        (
            "training done",
            "trained",
            "the training loop has ended; nothing is saved yet",
            r"(?i)\bTraining Done\b",
        ),
        (
            "saved in",
            "saved",
            "the model is saved",
            r"(?i)\bmodel (?:and token(?:iz|zi)er (?:is )?)?saved in (?P<path>.+)",
        ),
        ("save finished", "saved", "the model is saved", r"(?i)\bmodel save finished"),
        ("saved as", "saved", "the dataset is saved", r"\bDataset saved as (?P<path>.+)"),
        ("checkpoint to", "saving", "saving a checkpoint", r"(?i)\bSaving model checkpoint to (?P<path>.+)"),
        (
            "saving model and",
            "saving",
            "saving the model",
            r"(?i)\bSaving model and tokenizer in (?P<path>.+)",
        ),
        ("save model to", "saving", "saving the model", r"(?i)\bsave model to (?P<path>.+)"),
        ("saving model", "saving", "saving the model", r"(?i)\bSaving Model\s*\.\.\."),
        ("into torch", "saving", "saving the dataset", r"(?i)\bSaving data?set into torch format"),
        ("tokenizer", "loading", "loading the tokenizer", r"(?i)\bLoading (?:\S{1,60} )?tokenizer\s*\.\.\."),
        (
            "downloading",
            "downloading",
            "downloading the dataset",
            r"(?i)\bDownloading (?:\S{1,60} )?dataset\s*\.\.\.",
        ),
        ("preprocessing", "tokenizing", "preparing the dataset", r"(?i)\bPreprocessing dataset\s*\.\.\."),
    )
)


def segments(text: str) -> List[Tuple[str, str]]:
    """Split a line at MAF prefixes.

    Returns:
        (level, text) pairs in order; level is ``info``, ``warning``, ``error``, or empty for what
        stood before the first prefix. Empty parts are left out.
    """
    if "info]" not in text and "warning]" not in text and "error]" not in text:
        return [("", text)] if text.strip() else []
    parts = []
    level, start = "", 0
    for found in _PREFIX.finditer(text):
        if text[start : found.start()].strip():
            parts.append((level, text[start : found.start()]))
        level, start = found.group(1), found.end()
    if text[start:].strip():
        parts.append((level, text[start:]))
    return parts


class PhaseTracker:
    """Follows the phase of one log.

    Args:
        memory: JSON-able dict this tracker reads and writes; the caller keeps it.
    """

    def __init__(self, memory: Dict[str, Any]) -> None:
        self._memory = memory

    @property
    def current(self) -> str:
        """The phase last reported, empty at the start."""
        return self._memory.get("phase", "")

    @property
    def job_id(self) -> Optional[int]:
        """The Moreh Job ID (the number support asks for), None until printed."""
        return self._memory.get("moreh_job_id")

    def enter(self, phase: str, text: str, **data: Any) -> List[Report]:
        """Report a phase unless exactly this was reported last."""
        report = {"phase": phase, "text": text}  # type: Dict[str, Any]
        report.update((key, value) for key, value in data.items() if value is not None)
        for name in ("maf_version", "moreh_job_id"):
            if name in self._memory:
                report[name] = self._memory[name]
        mark = zlib.crc32(json.dumps(report, sort_keys=True).encode("ascii"))
        if mark == self._memory.get("mark"):
            return []
        self._memory["phase"], self._memory["mark"] = phase, mark
        return [("phase", report)]

    def enter_counted(self, phase: str, text: str, done: int, total: int) -> List[Report]:
        """Report a phase with a count, at most once a whole percent."""
        percent = min(done, total) * 100 // total if total > 0 else 0
        if self.current == phase and self._memory.get("percent") == percent:
            return []
        self._memory["percent"] = percent
        return self.enter(phase, text, done=done, total=total)

    def framework(self, level: str, text: str) -> Optional[List[Report]]:
        """Judge one prefixed line of MAF; None when it is none of the known ones."""
        waiting = self._waiting(text)
        if waiting is not None:
            return waiting
        for token, phase, sentence, expression in _MAF:
            found = expression.search(text) if token in text else None
            if found:
                return self._entered(phase, sentence, found.groupdict())
        if _NEWER.search(text):
            if self._memory.get("newer"):
                return []
            self._memory["newer"] = True
            advice = "nothing needs to be done now; to update: update-moreh"
            return [("message", {"text": text.strip()[:1000], "level": "info", "code": "", "next": advice})]
        return None

    def _entered(self, phase: str, sentence: str, groups: Dict[str, Optional[str]]) -> List[Report]:
        data = {}  # type: Dict[str, Any]
        for name, value in groups.items():
            if value is not None:
                data[name] = int(value) if name in _COUNTS else value.strip()
        elapsed_ms = data.pop("elapsed_ms", None)
        if elapsed_ms is not None:
            data["elapsed_seconds"] = elapsed_ms / 1000.0
        if "select_ms" in data:
            self._memory["select_seconds"] = data.pop("select_ms") / 1000.0
        if phase == "selected" and "select_seconds" in self._memory:
            data["elapsed_seconds"] = self._memory["select_seconds"]
        elif phase == "selecting":
            self._memory.pop("select_seconds", None)
        known = [name for name in ("maf_version", "moreh_job_id") if name in data]
        for name in known:
            self._memory[name] = data.pop(name)
        if known and self.current:
            return self.enter(self.current, "the framework named its version and job", **data)
        if not phase:
            return []
        if phase in ("compiling", "compiled", "selecting") and phase == self.current and not data:
            return []  # "start..." and "finished." repeat what the line before said with numbers
        text = sentence.format(**data)
        if phase in USUAL_SECONDS:
            data.update(usual_seconds=USUAL_SECONDS[phase], usual_source=USUAL_SOURCE)
        return self.enter(phase, text, **data)

    def _waiting(self, text: str) -> Optional[List[Report]]:
        found = _IN_USE.search(text) if "already in use" in text else None
        if found:
            self._memory["locked"] = found.group("accelerator").strip()
            return []
        accelerator = self._memory.get("locked")
        found = _OWNER.search(text) if accelerator else None
        if found:
            return self._locked(int(found.group(1)), found.group(2).strip()[:400])
        found = _TWO_PROCESSES.search(text)
        if found:
            return self._locked(int(found.group(1)), "") if accelerator or self.current != "waiting" else []
        if _RELEASE_HINT.search(text):
            return []
        found = _NO_RESOURCES.search(text) if "Not enough resources" in text else None
        if found:
            return self.enter(
                "waiting",
                "waiting for free resources: all of them are in use by others",
                code="WAITING_FOR_DEVICE",
                wait="resources",
                accelerator=found.group("accelerator").strip(),
                next="wait, or cancel and choose a smaller flavor: moai remote device switch",
            )
        return None

    def _locked(self, pid: int, command: str) -> List[Report]:
        accelerator = self._memory.pop("locked", None)
        return self.enter(
            "waiting",
            "waiting for the accelerator: process %d holds it" % pid + (" (%s)" % command if command else ""),
            code="WAITING_FOR_DEVICE",
            wait="locked",
            accelerator=accelerator,
            owner_pid=pid,
            owner_command=command,
            next="wait, or end process %d if it is yours; if it is gone: moai remote device reset" % pid,
        )

    def script(self, text: str, lower: str) -> Optional[List[Report]]:
        """Judge a line of a script; None when it names no phase. ``lower`` is ``text.lower()``."""
        for token, phase, sentence, expression in _SCRIPT:
            if token not in lower:
                continue
            found = expression.search(text)
            if not found:
                continue
            groups = found.groupdict()
            if "done" in groups:
                done, total = int(groups["done"]), int(groups["total"])
                return self.enter_counted(phase, sentence.format(done=done, total=total), done, total)
            path = groups.get("path")
            return self.enter(phase, sentence, path=path.strip().strip("\"'")[:1000] if path else None)
        return None
