"""Reading moreh-smi and ap-smi: every release's layout, every way a table can be damaged.

The samples are composed: invented values in the layouts the platform's guides show.
"""

import random
import textwrap

import pytest
from moai_agent.devices import smi
from moai_agent.devices.report import Process
from moai_agent.devices.smi import NO_TABLE, parse

A = """
+-------------------------------------------------------------------------------------------------------------+
|  Moreh-SMI 0.8.2                                              Client Version: 0.8.2  Server Version: 0.8.3  |
+-------------------------------------------------------------------------------------------------------------+
|  Device  |        Name         |            Token           |    Model     |  Memory Usage  |  Total Memory  |
+=============================================================================================================+
|       1  |  KT AI Accelerator  |  ZmFrZS10b2tlbi0wMDE=      |  small.16gb  |  512 MiB       |  16368 MiB     |
+-------------------------------------------------------------------------------------------------------------+

Processes:
+-------------------------------------------------------------------+
|  Device  |  Job ID  |   PID   |      Process     |  Memory Usage  |
+===================================================================+
|       1  |    7123  |  20456  |  python mine.py  |  512 MiB       |
+-------------------------------------------------------------------+
"""
B = """
09:41:07 October 03, 2023
+-----------------------------------------------------------------------------------------------------+
|                                                    Current Version: 23.9.0  Latest Version: 23.8.1  |
+-----------------------------------------------------------------------------------------------------+
|  Device  |        Name         |       Model      |  Memory Usage  |  Total Memory  |  Utilization  |
+=====================================================================================================+
|    0     |  KT AI Accelerator  |  2xLarge.1024GB  |  -             |  -             |  -            |
|  * 1     |  KT AI Accelerator  |  Medium.128GB    |  73 MiB        |  131040 MiB    |    4 %        |
|    2     |  KT AI Accelerator  |  -               |  -             |  -             |  -            |
+-----------------------------------------------------------------------------------------------------+
"""
D_DEVICES = """
+-----------------------------------------------------------------------------------------------------+
|                                                    Current Version: 24.5.0  Latest Version: 24.5.0  |
+-----------------------------------------------------------------------------------------------------+
|  Device  |        Name         |       Flavor     |  Memory Usage  |  Total Memory  |  Utilization  |
+=====================================================================================================+
|  * 0     |  MoAI Accelerator   |  4xLarge.2048GB  |  1200345 MiB   |  2096640 MiB   |     97%       |
+-----------------------------------------------------------------------------------------------------+
"""
D_PROCESSES = """
Processes:
+----------------------------------------------------------------------------------+
|  Device  |  Job ID  |    PID    |             Process           |  Memory Usage  |
+==================================================================================+
|       0  |  981204  |  3310077  |  python tutorial/train_x.py --batch-size 64 |  1200345 MiB   |
+----------------------------------------------------------------------------------+
"""
D = D_DEVICES + D_PROCESSES
E = """
+---------------------------------------------------+
|  Device  |        Name         |       Model      |
+===================================================+
|  * 0     |   MoAI Accelerator  |    Large.256GB   |
|    1     |   MoAI Accelerator  |  xLarge.512GB    |
+---------------------------------------------------+
Switch Current Device success.
"""
F = """
+-------------------------------------------------------------------+
|                  Current Version: 23.9.0  Latest Version: 23.9.0  |
+-------------------------------------------------------------------+
|  Device  |     Name      |          Token          |    Model     |
+===================================================================+
|  * 0     |  Moreh SDA    |  ZmFrZS10b2tlbi0wMDI=   |  6xlarge     |
+-------------------------------------------------------------------+
"""
G = """
+------------------------------------------------------------------------------------------+
|  Dev   |  Location  |  Dev Temp  |  Mem Temp  |  Dev Util  |  Mem Util  |  Mem Usage     |
+==========================================================================================+
|    3   |  node07:3  |  41 C      |  49 C      |  88 %      |  0 %       |  2 %           |
|    4   |  node07:4  |  -         |  -         |  0 %       |  0 %       |  0 %           |
+------------------------------------------------------------------------------------------+
"""
H = """
+-----------------------------------------------------------------------------------------------+
|                                          Current Version: 24.9.212  Latest Version: 25.1.202  |
+-----------------------------------------------------------------------------------------------+
|  Device  |          Name          |  Model  |  Memory Usage  |  Total Memory  |  Utilization  |
+===============================================================================================+
|  * 0     |  Ambre AI Accelerator  |  micro  |  -             |  -             |  -            |
+-----------------------------------------------------------------------------------------------+
"""
AP = """
+-----------------------------------------------------------------------------+
|                                     Accelerator platform Version : v0.0.31  |
|              MoAI Framework Version : 25.5.3007 Latest Version : 25.5.3007  |
+---------+---------+------------------------+----------------+---------------+
|      #  |  NAME   |  FLAVOR                |  MEM USAGE(%)  |  GPU UTIL(%)  |
+---------+---------+------------------------+----------------+---------------+
|      0  |  2044   |  flavor-default-16     |  38            |  91           |
+---------+---------+------------------------+----------------+---------------+
"""
SAMPLES = {"A": A, "B": B, "D": D, "E": E, "F": F, "G": G, "H": H, "I": AP}


