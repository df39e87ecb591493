"""Every layout of the device tools, composed with random values, widths, alignments and noise, reads back exactly.

The layouts are those the platform's public guides show for releases 0.8 to 25.5. The composer knows nothing of
the parser: it writes a table the way the tools do, the test compares what comes back with what was put in.
"""

import random
import string

import pytest
from moai_agent.devices.smi import parse

#: 9 layouts x this many tables each.
TABLES_A_VARIANT = 300
RANDOM_TEXTS = 100_000

FLAVORS = ["Small.64GB", "4xLarge.2048GB", "1.5xLarge.768GB", "small", "6xlarge", "micro", "large.48gb"]
NAMES = ["MoAI Accelerator", "KT AI Accelerator", "Moreh SDA", "Ambre AI Accelerator", "AI Accelerator"]
COMMANDS = [
    "python mine.py",
    "python tutorial/train_x.py --batch-size 64",
    "bash -c python a.py | tee log",
    "python run.py --glob *.json",
    "python x.py ||",
    "torchrun --nproc 1 train.py --name a*b|c",
]
CLOCK = "09:41:07 October 03, 2023"
NOISE = [
    "[2024-05-22 18:06:58.035] [info] Requesting resources for MoAI Accelerator from the server...",
    "Device release success.",
    "numexpr - INFO - Note: 64 threads | 8 used",
    "..........",
    "",
]

# name: (clock line, title, device header, rule in the frame)
FULL = ["Device", "Name", "Model", "Memory Usage", "Total Memory", "Utilization"]
VARIANTS = {
    "A 0.8": (False, "client", ["Device", "Name", "Token", "Model", "Memory Usage", "Total Memory"], "="),
    "B 23.x": (True, "current", FULL, "="),
    "C 24.x idle": (False, "empty", FULL, "="),
    "D 24.x running": (False, "current", [w.replace("Model", "Flavor") for w in FULL], "="),
    "E reduced": (False, None, ["Device", "Name", "Model"], "="),
    "F token": (False, "current", ["Device", "Name", "Token", "Model"], "="),
    "H 25.1": (False, "current", FULL, "="),
    "H no title": (True, None, FULL, "="),
    "I ap-smi": (False, "ap", ["#", "NAME", "FLAVOR", "MEM USAGE(%)", "GPU UTIL(%)"], "+"),
}


def align(dice, text, width):
    """Left, right or centred, as the tools do; sometimes overhanging."""
    kind = dice.randrange(4)
    if kind == 0:
        return text.ljust(width)
    if kind == 1:
        return text.rjust(width)
    return text.center(width) if kind == 2 else text


def frame(dice, titles, header, rows, rule_kind):
    """The lines of one table."""
    pad = "  " if dice.randrange(4) else " "
    widths = [max(len(word), dice.randrange(8, 26)) for word in header]

    def line(cells):
        return "|" + "|".join(pad + align(dice, c, w) + pad for c, w in zip(cells, widths)) + "|"

    head = line([word.center(width) for word, width in zip(header, widths)])
    total = max(10, len(head) - 2)
    outer = "+" + "-" * total + "+"
    columns = "+" + "+".join("-" * (width + 2 * len(pad)) for width in widths) + "+"
    lines = [columns if rule_kind == "+" and not titles else outer]
    lines += ["|" + title.rjust(total) + "|" for title in titles]
    if titles:
        lines.append(columns if rule_kind == "+" else outer)
    lines.append(head)
    lines.append(columns if rule_kind == "+" else "+" + "=" * total + "+")
    lines += [line(row) for row in rows]
    return lines + [columns if rule_kind == "+" else outer]


def version(dice):
    return "{}.{}.{}".format(dice.randrange(1, 30), dice.randrange(1, 12), dice.choice([0, 1, 211, 3005]))


