"""Checks of the machine itself: login shell, locale, proxies, sshd's limits, disks.

Reads files and file system facts only. Refuses to show values that may be secret: of a proxy only
the host is named.
"""

import fnmatch
import os
import re
import urllib.parse
from typing import Dict, List, Optional, Tuple

from moai_worker import identity

from moai_agent import work
from moai_agent.checks.ground import MAKE_WORK_FOLDER, Check, Ground, listed, size
from moai_agent.downloads import existing
from moai_agent.environments.inspect import names_in, read_text

_GB = 10**9
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
#: A pip install or an unpacked dataset makes tens of thousands of files.
_FEW_INODES = 50000


def session(ground: Ground) -> List[Check]:
    """What a login brings along."""
    return [_login(ground), _locale(ground), _proxy(ground), _sshd(ground)]


def disks(ground: Ground) -> List[Check]:
    """Where files go."""
    return [_home(ground), _work_folder(ground), _disk(ground), _inodes(ground), _mounts(ground)]


# -- login -----------------------------------------------------------------------------------------


def _login(ground: Ground) -> Check:
    if ground.session.problem:
        return Check("login", "warning", ground.session.problem, "moai remote shell NAME (then look at its start-up files)")
    return Check("login", "ok", "the login shell gives %d variables" % len(ground.login))


def _locale(ground: Ground) -> Check:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = ground.login.get(name)
        if value:
            break
    else:
        return Check("locale", "ok", "none is set; jobs get LANG=C.UTF-8")
    if re.search(r"utf-?8", value, re.IGNORECASE):
        return Check("locale", "ok", "%s=%s" % (name, value))
    text = "%s=%s is not UTF-8: programs may fail to print or read other letters" % (name, value)
    return Check("locale", "warning", text, "moai remote run --on NAME --setenv LC_ALL=C.UTF-8 -- COMMAND")


def _proxy(ground: Ground) -> Check:
    found: Dict[str, str] = {}
    for key, value in sorted(ground.login.items()):
        if key.lower() in _PROXIES and value:
            found[key] = _host_of(value)
    if not found:
        return Check("proxy", "ok", "the login sets none")
    text = ", ".join("%s=%s" % pair for pair in found.items())
    if not ground.is_moai:
        return Check("proxy", "ok", text)
    text += " in the login environment: Moreh's tools and jobs that use the accelerator fail behind a proxy"
    remedy = "moai remote set NAME --proxy URL (downloads only), and take %s out of the login's start-up files"
    return Check("proxy", "warning", text, remedy % ", ".join(found))


def _host_of(url: str) -> str:
    """Host and port of a proxy; user and password stay out of sight."""
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else "http://" + url)
        return "%s://%s" % (parts.scheme, parts.netloc.rpartition("@")[2])
    except ValueError:
        return "(not a URL)"


# -- sshd ------------------------------------------------------------------------------------------


def _sshd(ground: Ground) -> Check:
    settings = _sshd_settings(ground)
    if settings is None:
        return Check("sshd", "skipped", "its settings cannot be read (/etc/ssh/sshd_config)")
    notes = []
    sessions = settings.get("maxsessions", "")
    if sessions.isdigit() and int(sessions) < 2:
        notes.append("MaxSessions %s: one command at a time on a connection; commands here share a link" % sessions)
    if settings.get("forcecommand", "none") != "none":
        notes.append("ForceCommand %s decides what a login may run" % settings["forcecommand"][:80])
    alive, count = settings.get("clientaliveinterval", "0"), settings.get("clientalivecountmax", "3")
    if _seconds(alive) and count.isdigit() and int(count):
        notes.append("a silent connection is cut after %d s; jobs go on" % (_seconds(alive) * int(count)))
    if settings.get("maxstartups", "").split(":")[0] in ("1", "2", "3"):
        notes.append("MaxStartups %s: logins that come at once are refused" % settings["maxstartups"])
    hard = any(note.startswith(("ForceCommand", "MaxStartups")) for note in notes)
    text = "; ".join(notes) or "no limit that matters here"
    return Check("sshd", "warning" if hard else "ok", text, "moai remote disconnect NAME (ends the shared link)" if hard else "")


def _sshd_settings(ground: Ground) -> Optional[Dict[str, str]]:
    """First value of each keyword outside Match blocks, as sshd_config(5) reads them; None when unreadable."""
    main = ground.at("/etc/ssh/sshd_config")
    if not os.access(main, os.R_OK):
        return None
    found: Dict[str, str] = {}
    _read_settings(ground, main, found, 0)
    return found


def _read_settings(ground: Ground, path: str, found: Dict[str, str], depth: int) -> None:
    for line in read_text(path).splitlines():
        word, _, value = line.strip().replace("=", " ", 1).partition(" ")
        key, value = word.lower(), value.strip()
        if key == "match":
            return
        if key == "include" and depth < 4:
            for name in _globbed(ground, value):
                _read_settings(ground, name, found, depth + 1)
        elif key and not key.startswith("#"):
            found.setdefault(key, value)


