"""The log parser's phases, waits and fatal lines. All samples are composed."""

import json
import re
from pathlib import Path

import pytest
from moai_agent.jobs import fault_rules
from moai_agent.jobs.logparse import LogParser, fatal_after_last_good

TIME = "[2024-06-11 10:02:44.902] "
SEQUENCE = """\
Loading checkpoint shards: 100%|| 4/4 [00:09<00:00,  2.31s/it]{t}[info] Got DBs from backend for auto config.
{t}[info] Requesting resources for MoAI Accelerator from the server...
{t}[warning] A newer version of Moreh AI Framework is available. You can update it with "update-moreh".
{t}info] Initializing the worker daemon for MoAI Accelerator...
{t}[info] [1/2] Connecting to resources on the server (10.9.8.11:24161)...
{t}[info] [2/2] Connecting to resources on the server (10.9.8.12:24161)...
{t}[info] Establishing links to the resources...
{t}[info] MoAI Accelerator is ready to use.
{t}[info] Moreh Version: 24.5.0
{t}[info] Moreh Job ID: 981777
{t}[info] The number of candidates is 18.
{t}[info] Parallel Graph Compile start...
{t}[info] Elapsed Time to compile all candidates = 40409 [ms]
{t}[info] Parallel Graph Compile finished.
{t}[info] The number of possible candidates is 9.
{t}[info] SelectBestGraphFromCandidates start...
{t}[info] Elapsed Time to compute cost for survived candidates = 13357 [ms]
{t}[info] SelectBestGraphFromCandidates finished.
{t}[info] Configuration for parallelism is selected.
{t}[info] {config}
{t}[info] train: true
"""
NO_PP = "No PP, No TP, recomputation : default(1), distribute_param : true, distribute_low_prec_param : false"
PP = "num_stages : 2, num_micro_batches : 4, batch_per_device : 1, No TP, recomputation : full(2)"


def parse(text):
    parser = LogParser()
    return [(f.type, f.data) for f in parser.feed(text.encode("utf-8"), 0) + parser.finish()]


def phases(text):
    return [data for type_, data in parse(text) if type_ == "phase"]


def messages(text):
    return [data for type_, data in parse(text) if type_ == "message"]


def fatal(text):
    parser = LogParser()
    parser.feed(text.encode("utf-8"), 0)
    parser.finish()
    assert parser.fatal == fatal_after_last_good(json.loads(json.dumps(parser.state())))
    return parser.fatal


@pytest.mark.parametrize("time", [TIME, ""], ids=["with time", "without time"])
@pytest.mark.parametrize("config", [NO_PP, PP], ids=["no pipeline", "pipeline"])
def test_framework_sequence_gives_every_phase(time, config):
    found = phases(SEQUENCE.format(t=time, config=config))
    assert [data["phase"] for data in found] == [
        "loading",
        "configuring",
        "requesting",
        "initializing",
        "connecting",
        "connecting",
        "linking",
        "ready",
        "ready",
        "ready",
        "compiling",
        "compiled",
        "selecting",
        "selected",
        "selected",
        "training",
    ]
    assert all(data["text"] for data in found)
    by_text = {data["text"]: data for data in found}
    connecting = by_text["connecting to the accelerator, 2 of 2"]
    assert (connecting["done"], connecting["total"], connecting["server"]) == (2, 2, "10.9.8.12:24161")
    assert by_text["requesting resources for MoAI Accelerator"]["accelerator"] == "MoAI Accelerator"
    assert by_text["compiling 18 candidates"]["candidates"] == 18
    assert by_text["all candidates are compiled"]["elapsed_seconds"] == 40.409
    assert by_text["choosing among 9 candidates"]["candidates"] == 9
    assert found[-2]["parallelism"] == config
    assert found[-2]["elapsed_seconds"] == 13.357
    assert (found[-1]["maf_version"], found[-1]["moreh_job_id"]) == ("24.5.0", 981777)
    notes = messages(SEQUENCE.format(t=time, config=config))
    assert [(note["level"], note["next"]) for note in notes] == [
        ("info", "nothing needs to be done now; to update: update-moreh")
    ]


