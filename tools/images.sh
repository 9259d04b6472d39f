#!/usr/bin/env bash
# The container images: build them, show their sizes, list their contents.
#
#   tools/images.sh build TARGET...    LLAMA_CPU=all|v3|native, TORCH_INDEX=URL, CUDA_ARCHS='80;90', WHEELS=DIR of torch wheels
#   tools/images.sh sizes              a table of the existing images
#   tools/images.sh contents [TARGET]  every Debian and Python package of an image, with its version and licence
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly TARGETS=(train-cpu export serve train serve-cuda)
IMAGES=${IMAGES:-burnish}
BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm}

there() { docker image inspect "$1" >/dev/null 2>&1; }
megabytes() { docker image inspect --format '{{.Size}}' "$1" | awk '{printf "%.0f", $1 / 1e6}'; }

build() {
  local target options=(--build-arg "BASE_IMAGE=$BASE_IMAGE") name
  # images contain no git, but their records name the commit they were built from
  BURNISH_COMMIT=${BURNISH_COMMIT:-$(git describe --always --dirty --abbrev=40 --match=- 2>/dev/null || true)}
  for name in LLAMA_CPU TORCH_INDEX CUDA_ARCHS BURNISH_COMMIT; do
    [ -z "${!name:-}" ] || options+=(--build-arg "$name=${!name}")
  done
  [ -z "${WHEELS:-}" ] || options+=(--build-context "wheels=$WHEELS")
  for target in "$@"; do
    echo "images: $IMAGES-$target" >&2
    docker build "${options[@]}" --target "$target" --tag "$IMAGES-$target" .
  done
}

sizes() {
  local target base; base=$(megabytes "$BASE_IMAGE")
  echo "| image | MB | added to its base ($base MB) |"; echo "|---|---|---|"
  for target in "${TARGETS[@]}"; do
    there "$IMAGES-$target" || continue
    echo "| $target | $(megabytes "$IMAGES-$target") | $(($(megabytes "$IMAGES-$target") - base)) |"
  done
}

contents() {
  local target
  for target in "$@"; do
    there "$IMAGES-$target" || { echo "$IMAGES-$target does not exist; build it with make images"; continue; }
    echo "# $IMAGES-$target: kind, name, version, licence"
    docker run --rm --network none --entrypoint dpkg-query "$IMAGES-$target" --show --showformat 'deb ${Package} ${Version} -\n'
    docker run --rm --network none --entrypoint python "$IMAGES-$target" -c '
from importlib.metadata import distributions
for d in sorted(distributions(), key=lambda d: d.name.lower()):
    m = d.metadata
    kinds = [c.split(" :: ")[-1] for c in m.get_all("Classifier", []) if c.startswith("License ::")]
    print("python", d.name, d.version, m.get("License-Expression") or ", ".join(kinds) or (m.get("License") or "-").split("\n")[0][:60])'
  done
}

command=${1:-}; [ $# -eq 0 ] || shift
case $command in
  build) build "$@" ;;
  sizes) sizes ;;
  contents) [ $# -gt 0 ] && contents "$@" || contents "${TARGETS[@]}" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
