"""Several containers at once: partial failure is data, one merged stream, the first free one."""

import asyncio
import json

import moai
import pytest
from fakes.box import Box
from fakes.sshd import find_sshd, free_port, wait_until

COUNT = 3


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Containers c0.. behind their own sshds, and one laptop that knows them all and a dead one."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    made = [Box(tmp_path_factory.mktemp(f"c{n}"), alias=f"c{n}") for n in range(COUNT)]
    laptop = made[0].laptop
    config = made[0].ssh_config
    for n, box in enumerate(made[1:], 1):
        box.sshd.ssh_config(config, alias=f"c{n}", append=True)
    with open(config, "a", encoding="utf-8") as out:
        out.write(f"Host dead\n    HostName 127.0.0.1\n    Port {free_port()}\n    StrictHostKeyChecking yes\n")
    lines = [f'[hosts.c{n}]\naddress = "c{n}"\ngroups = ["pool"]\n' for n in range(COUNT)] + ['[hosts.dead]\naddress = "dead"\n']
    (made[0].folder / "laptop" / "config" / "config.toml").write_text("".join(lines))
    yield laptop, made
    for box in made:
        box.end()


@pytest.fixture
def laptop(boxes, as_laptop):
    as_laptop(boxes[0])
    return boxes[0]


def test_one_dead_host_is_a_row_beside_the_others(boxes, laptop):
    done = laptop.moai("remote", "devices", "--on", "all", "--json")
    assert done.returncode == 4
    hosts = json.loads(done.stdout)["hosts"]
    assert [h["host"] for h in hosts] == [*(f"c{n}" for n in range(COUNT)), "dead"], "in the order of the settings"
    assert all(h["devices"] and h["error"] is None for h in hosts[:-1])
    assert hosts[-1]["error"]["reason"] == "HOST_UNREACHABLE"


def test_partial_failure_is_data(laptop):
    with moai.Fleet("all") as fleet:
        results = fleet.devices()
        assert list(results) == [h.name for h in fleet.hosts]
        assert set(results.failed) == {"dead"} and len(results.ok) == COUNT
        assert "<td>dead</td>" in results._repr_html_() and "MoAI Accelerator" in results._repr_html_()
        with pytest.raises(moai.HostUnreachable):
            results.check()


def test_a_job_on_each_and_one_stream_without_loss_or_repeat(laptop):
    with moai.Fleet("@pool") as fleet:
        jobs = fleet.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo $i; done; exit 3"]).check()
        seen = {name: [] for name in jobs}
        logs = {name: b"" for name in jobs}
        for item in fleet.events(jobs.values(), log=True):
            if isinstance(item, moai.Event):
                seen[item.host].append(item.sequence)
            else:
                logs[item.host] += item.data
        for name in jobs:
            assert seen[name] == list(range(1, len(seen[name]) + 1)) and len(seen[name]) >= 5
            assert logs[name] == b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"
        assert len({job.id for job in jobs.values()}) == COUNT


def test_the_same_request_on_each_host_is_one_job_there(laptop):
    with moai.Fleet("@pool") as fleet:
        options = moai.JobOptions(request_id="fleet-once")
        first, second = fleet.run(["true"], options).check(), fleet.run(["true"], options).check()
        assert {n: j.id for n, j in first.items()} == {n: j.id for n, j in second.items()}


def test_a_time_limit_leaves_the_others_answers(laptop):
    import threading

    hold = threading.Event()
    with moai.Fleet("@pool") as fleet:

        def slow(host):
            if host.name == "c0":
                hold.wait(30)
            return host.name

        results = fleet.map(slow, timeout=1.0)
        hold.set()
        assert set(results.failed) == {"c0"} and results.failed["c0"].reason == "TIMED_OUT"
        assert set(results.ok) == {f"c{n}" for n in range(1, COUNT)}


def test_a_defect_of_the_callers_function_is_raised(laptop):
    with moai.Fleet("@pool") as fleet, pytest.raises(ZeroDivisionError):
        fleet.map(lambda host: 1 / 0)


def test_the_first_free_host_is_found_by_device_flavor_and_jobs(boxes, laptop):
    made = boxes[1]
    with moai.Fleet("@pool") as fleet:
        assert fleet.first_free().name == "c0"
        made[0].kit.set_running(4711, "python busy.py", 1000)
        assert fleet.first_free().name == "c1"
        assert fleet.first_free(flavor="4xlarge").name == "c1"
        busy = fleet.hosts[1].run(["sleep", "600"], moai.JobOptions(accelerator="default"), kind="train")
        wait_until(lambda: busy.refresh().state == "RUNNING", "the job to run", 30)
        assert fleet.first_free().name == "c2"
        with pytest.raises(moai.Conflict) as caught:
            fleet.first_free(flavor="small")
        assert caught.value.reason == "DEVICE_IN_USE" and "flavor" in caught.value.message
        made[0].kit.set_idle()
        busy.cancel(grace_s=1)
        busy.wait(60, check=False)


