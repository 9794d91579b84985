#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the official RWKV-7 weights, a .pth file, into a folder to serve.

    python3 -m venv venv
    venv/bin/pip install torch==2.11.0 numpy
    venv/bin/python tools/convert_rwkv.py rwkv7-g1-0.1b.pth OUT

OUT gets config.json and model.safetensors with the names that
flash-linear-attention gives a rwkv7; the values and their type stay as they
are. A .pth file is a pickle and may hold code: it is read with weights_only, so
that none is run, and here rather than in the server, which reads no pickles.
Every tensor must be known and every one must be there.

The config's fuse_norm is false: the official code brings k k_k to length one
by max(|k k_k|, 1e-12), as flash-linear-attention does without its fused norm.
"""

import argparse
import json
import pathlib
import re
import struct
import sys

OUTER = {
    "emb.weight": "model.embeddings.weight",
    "ln_out.weight": "model.norm.weight",
    "ln_out.bias": "model.norm.bias",
    "head.weight": "lm_head.weight",
}
NORMS = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}
ATTENTION = {
    "receptance.weight": "r_proj.weight",
    "key.weight": "k_proj.weight",
    "value.weight": "v_proj.weight",
    "output.weight": "o_proj.weight",
    "ln_x.weight": "g_norm.weight",
    "ln_x.bias": "g_norm.bias",
}
MIXES = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
LOW_RANK = {"0": "lora.2.bias", "1": "lora.0.weight", "2": "lora.2.weight"}
# The first layer's values lean on nothing; files may hold these all the same.
UNUSED = {"blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"}
# The official code's group norm has an eps of its own, 64e-5; the config says it
# as the size of a head times norm_eps.
HEAD_DIM = 64
NORM_EPS = 1e-5


class Refused(Exception):
    """What is wrong with the file, for people."""


def served_name(name):
    """The name in the folder, and how the tensor gets there: as it is ("keep"),
    turned around ("turn") or as one row ("flat")."""
    if name in OUTER:
        return OUTER[name], "keep"
    found = re.fullmatch(r"blocks\.(\d+)\.(ln[012]|att|ffn)\.(.+)", name)
    if not found:
        raise Refused(f"tensor {name!r} is not one of RWKV-7's")
    layer, part, rest = found.groups()
    prefix = f"model.layers.{layer}."
    if part in NORMS and rest in ("weight", "bias"):
        if part != "ln0" or layer == "0":
            return f"{prefix}{NORMS[part]}.{rest}", "keep"
    if part == "ffn" and rest in ("key.weight", "value.weight"):
        return f"{prefix}ffn.{rest}", "keep"
    if part == "ffn" and rest == "x_k":
        return f"{prefix}ffn.x_k", "flat"
    if part == "att":
        if rest in ATTENTION:
            return f"{prefix}attn.{ATTENTION[rest]}", "keep"
        if rest in MIXES or rest == "r_k":
            return f"{prefix}attn.{rest}", "keep"
        if rest in ("k_k", "k_a"):
            return f"{prefix}attn.{rest}", "flat"
        low_rank = re.fullmatch(r"([wavg])([012])", rest)
        if low_rank and rest != "g0":
            kind, index = low_rank.groups()
            how = "flat" if index == "0" else "turn"
            return f"{prefix}attn.{kind}_lora.{LOW_RANK[index]}", how
    raise Refused(f"tensor {name!r} is not one of RWKV-7's")


def official_names(layers):
    """All that a file of so many layers must hold."""
    names = set(OUTER) | {"blocks.0.ln0.weight", "blocks.0.ln0.bias"}
    for layer in range(layers):
        block = f"blocks.{layer}."
        names |= {f"{block}{n}.{x}" for n in ("ln1", "ln2") for x in ("weight", "bias")}
        names |= {f"{block}att.{x}" for x in (*ATTENTION, *MIXES, "r_k", "k_k", "k_a")}
        names |= {f"{block}att.{k}{i}" for k in "wavg" for i in "012"} - {f"{block}att.g0"}
        names |= {f"{block}ffn.{x}" for x in ("x_k", "key.weight", "value.weight")}
    return names - UNUSED


def check_names(weights):
    """The number of layers of a file that is whole."""
    layers = 0
    while f"blocks.{layers}.ffn.key.weight" in weights:
        layers += 1
    for name in sorted(weights):
        served_name(name)
    for name in sorted(official_names(layers)):
        if name not in weights:
            raise Refused(f"tensor {name!r} is missing")
    for name in sorted(set(weights) - UNUSED):
        if name not in official_names(layers):
            raise Refused(f"tensor {name!r} belongs to a layer that is not whole")
    return layers


def converted(weights):
    """Name to tensor, of a file whose names are right."""
    out = {}
    for name in sorted(set(weights) - UNUSED):
        target, how = served_name(name)
        tensor = weights[name]
        if how == "turn":
            tensor = tensor.t()
        elif how == "flat":
            tensor = tensor.reshape((tensor.shape[-1],))
        out[target] = tensor
    return out


def config_of(weights, layers):
    heads, head_dim = weights["blocks.0.att.r_k"].shape
    vocabulary, hidden = weights["emb.weight"].shape
    intermediate = weights["blocks.0.ffn.key.weight"].shape[0]
    config = {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "head_dim": head_dim,
        "num_heads": heads,
        "value_dim": [hidden] * layers,
        "intermediate_size": intermediate,
        "hidden_ratio": intermediate / hidden,
        "hidden_act": "sqrelu",
        "decay_low_rank_dim": weights["blocks.0.att.w1"].shape[1],
        "a_low_rank_dim": weights["blocks.0.att.a1"].shape[1],
        "gate_low_rank_dim": weights["blocks.0.att.g1"].shape[1],
        "norm_eps": NORM_EPS,
        "norm_first": True,
        "norm_bias": True,
        "fuse_norm": False,
        "attn": None,
        "attn_mode": "chunk",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
    }
    if layers > 1:
        config["v_low_rank_dim"] = weights["blocks.1.att.v1"].shape[1]
    return config


def write_safetensors(path, tensors, dtype_names, byte):
    """The tensors one after another, so that one at a time is in memory twice."""
    header = {}
    begin = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in dtype_names:
            raise Refused(f"tensor {name!r} is of type {tensor.dtype}")
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": dtype_names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            bytes_of = tensor.contiguous().reshape(-1).view(byte)
            file.write(memoryview(bytes_of.numpy()))


def convert(source, folder, context_length, head_dim):
    # Not above: the rules for names are tested without it.
    import torch

    weights = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    layers = check_names(weights)
    config = config_of(weights, layers)
    if config["head_dim"] != head_dim:
        raise Refused(f"heads have {config['head_dim']} channels, not {head_dim}")
    if context_length:
        config["max_position_embeddings"] = context_length
    folder.mkdir(parents=True, exist_ok=False)
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    write_safetensors(folder / "model.safetensors", converted(weights), names, torch.uint8)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("source", type=pathlib.Path, help="the .pth file")
    parser.add_argument("folder", type=pathlib.Path, help="is made; must not be there")
    parser.add_argument("--context-length", type=int, help="tokens it was trained on")
    parser.add_argument(
        "--head-dim", type=int, default=HEAD_DIM, help="other than the official 64"
    )
    args = parser.parse_args()
    try:
        convert(args.source, args.folder, args.context_length, args.head_dim)
    except (Refused, OSError) as error:
        sys.exit(f"convert_rwkv: {error}")


if __name__ == "__main__":
    main()
