# Sourced by tools/quickstart and tools/test: makes .venv if there is none and installs the project into it, with the
# versions of tools/constraints.txt. Installs again only when what is to be installed has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

install_project() { # install_project EXTRAS, for example "[test]" or ""
    local python=${PYTHON:-python3} wanted
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "spin-pipe needs Python 3.11 or newer; $python is $("$python" --version). Set PYTHON=…" >&2
        exit 1
    }
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    wanted="$1 $(cat setup.cfg pyproject.toml tools/constraints.txt | cksum)"
    if [ "$(cat ".venv/installed$1" 2>/dev/null)" != "$wanted" ]; then
        echo "+ installing into .venv (once)"
        # torch first and by its exact version: a range would fetch the largest build there is.
        .venv/bin/pip install --quiet --disable-pip-version-check "$(grep '^torch==' tools/constraints.txt)"
        .venv/bin/pip install --quiet --disable-pip-version-check -c tools/constraints.txt -e ".$1"
        echo "$wanted" >".venv/installed$1"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}
