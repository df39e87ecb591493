"""Runs on the container (Python 3.8+, standard library): unpack a bundle and switch to it.

Sent over the exec channel and executed there; never imported on the laptop. Reads one JSON line
``{"nonce", "digest", "size"}`` and ``size`` bytes from stdin, checks the SHA-256, unpacks to
``payload/<digest[:16]>``, and points ``hosts/<hostname>.dial`` at it. Idempotent and safe to run
many times at once (flock). Size 0 means: it is there already, only switch.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import sys
import tarfile

_MAX_MEMBERS = 20000
_MAX_BYTES = 512 * 1024 * 1024


def _private(path):
    if not os.path.isdir(path):
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            _private(parent)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
    if os.stat(path).st_uid != os.getuid():
        # Whoever owns it could put another agent in the place of ours.
        raise PermissionError(1, "folder belongs to another user", path)


def _receive(source, size, digest):
    running, parts, left = hashlib.sha256(), [], size
    while left:
        data = source.read(min(left, 1 << 20))
        if not data:
            raise ValueError("the transfer ended %d bytes early" % left)
        running.update(data)
        parts.append(data)
        left -= len(data)
    if running.hexdigest() != digest:
        raise ValueError("the bundle's digest does not match")
    return b"".join(parts)


def _unpack(data, folder):
    total = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for count, member in enumerate(archive):
            name = member.name
            total += member.size
            if count > _MAX_MEMBERS or total > _MAX_BYTES:
                raise ValueError("the bundle is larger than any of ours")
            if name.startswith("/") or ".." in name.split("/") or not (member.isfile() or member.isdir()):
                raise ValueError("the bundle holds a hostile name: %r" % name)
            path = os.path.join(folder, name)
            _private(path if member.isdir() else os.path.dirname(path))
            if member.isfile():
                with open(path, "wb") as out:
                    shutil.copyfileobj(archive.extractfile(member), out)
                os.chmod(path, 0o700 if member.mode & 0o100 else 0o600)


def _sync(folder, below=True):
    """Make it durable, with all below: after a power cut a payload that has its name must have its bytes."""
    for path, _, names in os.walk(folder) if below else [(folder, [], [])]:
        for name in names + ["."]:
            fd = os.open(os.path.join(path, name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _write(path, text):
    temp = "%s.%d" % (path, os.getpid())
    with open(temp, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temp, path)


def _install(home, header):
    payloads = os.path.join(home, "payload")
    hosts = os.path.join(home, "hosts")
    for folder in (home, payloads, hosts):
        _private(folder)
    name = header["digest"][:16]
    target = os.path.join(payloads, name)
    lock = os.open(os.path.join(payloads, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        if header["size"]:
            data = _receive(sys.stdin.buffer, header["size"], header["digest"])
            if not os.path.isdir(target):
                temp = os.path.join(payloads, ".new-" + name)
                shutil.rmtree(temp, ignore_errors=True)
                try:
                    _private(temp)
                    _unpack(data, temp)
                    _sync(temp)
                    os.rename(temp, target)
                    _sync(payloads, False)
                finally:
                    shutil.rmtree(temp, ignore_errors=True)
        if not os.path.isfile(os.path.join(target, "worker", "relay.py")):
            raise ValueError("the bundle is not there")
        pointer = os.path.join(hosts, socket.gethostname() + ".dial")
        _write(pointer, "%s\n%s\n" % (sys.executable, name))
    finally:
        os.close(lock)


def main():
    os.umask(0o077)
    header = json.loads(sys.stdin.buffer.readline().decode())
    home = os.path.abspath(os.path.expanduser(os.environ.get("MOAI_HOME") or "~/.moai"))
    answer = {"ok": True}
    try:
        _install(home, header)
    except OSError as error:
        full = error.errno in (28, 122)
        answer = {
            "ok": False,
            "reason": "DISK_FULL" if full else "HOME_NOT_WRITABLE",
            "message": "%s: %s" % (error.filename or home, error.strerror),
        }
    except (ValueError, tarfile.TarError) as error:
        answer = {"ok": False, "reason": "BUNDLE_CORRUPT", "message": str(error)}
    sys.stdout.write("MOAI1 %s %s\n" % (header["nonce"], json.dumps(answer)))
    sys.stdout.flush()


main()
