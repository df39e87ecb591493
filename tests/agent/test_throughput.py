"""Real speed of a foreign script: from its step lines and its command line, never guessed."""

import pytest
from moai_agent.jobs.logparse import LogParser
from moai_agent.jobs.throughput import Throughput, tokens_a_step


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        ("python train_llama3_70b.py --batch-size 512 --block-size 1024", 524288),
        ("python t.py --batch_size=8 --max_seq_length=128", 1024),
        ("python t.py --batch-size 4 --batch-size 8 --seq-len 16", 128),
        ("python t.py --batch-size 8", None),
        ("python t.py --block-size 1024", None),
        ("python t.py --batch-size auto --seq-len 16", None),
        ("python t.py --seq-len 16 --batch-size", None),
        ("sh -c '--batch-size 8 --seq-len 16'", None),
    ],
)
def test_rows_and_tokens_come_from_the_command_line_or_not_at_all(words, tokens):
    found, source = tokens_a_step(words.split(" ")[:2] + ["x y"] if words.startswith("sh") else words.split())
    assert found == tokens and bool(source) == bool(tokens)


def values(rate, step, moment, **more):
    """The values of a step line afterwards."""
    data = {"step": step, "values": dict({"loss": 1.0}, **more)}
    rate.add(data, moment)
    return data


def test_the_window_is_wide_enough_for_the_logs_clock_and_leaves_out_what_was_before_the_first_step():
    rate = Throughput("t.py --batch-size 8 --seq-len 100".split(), {})
    assert "steps_per_second" not in values(rate, 1, 1000.0)["values"]
    assert "steps_per_second" not in values(rate, 5, 1009.0)["values"]
    data = values(rate, 21, 1010.0, printed_tokens_per_second=9000.0)
    assert data["values"]["steps_per_second"] == 2.0 and data["values"]["tokens_per_second"] == 1600.0
    assert data["values"]["printed_tokens_per_second"] == 9000.0 and data["rate_source"] == "--batch-size 8 x --seq-len 100"
    # Another process goes on with the same window; an evaluation counts as time.
    later = Throughput("t.py --batch-size 8 --seq-len 100".split(), dict(rate.state))
    assert values(later, 31, 1100.0)["values"]["steps_per_second"] == 0.3
    assert values(later, 32, 1111.0)["values"]["steps_per_second"] == round(1 / 11, 6)


def test_a_script_that_counts_anew_starts_the_clock_anew_and_other_lines_do_not_count():
    rate = Throughput(["t.py"], {})
    values(rate, 100, 0.0)
    assert "steps_per_second" not in values(rate, 1, 50.0)["values"]
    data = {"step": 5, "values": {"eval_loss": 1.0}}
    rate.add(data, 100.0)
    assert data["values"] == {"eval_loss": 1.0}
    assert values(rate, 11, 70.0)["values"] == {"loss": 1.0, "steps_per_second": 0.5}


def test_a_tutorial_trainers_line_has_both_speeds():
    """As the platform's tutorials print with loguru; the printed one leaves out what lies between two steps."""
    parser, rate = LogParser(), Throughput("train.py --batch-size 512 --block-size 1024".split(), {})
    line = "2024-07-12 05:10:1{0} | INFO     | __main__:main:140 - [Step {0}/10] | Loss: 1.5 | Duration: 5.00 | Throughput: 104857.60 tokens/sec\n"
    found = []
    for n in range(1, 4):
        for report in parser.feed(line.format(n).encode(), parser.offset):
            if report.type == "metric":
                rate.add(report.data, 20.0 * n)
                found.append(report.data["values"])
    assert [one.get("tokens_per_second") for one in found] == [None, 26214.4, 26214.4]
    assert found[1]["printed_tokens_per_second"] == 104857.6