def test_a_second_compilation_in_the_same_run_is_shown_again():
    once = SEQUENCE.format(t="", config=NO_PP)
    again = once[once.index("[info] The number of candidates") :]
    shown = [data["phase"] for data in phases(once + "[Step 1/9] Loss: 1.0\n" + again)]
    assert shown[-6:] == ["compiling", "compiled", "selecting", "selected", "selected", "training"]


def test_first_step_without_parallelization_enters_training():
    text = "[info] MoAI Accelerator is ready to use.\n[Step 1/9] Loss: 1.0\n[Step 2/9] Loss: 1.0\n"
    assert [data["phase"] for data in phases(text)] == ["ready", "training"]


LOCKED = (
    "[info] Requesting resources for KT AI Accelerator from the server...\n"
    "{t}[warning] KT AI Accelerator is already in use by another process:\n"
    "{t}[warning]   (pid: 12345) python train.py --lr 1e-5\n"
    "{t}[warning] Two or more processes cannot use KT AI Accelerator at the same time. The program will "
    "resume automatically after the process 12345 terminates...\n"
    "{t}[warning] If this message is displayed even though the process 12345 has already terminated, please "
    'try to manually release KT AI Accelerator using "moreh-smi --reset" command 1-2 times.\n'
    "............"
)


def test_lock_names_the_owner_once_and_ends_with_the_next_phase():
    resumed = LOCKED.format(t=TIME) + TIME + "[info] Initializing the worker daemon for KT AI Accelerator\n"
    found = phases(resumed)
    assert [data["phase"] for data in found] == ["requesting", "waiting", "initializing"]
    waiting = found[1]
    assert waiting["code"] == "WAITING_FOR_DEVICE"
    assert waiting["wait"] == "locked"
    assert (waiting["owner_pid"], waiting["owner_command"]) == (12345, "python train.py --lr 1e-5")
    assert waiting["accelerator"] == "KT AI Accelerator"
    assert "12345" in waiting["next"] and "12345" in waiting["text"]
    assert messages(resumed) == []
    assert fatal(resumed) is None


def test_lock_without_owner_line_still_names_the_pid():
    text = (
        "[warning] Two or more processes cannot use X at the same time. after the process 77 terminates...\n"
    )
    assert [(data["phase"], data["owner_pid"]) for data in phases(text)] == [("waiting", 77)]


def test_full_system_is_a_wait_not_an_error():
    text = (
        "[warning] Not enough resources are currently available for MoAI Accelerator. All resources in the "
        "system are being used by other users. The program will resume automatically when resources become "
        "available...\n"
    )
    (waiting,) = phases(text)
    assert (waiting["phase"], waiting["wait"]) == ("waiting", "resources")
    assert waiting["code"] == "WAITING_FOR_DEVICE"
    assert waiting["accelerator"] == "MoAI Accelerator"
    assert fatal(text) is None


@pytest.mark.parametrize(
    "line, phase, path",
    [
        ("[START EPOCH EVAL]", "evaluating", None),
        ("***** Running Evaluation *****", "evaluating", None),
        ("***** Running training *****", "training", None),
        ("Training Done", "trained", None),
        ("Saving Model...", "saving", None),
        ("Saving model checkpoint to ./out/checkpoint-500", "saving", "./out/checkpoint-500"),
        ("save model to sdxl-finetuned", "saving", "sdxl-finetuned"),
        ("model save finished", "saved", None),
        ("Saving model and tokenizer in /data/out", "saving", "/data/out"),
        ("Model and Tokenizer is saved in /data/out", "saved", "/data/out"),
        ("Model and Tokenzier is saved in /data/out", "saved", "/data/out"),
        ("Model saved in ./llama3_summarization", "saved", "./llama3_summarization"),
        ('Model saved in "./llama3_summarization"', "saved", "./llama3_summarization"),
        ("Loading llama3 Tokenizer...", "loading", None),
        ("Downloading cnn_dailymail dataset...", "downloading", None),
        ("Preprocessing dataset...", "tokenizing", None),
        ("Saving datset into torch format...", "saving", None),
        ("Dataset saved as ./llama3_dataset.pt", "saved", "./llama3_dataset.pt"),
    ],
)
def test_script_lines_name_their_phase(line, phase, path):
    for text in (line, "2024-06-11 10:06:02.551 | INFO     | __main__:main:181 - " + line + "\n"):
        (found,) = phases(text)
        assert (found["phase"], found.get("path")) == (phase, path)


