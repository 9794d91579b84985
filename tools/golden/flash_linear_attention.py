#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden folders by flash-linear-attention's own kernels, on a GPU.

    python3 tools/golden/flash_linear_attention.py OUT [CASE...]

Each case is one line of CASES; a process for each spares time, since Triton
compiles on one core. Scores are those of pieces of 64 tokens fed to a cache, in
fp32 and by the recurrent kernels, which longer pieces would leave: DeltaProduct's
chunk kernel takes no fp32. They are held against one token at a time, and both
must agree within 1e-3.
"""

import os
import pathlib
import sys

os.environ["TRITON_F32_DEFAULT"] = "ieee"  # else TF32: three digits

import fla.models  # noqa: F401,E402  registers the families
import importlib.metadata  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

import folder as golden  # noqa: E402

TOKENS = 128
COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": golden.VOCABULARY,
    "pad_token_id": 0,
    "fuse_cross_entropy": False,
    "fuse_swiglu": False,
}

# The folder's name, the model_type, and what differs from COMMON.
CASES = {
    "fla_gated_deltaproduct": (
        "gated_deltaproduct",
        {
            "head_dim": 16,
            "num_heads": 2,
            "expand_v": 2.0,
            "num_householder": 2,
            "use_forget_gate": True,
            "allow_neg_eigval": True,
        },
    ),
    "fla_gated_deltaproduct_plain": (
        "gated_deltaproduct",
        {
            "head_dim": 16,
            "num_heads": 2,
            "expand_v": 1.0,
            "num_householder": 3,
            "use_output_gate": False,
        },
    ),
    "fla_gsa": ("gsa", {"num_heads": 2, "num_slots": 16}),
    "fla_gsa_conv": (
        "gsa",
        {
            "num_heads": 4,
            "num_kv_heads": 2,
            "num_slots": 32,
            "use_short_conv": True,
            "feature_map": "relu",
        },
    ),
    "fla_linear_attn_products": ("linear_attn", {"num_heads": 2}),
    "fla_linear_attn_hedgehog": (
        "linear_attn",
        {
            "num_heads": 2,
            "feature_map": "hedgehog",
            "norm_feature_map": True,
        },
    ),
    "fla_linear_attn_t2r": (
        "linear_attn",
        {"num_heads": 2, "feature_map": "t2r", "norm_q": True, "norm_k": True},
    ),
    "fla_gated_deltanet_negative": (
        "gated_deltanet",
        {
            "head_dim": 16,
            "num_heads": 2,
            "num_v_heads": 4,
            "allow_neg_eigval": True,
        },
    ),
    "fla_kda_safe": (
        "kda",
        {"head_dim": 16, "num_heads": 2, "safe_gate": True, "lower_bound": -5.0},
    ),
    "fla_gla_conv": (
        "gla",
        {"num_heads": 2, "use_short_conv": True, "num_kv_heads": 1},
    ),
    "fla_delta_net_gate": (
        "delta_net",
        {
            "num_heads": 2,
            "use_gate": True,
            "qk_activation": "elu",
            "qk_norm": "sum",
        },
    ),
    "fla_delta_net_relu": (
        "delta_net",
        {"num_heads": 2, "use_short_conv": False, "qk_activation": "relu"},
    ),
    "fla_delta_net_identity": (
        "delta_net",
        {
            "num_heads": 2,
            "conv_size": 3,
            "qk_activation": "identity",
            "allow_neg_eigval": True,
        },
    ),
    "fla_gla_sigmoid": ("gla", {"num_heads": 2, "feature_map": "sigmoid"}),
    "fla_hgrn2_plain": ("hgrn2", {"expand_ratio": 32, "use_lower_bound": False}),
    "fla_retnet_groups": ("retnet", {"num_heads": 4, "num_kv_heads": 2}),
    "fla_retnet_swish": ("retnet", {"num_heads": 2, "feature_map": "swish"}),
}


def build(model_type, options, seed):
    torch.manual_seed(seed)
    fields = {**COMMON, **options}
    config = AutoConfig.for_model(
        model_type, **{k: v for k, v in fields.items() if v is not None}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    golden.fill_weights(model, seed)
    return model.cuda().eval()


def by_pieces(model, tokens, piece=64):
    cache, rows = None, []
    for part in tokens.split(piece):
        out = model(input_ids=part[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        rows.append(out.logits[0].float())
    return torch.cat(rows)


def by_steps(model, tokens, greedy):
    """Logits of one token at a time, and the greedy continuation."""
    cache, rows, more, margins = None, [], [], []
    for index in range(len(tokens) + greedy):
        token = tokens[index] if index < len(tokens) else more[-1]
        out = model(
            input_ids=torch.tensor([[int(token)]], device="cuda"),
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        row = out.logits[0, -1].float()
        if index < len(tokens):
            rows.append(row)
        if index >= len(tokens) - 1 and len(more) < greedy:
            top = row.topk(2)
            more.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
    return torch.stack(rows), more, margins


@torch.no_grad()
def make(out, name, seed):
    model_type, options = CASES[name]
    model = build(model_type, options, seed)
    tokens = golden.random_tokens(seed, TOKENS).cuda()
    golden.scale_head(model, by_pieces(model, tokens))
    logits = by_pieces(model, tokens)
    steps, greedy, margins = by_steps(model, tokens, golden.GREEDY)
    apart = (logits - steps).abs().max().item()
    print(f"{name}: pieces and steps {apart:.1e} apart, std {logits.std():.2f}", flush=True)
    if not apart <= 1e-3:
        raise SystemExit(f"{name}: the family's own code disagrees with itself")
    meta = {
        "kind": "fla",
        "fla": importlib.metadata.version("flash-linear-attention"),
        "device": torch.cuda.get_device_name(),
        "step_maxdiff": apart,
        "greedy_distinct": len(set(greedy)),
        "greedy_min_margin": min(margins),
    }
    golden.write(out / name, model, seed, tokens, logits, greedy, margins, meta)


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    out = pathlib.Path(sys.argv[1])
    seed = int(os.environ.get("SEED", "1"))
    failed = []
    for name in sys.argv[2:] or CASES:
        try:
            make(out, name, seed)
        except Exception as why:  # the next case may still be made
            failed.append(name)
            print(f"{name}: {type(why).__name__}: {str(why)[:300]}", flush=True)
        except SystemExit as why:
            failed.append(name)
            print(why, flush=True)
    sys.exit(f"not made: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
