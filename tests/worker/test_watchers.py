"""The watchers' judgement, fed with numbers: once an occurrence, and again only after it was well."""

import math
import random

import pytest
from moai_worker import cgroup, steplines
from moai_worker.watchers import DISK, MEMORY, NAN, SPIKE, STALL, DiskWatch, Limits, LossWatch, MemoryWatch, StallWatch


def kinds(findings):
    return [finding.kind for finding in findings]


def feed(watch, losses, first=1):
    return [(step, kind) for step, loss in enumerate(losses, first) for kind in kinds(watch.feed(step, loss))]


def noisy(count, seed, level=2.0, width=0.05):
    rng = random.Random(seed)
    return [level + rng.gauss(0, width) for _ in range(count)]


def test_a_loss_that_is_no_number_is_said_once_until_ten_good_ones_came():
    watch = LossWatch(Limits())
    assert feed(watch, [2.0, math.nan, math.nan, math.inf, 2.0, math.nan]) == [(2, NAN)]
    assert feed(watch, [2.0] * 10 + [-math.inf], first=7) == [(17, NAN)]


def test_a_spike_is_told_from_noise_and_from_a_falling_loss():
    falling = [4.0 * 0.99**step + noise - 2.0 for step, noise in enumerate(noisy(600, 3))]
    assert feed(LossWatch(Limits()), falling) == []
    watch = LossWatch(Limits())
    assert feed(watch, noisy(40, 1)) == []
    found = watch.feed(41, 3.5)
    assert kinds(found) == [SPIKE] and found[0].data["step"] == 41 and found[0].data["limit"] < 3.5
    assert "3.5 at step 41" in found[0].text and found[0].advice


def test_a_spike_is_said_once_and_again_after_the_loss_was_down():
    watch = LossWatch(Limits())
    feed(watch, noisy(40, 1))
    assert feed(watch, [3.5, 3.4, 3.6, 2.0, 2.01, 3.5], first=41) == [(41, SPIKE), (46, SPIKE)]


def test_a_new_level_becomes_the_usual_one():
    watch = LossWatch(Limits())
    feed(watch, noisy(60, 1))
    assert feed(watch, noisy(60, 2, level=3.0), first=61) == [(61, SPIKE)]
    assert feed(watch, [4.5], first=121) == [(121, SPIKE)]


def test_few_losses_and_equal_losses_are_no_ground_to_judge():
    assert feed(LossWatch(Limits()), [1.0] * 19 + [9.0]) == []
    equal = LossWatch(Limits())
    assert feed(equal, [1.0] * 30 + [1.1]) == []
    assert feed(equal, [1.13], first=32) == [(32, SPIKE)]


def stepped(watch, count, seconds, start=0.0):
    for step in range(1, count + 1):
        watch.step(step, start + step * seconds)
    return start + count * seconds


def test_no_step_for_ten_times_as_long_as_usual_is_a_stall_and_a_step_ends_it():
    watch = StallWatch(Limits())
    now = stepped(watch, 20, 30.0)
    assert watch.look(now + 299) == []
    found = watch.look(now + 301)
    assert kinds(found) == [STALL] and watch.stalled
    assert "301 s since step 20" in found[0].text and "30 s (median of 19)" in found[0].text
    assert watch.look(now + 900) == []
    assert watch.step(21, now + 901) and not watch.stalled
    assert watch.look(now + 1100) == []
    assert kinds(watch.look(now + 1300)) == [STALL]


def test_a_minute_is_waited_for_however_fast_the_steps_are():
    watch = StallWatch(Limits())
    now = stepped(watch, 100, 0.1)
    assert watch.look(now + 59) == [] and kinds(watch.look(now + 61)) == [STALL]


def test_evaluating_saving_and_the_first_steps_are_no_stall():
    watch = StallWatch(Limits())
    assert watch.look(1e6) == []
    now = stepped(watch, 3, 1.0)
    assert watch.look(now + 1000) == [], "too few steps to know what is usual"
    now = stepped(watch, 20, 1.0)
    watch.pause(True, now + 1)
    assert watch.look(now + 5000) == []
    watch.pause(False, now + 5000)
    assert watch.look(now + 5050) == [] and kinds(watch.look(now + 5070)) == [STALL]
    assert watch.sign(now + 5080) and not watch.stalled


def test_the_same_step_again_is_no_step_and_a_restarted_count_is_one():
    watch = StallWatch(Limits())
    now = stepped(watch, 10, 1.0)
    for second in range(1, 5):
        watch.step(10, now + second)
    assert kinds(watch.look(now + 70)) == [STALL]
    assert watch.step(1, now + 71), "a second training in the same script"
    assert watch.look(now + 100) == []


