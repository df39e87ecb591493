"""Find the splits of a dataset on the disk, whatever shape it has there.

Understood: one data file (see datafiles.py); a folder of them, whose splits follow from the file names as
the Hub documents it ("File names and splits": train, validation/valid/val/dev, test); a folder written by
``datasets.save_to_disk``; a downloaded Hub dataset whose README declares configurations, read by
``datasets.load_dataset``. Runs in the prepare step; datasets is imported only for the last two. Refuses the
network and, unless trusted, a dataset's own script.
"""

import hashlib
import os
import re
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from .datafiles import (
    BATCH_ROWS,
    KINDS,
    PlacedRow,
    Split,
    file_split,
    file_splits,
    joined,
    package_missing,
    split_of,
)
from .errors import StepError

_NOT_DATA = re.compile(
    r"^(readme|license|requirements|\.|_|dataset_infos|dataset_info|moai-dataset)", re.IGNORECASE
)
_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


class Source:
    """What ``open_source`` found: ``splits`` by name (at least one row in all) and ``digest``.

    ``digest`` is ``commit:<sha>`` inside a Hub cache's snapshot, else a hash of names, sizes and modification
    times: it changes when the data may have changed.
    """

    def __init__(self, splits: Dict[str, Split], digest: str) -> None:
        self.splits = splits
        self.digest = digest


def source_digest(path: str) -> str:
    """The digest of the source at ``path`` without reading its rows (see ``Source``).

    Raises:
        StepError: FILE_NOT_FOUND.
    """
    path = _existing(path)
    commit = _COMMIT.search(path)
    digest = hashlib.sha256()
    for file in _files_below(path) if os.path.isdir(path) else [path]:
        stat = os.stat(file)
        stamp = stat.st_size if commit else (stat.st_size, stat.st_mtime_ns)
        digest.update(repr((os.path.relpath(file, path), stamp)).encode("utf-8", "surrogateescape"))
    if commit:
        return "commit:{}:{}".format(commit.group(1), digest.hexdigest()[:16])
    return "files:" + digest.hexdigest()


def open_source(
    path: str,
    config: Optional[str] = None,
    cache_dir: Optional[str] = None,
    trust_remote_code: bool = False,
) -> Source:
    """Find the splits of the dataset at ``path``.

    Args:
        path: a file or folder on this machine.
        config: the configuration of a Hub dataset (``3.0.0`` for cnn_dailymail).
        cache_dir: where ``datasets`` may put its Arrow files; its own default when None.
        trust_remote_code: allow a dataset script inside the folder to run.

    Raises:
        StepError: FILE_NOT_FOUND, DATASET_INVALID, DATASET_EMPTY, PACKAGE_MISSING.
    """
    path = _existing(path)
    digest = source_digest(path)
    if os.path.isfile(path):
        kind = KINDS.get(os.path.splitext(path)[1].lower())
        if kind is None:
            raise StepError(
                "DATASET_INVALID",
                "{} is no file of a known kind ({})".format(path, ", ".join(sorted(KINDS))),
                "convert it to JSON lines: one object a line, ending in .jsonl",
            )
        splits = file_splits(path, kind)
    elif os.path.isfile(os.path.join(path, "dataset_dict.json")) or os.path.isfile(
        os.path.join(path, "state.json")
    ):
        splits = _saved_splits(path)
    elif _declares_configs(path) or _script(path):
        splits = _library_splits(path, config, cache_dir, trust_remote_code)
    elif config is not None:
        splits = _folder_splits(_config_folder(path, config))
    else:
        splits = _folder_splits(path)
    if not any(split.rows for split in splits.values()):
        raise StepError(
            "DATASET_EMPTY", "{} holds no rows".format(path), "check that the file was written completely"
        )
    return Source(splits, digest)


def _existing(path: str) -> str:
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise StepError(
            "FILE_NOT_FOUND",
            "there is no file or folder {} on this machine".format(path),
            "check the path (it is one of the container), or download the dataset first",
        )
    return path


def _files_below(folder: str) -> List[str]:
    found = []
    for base, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        found.extend(os.path.join(base, name) for name in names if os.path.isfile(os.path.join(base, name)))
    return sorted(found)


def _folder_splits(path: str) -> Dict[str, Split]:
    groups: Dict[str, List[Tuple[str, str]]] = {}
    kinds = set()
    for file in _files_below(path):
        stem, extension = os.path.splitext(os.path.relpath(file, path))
        kind = KINDS.get(extension.lower())
        if kind is None or _NOT_DATA.match(os.path.basename(file)):
            continue
        kinds.add("text" if kind == "text" else "records")
        groups.setdefault(
            split_of(os.path.basename(stem)) or split_of(os.path.dirname(stem)) or "train", []
        ).append((file, kind))
    if not groups:
        raise StepError(
            "DATASET_INVALID",
            "{} holds no data files ({})".format(path, ", ".join(sorted(KINDS))),
            "give the folder that holds the data files themselves",
        )
    if len(kinds) > 1:  # a stray notes.txt must not become training rows
        groups = {name: [entry for entry in files if entry[1] != "text"] for name, files in groups.items()}
    if len(groups) == 1 and len(list(groups.values())[0]) == 1 and "train" in groups:
        return file_splits(*groups["train"][0])
    return {
        name: joined(name, [file_split(file, kind, name) for file, kind in files])
        for name, files in groups.items()
        if files
    }


