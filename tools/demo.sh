#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The demonstration: a server of its own with the demo model, a long document
# streamed into one session of constant size, that session forked and continued
# twice. Needs build/bin/weir-server and build/bin/weir (./run demo makes them).
#
#   tools/demo.sh [FILE]     default: the document of tools/document.sh
set -euo pipefail
cd "$(dirname "$0")/.."

work=build/demo
plot=$work/demo.svg
server_pid=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[[ -t 1 ]] || say() { printf '\n%s\n' "$*"; }

# The server that this script started, and no other.
stop_server() {
  [[ -n $server_pid ]] || return 0
  kill -TERM "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ready PORT: whether the server says that it takes sessions.
ready() {
  local answer=
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
  read -r answer <&3 || true
  exec 3>&-
  [[ $answer == *" 200 "* ]]
} 2>/dev/null

# port_of WORDS: from the server's line "WORDS 127.0.0.1:PORT".
port_of() { sed -n "s/^$1 127\.0\.0\.1:\([0-9]*\).*/\1/p" "$work/server.log"; }

start_server() {
  build/bin/weir-server --model demo=models/demo --listen 127.0.0.1:0 \
    --metrics-listen 127.0.0.1:0 >"$work/server.log" 2>&1 &
  server_pid=$!
  local metrics=
  for _ in $(seq 1 600); do
    metrics=$(port_of "metrics on")
    [[ -n $metrics ]] && ready "$metrics" && break
    kill -0 "$server_pid" 2>/dev/null || metrics=ended
    [[ $metrics == ended ]] && break
    sleep 0.1
  done
  if [[ -z $metrics || $metrics == ended ]] || ! ready "$metrics"; then
    cat "$work/server.log" >&2
    echo "demo: the server did not become ready; its log is above" >&2
    exit 1
  fi
  address=127.0.0.1:$(port_of "listening on")
}

main() {
  local document title address
  if (($# > 0)); then
    document=$1
    title=$1
    [[ -r $document ]] || { echo "demo: cannot read $document" >&2; exit 1; }
  else
    document=$(tools/document.sh)
    title="the manual of Mutt (GPL-2 or later, not in the model's training text)"
  fi
  rm -rf "$work"
  mkdir -p "$work"

  say "1. A server with the demo model, 7.5 M parameters, on loopback"
  start_server
  cat "$work/server.log"
  local weir=(build/bin/weir --server "$address")

  say "2. $(wc -c <"$document") bytes into one session: $title"
  "${weir[@]}" stream "$document" --session demo --plot "$plot"

  say "3. The session forked: two copies of the state, the document read once"
  "${weir[@]}" session fork demo demo-a
  "${weir[@]}" session fork demo demo-b

  local copy seed=1
  for copy in demo-a demo-b; do
    say "4. $copy continues, seed $seed"
    "${weir[@]}" generate --session "$copy" --max-tokens 200 --seed "$seed"
    seed=$((seed + 1))
  done

  say "5. What there is now"
  for copy in demo demo-a demo-b; do
    "${weir[@]}" session show "$copy"
  done
  echo
  echo "plot of bits per byte and milliseconds per 1,000 tokens: $PWD/$plot"
  echo "log of the server: $PWD/$work/server.log"
}

main "$@"
