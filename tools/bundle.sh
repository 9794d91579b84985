#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Fills bundle/ from a build's folder: the binaries, stripped, and the shared
# libraries that they need but for the C and C++ runtimes, Torch's and CUDA's.
# It runs where those are: Ubuntu 24.04 or Debian 12 with Torch's wheel.
#
#   tools/bundle.sh FOLDER BINARY...
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1
shift
limit_mib=50
bundle=bundle
# What a machine with a GPU and Torch brings itself.
theirs='^(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libgomp|libtorch.*|libc10.*|libcu(da|dart|blas|dnn|fft|pti|rand|solver|sparse).*|libnv.*)(-[0-9.]+)?\.so'

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/lib"
for name in "$@"; do
  strip -o "$bundle/bin/$name" "$build/bin/$name"
  ldd "$build/bin/$name" | awk '$2 == "=>" {print $1, $3}' \
    | while read -r library path; do
        [[ $library =~ $theirs ]] && continue
        [[ $path == not ]] && { echo "bundle: $name needs $library, which is not here" >&2; exit 1; }
        [[ -e $bundle/lib/$library ]] || strip --strip-unneeded -o "$bundle/lib/$library" "$path"
      done
done
# Tests are told from tools by their names.
find "$bundle/bin" -name '*_test' -printf '%f\n' | sort >"$bundle/gpu_tests"

bytes=$(du -sb "$bundle" | cut -f 1)
printf 'bundle: %s, %d MiB\n' "$bundle" $((bytes >> 20))
if ((bytes > limit_mib << 20)); then
  echo "bundle: $bytes bytes, at most $limit_mib MiB: build for fewer compute capabilities" >&2
  exit 1
fi
