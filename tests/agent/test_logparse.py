"""The log parser's numbers: every dialect field by field, and the same result for any chunks.

All samples are composed: real formats, invented values. Phases and faults have a file of their own.
"""

import json
import math
import re

import pytest
from moai_agent.jobs import dialects
from moai_agent.jobs.logparse import MAX_LINE_BYTES, Found, LogParser
from moai_worker import steplines

LOGURU = "2024-06-11 10:06:02.551 | INFO     | __main__:main:161 - "
NOISE = [
    "Downloading shards and other things that mean nothing",
    "  a/b/c.py:12: UserWarning: something is deprecated",
    "trainable params: 1,000 || all params: 2,000 || trainable%: 50.0",
    "",
    "2024-06-11 10:06:02.551 | INFO     | __main__:main:99 - hello",
]


def parse(text, pattern=None):
    """All reports of a whole log as (type, data)."""
    parser = LogParser(pattern=pattern)
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    return [(found.type, found.data) for found in parser.feed(data, 0) + parser.finish()]


def numbers(text, pattern=None):
    """Only metrics and progress, without the keys that say nothing."""
    result = []
    for type_, data in parse(text, pattern):
        if type_ in ("metric", "progress"):
            result.append((type_, {key: value for key, value in data.items() if value is not None}))
    return result


def metric(step, total=None, **values):
    data = {"values": values}
    if step is not None:
        data["step"] = step
    if total is not None:
        data["total"] = total
    return ("metric", data)


def progress(done, total, unit="steps", **more):
    return ("progress", dict(more, done=done, total=total, unit=unit))