def row(report, number=0):
    """The comparable part of one device."""
    one = report.devices[number]
    return (one.id, one.name, one.flavor, one.memory_used_mib, one.memory_total_mib, one.utilization_percent)


def test_variant_a_has_client_version_one_based_id_and_process():
    report = parse(A)
    assert (report.provider, report.platform_version, report.latest_version) == (
        "moreh-smi",
        "0.8.2",
        "0.8.3",
    )
    assert row(report) == (1, "KT AI Accelerator", "small.16gb", 512, 16368, None)
    assert report.devices[0].processes == [Process(7123, 20456, "python mine.py", 512)]
    assert report.devices[0].is_default and report.default_assumed


def test_variant_b_reads_clock_star_and_unused_slots():
    report = parse(B)
    assert report.clock == "09:41:07 October 03, 2023"
    assert (report.platform_version, report.latest_version) == ("23.9.0", "23.8.1")
    assert [row(report, number) for number in range(3)] == [
        (0, "KT AI Accelerator", "2xLarge.1024GB", None, None, None),
        (1, "KT AI Accelerator", "Medium.128GB", 73, 131040, 4),
        (2, "KT AI Accelerator", None, None, None, None),
    ]
    assert [device.is_default for device in report.devices] == [False, True, False]
    assert not report.default_assumed and report.messages == []


def test_variant_c_with_empty_current_version_does_not_take_the_next_label_for_it():
    report = parse(D_DEVICES.replace("Current Version: 24.5.0  Latest", "Current Version:   Latest"))
    assert (report.platform_version, report.latest_version) == (None, "24.5.0")


@pytest.mark.parametrize("word", ["Model", "Flavor", "MODEL", "flavor"])
def test_variant_d_reads_model_or_flavor_column_and_overhanging_process_row(word):
    report = parse(D.replace("Flavor", word))
    assert row(report) == (0, "MoAI Accelerator", "4xLarge.2048GB", 1200345, 2096640, 97)
    command = "python tutorial/train_x.py --batch-size 64"
    assert report.devices[0].processes == [Process(981204, 3310077, command, 1200345)]
    assert report.default_device() is report.devices[0]


def test_variant_e_reads_the_reduced_table_and_keeps_the_answer():
    report = parse(E)
    assert [row(report, number)[:3] for number in range(2)] == [
        (0, "MoAI Accelerator", "Large.256GB"),
        (1, "MoAI Accelerator", "xLarge.512GB"),
    ]
    assert report.devices[0].memory_total_mib is None
    assert report.messages == ["Switch Current Device success."]


@pytest.mark.parametrize("name", ["A", "F"])
def test_token_column_never_leaves_the_parser(name):
    report = parse(SAMPLES[name])
    assert report.devices and "ZmFrZS10b2tlbi0" not in repr(report)


@pytest.mark.parametrize("name", ["A", "F"])
def test_token_never_leaves_the_parser_wherever_the_output_is_cut_or_wrapped(name):
    text = SAMPLES[name].strip()
    for end in range(len(text)):
        assert "ZmFrZS10" not in repr(parse(text[:end])), end
        assert "ZmFrZS10" not in repr(parse(text[:end] + "\nerror: cut\n" + text[end:])), end
    for width in range(20, 140, 7):
        wrapped = "\n".join(text[start : start + width] for start in range(0, len(text), width))
        assert "10b2tlbi0wMD" not in repr(parse(wrapped)), width


def test_token_is_taken_out_of_messages_and_commands_too():
    text = F + "\nusing ZmFrZS10b2tlbi0wMDI= now\nexport MOREH_SDA_TOKEN=another-one\n"
    text += D.replace("--batch-size 64", "--hf-token hf_abcdefghijkl")
    shown = repr(parse(text))
    assert "ZmFrZS10" not in shown and "another-one" not in shown and "hf_abcdef" not in shown
    assert "python tutorial/train_x.py --hf-token [redacted]" in shown


