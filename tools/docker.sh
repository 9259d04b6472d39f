#!/usr/bin/env bash
# Run a stage in its container as on this machine: with the same arguments, settings and outputs.
#
#   tools/docker.sh where COMMAND   print "docker" or "local": where make runs COMMAND (set by RUNNER=auto|local|docker)
#   tools/docker.sh STAGE ARGS...   python -m STAGE ARGS, in a container   (STAGE: train, export, serve)
#
# Paths in the arguments, the --config file and BURNISH_<STAGE>_ variables are mounted at the same place, read-only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# the folders of the project that compose mounts; other paths are mounted for the run
readonly SEEN='data configs examples runs'
export IMAGES=${IMAGES:-burnish}

fail() { echo "error: $*" >&2; exit 2; }
has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && [ -n "$(nvidia-smi -L 2>/dev/null)" ]; }
engine() { docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; }
image() { echo "$IMAGES-$1:${IMAGE_TAG:-latest}"; }
there() { docker image inspect "$(image "$1")" >/dev/null 2>&1; }

service_of() {  # the compose service of a command or stage; with a GPU, the CUDA service
  case $1 in
    ship | train | check | plan) if has_gpu; then echo train; else echo train-cpu; fi ;;
    export | examine | push | card) echo export ;;
    serve | chat) if has_gpu; then echo serve-cuda; else echo serve; fi ;;
    *) fail "no container for '$1'; expected check, plan, train, export, examine, push, card, serve or chat" ;;
  esac
}

where() {
  local service; service=$(service_of "$1")
  case ${RUNNER:-auto} in
    local) echo local ;;
    docker) engine || fail "RUNNER=docker: no Docker engine with compose responds: start it, join the 'docker' group, or use RUNNER=local"
            echo docker ;;
    auto)
      if ! engine; then echo local
      elif there "$service"; then say docker "the image $(image "$service") exists"
      elif [ -e "${VENV:-.venv}/.llama" ]; then say local "${VENV:-.venv} is set up and the image $IMAGES-$service does not exist; RUNNER=docker builds it"
      else say docker "building $IMAGES-$service first; RUNNER=local runs without containers"
      fi ;;
    *) fail "RUNNER=$RUNNER: expected auto, local or docker" ;;
  esac
}
say() { echo "runner: $1: $2" >&2; echo "$1"; }

# ---- what the host must provide: the caller's folders, secret files, a free port --------------------------------------

own_folder() {  # $1 folder, $2 its purpose: create it, and fail if it is not writable
  [ -d "$1" ] || mkdir -p "$1" 2>/dev/null || fail "$1: can't be created; $2 needs it"
  [ -w "$1" ] || fail "$1: you can't write there (it belongs to $(stat -c %U "$1")); $2 needs it: sudo chown -R $(id -u):$(id -g) '$1'"
}

folders() {
  export HF_CACHE_DIR=${HF_CACHE_DIR:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}}
  export BURNISH_CACHE_DIR=${BURNISH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/burnish}
  [ "$1" = serve ] && { [ -d runs ] || mkdir runs; return; }
  own_folder runs "every stage"
  own_folder "$HF_CACHE_DIR" "the hub's cache"
  own_folder "$BURNISH_CACHE_DIR" "Burnish's cache"
  [ -d data ] || mkdir -p data
}

secret_files() {  # as files, never as variables of the container: secrets/NAME, otherwise the files of the caller's tools
  if [ -z "${HF_TOKEN_FILE:-}" ]; then
    if [ -f secrets/hf_token ]; then HF_TOKEN_FILE=$PWD/secrets/hf_token
    elif [ -n "${HF_TOKEN:-}" ]; then
      TOKEN_FOLDER=$(mktemp -d); trap 'rm -rf "$TOKEN_FOLDER"' EXIT
      HF_TOKEN_FILE=$TOKEN_FOLDER/hf_token
      (umask 077; printf %s "$HF_TOKEN" > "$HF_TOKEN_FILE")
    elif [ -f "$HF_CACHE_DIR/token" ]; then HF_TOKEN_FILE=$HF_CACHE_DIR/token
    fi
  fi
  export HF_TOKEN_FILE=${HF_TOKEN_FILE:-/dev/null}
  key_file
}
key_file() { [ -n "${API_KEYS_FILE:-}" ] || [ ! -f secrets/api_keys ] || export API_KEYS_FILE=$PWD/secrets/api_keys; }