def test_disk_is_compared_with_the_next_checkpoint_or_with_a_floor():
    gb = 10**9
    watch = DiskWatch(Limits())
    assert watch.look("/data", 200 * gb, 1000 * gb, 100 * gb) == []
    found = watch.look("/data", 104 * gb, 1000 * gb, 100 * gb)
    assert kinds(found) == [DISK] and "100.0 GB" in found[0].text
    assert watch.look("/data", 103 * gb, 1000 * gb, 100 * gb) == []
    assert watch.look("/data", 120 * gb, 1000 * gb, 100 * gb) == [], "not well enough to be armed again"
    assert watch.look("/data", 140 * gb, 1000 * gb, 100 * gb) == []
    assert kinds(watch.look("/data", 90 * gb, 1000 * gb, 100 * gb)) == [DISK]
    command = DiskWatch(Limits())
    assert command.look("/a", 6 * gb, 10000 * gb, 0) == [], "2 % of a large disk are much"
    assert kinds(command.look("/a", 4 * gb, 10000 * gb, 0)) == [DISK]
    assert command.look("/b", 1 * gb, 20 * gb, 0) == []
    assert kinds(command.look("/b", 0.3 * gb, 20 * gb, 0)) == [DISK]


def test_memory_is_said_at_nine_tenths_when_the_job_holds_its_part_of_it():
    gb = 2**30
    watch = MemoryWatch(Limits())
    assert not watch.wants_family(100 * gb, 89 * gb)
    assert watch.wants_family(100 * gb, 90 * gb)
    assert watch.look(100 * gb, 91 * gb, 10 * gb) == [], "others hold it"
    found = watch.look(100 * gb, 92 * gb, 80 * gb)
    assert kinds(found) == [MEMORY] and "92 %" in found[0].text
    assert watch.look(100 * gb, 88 * gb, 80 * gb) == watch.look(100 * gb, 95 * gb, 80 * gb) == []
    assert watch.look(100 * gb, 80 * gb, 0) == []
    assert kinds(watch.look(100 * gb, 95 * gb, 80 * gb)) == [MEMORY]


def test_limits_can_be_given_by_name_and_nonsense_is_ignored():
    limits = Limits({"stall_least_s": 5, "no_such": 1, "memory_share": "x"})
    assert (limits.stall_least_s, limits.memory_share) == (5, 0.9)


# -- cgroup ----------------------------------------------------------------------------------------


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def proc(tmp_path):
    write(tmp_path / "proc" / "meminfo", "MemTotal:     64000000 kB\nMemFree: 1 kB\nMemAvailable: 60000000 kB\n")
    return tmp_path / "proc"


def test_the_tightest_limit_of_a_v2_group_and_those_above_it_counts(tmp_path, proc):
    root = tmp_path / "cgroup"
    write(proc / "self" / "cgroup", "0::/pod/job\n")
    write(root / "pod" / "memory.max", "8000000000\n")
    write(root / "pod" / "memory.current", "7900000000\n")
    write(root / "pod" / "memory.stat", "anon 5\ninactive_file 400000000\n")
    write(root / "pod" / "job" / "memory.max", "max\n")
    write(root / "pod" / "job" / "memory.current", "1\n")
    memory = cgroup.MemoryFiles(str(root), str(proc)).read()
    assert (memory.limit, memory.used) == (8000000000, 7500000000)
    assert memory.source.endswith("pod/memory.max")


def test_a_v1_group_counts_and_the_path_of_the_host_is_not_looked_for(tmp_path, proc):
    root = tmp_path / "cgroup"
    write(proc / "self" / "cgroup", "9:cpu,cpuacct:/x\n4:memory:/docker/of-the-host\n")
    write(root / "memory" / "memory.limit_in_bytes", "4000000000\n")
    write(root / "memory" / "memory.usage_in_bytes", "3000000000\n")
    write(root / "memory" / "memory.stat", "total_inactive_file 1000000000\n")
    write(root / "memory" / "memory.oom_control", "oom_kill_disable 0\noom_kill 3\n")
    memory = cgroup.MemoryFiles(str(root), str(proc)).read()
    assert (memory.limit, memory.used) == (4000000000, 2000000000)
    assert cgroup.oom_kills(str(root)) == 3