STEP_LINES = {
    "llama, mistral, qwen 2024": (
        LOGURU + "[Step 2/2243] | Loss: 2.03125 | Duration: 2.71 | Throughput: 48365.87 tokens/sec",
        [
            metric(2, 2243, loss=2.03125, printed_duration_seconds=2.71, printed_tokens_per_second=48365.87),
            progress(2, 2243),
        ],
    ),
    "the docs strip the time": (
        "INFO | main:main:161 - [Step 10/560] | Loss: 1.5 | Duration: 8.0 | Throughput: 4062.5 tokens/sec",
        [
            metric(10, 560, loss=1.5, printed_duration_seconds=8.0, printed_tokens_per_second=4062.5),
            progress(10, 560),
        ],
    ),
    "baichuan": (
        "[Step 10/104] Loss: 0.75, Throughput : 100000.5tokens/sec",
        [metric(10, 104, loss=0.75, printed_tokens_per_second=100000.5), progress(10, 104)],
    ),
    "baichuan between intervals": (
        "[Step 11/104] Throughput : 99000.25tokens/sec",
        [metric(11, 104, printed_tokens_per_second=99000.25), progress(11, 104)],
    ),
    "gpt counts from 0": (
        "[Step 0/6644] Loss: 3.5 Throughput: 5600.5 tokens/sec",
        [metric(0, 6644, loss=3.5, printed_tokens_per_second=5600.5), progress(0, 6644)],
    ),
    "first examples": ("[Step 1/100] Loss: 11.25", [metric(1, 100, loss=11.25), progress(1, 100)]),
    "two lines of June 2024": (
        "Model prepare and warmup Done. [Step 1/36] | Loss: 2.5 | Duration: 120.5\n"
        "[Step 2/36] | Loss: 2.25 |\n"
        "Duration: 3.5 | Throughput: 90000.5 tokens/sec",
        [
            metric(1, 36, loss=2.5, warmup_seconds=120.5),
            progress(1, 36),
            metric(2, 36, loss=2.25),
            progress(2, 36),
            metric(2, 36, printed_duration_seconds=3.5, printed_tokens_per_second=90000.5),
        ],
    ),
    "warm-up on its own": ("Model load and warmup done. Duration: 98.5", [metric(None, warmup_seconds=98.5)]),
    "bare samples per second": (
        LOGURU + "[Step 4/72] | Loss: 1.25 | Duration: 4.5 | 56.5 | Throughput: 58000.5 tokens/sec",
        [
            metric(
                4,
                72,
                loss=1.25,
                printed_duration_seconds=4.5,
                printed_samples_per_second=56.5,
                printed_tokens_per_second=58000.5,
            ),
            progress(4, 72),
        ],
    ),
    "duration with unit": (
        "[Step 4/72] | Loss: 1.2345 | Duration: 4.5 sec | Throughput: 58000.5 tokens/sec",
        [
            metric(4, 72, loss=1.2345, printed_duration_seconds=4.5, printed_tokens_per_second=58000.5),
            progress(4, 72),
        ],
    ),
    "callback of 2025": (
        "[Step 1] Model loading duration : 30.5 sec\n"
        "[Step 2] | TPS: 1234.5 tokens/sec | Loss: 1.75 | LR : 1e-05 | Duration for 1 Step: 2.5 sec",
        [
            metric(1, model_loading_seconds=30.5),
            metric(
                2,
                loss=1.75,
                learning_rate=1e-05,
                printed_duration_seconds=2.5,
                printed_tokens_per_second=1234.5,
            ),
        ],
    ),
    "quickstart dicts": (
        "{'warmup_duration': 88.5}\n"
        "{'loss': 1.5, 'grad_norm': 0.25, 'learning_rate': 0.0, 'epoch': 0.1, 'step': 20, 'tps': 900.5, "
        "'duration': 2.5, 'max_seq_len': 1024}",
        [
            metric(None, warmup_seconds=88.5),
            metric(
                20,
                loss=1.5,
                grad_norm=0.25,
                learning_rate=0.0,
                epoch=0.1,
                printed_tokens_per_second=900.5,
                printed_duration_seconds=2.5,
                max_seq_len=1024.0,
            ),
        ],
    ),
    "sdxl": (
        "Epoch: 1 | Step : [3/50] | Loss: 0.125 | duration: 2.5 | throughput: 6.5 imgs/sec",
        [
            metric(3, 50, loss=0.125, epoch=1.0, printed_duration_seconds=2.5, printed_images_per_second=6.5),
            progress(3, 50),
        ],
    ),
    "older sdxl": (
        "[EPOCH : 1] [STEP : 7] Loss: 0.25; duration: 1.5; throughput: 6.5 imgs/sec;",
        [metric(7, loss=0.25, epoch=1.0, printed_duration_seconds=1.5, printed_images_per_second=6.5)],
    ),
    "reference models of 2022": (
        "TRAIN_STEP | Epoch: 2 | Iteration: 5/ 100 | Loss: 0.5 | Throughput: 40.5 images/s | Duration: 3.5 s"
        " | Estimated Time Remaining: 332.5 s",
        [
            metric(5, 100, loss=0.5, epoch=2.0, printed_duration_seconds=3.5, printed_images_per_second=40.5),
            progress(5, 100, eta_seconds=332.5),
        ],
    ),
    "pytorch sample counts rows": (
        "loss: 2.298501  [ 6400/60000]",
        [metric(None, loss=2.298501), progress(6400, 60000, "rows")],
    ),
    "evaluation": (
        "[Step 8/80] Loss: 1.5\nEval Loss: 1.25 | ELAPSED EVAL TIME: 12.5 sec",
        [metric(8, 80, loss=1.5), progress(8, 80), metric(8, 80, eval_loss=1.25, eval_seconds=12.5)],
    ),
    "total first, as qwen": (
        "total_step: 72\n[Step 3] | Loss: 1.0 | Duration: 1.0 | Throughput: 2.0 tokens/sec",
        [
            progress(0, 72),
            metric(3, 72, loss=1.0, printed_duration_seconds=1.0, printed_tokens_per_second=2.0),
            progress(3, 72),
        ],
    ),
    "step 12/100 loss 0.5": (
        "step 12/100 loss 0.5",
        [metric(12, 100, loss=0.5), progress(12, 100)],
    ),
    "step=12 loss=0.53": ("step=12 loss=0.53 lr=1e-4", [metric(12, loss=0.53, learning_rate=1e-4)]),
    "Step 12: loss 0.53": ("Step 12: loss 0.53", [metric(12, loss=0.53)]),
    "step: 12, loss: 0.53": ("step: 12, loss: 0.53, grad_norm: 2.5", [metric(12, loss=0.53, grad_norm=2.5)]),
    "global_step and thousands": ("global_step = 1200 of 3000, loss: 1,024.5", None),
    "nanogpt": (
        "iter 250: loss 3.25, time 50.0ms\nstep 500: train loss 3.0, val loss 3.125",
        [metric(250, loss=3.25), metric(500, loss=3.0, eval_loss=3.125)],
    ),
    "epoch only": (
        "Epoch 2/3 - loss: 0.5 - val_loss: 0.75",
        [metric(None, loss=0.5, eval_loss=0.75, epoch=2.0)],
    ),
    "json line": ('{"step": 5, "loss": 0.5, "lr": 0.001}', [metric(5, loss=0.5, learning_rate=0.001)]),
}
STEP_LINES["global_step and thousands"] = (
    STEP_LINES["global_step and thousands"][0],
    [metric(1200, 3000, loss=1024.5), progress(1200, 3000)],
)


