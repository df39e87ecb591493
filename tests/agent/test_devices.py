"""Devices of a container: MoAI's tool, NVML and the CPU, each behind the same report."""

import os
import sys
import threading
import time
import types

import pytest
from fakes.container import TOKEN, build_home
from moai_agent.devices import cpu, nvml, probe
from moai_agent.devices.smi import NO_TABLE
from moai_agent.environments import bounded
from moai_agent.environments.activate import Activated


def tool(folder, text, name="moreh-smi"):
    """An executable named like the tool; returns variables whose PATH has it first."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return Activated({"PATH": "{}:/usr/bin:/bin".format(folder), "HOME": str(folder)})


def on_path(home):
    return Activated(dict(home.environ(), PATH="{}:/usr/bin:/bin".format(home.tools)))


def is_gone(pid):
    """Whether a process has ended (a zombie nobody reaps counts)."""
    try:
        with open("/proc/{}/stat".format(pid)) as file:
            return file.read().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def wait_for(condition, what):
    deadline, pause = time.monotonic() + 20, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited in vain for " + what
        pause.wait(0.01)


@pytest.fixture
def no_nvml(monkeypatch):
    monkeypatch.setattr(nvml, "read", lambda: None)


@pytest.mark.parametrize("variant", list("ABCDEFGHI"))
def test_every_release_of_the_tool_is_read_idle_and_running(tmp_path, variant):
    home = build_home(str(tmp_path / "it's home"), variant=variant)
    idle = probe.list_devices(on_path(home))
    assert idle.error is None and idle.provider == ("ap-smi" if variant == "I" else "moreh-smi")
    assert all(not device.processes for device in idle.devices)
    home.set_running(4242, "python train.py | tee log *", 1024)
    busy = probe.list_devices(on_path(home))
    if variant == "G":
        assert len(busy.hardware) == 32 and busy.devices == []
        return
    device = busy.default_device()
    assert (
        device.flavor
        == home.state()["devices"][
            home.state()["devices"].index(
                next(one for one in home.state()["devices"] if one["id"] == device.id)
            )
        ]["flavor"]
    )
    if variant in "ABCDH":
        assert device.memory_used_mib == 1024
        assert [(one.pid, one.command) for one in device.processes] == [(4242, "python train.py | tee log *")]
    assert TOKEN not in repr(idle) + repr(busy)


def test_proxies_are_kept_from_the_tool(tmp_path):
    env = on_path(build_home(str(tmp_path)))
    env.variables.update(https_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    assert probe.list_devices(env).error is None
    assert "https_proxy" in env.variables


def test_ap_smi_is_preferred_where_both_are_installed(tmp_path):
    home = build_home(str(tmp_path / "home"), variant="I")
    home.set_running(1, "x", 65520)
    env = on_path(home)
    env.variables["PATH"] = "{}:{}".format(build_home(str(tmp_path / "old")).tools, env.variables["PATH"])
    assert probe.list_devices(env).provider == "ap-smi"
    assert probe.find_tool(env.variables) == ("ap-smi", os.path.join(home.tools, "ap-smi"))


def test_a_hung_tool_is_stopped_with_its_children(tmp_path):
    env = tool(tmp_path / "bin", "sleep 600 & echo $! >{}\nwait\n".format(tmp_path / "child"))
    report = probe.list_devices(env, timeout_s=1.0)
    assert report.error.reason == "DEVICE_TOOL_FAILED" and "1 s" in report.error.message and report.error.next
    assert report.provider == "moreh-smi" and report.devices == []
    pid = int((tmp_path / "child").read_text())
    wait_for(lambda: is_gone(pid), "the tool's child to end")


def test_a_tool_that_ends_while_its_child_holds_the_output_is_still_read(tmp_path):
    outcome = bounded.run(["sh", "-c", "sleep 600 & echo $!"], {"PATH": "/usr/bin:/bin"}, timeout_s=3600)
    assert outcome.ok and not outcome.timed_out
    wait_for(lambda: is_gone(int(outcome.stdout)), "the child to end")


def test_a_failing_tool_is_an_error_with_its_own_words_and_no_cpu(tmp_path):
    home = build_home(str(tmp_path), token="")
    report = probe.list_devices(on_path(home))
    assert report.error.reason == "DEVICE_TOOL_FAILED" and report.devices == []
    assert "exit code 134" in report.error.message
    assert "Aborted" in report.error.message or "token is not set" in report.error.message


@pytest.mark.parametrize("text", ["exit 0", "echo 'Moreh AI Platform is not available.'", "kill -SEGV $$"])
def test_a_tool_without_a_table_is_an_error(tmp_path, text):
    report = probe.list_devices(tool(tmp_path / "bin", text + "\n"))
    assert report.error.reason == "DEVICE_TOOL_FAILED" and report.provider == "moreh-smi"


def test_a_tool_that_cannot_start_is_an_error(tmp_path):
    env = tool(tmp_path / "bin", "")
    (tmp_path / "bin" / "moreh-smi").write_text("#!/no/such/interpreter\n")
    assert "could not be started" in probe.list_devices(env).error.message


def test_an_error_message_carries_no_secret(tmp_path):
    env = tool(tmp_path / "bin", "echo 'refused: token: c2VjcmV0LXRva2Vu' >&2; exit 1\n")
    report = probe.list_devices(env)
    assert "refused" in report.error.message and "c2VjcmV0" not in repr(report)


def test_exit_code_of_a_tool_with_a_table_does_not_matter(tmp_path):
    home = build_home(str(tmp_path / "home"))
    env = tool(tmp_path / "bin", "'{}/moreh-smi'; exit 3\n".format(home.tools))
    assert probe.list_devices(env).error is None


def test_an_endless_tool_fills_no_memory(tmp_path):
    env = tool(tmp_path / "bin", "exec yes '|||||||||||||||||||||||||||||||||'\n")
    assert probe.list_devices(env, timeout_s=1.0).error.reason == "DEVICE_TOOL_FAILED"


@pytest.mark.parametrize("sign", ["output", "neighbour"])
def test_the_tenstorrent_tool_of_the_same_name_is_passed_over_with_a_message(tmp_path, no_nvml, sign):
    env = tool(
        tmp_path / "bin", "echo 'usage: moreh-smi [-glx_reset]'\n" if sign == "output" else "echo '0: 45C'\n"
    )
    if sign == "neighbour":
        tool(tmp_path / "bin", "", "moreh-lock")
    report = probe.list_devices(env)
    assert report.provider == "cpu" and report.error is None
    assert any(NO_TABLE in line for line in report.messages)


def test_without_any_tool_the_cpu_is_the_device(tmp_path, no_nvml):
    report = probe.list_devices(Activated({"PATH": str(tmp_path)}))
    assert report.provider == "cpu" and report.devices[0].id == 0 and report.devices[0].is_default
    assert report.devices[0].name and report.devices[0].memory_total_mib > 0


# --- CPU ---


def fake_root(folder, cgroup, **files):
    """A root folder with /proc and /sys/fs/cgroup as a kernel would show them."""
    texts = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Test CPU 3000\n",
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   12582912 kB\n",
        "proc/self/cgroup": cgroup,
        "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1\n",
    }
    texts.update(files)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu.CpuReader(str(folder))


def memory(reader):
    device = reader.read().devices[0]
    return device.memory_used_mib, device.memory_total_mib


def test_cpu_without_limit_shows_the_machine(tmp_path):
    reader = fake_root(tmp_path, "0::/\n", **{"sys/fs/cgroup/memory.max": "max\n"})
    assert memory(reader) == (4096, 16384)
    assert reader.read().devices[0].name == "Test CPU 3000"


def test_cpu_memory_is_bounded_by_the_tightest_cgroup_v2_limit(tmp_path):
    files = {
        "sys/fs/cgroup/a/memory.max": str(8 << 30),
        "sys/fs/cgroup/a/memory.current": str(3 << 30),
        "sys/fs/cgroup/a/b/memory.max": str(2 << 30),
        "sys/fs/cgroup/a/b/memory.current": str(1 << 30),
        "sys/fs/cgroup/a/b/memory.stat": "anon 5\ninactive_file {}\n".format(256 << 20),
    }
    assert memory(fake_root(tmp_path, "0::/a/b\n", **files)) == (768, 2048)


def test_cpu_memory_is_bounded_by_a_cgroup_v1_limit_whose_path_is_the_hosts(tmp_path):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 << 30),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(1 << 30),
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    assert memory(fake_root(tmp_path, "5:cpu:/docker/x\n4:memory:/docker/x\n", **files)) == (1024, 4096)


def test_cgroup_v1_without_limit_is_no_limit(tmp_path):
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert memory(fake_root(tmp_path, "4:memory:/\n", **files)) == (4096, 16384)


def test_cpu_utilization_is_unknown_first_and_then_the_share_since(tmp_path):
    reader = fake_root(tmp_path, "")
    assert reader.read().devices[0].utilization_percent is None
    (tmp_path / "proc/stat").write_text("cpu  150 0 125 825 0 0 0 0 0 0\n")
    assert reader.read().devices[0].utilization_percent == 75


def test_cpu_with_nothing_to_read_is_still_one_device(tmp_path):
    device = cpu.CpuReader(str(tmp_path)).read().devices[0]
    assert device.name and device.memory_total_mib is None and device.utilization_percent is None


# --- NVML ---


def fake_pynvml(monkeypatch, devices=1, **replaced):
    """The functions of nvidia-ml-py that are used, over one imaginary device."""

    class NVMLError(Exception):
        pass

    def unsupported(*_):
        raise NVMLError("Not Supported")

    module = types.ModuleType("pynvml")
    functions = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: calls.append("shutdown"),
        "nvmlDeviceGetCount": lambda: devices,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(used=3 << 20, total=81559 << 20),
        "nvmlDeviceGetUtilizationRates": lambda handle: types.SimpleNamespace(gpu=42, memory=1),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            types.SimpleNamespace(pid=77, usedGpuMemory=2 << 20),
            types.SimpleNamespace(pid=78, usedGpuMemory=None),
        ],
        "nvmlSystemGetDriverVersion": lambda: "550.54.15",
    }
    calls = []
    for name, value in dict(functions, **replaced).items():
        setattr(module, name, unsupported if value is None else value)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return calls


def test_nvml_devices_have_the_same_shape(monkeypatch, tmp_path):
    calls = fake_pynvml(monkeypatch, devices=2)
    report = nvml.read(proc=str(tmp_path))
    first = report.devices[0]
    assert (report.provider, report.platform_version, len(report.devices)) == ("nvml", "550.54.15", 2)
    assert (first.name, first.memory_used_mib, first.memory_total_mib) == ("NVIDIA H100 80GB HBM3", 3, 81559)
    assert (first.utilization_percent, first.is_default, first.flavor) == (42, True, None)
    assert [(one.pid, one.memory_used_mib, one.command) for one in first.processes] == [
        (77, 2, None),
        (78, None, None),
    ]
    assert calls == ["shutdown"]


def test_nvml_names_a_process_only_when_it_has_the_device_open(monkeypatch, tmp_path):
    fake_pynvml(monkeypatch)
    for pid, target in ((77, "/dev/nvidia0"), (78, "/dev/null")):
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / str(pid) / "fd" / "3").symlink_to(target)
        (tmp_path / str(pid) / "cmdline").write_bytes(b"python\0train.py\0--hf-token\0hf_abcdefghij\0")
    commands = [one.command for one in nvml.read(proc=str(tmp_path)).devices[0].processes]
    assert commands == ["python train.py --hf-token [redacted]", None]


@pytest.mark.parametrize(("answers", "used"), [(True, 0), (False, 615)])
def test_nvml_memory_of_the_driver_itself_is_not_called_used_where_that_is_known(monkeypatch, answers, used):
    """As seen on an idle H200: 615 MiB by the first version of the answer, 0 by the second and nvidia-smi."""

    def memory(handle, version=None):
        if version is not None and not answers:
            raise sys.modules["pynvml"].NVMLError("not supported")
        return types.SimpleNamespace(used=(615 << 20) if version is None else 0, total=143771 << 20)

    fake_pynvml(monkeypatch, nvmlDeviceGetMemoryInfo=memory)
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlMemory_v2", 0x2000028, raising=False)
    device = nvml.read().devices[0]
    assert (device.memory_used_mib, device.memory_total_mib) == (used, 143771)


def test_nvml_leaves_unknown_what_the_driver_does_not_support(monkeypatch):
    names = [
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetComputeRunningProcesses",
    ]
    fake_pynvml(monkeypatch, **{name: None for name in names + ["nvmlSystemGetDriverVersion"]})
    report = nvml.read()
    device = report.devices[0]
    assert device.memory_total_mib is None and device.utilization_percent is None and device.processes == []
    assert report.platform_version is None


@pytest.mark.parametrize("fault", ["no driver", "no device", "no package"])
def test_nvml_is_none_without_package_driver_or_device(monkeypatch, fault):
    if fault == "no driver":
        fake_pynvml(monkeypatch, nvmlInit=None)
    elif fault == "no device":
        fake_pynvml(monkeypatch, devices=0)
    else:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.read() is None


def test_nvml_comes_before_the_cpu(monkeypatch, tmp_path):
    fake_pynvml(monkeypatch)
    assert probe.list_devices(Activated({"PATH": str(tmp_path)})).provider == "nvml"
