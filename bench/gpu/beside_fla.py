#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times flash-linear-attention's chunk kernels on the card, beside our own.

    weir-gpu-prefill-bench | bench/gpu/beside_fla.py

Reads our numbers, adds flash-linear-attention's and the ratios, and prints all. Where
flash-linear-attention is not installed, it says so on the standard error and adds nothing.
Its wheels are not part of the project: unpack 0.6.0's into a folder on PYTHONPATH.
"""

import json
import os
import signal
import statistics
import sys

os.environ["FLA_DISABLE_BACKEND_DISPATCH"] = "1"  # its own Triton kernels

RUNS = 15
CALL_SECONDS = 60  # its kernels are compiled and chosen among in this time too
DIM = 128
VALUE_HEADS = 32
KEY_HEADS = 16


def median_ms(torch, call):
    """Of calls on inputs that the L2 no longer holds, as ours are."""
    evict = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    times = []
    for run in range(-3, RUNS):
        evict.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        if run >= 0:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def inputs(torch, rows, tokens, key_heads):
    def numbers(heads):
        return torch.randn(rows, tokens, heads, DIM, device="cuda", dtype=torch.bfloat16)

    q, k = numbers(key_heads), numbers(key_heads)
    k = torch.nn.functional.normalize(k.float(), dim=-1).to(torch.bfloat16)
    state = torch.randn(rows, VALUE_HEADS, DIM, DIM, device="cuda")
    return q, k, numbers(VALUE_HEADS), state


def gated_delta_rule(torch, rows, tokens):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    q, k, v, state = inputs(torch, rows, tokens, KEY_HEADS)
    g = -torch.rand(rows, tokens, VALUE_HEADS, device="cuda") * 0.1
    beta = torch.rand(rows, tokens, VALUE_HEADS, device="cuda").to(torch.bfloat16)
    return median_ms(torch, lambda: chunk_gated_delta_rule(
        q, k, v, g, beta, initial_state=state, output_final_state=True))


def scalar_decay(torch, rows, tokens):
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v, state = inputs(torch, rows, tokens, VALUE_HEADS)
    g = -torch.rand(rows, tokens, VALUE_HEADS, device="cuda") * 0.1
    return median_ms(torch, lambda: chunk_simple_gla(
        q, k, v, g, initial_state=state, output_final_state=True))


def channel_decay(torch, rows, tokens):
    return torch.nn.functional.logsigmoid(
        torch.randn(rows, tokens, VALUE_HEADS, DIM, device="cuda") + 3)


def kda(torch, rows, tokens):
    from fla.ops.kda import chunk_kda

    q, k, v, state = inputs(torch, rows, tokens, VALUE_HEADS)
    g = channel_decay(torch, rows, tokens)
    beta = torch.rand(rows, tokens, VALUE_HEADS, device="cuda").to(torch.bfloat16)
    return median_ms(torch, lambda: chunk_kda(
        q, k, v, g, beta, initial_state=state, output_final_state=True))


def gla(torch, rows, tokens):
    from fla.ops.gla import chunk_gla

    q, k, v, state = inputs(torch, rows, tokens, VALUE_HEADS)
    g = channel_decay(torch, rows, tokens)
    return median_ms(torch, lambda: chunk_gla(
        q, k, v, g, initial_state=state, output_final_state=True))


# Our name, flash-linear-attention's call, the ratio's name.
PAIRS = [
    ("prefill_gdn_8x8192", gated_delta_rule, (8, 8192), "gdn_prefill_8x8192_vs_fla"),
    ("prefill_gdn_1x8192", gated_delta_rule, (1, 8192), "gdn_prefill_1x8192_vs_fla"),
    ("prefill_retnet_8x8192", scalar_decay, (8, 8192), "scalar_prefill_8x8192_vs_fla"),
    ("prefill_kda_8x8192", kda, (8, 8192), "kda_prefill_8x8192_vs_fla"),
    ("prefill_kda_1x8192", kda, (1, 8192), "kda_prefill_1x8192_vs_fla"),
    ("prefill_gla_8x8192", gla, (8, 8192), "gla_prefill_8x8192_vs_fla"),
]


def out_of_time(_signal, _frame):
    raise TimeoutError


def main():
    signal.signal(signal.SIGALRM, out_of_time)
    numbers = json.load(sys.stdin)
    try:
        import torch
        import fla  # noqa: F401
    except ImportError as why:
        print(f"without flash-linear-attention: {why}", file=sys.stderr)
    else:
        with torch.inference_mode():
            for name, call, shape, ratio in PAIRS:
                signal.alarm(CALL_SECONDS)
                try:
                    ms = call(torch, *shape)
                except TimeoutError:
                    print(f"{ratio}: not measured, over {CALL_SECONDS} s", file=sys.stderr)
                    continue
                finally:
                    signal.alarm(0)
                numbers[f"fla_{name}_ms"] = round(ms, 4)
                numbers[ratio] = round(ms / numbers[f"{name}_ms"], 3)
    json.dump(numbers, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
