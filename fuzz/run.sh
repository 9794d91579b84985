#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the fuzzers with clang and runs each for FUZZ_SECONDS (60) from the
# inputs kept in fuzz/corpus/, some written by hand, the others kept for what
# they reach. New ones are collected in build-fuzz/corpus/; an input that breaks
# something lies in build-fuzz/findings/, and the exit status is 1.
#
#   fuzz/run.sh [NAME...]      by default all
#
# A fuzzer is one file here, fuzz/NAME.cc; sources_of says what it links.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
folder=build-fuzz
flags=(-std=c++20 -O1 -g1 -fno-omit-frame-pointer -I. -D_GLIBCXX_ASSERTIONS
  "-fsanitize=address,undefined" -fno-sanitize=vptr
  -fno-sanitize-recover=undefined)

say() { printf 'fuzz: %s\n' "$*"; }

# sources_of NAME: the rooms or files that a fuzzer needs, and its libraries.
sources_of() {
  case $1 in
    tokenizer_json | rwkv_vocabulary)
      sources=(text/*.cc)
      libraries=(-lpcre2-8)
      ;;
    safetensors_header)
      sources=(engine/model/safetensors.cc engine/config/strict_json.cc)
      libraries=()
      ;;
    config_json)
      sources=(engine/config/*.cc engine/kernels/*.cc engine/mixers/*.cc
        engine/model/*.cc engine/state/state_*.cc)
      libraries=(-L.deps/torch/lib -ltorch_cpu -lc10 -l:libgomp.so.1 -lcrypto
        "-Wl,-rpath,$PWD/.deps/torch/lib" "-Wl,-rpath-link,.deps/torch/lib")
      ;;
    *)
      say "knows no fuzzer '$1'" >&2
      exit 2
      ;;
  esac
}

# flags_of SOURCE: as CMake compiles it.
flags_of() {
  case $1 in
    engine/kernels/target_avx2.cc) echo -mavx2 -mfma ;;
    engine/kernels/target_avx512.cc)
      echo -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma
      ;;
    engine/mixers/*) echo -isystem .deps/torch/include ;;
  esac
}

# compile NAME: objects are kept for the next fuzzer, ccache for the next time.
compile() {
  local source object objects=() abseil=() more=()
  sources_of "$1"
  for source in "fuzz/$1.cc" "${sources[@]}"; do
    object=$folder/${source%.cc}.o
    mkdir -p "$(dirname "$object")"
    objects+=("$object")
    [[ $object -nt $source && $object -nt $folder/.headers ]] && continue
    read -ra more < <(flags_of "$source") || true
    ccache clang++-14 "${flags[@]}" "${more[@]}" -fsanitize=fuzzer-no-link -c "$source" -o "$object"
  done
  read -ra abseil < <(pkg-config --libs absl_status absl_statusor absl_strings \
    absl_flat_hash_map absl_flat_hash_set absl_time)
  # In a group: Abseil's libraries name one another.
  clang++-14 "${flags[@]}" -fsanitize=fuzzer "${objects[@]}" -o "$folder/$1" \
    "-Wl,--start-group" "${abseil[@]}" "-Wl,--end-group" "${libraries[@]}"
}

# fuzz NAME: false if it found something.
fuzz() {
  local name=$1 new=$folder/corpus/$1 found=$folder/findings
  mkdir -p "$new" "$found"
  local dictionary=()
  [[ -e fuzz/$name.dict ]] && dictionary=("-dict=fuzz/$name.dict")
  TMPDIR=$scratch "$folder/$name" "$new" "fuzz/corpus/$name" "${dictionary[@]}" \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 \
    -artifact_prefix="$found/$name-" -print_final_stats=1 -verbosity=0
}

mkdir -p "$folder"
# A fuzzer that finds something ends without cleaning up.
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
# Any header's change compiles all anew; there are few files.
newest=$(find text base engine fuzz \( -name '*.h' -o -name '*.inc' \) -exec stat -c %Y {} + \
  | sort -n | tail -n 1)
touch -d "@$newest" "$folder/.headers"

names=("$@")
((${#names[@]} > 0)) || for file in fuzz/*.cc; do names+=("$(basename "$file" .cc)"); done
failed=()
for name in "${names[@]}"; do
  say "$name: build"
  compile "$name"
  say "$name: $seconds s"
  fuzz "$name" || failed+=("$name")
done
((${#failed[@]} == 0)) && { say "${#names[@]} fuzzers, nothing found"; exit 0; }
say "found something: ${failed[*]} (inputs in $folder/findings)"
exit 1