def test_inside_a_running_event_loop(laptop):
    async def main():
        with moai.Fleet("@pool") as fleet:
            return await asyncio.to_thread(fleet.devices)

    assert len(asyncio.run(main()).ok) == COUNT


def test_a_command_on_several_hosts_from_the_command_line(laptop):
    done = laptop.moai("remote", "run", "--on", "@pool", "--", "sh", "-c", "echo hello; exit 3")
    assert done.returncode == 3, done.stderr.decode()
    text = done.stdout.decode()
    assert all(f"[c{n}] hello" in text for n in range(COUNT)) and text.count("FAILED") == COUNT
    mixed = laptop.moai("remote", "run", "--on", "c0,dead", "--detach", "--json", "--", "true")
    document = json.loads(mixed.stdout)
    assert mixed.returncode == 4 and [j["host"] for j in document["jobs"]] == ["c0"] and document["errors"][0]["host"] == "dead"
    chosen = laptop.moai("remote", "run", "--on", "@pool", "--any", "--", "hostname")
    assert chosen.returncode == 0, chosen.stderr.decode()


def test_jobs_of_all_hosts_are_one_list_and_the_dead_one_is_said(laptop):
    done = laptop.moai("remote", "jobs", "--json")
    assert done.returncode == 4
    document = json.loads(done.stdout)
    assert {j["host"] for j in document["jobs"]} == {f"c{n}" for n in range(COUNT)}
    assert [e["host"] for e in document["errors"]] == ["dead"]
    times = [j["create_time"] for j in document["jobs"]]
    assert times == sorted(times, reverse=True)


