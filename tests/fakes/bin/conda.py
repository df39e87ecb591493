"""Fake ``conda`` over the folders of a look-alike home: the subcommands that read, and ``create``.

``create`` makes a real virtual environment of this Python that looks like conda's, with pip where it
is asked for. As the real one does (conda/cli/main_create.py), ``-y`` removes an environment that is
there and goes on in a folder that is none.
"""

import json
import os
import re
import shutil
import subprocess
import sys


def environments(base):
    folder = os.path.join(base, "envs")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [("base", base)] + [(name, os.path.join(folder, name)) for name in names]


def env_list(base, as_json):
    if as_json:
        print(json.dumps({"envs": [prefix for _, prefix in environments(base)]}, indent=2))
        return 0
    print("# conda environments:\n#")
    active = os.environ.get("CONDA_PREFIX", "")
    for name, prefix in environments(base):
        print("{:<23}{} {}".format(name, "*" if prefix == active else " ", prefix))
    print()
    return 0


def packages(prefix):
    lib = os.path.join(prefix, "lib")
    for python in sorted(os.listdir(lib)) if os.path.isdir(lib) else []:
        site = os.path.join(lib, python, "site-packages")
        for entry in sorted(os.listdir(site)) if os.path.isdir(site) else []:
            found = re.match(r"(.+?)-(\d[^-]*)\.dist-info$", entry)
            if found:
                yield found.groups()


def package_list(base, words):
    prefix = os.environ.get("CONDA_PREFIX") or base
    if "-n" in words[:-1]:
        prefix = dict(environments(base)).get(words[words.index("-n") + 1], "")
        words = words[: words.index("-n")] + words[words.index("-n") + 2 :]
    if not os.path.isdir(prefix):
        sys.stderr.write("\nEnvironmentLocationNotFound: Not a conda environment: {}\n\n".format(prefix))
        return 1
    pattern = next((word for word in words if not word.startswith("-")), "")
    print("# packages in environment at {}:\n#".format(prefix))
    print("# {:<23} {:<23} {:>15}  Channel".format("Name", "Version", "Build"))
    for name, version in packages(prefix):
        if re.search(pattern, name):
            print("{:<25} {:<23} {:>15}  pypi".format(name, version, "pypi_0"))
    return 0


def create(base, words):
    """``create -y [-q] (-n NAME | -p PREFIX) python=3.8 pip``; whatever version is asked, this Python's."""
    prefix = option(words, "-p") or os.path.join(base, "envs", option(words, "-n") or "")
    if "-y" not in words:
        sys.stderr.write("CondaSystemExit: Exiting.\n")
        return 1
    if os.path.isdir(os.path.join(prefix, "conda-meta")):
        print("Removing existing environment {}".format(prefix))
        shutil.rmtree(prefix)
    wanted = next((word for word in words if word.startswith("python=")), "python=" + "{}.{}".format(*sys.version_info))
    if wanted == "python=3.99":
        sys.stderr.write("\nPackagesNotFoundError: The following packages are not available: python=3.99\n\n")
        return 1
    words_of_venv = [] if "pip" in words else ["--without-pip"]
    subprocess.check_call([sys.executable, "-I", "-m", "venv", prefix] + words_of_venv)
    os.makedirs(os.path.join(prefix, "conda-meta"))
    with open(os.path.join(prefix, "conda-meta", "history"), "w") as file:
        file.write("==> 2024-06-01 10:00:00 <==\n# cmd: conda {}\n".format(" ".join(words)))
    with open(os.path.join(os.path.expanduser("~"), ".conda", "environments.txt"), "a") as file:
        file.write(prefix + "\n")
    print("#\n# To activate this environment, use\n#\n#     $ conda activate {}".format(os.path.basename(prefix)))
    return 0


def env_create(base, words):
    """``env create -p PREFIX -f FILE``: the dependencies are listed, not installed."""
    path = option(words, "-f")
    if not path or not os.path.isfile(path):
        sys.stderr.write("\nEnvironmentFileNotFound: '{}' file not found\n\n".format(path))
        return 1
    with open(path) as file:
        text = file.read()
    print("Collecting package metadata: done\n{}".format(text))
    return create(base, ["-y", "-p", option(words, "-p"), "python", "pip"])


def option(words, name):
    return words[words.index(name) + 1] if name in words[:-1] else None


def main(base, words):
    if words[:1] == ["create"]:
        return create(base, words[1:])
    if words[:2] == ["env", "create"]:
        return env_create(base, words[2:])
    if words[:2] == ["env", "list"] or words[:2] == ["info", "--envs"] or words[:2] == ["info", "-e"]:
        return env_list(base, "--json" in words)
    if words[:2] == ["info", "--base"]:
        print(base)
        return 0
    if words[:1] == ["list"]:
        return package_list(base, words[1:])
    if words[:1] in (["--version"], ["-V"]):
        print("conda 24.4.0")
        return 0
    if words[:1] in (["activate"], ["deactivate"]):
        sys.stderr.write("\nCondaError: Run 'conda init' before 'conda {}'\n\n".format(words[0]))
        return 1
    sys.stderr.write(
        "usage: conda [-h] [-v] [-V] command ...\nconda: error: invalid choice: {}\n".format(words[:1])
    )
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