keys_needed() {  # serve checks this too; here it fails before an image is built
  case ${PUBLISH:-127.0.0.1} in 127.* | localhost | ::1 | "[::1]") return 0 ;; esac
  [ -n "${API_KEYS_FILE:-}${BURNISH_SERVE_API_KEYS:-}" ] || [ "${BURNISH_SERVE_ALLOW_REMOTE:-}" = true ] \
    || fail "PUBLISH=$PUBLISH lets anyone who can reach this machine use the model: set API_KEYS_FILE=FILE to a file with one API key per line, or allow it with BURNISH_SERVE_ALLOW_REMOTE=true"
}

free_port() {
  ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || fail "port $1 is in use on this machine: choose another with PORT=$(($1 + 1))"
}

# ---- paths ------------------------------------------------------------------------------------------------------------

MOUNTS=()
mount_path() {  # $1 an argument that may be a path, $2 ro or rw: mount it at the same path, relative ones under /app
  local path=$1 mode=$2 source target
  case $path in "~/"*) path=$HOME/${path#"~/"} ;; esac
  case $path in -* | '' | /dev/* ) return ;; */*) ;; *) [ -f "$path" ] || return 0 ;; esac
  local above=$path
  while [ ! -e "$above" ] && [ "$above" != / ] && [ "$above" != . ]; do above=$(dirname "$above"); done
  [ ! -d "$above" ] || [ -x "$above" ] || fail "$path: you can't read it, because you can't enter $above: change its mode or owner"
  [ -e "$path" ] || return 0
  [ -r "$path" ] || fail "$path: you can't read it: change its mode or owner"
  source=$(realpath "$path")
  case $path in /*) target=$(realpath -ms "$path") ;; *) target=$(realpath -ms "/app/$path") ;; esac
  # a snapshot in the hub's cache consists of links into a sibling folder
  case $source in */snapshots/*) add "${source%/snapshots/*}" "${source%/snapshots/*}" ro ;; esac
  local folder
  for folder in $SEEN; do
    case $target in "/app/$folder" | "/app/$folder/"*)
      # the target of a link that points outside the project
      [ "$source" = "$(realpath -ms "$path")" ] || add "$source" "$source" "$mode"
      return 0 ;;
    esac
  done
  add "$source" "$target" "$mode"
}
add() { MOUNTS+=(--volume "$1:$2:$3"); }

mount_words() {
  local before='' word words=()
  for word in "$@"; do
    case $word in --*=*) words+=("${word%%=*}" "${word#*=}") ;; *) words+=("$word") ;; esac
  done
  for word in "${words[@]+"${words[@]}"}"; do
    case $before in
      # may be a directory named like a command, such as train: only its option shows which
      --data.path | --data.eval_path) case $word in /* | "~/"*) ;; *) word=./$word ;; esac ;;
    esac
    case $before in --html)
      case $word in runs/*) before=$word; continue ;; *) fail "HTML=$word: a container can write only to runs/: set HTML=runs/check.html" ;; esac ;;
    esac
    # a new root is created here: inside the container, it would be lost
    case $before in --run.root) [ -e "$word" ] || mkdir -p -- "$word" ;; esac
    case $before in --run.root | --runs) mount_path "$word" rw ;; *) mount_path "$word" ro ;; esac
    case $before in --config) mount_values "$word" ;; esac
    before=$word
  done
}

mount_values() {  # $1 a YAML file: mount the paths in it
  local value
  [ -f "$1" ] || return 0
  while IFS= read -r value; do mount_path "$value" ro; done \
    < <(sed -n "s/^[^#]*: *[\"']\{0,1\}\([^\"'#]*[^\"'# ]\).*/\1/p" "$1")
}

