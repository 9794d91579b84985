# SPDX-License-Identifier: Apache-2.0
"""Holds the sizes, names and small habits that no compiler checks.

Limits are lifted nowhere: what is too long is cut.
"""

import os
import re
import sys

import functions
import source_tree

FUNCTION_LINES = 70
KERNEL_LINES = 150
HEADER_LINES = 200
FILE_LINES = 500
TEST_FILE_LINES = 800

# What counts as source and so opens with its licence.
SOURCE = re.compile(
    r"(\.(h|cc|cu|cuh|proto|py|sh|cmake|yaml|yml|env)|(^|/)(CMakeLists\.txt|Dockerfile|run))$"
)
LIFTED = re.compile(r"// NOLINT\(readability-function-size\): \S")
PROSE = re.compile(r"\.(md|txt)$")
LICENCE = "SPDX-License-Identifier: Apache-2.0"

# Rooms without a subject, and versions that belong to git.
FILE_NAME = re.compile(
    r"(^|[/_.-])(utils?|common|helpers?|managers?|misc|impl|v[0-9]+|new|old|bak|orig|copy)([_.-]|/|$)"
)
# The wire contract's version is part of its package's name.
FILE_NAME_EXEMPT = re.compile(r"^proto/weir/v1/")

# Words that stand for another word of docs/ARCHITECTURE.md's list.
IDENTIFIER = re.compile(r"\b\w*(Manager|Helper|Utils?|kv_?[Cc]ache|KV[Cc]ache)\b")
USING_NAMESPACE = re.compile(r"\busing\s+namespace\b")
DISABLED = re.compile(r"^\s*#\s*if\s+0\b")
SKIPPED = re.compile(r"\b(GTEST_SKIP|DISABLED_\w+)")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#\d+\): \S)")
# A machine's own paths and hosts: what they name is elsewhere another place.
MACHINE = re.compile(r"(?<![\w.}/-])/(work|home|root)/|\.library\b")
HOST = re.compile(
    r"\b(pypi\.org|files\.pythonhosted\.org|deb\.debian\.org|docker\.io|registry-1\.docker)\b"
)


def line_limit(path):
    if path.startswith("tests/"):
        return TEST_FILE_LINES
    return HEADER_LINES if path.endswith((".h", ".cuh")) else FILE_LINES


def long_things(path, text):
    count = text.count("\n") + (not text.endswith("\n"))
    if count > line_limit(path):
        yield f"{path}:{count}: {count} lines, at most {line_limit(path)}"
    if not source_tree.is_cpp(path):
        return
    lines = text.split("\n")
    for function in functions.functions(text):
        limit = KERNEL_LINES if function.kernel else FUNCTION_LINES
        # Lifted on the function's first line, with a reason, or not at all.
        if LIFTED.search(lines[function.line - 1]):
            continue
        if function.lines > limit:
            yield (f"{path}:{function.line}: {function.name} has {function.lines} lines, "
                   f"at most {limit}")


def head(path, text):
    lines = text.split("\n", 3)
    first = lines[1] if lines[0].startswith(("#!", "# syntax=")) and len(lines) > 1 else lines[0]
    if LICENCE not in first:
        yield f"{path}:1: the first line is not '{LICENCE}'"
    if path.endswith((".h", ".cuh")) and "\n#pragma once\n" not in text:
        yield f"{path}:1: has no #pragma once"


def words(path, text):
    """Line by line: what a file may not say."""
    code = source_tree.without_comments_and_strings(text) if source_tree.is_cpp(path) else ""
    for number, line in enumerate(code.split("\n"), 1):
        for pattern in (IDENTIFIER, USING_NAMESPACE, DISABLED, SKIPPED):
            match = pattern.search(line)
            if match:
                yield f"{path}:{number}: says '{match.group(0).strip()}'"
    if path.startswith("tests/layering/"):
        return
    # A page may speak of unfinished things; a source may not hold one.
    patterns = (MACHINE, HOST) if PROSE.search(path) else (UNFINISHED, MACHINE, HOST)
    for number, line in enumerate(text.split("\n"), 1):
        for pattern in patterns:
            match = pattern.search(line)
            if match:
                yield f"{path}:{number}: says '{match.group(0).strip()}'"


def problems(root):
    """All findings below root, as 'file:line: what', and the files read."""
    found, count = [], 0
    for path in source_tree.files(root):
        if path.startswith(source_tree.DATA) and not SOURCE.search(path):
            continue
        if FILE_NAME.search(path) and not FILE_NAME_EXEMPT.match(path):
            found.append(f"{path}:1: a file name says what is in it, and no version")
        source = SOURCE.search(path)
        if not source and not PROSE.search(path):
            continue
        count += 1
        text = source_tree.read(root, path)
        found.extend(words(path, text))
        if source:
            found.extend(head(path, text))
            found.extend(long_things(path, text))
    return found, count


def main():
    found, count = problems(os.path.abspath(sys.argv[1]))
    for problem in found:
        print(problem)
    print(f"sizes: {count} files, {len(found)} findings")
    return 1 if found or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
