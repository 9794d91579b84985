#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes bench/RESULTS.md from what lies in bench/results/.

    bench/results_page.py                  write it
    bench/results_page.py merge GROUP      take one group's numbers of a card from the
                                           standard input, and write it

A card's numbers lie in a file of its own, h100.json for an H100: flat, name -> number, with
`card`, `driver` and, for each group that was measured, the day.
"""

import datetime
import json
import pathlib
import re
import subprocess
import sys

BENCH = pathlib.Path(__file__).resolve().parent
RESULTS = BENCH / "results"
PAGE = BENCH / "RESULTS.md"

CPU_GOALS = [
    ("decode_1_share_of_torch", "one session's decode, share of torch's matrix-vector rate", "≥ 0.50"),
    ("decode_16_share_of_torch", "16 sessions together, share of torch's GEMM rate at 16 rows", "≥ 0.50"),
    ("stream_256_share_of_torch", "streaming, share of torch's GEMM rate at 256 rows", "≥ 0.50"),
    ("kernel_recurrent_share_of_copy", "the recurrent step, share of the copy rate of states beyond the caches", "≥ 0.70"),
    ("mixer_slowest_step_share_of_copy", "every mixer's step, the slowest, share of the copy rate of states beyond the caches", "≥ 0.60"),
    ("mixer_elementwise_step_share_of_copy", "Mamba-1's step, which its exponentials bound, likewise", "given"),
    ("mixer_slowest_prefill_share_of_gemm", "every mixer's prefill of 2,048 tokens, the slowest, share of torch's GEMM rate", "≥ 0.40"),
    ("mixer_elementwise_prefill_share_of_gemm", "Mamba-1's prefill, whose scan is no product, likewise", "given"),
    ("ggml_gdn_step_times", "Gated DeltaNet's step, times ggml's `gated_delta_net` (built for AVX2)", "≥ 3"),
    ("ggml_gdn_step_avx2_times", "the same with our AVX2 kernels", "given"),
    ("grpc_share_of_engine", "gRPC beside the engine alone, appends of 256", "≥ 0.90"),
    ("tokenizer_slowest_mbytes_per_second", "tokenizers on one core, the slowest, MB/s", "≥ 5"),
    ("tokenizer_line_times_mixed", "a mebibyte of one character, time a byte over mixed text's, the worst", "≤ 1"),
    ("mamba2_prefill_times_transformers", "prefill of 4,096 tokens, times transformers' Mamba-2", "≥ 3"),
    ("mamba2_decode_times_transformers", "one-token decode, times transformers' Mamba-2", "given"),
    ("stream_last_over_first", "ms per 1,000 tokens, last 100,000 over first 100,000", "≤ 1.05"),
    ("stream_growth_beyond_log_bytes", "resident memory beyond the log, bytes", "≤ 4,194,304"),
]

# The goals are an H100's; a share or a ratio is the same for another card.
GPU_GOALS = [
    ("decode_fp32_share_of_copy", "decode, fp32 state written every step, 2,048 state-heads, share of an in-place copy of all its bytes", "≥ 0.97"),
    ("decode_fp32_512_share_of_copy", "the same, 512 state-heads", "≥ 0.95"),
    ("decode_bf16_share_of_copy", "the same, bf16 state, 2,048 state-heads", "≥ 0.92"),
    ("ring_speedup_fp32", "the ring form, times our own step that writes every time", "≥ 1.60"),
    ("mixer_b1_us", "Gated DeltaNet's mixer without projections, one row, in a graph, µs", "≤ 7"),
    ("append16_cost_ratio", "the mixer over 16 tokens a row, over one token's time", "≤ 1.25"),
    ("gdn_prefill_8x8192_vs_fla", "Gated DeltaNet's prefill, 8 × 8,192, times fla", "≥ 4.0"),
    ("gdn_prefill_1x8192_vs_fla", "the same, 1 × 8,192", "≥ 3.0"),
    ("scalar_prefill_8x8192_vs_fla", "prefill with a scalar decay, 8 × 8,192, 32 heads, times fla", "≥ 2.0"),
    ("kda_prefill_8x8192_vs_fla", "KDA's prefill, 8 × 8,192, 32 heads, times fla", "≥ 3.0"),
    ("e2e_decode_b1_tok_s", "Gated DeltaNet of 1.57 B, decode of one session, tokens/s", "≥ 800"),
    ("e2e_decode_b256_tok_s", "the same, 256 sessions, fp32 state written every step", "≥ 14,000"),
    ("e2e_decode_b256_ring_tok_s", "the same with the ring", "≥ 20,000"),
    ("e2e_prefill_tok_s", "the same, prefill of 65,536 tokens, tokens/s", "≥ 175,000"),
    ("grpc_share", "through gRPC, 256 sessions, against in process", "≥ 0.93"),
    ("append_flatness", "256 tokens at position 1,000,000 over at 1,000", "≤ 1.02"),
    ("resident_sessions", "sessions of that model resident on one card", "≥ 850"),
]


def shown(value):
    if value is None:
        return "not measured"
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) > 1000 else f"{value:.2f}"


def table(result, goals):
    lines = ["| what | goal | measured |", "|---|---|---|"]
    lines += [f"| {text} | {goal} | {shown(result.get(key))} |" for key, text, goal in goals]
    lines += ["", "| number | value |", "|---|---|"]
    for key in sorted(result):
        value = result[key]
        lines.append(f"| {key} | {f'{value:.6g}' if isinstance(value, float) else value} |")
    return lines


def cpu_part(result):
    return [
        "## On a CPU",
        "",
        "Made by `./run bench` (`bench/report.py`); all numbers of one run are in `results/cpu.json`.",
        "",
        f"Machine: {result['machine']}. Date: {result['date']}.",
        f"Large model: random Gated DeltaNet, {result['large_parameters'] / 1e6:.0f} M parameters, fp32.",
        "",
        *table(result, CPU_GOALS),
    ]


def card_part(name, result):
    groups = sorted(key[: -len("_date")] for key in result if key.endswith("_date"))
    return [
        "",
        f"## On an {name.upper()}",
        "",
        f"Made by `./run bench --gpu GROUP`, GROUP one of {', '.join(f'`{g}`' for g in groups)};"
        f" all numbers are in `results/{name}.json`. The goals are those of an H100.",
        "",
        f"Card: {result['card']}, driver {result['driver']}.",
        "",
        *table(result, GPU_GOALS),
    ]


def write_page():
    lines = ["# Measured", ""]
    lines += cpu_part(json.loads((RESULTS / "cpu.json").read_text()))
    for path in sorted(RESULTS.glob("*.json")):
        if path.name != "cpu.json":
            lines += card_part(path.stem, json.loads(path.read_text()))
    PAGE.write_text("\n".join(lines) + "\n")


def card():
    """Name and driver of the first GPU, and the name of its file."""
    row = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True, check=True, text=True,
    ).stdout.splitlines()[0]
    name, driver = (part.strip() for part in row.split(","))
    model = re.search(r"\b([A-Z]+\d+\w*)\b", name)
    return name, driver, (model.group(1) if model else name.replace(" ", "-")).lower()


def merge(group, numbers):
    name, driver, stem = card()
    path = RESULTS / f"{stem}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result.update(numbers)
    result.update({"card": name, "driver": driver})
    result[f"{group}_date"] = datetime.date.today().isoformat()
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    return path


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "merge":
        print(f"wrote {merge(sys.argv[2], json.load(sys.stdin))}")
    elif len(sys.argv) != 1:
        sys.exit(__doc__)
    write_page()


if __name__ == "__main__":
    main()
