"""Reading sources: splits found, rows in order, a bad row named by file and line (no library needed)."""

import json
import os

import pytest
from fakes.news import news, write_jsonl
from moai_worker.datasource import open_source, source_digest
from moai_worker.errors import StepError


def _rows(split):
    return [row for _, _, row in split.read(split.columns)]


def _error(path, **options):
    with pytest.raises(StepError) as caught:
        for split in open_source(str(path), **options).splits.values():
            _rows(split)
    return caught.value


def test_json_lines_with_bom_blank_lines_and_no_last_newline(tmp_path):
    path = tmp_path / "naïve file.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}\n\n{"a": "2"}')
    split = open_source(str(path)).splits["train"]
    assert (split.rows, split.columns) == (2, ["a"])
    assert list(split.read(["a"])) == [(str(path), 1, {"a": "é"}), (str(path), 3, {"a": "2"})]
    assert _rows(split) == _rows(split)


@pytest.mark.parametrize(
    "name, raw, line, words",
    [
        ("x.jsonl", b'{"a": 1}\n{"a": \n', "2", "not JSON"),
        ("x.jsonl", b'{"a": 1}\n\n[1]\n', "3", "list instead of an object"),
        ("x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "2", "neither UTF-8"),
        ("x.csv", b"a,b\n1,2\n3\n", "3", "1 fields instead of 2"),
        ("x.csv", b'a,b\n1,"2\n', "2", "not CSV"),
        ("x.csv", b"a,a\n1,2\n", "1", "repeated column"),
        ("x.json", b'{"a": 1}\n{"b"\n', "2", "not JSON"),
        ("x.json", b'[{"a": 1},\n 2 3]', "2", "not JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, name, raw, line, words):
    (tmp_path / name).write_bytes(raw)
    error = _error(tmp_path / name)
    assert error.reason == "DATASET_INVALID" and words in error.message
    assert error.details == {"file": str(tmp_path / name), "line": line}
    assert "{}, line {}:".format(tmp_path / name, line) in error.message


def test_csv_fields_may_hold_newlines_commas_and_long_texts(tmp_path):
    long = "x" * 300000
    path = tmp_path / "x.csv"
    path.write_bytes('article,highlights\r\n"one,\ntwo",{}\r\n'.format(long).encode("ascii"))
    split = open_source(str(path)).splits["train"]
    assert split.rows == 1 and _rows(split) == [{"article": "one,\ntwo", "highlights": long}]


def test_tsv_and_text(tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\n1\t2,3\n")
    (tmp_path / "x.txt").write_text("first\n\n second \n")
    assert _rows(open_source(str(tmp_path / "x.tsv")).splits["train"]) == [{"a": "1", "b": "2,3"}]
    assert _rows(open_source(str(tmp_path / "x.txt")).splits["train"]) == [
        {"text": "first"},
        {"text": " second "},
    ]


@pytest.mark.parametrize(
    "document, splits",
    [
        ([{"a": 1}, {"a": 2}], {"train": 2}),
        ({"data": [{"a": 1}]}, {"train": 1}),
        ({"train": [{"a": 1}], "dev": [{"a": 2}]}, {"train": 1, "validation": 1}),
        ({"a": 1}, {"train": 1}),
    ],
)
def test_json_documents(tmp_path, document, splits):
    (tmp_path / "x.json").write_text(json.dumps(document))
    assert {name: s.rows for name, s in open_source(str(tmp_path / "x.json")).splits.items()} == splits


def test_json_lines_named_json_are_understood(tmp_path):
    write_jsonl(str(tmp_path / "x.json"), 3)
    assert _rows(open_source(str(tmp_path / "x.json")).splits["train"]) == news(3)


def test_a_folder_gives_splits_by_file_name(tmp_path):
    (tmp_path / "val").mkdir()
    write_jsonl(str(tmp_path / "train-00000-of-00002.jsonl"), 3, seed=1)
    write_jsonl(str(tmp_path / "train-00001-of-00002.jsonl"), 2, seed=2)
    write_jsonl(str(tmp_path / "val" / "part.jsonl"), 4)
    write_jsonl(str(tmp_path / "my_test.jsonl"), 1)
    (tmp_path / "README.md").write_text("# about")
    (tmp_path / "notes.txt").write_text("not a row")
    (tmp_path / ".cache").mkdir()
    write_jsonl(str(tmp_path / ".cache" / "train.jsonl"), 9)
    splits = open_source(str(tmp_path)).splits
    assert {name: split.rows for name, split in splits.items()} == {"train": 5, "validation": 4, "test": 1}
    assert _rows(splits["train"]) == news(3, seed=1) + news(2, seed=2)


def test_a_configuration_can_be_a_folder(tmp_path):
    (tmp_path / "3.0.0").mkdir()
    (tmp_path / "1.0.0").mkdir()
    write_jsonl(str(tmp_path / "3.0.0" / "train.jsonl"), 3)
    write_jsonl(str(tmp_path / "1.0.0" / "train.jsonl"), 1)
    assert open_source(str(tmp_path), config="3.0.0").splits["train"].rows == 3
    assert "1.0.0, 3.0.0" in _error(tmp_path, config="2.0.0").message


def test_missing_empty_and_unknown_sources_are_told_apart(tmp_path):
    assert _error(tmp_path / "no.jsonl").reason == "FILE_NOT_FOUND"
    for name in ("x.jsonl", "x.csv", "x.json", "x.txt"):
        (tmp_path / name).write_bytes(b"a,b\n" if name == "x.csv" else b"\n")
        assert _error(tmp_path / name).reason == "DATASET_EMPTY", name
    (tmp_path / "x.xlsx").write_bytes(b"?")
    assert _error(tmp_path / "x.xlsx").reason == "DATASET_INVALID"
    (tmp_path / "folder").mkdir()
    assert "no data files" in _error(tmp_path / "folder").message


def test_a_dataset_script_is_not_run_unless_trusted(tmp_path):
    (tmp_path / "load.py").write_text("open('ran','w')\nclass B(GeneratorBasedBuilder): pass\n")
    write_jsonl(str(tmp_path / "train.jsonl"), 3)
    assert "own script load.py" in _error(tmp_path).message


def test_the_digest_follows_the_data_and_the_commit(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(str(path), 3)
    first = source_digest(str(path))
    assert first == source_digest(str(path)) == open_source(str(path)).digest
    os.utime(str(path), ns=(1, 1))
    assert source_digest(str(path)) != first
    snapshot = tmp_path / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    write_jsonl(str(snapshot / "train.jsonl"), 3)
    pinned = source_digest(str(snapshot))
    os.utime(str(snapshot / "train.jsonl"), ns=(1, 1))
    assert pinned == source_digest(str(snapshot)) and pinned.startswith("commit:" + "a" * 40)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.txt"])
def test_cp949_is_told_from_utf_8_and_a_mixture_is_placed(tmp_path, name):
    korean = "서울의 도서관에서 책을 읽었습니다"
    lines = {
        "x.jsonl": ['{"a": "%s %d"}' % (korean, n) for n in range(4)],
        "x.json": ["["] + ['{"a": "%s %d"}%s' % (korean, n, "," if n < 3 else "") for n in range(4)] + ["]"],
        "x.csv": ["a"] + ["%s %d" % (korean, n) for n in range(4)],
        "x.txt": ["%s %d" % (korean, n) for n in range(4)],
    }[name]
    path = tmp_path / name
    column = "text" if name == "x.txt" else "a"
    for encoding, note in (("utf-8", ""), ("utf-8-sig", "BOM"), ("cp949", "CP949")):
        path.write_bytes("\n".join(lines).encode(encoding))
        split = open_source(str(path)).splits["train"]
        assert [row[column] for _, _, row in split.read([column])] == ["%s %d" % (korean, n) for n in range(4)]
        assert split.rows == 4 and ([note] if note else []) == [word for word in ("BOM", "CP949") for one in split.notes if word in one]
    for foreign, others, at in (("cp949", "utf-8", 3), ("utf-8", "cp949", 3)):
        raw = [line.encode(others) for line in lines]
        raw[at - 1] = lines[at - 1].encode(foreign)
        path.write_bytes(b"\n".join(raw))
        error = _error(path)
        assert error.reason == "DATASET_INVALID" and "line 3" in error.message and "EUC-KR" in error.message, error.message
    path.write_bytes("\n".join(lines).encode("utf-16"))
    assert "UTF-16" in _error(path).message


def test_only_the_rows_wanted_are_read(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("".join('{"a": "%s%d"}\n\n' % (name, n) for n in range(3)))
    split = open_source(str(tmp_path)).splits["train"]
    wanted = bytearray([0, 1, 0, 0, 0, 1])
    assert [row["a"] for _, _, row in split.read(["a"], wanted)] == ["a.jsonl1", "b.jsonl2"]