mount_base() {  # export and push need the run's base, which may be a path on this machine
  local run=latest root=runs word before='' record
  for word in "$@"; do
    case $before in --run.name) run=$word ;; --run.root) root=$word ;; esac
    before=$word
  done
  record=$root/$run/train.json
  [ ! -f "$record" ] || mount_path "$(sed -n '/"base"/,/}/s/.*"id": *"\([^"]*\)".*/\1/p' "$record" | head -n1)" ro
}

export_service() {  # the compose service of an export, without a network if it needs none (NETWORK=none|hub overrides)
  local word before='' name=latest root=runs base='' revision='' record snapshots
  case ${1:-} in
    push) case " $* " in *" --dry-run "* | *" --dry_run "*) ;; *) echo push; return ;; esac ;;
  esac
  case ${NETWORK:-auto} in
    none) echo export; return ;; hub) echo export-hub; return ;; auto) ;;
    *) fail "NETWORK=$NETWORK: expected auto, none or hub" ;;
  esac
  case ${1:-} in push | card) echo export; return ;; esac
  for word in "$@"; do
    case $before in --run.name) name=$word ;; --run.base) base=$word ;; --run.root) root=$word ;; esac
    case $word in --run.name=*) name=${word#*=} ;; --run.base=*) base=${word#*=} ;; --run.root=*) root=${word#*=} ;; esac
    before=$word
  done
  record=$root/$name/train.json
  [ -f "$record" ] || record=$name/train.json
  if [ -f "$record" ]; then
    base=${base:-$(sed -n '/"base"/,/}/s/.*"id": *"\([^"]*\)".*/\1/p' "$record" | head -n1)}
    revision=$(sed -n '/"base"/,/}/s/.*"revision": *"\([^"]*\)".*/\1/p' "$record" | head -n1)
  fi
  # owner/name is on the Hub, possibly cached; anything else is a file, a directory or a package
  if [[ ! $base =~ ^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$ ]] || [ -e "$base" ]; then echo export; return; fi
  snapshots=$HF_CACHE_DIR/hub/models--${base/\//--}/snapshots
  if [ -n "$revision" ] && [ -d "$snapshots/$revision" ]; then echo export
  else echo "export: $base is not in the hub's cache; enabling the network to download it" >&2; echo export-hub
  fi
}

# ---- run ----------------------------------------------------------------------------------------------------------------

build() {
  there "$1" && return
  # a registry name: the release image is pulled
  case $IMAGES in */*) echo "images: fetching $(image "$1")" >&2; docker pull --quiet "$(image "$1")" >&2 && return ;; esac
  echo "images: building $IMAGES-$1 (llama.cpp: LLAMA_CPU=${LLAMA_CPU:-all}), which takes some minutes once" >&2
  tools/images.sh build "$1" >&2 || fail "building the image $IMAGES-$1 failed; Docker's output is above"
}

check_gpu() {
  case $1 in train | serve-cuda) ;; *) return 0 ;; esac
  docker run --rm --gpus all --entrypoint /bin/true "$(image "$1")" >/dev/null 2>&1 \
    || fail "this machine has an NVIDIA GPU, but its Docker engine can't use it: install the NVIDIA Container Toolkit (nvidia-ctk runtime configure, then restart the engine), or use RUNNER=local"
}

run() {
  local stage=$1 service variable options=(--rm); shift
  service=$(service_of "$stage")
  engine || fail "no Docker engine with compose responds: start it, join the 'docker' group, or use RUNNER=local"
  [ "$stage ${1:-}" = "serve chat" ] || [ "$stage" != serve ] || { key_file; keys_needed; }
  build "$service"
  check_gpu "$service"
  if [ "$stage ${1:-}" = "serve chat" ]; then  # a client of the server on this machine, in a container or not
    [ -t 0 ] && options+=(--interactive --tty) || options+=(--interactive)
    exec docker run "${options[@]}" --init --network host --read-only --cap-drop ALL --user "$(id -u):$(id -g)" \
      --no-healthcheck "$(image "$service")" "$@"
  fi
  folders "$stage"
  secret_files
  # a rootless engine maps root to the caller
  if docker info --format '{{.SecurityOptions}}' | grep -q rootless; then export HOST_UID=0 HOST_GID=0
  else export HOST_UID=${HOST_UID:-$(id -u)} HOST_GID=${HOST_GID:-$(id -g)}; fi
  local words=("$@")
  if [ "$stage" = serve ]; then
    take_port "$@"
    free_port "$PORT"
    options+=(--service-ports)
    case " $* ${BURNISH_SERVE_MODEL:-}" in *[\ =]hf://*) serve_from_hub ;; esac
  fi
  mount_words "${words[@]+"${words[@]}"}"
  local target=$service
  if [ "$stage" = export ]; then
    mount_base "$@"
    target=$(export_service "$@") || exit 2
  fi
  while IFS= read -r variable; do
    options+=(--env "$variable"); mount_path "${!variable}" ro
  done < <(compgen -e | grep "^BURNISH_${stage^^}_" || true)
  options+=("${MOUNTS[@]+"${MOUNTS[@]}"}")
  local code=0
  if [ -t 0 ] && [ -t 1 ]; then docker compose run "${options[@]}" "$target" "${words[@]+"${words[@]}"}" || code=$?
  else unattended "${IMAGES##*/}-$stage-$$" "${options[@]}" --no-TTY "$target" "${words[@]+"${words[@]}"}" || code=$?; fi
  signalled "$stage" "$code"
  return $code
}

