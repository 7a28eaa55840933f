#!/usr/bin/env bash
# Fetches and unpacks the wheels of requirements/trt-bindings.txt, each in .tools/trt-bindings/<version>, for the
# interpreter in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
tools=.tools/trt-bindings
wanted="$(cat requirements/trt-bindings.txt; $python --version)"
if [ "$(cat "$tools/fetched.txt" 2> /dev/null)" = "$wanted" ]; then
  exit 0
fi
rm -rf "$tools"
mkdir -p "$tools"
grep -v '^#' requirements/trt-bindings.txt | while read -r pinned; do
  wheels="$tools/${pinned##*==}.wheel"
  $python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$wheels" "$pinned"
  $python -m zipfile -e "$wheels"/*.whl "$tools/${pinned##*==}"
  rm -rf "$wheels"
done
echo "$wanted" > "$tools/fetched.txt"
