"""Fake ``moreh-smi`` and ``ap-smi`` of a look-alike container (which one: by its first argument).

Draws the tables of every release from state.json; see ``moai_state`` for where they come from.
"""

import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import moai_state as moai


def frame(title, header, rows, center=(), widths=None):
    """A table with one-piece rules; cells two blanks from their bars, rows free to overhang."""
    widths = list(widths or [len(cell) + 4 for cell in header])
    for row in rows:
        for at, cell in enumerate(row):
            if at != len(row) - 2 or len(row) != 5:  # the Process column does not grow
                widths[at] = max(widths[at], len(cell) + 4)
    inner = sum(widths) + len(widths) - 1
    lines = ["+" + "-" * inner + "+"]
    if title is not None:
        lines += ["|" + title.rjust(inner - 2) + "  |", lines[0]]
    lines.append("|" + "|".join(cell.center(width) for cell, width in zip(header, widths)) + "|")
    lines.append("+" + "=" * inner + "+")
    for row in rows:
        cells = []
        for at, (cell, width) in enumerate(zip(row, widths)):
            cells.append(cell.center(width) if at in center else "  " + cell.ljust(width - 3) + " ")
        lines.append("|" + "|".join(cells) + "|")
    lines.append("+" + "-" * inner + "+")
    return lines


def star(state, number):
    if state["starless"]:
        return "    {}".format(number)
    return "* {}".format(number) if number == state["default"] else "  {}".format(number)


def flavor_of(device):
    return device["flavor"] or "-"


def devices_of(state, only):
    return [device for device in state["devices"] if only is None or device["id"] == only]


def usage(state, device):
    """(memory, total, utilization) cells: dashes while nothing runs."""
    job = moai.running(state, device["id"])
    if job is None or not device["flavor"]:
        return "-", "-", "-"
    utilization = (
        "{}%".format(job["utilization"]) if state["variant"] != "B" else "{} %".format(job["utilization"])
    )
    return "{} MiB".format(job["memory_mib"]), "{} MiB".format(moai.total_mib(device["flavor"])), utilization


def title(state):
    return "Current Version: {}  Latest Version: {}".format(state["maf"], state["latest"])


def device_table(state, only=None):
    variant = state["variant"]
    if variant == "A":
        rows = [
            [
                "{:>5}".format(device["id"]),
                state["name"],
                state["token"],
                flavor_of(device),
                *usage(state, device)[:2],
            ]
            for device in devices_of(state, only)
        ]
        header = ["Device", "Name", "Token", "Model", "Memory Usage", "Total Memory"]
        head = "Moreh-SMI {0}      Client Version: {0}  Server Version: {1}".format(
            state["maf"], state["latest"]
        )
        return frame(head, header, rows)
    word = "Flavor" if variant in ("C", "D") and state["header_word"] == "Flavor" else "Model"
    rows = [
        [star(state, device["id"]), state["name"], flavor_of(device), *usage(state, device)]
        for device in devices_of(state, only)
    ]
    header = ["Device", "Name", word, "Memory Usage", "Total Memory", "Utilization"]
    return frame(title(state), header, rows, center=(1, 2, 5))


def process_table(state, only=None):
    rows = []
    for device in devices_of(state, only):
        job = moai.running(state, device["id"])
        if job is not None:
            memory = "{} MiB".format(job["memory_mib"])
            rows.append([str(device["id"]).rjust(6), job["job_id"], str(job["pid"]), job["command"], memory])
    if not rows and state["variant"] != "A":
        return []
    header = ["Device", "Job ID", "PID", "Process", "Memory Usage"]
    return ["", "Processes:", *frame(None, header, rows, widths=(10, 10, 11, 31, 16))]


def reduced_table(state):
    rows = [[star(state, device["id"]), state["name"], flavor_of(device)] for device in state["devices"]]
    return frame(None, ["Device", "Name", "Model"], rows, center=(1, 2))


def token_table(state, only):
    rows = [
        [star(state, device["id"]), state["name"], state["token"], flavor_of(device)]
        for device in devices_of(state, only)
    ]
    return frame(title(state), ["Device", "Name", "Token", "Model"], rows)