def _globbed(ground: Ground, patterns: str) -> List[str]:
    """Files of an Include: relative ones lie in /etc/ssh; only ``*`` in the last part is looked at."""
    found = []
    for pattern in patterns.split():
        folder, name = os.path.split(os.path.join("/etc/ssh", pattern))
        inside = ground.at(folder)
        found += [os.path.join(inside, one) for one in names_in(inside) if fnmatch.fnmatch(one, name)]
    return found


def _seconds(text: str) -> int:
    """A time of sshd_config(5): ``300``, ``5m``."""
    found = re.fullmatch(r"(\d{1,6})([smhSMH]?)", text)
    return int(found.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[found.group(2).lower()] if found else 0


# -- disks -----------------------------------------------------------------------------------------


def _free(path: str) -> Tuple[int, int]:
    """Bytes this user may still write, and bytes used and free together, as df(1) counts them."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize, (facts.f_blocks - facts.f_bfree + facts.f_bavail) * facts.f_frsize


def _on_network(path: str) -> str:
    kind = identity.mount_of(path)[1]
    return " on a network disk (%s)" % kind if identity.is_shared_type(kind) else ""


def _home(ground: Ground) -> Check:
    free, _ = _free(ground.home)
    text = "%s free in %s%s" % (size(free), ground.home, _on_network(ground.home))
    remedy = "moai remote run --on NAME -- du -xhd1 %s" % ground.home
    if not os.access(ground.home, os.W_OK | os.X_OK):
        return Check("home", "failed", "%s; it cannot be written to" % text, "moai remote shell NAME")
    if free < 2 * 10**8:
        return Check("home", "failed", text + ": logs and results of jobs would be cut", remedy)
    if free < 2 * _GB:
        return Check("home", "warning", text, remedy)
    return Check("home", "ok", text)


def _larger(folder: str) -> str:
    """The command that moves the work folder to the mount with most space, if another has more."""
    here = identity.mount_of(existing(folder))[0]
    for mount in work.writable_mounts():
        if mount.path != here and mount.free_bytes > 5 * _GB and not mount.type.startswith("tmpfs"):
            return "moai remote set NAME --work %s/moai-work (%s free)" % (mount.path.rstrip("/"), size(mount.free_bytes))
    return "moai remote run --on NAME -- du -xhd2 %s" % existing(folder)


def _work_folder(ground: Ground) -> Check:
    folder = there = ground.work
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        return Check("work folder", "failed", "%s cannot be written to (%s)" % (folder, there), _larger(folder))
    if not os.path.isdir(folder):
        text = "%s does not exist yet; the first job makes it" % folder
        return Check("work folder", "ok", text, "", MAKE_WORK_FOLDER, folder)
    return Check("work folder", "ok", folder + _on_network(folder))


def _disk(ground: Ground) -> Check:
    free, total = _free(existing(ground.work))
    text = "%s free in %s" % (size(free), ground.work)
    if total and free < total / 10:
        text += ", which is %.0f %% full" % (100 - 100 * free / total)
    plan, error = ground.plan()
    if error is not None:
        return Check("disk", "skipped", "%s; %s could not be sized: %s" % (text, ground.model, error.message), error.next)
    need = 0
    if plan is not None:
        # Weights once in the cache, and the trained model saved in fp32 beside them.
        need = plan.total_bytes * 3
        text += "; %s needs about %s (weights %s and the result)" % (ground.model, size(need), size(plan.total_bytes))
    if free < need:
        return Check("disk", "failed", text, _larger(ground.work))
    if free < 5 * _GB:
        return Check("disk", "warning", text, _larger(ground.work))
    if total and free < total / 10:
        return Check("disk", "warning", text, "moai remote disk --on NAME; moai remote clean --on NAME --dry-run")
    return Check("disk", "ok", text)


def _inodes(ground: Ground) -> Check:
    told = {}
    for path in (ground.home, existing(ground.work)):
        facts = os.statvfs(path)
        if facts.f_files:  # Some file systems make inodes as they need them and count none.
            told[identity.mount_of(path)[0]] = (facts.f_favail, facts.f_files)
    text = ", ".join("%d of %d free on %s" % (free, total, point) for point, (free, total) in told.items())
    lowest = min([free for free, _ in told.values()], default=_FEW_INODES)
    remedy = "moai remote run --on NAME -- du --inodes -xd2 %s" % ground.home
    if lowest < 1000:
        return Check("inodes", "failed", text + ": no new files can be made", remedy)
    if lowest < _FEW_INODES:
        return Check("inodes", "warning", text, remedy)
    return Check("inodes", "ok", text or "not counted by these file systems")


def _mounts(ground: Ground) -> Check:
    found = [m for m in work.writable_mounts() if not m.type.startswith("tmpfs")]
    if not found:
        return Check("mounts", "skipped", "no writable file system was found")
    shown = [
        "%s %s%s" % (m.path, size(m.free_bytes), " (%s)" % m.type if identity.is_shared_type(m.type) else "") for m in found
    ]
    return Check("mounts", "ok", listed(shown))
