#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a long real document for the demo, fetched once into
# .deps/document: the manual of Mutt 2.2 (760 kB of English, GPL-2 or later) out
# of Debian's package, which is unpacked there and not installed. None of the
# packages that the demo model was trained on contains it.
set -euo pipefail
cd "$(dirname "$0")/.."

package=mutt
inside=./usr/share/doc/mutt/manual.txt.gz
document=$PWD/.deps/document/mutt-manual.txt

if [[ ! -s $document ]]; then
  folder=.deps/document/package
  rm -rf "$folder"
  mkdir -p "$folder"
  # Straight from the lists that are there, or after these have been brought.
  if ! (cd "$folder" && apt-get download -qq "$package" >/dev/null 2>&1); then
    as_root=()
    (($(id -u) == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq >&2
    (cd "$folder" && apt-get download -qq "$package" >/dev/null)
  fi
  dpkg-deb --fsys-tarfile "$folder"/*.deb | tar --extract --to-stdout "$inside" \
    | gunzip >"$document.part"
  mv "$document.part" "$document"
  rm -rf "$folder"
fi
echo "$document"
