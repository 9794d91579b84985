#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs every measurement in one go and writes bench/results/cpu.json,
# bench/RESULTS.md, docs/mixers.md and docs/constant-cost.svg. Needs a release
# build in build/ (./run bench makes it). BENCH_TOKENS: length of the long stream.
set -euo pipefail
cd "$(dirname "$0")/.."

threads=$(nproc)
tokens=${BENCH_TOKENS:-1000000}
scratch=build/bench-models
parts=build/bench-parts
tokenizers=build/bench-tokenizers
venv=.deps/venv-bench
server_pid=

((tokens >= 200000)) || { echo "bench: BENCH_TOKENS is $tokens, at least 200000" >&2; exit 2; }

say() { printf 'bench: %s\n' "$*"; }
stop_server() {
  [[ -n $server_pid ]] && kill "$server_pid" 2>/dev/null && wait "$server_pid" || true
  server_pid=
}
trap stop_server EXIT

# Starts the server on the demo model with ports of the kernel's choosing, and
# sets `address` from what it prints.
start_server() {
  local log=$parts/server.log
  build/bin/weir-server --model demo=models/demo --listen 127.0.0.1:0 \
    --metrics-listen 127.0.0.1:0 --threads "$threads" >"$log" 2>&1 &
  server_pid=$!
  for _ in $(seq 1 300); do
    address=$(sed -n 's/^listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$log" | head -n 1)
    [[ -n $address ]] && return 0
    kill -0 "$server_pid" 2>/dev/null || break
    read -rt 0.1 <> <(:) || true
  done
  cat "$log" >&2
  exit 1
}

# Torch and transformers in Python for the comparison, matplotlib for the plot.
make_venv() {
  source tools/versions.env
  local made="torch $TORCH_VERSION transformers $TRANSFORMERS_VERSION matplotlib $MATPLOTLIB_VERSION"
  [[ $(cat "$venv/.complete" 2>/dev/null) == "$made" ]] && return 0
  say "in Python, for the comparison: $made (2.5 GB, once)"
  /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==$TORCH_VERSION" "transformers==$TRANSFORMERS_VERSION" \
    "matplotlib==$MATPLOTLIB_VERSION" numpy
  printf '%s\n' "$made" >"$venv/.complete"
}

mkdir -p "$parts" bench/results
rm -f "$parts"/*.json

say "kernels beside the copy rate"
build/bin/weir-kernels-bench --benchmark_format=json \
  --benchmark_out="$parts/kernels.json" --benchmark_out_format=json >/dev/null
say "tokenizers, on one core"
.deps/venv-test/bin/python -B bench/tokenizer_folders.py "$tokenizers"
build/bin/weir-tokenizer-bench "$tokenizers" --benchmark_format=json \
  --benchmark_out="$parts/tokenizers.json" --benchmark_out_format=json >/dev/null
say "every mixer beside the copy rate and torch's product"
build/bin/weir-mixers-bench --mixers bench/mixers.json --threads "$threads" \
  >"$parts/mixers.json"
say "Gated DeltaNet's step beside ggml's"
build/bin/weir-ggml-bench --ggml .deps/ggml --threads "$threads" >"$parts/ggml.json"
say "the engine beside torch's products"
build/bin/weir-engine-bench --scratch "$scratch" --threads "$threads" >"$parts/engine.json"

say "gRPC beside the engine alone, in three turns"
for turn in 1 2 3; do
  build/bin/weir-engine-bench --scratch "$scratch" --threads "$threads" \
    --only append >"$parts/append-$turn.json"
  start_server
  build/bin/weir-load --server "$address" --tokens 100000 >"$parts/load-$turn.json"
  stop_server
done

say "a stream of $tokens tokens"
start_server
build/bin/weir-load --server "$address" --tokens "$tokens" \
  --server-pid "$server_pid" >"$parts/stream.json"
stop_server

say "transformers' Mamba-2 on the same weights"
make_venv
"$venv/bin/python" bench/transformers_mamba2.py "$scratch/mamba2" 4096 "$threads" \
  >"$parts/transformers.json"

"$venv/bin/python" -B bench/report.py "$parts" bench/results/cpu.json docs/constant-cost.svg
/usr/bin/python3 -B tools/mixers_table.py
say "wrote bench/results/cpu.json, bench/RESULTS.md, docs/mixers.md and docs/constant-cost.svg"
