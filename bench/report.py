#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Gathers what bench/run.sh measured into one flat JSON object, RESULTS.md and a plot.

  report.py PARTS RESULT.json PLOT.svg
"""

import datetime
import json
import pathlib
import platform
import statistics
import sys

import results_page


def machine():
    model = "unknown processor"
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    cores = len([l for l in open("/proc/cpuinfo") if l.startswith("processor")])
    flags = open("/proc/cpuinfo").read()
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "baseline"
    return f"{model}, {cores} cores, {vectors}, {platform.system()} {platform.machine()}"


def load(parts, name):
    return json.loads((parts / name).read_text())


def kernel_rates(parts):
    """name -> the counters that weir-kernels-bench gives each of its runs."""
    rates = {}
    for run in load(parts, "kernels.json")["benchmarks"]:
        name = run["name"].replace("/", "_").replace(":", "_").lower()
        for key in ("gbytes_per_second", "share_of_copy", "ns_per_token"):
            if key in run:
                rates[f"kernel_{name}_{key}"] = run[key]
    return rates


def tokenizer_rates(parts):
    """name -> MB/s of weir-tokenizer-bench; a line of one character over mixed text."""
    rates, speed = {}, {}
    for run in load(parts, "tokenizers.json")["benchmarks"]:
        speed[run["name"]] = run["mbytes_per_second"]
        rates[f"tokenizer_{run['name']}_mbytes_per_second"] = run["mbytes_per_second"]
    encode = {name: rate for name, rate in speed.items() if "decode" not in name}
    rates["tokenizer_slowest_mbytes_per_second"] = min(encode.values())
    rates["tokenizer_line_times_mixed"] = max(
        speed[name.rsplit("_one_", 1)[0] + "_mixed"] / rate
        for name, rate in encode.items() if name.endswith("_line"))
    return rates


# Its scan has no products, and takes sixteen exponentials a channel: arithmetic
# bounds it, in a prefill and in a step.
ELEMENTWISE = ("mixer_mamba_", "mixer_falcon_mamba_")


def mixer_rates(parts):
    """What weir-mixers-bench gives, and which mixers come least near their bounds."""
    rates = load(parts, "mixers.json")
    for share in ("step_share_of_copy", "prefill_share_of_gemm"):
        shares = {name: value for name, value in rates.items()
                  if name.endswith(share) and not name.startswith(ELEMENTWISE)}
        slowest = min(shares, key=shares.get)
        rates[f"mixer_slowest_{share}"] = shares[slowest]
        rates[f"mixer_slowest_{share.split('_')[0]}"] = slowest[len("mixer_"):-len(share) - 1]
    for share in ("step_share_of_copy", "prefill_share_of_gemm"):
        rates[f"mixer_elementwise_{share}"] = min(rates[name + share] for name in ELEMENTWISE)
    return rates


def gather(parts):
    result = {"machine": machine(), "date": datetime.date.today().isoformat()}
    result.update(load(parts, "engine.json"))
    result.update(mixer_rates(parts))
    result.update(load(parts, "ggml.json"))
    result.update(kernel_rates(parts))
    result.update(tokenizer_rates(parts))
    shares = []
    for turn in (1, 2, 3):
        engine = load(parts, f"append-{turn}.json")["demo_tokens_per_second"]
        grpc = load(parts, f"load-{turn}.json")["load_tokens_per_second"]
        result[f"grpc_turn_{turn}_engine_tokens_per_second"] = engine
        result[f"grpc_turn_{turn}_tokens_per_second"] = grpc
        shares.append(grpc / engine)
    result["grpc_share_of_engine"] = statistics.median(shares)
    stream = load(parts, "stream.json")
    early = zip(stream["load_early_positions"], stream["load_early_ms_per_1000_tokens"])
    for number, (position, ms) in enumerate(early, 1):
        result[f"stream_early_{number:02d}_position"] = position
        result[f"stream_early_{number:02d}_ms_per_1000_tokens"] = ms
    windows = stream["load_window_ms_per_1000_tokens"]
    resident = stream["load_window_resident_bytes"]
    result["stream_tokens"] = stream["load_tokens"]
    result["stream_tokens_per_second"] = stream["load_tokens_per_second"]
    for number, (ms, bytes_) in enumerate(zip(windows, resident), 1):
        result[f"stream_window_{number:02d}_ms_per_1000_tokens"] = ms
        result[f"stream_window_{number:02d}_resident_bytes"] = bytes_
    result["stream_last_over_first"] = windows[-1] / windows[0]
    # From the first appends on. Scores are asked for: a token's log is 8 bytes.
    grown = resident[-1] - stream["load_first_resident_bytes"]
    tokens = stream["load_tokens"] - stream["load_first_position"]
    result["stream_resident_growth_bytes"] = grown
    result["stream_growth_beyond_log_bytes"] = grown - 8 * tokens
    result.update(load(parts, "transformers.json"))
    result["mamba2_prefill_times_transformers"] = (
        result["transformers_mamba2_prefill_seconds"] / result["mamba2_prefill_4096_seconds"]
    )
    result["mamba2_decode_times_transformers"] = (
        result["transformers_mamba2_decode_seconds"] / result["mamba2_decode_seconds"]
    )
    return result


def plot(result, path):
    """What an append costs, by position: ours, and without a state."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "weir", "font.size": 10})
    from matplotlib import pyplot, ticker

    early = [(result[f"stream_early_{n:02d}_position"], result[f"stream_early_{n:02d}_ms_per_1000_tokens"])
             for n in range(1, 100) if f"stream_early_{n:02d}_position" in result]
    windows = sorted(k for k in result if k.startswith("stream_window_") and k.endswith("tokens"))
    step = result["stream_tokens"] / len(windows)
    ours = early + [(step * n, result[name]) for n, name in enumerate(windows, 1)]
    measured = [(n * 1000, result[f"reencode_{n}k_seconds"] * 1000) for n in (1, 2, 4, 8, 16, 32)]
    per_token = measured[-1][1] / measured[-1][0]
    computed = [measured[-1], (result["stream_tokens"], result["stream_tokens"] * per_token)]

    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    stateless, weir = "#c0392b", "#1565c0"
    axes.loglog(*zip(*measured), "o-", color=stateless, label="stateless: the document is encoded again")
    axes.loglog(*zip(*computed), "--", color=stateless, label="the same, computed")
    axes.loglog(*zip(*ours), "o-", color=weir, label="Weir: the state is kept")
    axes.set_xlim(900, 1.1 * result["stream_tokens"])
    axes.set_ylim(10, None)
    axes.set_xlabel("position (tokens the session has accepted)")
    axes.set_ylabel("milliseconds per append of 1,000 tokens")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(True, which="major", color="#e4e4e4")
    axes.legend(loc="upper left", frameon=False)
    figure.suptitle("What an append of 1,000 tokens costs, by the position it is made at", fontsize=12)
    axes.set_title(f"demo model, {result['machine']}, {result['date']}", fontsize=8, color="#555")
    figure.savefig(path, format="svg", metadata={"Date": None})


def main():
    parts, json_path, plot_path = map(pathlib.Path, sys.argv[1:4])
    result = gather(parts)
    json_path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    results_page.write_page()
    plot(result, plot_path)


if __name__ == "__main__":
    main()