def compose(dice, name):
    """One output of a tool, and what must be read from it."""
    clock, title, header, rule_kind = VARIANTS[name]
    ap = name.startswith("I")
    ids = sorted(dice.sample(range(40), dice.randrange(1, 6)))
    star = dice.choice(ids + [None]) if not (ap or name.startswith("A")) else None
    token = "".join(dice.choice(string.ascii_letters + string.digits) for _ in range(19)) + "="
    versions = (version(dice) if title != "empty" else None, version(dice))
    titles = {
        None: [],
        "client": ["Moreh-SMI 0.8.2   Client Version: {}  Server Version: {}".format(*versions)],
        "current": ["  Current Version: {}  Latest Version: {}  ".format(*versions)],
        "empty": ["  Current Version:   Latest Version: {}  ".format(versions[1])],
        "ap": [
            "Accelerator platform Version : v0.0.31  ",
            "MoAI Framework Version : {} Latest Version : {}  ".format(*versions),
        ],
    }[title]
    devices, rows, processes, process_rows = [], [], [], []
    for number in ids:
        product = str(dice.randrange(1000, 9999)) if ap else dice.choice(NAMES)
        flavor = None if name.startswith("B") and not dice.randrange(4) else dice.choice(FLAVORS)
        idle = flavor is None or not dice.randrange(3)
        total = None if idle else dice.randrange(1, 384) * 65520
        used = None if idle else dice.randrange(total + 1)
        share, percent = (None, None) if idle else (dice.randrange(101), dice.randrange(101))
        shown = "-" if percent is None else dice.choice(["{} %", "{}%", "  {}%", "{}  %"]).format(percent)
        cells = {
            "Device": ("* " if number == star else "") + str(number),
            "#": str(number),
            "Name": product,
            "NAME": product,
            "Token": token,
            "Model": flavor or "-",
            "Flavor": flavor or "-",
            "FLAVOR": flavor or "-",
            "Memory Usage": "-" if used is None else "{} MiB".format(used),
            "Total Memory": "-" if total is None else "{} MiB".format(total),
            "Utilization": shown,
            "MEM USAGE(%)": "-" if share is None else str(share),
            "GPU UTIL(%)": "-" if percent is None else str(percent),
        }
        rows.append([cells[word] for word in header])
        held = "Memory Usage" in header and used is not None and dice.randrange(2)
        if held:
            entry = (dice.randrange(10**6), dice.randrange(1, 10**7), dice.choice(COMMANDS), used)
            processes.append((number,) + entry)
            process_rows.append([str(number), str(entry[0]), str(entry[1]), entry[2], "{} MiB".format(used)])
        devices.append(
            (
                number,
                number == (min(ids) if star is None else star),
                product,
                flavor,
                used if "Memory Usage" in header else None,
                total if "Total Memory" in header else None,
                share if ap else None,
                percent if ap or "Utilization" in header else None,
            )
        )
    lines = [CLOCK + " "] if clock else []
    lines += frame(dice, titles, header, rows, rule_kind)
    if process_rows or name.startswith("A"):
        lines += ["", "Processes:"]
        lines += frame(dice, [], ["Device", "Job ID", "PID", "Process", "Memory Usage"], process_rows, rule_kind)
    if name.startswith("E"):
        lines.append("Switch Current Device success.")
    return lines, devices, processes, (versions if titles else (None, None)), token, star


def damage(dice, lines):
    """Layout noise that must change nothing: indent, colours, line ends, lines around the tables."""
    indent = " " * dice.randrange(7)
    lines = [dice.choice(NOISE)] + [indent + text for text in lines] + [dice.choice(NOISE)]
    if not dice.randrange(4):
        lines = ["\x1b[1m" + text + "\x1b[0m" for text in lines]
    return dice.choice(["\n", "\r\n", "\n\n", "\r"]).join(lines)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_layout_is_read_back_value_for_value(name):
    dice = random.Random("tables of " + name)
    for _ in range(TABLES_A_VARIANT):
        lines, devices, processes, versions, token, star = compose(dice, name)
        text = damage(dice, lines)
        report = parse(text)
        seen = [
            (
                d.id,
                d.is_default,
                d.name,
                d.flavor,
                d.memory_used_mib,
                d.memory_total_mib,
                d.memory_used_percent,
                d.utilization_percent,
            )
            for d in report.devices
        ]
        assert seen == devices, text
        held = [(d.id, p.job_id, p.pid, p.command, p.memory_used_mib) for d in report.devices for p in d.processes]
        assert held == processes, text
        assert report.discarded_blocks == 0, text
        assert (report.platform_version, report.latest_version) == versions, text
        assert report.default_assumed == (star is None), text
        assert token not in repr(report), text


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_table_copied_onto_one_line_is_read_back_too(name):
    dice = random.Random("glued tables of " + name)
    for _ in range(TABLES_A_VARIANT // 10):
        lines, devices, _, _, _, _ = compose(dice, name)
        end = next(i for i, text in enumerate(lines + ["Processes:"]) if not text.strip() or text == "Processes:")
        glued = " ".join(text for text in lines[:end] if text.startswith(("|", "+")))
        report = parse(glued)
        assert [(d.id, d.flavor, d.memory_used_mib) for d in report.devices] == [(d[0], d[3], d[4]) for d in devices], glued


def test_random_bytes_never_raise_and_never_make_a_device_without_a_header():
    dice = random.Random(7)
    words = ["|", "+", "-", "=", "* ", "\n", "\r", " MiB", "%", "Device", "PID", "0", "7 ", "\x1b[", "+--+", "\xff"]
    for number in range(RANDOM_TEXTS):
        if number % 2:
            text = "".join(dice.choices(words, k=dice.randrange(24)))
        else:
            text = bytes(dice.choices(range(256), k=dice.randrange(32))).decode("utf-8", "replace")
        report = parse(text)
        if "Device" not in text and "#" not in text:
            assert report.devices == [], text
