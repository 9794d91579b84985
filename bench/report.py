#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Gathers what bench/run.sh measured into one flat JSON object, a page and a plot.

  report.py PARTS RESULT.json RESULTS.md PLOT.svg
"""

import datetime
import json
import math
import pathlib
import platform
import statistics
import sys


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


def gather(parts):
    result = {"machine": machine(), "date": datetime.date.today().isoformat()}
    result.update(load(parts, "engine.json"))
    result.update(kernel_rates(parts))
    shares = []
    for turn in (1, 2, 3):
        engine = load(parts, f"append-{turn}.json")["demo_tokens_per_second"]
        grpc = load(parts, f"load-{turn}.json")["load_tokens_per_second"]
        result[f"grpc_turn_{turn}_engine_tokens_per_second"] = engine
        result[f"grpc_turn_{turn}_tokens_per_second"] = grpc
        shares.append(grpc / engine)
    result["grpc_share_of_engine"] = statistics.median(shares)
    stream = load(parts, "stream.json")
    windows = stream["load_window_ms_per_1000_tokens"]
    resident = stream["load_window_resident_bytes"]
    result["stream_tokens"] = stream["load_tokens"]
    result["stream_tokens_per_second"] = stream["load_tokens_per_second"]
    for number, (ms, bytes_) in enumerate(zip(windows, resident), 1):
        result[f"stream_window_{number:02d}_ms_per_1000_tokens"] = ms
        result[f"stream_window_{number:02d}_resident_bytes"] = bytes_
    result["stream_last_over_first"] = windows[-1] / windows[0]
    tokens = stream["load_window_tokens"] * (len(windows) - 1)
    # Scores are asked for: a token's log is 8 bytes.
    result["stream_resident_growth_bytes"] = resident[-1] - resident[0]
    result["stream_growth_beyond_log_bytes"] = resident[-1] - resident[0] - 8 * tokens
    result.update(load(parts, "transformers.json"))
    result["mamba2_prefill_times_transformers"] = (
        result["transformers_mamba2_prefill_seconds"] / result["mamba2_prefill_4096_seconds"]
    )
    result["mamba2_decode_times_transformers"] = (
        result["transformers_mamba2_decode_seconds"] / result["mamba2_decode_seconds"]
    )
    return result


GOALS = [
    ("decode_1_share_of_torch", "one session's decode, share of torch's matrix-vector rate", "≥ 0.50"),
    ("decode_16_share_of_torch", "16 sessions together, share of torch's GEMM rate at 16 rows", "≥ 0.50"),
    ("stream_256_share_of_torch", "streaming, share of torch's GEMM rate at 256 rows", "≥ 0.50"),
    ("kernel_recurrent_share_of_copy", "the recurrent step, share of the copy rate of states beyond the caches", "≥ 0.70"),
    ("grpc_share_of_engine", "gRPC beside the engine alone, appends of 256", "≥ 0.90"),
    ("mamba2_prefill_times_transformers", "prefill of 4,096 tokens, times transformers' Mamba-2", "≥ 3"),
    ("mamba2_decode_times_transformers", "one-token decode, times transformers' Mamba-2", "given"),
    ("stream_last_over_first", "ms per 1,000 tokens, last 100,000 over first 100,000", "≤ 1.05"),
    ("stream_growth_beyond_log_bytes", "resident memory beyond the log, bytes", "≤ 4,194,304"),
]


def page(result):
    lines = [
        "# Measured on a CPU",
        "",
        "Made by `./run bench` (`bench/report.py`); all numbers of one run are in `results/cpu.json`.",
        "",
        f"Machine: {result['machine']}. Date: {result['date']}.",
        f"Large model: random Gated DeltaNet, {result['large_parameters'] / 1e6:.0f} M parameters, fp32.",
        "",
        "| what | goal | measured |",
        "|---|---|---|",
    ]
    for key, text, goal in GOALS:
        value = result.get(key)
        shown = "not measured" if value is None else f"{value:,.0f}" if abs(value) > 1000 else f"{value:.2f}"
        lines.append(f"| {text} | {goal} | {shown} |")
    lines += ["", "| number | value |", "|---|---|"]
    for key in sorted(result):
        value = result[key]
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        lines.append(f"| {key} | {shown} |")
    return "\n".join(lines) + "\n"


class Plot:
    """A log-log plot in plain SVG."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 76, 24, 56, 56

    def __init__(self, title, x_range, y_range):
        self.x_range, self.y_range = x_range, y_range
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.WIDTH} {self.HEIGHT}" '
            'font-family="sans-serif" font-size="13">',
            f'<rect width="{self.WIDTH}" height="{self.HEIGHT}" fill="#ffffff"/>',
            f'<text x="{self.LEFT}" y="26" font-size="16" fill="#1c1c1c">{title}</text>',
        ]

    def x(self, value):
        low, high = map(math.log10, self.x_range)
        width = self.WIDTH - self.LEFT - self.RIGHT
        return self.LEFT + (math.log10(value) - low) / (high - low) * width

    def y(self, value):
        low, high = map(math.log10, self.y_range)
        height = self.HEIGHT - self.TOP - self.BOTTOM
        return self.HEIGHT - self.BOTTOM - (math.log10(value) - low) / (high - low) * height

    def axes(self, x_label, y_label, x_ticks, y_ticks):
        for value, text in x_ticks:
            at = self.x(value)
            self.parts.append(
                f'<line x1="{at:.1f}" y1="{self.TOP}" x2="{at:.1f}" y2="{self.HEIGHT - self.BOTTOM}" stroke="#e4e4e4"/>'
                f'<text x="{at:.1f}" y="{self.HEIGHT - self.BOTTOM + 18}" text-anchor="middle" fill="#444">{text}</text>'
            )
        for value, text in y_ticks:
            at = self.y(value)
            self.parts.append(
                f'<line x1="{self.LEFT}" y1="{at:.1f}" x2="{self.WIDTH - self.RIGHT}" y2="{at:.1f}" stroke="#e4e4e4"/>'
                f'<text x="{self.LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#444">{text}</text>'
            )
        self.parts.append(
            f'<text x="{(self.LEFT + self.WIDTH - self.RIGHT) / 2}" y="{self.HEIGHT - 14}" text-anchor="middle" fill="#1c1c1c">{x_label}</text>'
            f'<text transform="translate(20 {(self.TOP + self.HEIGHT - self.BOTTOM) / 2}) rotate(-90)" text-anchor="middle" fill="#1c1c1c">{y_label}</text>'
        )

    def line(self, points, colour, dashed=False, marks=False):
        path = " ".join(f"{self.x(px):.1f},{self.y(py):.1f}" for px, py in points)
        dash = ' stroke-dasharray="6 5"' if dashed else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2"{dash}/>')
        if marks:
            for px, py in points:
                self.parts.append(f'<circle cx="{self.x(px):.1f}" cy="{self.y(py):.1f}" r="3.5" fill="{colour}"/>')

    def label(self, point, text, colour, anchor="start", dy=-10):
        self.parts.append(
            f'<text x="{self.x(point[0]):.1f}" y="{self.y(point[1]) + dy:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
        )

    def text(self):
        return "\n".join(self.parts + ["</svg>"]) + "\n"


