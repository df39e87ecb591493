"""Which wheels a container accepts: tags, and the choice from the shipped locks. No network, no pip."""

import sys

import pytest
from moai._bootstrap import lockfile
from moai._bootstrap.lockfile import Wheel
from moai._bootstrap.targets import Target
from moai._errors import MoaiError

PYTHONS = range(8, 15)


def facts(**changes):
    known = {"python_version": "3.8.18", "machine": "x86_64", "libc": "glibc", "libc_version": "2.31"}
    return {**known, **changes}


@pytest.mark.parametrize(
    ("key", "first", "includes", "last"),
    [
        ("cp38-x86_64-glibc2.17", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"),
        ("cp38-x86_64-glibc2.31", "manylinux_2_31_x86_64", "manylinux1_x86_64", "linux_x86_64"),
        ("cp312-aarch64-glibc2.36", "manylinux_2_36_aarch64", "manylinux2014_aarch64", "linux_aarch64"),
        ("cp39-x86_64-musl1.2", "musllinux_1_2_x86_64", "musllinux_1_1_x86_64", "linux_x86_64"),
    ],
)
def test_every_platform_tag_is_given_newest_first(key, first, includes, last):
    tags = Target.parse(key).platform_tags()
    assert (tags[0], tags[-1]) == (first, last)
    assert includes in tags
    assert len(tags) == len(set(tags))


def test_tags_reach_down_to_the_oldest_of_each_cpu():
    x86 = Target.parse("cp38-x86_64-glibc2.31").platform_tags()
    arm = Target.parse("cp38-aarch64-glibc2.31").platform_tags()
    assert [tag for tag in x86 if "_2_" in tag] == [
        f"manylinux_2_{minor}_x86_64" for minor in range(31, 4, -1)
    ]
    assert [tag for tag in arm if "_2_" in tag] == [
        f"manylinux_2_{minor}_aarch64" for minor in range(31, 16, -1)
    ]
    assert not {"manylinux2010_aarch64", "manylinux1_aarch64"} & set(arm)
    assert {"manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"} <= set(x86)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with the tags of a running Linux interpreter")
def test_tags_and_their_order_are_those_an_installer_computes_on_such_a_machine():
    tags = pytest.importorskip("packaging.tags")
    # Plain linux_* tags move between packaging's versions, and no index accepts such wheels.
    theirs = [str(tag) for tag in tags.sys_tags() if not tag.platform.startswith("linux_")]
    family, major, minor, arch = theirs[0].rpartition("-")[2].split("_", 3)
    if family not in ("manylinux", "musllinux") or arch not in ("x86_64", "aarch64"):
        pytest.skip(f"this machine's tags start with {theirs[0]}")
    libc = "glibc" if family == "manylinux" else "musl"
    target = Target.parse(f"cp3{sys.version_info[1]}-{arch}-{libc}{major}.{minor}")
    assert [tag for tag in target.wheel_tags() if "-linux_" not in tag] == theirs


@pytest.mark.parametrize("minor", PYTHONS)
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("libc", ["glibc2.17", "glibc2.31", "glibc2.36", "musl1.2"])
def test_the_shipped_locks_serve_every_python_cpu_and_libc(minor, arch, libc):
    target = Target.parse(f"cp3{minor}-{arch}-{libc}")
    if (minor, arch, libc) == (8, "aarch64", "musl1.2"):
        with pytest.raises(MoaiError) as failure:
            lockfile.select(target)
        assert failure.value.reason == "PLATFORM_UNSUPPORTED"
        assert "grpcio" in failure.value.message
        return
    chosen = lockfile.select(target)
    names = [wheel.requirement.partition("==")[0] for wheel in chosen.wheels]
    assert names == ["grpcio", "nvidia-ml-py", "protobuf"] + (["typing-extensions"] if minor > 8 else [])
    assert all(set(wheel.tags()) & set(target.wheel_tags()) for wheel in chosen.wheels)
    grpcio, protobuf = chosen.wheels[0], chosen.wheels[2]
    assert f"cp3{minor}-cp3{minor}-" in grpcio.filename and arch in grpcio.filename
    assert ("abi3" in protobuf.filename) == (target.libc == "glibc")
    # The stubs' generator sets these floors.
    assert tuple(map(int, grpcio.requirement.partition("==")[2].split("."))) >= (1, 62)
    assert tuple(map(int, protobuf.requirement.partition("==")[2].split("."))) >= (4, 25)


def test_hosts_that_need_the_same_wheels_share_one_cache_key():
    keys = {lockfile.select(Target.parse(f"cp38-x86_64-glibc2.{minor}")).key for minor in (17, 28, 31, 39)}
    assert len(keys) == 1
    assert keys != {lockfile.select(Target.parse("cp38-aarch64-glibc2.31")).key}


def test_an_older_glibc_than_any_wheel_is_refused_before_anything_is_fetched():
    with pytest.raises(MoaiError) as failure:
        lockfile.select(Target.parse("cp311-x86_64-glibc2.12"))
    assert failure.value.reason == "PLATFORM_UNSUPPORTED"
    assert failure.value.next


def test_the_most_specific_wheel_wins_whatever_the_order_in_the_lock():
    def wheel(tags):
        return Wheel("demo==1", f"demo-1-{tags}.whl", 1, tags.ljust(64, "0"), "0" * 64)

    best_first = [
        "cp39-cp39-manylinux_2_28_x86_64",
        "cp39-cp39-manylinux2014_x86_64",
        "cp38-abi3-manylinux1_x86_64",
    ]
    wheels = [
        wheel(tags) for tags in ["py3-none-any", *reversed(best_first), "cp39-cp39-manylinux_2_34_x86_64"]
    ]
    target = Target.parse("cp39-x86_64-glibc2.31")
    for expected in [*best_first, "py3-none-any"]:
        (chosen,) = lockfile.choose(wheels, target).wheels
        assert chosen.filename == f"demo-1-{expected}.whl"
        wheels.remove(chosen)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"python_version": "3.7.16"}, "PYTHON_NOT_FOUND"),
        ({"python_version": "2.7.18"}, "PYTHON_NOT_FOUND"),
        ({"python_version": ""}, "PYTHON_NOT_FOUND"),
        ({"python_version": "3.15.0"}, "PLATFORM_UNSUPPORTED"),
        ({"python_version": "4.0"}, "PLATFORM_UNSUPPORTED"),
        ({"implementation": "pypy"}, "PLATFORM_UNSUPPORTED"),
        ({"python_version": "3.13.0", "abiflags": "t"}, "PLATFORM_UNSUPPORTED"),
        ({"machine": "armv7l"}, "PLATFORM_UNSUPPORTED"),
        ({"machine": "ppc64le"}, "PLATFORM_UNSUPPORTED"),
        ({"pointer_bits": "32"}, "PLATFORM_UNSUPPORTED"),
        ({"system": "Darwin"}, "PLATFORM_UNSUPPORTED"),
        ({"libc": "bionic"}, "PLATFORM_UNSUPPORTED"),
        ({"libc_version": "3.0"}, "PLATFORM_UNSUPPORTED"),
    ],
)
def test_what_no_bundle_fits_is_refused_with_a_next_step(changes, reason):
    with pytest.raises(MoaiError) as failure:
        Target.from_facts(facts(**changes))
    assert failure.value.reason == reason
    assert failure.value.next