signalled() {  # explain in one line a container killed by a signal, with what to do (as burnish/process.py does)
  local build="build the image for older CPUs: make images IMAGE=$service LLAMA_CPU=v3"
  case $2 in
    132) fail "$1: ended by SIGILL (illegal instruction): llama.cpp does not fit this CPU: $build" ;;
    137) fail "$1: ended by SIGKILL (killed, most likely because memory ran out): raise ${1^^}_MEMORY or use a smaller model" ;;
    134 | 135 | 136 | 139) fail "$1: ended by SIG$(kill -l "$2") (a crash in native code): see the lines above; if it happens again, $build" ;;
  esac
}

unattended() {  # without a terminal, compose leaves the container running when it is terminated: forward the signal
  local name=$1 code=0 job; shift
  docker compose run --name "$name" "$@" &
  job=$!
  trap 'docker kill --signal INT "$name" >/dev/null 2>&1 || true' INT TERM
  # a signal interrupts `wait`; the exit code of a finished job can still be read
  while :; do code=0; wait $job || code=$?; kill -0 $job 2>/dev/null || break; done
  return $code
}

serve_from_hub() {  # hf://... is downloaded into the hub's cache; a token is passed as a file, as elsewhere
  local name
  own_folder "$HF_CACHE_DIR" "the hub's cache"
  options+=(--volume "$HF_CACHE_DIR:/cache/huggingface")
  [ "$HF_TOKEN_FILE" = /dev/null ] \
    || options+=(--volume "$HF_TOKEN_FILE:/run/secrets/hf_token:ro" --env HF_TOKEN_PATH=/run/secrets/hf_token)
  for name in HF_ENDPOINT HF_HUB_OFFLINE HF_HUB_DISABLE_XET; do [ -z "${!name:-}" ] || options+=(--env "$name"); done
}

take_port() {  # --port is the host's port; the container keeps the port that compose publishes
  local word; words=(); export PORT=${PORT:-8000}
  while [ $# -gt 0 ]; do
    word=$1; shift
    case $word in --port) PORT=${1:-}; shift ;; --port=*) PORT=${word#--port=} ;; *) words+=("$word") ;; esac
  done
}

case ${1:-} in
  where) where "${2:?where: a command is required}" ;;
  train | export | serve) run "$@" ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