@pytest.mark.parametrize("name", sorted(STEP_LINES))
@pytest.mark.parametrize("noisy", [False, True], ids=["alone", "in noise"])
def test_step_line_gives_every_field(name, noisy):
    text, expected = STEP_LINES[name]
    if noisy:
        lines = []
        for line in text.split("\n"):
            lines += NOISE + [line]
        text = "\n".join(lines + NOISE)
    assert numbers(text) == expected


@pytest.mark.parametrize("name", sorted(STEP_LINES))
def test_the_supervisors_small_recogniser_sees_the_same_losses(name, tmp_path):
    text, expected = STEP_LINES[name]
    (tmp_path / "log").write_text(text + "\n")
    seen = [(one.step, one.loss) for one in steplines.StepLines(str(tmp_path / "log")).read() if one.loss is not None]
    assert [loss for _, loss in seen] == [d["values"]["loss"] for t, d in expected if t == "metric" and "loss" in d["values"]]
    known = {d["step"] for t, d in expected if t == "metric" and "loss" in d["values"] and "step" in d}
    assert {step for step, _ in seen if step is not None} == known


@pytest.mark.parametrize(
    "line",
    [
        "Step 1/12 : FROM ubuntu:20.04",
        "[Step 1/5] Installing requirements",
        "EVAL STEP: 1 / 5",
        "loss function: cross entropy",
        '{"learning_rate": 0.1, "epochs": 3}',
        "step 3 aux_loss: 0.5",
        "the loss is 0.5",
        "TPS: 1200.5 tokens/sec | Total Duration: 3.5",
        "Performance Summary",
        "40it [00:10, 4.00it/s]",
    ],
)
def test_line_without_step_and_number_is_not_a_step(line):
    assert numbers(line) == []


def test_trainer_run_takes_steps_from_its_bar_and_ignores_the_evaluation_bar():
    text = (
        "***** Running training *****\n  Num examples = 25,528\n  Num Epochs = 3\n"
        "  Total train batch size (w. parallel, distributed & accumulation) = 64\n"
        "  Total optimization steps = 1,197\n"
        "\r  0%|          | 0/1197 [00:00<?, ?it/s]"
        "\r  1%|          | 12/1197 [00:12<19:45,  1.00s/it]"
        "\r            \r{'loss': '2.5', 'grad_norm': '0.5', 'learning_rate': '5e-05', 'epoch': '0.03'}\n"
        "\r  0%|          | 0/13 [00:00<?, ?it/s]\r 50%|#####     | 6/13 [00:01<00:01,  6.00it/s]"
        "\r{'eval_loss': 2.25, 'eval_runtime': 3.5, 'epoch': 0.03}\n"
        "\r{'train_runtime': 1200.5, 'train_loss': 2.0, 'epoch': 3.0}\n"
    )
    found = parse(text)
    assert found[1] == (
        "phase",
        {
            "phase": "training",
            "text": "training, 1197 steps",
            "total_steps": 1197,
            "num_examples": 25528,
            "num_epochs": 3,
            "batch_size": 64,
        },
    )
    assert numbers(text) == [
        progress(0, 1197),
        progress(0, 1197),
        progress(12, 1197, rate=1.0, eta_seconds=1185.0),
        (
            "metric",
            {
                "step": 12,
                "total": 1197,
                "step_source": "progress_bar",
                "values": {"loss": 2.5, "grad_norm": 0.5, "learning_rate": 5e-05, "epoch": 0.03},
            },
        ),
        metric(12, 1197, eval_loss=2.25, eval_runtime=3.5, epoch=0.03),
        metric(None, 1197, train_runtime=1200.5, train_loss=2.0, epoch=3.0),
    ]
    assert found[-1] == ("phase", {"phase": "trained", "text": "the training loop has ended"})


