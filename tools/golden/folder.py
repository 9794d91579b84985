# SPDX-License-Identifier: Apache-2.0
"""A golden folder: a tiny checkpoint with random weights, and what the code of
its own family computes with it.

config.json, model.safetensors   the checkpoint, as save_pretrained writes it
golden.safetensors               tokens [T], logits [P, V] at positions [P],
                                 greedy [G] after all T tokens, and its margins
meta.json                        what made it, and how well that agrees with itself
"""

import importlib.metadata
import json
import pathlib

import torch
from safetensors.torch import save_file

VOCABULARY = 259
POSITIONS = 48
GREEDY = 64


def fill_weights(model, seed):
    """Weights that keep activations of about 1 and let every part matter; what is
    no matrix, norm or bias keeps its family's own beginning, a little shaken."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape):
        return torch.randn(shape, generator=generator)

    matrices = {
        name + ".weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in matrices:
                value = normal(weight.shape) * weight.shape[-1] ** -0.5
            elif "embed" in name:
                value = normal(weight.shape)
            elif "conv1d" in name and name.endswith("weight"):
                value = normal(weight.shape) * 0.5
            elif name.endswith("bias") and "dt_bias" not in name:
                value = weight.cpu() + 0.1 * normal(weight.shape)
            elif weight.dim() == 1 and name.endswith("weight"):
                value = 1 + 0.1 * normal(weight.shape)
            else:
                value = weight.cpu() + 0.1 * normal(weight.shape)
            weight.copy_(value)


def scale_head(model, logits):
    """Logits of std 2: far enough apart for greedy, near enough for a bar."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2.0 / logits.std().item())


def random_tokens(seed, count):
    generator = torch.Generator().manual_seed(seed + 1000)
    return torch.randint(3, VOCABULARY, (count,), generator=generator)


def positions_of(count):
    """Some at the beginning, some at the end, the others between."""
    head, tail = range(8), range(count - 8, count)
    step = (count - 16) / (POSITIONS - 16)
    middle = (8 + int(i * step) for i in range(POSITIONS - 16))
    return sorted({*head, *middle, *tail})


def check_margins(name, margins):
    """What the tests compare before the first near tie must be worth it."""
    if min(margins[:4]) < 1e-2:
        raise SystemExit(f"{name}: a near tie among the first tokens: another SEED")


def write(folder, model, seed, tokens, logits, greedy, margins, meta):
    folder = pathlib.Path(folder)
    check_margins(folder.name, margins)
    model.save_pretrained(folder)
    positions = positions_of(len(tokens))
    save_file(
        {
            "tokens": tokens.int().cpu(),
            "positions": torch.tensor(positions, dtype=torch.int32),
            "logits": logits[positions].float().cpu().contiguous(),
            "greedy": torch.tensor(greedy, dtype=torch.int32),
            "greedy_margin": torch.tensor(margins, dtype=torch.float32),
        },
        folder / "golden.safetensors",
    )
    shapes = {n: list(t.shape) for n, t in sorted(model.state_dict().items())}
    versions = {
        package: importlib.metadata.version(package)
        for package in ("torch", "transformers")
    }
    meta = {
        "family": folder.name,
        "model_type": model.config.model_type,
        "seed": seed,
        "tokens": len(tokens),
        "params": sum(weight.numel() for weight in model.parameters()),
        "logits_std": logits.std().item(),
        **versions,
        **meta,
        "tensors": shapes,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
