"""``top`` over 64 containers: memory and CPU at 1 Hz, and the time to the first picture.

Each container is a real ``moai.Host`` whose channel ends at a server in another process that answers with recorded
snapshots: calls, conversion, model, drawing and Textual are what a user has; SSH and the link's processes are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from fakes.box import Box
from fakes.sshd import wait_until
from measure import Row, ms

HOSTS = 64
JOBS = 4
_SECONDS = 20.0
_REPO = Path(__file__).resolve().parents[1]


def serve(address: str) -> None:
    """Answer as 64 agents: a training that goes on, one that waits, two that have ended; a device in use."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from moai_proto.v1 import device_pb2, device_pb2_grpc, job_pb2, job_pb2_grpc

    start_s = time.time()

    def job(host: str, number: int, losses: bool = False) -> job_pb2.Job:
        states = (job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_SUCCEEDED)
        done = int((time.time() - start_s) * 2) + 40
        m = job_pb2.Job(
            id=f"swift-otter-{host}{number}", name=f"요약-{number}", owner="mina@laptop", command="python tutorial/train_llama3_70b.py --batch-size 512",
            kind="train", state=states[number % 4], phase="training", phase_text="training",
        )  # fmt: skip
        m.create_time.FromSeconds(int(start_s) - 100 * number)
        m.start_time.FromSeconds(int(start_s) - 100 * number)
        m.steps.add(name="train", state=job_pb2.STEP_STATE_RUNNING)
        if number % 4 > 1:
            m.end_time.FromSeconds(int(time.time()))
            return m
        m.progress.done, m.progress.total, m.progress.unit = done, 5600, "steps"
        m.progress.as_of_time.GetCurrentTime()
        m.metrics.update({"loss": 100 / done, "learning_rate": 1e-5, "tokens_per_second": 48365.8, "printed_tokens_per_second": 99999.0})
        m.metrics_step = done
        if number % 4 == 1:
            m.conditions.add(type="WAITING_FOR_DEVICE", message=f"waits for accelerator default behind swift-otter-{host}0")
        if losses:
            for step in range(min(512, done)):
                m.losses.add(step=step, loss=3 - step / 200)
        return m

    class Jobs(job_pb2_grpc.JobServiceServicer):
        def ListJobs(self, request: job_pb2.ListJobsRequest, context: grpc.ServicerContext) -> job_pb2.ListJobsResponse:
            host = dict(context.invocation_metadata())["moai-secret"]
            return job_pb2.ListJobsResponse(jobs=[job(host, n) for n in range(min(JOBS, request.page_size))])

        def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
            return job_pb2.GetJobResponse(job=job(request.job[12:-1], int(request.job[-1]), losses=True))

    class Devices(device_pb2_grpc.DeviceServiceServicer):
        def ListDevices(self, request: device_pb2.ListDevicesRequest, context: grpc.ServicerContext) -> device_pb2.ListDevicesResponse:
            report = device_pb2.ListDevicesResponse(provider="moreh-smi", platform_version="24.5.0", latest_version="24.5.0")
            device = report.devices.add(id=0, name="MoAI Accelerator", flavor="4xLarge.2048GB", is_default=True)
            device.memory_used_mib, device.memory_total_mib, device.utilization_percent = 1200345, 2097152, 93.0
            device.processes.add(pid=4711, command="python tutorial/train_llama3_70b.py")
            return report

    server = grpc.server(ThreadPoolExecutor(16))
    job_pb2_grpc.add_JobServiceServicer_to_server(Jobs(), server)
    device_pb2_grpc.add_DeviceServiceServicer_to_server(Devices(), server)
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    sys.stdin.read()


