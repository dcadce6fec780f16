#!/usr/bin/env bash
# What has to hold before a commit: format, lint, types, shell scripts, documentation, tests.
#
#   bash scripts/check.sh            # all of it
#   bash scripts/check.sh --fast     # without the tests
#   bash scripts/check.sh --fix      # let ruff mend format and lint first; then all of it
#
# Every part runs, also after one failed; the exit code says whether all passed.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=yes
fix=no
for argument in "$@"; do
  case "$argument" in
    --fast) tests=no ;;
    --fix) fix=yes ;;
    *) echo "check.sh: unknown argument '$argument'; allowed: --fast, --fix" >&2; exit 2 ;;
  esac
done

bash scripts/install.sh
bin="${VENV:-.venv}/bin"
failed=()
part() {
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

if [ "$fix" = yes ]; then
  "$bin/python" -m ruff format .
  "$bin/python" -m ruff check --fix .
fi
mapfile -t shell_scripts < <(find . -name '*.sh' -not -path './.venv*' | sort)
part format "$bin/python" -m ruff format --check .
part lint "$bin/python" -m ruff check .
part types "$bin/python" -m mypy
part shell "$bin/shellcheck" "${shell_scripts[@]}" .ci/run
part docs bash scripts/docs.sh
if [ "$tests" = yes ]; then
  part tests bash scripts/test.sh
fi

if [ "${#failed[@]}" -gt 0 ]; then
  echo "check.sh: failed: ${failed[*]}" >&2
  exit 1
fi
echo "check.sh: all passed"
