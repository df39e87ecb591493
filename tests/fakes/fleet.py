"""Containers as ``top`` sees them, without containers: recorded snapshots and hosts that answer with them."""

from datetime import datetime, timezone

import moai

#: Every age in the stored frames counts from here.
NOW = 1_800_000_000.0


def moment(seconds):
    """Seconds since the epoch as the answers carry them."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def job_info(host, job, state="RUNNING", now=NOW, **more):
    """A job's answer; ``more`` replaces fields."""
    values = dict(
        host=host, id=job, name="", owner="mina@laptop", command="python train.py", kind="train", state=state, phase="", phase_text="",
        phase_time=None, reason=None, create_time=moment(now - 5000), start_time=moment(now - 4000), end_time=None, exit_code=None,
        steps=(moai.Step("train", "RUNNING"),), progress=None, output="", parent="", conditions=(), pid=1, environment="pytorch",
        environment_reason="", metrics={}, metrics_step=None, losses=(), folder="", request_id="", last_sequence=1, log_bytes=0,
    )  # fmt: skip
    return moai.JobInfo(**{**values, **more})


def training(host, job, step=40, now=NOW, **more):
    """A training at a step of 560, with 40 losses."""
    values = dict(
        phase="training",
        progress=moai.Progress(float(step), 560.0, "steps", 0.3, 11400.0, moment(now)),
        metrics={"loss": 1.4142, "tokens_per_second": 48365.8},
        metrics_step=step,
        losses=tuple((n, 3 - n / 20 + (n % 3) * 0.1) for n in range(step)),
    )
    return job_info(host, job, now=now, **{**values, **more})


def busy_report(host):
    """One MoAI device in use."""
    process = moai.DeviceProcess(1, 4711, "python tutorial/train_llama3_70b.py", 1200345)
    device = moai.Device(0, "MoAI Accelerator", "4xLarge.2048GB", True, 1200345, 2097152, None, 93.0, (process,))
    return moai.DeviceReport(host, "moreh-smi", "24.5.0", "24.5.0", (device,), ())


def gpu_report(host, count=2):
    """A box of GPUs."""
    devices = tuple(moai.Device(n, "NVIDIA H100", "", n == 0, 1000 * n, 81559, None, 12.0 * n, ()) for n in range(count))
    return moai.DeviceReport(host, "nvml", "", "", devices, ("driver 550 is old",))


class FakeHost:
    """Answers as ``moai.Host`` does: with what ``jobs_now`` and ``report`` hold, or by raising ``error``."""

    def __init__(self, name, jobs_now=(), report=None, error=None, gate=None):
        self.name, self.jobs_now, self.report, self.error, self.gate = name, list(jobs_now), report or busy_report(name), error, gate
        self.config = moai.HostConfig(name=name, address="local")
        self.asked = 0
        self.calls = []

    def jobs(self, limit=1000):
        """As the real one; waits for ``gate`` first."""
        self.asked += 1
        if self.gate is not None:
            self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return self.jobs_now[:limit]

    def devices(self):
        """As the real one."""
        if self.error is not None:
            raise self.error
        return self.report

    def job(self, text):
        """An object that notes what is done to the job."""
        return FakeJob(self, text)


class FakeJob:
    """A job under a key."""

    def __init__(self, host, job):
        self._host, self._id = host, job

    def __getattr__(self, verb):
        def act():
            if self._host.error is not None:
                raise self._host.error
            self._host.calls.append((verb, self._id))

        return act
