#!/usr/bin/env bash
# The container images: build them, show their sizes, list their contents.
#
#   tools/images.sh build TARGET...    LLAMA_CPU=all|v3|native, TORCH_INDEX=URL, CUDA_ARCHS='80;90', WHEELS=DIR of torch wheels
#   tools/images.sh push TARGET...     to the registry that IMAGES names (IMAGES=registry/owner/name IMAGE_TAG=version)
#   tools/images.sh compose            compose.yaml with the names IMAGES and IMAGE_TAG as its defaults
#   tools/images.sh sizes              a table of the existing images
#   tools/images.sh contents [TARGET]  every Debian and Python package of an image, with its version and licence
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly TARGETS=(train-cpu export serve train serve-cuda)
IMAGES=${IMAGES:-burnish}
BASE_IMAGE=${BASE_IMAGE:-$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)}

image() { echo "$IMAGES-$1:${IMAGE_TAG:-latest}"; }
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
    echo "images: $(image "$target")" >&2
    docker build "${options[@]}" --target "$target" --tag "$(image "$target")" .
  done
}

push() {
  local target
  for target in "$@"; do docker push "$(image "$target")"; done
}

compose() {
  local name=${IMAGES,,}
  sed -e "s#\${IMAGES:-[^}]*}#\${IMAGES:-$name}#" -e "s#\${IMAGE_TAG:-[^}]*}#\${IMAGE_TAG:-${IMAGE_TAG:-latest}}#" compose.yaml
}

sizes() {
  local target base; base=$(megabytes "$BASE_IMAGE")
  echo "| image | MB | added to its base ($base MB) |"; echo "|---|---|---|"
  for target in "${TARGETS[@]}"; do
    there "$(image "$target")" || continue
    echo "| $target | $(megabytes "$(image "$target")") | $(($(megabytes "$(image "$target")") - base)) |"
  done
}

contents() {
  local target
  for target in "$@"; do
    there "$(image "$target")" || { echo "$(image "$target") does not exist; build it with make images"; continue; }
    echo "# $(image "$target"): kind, name, version, licence"
    docker run --rm --network none --entrypoint dpkg-query "$(image "$target")" --show --showformat 'deb ${Package} ${Version} -\n'
    docker run --rm --network none --entrypoint python "$(image "$target")" -c '
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
  push) push "$@" ;;
  compose) compose ;;
  sizes) sizes ;;
  contents) [ $# -gt 0 ] && contents "$@" || contents "${TARGETS[@]}" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
