#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares Weir's tokenizers with the ones they follow: ids and text, to the last.

  parity.py WEIR_TOKENIZE      run by the Python of .deps/venv-test

BPE against PyPI `tokenizers`, on tokenizers trained here; RWKV against
`pyrwkv-tokenizer`, on the vocabulary it brings; NFC against Python itself.
"""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata

import pyrwkv_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from parity_corpus import Corpus

SEED = 20
MEGABYTES = 10
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
PUNCTUATED = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
              r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPACE = "\u2581"


class Failure(Exception):
    pass


def framed(texts):
    return b"".join(struct.pack("=I", len(t)) + t for t in texts)


def frames(output):
    at, out = 0, []
    while at < len(output):
        (size,) = struct.unpack_from("=I", output, at)
        out.append(output[at + 4:at + 4 + size])
        at += 4 + size
    return out


def ours(binary, arguments, texts):
    """What the binary answers to all texts, and the seconds it took."""
    begun = time.monotonic()
    done = subprocess.run([binary, *arguments], input=framed(texts), capture_output=True, check=False)
    if done.returncode != 0:
        raise Failure(done.stderr.decode())
    return frames(done.stdout), time.monotonic() - begun


def say(name, texts, ids, mine, theirs):
    size = sum(len(t) for t in texts) / 1e6
    print(f"{name:28} {size:6.1f} MB {ids:9} ids equal  {mine:5.1f} s ours, {theirs:5.1f} s theirs", flush=True)


def first_difference(text, got, expected):
    at = next((n for n, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    return f"at id {at}: {got[at - 3:at + 6]} for {expected[at - 3:at + 6]} in {text[:200]!r}"


def compare(binary, name, folder, size, texts, encode, decode):
    encoded = [t.encode() for t in texts]
    answers, mine = ours(binary, [str(folder), str(size)], encoded)
    begun = time.monotonic()
    expected = encode(texts)
    theirs = time.monotonic() - begun
    count = 0
    for n, text in enumerate(texts):
        ids = list(struct.unpack(f"={len(answers[2 * n]) // 4}I", answers[2 * n]))
        back = answers[2 * n + 1].decode()
        if ids != expected[n]:
            raise Failure(f"{name}: text {n}, {first_difference(text, ids, expected[n])}, {back[:100]!r}")
        if back != decode(ids):
            raise Failure(f"{name}: text {n} comes back otherwise: {back[:300]!r} for {decode(ids)[:300]!r}")
        count += len(ids)
    say(name, encoded, count, mine, theirs)


def compare_bpe(binary, name, tokenizer, texts, change=None):
    """`change` rewrites the file before both read it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        file = json.loads(tokenizer.to_str())
        if change:
            change(file)
        path.write_text(json.dumps(file), encoding="utf-8")
        read = Tokenizer.from_file(str(path))
        compare(binary, name, folder, read.get_vocab_size(), texts,
                lambda all_: [e.ids for e in read.encode_batch(all_, add_special_tokens=False)], read.decode)


def train(tokenizer, texts, **settings):
    trainer = trainers.BpeTrainer(vocab_size=8000, show_progress=False, max_token_length=16, **settings)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level(pre_tokenizer, normalizer, texts, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, texts, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                 special_tokens=["<|endoftext|>"])


