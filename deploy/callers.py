# SPDX-License-Identifier: Apache-2.0
"""Fails if a rendered network policy lets nobody call: kustomize writes the
labels that it spreads into every `matchLabels`, those of callers too.

  callers.py RENDERED.yaml
"""

import pathlib
import sys

import yaml

OWN_LABELS = {"app.kubernetes.io/name"}


def narrowed(document):
    for rule in document["spec"].get("ingress", []):
        for peer in rule.get("from", []):
            for selector in peer.values():
                yield from OWN_LABELS & set(selector.get("matchLabels", {}))


def main():
    text = pathlib.Path(sys.argv[1]).read_text()
    failed = False
    for document in yaml.safe_load_all(text):
        if document["kind"] != "NetworkPolicy":
            continue
        for label in narrowed(document):
            print(f"{document['metadata']['name']}: only pods with the server's own label {label} may call")
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
