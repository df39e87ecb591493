"""Make client/moai/_cli/ko.json: a Korean sentence a reason, taken from docs/errors.ko.md.

The page is the source; ``tests/test_docs.py`` fails when the file is not what this makes of it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

_REPO = Path(__file__).resolve().parents[1]
PAGE = _REPO / "docs" / "errors.ko.md"
TARGET = _REPO / "client" / "moai" / "_cli" / "ko.json"


def sentences(text: str) -> dict[str, str]:
    """Reason -> first sentence of its section."""
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("\n")
        bullet = re.search(r"^- (.*?)(?=\n- |\n\n|\Z)", body, flags=re.MULTILINE | re.DOTALL)
        if bullet is None:
            raise SystemExit(f"{PAGE}: {name} has no first line")
        line = " ".join(bullet.group(1).split())
        found[name.strip()] = re.split(r"(?<=[다요]\.) ", line)[0].replace("`", "")
    return found


def main() -> int:
    """Write the file."""
    made = json.dumps(sentences(PAGE.read_text(encoding="utf-8")), ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    TARGET.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