def test_verbs_that_make_jobs_take_several_hosts_a_row_each_and_the_worst_exit_code(boxes, laptop):
    """download on a container without the Hub fails typed on each; the dead host is a row of its own."""
    done = laptop.moai("remote", "download", "demo/none", "--on", "c0,dead", "--plain", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 4, done.stderr.decode()
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert [row[0] for row in rows if row[0] in ("c0", "dead")][:2] == ["c0", "dead"]
    assert any(row[0] == "c0" and "FAILED" in row for row in rows)


@pytest.mark.parametrize("words", [("evaluate", "/no/model", "--dataset", "/no/data"), ("merge", "/no/model"), ("generate", "/no/model", "--prompt", "x")])
def test_verbs_on_a_model_take_several_hosts_and_a_job_is_of_one(boxes, laptop, words):
    done = laptop.moai("remote", *words, "--on", "dead,c0,c1", "--plain")
    assert done.returncode == 4, done.stderr.decode()
    rows = [line.split()[0] for line in done.stdout.decode().splitlines() if line.split()[:1] and line.split()[0] in ("c0", "c1", "dead")]
    assert rows[:3] == ["dead", "c0", "c1"], done.stdout.decode()
    refused = laptop.moai("remote", words[0], "last", *words[2:], "--on", "@pool")
    assert refused.returncode == 2 and b"lives on one host" in refused.stderr
    fast = laptop.moai("remote", *words, "--on", "c0,dead", "--detach", "--json", "--fail-fast")
    assert fast.returncode == 4 and [e["host"] for e in json.loads(fast.stdout)["errors"]][-1] == "dead"


def test_fail_fast_cancels_what_the_others_started(boxes, laptop):
    done = laptop.moai("remote", "run", "--on", "c0,dead", "--fail-fast", "--detach", "--", "sleep", "600")
    assert done.returncode == 4
    with moai.Fleet("c0") as fleet:
        job = fleet.hosts[0].job("last")
        assert job.wait(60, check=False).state == "CANCELLED"


def test_up_and_down_of_several_hosts_say_a_line_each(boxes, laptop):
    done = laptop.moai("remote", "up", "c0,dead,c1")
    assert done.returncode == 4
    lines = done.stderr.decode().splitlines()
    said = [line for line in lines if line.split(":")[0] in ("c0", "c1", "dead")]
    assert [line.split(":")[0] for line in said][-3:] == ["c0", "dead", "c1"] and "HOST_UNREACHABLE" in said[-2]


def test_files_go_to_several_hosts(boxes, laptop, tmp_path):
    (tmp_path / "a.txt").write_text("same everywhere")
    done = laptop.moai("remote", "push", str(tmp_path / "a.txt"), "--on", "@pool", "--json")
    assert done.returncode == 0, done.stderr.decode()
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [d["host"] for d in documents] == [f"c{n}" for n in range(COUNT)] and all(d["files"] == 1 for d in documents)
    assert all((box.home / "a.txt").read_text() == "same everywhere" for box in boxes[1])


def test_a_training_is_placed_where_it_fits_and_is_free(boxes, laptop, tmp_path):
    """c0 is too small by its flavor, c1 has a job before it, c2 is free: then c2; with c2 busy too, the shorter queue."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    by_the_step = {"save_minutes": 0}  # no checkpoints, so that a small disk will do
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    boxes[1][0].kit.set(devices=[{"id": 0, "flavor": "Small.64GB"}])
    with moai.Fleet("@pool") as fleet:
        waiting = fleet.hosts[1].run(["sleep", "600"], moai.JobOptions(accelerator="default"), kind="train")
        try:
            host, why = fleet.place(str(folder), settings=by_the_step, batch_size=256)
            assert (host.name, why) == ("c2", "free")
            second = fleet.hosts[2].run(["sleep", "600"], moai.JobOptions(accelerator="default"), kind="train")
            third = fleet.hosts[2].run(["sleep", "600"], moai.JobOptions(accelerator="default"), kind="train")
            host, why = fleet.place(str(folder), settings=by_the_step, batch_size=256)
            assert (host.name, why) == ("c1", "none is free; 1 before it")
            for job in (second, third):
                job.cancel()
            with pytest.raises(moai.NotFound, match="c0: about .* are needed on the accelerator") as caught:
                moai.Fleet([fleet.hosts[0]]).place(str(folder), settings=by_the_step, batch_size=256)
            assert caught.value.reason == "DEVICE_NOT_FOUND"
        finally:
            waiting.cancel()


def test_a_merged_stream_is_closed_from_another_thread_and_by_a_timeout(laptop):
    import threading

    with moai.Fleet("@pool") as fleet:
        jobs = fleet.run(["sleep", "600"]).check()
        try:
            with fleet.events(jobs.values()) as stream:
                seen = []
                reader = threading.Thread(target=lambda: seen.extend(stream))
                reader.start()
                wait_until(lambda: {item.host for item in seen} == set(jobs), "an event of each", 60)
                stream.close()
                reader.join(30)
                assert not reader.is_alive() and list(stream) == []
            with pytest.raises(moai.WaitTimeout) as caught:
                list(fleet.events(jobs.values(), timeout=0.5))
            assert caught.value.reason == "TIMED_OUT" and f"{COUNT} jobs" in caught.value.message
            assert {job.refresh().state for job in jobs.values()} == {"RUNNING"}, "the jobs go on"
        finally:
            fleet.map(lambda host: jobs[host.name].cancel(grace_s=1))


def test_a_stream_that_is_dropped_ends_its_threads(laptop):
    import gc
    import threading

    with moai.Fleet("@pool") as fleet:
        jobs = fleet.run(["sleep", "600"]).check()
        names = {f"moai-{job.id}" for job in jobs.values()}
        for _ in fleet.events(jobs.values()):
            break
        gc.collect()
        wait_until(lambda: not names & {thread.name for thread in threading.enumerate()}, "the threads to end", 30)
        fleet.map(lambda host: jobs[host.name].cancel(grace_s=1))


def test_a_merged_stream_inside_a_running_event_loop(laptop):
    async def main():
        with moai.Fleet("@pool") as fleet:
            jobs = await asyncio.to_thread(lambda: fleet.run(["true"]).check())
            seen = {name: [] for name in jobs}
            async for event in fleet.events(jobs.values()):
                seen[event.host].append(event.sequence)
            waiting = await asyncio.to_thread(lambda: fleet.run(["sleep", "600"]).check())
            stream = fleet.events(waiting.values())
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(_all(stream), 1.0)
            assert list(stream) == [], "a cancelled task closes it"
            await asyncio.to_thread(fleet.map, lambda host: waiting[host.name].cancel(grace_s=1))
            return seen

    async def _all(stream):
        async for _ in stream:
            pass

    seen = asyncio.run(main())
    assert all(found == list(range(1, len(found) + 1)) and len(found) > 2 for found in seen.values())


def test_a_job_that_is_gone_does_not_end_the_others_stream(laptop):
    told = []
    with moai.Fleet("@pool") as fleet:
        jobs = fleet.run(["true"]).check()
        for job in jobs.values():
            job.wait(60)
        jobs["c0"].delete()
        ended = []
        with pytest.raises(moai.NotFound):
            for item in fleet.events(jobs.values(), on_link=lambda name, error: told.append((name, error.reason))):
                ended += [item.host] if item.is_last else []
        assert sorted(ended) == [f"c{n}" for n in range(1, COUNT)] and told == [("c0", "JOB_NOT_FOUND")]


def test_one_fleet_is_used_from_several_threads(laptop):
    import threading

    found = []
    with moai.Fleet("@pool") as fleet:
        threads = [threading.Thread(target=lambda: found.append(fleet.devices())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert len(found) == 8 and all(len(results.ok) == COUNT for results in found)
