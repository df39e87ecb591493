"""Which container this is, which start of it, and which process a pid means.

Owns the host id, the boot id and process identities. Linux only: facts come from proc(5). The relay imports this on
the path of every first command, so it loads neither typing nor OpenSSL (7 ms).
"""

from __future__ import annotations

import os

try:
    from _sha2 import sha256  # Python 3.12 and newer; as the standard library's random does.
except ImportError:
    try:
        from _sha256 import sha256
    except ImportError:
        from hashlib import sha256

from moai_worker import jobdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set, Tuple

    ProcessTable = Dict[int, Tuple[int, int, bytes]]

_CHUNK = 64 * 1024

# File systems that several containers may mount at once; a random file on one of these does not
# identify a container. Names as in /proc/filesystems and fuse(8) subtypes.
_SHARED_TYPES = ("nfs", "cifs", "smb", "fuse", "lustre", "ceph", "gluster", "beegfs", "gpfs", "9p", "afs")


def hostname() -> str:
    """The host name with everything but letters, digits, ``.`` and ``-`` replaced by ``-``."""
    name = os.uname().nodename or "container"
    return "".join(c if c.isalnum() and c.isascii() or c in ".-" else "-" for c in name)[:64].strip(".-") or "x"


def host_id(home: str) -> str:
    """``<hostname>-<8 hex>``; the hex comes from a random file on this container's own disk.

    The file lies in the state folder when that is on a local disk or was set by ``MOAI_HOME``
    (nothing is written outside it then), else in ``/var/tmp``, because containers that share an NFS
    home must not share an id. Creates the file on first use.
    """
    folder = os.path.join(home, "hosts")
    name = hostname()
    if _is_shared(home) and not os.environ.get("MOAI_HOME"):
        folder = shared_folder()
    jobdir.make_private(folder)
    path = os.path.join(folder, ".id-" + name)
    for _ in range(100):
        try:
            with open(path, "rb") as source:
                raw = source.read(64).strip()
            if len(raw) == 32:
                return name + "-" + sha256(raw).hexdigest()[:8]
        except FileNotFoundError:
            pass
        # Several starters may race: link(2) publishes a complete file for exactly one of them.
        temp = "%s.%d" % (path, os.getpid())
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, os.urandom(16).hex().encode())
            # A power cut must not leave a name without its bytes: that would be nobody's identity for ever.
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(temp, path)
            jobdir.sync_folder(folder)
        except FileExistsError:
            pass
        finally:
            os.unlink(temp)
    raise OSError("cannot keep an identity in " + path)


def shared_folder() -> str:
    """Where the identity lies when the home is shared by several containers."""
    return os.path.join("/var/tmp", "moai-%d" % os.getuid())


def _is_shared(path: str) -> bool:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return is_shared_type(mount_of(path)[1])


def is_shared_type(kind: str) -> bool:
    """Whether several containers may mount a file system of this type at once."""
    return kind.startswith(_SHARED_TYPES)


def mounts() -> List[Tuple[str, str]]:
    """(mount point, type) of every mount, in kernel order (proc(5), mountinfo)."""
    found = []
    with open("/proc/self/mountinfo", "rb") as source:
        for line in source:
            left, _, right = line.decode("utf-8", "replace").partition(" - ")
            point = left.split()[4].encode().decode("unicode_escape")
            found.append((point, right.split()[0] if right.split() else ""))
    return found


def mount_of(path: str) -> Tuple[str, str]:
    """Mount point and file system type that hold ``path``."""
    path = os.path.realpath(path)
    best = ("/", "")
    for point, kind in mounts():
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best


def boot_id() -> str:
    """Differs after every start of the machine or of the container (PID namespace).

    16 hex digits over the kernel's boot id, the PID namespace and the start time of PID 1.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as source:
            kernel = source.read().strip()
    except OSError:
        kernel = ""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    parts = (kernel, namespace, str(start_ticks(1)))
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def _stat_fields(pid: int) -> Optional[List[bytes]]:
    """Fields of /proc/PID/stat after the command (which may hold spaces and brackets)."""
    raw = _read("/proc/%d/stat" % pid)
    return raw[raw.rfind(b")") + 2 :].split() if raw else None


def _read(path: str) -> bytes:
    """A small file of proc(5); empty when it cannot be read. Every process is read at the end of every job: no file objects."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError, OverflowError):
        return b""
    try:
        data = part = os.read(fd, _CHUNK)
        while len(part) == _CHUNK:
            part = os.read(fd, _CHUNK)
            data += part
        return data
    except OSError:
        return b""  # It ended meanwhile, or is somebody else's.
    finally:
        os.close(fd)


def start_ticks(pid: int) -> Optional[int]:
    """Start time of a process in clock ticks since boot (proc(5), field 22); None if gone."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields and len(fields) > 19 else None


def is_alive(pid: int, ticks: Optional[int]) -> bool:
    """Whether exactly this process lives: same start time, and not a zombie."""
    fields = _stat_fields(pid) if pid > 0 else None
    if not fields or len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return False
    return ticks is None or int(fields[19]) == ticks


def process_table() -> ProcessTable:
    """pid -> (parent pid, start ticks, state letter) of every visible process."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat_fields(int(name))
            if fields and len(fields) > 19:
                table[int(name)] = (int(fields[1]), int(fields[19]), fields[0])
    return table


def descendants(root: int, table: Optional[ProcessTable] = None) -> Dict[int, int]:
    """pid -> start ticks of all living descendants of ``root``, not ``root`` itself.

    Args:
        table: what ``process_table`` has just found; read anew when None.
    """
    if table is None:
        table = process_table()
    children: Dict[int, List[int]] = {}
    for pid, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found: Dict[int, int] = {}
    stack = [root]
    while stack:
        for pid in children.get(stack.pop(), ()):
            if pid not in found and pid != root:
                stack.append(pid)
                if table[pid][2] not in (b"Z", b"X"):
                    found[pid] = table[pid][1]
    return found


def marked(marker: str, skip: Set[int], table: Optional[ProcessTable] = None, since_ticks: int = 0) -> Dict[int, int]:
    """pid -> start ticks of living processes whose environment holds ``marker`` (``NAME=value``).

    Finds what left the process tree (its supervisor died, or it was re-parented before).

    Args:
        table: as in ``descendants``.
        since_ticks: processes that started earlier are not looked into.
    """
    if table is None:
        table = process_table()
    needle = marker.encode("utf-8", "surrogateescape")
    found = {}
    for pid, (_, ticks, state) in table.items():
        if pid in skip or ticks < since_ticks or state in (b"Z", b"X"):
            continue
        if needle in _read("/proc/%d/environ" % pid).split(b"\0"):
            found[pid] = ticks
    return found


def describe(pid: int) -> Dict[str, Any]:
    """``{"pid", "start_ticks", "boot"}`` of a living process, as kept on disk."""
    return {"pid": pid, "start_ticks": start_ticks(pid), "boot": boot_id()}


def describes_living(value: Optional[Dict[str, Any]]) -> bool:
    """Whether the process ``describe`` recorded still lives in this start of the container."""
    if not value or value.get("boot") != boot_id():
        return False
    return is_alive(int(value.get("pid") or 0), value.get("start_ticks"))
