M="${MOAI_HOME:-$HOME/.moai}"
case "$M" in "~/"*) M="$HOME/${M#??}";; esac
printf '\n%s\n' "MOAI-HOME$N $M"
ls "$M/payload" 2>/dev/null | while IFS= read -r d; do printf '%s\n' "MOAI-PAYLOAD$N $d"; done
S='
import sys, json, struct, platform
why = ""
if sys.version_info < (3, 8):
    why = "older than 3.8"
elif sys.version_info >= (3, 15):
    why = "newer than 3.14"
elif sys.implementation.name != "cpython":
    why = "not CPython"
elif getattr(sys, "abiflags", ""):
    why = "a free-threaded or debug build"
elif struct.calcsize("P") != 8:
    why = "32-bit"
try:
    import ssl, ctypes, hashlib, fcntl, resource
except ImportError as e:
    why = why or str(e)
ok = not why
import sysconfig, os
name, version = platform.libc_ver()
libc = "glibc" if name == "glibc" else "musl"
if libc == "musl":
    version = ""
    import glob
    for p in glob.glob("/lib/ld-musl-*.so.1"):
        import subprocess
        t = subprocess.run([p], stderr=subprocess.PIPE).stderr.decode("utf-8", "replace")
        version = t.partition("Version ")[2].split()[0] if "Version " in t else "1.1"
print("\nMOAI-PY" + "".join(sys.argv[1:]) + " " + json.dumps({"ok": str(int(ok)), "why": why, "executable": sys.executable,
  "python_version": platform.python_version(), "implementation": sys.implementation.name,
  "abiflags": getattr(sys, "abiflags", ""), "pointer_bits": str(struct.calcsize("P") * 8),
  "system": platform.system(), "machine": platform.machine(), "libc": libc, "libc_version": version}))
sys.exit(0 if ok else 1)
'
try() { [ -x "$1" ] && "$1" -I -S -c "$S" "$N" </dev/null 2>/dev/null; }
for n in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 python; do
  p=$(command -v "$n" 2>/dev/null) && try "$p" && exit 0
done
for p in /usr/bin/python3* /usr/local/bin/python3* "$HOME"/.local/bin/python3* \
  "$HOME"/miniconda3/bin/python3 "$HOME"/anaconda3/bin/python3 "$HOME"/miniforge3/bin/python3 "$HOME"/mambaforge/bin/python3 \
  /opt/conda/bin/python3 /opt/miniconda3/bin/python3 /opt/miniforge3/bin/python3 \
  "$HOME"/miniconda3/envs/*/bin/python3 "$HOME"/anaconda3/envs/*/bin/python3 "$HOME"/miniforge3/envs/*/bin/python3 \
  /opt/conda/envs/*/bin/python3 "$HOME"/.pyenv/versions/*/bin/python3; do
  try "$p" && exit 0
done
printf '%s\n' "MOAI-NONE$N"