def test_a_repeated_line_is_reported_once():
    assert len(phases("Saving Model...\n" * 3)) == 1
    assert len(messages("[warning] A newer version of Moreh AI Framework is available.\n" * 3)) == 1
    notice = LOCKED.format(t="").replace("............", "").split("\n", 1)[1]
    assert len(phases(notice * 3)) == 1


def test_evaluation_steps_are_shown_each_whole_percent():
    found = phases("".join("EVAL STEP: %d / 1000\n" % n for n in range(1, 1001)))
    assert [data["phase"] for data in found] == ["evaluating"] * 101
    assert (found[-1]["done"], found[-1]["total"]) == (1000, 1000)


# -- faults ----------------------------------------------------------------------------------------

MAF_OOM = """\
Traceback (most recent call last):
  File "train.py", line 161, in main
    loss.backward()
  File "torch/_M/driver/wrapper/moreh_wrapper.py", line 12, in run
    return frontend(step=3, loss=1.0)
{stars}RuntimeError: Error Code 4: OUT_OF_MEMORY{stars}
Moreh solution has detected that the application requires more memory than the physical device of X.
>> Memory requested : 70,000,000,000 bytes
>> Memory available : 64000000000 bytes
 1. Use a smaller batch.
"""


@pytest.mark.parametrize("stars", ["", "**"])
def test_framework_out_of_memory_carries_its_numbers_in_one_message(stars):
    text = MAF_OOM.format(stars=stars)
    (found,) = messages("[info] Moreh Job ID: 981777\n" + text)
    assert found["level"] == "error"
    assert found["code"] == "DEVICE_OUT_OF_MEMORY"
    assert (found["requested_bytes"], found["available_bytes"]) == (70000000000, 64000000000)
    assert (found["error_code"], found["error_name"]) == (4, "OUT_OF_MEMORY")
    assert found["exception"] == "RuntimeError"
    assert found["moreh_job_id"] == 981777
    assert "smaller batch" in found["next"]
    last = fatal(text)
    assert (last["code"], last["text"]) == (
        "DEVICE_OUT_OF_MEMORY",
        "RuntimeError: Error Code 4: OUT_OF_MEMORY",
    )
    assert last["offset"] == text.index(stars + "RuntimeError")
    assert last["details"]["requested_bytes"] == 70000000000
    assert last["next"] == found["next"]


def test_out_of_memory_without_numbers_is_reported_when_the_log_goes_on_or_ends():
    line = "RuntimeError: Error Code 4: OUT_OF_MEMORY\n"
    for text in (line, line + "something else\n" * 20):
        (found,) = messages(text)
        assert found["code"] == "DEVICE_OUT_OF_MEMORY"
        assert "requested_bytes" not in found


def test_out_of_memory_without_numbers_does_not_wait_for_the_end():
    parser = LogParser()
    found = parser.feed(b"RuntimeError: Error Code 4: OUT_OF_MEMORY\n" + b"something else\n" * 20, 0)
    assert [item.type for item in found] == ["message"]


FATAL_LINES = [
    ("Error Code 17: SOME_NEW_NAME", "COMMAND_FAILED", "support"),
    ("[error] MoAI Accelerator memory not enough.", "DEVICE_OUT_OF_MEMORY", "smaller batch"),
    (
        "[error] The current version of Moreh AI Framework is outdated and no longer supported in the system",
        "COMMAND_FAILED",
        "update-moreh",
    ),
    (
        "[error] The connection to the server has been lost. Please contact technical support if the problem "
        "persists.",
        "COMMAND_FAILED",
        "resume",
    ),
    ("[error] Failed to initialize the worker daemon for MoAI Accelerator.", "COMMAND_FAILED", "resume"),
    ("SDA token is not given.", "COMMAND_FAILED", "/etc/moreh/token"),
    ("The model cannot be switched while the MoAI Accelerator is in use.", "COMMAND_FAILED", "cancel"),
    ("OSError: [Errno 28] No space left on device: 'x'", "DISK_FULL", "--work"),
    ("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB", "DEVICE_OUT_OF_MEMORY", "smaller batch"),
    ("python: can't open file '/a/train.py': [Errno 2] No such file or directory", "FILE_NOT_FOUND", "path"),
    ("bash: line 1: accelerate: command not found", "COMMAND_NOT_FOUND", "environment"),
    ("/bin/sh: 1: accelerate: not found", "COMMAND_NOT_FOUND", "environment"),
    ("train.py: error: unrecognized arguments: --max_train_steps", "COMMAND_FAILED", "--help"),
    ("/x.sh: line 3: 1234 Killed                  python train.py", "COMMAND_KILLED", "memory"),
    ("Killed", "COMMAND_KILLED", "memory"),
    ("Segmentation fault (core dumped)", "COMMAND_KILLED", ""),
    ("Aborted (core dumped)", "COMMAND_KILLED", ""),
    (
        "ImportError: /lib/libm.so.6: version `GLIBC_2.29' not found (required by _moreh_f.so)",
        "UNSUPPORTED",
        "too old",
    ),
    ("ImportError: numpy.core.multiarray failed to import", "PACKAGE_MISSING", "numpy"),
]


