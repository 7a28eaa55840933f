#!/usr/bin/env bash
# Makes edge_agent/engines/letterbox.ptx from letterbox.cu with nvcc, for every GPU from Turing on: drivers compile PTX
# of an older compute capability for their own. The language version is set back to the first that knows Turing, so that
# the drivers of JetPack 6 read it too; a test has ptxas assemble the result for each compute capability of a target.
set -euo pipefail
cd "$(dirname "$0")/.."
source=edge_agent/engines/letterbox.cu
out="$(mktemp)"
trap 'rm -f "$out"' EXIT
nvcc -ptx -O3 -arch=compute_75 -o "$out" "$source"
{
  echo "// Made by scripts/ptx.sh from letterbox.cu. Do not edit."
  echo "// letterbox.cu sha256:$(sha256sum "$source" | cut -d ' ' -f 1)"
  sed -e '/^\/\//d' -e 's/^\.version .*/.version 6.3/' "$out"
} > edge_agent/engines/letterbox.ptx
