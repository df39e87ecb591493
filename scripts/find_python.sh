#!/bin/sh
# Print the path of a working interpreter of one of the versions named, best first; exit 1 if none.
# Usage: scripts/find_python.sh 3.11 3.12 ... (a pyenv shim whose version is not active does not count)
for version in "$@"; do
    for candidate in "python$version" "$HOME"/.pyenv/versions/"$version"*/bin/python"$version" \
        /usr/bin/python"$version" /usr/local/bin/python"$version" /opt/python/"$version"*/bin/python"$version"; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if "$path" -c 'import ssl, venv' 2>/dev/null; then
            "$path" -c 'import sys; print(sys.executable)'
            exit 0
        fi
    done
done
exit 1