def hardware_table(state):
    device = moai.default(state)
    busy = moai.running(state, device["id"]) is not None
    rows = []
    for number in range(moai.gpus(flavor_of(device)) if device["flavor"] else 0):
        place = "node{:02}:{}".format(7 + number // 8, number % 8)
        rows.append(
            [str(number).rjust(4), place, "41 C", "49 C", *(("88 %", "0 %", "2 %") if busy else ("0 %",) * 3)]
        )
    return frame(None, ["Dev", "Location", "Dev Temp", "Mem Temp", "Dev Util", "Mem Util", "Mem Usage"], rows)


def ap_table(state):
    widths = (9, 9, 24, 16, 15)
    rule = "+" + "+".join("-" * width for width in widths) + "+"
    inner = len(rule) - 2
    lines = ["+" + "-" * inner + "+", "|" + "Accelerator platform Version : v0.0.31".rjust(inner - 2) + "  |"]
    head = "MoAI Framework Version : {} Latest Version : {}".format(state["maf"], state["latest"])
    lines += ["|" + head.rjust(inner - 2) + "  |", rule]
    header = ("#", "NAME", "FLAVOR", "MEM USAGE(%)", "GPU UTIL(%)")
    lines += ["|" + "|".join(cell.center(width) for cell, width in zip(header, widths)) + "|", rule]
    for device in state["devices"]:
        job = moai.running(state, device["id"])
        if job is not None:
            percent = str(100 * job["memory_mib"] // moai.total_mib(device["flavor"]))
            cells = (
                str(device["id"]).rjust(5),
                job["job_id"],
                device["flavor"],
                percent,
                str(job["utilization"]),
            )
            lines.append(
                "|" + "|".join("  " + cell.ljust(width - 2) for cell, width in zip(cells, widths)) + "|"
            )
    return lines + [rule]


def show(state, only=None):
    variant = state["variant"]
    if variant == "I":
        lines = ap_table(state)
    elif variant == "E":
        lines = reduced_table(state)
    elif variant == "F":
        lines = token_table(state, only)
    elif variant == "G":
        lines = hardware_table(state)
    else:
        lines = device_table(state, only) + process_table(state, only)
    if state["clock"] or variant == "B":
        lines.insert(0, time.strftime("%H:%M:%S %B %d, %Y "))
    print("\n".join(lines))


def reset(state):
    number = str(state["default"])
    job = state["running"].get(number)
    if job is None:
        print("Device release failed. (Not running job.)")
        return 0
    if job["kill_on_reset"]:
        try:
            os.kill(job["pid"], signal.SIGKILL)
        except ProcessLookupError:
            job["pid"] = 0
    moai.change(lambda fresh: fresh["running"].pop(number, None))
    print("Device release success.")
    return 0


def after_change(state, message):
    """Before 24.5 the short table; in 24.5 the usual one."""
    old = tuple(int(part) for part in (state["maf"] or "24.5").split(".")) < (24, 5)
    print("\n".join(reduced_table(state) if old or state["variant"] == "E" else device_table(state)))
    print(message)


def pick(state, lines, last, number, first=1):
    """The number given, or one asked for in a loop; None when the user leaves."""
    if number is not None:
        return int(number) if number.isdigit() else -1
    while True:
        print("\n".join(lines))
        answer = moai.ask("Selection ({}-{}, q, Q): ".format(first, last))
        if answer is None:
            raise SystemExit(moai.at_end_of_input(state))
        if answer in ("q", "Q"):
            return None
        if answer.isdigit() and first <= int(answer) <= last:
            return int(answer)


def add(state, number):
    names = moai.menu(state)
    choice = pick(state, moai.menu_lines(state, ""), len(names), number)
    if choice is None:
        return 0
    if not 1 <= choice <= len(names) or len(state["devices"]) >= state["max_devices"]:
        print("Create device failed. (The number of devices is limited to {}.)".format(state["max_devices"]))
        return 0

    def edit(fresh):
        used = {device["id"] for device in fresh["devices"]}
        new = min(set(range(len(used) + 1)) - used)
        fresh["devices"].append({"id": new, "flavor": names[choice - 1]})
        fresh["devices"].sort(key=lambda device: device["id"])
        if fresh["star_after_add"]:
            fresh["default"] = new

    after_change(moai.change(edit), "Create device success.")
    return 0


def known_device(state, number, verb):
    rows = reduced_table(state)
    choice = pick(state, rows, max(device["id"] for device in state["devices"]), number, first=0)
    if choice is not None and moai.device(state, choice) is None:
        print("{} device failed. (No such device.)".format(verb))
        return None
    return choice


def remove(state, number):
    choice = known_device(state, number, "Remove")
    if choice is None:
        return 0
    if moai.running(state, choice) or len(state["devices"]) == 1:
        print("Remove device failed. (The device is in use.)")
        return 0

    def edit(fresh):
        fresh["devices"] = [device for device in fresh["devices"] if device["id"] != choice]
        if fresh["default"] == choice:
            fresh["default"] = fresh["devices"][0]["id"]

    after_change(moai.change(edit), "Remove device success.")
    return 0


def switch(state, number):
    choice = known_device(state, number, "Switch current")
    if choice is not None:
        after_change(
            moai.change(lambda fresh: fresh.update(default=choice)), "Switch Current Device success."
        )
    return 0


def usage_text(state):
    print(
        "usage: moreh-smi [-h] [-i IDX] [-t] [-r] [-s] [-v]"
        + (" {device} ..." if state["max_devices"] > 1 else "")
    )
    print("  -i, --idx IDX         show one device\n  -t, --token           show the token")
    print("  -r, --reset           release the device\n  -s, --server-version\n  -v, --version")
    if state["max_devices"] > 1:
        print("  device --list | --add [MODEL_ID] | --rm [DEVICE_ID] | --switch [DEVICE_ID]")
    return 0


def main(tool, words):
    state = moai.load()
    moai.refuse_trouble(state)
    if tool == "ap-smi":
        show(dict(state, variant="I"))
        return 0
    if words[:1] == ["device"]:
        words = words[1:]
    verb, value = (words + [None, None])[:2]
    if verb in ("-h", "--help"):
        return usage_text(state)
    if verb in ("-r", "--reset"):
        return reset(state)
    if verb in ("-s", "--server-version", "-v", "--version"):
        print(state["latest"] if verb.startswith(("-s", "--s")) else state["maf"])
        return 0
    if verb in ("--add", "--rm", "--switch"):
        return {"--add": add, "--rm": remove, "--switch": switch}[verb](state, value)
    if verb == "--list":
        print("\n".join(moai.menu_lines(state, "")))
        return 0
    if verb == "-p":
        print("\n".join(hardware_table(state)))
        return 0
    if verb in ("-t", "--token"):
        print("\n".join(token_table(state, None)))
        return 0
    if verb in ("-i", "--idx") and value and value.isdigit():
        show(state, int(value))
        return 0
    if verb is not None:
        sys.stderr.write("moreh-smi: error: unrecognized arguments: {}\n".format(" ".join(words)))
        return 2
    show(state)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