def space_level(texts):
    """As Llama 2's: bytes for what has no token, spaces as a character."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    return train(tokenizer, texts, limit_alphabet=300,
                 special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{n:02X}>" for n in range(256)])


def without_words(file):
    """One word a text, as the first Llama 2 files have it."""
    file["pre_tokenizer"] = None
    file["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]}


def one_line_merges(file):
    file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]


def main_styles(binary, texts, sample):
    split = pre_tokenizers.Split
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC(), sample)
    gpt2.add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 12)])
    compare_bpe(binary, "byte-level, GPT-2's words", gpt2, texts[::4], one_line_merges)
    llama3 = byte_level(pre_tokenizers.Sequence([split(Regex(LLAMA3), "isolated"), bytes_only]), None, sample,
                        ignore_merges=True)
    compare_bpe(binary, "byte-level, Llama 3's words", llama3, texts)
    spaces = space_level(sample)
    compare_bpe(binary, "metaspace, byte fallback", spaces, texts)
    compare_bpe(binary, "the same, one word a text", spaces, texts[::4], without_words)


def other_styles(binary, texts, sample):
    """The other steps, on less text."""
    split = pre_tokenizers.Split
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    several = byte_level(pre_tokenizers.Sequence([
        split(Regex(r"\p{N}{1,3}"), "isolated"), split(Regex("[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"), "isolated"),
        split(Regex(PUNCTUATED), "isolated"), bytes_only]), None, sample)
    compare_bpe(binary, "three splits", several, texts)
    prefixed = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), None, sample)
    prefixed.add_tokens([AddedToken("ing", single_word=True), AddedToken("if", lstrip=True),
                         AddedToken("return", rstrip=True, normalized=False), AddedToken("ret", normalized=False)])
    compare_bpe(binary, "added tokens", prefixed, texts)
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for pattern in ("e", Regex(r"[aeiou]|\d+|\s*"), Regex(r"\w+"), Regex(r"(?<=\p{Han})|\W")):
            for invert in (False, True):
                several.pre_tokenizer = pre_tokenizers.Sequence([split(pattern, behavior, invert), bytes_only])
                compare_bpe(binary, f"split, {behavior}", several, texts[::4])
    for name, steps in (("digits", [pre_tokenizers.Digits(False)]), ("single digits", [pre_tokenizers.Digits(True)]),
                        ("punctuation", [pre_tokenizers.Punctuation()]),
                        ("punctuation, contiguous", [pre_tokenizers.Punctuation("contiguous")]),
                        ("white space", [pre_tokenizers.Whitespace()]),
                        ("at white space", [pre_tokenizers.WhitespaceSplit()])):
        several.pre_tokenizer = pre_tokenizers.Sequence([*steps, bytes_only])
        compare_bpe(binary, name, several, texts)
    spaces = space_level(sample)
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            spaces.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, cut)
            spaces.decoder = decoders.Metaspace(SPACE, scheme)
            spaces.model.byte_fallback = False
            spaces.model.fuse_unk = cut
            compare_bpe(binary, f"metaspace, {scheme}", spaces, texts)


def rwkv(binary, texts):
    theirs = pyrwkv_tokenizer.RWKVTokenizer()
    with tempfile.TemporaryDirectory() as folder:
        name = "rwkv_vocab_v20230424.txt"
        shutil.copy(pathlib.Path(pyrwkv_tokenizer.__file__).parent / name, folder)
        compare(binary, "RWKV", folder, 65536, texts, theirs.encode_batch, theirs.decode)


def nfc(binary, texts):
    points = [chr(n) for n in range(sys.maxunicode + 1) if not 0xD800 <= n < 0xE000]
    marks = ["\u0301", "\u0323", "\u0327", "\u3099", "\u1161", "\u11A8", "\u0338"]
    cases = points + ["".join(points[n:n + 40]) for n in range(0, len(points), 40)]
    cases += [p + m for p in points if unicodedata.category(p) != "Cn" for m in marks]
    rng = Corpus(SEED).rng
    restless = [p for p in points if unicodedata.decomposition(p) or unicodedata.combining(p)]
    cases += ["".join(rng.choices(restless, k=rng.randrange(1, 12))) + rng.choice("a\u1100\uAC00") for _ in range(50000)]
    cases += texts
    got, seconds = ours(binary, ["--nfc"], [c.encode() for c in cases])
    for case, answer in zip(cases, got):
        if answer.decode() != unicodedata.normalize("NFC", case):
            raise Failure(f"NFC of {case[:80]!r}: {answer.decode()[:80]!r}")
    print(f"{'NFC':28} {len(cases)} texts equal  {seconds:5.1f} s", flush=True)


def main():
    binary = sys.argv[1]
    texts = Corpus(SEED).documents(MEGABYTES)
    short = Corpus(SEED + 2).documents(0.2)
    sample = Corpus(SEED + 1).documents(1)
    print(f"seed {SEED}")
    try:
        nfc(binary, texts)
        rwkv(binary, texts)
        main_styles(binary, texts, sample)
        other_styles(binary, short, sample)
    except Failure as failure:
        sys.exit(f"parity: {failure}")


if __name__ == "__main__":
    main()
