"""Fake ``update-moreh``: asks, then writes the new version into the active environment's torch.

Its answer to a bare line end is No, as the prompt's ``default:n`` says.
"""

import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import moai_state as moai


def torch_folder(prefix):
    """(site-packages, dist-info name or None) of the environment."""
    lib = os.path.join(prefix, "lib")
    for name in sorted(os.listdir(lib)) if os.path.isdir(lib) else []:
        site = os.path.join(lib, name, "site-packages")
        if os.path.isdir(site):
            infos = [one for one in sorted(os.listdir(site)) if re.match(r"torch-\d.*\.dist-info$", one)]
            return site, infos[0] if infos else None
    return None, None


def install(site, old, torch, target):
    """Replace torch's metadata; releases from 25 on carry no CUDA number."""
    local = {"1.7.1": "cu110.", "1.10.0": "cu111.", "1.13.1": "cu116."}.get(torch, "")
    version = "{}+{}moreh{}".format(torch, local, target)
    if old is not None:
        shutil.rmtree(os.path.join(site, old))
    new = os.path.join(site, "torch-{}.dist-info".format(version))
    os.makedirs(new, exist_ok=True)
    with open(os.path.join(new, "METADATA"), "w", encoding="utf-8") as file:
        file.write("Metadata-Version: 2.1\nName: torch\nVersion: {}\n".format(version))


def option(words, name, default):
    return words[words.index(name) + 1] if name in words[:-1] else default


def main(words):
    state = moai.load()
    moai.refuse_trouble(state)
    prefix = os.environ.get("CONDA_PREFIX", "")
    site, old = torch_folder(prefix)
    if site is None:
        sys.stderr.write("conda: command not found\n")
        return 1
    found = re.search(r"torch-(\d+\.\d+\.\d+)\+.*?moreh(\d+\.\d+\.\d+)", old or "")
    current = found.group(2) if found else ""
    target = option(words, "--target", state["latest"])
    torch = option(words, "--torch", found.group(1) if found else "1.13.1")
    if "--tensorflow" in words and torch != "1.7.1":
        print("update-moreh does not support tensorflow and torch>=1.10.0 at the same time")
        return 1
    if current == target and "--force" not in words:
        print("Already installed : {}".format(current))
        return 0
    if old is None:
        question = "Do you want to proceed? (y/n, default:n)"
    else:
        print("Currently installed: {}".format(current))
        print("Possible upgrading version: {}\n".format(target))
        question = "Do you want to upgrade? (y/n, default:n)"
    if moai.ask(question) not in ("y", "Y"):
        return 0
    print("\nMoreh Framework installation start...")
    install(site, old, torch, target)
    moai.change(lambda fresh: fresh.update(maf=target))
    print("Moreh Framework installation successful.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
