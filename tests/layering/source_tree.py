# SPDX-License-Identifier: Apache-2.0
"""The files of the project and their C++ text, read once for the checks."""

import os
import re

# Built, fetched or binary: nobody's source.
IGNORED = re.compile(r"^(\.git|\.deps|build.*|out|__pycache__|\.cache|node_modules)$")
DATA = ("models/", "tests/golden/", "bench/results/", "fuzz/corpus/")
CPP = (".h", ".cc", ".cu", ".cuh")


def files(root):
    """Every file below root, as a path relative to it, in order."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not IGNORED.match(f))
        for name in sorted(names):
            found.append(os.path.relpath(os.path.join(folder, name), root))
    return found


def is_cpp(path):
    return path.endswith(CPP)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
        return file.read()


_TOKEN = re.compile(
    r"""//[^\n]*
      | /\*.*?\*/
      | (?:u8|u|U|L)?R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"
      | "(?:\\.|[^"\\\n])*"
      | (?<![0-9a-zA-Z_])'(?:\\.|[^'\\\n])+'
    """,
    re.DOTALL | re.VERBOSE,
)


def without_comments_and_strings(text):
    """The text with comments and literals blanked; lines stay where they are."""

    def blank(match):
        piece = match.group(0)
        if piece.startswith(("//", "/*")):
            return re.sub(r"[^\n]", " ", piece)
        return '"' + re.sub(r"[^\n]", " ", piece[1:-1]) + '"'

    return _TOKEN.sub(blank, text)
