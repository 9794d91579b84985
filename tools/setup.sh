#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Brings what a build needs: Debian packages, and from PyPI the LibTorch of the
# torch wheel and the google.rpc protos, each checked against its SHA-256 and
# unpacked into .deps/. Safe to repeat; does nothing the second time.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/versions.env
source tools/versions.env

say() { printf 'setup: %s\n' "$*"; }

packages=(
  g++ cmake ninja-build ccache git ca-certificates unzip python3 python3-pip
  libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler
  protobuf-compiler-grpc libabsl-dev prometheus-cpp-dev libcivetweb-dev
  libgtest-dev libgmock-dev libbenchmark-dev nlohmann-json3-dev libcli11-dev
  libspdlog-dev libssl-dev zlib1g-dev "$@"
)

install_packages() {
  local missing=()
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null \
      | grep -q 'install ok installed' || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return 0
  local sudo=()
  if (($(id -u) != 0)); then
    command -v sudo >/dev/null || { say "needs root or sudo for: ${missing[*]}"; exit 1; }
    sudo=(sudo)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq \
    --no-install-recommends "${missing[@]}" >/dev/null
}

# fetch NAME VERSION SHA256: a wheel into .deps/wheels, printed as a path.
fetch() {
  local name=$1 version=$2 sha=$3 dir=.deps/wheels/$1
  mkdir -p "$dir"
  /usr/bin/python3 -m pip download --quiet --no-deps --only-binary :all: \
    --disable-pip-version-check --python-version 3.11 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform any --dest "$dir" "$name==$version" >&2
  local wheel
  wheel=$(ls "$dir"/*.whl)
  echo "$sha  $wheel" | sha256sum --check --quiet >&2 \
    || { say "$wheel does not have the SHA-256 $sha of tools/versions.env" >&2; exit 1; }
  echo "$wheel"
}

install_torch() {
  local stamp=.deps/torch/.complete-$TORCH_VERSION-$CUPTI_VERSION-$CUDART_VERSION
  [[ -e $stamp ]] && return 0
  say "LibTorch $TORCH_VERSION from PyPI (530 MB, once)"
  rm -rf .deps/torch .deps/unpack
  mkdir -p .deps/torch/lib .deps/unpack
  local wheel
  wheel=$(fetch torch "$TORCH_VERSION" "$TORCH_SHA256")
  unzip -q "$wheel" 'torch/include/*' torch/lib/libtorch_cpu.so \
    torch/lib/libc10.so torch/lib/libgomp.so.1 'torch-*/licenses/*' -d .deps/unpack
  mv .deps/unpack/torch/include .deps/torch/
  mv .deps/unpack/torch/lib/* .deps/torch/lib/
  wheel=$(fetch nvidia-cuda-cupti "$CUPTI_VERSION" "$CUPTI_SHA256")
  unzip -q -j "$wheel" '*/libcupti.so.13' -d .deps/torch/lib
  wheel=$(fetch nvidia-cuda-runtime "$CUDART_VERSION" "$CUDART_SHA256")
  unzip -q -j "$wheel" '*/libcudart.so.13' -d .deps/torch/lib
  rm -rf .deps/unpack .deps/wheels/torch .deps/wheels/nvidia-*
  touch "$stamp"
}

install_googleapis() {
  local stamp=.deps/googleapis/.complete-$GOOGLEAPIS_VERSION
  [[ -e $stamp ]] && return 0
  say "google.rpc protos $GOOGLEAPIS_VERSION from PyPI"
  rm -rf .deps/googleapis
  mkdir -p .deps/googleapis
  local wheel
  wheel=$(fetch googleapis-common-protos "$GOOGLEAPIS_VERSION" "$GOOGLEAPIS_SHA256")
  unzip -q "$wheel" google/rpc/status.proto google/rpc/error_details.proto -d .deps/googleapis
  rm -rf .deps/wheels/googleapis-common-protos
  touch "$stamp"
}

install_packages
install_torch
install_googleapis
