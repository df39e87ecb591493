"""The flavor menu of ``moreh-switch-model`` and ``moreh-smi device``, and what the tools say of success.

Owns the texts (Moreh's guides for 22.x to 25.1: numbered items, a star after the current one, a prompt
without line end). Menu numbers are not stable between servers, so choices are made by flavor name and
the number is only looked up. Pure functions; no processes.
"""

import re
from typing import List, NamedTuple, Optional

PROMPT = re.compile(r"Selection \((\d+)-(\d+), q, Q\):[ \t]*")
_CURRENT = re.compile(r"^Current (?P<name>.+?): (?P<flavor>\S+)(?: at (?P<group>\S+))?$")
_ITEM = re.compile(r"^\s*(\d+)\.\s+(?P<flavor>[^\s*]+)(?:\s+(?P<group>[^\s*]+))?\s*(?P<star>\*)?\s*$")
_SWITCHED = re.compile(r'The (?P<name>.+?) (?:model|flavor) is successfully switched to\s+"(?P<flavor>[^"]+)"')
_IN_USE = re.compile(r"cannot be switched while|device is in use", re.IGNORECASE)
_LIMIT = re.compile(r"number of devices is limited|limited to \d+|maximum number", re.IGNORECASE)
_DONE = re.compile(r"(create|remove|switch current) device success\.", re.IGNORECASE)
_RELEASED = re.compile(r"Device release success\.")
_NOT_RUNNING = re.compile(r"Not running job")


class Item(NamedTuple):
    """One line of the menu."""

    number: int
    flavor: str
    group: str
    is_current: bool


class Menu(NamedTuple):
    """A menu as printed: the accelerator's name, its flavor, and the choices."""

    name: str
    current: str
    items: List[Item]


def parse_menu(text: str) -> Menu:
    """The last menu in ``text``; no items when there is none."""
    name = current = ""
    items: List[Item] = []
    for line in text.splitlines():
        line = line.strip()
        head = _CURRENT.match(line)
        if head:
            name, current, items = head.group("name"), head.group("flavor"), []
            continue
        item = _ITEM.match(line)
        if item:
            number = int(item.group(1))
            if number == 1:
                items = []
            items.append(Item(number, item.group("flavor"), item.group("group") or "", bool(item.group("star"))))
    if not current:
        current = next((item.flavor for item in items if item.is_current), "")
    return Menu(name, "" if current == "-" else current, items)


def size_word(flavor: str) -> str:
    """``4xLarge.2048GB``, ``4xlarge`` and ``4xLarge.2048`` name one size; so does V2's number alone."""
    return re.sub(r"\.\d+(?:\s*gb)?$", "", flavor.strip().lower())


def same_flavor(one: str, other: str) -> bool:
    """Whether two spellings name one flavor; a size in GB, where both have one, must agree too."""
    if one.strip().lower() == other.strip().lower():
        return True
    sizes = [re.search(r"\.(\d+)", text) for text in (one, other)]
    if all(sizes) and sizes[0].group(1) != sizes[1].group(1):  # type: ignore[union-attr]
        return False
    return size_word(one) == size_word(other)


def find(menu: Menu, flavor: str) -> Optional[Item]:
    """The item of a flavor: spelt exactly, else the only one of its size."""
    exact = [item for item in menu.items if item.flavor.lower() == flavor.strip().lower()]
    fits = exact or [item for item in menu.items if same_flavor(item.flavor, flavor)]
    return fits[0] if len(fits) == 1 else None


def switched_to(text: str) -> Optional[str]:
    """The flavor a switch was confirmed for."""
    found = _SWITCHED.search(text)
    return found.group("flavor") if found else None


def is_in_use(text: str) -> bool:
    """The tool refuses because a job holds the accelerator."""
    return bool(_IN_USE.search(text))


def is_at_limit(text: str) -> bool:
    """The token allows no more devices."""
    return bool(_LIMIT.search(text))


def is_done(text: str) -> bool:
    """Adding, removing or selecting a device succeeded; everything else counts as failure."""
    return bool(_DONE.search(text))


def release_outcome(text: str) -> str:
    """``released``, ``idle`` (nothing ran) or ``unknown``."""
    if _RELEASED.search(text):
        return "released"
    return "idle" if _NOT_RUNNING.search(text) else "unknown"
