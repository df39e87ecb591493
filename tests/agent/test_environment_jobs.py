"""What the agent decides for a new environment: versions by the framework, tools by what is there."""

import pytest
from moai_agent.environments import Environment
from moai_agent.errors import AgentError
from moai_agent.jobs import environments
from moai_proto.v1 import environment_pb2


def env(name, kind="conda", torch=None, moreh=None, version="3.8.18"):
    return Environment(name, kind, "/" + name, "/" + name + "/bin/python", version, torch, moreh)


@pytest.mark.parametrize(
    "moreh, torch, python",
    [("22.8.0", "1.7.1", "3.8"), ("24.5.0", "1.13.1", "3.8"), ("24.11.0", "1.13.1", "3.8"), ("25.5.3005", "2.1.0", "3.10")],
)
def test_torch_and_python_follow_the_framework(moreh, torch, python):
    assert environments._default_torch(moreh, []) == torch
    assert environments._default_python(moreh, True, "") == environments._default_python(moreh, False, "requirements") == python


def test_torch_is_that_of_an_environment_with_the_same_framework():
    known = [env("old", torch="1.10.0+cu111.moreh24.5.0", moreh="24.5.0")]
    assert environments._default_torch("24.5.0", known) == "1.10.0"


class FakeRegistry:
    """A container with one kind of device tool."""

    def __init__(self, provider, version=None):
        self._provider, self._version = provider, version

    def provider(self):
        return self._provider

    def devices(self, want):
        return type("Report", (), {"platform_version": self._version})()


@pytest.mark.parametrize(
    "provider, version, known, asked, kind, torch, moreh",
    [
        ("moreh-smi", None, [("a", "24.2.0"), ("b", "24.11.0"), ("c", "24.9.212")], {}, "", "1.13.1", "24.11.0"),
        ("moreh-smi", "24.5.0", [], {}, "requirements", "1.13.1", "24.5.0"),
        ("ap-smi", None, [], {}, "", "", ""),
        ("moreh-smi", "24.5.0", [], {"moreh_version": "none"}, "", "", ""),
        ("moreh-smi", "24.5.0", [], {}, "conda-file", "", ""),
        ("moreh-smi", "24.5.0", [], {"moreh_version": "24.3.0"}, "conda-file", "1.13.1", "24.3.0"),
        ("nvml", None, [("a", "24.2.0")], {}, "", "", ""),
        ("cpu", None, [], {"torch_version": "2.4.1"}, "", "2.4.1", ""),
        ("cpu", None, [], {"moreh_version": "24.5.0", "torch_version": "1.10.0"}, "", "1.10.0", "24.5.0"),
    ],
)
def test_the_framework_is_the_containers_unless_one_is_named(provider, version, known, asked, kind, torch, moreh):
    agent = type("Agent", (), {"registry": FakeRegistry(provider, version)})()
    found = [env(name, moreh=v) for name, v in known]
    chosen = environments._framework(agent, environment_pb2.CreateEnvironmentRequest(**asked), found, kind)
    assert (chosen.torch, chosen.moreh) == (torch, moreh) and chosen.why


@pytest.mark.parametrize(
    "name, kind",
    [("", ""), ("requirements_llama3.txt", "requirements"), ("environment.yml", "conda-file"), ("e.yaml", "conda-file"), ("uv.lock", "uv")],
)
def test_the_kind_of_a_source_is_its_names(name, kind):
    assert environments.source_kind(name) == kind


def test_interpreters_for_a_virtual_environment_come_in_order():
    known = [
        env("base", version="3.11.7"), env("pytorch"), env("python3.10", "system", version="3.10.2"),
        env("python3.8", "system", version="3.8.10"), env("cpython-3.12", "uv", version="3.12.1"), env("v", "venv"),
    ]  # fmt: skip
    assert [python.split("/")[1] for python in environments._pythons(known, "")] == ["python3.10", "python3.8", "cpython-3.12", "base"]
    assert environments._pythons(known, "3.8") == ["/python3.8/bin/python"]
    with pytest.raises(AgentError) as refused:
        environments._pythons(known, "3.9")
    assert refused.value.reason == "ENVIRONMENT_NOT_FOUND" and "3.8.10, 3.10.2, 3.11.7, 3.12.1" in refused.value.message


def test_a_lock_needs_uv_and_its_project(tmp_path):
    with pytest.raises(AgentError) as refused:
        environments._uv({"PATH": ""}, str(tmp_path), "new", [], str(tmp_path / "uv.lock"))
    assert refused.value.reason == "UNSUPPORTED" and "uv export" in refused.value.next
    uv = tmp_path / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("")
    uv.chmod(0o755)
    with pytest.raises(AgentError) as refused:
        environments._uv({"PATH": ""}, str(tmp_path), "new", [{"name": "uv.lock", "text": ""}], "")
    assert refused.value.reason == "USAGE" and "pyproject.toml" in refused.value.message
    (tmp_path / "pyproject.toml").write_text("")
    assert environments._uv({"PATH": ""}, str(tmp_path), "new", [], str(tmp_path / "uv.lock")) == str(uv)


def test_condas_folder_of_environments_is_the_one_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "conda" / "bin").mkdir(parents=True)
    conda = str(tmp_path / "conda" / "bin" / "conda")
    assert environments._conda_envs(conda, str(tmp_path)) == str(tmp_path / "conda" / "envs")
    monkeypatch.setattr(environments.os, "access", lambda path, mode: False)
    assert environments._conda_envs(conda, str(tmp_path)) == str(tmp_path / ".conda" / "envs")
