#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns a Mamba-2 as its authors publish it into a folder that Weir serves.

    python3 -m venv venv
    venv/bin/pip install torch==2.11.0 safetensors==0.8.0 numpy
    venv/bin/python tools/convert_mamba2.py FROM TO

FROM is a folder such as state-spaces/mamba2-130m, with config.json and
pytorch_model.bin; TO is made, with config.json, model.safetensors and FROM's
tokenizer files. Names, values and types stay as they are. A tied head, which
the .bin holds a second time, is left out.

The .bin is a pickle, which the server never reads. It is read here with
weights_only, so that it runs nothing of its own.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file

EMBEDDING = "backbone.embedding.weight"
HEAD = "lm_head.weight"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def check_config(config):
    """Says at once what the server would refuse the folder for."""
    for key in ("d_model", "n_layer", "vocab_size", "ssm_cfg"):
        if key not in config:
            sys.exit(f"config.json has no {key}: not the authors' format")
    layer = config["ssm_cfg"].get("layer", "Mamba1")
    if layer != "Mamba2":
        sys.exit(f"config.json: ssm_cfg.layer is {layer}, not Mamba2")


def read_tensors(path, tied):
    """The tensors of a .bin, each with memory of its own."""
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    if tied and HEAD in tensors:
        if not torch.equal(tensors[HEAD], tensors[EMBEDDING]):
            sys.exit(f"{path}: {HEAD} differs from {EMBEDDING}, yet is tied")
        del tensors[HEAD]
    # A view of a larger tensor would be saved with what it does not show.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(pathlib.Path, sys.argv[1:])
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    check_config(config)
    tensors = read_tensors(
        source / "pytorch_model.bin", config.get("tie_embeddings", True)
    )
    target.mkdir(parents=True, exist_ok=True)
    weights = target / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    # It comes readable by its owner alone, who is not always the server.
    weights.chmod(0o644)
    for name in ("config.json", *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    print(f"{target}: {len(tensors)} tensors, {parameters} parameters")


if __name__ == "__main__":
    main()