def test_variant_g_keeps_the_hardware_table_apart_from_devices():
    report = parse(D + G)
    assert [device.id for device in report.devices] == [0]
    assert [one.index for one in report.hardware] == [3, 4]
    first, second = report.hardware
    assert (first.location, first.device_temperature_c, first.memory_temperature_c) == ("node07:3", 41, 49)
    assert (
        first.device_utilization_percent,
        first.memory_utilization_percent,
        first.memory_used_percent,
    ) == (88, 0, 2)
    assert second.device_temperature_c is None
    assert parse(G).devices == [] and parse(G).table_found


def test_variant_h_reads_wide_names_and_short_flavors():
    report = parse(H)
    assert row(report)[:3] == (0, "Ambre AI Accelerator", "micro")
    assert (report.platform_version, report.latest_version) == ("24.9.212", "25.1.202")


def test_variant_i_reads_ap_smi():
    report = parse(AP)
    assert report.provider == "ap-smi"
    assert (report.platform_version, report.latest_version) == ("25.5.3007", "25.5.3007")
    assert report.versions["accelerator platform"] == "0.0.31"
    assert row(report)[:3] == (0, "2044", "flavor-default-16")
    assert (report.devices[0].memory_used_percent, report.devices[0].utilization_percent) == (38, 91)
    assert report.devices[0].memory_used_mib is None


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_layout_noise_changes_nothing(name):
    text, plain = SAMPLES[name], parse(SAMPLES[name])
    coloured = "\x1b]0;title\x07\x1b[1;32m" + text.replace("|", "\x1b[0m|\x1b[33m") + "\x1b[K"
    assert parse(textwrap.indent(text, "      ")) == plain
    assert parse(text.replace("\n", "\r\n")) == plain
    assert parse(text.replace("\n", "\r")) == plain
    assert parse(coloured) == plain
    assert parse("\ufeff" + text) == plain
    assert parse("=====\n***\n" + text + "-----\n") == plain


@pytest.mark.parametrize("joint", ["", " ", "  "])
@pytest.mark.parametrize("name", ["A", "D", "F", "G", "I"])
def test_table_glued_on_one_line_reads_the_same(name, joint):
    assert parse(joint.join(SAMPLES[name].split("\n"))) == parse(SAMPLES[name])


def test_several_rows_glued_end_to_end_are_taken_apart():
    text = "".join(B.strip().split("\n")[1:])
    assert parse(text).devices == parse(B).devices


@pytest.mark.parametrize(
    "command",
    [
        "cat a.txt | python train.py",
        "bash -c a||b",
        "python x.py *",
        "* 3",
        "python +--+ x",
        "|",
        "sh -c 'x|y|z' | tee log",
        "device",
        "`date` **x**",
        "python x.py --title 'Latest Version: 9.9.9'",
    ],
)
def test_process_command_survives_bars_stars_and_rules(command):
    report = parse(D.replace("python tutorial/train_x.py --batch-size 64", command))
    assert report.devices[0].processes == [Process(981204, 3310077, command, 1200345)]
    assert report.devices[0].is_default and report.platform_version == "24.5.0"


def test_without_a_star_the_lowest_id_is_default_and_said_to_be_assumed():
    report = parse(B.replace("* 1", "  1"))
    assert [device.is_default for device in report.devices] == [True, False, False] and report.default_assumed


@pytest.mark.parametrize(
    "cell, value",
    [("0 %", 0), ("62 %", 62), ("100%", 100), ("  71%", 71), ("-", None), ("?", None), ("101%", None)],
)
def test_utilization_is_read_in_every_spelling_or_unknown(cell, value):
    assert parse(D.replace("97%", cell)).devices[0].utilization_percent == value


@pytest.mark.parametrize(
    "cell, value",
    [("73 MiB", 73), ("73MiB", 73), ("1,200,345 MiB", 1200345), ("-", None), ("12", None), ("x MiB", None)],
)
def test_memory_is_read_with_its_unit_or_unknown(cell, value):
    assert parse(D_DEVICES.replace("1200345 MiB", cell)).devices[0].memory_used_mib == value


def test_more_used_than_there_is_becomes_unknown_with_a_message():
    report = parse(D_DEVICES.replace("1200345", "9900345"))
    assert report.devices[0].memory_used_mib is None and report.devices[0].memory_total_mib == 2096640
    assert any("9900345" in line for line in report.messages)


