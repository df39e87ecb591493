"""C-1: what is typed is what the program gets, byte for byte, for ten thousand argument lists."""

import hashlib
import json
import random

import moai
import pytest

ARGVS, JOBS, SEED = 10_000, 4, 20_260_704
PIECES = [
    "", " ", "  ", "'", '"', "`", "$", "$HOME", "${x}", "$(id)", "`id`", "\\", "\\n", "\n", "\r", "\t", "\x01", "\x1b[31m", "\x7f", "\x85",
    "*", "?", "[a-z]", "{a,b}", "~", "!", "!!", "#", "&", "&&", "|", ";", "<", ">", "(", ")", "-", "--", "-n", "--on", "=", "%", "%s", "%n",
    "a", "Z", "0", "é", "한글", "😀", "e\u0301", "\u202e", "\u200b", "\ufeff", "\ufffd", "\U0010ffff", "x" * 40, "MOAI1", "{\"ok\": 1}",
]  # fmt: skip

#: Prints the digest of each list; how many words each has comes first, and the words follow.
CHILD = """
import hashlib, os, sys
counts, words = [int(n) for n in sys.argv[1].split(",")], [os.fsencode(w) for w in sys.argv[2:]]
assert len(words) == sum(counts), (len(words), sum(counts))
for count in counts:
    print(hashlib.sha256(b"".join(b"%d:%s" % (len(w), w) for w in words[:count])).hexdigest())
    del words[:count]
"""


def digest(argv):
    raw = [word.encode("utf-8") for word in argv]
    return hashlib.sha256(b"".join(b"%d:%s" % (len(w), w) for w in raw)).hexdigest()


def random_word(chance):
    if chance.random() < 0.1:
        return "".join(chr(chance.choice([chance.randint(1, 0x2FF), chance.randint(0xE000, 0xFFFF)])) for _ in range(chance.randint(1, 6)))
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(0, 4)))


def test_ten_thousand_argument_lists_arrive_byte_for_byte(local):
    chance = random.Random(SEED)
    argvs = [[random_word(chance) for _ in range(chance.randint(0, 7))] for _ in range(ARGVS)]
    batch = ARGVS // JOBS
    with moai.connect("local") as host:
        for number in range(JOBS):
            part = argvs[number * batch : (number + 1) * batch]
            words = [",".join(str(len(argv)) for argv in part), *(word for argv in part for word in argv)]
            # Every other job goes through the shell that runs a line before the command.
            options = moai.JobOptions(setup="X='a b'; set -f" if number % 2 else "")
            job = host.run(["python3", "-c", CHILD, *words], options)
            job.wait(60)
            assert b"".join(job.log()).decode().split() == [digest(argv) for argv in part], f"seed {SEED}, job {number}"


@pytest.mark.parametrize("word", ["a\0b", "\udcff", "x" * 200_000], ids=["NUL", "no UTF-8", "longer than execve takes"])
def test_what_no_program_can_be_given_is_refused_or_told(local, word):
    with moai.connect("local") as host:
        try:
            job = host.run(["true", word])
        except moai.UsageError as refused:
            assert refused.next or "NUL" in refused.message
        else:
            info = job.wait(60, check=False)
            assert info.state == "FAILED" and info.reason and info.reason.message


def test_jobs_with_enormous_commands_and_settings_are_listed(local):
    with moai.connect("local") as host:
        job = host.run(["true", *["x" * 100_000] * 12], moai.JobOptions(labels={"note": "y" * 600_000}))
        assert job.wait(60).state == "SUCCEEDED" and len(job.info.command) < 3000
        for _ in range(3):
            host.run(["true"], moai.JobOptions(labels={"note": "y" * 1_500_000}))
        assert len(host.jobs()) == 4
    shown = local.moai("remote", "jobs", "--on", "local", "--json")
    assert len(json.loads(shown.stdout)["jobs"]) == 4, shown.stderr


def test_variables_that_change_how_programs_start_are_no_secrets():
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "PYTHONSTARTUP", "PYTHONHOME", "BASH_ENV", "ENV"):
        with pytest.raises(moai.UsageError, match=name):
            from moai._config import HostConfig

            moai.JobOptions(secrets={name: "x"}).message(HostConfig("h", "h"))