HF_BAR = "\r %d%%|# | %d/%d [00:01<01:00, 1.0it/s]"


def bar(done, total):
    return HF_BAR % (done * 100 // total, done, total)


def test_bar_without_announced_total_is_the_trainers_once_a_metric_stood_beside_it():
    loading = bar(1, 4) + bar(4, 4)
    training = bar(10, 20) + "\r{'loss': 1.0, 'epoch': 0.5}\n" + bar(20, 20)
    evaluation = bar(1, 2) + bar(2, 2)
    shown = [
        (data["done"], data["total"])
        for type_, data in numbers(loading + training + evaluation)[:5]
        if type_ == "progress"
    ]
    assert shown == [(1, 4), (4, 4), (10, 20), (20, 20)]
    assert len(numbers(loading + training + evaluation)) == 5


def test_unfinished_bar_is_not_replaced_by_another_one():
    assert [data["total"] for _, data in numbers(bar(1, 4) + bar(1, 9) + bar(2, 4))] == [4, 4]


def test_epoch_line_beside_a_bar_has_no_step():
    assert numbers(bar(1, 4) + "\rEpoch 2 loss: 0.5\n")[-1] == metric(None, loss=0.5, epoch=2.0)


def test_stray_second_line_belongs_to_no_step():
    text = (
        "[Step 1/9] Loss: 2.0\n[Step 2/9] | Loss: 1.0 | Duration: 1.0\n"
        "Duration: 3.0 | Throughput: 4 tokens/sec\n"
    )
    assert [data.get("step", data.get("done")) for _, data in numbers(text)] == [1, 1, 2, 2]


def test_many_bars_do_not_make_the_state_grow():
    parser = LogParser()
    parser.feed("".join("file%d: 5%%|#| 1/20 [00:01<00:19, 1.0B/s]\n" % n for n in range(999)).encode(), 0)
    assert len(json.dumps(parser.state())) < 2000


def test_bar_reports_each_whole_percent_once():
    text = "".join(bar(n, 1000) for n in range(0, 1001))
    assert [data["done"] for _, data in numbers(text)] == list(range(0, 1001, 10))


def test_bar_kinds_have_their_units():
    text = (
        "model.safetensors:  12%|█▏  | 1.20G/9.90G [00:10<01:10, 120MB/s]\r"
        "Map:  50%|#####     | 500/1000 [00:01<00:01, 450.50 examples/s]\r"
        "Fetching 5 files:  20%|##  | 1/5 [00:10<00:40, 10.00s/it]\r"
        "Rendering:  25%|##  | 1/4 [00:10<00:30, 10.00s/it]\r"
        "Epoch 0:  12%|█▏        | 40/320 [01:02<1:07:10, 1.5it/s, loss=0.53, lr=1e-5, v_num=3]\r"
    )
    assert numbers(text) == [
        progress(1200000000, 9900000000, "bytes", rate=120e6, eta_seconds=70.0, label="model.safetensors"),
        progress(500, 1000, "rows", rate=450.5, eta_seconds=1.0, label="Map"),
        progress(1, 5, "files", rate=0.1, eta_seconds=40.0, label="Fetching 5 files"),
        progress(1, 4, "items", rate=0.1, eta_seconds=30.0, label="Rendering"),
        metric(40, 320, loss=0.53, learning_rate=1e-5, v_num=3.0),
        progress(40, 320, rate=1.5, eta_seconds=4030.0, label="Epoch 0"),
    ]


def test_what_follows_a_bar_without_newline_is_read():
    text = "  1%|  | 1/100 [00:01<01:39,  1.00s/it][Step 1/100] Loss: 2.0\n"
    assert [type_ for type_, _ in numbers(text)] == ["progress", "metric", "progress"]


def test_own_pattern_gives_step_total_and_named_values():
    pattern = (
        r"it=(?P<step>\d+) of (?P<total>\d+).*?L=(?P<loss>\S+) lr=(?P<lr>\S+) (?P<word>\w+) acc=(?P<acc>\S+)"
    )
    text = "it=3 of 9 L=0.5 lr=1e-3 fine acc=0.75\nstep 4 loss 0.25\n"
    assert numbers(text, pattern) == [
        metric(3, 9, loss=0.5, learning_rate=1e-3, acc=0.75),
        progress(3, 9),
        metric(4, 9, loss=0.25),
        progress(4, 9),
    ]
    successor = LogParser(json.loads(json.dumps(LogParser(pattern=pattern).state())))
    assert successor.feed(text.encode(), 0)[1].data["values"]["acc"] == 0.75


def test_own_pattern_looks_at_the_beginning_of_a_line_only():
    assert numbers(" " * dialects.PATTERN_TEXT_CHARS + "L=1\n", "L=(?P<loss>\\d)") == []


@pytest.mark.parametrize("pattern", ["(", r"loss (\d+)", "(?P<x>" + "é" * 900 + ")"])
def test_unusable_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        LogParser(pattern=pattern)


def test_loss_that_is_not_a_number_is_kept_and_warned_of_once():
    found = parse("[Step 1/9] Loss: nan\n[Step 2/9] Loss: -inf\n")
    metrics = [data for type_, data in found if type_ == "metric"]
    assert math.isnan(metrics[0]["values"]["loss"])
    assert metrics[1]["values"]["loss"] == -math.inf
    warnings = [data for type_, data in found if type_ == "message"]
    assert [(data["level"], data["text"]) for data in warnings] == [("warning", "the loss is nan at step 1")]


def test_colours_invalid_bytes_and_rank_prefixes_do_not_hide_a_step():
    text = b"[rank0]: \xff\xfe\x1b[1m[St\x1b[0mep 5/10]\x1b[32m | Lo\x1b[0mss: 0.5 |\xc3\n"
    assert numbers(text) == [metric(5, 10, loss=0.5), progress(5, 10)]


def test_overlong_line_is_cut_at_a_fixed_place():
    head = b"x" * MAX_LINE_BYTES
    log = head + b"[Step 1/9] Loss: 2.0\n" + head + b"\n[Step 2/9] Loss: 1.0\n"
    first = MAX_LINE_BYTES + len(b"[Step 1/9] Loss: 2.0\n")
    for size in (1 << 20, 4096, 65535, 65537):
        parser = LogParser()
        found = []
        for start in range(0, len(log), size):
            found += parser.feed(log[start : start + size], start)
        ends = [item.end for item in found if item.type == "metric"]
        assert ends == [first, len(log)]
        assert parser.offset == len(log)


def test_long_hostile_lines_take_linear_time():
    # A quadratic expression would need minutes for these, far beyond any test limit.
    filler = MAX_LINE_BYTES - 100
    for unit in (
        "loss" + " " * filler,
        "step" + " " * filler,
        "[step " + "1" * filler,
        "1%|" * (filler // 3),
    ):
        assert numbers("loss step " + unit + "\n") == []


# -- pieces and resuming ---------------------------------------------------------------------------

SAMPLE = (
    "Loading checkpoint shards: 100%|██████████| 4/4 [00:09<00:00,  2.31s/it]"
    "[2024-06-11 10:02:41.118] [info] Got DBs from backend for auto config.\r\n"
    "[info] Requesting resources for MoAI Accelerator from the server...\n"
    "[warning] MoAI Accelerator is already in use by another process:\n"
    "[warning]   (pid: 12345) python train.py\n"
    "...[info] [1/2] Connecting to resources on the server (10.9.8.11:24161)...\n"
    "[info] Moreh Job ID: 981777\n"
    "[Step 1/4] | Loss: nan |\nDuration: 3.5 | Throughput: 90.5 tokens/sec\n"
    "\r 25%|##5  | 1/4 [00:01<00:03,  1.00it/s]\r 50%|##5  | 2/4 [00:02<00:02,  1.00it/s]"
    'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    step(1, loss=2)\n'
    "RuntimeError: Error Code 4: OUT_OF_MEMORY\n\n>> Memory requested : 700 bytes\n"
    ">> Memory available : 600 bytes\n한국어 loss\n{'loss': 1.0, 'step': 3}\nValueError: no\nKilled"
).encode("utf-8")


def whole():
    parser = LogParser()
    return parser.feed(SAMPLE, 0) + parser.finish(), parser.state()


def test_any_cut_gives_the_same_reports():
    expected, state = whole()
    assert {found.type for found in expected} == {"metric", "progress", "phase", "message"}
    for cut in range(len(SAMPLE) + 1):
        parser = LogParser()
        found = parser.feed(SAMPLE[:cut], 0) + parser.feed(SAMPLE[cut:], cut) + parser.finish()
        assert found == expected
        assert parser.state() == state


def test_single_bytes_give_the_same_reports():
    expected, _ = whole()
    parser = LogParser()
    found = []
    for index in range(len(SAMPLE)):
        found += parser.feed(SAMPLE[index : index + 1], index)
    assert found + parser.finish() == expected


def test_successor_continues_from_state_and_offset_at_every_byte():
    expected, state = whole()
    for cut in range(len(SAMPLE) + 1):
        first = LogParser()
        found = first.feed(SAMPLE[:cut], 0)
        stored = json.dumps(first.state(), sort_keys=True)
        second = LogParser(json.loads(stored))
        assert second.offset == first.offset <= cut
        found += second.feed(SAMPLE[second.offset :], second.offset) + second.finish()
        assert found == expected
        assert second.state() == state


def test_bytes_fed_twice_count_once_and_a_hole_is_refused():
    expected, _ = whole()
    parser = LogParser()
    found = parser.feed(SAMPLE[:300], 0)
    found += parser.feed(SAMPLE[parser.offset : 500], parser.offset)
    found += parser.feed(SAMPLE[100:], 100)
    assert found + parser.finish() == expected
    with pytest.raises(ValueError, match="not fed"):
        parser.feed(b"x", len(SAMPLE) + 1)


def test_ends_are_line_borders_in_order():
    expected, _ = whole()
    ends = [found.end for found in expected]
    assert ends == sorted(ends)
    borders = {match.end() for match in re.finditer(rb"[\r\n]", SAMPLE)} | {len(SAMPLE)}
    assert set(ends) <= borders


def test_state_stays_small_and_plain_whatever_the_log_says():
    nasty = "\U0001f600" * 3000
    lines = ["%s %d: 5%%|#| 1/20 [00:01<00:19, 1.0it/s]" % (nasty, n) for n in range(50)]
    lines += ["[warning] %s is already in use by another process:" % nasty]
    lines += ["[info] Moreh Version: 24.5.0", "[Step 1/9] Loss: nan"]
    lines += ["Traceback (most recent call last):", "ValueError: " + nasty]
    lines += ["An internal error occurred in the %s" % nasty, "Error message: " + nasty]
    lines += [
        "terminate called after throwing an instance of '%s'" % nasty[:190],
        "Traceback (most recent call last):",
    ]
    pattern = "(?P<loss>%s)" % ("x" * 1900)
    parser = LogParser(pattern=pattern)
    data = "\n".join(lines + [""]).encode("utf-8")
    parser.feed(data, 0)
    assert len(json.dumps(parser.state(), allow_nan=False)) < 8192


def test_state_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version"):
        LogParser({"v": 99, "offset": 0})


def test_found_is_a_plain_record():
    assert Found("message", {"text": "x"}, 3) == ("message", {"text": "x"}, 3)
    assert dialects.to_number("nan") is dialects.NAN
