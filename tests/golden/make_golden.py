#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/mamba2_groups: a tiny random Mamba-2 and what transformers
computes from it.

    python3 -m venv venv
    venv/bin/pip install torch==2.11.0 transformers==5.17.0 numpy
    venv/bin/python tests/golden/make_golden.py

Made with Python 3.11, torch 2.11.0, transformers 5.17.0 on a CPU. The model has
what the other checkpoints lack together: two groups of B and C, biases, and a
limit on the time step that binds at both ends.

The expected logits are a forward pass in true float64: the modelling code holds
islands of float32 (norms, time step, scan) whatever the weights' type is, so
for the pass the names torch.float32 and Tensor.float mean float64. The greedy
continuation is computed by full passes, since transformers' one-token step does
not clamp the time step.
"""

import contextlib
import pathlib
import sys

# These would replace the plain PyTorch code with kernels of their own.
for name in ("fla", "mamba_ssm", "causal_conv1d"):
    sys.modules[name] = None

import torch
import transformers
from safetensors.torch import save_file

SEED = 20261124
TOKENS = 600
ROWS = 48
GREEDY = 64
FOLDER = pathlib.Path(__file__).resolve().parent / "mamba2_groups"


def make_model():
    """A model of the given shape whose logits have a standard deviation of 2."""
    torch.manual_seed(SEED)
    config = transformers.Mamba2Config(
        vocab_size=259,
        hidden_size=64,
        num_hidden_layers=2,
        num_heads=8,
        head_dim=16,
        expand=2,
        n_groups=2,
        state_size=16,
        conv_kernel=4,
        chunk_size=64,
        use_bias=True,
        use_conv_bias=True,
        tie_word_embeddings=False,
        time_step_limit=(0.02, 0.3),
        layer_norm_epsilon=1e-5,
        initializer_range=0.1,
        rescale_prenorm_residual=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = transformers.Mamba2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.log(torch.rand_like(parameter) * 8 + 0.1))
            elif name.endswith("dt_bias"):
                parameter.copy_(torch.randn_like(parameter) * 1.5 - 2)
            elif name.endswith("norm.weight") or name.endswith("norm_f.weight"):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif name.endswith(".D"):
                parameter.copy_(torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
        tokens = torch.randint(3, config.vocab_size, (1, TOKENS))
        deviation = model(tokens, use_cache=False).logits.std()
        model.lm_head.weight.mul_(2 / deviation)
    return model, tokens


@contextlib.contextmanager
def true_float64():
    """Within, torch.float32 and Tensor.float mean float64."""
    real, real_float = torch.float32, torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float64
    torch.Tensor.float = lambda self: self.double()
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = real, real_float
        torch.set_default_dtype(real)


@torch.no_grad()
def main():
    model, tokens = make_model()
    FOLDER.mkdir(exist_ok=True)
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)

    single = model(tokens, use_cache=False).logits[0]
    model.double()
    with true_float64():
        logits = model(tokens, use_cache=False).logits[0]
        assert logits.dtype is torch.float64
        steps, current = [], tokens
        for _ in range(GREEDY):
            top = model(current, use_cache=False).logits[0, -1].topk(2)
            steps.append((int(top.indices[0]), float(top.values[0] - top.values[1])))
            current = torch.cat([current, top.indices[:1].view(1, 1)], dim=1)

    positions = torch.linspace(0, TOKENS - 1, ROWS).round().to(torch.int32)
    save_file(
        {
            "tokens": tokens[0].to(torch.int32),
            "logits": logits[positions.long()].to(torch.float32).contiguous(),
            "positions": positions,
            "greedy": torch.tensor([step[0] for step in steps], dtype=torch.int32),
            "greedy_margin": torch.tensor([step[1] for step in steps], dtype=torch.float32),
        },
        FOLDER / "golden.safetensors",
    )
    print("logits: standard deviation", float(logits.std()))
    print("float32 against float64:", float((single.double() - logits).abs().max()))
    print("distinct tokens in the continuation:", len({step[0] for step in steps}))
    print("smallest margin:", min(step[1] for step in steps))


if __name__ == "__main__":
    main()