def _declares_configs(path: str) -> bool:
    """Whether the README's YAML head declares configurations (Hub docs, "Manual configuration")."""
    try:
        with open(os.path.join(path, "README.md"), encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 20)
    except OSError:
        return False
    head = re.match(r"\ufeff?---\s*\n(.*?)\n---", text, re.DOTALL)
    return bool(head and re.search(r"^configs:", head.group(1), re.MULTILINE))


def _script(path: str) -> Optional[str]:
    """The loading script of an old-style Hub dataset: a .py that defines a builder."""
    for name in sorted(os.listdir(path)):
        if name.endswith(".py") and os.path.isfile(os.path.join(path, name)):
            with open(os.path.join(path, name), encoding="utf-8", errors="replace") as file:
                if "GeneratorBasedBuilder" in file.read(1 << 20):
                    return name
    return None


def _config_folder(path: str, config: str) -> str:
    """Without declarations a configuration can only be a folder of that name (``3.0.0/train-...parquet``)."""
    folders = [name for name in sorted(os.listdir(path)) if os.path.isdir(os.path.join(path, name))]
    if config not in folders:
        raise StepError(
            "DATASET_INVALID",
            "{} has no configuration {!r}; its folders are {}".format(
                path, config, ", ".join(folders) or "none"
            ),
            "leave --config out, or name one of them",
        )
    return os.path.join(path, config)


def _import_datasets(purpose: str) -> Any:
    # Read by the libraries when they are imported; a local source must never wait for the network.
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        os.environ[name] = "1"
    try:
        import datasets
    except ImportError as error:
        raise package_missing("datasets", purpose, error) from error
    return datasets


def _saved_splits(path: str) -> Dict[str, Split]:
    datasets = _import_datasets("reading a folder of datasets.save_to_disk")
    try:
        loaded = datasets.load_from_disk(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepError(
            "DATASET_INVALID",
            "{} is no complete save_to_disk folder: {}".format(path, str(error)[:300]),
            "save it again, with the same version of datasets as here ({})".format(datasets.__version__),
        ) from error
    if isinstance(loaded, datasets.Dataset):
        loaded = {"train": loaded}
    return {name: _loaded_split(path, name, part) for name, part in loaded.items()}


def _library_splits(
    path: str, config: Optional[str], cache_dir: Optional[str], trust_remote_code: bool
) -> Dict[str, Split]:
    script = _script(path)
    if script and not trust_remote_code:
        raise StepError(
            "DATASET_INVALID",
            "{} is read by its own script {}, which was not run".format(path, script),
            "use a copy with parquet files, or allow the script with --trust-remote-code after reading it",
        )
    datasets = _import_datasets("reading a dataset with configurations")
    options: Dict[str, Any] = {"cache_dir": cache_dir}
    if script:
        options["trust_remote_code"] = True
    library_error = getattr(
        getattr(datasets, "exceptions", None), "DatasetsError", ValueError
    )  # not before 2.15
    try:
        loaded = datasets.load_dataset(path, config, **options)
    except OSError as error:
        if error.errno is not None:
            raise
        raise _library_error(path, config, error) from error
    except (ValueError, KeyError, TypeError, RuntimeError, library_error) as error:
        raise _library_error(path, config, error) from error
    return {name: _loaded_split(path, name, part) for name, part in loaded.items()}


def _library_error(path: str, config: Optional[str], error: BaseException) -> StepError:
    cause = error.__cause__ if error.__cause__ is not None else error
    return StepError(
        "DATASET_INVALID",
        "datasets cannot read {}{}: {}".format(
            path,
            " (configuration {!r})".format(config) if config else "",
            str(cause)[:400] or type(cause).__name__,
        ),
        "name another configuration with --config, or give the data files themselves",
    )


def _loaded_split(path: str, name: str, part: Any) -> Split:
    def read(columns: Sequence[str], wanted: Optional[bytearray] = None) -> Iterator[PlacedRow]:
        keep = [column for column in part.column_names if column in columns] or part.column_names[:1]
        narrow = part.select_columns(keep)
        for start in range(0, len(narrow), BATCH_ROWS):
            if wanted is not None and not any(wanted[start : start + BATCH_ROWS]):
                continue
            batch = narrow[start : start + BATCH_ROWS]
            for offset in range(len(batch[keep[0]])):
                if wanted is None or wanted[start + offset]:
                    yield path, start + offset + 1, {column: batch[column][offset] for column in keep}

    return Split(name, list(part.column_names), len(part), read)