def test_probed_facts_become_a_target():
    assert Target.from_facts(facts()) == Target((3, 8), "cp", "cp38", "x86_64", "glibc", (2, 31))
    arm = Target.from_facts(
        facts(machine="arm64", python_version="3.12.1+", libc="musl", libc_version="1.2.4")
    )
    assert arm.key == "cp312-aarch64-musl1.2"
    # Without a version the oldest that any wheel supports is the safe guess.
    assert Target.from_facts({"python_version": "3.8.18", "machine": "x86_64"}).libc_version == (2, 17)


@pytest.mark.parametrize("key", ["cp38-x86_64-glibc2.31", "cp314-aarch64-musl1.2"])
def test_a_targets_key_names_it_fully(key):
    assert Target.parse(key).key == key


@pytest.mark.parametrize(
    "key", ["", "cp38", "cp38-x86_64-glibc", "../cp38-x86_64-glibc2.31", "pp38-x86_64-glibc2.31"]
)
def test_a_malformed_key_is_refused(key):
    with pytest.raises(MoaiError) as failure:
        Target.parse(key)
    assert failure.value.reason == "PLATFORM_UNSUPPORTED"


@pytest.mark.parametrize("damage", ["drop a hash", "drop a comment", "loose pin"])
def test_a_lock_whose_hashes_and_notes_disagree_is_refused(tmp_path, damage):
    lines = (lockfile.LOCKS / "cp38.txt").read_text().splitlines()
    if damage == "drop a hash":
        lines = lines[:-1]
    elif damage == "drop a comment":
        lines.remove(next(line for line in lines if line.startswith("# wheel")))
    else:
        lines.append("grpcio>=1.62")
    (tmp_path / "cp38.txt").write_text("\n".join(lines))
    with pytest.raises(MoaiError) as failure:
        lockfile.read("cp38", tmp_path)
    assert failure.value.reason == "INTERNAL"
