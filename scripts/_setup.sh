# Sourced by the other scripts: makes .venv if it is missing and installs the project into it.
# Usage: setup EXTRAS   (for example "" or "[test]")
setup() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    PYTHON=${PYTHON:-python3}
    if [ ! -x .venv/bin/python ]; then
        echo "== making .venv with $($PYTHON --version)"
        "$PYTHON" -m venv .venv
    fi
    stamp=.venv/.installed$1
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "== installing decomcam-bench$1 into .venv (the first time downloads torch: several GB, some minutes)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$1"
        touch "$stamp"
    fi
}