@pytest.mark.parametrize("line, code, advice", FATAL_LINES)
def test_known_fatal_text_has_reason_and_advice(line, code, advice):
    (found,) = messages("hello\n" + line + "\n")
    assert (found["level"], found["code"]) == ("error", code)
    assert advice in found.get("next", "")
    last = fatal("hello\n" + line + "\n")
    assert last["code"] == code
    assert last["offset"] == 6


EXCEPTIONS = [
    ("ValueError: bad shape", "COMMAND_FAILED"),
    ("KeyError: 'grad_norm'", "COMMAND_FAILED"),
    ("AssertionError", "COMMAND_FAILED"),
    ("my.package.CustomThing: it broke", "COMMAND_FAILED"),
    ("ModuleNotFoundError: No module named 'peft'", "PACKAGE_MISSING"),
    ("FileNotFoundError: [Errno 2] No such file or directory: './llama3_dataset.pt'", "FILE_NOT_FOUND"),
    ("MemoryError", "OUT_OF_MEMORY"),
    ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 3.00 GiB for an array", "OUT_OF_MEMORY"),
    ("torch.OutOfMemoryError: out of luck", "DEVICE_OUT_OF_MEMORY"),
    ("OSError: You are trying to access a gated repo.", "ACCESS_GATED"),
    ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "ACCESS_GATED"),
    ("requests.exceptions.HTTPError: 401 Client Error: Unauthorized", "TOKEN_INVALID"),
    ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.", "REPO_NOT_FOUND"),
    ("OSError: We couldn't connect to 'https://huggingface.co' to load this file", "HUB_UNREACHABLE"),
    ("safetensors_rust.SafetensorError: IoError(Os { code: 28, kind: StorageFull })", "DISK_FULL"),
]


@pytest.mark.parametrize("line, code", EXCEPTIONS)
@pytest.mark.parametrize("prefix", ["", "[rank3]: "])
def test_traceback_ends_with_its_reason(line, code, prefix):
    lines = ["Traceback (most recent call last):", '  File "a.py", line 3, in <module>', "    f(loss)", line]
    text = "".join(prefix + part + "\n" for part in lines)
    (found,) = messages("  0%|    | 0/9 [00:00<?, ?it/s]" + ("\n" if prefix else "") + text)
    assert (found["level"], found["code"], found["text"]) == ("error", code, line)
    assert fatal(text)["code"] == code


def test_cuda_out_of_memory_carries_its_numbers():
    for line in (
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 79.15 GiB "
        "total capacity; 77.00 GiB already allocated; 15.00 MiB free; 78.00 GiB reserved)",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total "
        "capacity of 79.15 GiB of which 15.00 MiB is free.",
    ):
        (found,) = messages("Traceback (most recent call last):\n  File\n" + line + "\n")
        assert found["code"] == "DEVICE_OUT_OF_MEMORY"
        assert (found["requested_bytes"], found["available_bytes"]) == (20 * 2**20, 15 * 2**20)


def test_terminate_line_waits_for_what_and_hides_the_abort():
    text = (
        "terminate called after throwing an instance of 'moreh::InvalidToken'\n"
        "  what():  The SDA token is not set.\nAborted (core dumped)\n"
    )
    (found,) = messages(text)
    assert found["text"].endswith("'moreh::InvalidToken': The SDA token is not set.")
    assert "/etc/moreh/token" in found["next"]
    assert fatal(text)["details"]["exception"] == "moreh::InvalidToken"


