"""Reads the tables of ``moreh-smi`` and ``ap-smi``: text in, ``SmiReport`` out, no side effect.

The tools print no machine format, and releases 0.8 to 25.x differ in columns, alignment, titles
and rules. So nothing here relies on offsets or column order: rows are cells between bars, and
columns are found by the names in the table's own header. The reader refuses to guess: a table
whose frame is not closed, or that contradicts itself, is left out and counted; a value that does
not fit its column is None. The Token column is dropped while reading and its values never leave
this module. ``parse`` never raises, whatever the text. Runs in the agent.

A table is ``rule title rule header rule {row} rule``; titles are optional, several are possible.
"""

import re
from typing import Dict, List, Optional, Tuple

from moai_agent.devices.report import (
    PROVIDER_AP,
    PROVIDER_MOREH,
    Device,
    Hardware,
    Process,
    SmiReport,
    redact,
)
from moai_agent.devices.tables import (
    CELSIUS,
    DEVICE_ID,
    MIB,
    NUMBER,
    by_column,
    cells_of,
    header_of,
    is_rule,
    lines_of,
    number_of,
    percent_of,
    split_glued_rows,
    text_of,
    tokens_of,
)

__all__ = ["NO_TABLE", "Device", "Hardware", "Process", "SmiReport", "parse"]

NO_TABLE = (
    "no device table in this output: a different tool called moreh-smi exists for Tenstorrent hosts, "
    "and it has none"
)

_ORNAMENT = re.compile(r"[-+=*\s]+")
_CLOCK = re.compile(r"\d{1,2}:\d{2}:\d{2}\s+[A-Z][a-z]+ \d{1,2}, \d{4}")
_VERSION = re.compile(
    r"(Current|Latest|Client|Server|MoAI Framework|Accelerator platform)[ \t]+Version[ \t]*:"
    # An empty value is followed by the next label, which must not be taken for a version.
    r"[ \t*`]*(?:v?(\d[0-9A-Za-z.+_-]*))?",
    re.IGNORECASE,
)
# What `-r` and `device --add|--rm|--switch` print without any table.
_ANSWER = re.compile(
    r"device (?:release|create)|(?:create|remove|switch current|release) device|selection \(", re.I
)

_LONGEST_MESSAGE = 1000


class _Block:
    """One table while it is read; ``rows`` are kept as uncut text until the frame is closed."""

    def __init__(self) -> None:
        self.titles: List[str] = []
        self.columns: Optional[List[Optional[str]]] = None
        self.rows: List[str] = []
        self.body = False

    @property
    def kind(self) -> str:
        columns = self.columns or []
        if "pid" in columns or "command" in columns:
            return "process"
        if "location" in columns:
            return "hardware"
        return "device" if "id" in columns else "other"


