#!/usr/bin/env bash
# Build the documentation into build/site; a broken link is an error.
#
#   bash scripts/docs.sh            # build
#   bash scripts/docs.sh serve      # build, serve on http://127.0.0.1:8000, rebuild on changes
#
# The first run installs mkdocs and its theme (the extra `docs`); after that no network is needed.
set -euo pipefail
cd "$(dirname "$0")/.."

serve=no
case "${1:-}" in
  "") ;;
  serve) serve=yes; shift ;;
  *) echo "docs.sh: unknown argument '$1'; allowed: serve" >&2; exit 2 ;;
esac

python="${VENV:-.venv}/bin/python"
[ -x "$python" ] || bash scripts/install.sh
if ! "$python" -c 'import material, mkdocstrings' 2> /dev/null; then
  mapfile -t packages < <("$python" -c 'import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["optional-dependencies"]["docs"], sep="\n")')
  "$python" -m pip install -qq --disable-pip-version-check "${packages[@]}"
fi

export NO_MKDOCS_2_WARNING=1 # an advertisement of the theme's
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
if [ "$serve" = yes ]; then
  exec "$python" -m mkdocs serve --strict "$@"
fi
exec "$python" -m mkdocs build --strict --quiet
