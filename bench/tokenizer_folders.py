#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what weir-tokenizer-bench measures: tokenizers, trained here, and text.

  tokenizer_folders.py FOLDERS      run by the Python of .deps/venv-test
"""

import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "text"))

import pyrwkv_tokenizer  # noqa: E402
from tokenizers import Regex, pre_tokenizers  # noqa: E402

import parity  # noqa: E402
from parity_corpus import Corpus  # noqa: E402

MEGABYTES = 4


def write(folder, tokenizer, change=None):
    file = json.loads(tokenizer.to_str())
    if change:
        change(file)
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")


def main():
    folders = pathlib.Path(sys.argv[1])
    folders.mkdir(parents=True, exist_ok=True)
    mixed = "".join(Corpus(parity.SEED).documents(MEGABYTES))
    (folders / "mixed.txt").write_bytes(mixed.encode())
    sample = Corpus(parity.SEED + 1).documents(1)
    words = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(parity.LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    write(folders / "bpe_bytes", parity.byte_level(words, None, sample, ignore_merges=True))
    spaces = parity.space_level(sample)
    write(folders / "bpe_spaces", spaces)
    write(folders / "bpe_spaces_one_word", spaces, parity.without_words)
    (folders / "rwkv").mkdir(exist_ok=True)
    name = "rwkv_vocab_v20230424.txt"
    shutil.copy(pathlib.Path(pyrwkv_tokenizer.__file__).parent / name, folders / "rwkv")


if __name__ == "__main__":
    main()