def plot(result):
    windows = sorted(k for k in result if k.startswith("stream_window_") and k.endswith("tokens"))
    step = result["stream_tokens"] / len(windows)
    # The first point stands at 1,000, which the first window's mean holds for.
    ours = [(1000, result[windows[0]])]
    ours += [(step * (i + 1), result[name]) for i, name in enumerate(windows)]
    measured = [(n * 1000, result[f"reencode_{n}k_seconds"] * 1000) for n in (1, 2, 4, 8, 16, 32)]
    per_token = measured[-1][1] / measured[-1][0]
    computed = [measured[-1]] + [(n, n * per_token) for n in (64e3, 128e3, 256e3, 512e3, 1e6)]
    top = 10 ** math.ceil(math.log10(computed[-1][1]))
    low = 10 ** math.floor(math.log10(min(y for _, y in ours)))
    figure = Plot("What an append of 1,000 tokens costs, by the position it is made at", (1000, 1e6), (low, top))
    ticks = []
    value = low
    while value <= top:
        ticks.append((value, f"{value:,.0f} ms"))
        value *= 10
    figure.axes(
        "position (tokens the session has accepted)",
        "milliseconds per append of 1,000 tokens",
        [(1e3, "1,000"), (1e4, "10,000"), (1e5, "100,000"), (1e6, "1,000,000")],
        ticks,
    )
    figure.line(ours, "#1565c0", marks=True)
    figure.label(ours[len(ours) // 2], "Weir: the state is kept", "#1565c0", anchor="middle", dy=24)
    figure.line(measured, "#c0392b", marks=True)
    figure.line(computed, "#c0392b", dashed=True)
    figure.label(measured[3], "no state kept: the document is encoded again", "#c0392b", anchor="end")
    figure.label(computed[-2], "computed", "#c0392b", anchor="end")
    figure.parts.append(
        f'<text x="{Plot.LEFT}" y="44" font-size="11" fill="#666">demo model, {result["machine"]}, {result["date"]}</text>'
    )
    return figure.text()


def main():
    parts, json_path, page_path, plot_path = map(pathlib.Path, sys.argv[1:5])
    result = gather(parts)
    json_path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    page_path.write_text(page(result))
    plot_path.write_text(plot(result))


if __name__ == "__main__":
    main()