def test_without_a_limit_the_machine_is_it(tmp_path, proc):
    root = tmp_path / "cgroup"
    write(root / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    write(root / "memory" / "memory.usage_in_bytes", "3000000000\n")
    memory = cgroup.MemoryFiles(str(root), str(proc)).read()
    assert (memory.limit, memory.used) == (64000000 * 1024, 4000000 * 1024)
    assert cgroup.oom_kills(str(root)) == 0
    assert cgroup.MemoryFiles(str(tmp_path / "none"), str(tmp_path / "none")).read() is None


def test_this_machine_can_be_read():
    memory = cgroup.MemoryFiles().read()
    assert memory is not None and 0 < memory.used <= memory.limit


# -- step lines ------------------------------------------------------------------------------------


def seen(tmp_path, text, pattern=""):
    path = tmp_path / "log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return [(one.step, one.loss) for one in steplines.StepLines(str(path), 0, pattern).read()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2024-06-11 | INFO | main:161 - [Step 2/2243] | Loss: 2.03125 | Throughput: 48365.87 tokens/sec", (2, 2.03125)),
        ("[Step 11/104] Throughput : 99000.25tokens/sec", (11, None)),
        ("[Step 0/6644] Loss: 3.5 Throughput: 5600.5 tokens/sec", (0, 3.5)),
        ("{'loss': 1.5, 'grad_norm': 0.25, 'learning_rate': 0.0, 'epoch': 0.1, 'step': 20}", (20, 1.5)),
        ("{'loss': 'nan', 'grad_norm': 'nan', 'epoch': '0.1'}", (None, math.nan)),
        ("iter 10: loss 10.8275, time 1234.56ms, mfu 1.2%", (10, 10.8275)),
        ("step: 5, train loss: inf", (5, math.inf)),
        ("\x1b[32mstep 3/10 | loss 1.25 | lr 1e-05\x1b[0m", (3, 1.25)),
        ("epoch 1 step 7 loss=tensor(0.5, device='cuda:0')", (7, 0.5)),
        (" 12%|#2        | 12/100 [00:12<01:28,  1.00s/it, loss=0.75]", (12, 0.75)),
        (" 13%|#3        | 13/100 [00:13<01:28,  1.00s/it]", (13, None)),
        ("{'eval_loss': 1.25, 'epoch': 1.0}", (None, None)),
        ("step 10 | val loss: 2.5", (None, None)),
        ("Saving model checkpoint to /out/checkpoint-10", (None, None)),
    ],
)
def test_a_line_of_training_is_seen(tmp_path, line, expected):
    found = seen(tmp_path, line + "\n")
    assert len(found) == 1
    step, loss = found[0]
    assert step == expected[0]
    assert loss == expected[1] or (loss is not None and math.isnan(loss) and math.isnan(expected[1]))


@pytest.mark.parametrize("line", ["", "hello", "[Step 1/5] Installing", "Downloading 3 of 8", "stepping stones", "glossary 5"])
def test_other_lines_are_none(tmp_path, line):
    assert seen(tmp_path, line + "\n") == []


def test_bars_of_evaluations_and_downloads_do_not_count_as_steps(tmp_path):
    text = "  5%|5 | 5/100 [00:05<01:35, 1.0s/it]\r 50%|5 | 4/8 [00:05<01:35, 1.0s/it]\rDownloading: 10%|1| 30/300 [00:01<00:09, 3.0MB/s]\r"
    assert seen(tmp_path, text) == [(5, None), (None, None), (None, None)]


def test_lines_are_whole_whatever_pieces_they_come_in_and_a_flood_is_skipped(tmp_path):
    path = tmp_path / "log"
    lines = steplines.StepLines(str(path))
    assert lines.read() == []
    with open(str(path), "wb") as out:
        out.write(b"step 1 loss 2.")
        out.flush()
        assert lines.read() == []
        out.write(b"5\nstep 2 loss")
        out.flush()
        assert [(one.step, one.loss) for one in lines.read()] == [(1, 2.5)]
        out.write(b" 2.25\n" + b"x" * 80 + b"\n")
        out.flush()
        assert [(one.step, one.loss) for one in lines.read()] == [(2, 2.25)]
        out.write(b"noise and nothing else\n" * 40000 + b"step 9 loss 1\n")
        out.flush()
        assert [(one.step, one.loss) for one in lines.read()] == [(9, 1.0)]
    assert lines.skipped_bytes > 400000


def test_the_users_own_pattern_counts_first(tmp_path):
    assert seen(tmp_path, "it=7 obj=0.5\n", r"it=(?P<step>\d+) obj=(?P<loss>[\d.]+)") == [(7, 0.5)]
