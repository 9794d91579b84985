#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden folders by transformers' own models, in fp64 on a CPU.

    python3 tools/golden/transformers_fp64.py OUT [CASE...]

.double() alone does not make fp64 of them: the models turn to fp32 by name in
norms, scans and softmax. While the scores are made those names mean fp64. Rows
are those of the full forward; transformers' appends of several tokens to a live
cache are wrong for Mamba-1 and no truth for anybody. The greedy continuation is
made by full forwards too.
"""

import contextlib
import os
import pathlib
import sys

# Where these are installed transformers runs them in its own models' place.
for module in ("fla", "mamba_ssm", "causal_conv1d"):
    sys.modules[module] = None

import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

import folder as golden  # noqa: E402

TOKENS = 600
GREEDY = 16  # a full forward each
COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": golden.VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# The folder's name, the model_type, and what is added to COMMON.
CASES = {
    "mamba": ("mamba", {"state_size": 8}),
    "mamba_bias": ("mamba", {"state_size": 16, "use_bias": True}),
    "falcon_mamba": ("falcon_mamba", {"state_size": 8}),
    "mamba2": (
        "mamba2",
        {"head_dim": 16, "num_heads": 8, "state_size": 16, "n_groups": 2},
    ),
    "mamba2_limit": (
        "mamba2",
        {
            "head_dim": 16,
            "num_heads": 8,
            "state_size": 16,
            "n_groups": 1,
            "time_step_limit": (0.01, 0.2),
        },
    ),
    "rwkv": ("rwkv", {"context_length": 1024}),
}


@contextlib.contextmanager
def fp32_is_fp64():
    names = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = names


def full(model, tokens):
    with fp32_is_fp64():
        return model(input_ids=tokens[None], use_cache=False).logits[0]


def greedy_of(model, tokens):
    more, margins = [], []
    for _ in range(GREEDY):
        top = full(model, tokens)[-1].topk(2)
        more.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
        tokens = torch.cat([tokens, top.indices[:1]])
    return more, margins


@torch.no_grad()
def make(out, name, seed):
    model_type, options = CASES[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **COMMON, **options)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    golden.fill_weights(model, seed)
    tokens = golden.random_tokens(seed, TOKENS)
    golden.scale_head(model, model(input_ids=tokens[None], use_cache=False).logits)
    in_fp32 = model(input_ids=tokens[None], use_cache=False).logits[0]
    model.double()
    logits = full(model, tokens)
    assert logits.dtype == torch.float64
    apart = (logits - in_fp32).abs().max().item()
    greedy, margins = greedy_of(model, tokens)
    print(f"{name}: fp32 {apart:.1e} from fp64, std {logits.std():.2f}", flush=True)
    if not apart <= 1e-3:
        raise SystemExit(f"{name}: fp32 is too far from fp64 to hold anybody to")
    meta = {
        "kind": "transformers",
        "device": "cpu",
        "fp32_maxdiff": apart,
        "greedy_distinct": len(set(greedy)),
        "greedy_min_margin": min(margins),
    }
    model.float()
    golden.write(out / name, model, seed, tokens, logits, greedy, margins, meta)


def main():
    out = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        make(out, name, int(os.environ.get("SEED", "1")))


if __name__ == "__main__":
    main()