def watch(address: str) -> None:
    """``top`` in a terminal of 160 x 50 that nobody reads; prints CPU share, peak memory and time to the whole picture."""
    import asyncio
    import resource

    start_s = time.perf_counter()
    import moai
    from moai import _rpc
    from moai._cli.top_model import Model
    from moai._cli.top_poll import Poller
    from moai._cli.top_rows import rows as rows_of

    def connect(self: _rpc.Session) -> str:
        self._secret = self.host.name  # Tells the one server which host it answers for.
        return address

    _rpc.Session._connect = connect  # type: ignore[method-assign]
    names = [f"h{n:02d}-" for n in range(HOSTS)]
    hosts = [moai.Host(moai.HostConfig(name=name, address="local")) for name in names]
    model = Model(names)
    poller = Poller(hosts, model, 1.0)
    poller.start()
    from moai._cli.top_view import TopApp

    app = TopApp(model, {host.name: host for host in hosts})

    async def main() -> tuple[float, float]:
        async with app.run_test(size=(160, 50)) as pilot:
            while any(not one.jobs or one.devices_s is None for one in model.hosts()):
                if time.perf_counter() - start_s > 60:
                    raise RuntimeError(f"no whole picture: {[one.notes or one.error for one in model.hosts()][:3]}")
                await pilot.pause(0.01)
            whole_s = time.perf_counter() - start_s
            # What starting costs is not what going on costs: curves are asked for once.
            await asyncio.sleep(3)
            before, begin_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            await asyncio.sleep(_SECONDS)
            after, end_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            stale = sum(1 for row in rows_of(model.hosts(), time.time()) if row.age_s > 5)
            if stale:
                raise RuntimeError(f"{stale} rows were older than 5 s: it does not keep up")
            return used / (end_s - begin_s), whole_s

    share, whole_s = asyncio.run(main())
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(share, peak_kib / 1024, whole_s, flush=True)
    os._exit(0)  # 128 threads wait for nothing any more.


def first_picture(folder: Path) -> Row:
    """Enter to what a container's device tool says, on a terminal, its link being up; the median of five."""
    import fcntl
    import pty
    import select
    import statistics
    import struct
    import termios

    found = []
    with Box(folder / "box") as box:
        env = {k: v for k, v in box.laptop.env.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", "LANG": "C.UTF-8"}
        for _ in range(5):
            if box.moai("remote", "devices").returncode:
                raise RuntimeError("the look-alike did not come up")
            # Not a picture of the last time: a live one is wanted.
            (box.folder / "laptop" / "cache" / "top.json").unlink(missing_ok=True)
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
            start_s, seen = time.perf_counter(), b""
            process = subprocess.Popen([*box.laptop.argv, "remote", "top"], env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
            os.close(slave)
            while b"4xLarge" not in seen and time.perf_counter() - start_s < 30:
                if select.select([master], [], [], 1.0)[0]:
                    seen += os.read(master, 65536)
            found.append(time.perf_counter() - start_s)
            process.kill()
            process.wait()
            os.close(master)
    middle_s = statistics.median(found)
    return Row("`top`, 1 host, link up, Enter to its live row", "-", ms(middle_s), "-", None, "<= 1 s", middle_s <= 1.0)


def rows(folder: Path) -> list[Row]:
    """All rows of this file."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"unix:{folder}/s.sock"
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(str(_REPO / p) for p in ("client", "proto", "tests", "benchmarks")), MOAI_CACHE=str(folder))
    argv = [sys.executable, __file__]
    with subprocess.Popen([*argv, "serve", address], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            wait_until(lambda: (folder / "s.sock").exists(), "the server", 30)
            done = subprocess.run([*argv, "watch", address], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=180)
        finally:
            server.kill()
    if done.returncode:
        raise RuntimeError(f"top ended with {done.returncode}: {done.stderr[-800:]!r}")
    share, peak_mib, whole_s = (float(word) for word in done.stdout.split())
    what = f"`top`, {HOSTS} hosts, {HOSTS * JOBS} jobs"
    found = [
        Row(f"{what}, memory", "-", f"{peak_mib * 1.048576:.0f} MB", "-", None, "<= 300 MB", peak_mib * 1.048576 <= 300),
        Row(f"{what}, CPU at 1 Hz", "-", f"{share * 100:.1f} % of a core", "-", None, "<= 30 %", share <= 0.30),
        Row(f"{what}, start to every row", "-", f"{whole_s:.2f} s", "-", None, "-", True),
        first_picture(folder),
    ]
    for row in found:
        print(row.line(), flush=True)
    return found


if __name__ == "__main__":
    {"serve": serve, "watch": watch}[sys.argv[1]](sys.argv[2])
