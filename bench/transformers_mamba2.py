#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times transformers' Mamba-2 on a CPU over a model folder and prints JSON.

  transformers_mamba2.py FOLDER TOKENS THREADS

Needs torch 2.11.0 and transformers (bench/run.sh makes a venv for it). Prefill
is one forward of TOKENS tokens; decode is one token on the state after it. The
median of three, after a warm-up of each.
"""

import json
import statistics
import sys
import time

import torch
import transformers


def main():
    folder, tokens, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, tokens))
    prefill, decode = [], []
    with torch.inference_mode():
        for _ in range(4):
            start = time.monotonic()
            out = model(ids, use_cache=True, logits_to_keep=1)
            prefill.append(time.monotonic() - start)
            cache = out.cache_params
            for step in range(8):
                position = torch.tensor([tokens + step])
                start = time.monotonic()
                out = model(
                    ids[:, :1], cache_params=cache, use_cache=True, cache_position=position
                )
                decode.append(time.monotonic() - start)
    print(
        json.dumps(
            {
                "transformers_version": transformers.__version__,
                "transformers_mamba2_prefill_seconds": statistics.median(prefill[1:]),
                "transformers_mamba2_decode_seconds": statistics.median(decode[8:]),
            }
        )
    )


if __name__ == "__main__":
    main()
