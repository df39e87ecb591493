"""Tiny real wheels, built without any build tool, for installations without an index.

``build`` writes ``NAME-VERSION-py3-none-any.whl`` with one module that says its version
(PyPA binary distribution format). Runs on Python 3.8 or newer.
"""

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Sequence


def build(folder: Path, name: str, version: str, requires: Sequence[str] = ()) -> Path:
    """Write a wheel into ``folder`` (made when missing); returns its path.

    Args:
        requires: requirements of the package, as in its metadata.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = "{}-{}.dist-info".format(module, version)
    metadata = ["Metadata-Version: 2.1", "Name: {}".format(name), "Version: {}".format(version)]
    metadata += ["Requires-Dist: {}".format(one) for one in requires]
    files = {
        "{}/__init__.py".format(module): "__version__ = {!r}\n".format(version),
        "{}/METADATA".format(info): "\n".join(metadata) + "\n",
        "{}/WHEEL".format(info): "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += "{},sha256={},{}\n".format(path, digest, len(text.encode()))
    record += "{}/RECORD,,\n".format(info)
    path = folder / "{}-{}-py3-none-any.whl".format(module, version)
    with zipfile.ZipFile(str(path), "w") as wheel:
        for name_in, text in files.items():
            wheel.writestr(name_in, text)
        wheel.writestr("{}/RECORD".format(info), record)
    return path
