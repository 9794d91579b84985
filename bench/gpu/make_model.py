# SPDX-License-Identifier: Apache-2.0
"""Writes a model folder of Gated DeltaNet with random bf16 weights, made on the card.

    python3 -B bench/gpu/make_model.py FOLDER

1.57 B parameters: 24 layers, hidden 2,048, 6 heads of 256 x 512, an intermediate size of
5,632, 32,000 tokens. Names and shapes are flash-linear-attention's.
"""

import json
import math
import pathlib
import sys

import torch

LAYERS, HIDDEN, HEADS, KEY, VALUE, WIDTH, VOCABULARY = 24, 2048, 6, 256, 512, 5632, 32000
CONV = 4

CONFIG = {
    "model_type": "gated_deltanet",
    "architectures": ["GatedDeltaNetForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_heads": HEADS,
    "head_dim": KEY,
    "expand_v": VALUE / KEY,
    "conv_size": CONV,
    "use_gate": True,
    "use_short_conv": True,
    "hidden_ratio": 4,
    "intermediate_size": WIDTH,
    "hidden_act": "swish",
    "norm_eps": 1e-6,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
}


def tensors(device):
    """Name and values, in the order in which they are written."""
    keys, values = HEADS * KEY, HEADS * VALUE

    def product(outputs, inputs):
        return torch.randn(outputs, inputs, device=device) / math.sqrt(inputs)

    yield "model.embeddings.weight", torch.randn(VOCABULARY, HIDDEN, device=device)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        yield at + "attn_norm.weight", torch.ones(HIDDEN, device=device)
        yield at + "attn.q_proj.weight", product(keys, HIDDEN)
        yield at + "attn.k_proj.weight", product(keys, HIDDEN)
        yield at + "attn.v_proj.weight", product(values, HIDDEN)
        yield at + "attn.a_proj.weight", product(HEADS, HIDDEN)
        yield at + "attn.b_proj.weight", product(HEADS, HIDDEN)
        yield at + "attn.g_proj.weight", product(values, HIDDEN)
        yield at + "attn.A_log", torch.empty(HEADS, device=device).uniform_(1, 16).log()
        yield at + "attn.dt_bias", torch.empty(HEADS, device=device).uniform_(-6, -2)
        for name, channels in (("q", keys), ("k", keys), ("v", values)):
            taps = torch.empty(channels, 1, CONV, device=device).uniform_(-0.5, 0.5)
            yield at + f"attn.{name}_conv1d.weight", taps
        yield at + "attn.o_norm.weight", torch.ones(VALUE, device=device)
        yield at + "attn.o_proj.weight", product(HIDDEN, values)
        yield at + "mlp_norm.weight", torch.ones(HIDDEN, device=device)
        yield at + "mlp.gate_proj.weight", product(WIDTH, HIDDEN)
        yield at + "mlp.up_proj.weight", product(WIDTH, HIDDEN)
        yield at + "mlp.down_proj.weight", product(HIDDEN, WIDTH)
    yield "model.norm.weight", torch.ones(HIDDEN, device=device)
    yield "lm_head.weight", product(VOCABULARY, HIDDEN)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    device = torch.device("cuda")
    torch.manual_seed(20261201)
    header, offset = {}, 0
    for name, values in tensors(device):
        size = 2 * values.numel()
        header[name] = {"dtype": "BF16", "shape": list(values.shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    torch.manual_seed(20261201)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for _, values in tensors(device):
            out.write(values.to(torch.bfloat16).view(torch.int16).cpu().numpy().data)


main()
