#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Renders the manifests with kubectl's kustomize and checks each object against
# the schemas of the oldest and of a recent Kubernetes. Offline; the tools come
# with `tools/setup.sh check`.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=.deps/venv-tools/bin
# The first with the `sleep` of preStop switched on, and the newest known.
versions=(1.30 1.37)
rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT

yamllint --strict --config-file deploy/yamllint.yaml deploy buf.yaml

for folder in deploy/kubernetes/*/; do
  output=$rendered/$(basename "$folder").yaml
  "$tools/kubectl" kustomize "$folder" >"$output"
  objects=$(grep -c '^kind:' "$output")
  "$tools/python" -B deploy/callers.py "$output"
  for version in "${versions[@]}"; do
    "$tools/kubernetes-validate" --kubernetes-version "$version" --strict "$output"
  done
  echo "deploy: $folder renders $objects objects, valid for ${versions[*]}"
done
