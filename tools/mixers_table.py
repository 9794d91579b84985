#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/mixers.md.

    tools/mixers_table.py           write it
    tools/mixers_table.py --check   say whether what is committed is what this would write

Its rows are bench/mixers.json's, one a mixer, and every family of the registry must be
among them; its tests are those of tests/golden/, tests/conformance/ and tests/engine/; its
numbers are bench/results/cpu.json's, which ./run bench measures.
"""

import collections
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mixers.md"

HEAD = """# Mixers

Made by `tools/mixers_table.py`. `S` is the state of a head, `[K, V]`; `q`, `k`, `v` are what the mixer's projections,
convolutions and norms make of a token. What is measured is one mixer alone at a width of 1,024, fp32, random weights,
without the norms and the MLP of a layer: {machine}, {date}, `./run bench`.

- State: bytes of one session, all that the mixer keeps of it. It is constant, however long the session is.
- FLOPs: of one token's matrix products, the projections and the chunk form's. Weights: bytes of the projections.
- Step: the recurrent step over states beyond the caches, share of the rate at which memory of that size is copied.
- Prefill: of 2,048 tokens, share of what torch's product of 1,024 × 1,024 matrices reaches.
- Tokens/s: of one session; of 16 that are stepped together; of a prefill.

Memory bounds the step of most mixers. Arithmetic bounds that of Mamba-1 and Falcon-Mamba, which take an exponential for
each number of their state, and weighs as much as memory in RWKV-4, which takes two exponentials and exact sums a
channel, and in Gated DeltaProduct, which updates its state n times a token.
"""

TAIL = """
## What the tests hold

Golden tests compare the logits and the greedy continuation with those of the authors' own code, in one append and in
appends of 256, 100, 7 and 1 tokens alike (`ctest --test-dir build -L golden`). The mixer suite
(`weir_conformance_mixer_*`) compares whole mixers, in as many configurations as the table says, and the other tests of
`ctest --test-dir build -L conformance` the kernels, recurrent and chunked, with an fp64 reference
([numerics.md](numerics.md)). Where nothing is published to compare with, a test of `-L engine` holds the mixer against
the formula in fp64.

transformers 5.17 cannot itself be the measure of an append of several tokens to a session: for five families (`mamba`,
`falcon_mamba`, `jamba`, `zamba`, `recurrent_gemma`) its multi-token append ignores the state that is held, and its
logits are then wrong by 0.5 to 5; for `minimax` it raises an error. For Mamba-2 with a `time_step_limit` its one-token
step leaves out the limit that its own prefill applies. Its forward over the whole document is right, and is what the
golden files hold.

## What quality to expect

