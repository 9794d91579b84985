#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the image without a container engine: a Debian 12 base by debootstrap,
# the Dockerfile by buildah with chroot isolation. Needs root and 10 GB.
#
#   tools/image.sh [TAG]           default: weir:dev
#
# Afterwards, with the same --root and --runroot as below:
#   buildah ... run --isolation chroot CONTAINER -- /usr/local/bin/weir-server ...
set -euo pipefail
cd "$(dirname "$0")/.."

tag=localhost/${1:-weir:dev}
store=$PWD/.deps/image
base=localhost/weir-base:12
buildah=(buildah --root "$store/store" --runroot "$store/run" --storage-driver vfs)

say() { printf 'image: %s\n' "$*"; }

# The mirror that this machine itself installs from.
mirror() {
  # shellcheck disable=SC2016  # apt expands these
  apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' \
    | awk -v suite="$1" '$2 == suite {print $1; exit}'
}

make_base() {
  "${buildah[@]}" inspect --type image "$base" >/dev/null 2>&1 && return 0
  local root=$store/rootfs
  say "a Debian 12 base by debootstrap (once)"
  # An interrupted debootstrap may have left /proc mounted there.
  rm -rf --one-file-system "$root" "$store/base"
  mkdir -p "$store/base"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$root" \
    "$(mirror bookworm)" >"$store/debootstrap.log" \
    || { tail -n 20 "$store/debootstrap.log" >&2; exit 1; }
  echo "deb $(mirror bookworm) bookworm main" >"$root/etc/apt/sources.list"
  local security
  security=$(mirror bookworm-security)
  [[ -z $security ]] \
    || echo "deb $security bookworm-security main" >>"$root/etc/apt/sources.list"
  tar -C "$root" -cf "$store/base/rootfs.tar" --exclude='./var/cache/apt/archives/*.deb' \
    --exclude='./var/lib/apt/lists/*' --exclude='./dev/*' .
  printf 'FROM scratch\nADD rootfs.tar /\nCMD ["/bin/bash"]\n' >"$store/base/Dockerfile"
  "${buildah[@]}" bud --quiet --isolation chroot -t "$base" "$store/base" >/dev/null
  rm -rf --one-file-system "$root" "$store/base"
}

make_image() {
  local options=()
  # This machine's certificates, should it stand behind a proxy with its own.
  if [[ -e ${PIP_CERT:-} ]]; then
    options+=(--volume "$PIP_CERT:/run/pip-cert.pem:ro" --build-arg PIP_CERT=/run/pip-cert.pem)
  fi
  [[ -z ${PIP_INDEX_URL:-} ]] || options+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL")
  say "the Dockerfile by buildah, as $tag"
  "${buildah[@]}" bud --isolation chroot --pull-never --build-arg "BASE=$base" \
    --build-arg "REVISION=$(git rev-parse --short=12 HEAD)" \
    --build-arg "BUILD_JOBS=$(nproc)" "${options[@]}" -t "$tag" .
}

# Every library is there; as the image's user the server starts, takes a text
# from the client of the image, and stops when told to.
try_image() {
  local container
  container=$("${buildah[@]}" from --pull-never "$tag")
  # shellcheck disable=SC2064  # the container's name of now
  trap "${buildah[*]} rm '$container' >/dev/null" EXIT
  local inside=("${buildah[@]}" run --isolation chroot --user 10001:10001 "$container" --)
  if "${inside[@]}" ldd /usr/local/bin/weir-server /usr/local/bin/weir | grep 'not found'; then
    say "the image lacks a library"
    exit 1
  fi
  "${inside[@]}" id
  local log=$store/server.log
  # shellcheck disable=SC2016  # the shell within expands it
  "${inside[@]}" sh -c 'echo "pid $$"; exec "$@"' sh /usr/local/bin/weir-server \
    --model demo=/models/demo --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 >"$log" 2>&1 &
  local run=$! address=
  for _ in $(seq 1 300); do
    address=$(sed -n 's/^listening on //p' "$log")
    [[ -z $address ]] && kill -0 "$run" 2>/dev/null || break
    read -rt 0.2 <> <(:) || true
  done
  [[ -n $address ]] || { cat "$log" >&2; exit 1; }
  "${inside[@]}" /usr/local/bin/weir --server "$address" stream /usr/share/doc/weir/LICENSE
  kill -TERM "$(sed -n 's/^pid //p' "$log")"
  wait "$run"
  tail -n 1 "$log"
}

tools/setup.sh image
mkdir -p "$store"
make_base
make_image
try_image
say "$tag is in $store/store"
