# Sourced by the other scripts: a virtual environment with this project's packages, made only where none is active.
# Usage: source scripts/setup.sh [extra,extra]; `report`, for the page that the quickstart ends with, is always installed.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    python=""
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "error: Python 3.11 or newer is needed, and neither ${PYTHON:-python3} nor python3.11 to 3.13 is; set PYTHON=/path/to/python" >&2
        exit 2
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv || exit 2
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
# Installed again only when what is asked for has changed.
wanted="$(cat pyproject.toml; echo "${1:-}")"
stamp="$VIRTUAL_ENV/.swin-installed${1:+-${1//,/-}}"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "Installing into $VIRTUAL_ENV (a few minutes the first time)"
    python -m pip install --quiet --disable-pip-version-check -e ".[report${1:+,$1}]" || exit 2
    printf '%s' "$wanted" >"$stamp"
fi
