"""Fake ``conda``: the few subcommands that only read, over the folders of a look-alike home."""

import json
import os
import re
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


def main(base, words):
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
