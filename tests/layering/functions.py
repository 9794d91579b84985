# SPDX-License-Identifier: Apache-2.0
"""Finds the function definitions of a C++ file and how long each is.

A scanner of braces, not a parser: comments and literals are blanked first, of
an #if only the first branch is read, and each `{` outside a function is
judged by the text before it.
"""

import collections
import re

import source_tree

Function = collections.namedtuple("Function", "line name lines kernel")

_SCOPE = re.compile(
    r"^(inline\s+|export\s+|typedef\s+|static\s+|constexpr\s+|const\s+)*"
    r"(namespace|class|struct|union|enum|extern\s*\"\s*\")(?![0-9a-zA-Z_])"
)
_ATTRIBUTE = re.compile(
    r"\[\[.*?\]\]|alignas\s*\([^()]*\)|__attribute__\s*\(\(.*?\)\)|\b[A-Z][A-Z0-9_]*\s*\([^()]*\)",
    re.DOTALL,
)
_LABEL = re.compile(r"^\s*(public|protected|private)\s*:(?!:)")
_AFTER_PARAMETERS = re.compile(
    r"(const|noexcept|override|final|mutable|volatile|try|&|&&|->\s*[^(){}]*)$"
)


def _first_branches(text):
    """Blanks preprocessor lines and every branch of an #if but the first."""
    out, skipping, stack, continued = [], False, [], False
    for line in text.split("\n"):
        directive = re.match(r"\s*#\s*(\w+)", line)
        if directive and not continued:
            word = directive.group(1)
            if word in ("if", "ifdef", "ifndef"):
                stack.append(skipping)
            elif word in ("else", "elif") and stack:
                skipping = True
            elif word == "endif" and stack:
                skipping = stack.pop()
        blank = bool(directive) or continued or skipping
        continued = line.rstrip().endswith("\\") and (bool(directive) or continued)
        out.append("" if blank else line)
    return "\n".join(out)


def _strip_template(head):
    """The head without its leading template<...> lists."""
    head = head.strip()
    while re.match(r"template\s*<", head):
        depth, at = 0, head.index("<")
        for at in range(head.index("<"), len(head)):
            depth += {"<": 1, ">": -1}.get(head[at], 0)
            if depth == 0:
                break
        head = head[at + 1 :].strip()
    return head


def _has_at_depth_zero(head, wanted):
    depth = 0
    for at, character in enumerate(head):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        around = head[max(0, at - 1) : at + 2]
        if depth == 0 and character == wanted and around.strip("=:") != "":
            if head[at - 1 : at] in "=<>!:" or head[at + 1 : at + 2] in ("=", ":"):
                continue
            return True
    return False


def _opens(head):
    """What a `{` after this head opens: 'scope', 'function' or 'value'."""
    head = _strip_template(head)
    plain = re.sub(r"\boperator\s*(\(\s*\)|[^\s\w(]+)", "operator_", head)
    if _SCOPE.match(plain) and "(" not in _ATTRIBUTE.sub("", plain):
        return "scope"
    if _has_at_depth_zero(plain, "="):
        return "function" if re.search(r"=\s*\[[^\]]*\]", plain) else "value"
    if "(" not in plain:
        return "value" if plain else "scope"
    last = plain.rstrip()[-1:]
    if last == ")" or last == "}":
        return "function"
    if re.search(r"\)\s*(noexcept\s*)?:(?!:)", plain):
        return "value"
    return "function" if _AFTER_PARAMETERS.search(plain.rstrip()) else "value"


def _name(head):
    plain = _strip_template(head)
    match = re.search(r"([~\w:]+|operator\s*[^\s(]+)\s*\(([^()]*)", plain)
    if not match:
        return "(unnamed)"
    if match.group(1).startswith(("TEST", "TYPED_TEST", "BENCHMARK")):
        return f"{match.group(1)}({match.group(2).strip()})"
    return match.group(1)


def _closing(text, at):
    """The index of the brace that closes the one at `at`."""
    depth = 0
    for index in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text) - 1


def functions(source):
    """The function definitions of a C++ source, each with its length in lines
    from the first of its head to its closing brace."""
    text = _first_branches(source_tree.without_comments_and_strings(source))
    found, at, start, parentheses = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        parentheses += {"(": 1, ")": -1}.get(character, 0)
        if character == "{" and parentheses > 0:
            at = _closing(text, at)
        elif character == "{":
            while _LABEL.match(text[start:at]):
                start += _LABEL.match(text[start:at]).end()
            head = text[start:at]
            opened = _opens(head)
            if opened == "scope":
                start = at + 1
            elif opened == "function":
                end = _closing(text, at)
                first = start + len(head) - len(head.lstrip())
                line = text.count("\n", 0, first) + 1
                lines = text.count("\n", first, end) + 1
                found.append(Function(line, _name(head), lines, "__global__" in head))
                at, start = end, end + 1
            else:
                at = _closing(text, at)
        elif character in ";}" and parentheses <= 0:
            start, parentheses = at + 1, 0
        at += 1
    return found
