"""Archives from strangers: each is refused, by name of its fault, before anything is written."""

import gzip
import io
import tarfile

import pytest
from moai._bootstrap import archive, bundle
from moai._errors import MoaiError


@pytest.fixture
def cache_dir(tmp_path):
    """A cache folder that nothing has made yet."""
    return tmp_path / "cache"


def entry(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(*entries, format=tarfile.USTAR_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as opened:
        for info, data in entries:
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


HOSTILE = {
    "absolute": ("outside", tar_of(entry("/etc/passwd", b"x"))),
    "parent": ("outside", tar_of(entry("lib/../../x", b"x"))),
    "parent at the end": ("outside", tar_of(entry("lib/..", b"x"))),
    "outside": ("outside", tar_of(entry("etc/passwd", b"x"))),
    "hidden": ("outside", tar_of(entry("lib/.x", b"x"))),
    "newline": ("outside", tar_of(entry("lib/a\nb", b"x"))),
    "symlink": ("not a plain", tar_of(entry("lib/x", type=tarfile.SYMTYPE, linkname="/etc"))),
    "hard link": ("not a plain", tar_of(entry("lib/x", type=tarfile.LNKTYPE, linkname="lib/y"))),
    "device": ("not a plain", tar_of(entry("lib/x", type=tarfile.CHRTYPE))),
    "pipe": ("not a plain", tar_of(entry("lib/x", type=tarfile.FIFOTYPE))),
    "folder": ("not a plain", tar_of(entry("lib/x", type=tarfile.DIRTYPE))),
    "extended header": ("not a plain", tar_of(entry("lib/" + "x" * 300, b"x"), format=tarfile.PAX_FORMAT)),
    "gnu long name": ("not a plain", tar_of(entry("lib/" + "x" * 300, b"x"), format=tarfile.GNU_FORMAT)),
    "set-uid": ("not written by", tar_of(entry("lib/x", b"x", mode=0o4755))),
    "owner": ("not written by", tar_of(entry("lib/x", b"x", uid=1000))),
    "twice": ("not written by", tar_of(entry("lib/x", b"x"), entry("lib/x", b"y"))),
    "unsorted": ("not written by", tar_of(entry("lib/y", b"x"), entry("lib/x", b"y"))),
    "data after the end": ("not written by", tar_of(entry("lib/x", b"x")) + b"more"),
    "cut short": ("is cut short", tar_of(entry("lib/x", b"x" * 5000))[:2000]),
    "bad checksum": ("cannot be read", b"lib/x" + b"\1" * 507 + b"\0" * 1024),
    "not a tar": ("cannot be read", b"hello"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written(cache_dir, tmp_path, kind):
    why, data = HOSTILE[kind]
    (tmp_path / "carried").write_bytes(gzip.compress(data))
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "carried", cache_dir)
    assert failure.value.reason == "BUNDLE_CORRUPT"
    assert why in failure.value.message
    assert not cache_dir.exists()


# Without a time stamp, so that every collecting process names the same cases.
WHOLE = gzip.compress(tar_of(entry("lib/x", b"x")), mtime=0)


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("not a gzip file", b"hello"),
        ("cut short", b""),
        ("cut short", WHOLE[:-4]),
        ("after its end", WHOLE + b"more"),
        ("after its end", WHOLE + WHOLE),
    ],
)
def test_a_file_that_is_no_whole_gzip_file_is_refused(cache_dir, tmp_path, why, data):
    (tmp_path / "carried").write_bytes(data)
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "carried", cache_dir)
    assert failure.value.reason == "BUNDLE_CORRUPT"
    assert why in failure.value.message


def test_an_archive_far_larger_than_a_bundle_is_refused_before_it_is_in_memory(
    cache_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 1 << 20)
    (tmp_path / "bomb").write_bytes(gzip.compress(b"\0" * (2 << 20)))
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "bomb", cache_dir)
    assert "more than 1 MiB" in failure.value.message
    with (tmp_path / "large").open("wb") as file:
        file.truncate(archive.MAX_ARCHIVE_BYTES + 1)
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "large", cache_dir)
    assert "larger than 64 MiB" in failure.value.message


def test_a_file_that_is_not_there_is_named(cache_dir, tmp_path):
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "missing", cache_dir)
    assert failure.value.reason == "FILE_NOT_HERE"
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path, cache_dir)
    assert failure.value.reason == "BUNDLE_CORRUPT"


def test_what_encode_writes_decode_reads(tmp_path):
    files = {
        "lib/x/y-1.0+z.py": b"",
        "lib/x.so": b"x" * 1000,
        "manifest.json": b"{}",
        "worker/main.py": b"y" * 512,
    }
    (tmp_path / "own").write_bytes(archive.encode(dict(reversed(files.items()))))
    assert archive.decode(tmp_path / "own") == files


@pytest.mark.parametrize("name", ["/x", "lib/../x", "x", "lib/", "lib//x", "manifest.json/x"])
def test_no_archive_is_written_with_a_name_that_would_be_refused(name):
    with pytest.raises(MoaiError) as failure:
        archive.encode({name: b""})
    assert failure.value.reason == "INTERNAL"