class _Reader:
    """Walks the lines once; ``report`` describes the last complete snapshot in the text."""

    def __init__(self) -> None:
        self.report = SmiReport()
        self.secrets: List[str] = []
        self.header_seen = False
        self._block: Optional[_Block] = None
        self._closing: Optional[_Block] = None
        # A process table belongs to the device table right before it; a lost device table must
        # not hand its processes to an older one.
        self._takes_processes = False
        self._mute = False

    def line(self, line: str) -> None:
        if is_rule(line):
            self._mute = False
            self._rule()
        elif len(line) > 1 and line[0] == "|" and line[-1] == "|":
            self._row(line)
        elif not _ORNAMENT.fullmatch(line):
            self._outside(line)

    def end(self) -> None:
        self._settle()
        self._drop()

    def _rule(self) -> None:
        self._settle()
        block = self._block
        if block is None:
            self._block = _Block()
        elif block.columns is not None and not block.body:
            block.body = True
        elif block.body:
            # Closed, unless the next line shows that this rule opened the next table.
            self._closing, self._block = block, None

    def _row(self, row: str) -> None:
        cells = cells_of(row)
        columns = header_of(cells)
        if self._closing is not None:
            if columns is None and len(cells) > 1 and not self._versions_in(row):
                self._block, self._closing = self._closing, None  # a rule between two rows
            else:
                self._restart(self._closing)
        block = self._block
        if block is None:
            return  # A row whose frame was never opened.
        if columns is not None:
            self.header_seen = True
            if block.columns is not None:
                block = self._restart(block)
            block.columns = columns
        elif block.columns is None:
            block.titles.append(row)
        elif block.body:
            block.rows.append(row)
            self.secrets.extend(tokens_of(row, block.columns))
        else:
            self._drop()

    def _outside(self, line: str) -> None:
        self._settle()
        if self._block is not None:
            self._mute = "token" in (self._block.columns or [])
            self._drop()
        if _CLOCK.fullmatch(line):
            self.report.clock = line
        elif line[0] == "|" or line[-1] == "|":
            self._mute = line[0] == "|"  # Half a row, and the next line may be half a token.
        elif self._mute:
            return
        elif line.rstrip(": ").lower() != "processes":
            self.report.messages.append(line)

    def _restart(self, cut: _Block) -> _Block:
        """A table began inside ``cut``: the frame of ``cut`` was never closed."""
        self._lose()
        self._closing, self._block = None, _Block()
        # Cut right after its header, it took the new table's titles for rows.
        self._block.titles = [row for row in cut.rows if len(cells_of(row)) == 1]
        return self._block

    def _lose(self) -> None:
        self.report.discarded_blocks += 1
        self._takes_processes = False

    def _drop(self) -> None:
        """Give up the open table; a lone rule is no table."""
        block, self._block = self._block, None
        if block is not None and (block.titles or block.columns is not None):
            self._lose()

    def _settle(self) -> None:
        """Accept a table that is now known to be closed."""
        block, self._closing = self._closing, None
        if block is None or block.columns is None or block.kind == "other":
            return
        rows = [part for row in block.rows for part in split_glued_rows(row, len(block.columns))]
        self.secrets.extend(token for row in rows for token in tokens_of(row, block.columns))
        found = [by_column(row, block.columns) for row in rows]
        accept = {"device": self._devices, "process": self._processes, "hardware": self._hardware}[block.kind]
        if not accept([row for row in found if row is not None], block):
            self._lose()
            return
        self.report.table_found = True
        for title in block.titles:
            self._versions(title)

    @staticmethod
    def _versions_in(row: str) -> bool:
        return bool(_VERSION.search(row))

    def _versions(self, title: str) -> None:
        for label, value in _VERSION.findall(title):
            key = label.lower()
            if value:
                self.report.versions[key] = value
            else:
                self.report.versions.pop(key, None)

    def _devices(self, rows: List[Dict[str, str]], block: _Block) -> bool:
        devices: List[Device] = []
        starred: List[Device] = []
        for row in rows:
            mark = DEVICE_ID.fullmatch(row["id"])
            if mark is None:
                continue
            device = Device(int(mark.group(2)), text_of(row.get("name")), text_of(row.get("flavor")))
            device.memory_used_mib = number_of(MIB, row.get("used"))
            device.memory_total_mib = number_of(MIB, row.get("total"))
            device.memory_used_percent = percent_of(row.get("used_percent"), bare=True)
            device.utilization_percent = percent_of(row.get("utilization"))
            if "bare_utilization" in row:
                device.utilization_percent = percent_of(row["bare_utilization"], bare=True)
            devices.append(device)
            if mark.group(1):
                starred.append(device)
        if len({device.id for device in devices}) != len(devices) or len(starred) > 1:
            return False  # Two snapshots mixed in one frame.
        for device in devices:
            used, total = device.memory_used_mib, device.memory_total_mib
            if used is not None and total is not None and used > total:
                self.report.messages.append(
                    "device {}: {} MiB used of {} MiB cannot be; the used memory is ignored".format(
                        device.id, used, total
                    )
                )
                device.memory_used_mib = None
        if devices:
            (starred[0] if starred else min(devices, key=lambda device: device.id)).is_default = True
        names = block.columns or []
        self.report.provider = PROVIDER_AP if "used_percent" in names else PROVIDER_MOREH
        self.report.default_assumed = bool(devices) and not starred
        self.report.devices = devices
        self._takes_processes = True
        return True

    def _processes(self, rows: List[Dict[str, str]], block: _Block) -> bool:
        if not self._takes_processes:
            return False
        self._takes_processes = False
        devices = {device.id: device for device in self.report.devices}
        for row in rows:
            mark = DEVICE_ID.fullmatch(row.get("id", ""))
            pid, job = number_of(NUMBER, row.get("pid")), number_of(NUMBER, row.get("job"))
            if mark is None or int(mark.group(2)) not in devices:
                continue
            # A row that is not a process (another table's, say) has text where numbers belong.
            if pid is None and text_of(row.get("pid")) or job is None and text_of(row.get("job")):
                continue
            devices[int(mark.group(2))].processes.append(
                Process(job, pid, _command(row.get("command")), number_of(MIB, row.get("used")))
            )
        return True

    def _hardware(self, rows: List[Dict[str, str]], block: _Block) -> bool:
        hardware: List[Hardware] = []
        for row in rows:
            mark = DEVICE_ID.fullmatch(row["id"])
            if mark is None:
                continue
            hardware.append(
                Hardware(
                    int(mark.group(2)),
                    text_of(row.get("location")),
                    number_of(CELSIUS, row.get("device_temp")),
                    number_of(CELSIUS, row.get("memory_temp")),
                    percent_of(row.get("device_util")),
                    percent_of(row.get("memory_util")),
                    percent_of(row.get("memory_percent")),
                )
            )
        self.report.hardware = hardware
        return True


def _command(cell: Optional[str]) -> Optional[str]:
    """A command exactly as printed: what looks like markdown in it is part of it."""
    return None if cell in (None, "", "-") else cell


def _first(versions: Dict[str, str], labels: Tuple[str, ...]) -> Optional[str]:
    return next((versions[label] for label in labels if label in versions), None)


def parse(text: str) -> SmiReport:
    """Read everything ``moreh-smi`` or ``ap-smi`` printed.

    Args:
        text: standard output, in any release's layout, with or without colours, indentation,
            carriage returns or noise around the tables.

    Returns:
        The last complete device table in the text, with the processes of the process table right
        after it, the per-GPU table if there is one, and the lines outside tables. Without any
        table header ``provider`` is None and ``NO_TABLE`` is among the messages (unless the text
        is one of the tool's short answers, such as ``Device release success.``).
    """
    reader = _Reader()
    for line in lines_of(text):
        reader.line(line)
    reader.end()
    report = reader.report
    if report.provider is None and report.hardware:
        report.provider = PROVIDER_MOREH
    report.platform_version = _first(report.versions, ("current", "moai framework", "client"))
    report.latest_version = _first(report.versions, ("latest", "server"))
    if not reader.header_seen and text.strip() and not any(_ANSWER.search(line) for line in report.messages):
        report.messages.append(NO_TABLE)
    report.messages = [redact(line[:_LONGEST_MESSAGE], *reader.secrets) for line in report.messages]
    for device in report.devices:
        device.name = device.name and redact(device.name, *reader.secrets)
        for process in device.processes:
            process.command = process.command and redact(process.command, *reader.secrets)
    return report
