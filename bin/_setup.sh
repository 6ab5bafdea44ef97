# Sourced by the scripts beside it. `setup [EXTRA...]` makes .venv ready; $root is the checkout, $venv its environment.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

setup() {
    local candidate
    for candidate in "$venv/bin/python" ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            "$candidate" "$root/bin/_setup.py" "$@"
            return
        fi
    done
    echo "deepvesicle needs Python 3.10, 3.11, 3.12 or 3.13. On Debian and Ubuntu: apt install python3 python3-venv" >&2
    return 1
}