A state of constant size cannot hold all of a long document: what can be recalled word for word is bounded by the
state's size. The field's own answer is the hybrid, three to six recurrent layers to one of full attention
([2507.06457](https://arxiv.org/abs/2507.06457)), which this server does not serve.

- Deployed widely, mostly within hybrids: Gated DeltaNet, KDA, Mamba-2; RWKV-7 alone.
- Deployed, more narrowly: Lightning, Mamba-1, mLSTM.
- Research baselines with published weights: GLA, GSA, DeltaNet, HGRN2, RetNet, RWKV-6; RWKV-4 is superseded by
  its successors.
- Of historical weight: the Linear Transformer, the Performer, Linformer; their recall lies well below the first
  group's. A causal Linformer's weights must be trained in that form, and it ends at `n_max` positions.
- Young, without published models: GDN-2, Gated DeltaProduct at scale.

A model that was trained on short documents goes on beyond them at no further cost, but not always well: GetModel says
the trained length where the checkpoint does. Where sessions end, as a causal Linformer's do, it says so as
`positions_max`.

Not served, because they cannot be streamed: FNet mixes all positions of a text with each other, and so does Linformer
as it was published, bidirectional: neither has a causal recurrence, and each new token would change what was said of
all earlier ones.
"""


def registry():
    text = (ROOT / "engine/mixers/registry.cc").read_text(encoding="utf-8")
    return set(re.findall(r'^    \{"(\w+)",', text, re.MULTILINE))


def golden():
    """model_type -> the folders of tests/golden/, all of which its test reads."""
    folders = {}
    for file in sorted((ROOT / "tests/golden").glob("*/golden.safetensors")):
        config = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        folders.setdefault(config["model_type"], []).append(file.parent.name)
    return folders


def suite():
    """model_type -> how many rows the suite of whole mixers has of it."""
    text = (ROOT / "tests/conformance/mixer_rows.cc").read_text(encoding="utf-8")
    return collections.Counter(re.findall(r'"model_type": "(\w+)"', text))


def tests():
    """The names of the tests of kernels and engine."""
    names = set()
    for folder in ("conformance", "engine"):
        text = (ROOT / "tests" / folder / "CMakeLists.txt").read_text(encoding="utf-8")
        names.update(re.findall(r"weir_test\((\w+)\s", text))
        for listed, pattern in re.findall(r"foreach\(name ([\w\s]+)\)\s*weir_test\((\S+)", text):
            names.update(pattern.replace("${name}", name) for name in listed.split())
    return names


def problems(rows, folders):
    """What is missing or of no use, as sentences."""
    served, known = registry(), tests()
    told = {family for row in rows for family in row["model_types"]}
    found = [f"bench/mixers.json has no row for {family}" for family in sorted(served - told)]
    found += [f"{family} is not in the registry" for family in sorted(told - served)]
    found += [f"no row for the golden tests of {family}" for family in sorted(set(folders) - told)]
    for row in rows:
        found += [f"{row['name']}: no test {test}" for test in row["suite"] if test not in known]
        if not any(family in folders for family in row["model_types"]) and not row["suite"]:
            found.append(f"{row['name']}: no test proves it")
    if not served or not folders or not known:
        found.append("nothing was found where it was looked for")
    return found


def table(header, lines):
    rule = "|" + "---|" * header.count("|")
    return ["", f"| {header} |", rule + "---|"] + lines


def number(results, row, key, form):
    value = results.get(f"mixer_{row['name']}_{key}")
    return "not measured" if value is None else form(value)


def whole(value):
    return f"{value:,.0f}"


def page(rows, folders, results):
    out = [HEAD.format(machine=results["machine"], date=results["date"]).rstrip("\n")]
    out += table("mixer | formula | size measured", [
        f"| {row['title']} ([{row['paper']}](https://arxiv.org/abs/{row['paper']})) | `{row['formula'].replace('|', chr(92) + '|')}` | {row['shape']} |"
        for row in rows])
    lines = []
    for row in rows:
        def get(key, form=whole, row=row):
            return number(results, row, key, form)
        share = "{:.2f}".format
        speeds = [get(f"{key}_tokens_per_second") for key in ("decode_1", "decode_16", "prefill")]
        lines.append(
            f"| {row['title']} | {get('state_bytes')} | {get('token_flops')} | {get('projection_bytes')} | "
            f"{get('step_share_of_copy', share)} | {get('prefill_share_of_gemm', share)} | {'; '.join(speeds)} |")
    out += table("mixer | state, bytes | FLOPs a token | weights, bytes | step | prefill | tokens/s: 1; 16; prefill", lines)
    lines = []
    whole_mixers = suite()
    for row in rows:
        names = [name for family in row["model_types"] for name in folders.get(family, [])]
        proofs = ["golden " + ", ".join(f"`{name}`" for name in names)] if names else []
        count = sum(whole_mixers[family] for family in row["model_types"])
        proofs += [f"the mixer suite ({count})"] if count else []
        proofs += [f"`{test}`" for test in row["suite"]]
        families = ", ".join(f"`{family}`" for family in row["model_types"])
        lines.append(f"| {row['title']} | {families} | {row['formats']} | {'; '.join(proofs)} |")
    out += table("mixer | model_type | checkpoints of | tests", lines)
    return "\n".join(out) + "\n" + TAIL


def main():
    rows = json.loads((ROOT / "bench/mixers.json").read_text(encoding="utf-8"))
    results = json.loads((ROOT / "bench/results/cpu.json").read_text(encoding="utf-8"))
    folders = golden()
    found = problems(rows, folders)
    for problem in found:
        print(f"mixers: {problem}")
    if found:
        return 1
    text = page(rows, folders, results)
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text(encoding="utf-8") == text:
            print(f"mixers: docs/mixers.md is right, {len(rows)} mixers")
            return 0
        print("mixers: docs/mixers.md is stale: run tools/mixers_table.py")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