def test_a_prefix_of_the_output_never_gives_a_wrong_value():
    whole = parse(D).devices[0]
    for end in range(len(D)):
        for device in parse(D[:end]).devices:
            assert device.processes in ([], whole.processes), end
            device.processes = whole.processes
            assert device == whole, end


def test_a_table_cut_by_the_next_one_is_discarded():
    lines = D_DEVICES.replace("97%", "11%").strip().split("\n")
    for kept in range(1, len(lines)):
        report = parse("\n".join(lines[:kept]) + "\n" + D)
        assert row(report)[5] == 97 and report.platform_version == "24.5.0", kept
        assert report.devices[0].processes[0].pid == 3310077, kept


def test_a_lost_device_table_does_not_leave_its_processes_to_an_older_one():
    broken = D_DEVICES.strip().rsplit("\n", 1)[0]
    report = parse(D_DEVICES + broken + "\nsomething else\n" + D_PROCESSES)
    assert report.devices[0].processes == [] and report.discarded_blocks == 2


def test_two_tables_interleaved_in_one_frame_are_discarded():
    lines = D_DEVICES.strip().split("\n")
    report = parse("\n".join(lines[:-1] + [lines[-2], lines[-1]]))
    assert report.devices == [] and report.discarded_blocks == 1


def test_a_table_with_two_defaults_contradicts_itself_and_is_discarded():
    report = parse(B.replace("    2     |", "  * 2     |"))
    assert report.devices == [] and report.discarded_blocks == 1


def test_the_last_snapshot_of_a_log_wins():
    report = parse(D + "[info] step 3\n" + D_DEVICES.replace("97%", " 5%"))
    assert row(report)[5] == 5 and report.devices[0].processes == []
    assert report.messages == ["[info] step 3"]


@pytest.mark.parametrize("text", ["usage: moreh-smi [-glx_reset]", "Board 0 wormhole 45C", "| a | b |"])
def test_output_without_a_device_header_is_said_to_be_another_tool(text):
    report = parse(text)
    assert report.provider is None and not report.table_found and NO_TABLE in report.messages


@pytest.mark.parametrize("text", ["", "Device release success.", "Device release failed. (Not running job.)"])
def test_a_short_answer_is_not_taken_for_another_tool(text):
    assert parse(text).messages == ([text] if text else [])


def test_rows_that_do_not_fit_their_header_are_left_out():
    extra = "|    1     |  a  |  b  |  c  |  d  |  e  |  f  |\n|  x  |  a  |  b  |  c  |  d  |  e  |\n|  2  |  b  |"
    text = D_DEVICES.strip().split("\n")
    assert parse("\n".join(text[:-1] + [extra, text[-1]])).devices == parse(D_DEVICES).devices


def test_a_table_with_rules_between_rows_is_read_whole():
    lines = B.strip().split("\n")
    rows = [part for line in lines[-4:-1] for part in (line, lines[-1])]
    assert parse("\n".join(lines[:-4] + rows)).devices == parse(B).devices


def test_any_text_is_read_without_raising():
    dice = random.Random(20240522)
    pieces = [
        "|",
        "+",
        "-",
        "=",
        "*",
        "\n",
        "\r",
        " ",
        "Device",
        "Token",
        "PID",
        "Process",
        "Location",
        "MiB",
        "%",
        "0",
    ]
    pieces += [
        "9" * 30,
        "Current Version:",
        "|+-",
        "+----------------+",
        "+================+",
        "\x1b[",
        "\0",
        "²",
        "٣",
    ]
    for _ in range(2000):
        parse("".join(dice.choice(pieces) for _ in range(dice.randrange(60))))
    samples = sorted(SAMPLES)
    for _ in range(1000):
        text = list(SAMPLES[dice.choice(samples)])
        for _ in range(dice.randrange(1, 12)):
            text[dice.randrange(len(text))] = dice.choice(pieces)
        parse("".join(text))
    for _ in range(1000):
        parse(bytes(dice.randrange(256) for _ in range(dice.randrange(200))).decode("utf-8", "replace"))


@pytest.mark.parametrize(
    "piece", ["+", "+-", "|", "| ", "||", "-", "a-", "\x1b]", "Current ", "token ", "-token", " "]
)
def test_a_hostile_line_takes_linear_time(piece):
    parse(piece * (400000 // len(piece)) + "x")


def test_the_parser_exports_its_types():
    assert smi.SmiReport is type(parse(D)) and smi.Device is type(parse(D).devices[0])