@pytest.mark.parametrize("gap", [" ", "\n"])
def test_internal_error_carries_its_message(gap):
    (found,) = messages("[error] An internal error occurred in the X\nError message:" + gap + "bad kernel\n")
    assert found["text"] == "An internal error occurred in the X: bad kernel"
    assert found["detail"] == "bad kernel"


def test_root_cause_is_not_hidden_by_what_follows():
    chain = MAF_OOM.format(stars="") + (
        "\nDuring handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  File\nKeyError: 'x'\n"
        "Traceback (most recent call last):\n  File\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \nKilled\n"
    )
    assert fatal(chain)["code"] == "DEVICE_OUT_OF_MEMORY"
    assert [data["code"] for data in messages(chain)] == ["DEVICE_OUT_OF_MEMORY", "COMMAND_FAILED"]


ERROR = "Traceback (most recent call last):\n  File\nValueError: x\n"


@pytest.mark.parametrize(
    "good",
    [
        "[Step 3/9] Loss: 1.0\n",
        "{'loss': 1.0, 'step': 3}\n",
        "{'eval_loss': 1.0}\n",
        "[info] MoAI Accelerator is ready to use.\n",
        "Model saved in ./x\n",
        "Training Done\n",
        "".join("\r %d%%|# | %d/100 [00:01<01:00, 1.0it/s]" % (n, n) for n in (1, 2, 3)) + "\n",
    ],
)
def test_progress_after_a_fatal_line_clears_it(good):
    assert fatal(good + ERROR)["text"] == "ValueError: x"
    assert fatal(ERROR + good) is None


@pytest.mark.parametrize(
    "rest",
    [
        "bye\n",
        "\r  5%|# | 5/100 [00:01<01:00, 1.0it/s]\n",
        "[warning] A newer version of Moreh AI Framework is available.\n",
        "Model load and warmup done. Duration: 3.0\n",
    ],
)
def test_what_proves_nothing_does_not_clear_a_fatal_line(rest):
    before = "\r  4%|# | 4/100 [00:01<01:00, 1.0it/s]\n[info] train: true\n"
    assert fatal(before + ERROR + rest)["text"] == "ValueError: x"


@pytest.mark.parametrize(
    "text",
    [
        "Exception ignored in: <function f at 0x1>\n" + ERROR,
        "Traceback (most recent call last):\n  File\nKeyboardInterrupt\n",
        "ERROR: retrying after ValueError: x\n",
        "UserWarning: this error is harmless\n",
        "[error] something odd\n",
        "no memory of an error; a fault tolerant killed process\n",
    ],
)
def test_harmless_text_is_not_fatal(text):
    assert fatal(text) is None


def test_log_lines_between_frames_do_not_end_a_traceback():
    text = "Traceback (most recent call last):\n  File\nINFO: saved nothing\nERROR: oh\nValueError: x\n"
    assert [data["text"] for data in messages(text)] == ["ValueError: x"]


def test_source_lines_of_a_traceback_are_not_read():
    text = "Traceback (most recent call last):\n  File\n    print('[Step 1/9] Loss: 1.0')\nValueError: x\n"
    assert [type_ for type_, _ in parse(text)] == ["message"]


def test_the_same_error_of_every_rank_is_reported_once_and_a_flood_is_limited():
    assert len(messages(ERROR * 8)) == 1
    flood = "".join(ERROR.replace("x", "x%d" % n) for n in range(500))
    assert len(messages(flood)) == 50
    assert fatal(flood)["text"] == "ValueError: x499"
    assert len(messages("".join("[warning] odd %d\n" % n for n in range(500)))) == 20


def test_every_code_is_a_name_of_the_contract():
    proto = Path(__file__).resolve().parents[2] / "proto" / "moai_proto" / "v1" / "errors.proto"
    names = set(re.findall(r"ERROR_REASON_([A-Z_]+) =", proto.read_text(encoding="utf-8")))
    rules = fault_rules._ANYWHERE + fault_rules._IN_EXCEPTION
    used = {rule.code for rule in rules} | {code for code, _ in fault_rules._CLASSES.values()}
    assert used | {"WAITING_FOR_DEVICE", "CANCELLED"} <= names
