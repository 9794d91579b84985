# SPDX-License-Identifier: Apache-2.0
"""Reads every #include and fails on an arrow that points the wrong way.

The tables below are docs/ARCHITECTURE.md's picture as data. Each room names
the rooms and the libraries it may include; the standard library, POSIX and
the compiler's own headers are everyone's.
"""

import collections
import re
import sys

import source_tree

# The first pattern that fits an include path names its library.
LIBRARIES = (
    ("torch", r"^(torch|ATen|c10|caffe2|torch_.*)/"),
    ("cuda", r"^(cuda.*|cublas.*|cub/.*|nvtx.*|cooperative_groups.*)$"),
    ("absl", r"^absl/"),
    ("grpc", r"^(grpc|grpcpp|grpc\+\+)/"),
    ("protobuf", r"^google/protobuf/"),
    ("proto", r"^(weir/v1|google/rpc)/.*\.pb\.h$"),
    ("prometheus", r"^prometheus/"),
    ("civetweb", r"^(civetweb|CivetServer)\.h$"),
    ("json", r"^nlohmann/"),
    ("cli", r"^CLI/"),
    ("spdlog", r"^spdlog/"),
    ("openssl", r"^openssl/"),
    ("zlib", r"^zlib\.h$"),
    ("pcre2", r"^pcre2\.h$"),
    ("gtest", r"^(gtest|gmock)/"),
    ("benchmark", r"^benchmark/"),
    ("system", r"^[a-z0-9_]+(\.h)?$"),
    ("system", r"^(sys|net|netinet|arpa|linux|bits|asm|experimental)/[a-z0-9_]+\.h$"),
)

ANY = "*"

# room -> (rooms it may include besides itself, libraries it may include).
ROOMS = {
    "base": ((), ("absl",)),
    "text": (("base",), ("absl", "json", "pcre2")),
    "service": (("base", "engine/engine.h"), ("absl",)),
    "store": (("base", "service/store.h", "service/types.h", "service/error.h"), ("absl",)),
    "server": (
        ("base", "engine/engine.h", "service", "text"),
        ("absl", "grpc", "protobuf", "proto", "prometheus", "civetweb", "json", "cli", "spdlog",
         "openssl", "zlib"),
    ),
    "client": (("base",), ("absl", "grpc", "protobuf", "proto", "json", "cli")),
    "engine/kernels": ((), ("cuda",)),
    "engine/state": (("base", "engine/kernels"), ("absl", "cuda")),
    "engine/config": (("base",), ("absl", "json")),
    # A mixer reads its own keys of config.json.
    "engine/mixers": (
        ("base", "engine/config", "engine/kernels", "engine/state"),
        ("absl", "torch"),
    ),
    # engine.h for its plain values: a plan, its rows, what they give.
    "engine/model": (
        ("base", "engine/config", "engine/engine.h", "engine/kernels", "engine/mixers",
         "engine/state"),
        ("absl", "torch", "json", "openssl"),
    ),
    "engine/device": (
        ("base", "engine/engine.h", "engine/kernels", "engine/mixers", "engine/model",
         "engine/state"),
        ("absl", "cuda"),
    ),
    "engine": (
        ("base", "engine/device", "engine/kernels", "engine/mixers", "engine/model",
         "engine/state"),
        ("absl", "torch", "json", "cuda"),
    ),
    "tests": (ANY, ANY),
    "bench": (ANY, ANY),
    "fuzz": (ANY, ANY),
}

# file -> what it may include beyond its room.
BEYOND = {
    "server/main.cc": ("store", "engine"),
}

# file -> (rooms, libraries): instead of its room's row, where it may do less.
INSTEAD = {
    "engine/engine.h": (("base", "engine/state"), ("absl",)),
}

# Two things that meet in one place only. Wire types and domain types are
# translated there; a second place would be a second meaning.
MEETING = ("proto", "service", re.compile(r"^server/convert(_[a-z]+)?\.cc$"))
MEETING_ROOM = "server"

# Torch ships headers of an older protobuf, which would be found first.
APART = (("torch",), ("grpc", "protobuf", "proto"))

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.MULTILINE)

Include = collections.namedtuple("Include", "line path quoted")


def room_of(path):
    """The room a file or an include path lies in, or None."""
    for room in sorted(ROOMS, key=len, reverse=True):
        if path.startswith(room + "/"):
            return room
    return None


def library_of(path):
    for library, pattern in LIBRARIES:
        if re.match(pattern, path):
            return library
    return None


def includes_of(text):
    found = []
    for match in INCLUDE.finditer(text):
        line = text.count("\n", 0, match.start(1)) + 1
        quoted = text[match.start(1) - 1] == '"'
        found.append(Include(line, match.group(1), quoted))
    return found


def fits(path, allowed):
    """Whether an include of ours is one of the allowed rooms or files."""
    if allowed == ANY:
        return True
    return path in allowed or room_of(path) in allowed


def wrong_arrow(path, include, known):
    """What is wrong with one include of a file, or None."""
    room = room_of(path)
    rooms, libraries = INSTEAD.get(path, ROOMS[room])
    beyond = BEYOND.get(path, ())
    # Generated code is named like a room of its own and lies in none.
    library = None if room_of(include.path) else library_of(include.path)
    if include.quoted and library == "system" and include.path not in known:
        return f"includes are written from the root, not as {include.path}"
    if library is None:
        target = room_of(include.path)
        if target is None:
            return f"{include.path} is neither a room's nor a known library's"
        itself = target == room and path not in INSTEAD
        if itself or fits(include.path, rooms) or fits(include.path, beyond):
            return None
        return f"{room} may not include {include.path}"
    if library == "system" or libraries == ANY or library in libraries:
        return None
    return f"{room} may not include {include.path} ({library})"


def closure(path, graph, seen=None):
    """Every include that path reaches through files of the project."""
    seen = set() if seen is None else seen
    for include in graph.get(path, ()):
        if include.path not in seen:
            seen.add(include.path)
            closure(include.path, graph, seen)
    return seen


def meets(path, graph):
    if room_of(path) != MEETING_ROOM or MEETING[2].match(path):
        return None
    library, room, _ = MEETING
    direct = [include.path for include in graph[path]]
    wire = [p for p in direct if room_of(p) is None and library_of(p) == library]
    domain = [p for p in direct if room_of(p) == room]
    if wire and domain:
        return f"includes {wire[0]} and {domain[0]}: only server/convert*.cc see both"
    return None


def mixes(path, graph):
    reached = {library_of(p): p for p in sorted(closure(path, graph)) if not room_of(p)}
    one = [reached[library] for library in APART[0] if library in reached]
    other = [reached[library] for library in APART[1] if library in reached]
    if one and other:
        return f"reaches both {one[0]} and {other[0]}: Torch and protobuf never meet in a file"
    return None


def problems(root):
    """All wrong arrows below root, as 'file:line: rule'."""
    paths = [p for p in source_tree.files(root) if source_tree.is_cpp(p)]
    graph = {p: includes_of(source_tree.read(root, p)) for p in paths}
    found = []
    for path in paths:
        if room_of(path) is None:
            found.append(f"{path}:1: lies in no room of tests/layering/arrows.py")
            continue
        for include in graph[path]:
            wrong = wrong_arrow(path, include, graph)
            if wrong:
                found.append(f"{path}:{include.line}: {wrong}")
        for wrong in (meets(path, graph), mixes(path, graph)):
            if wrong:
                found.append(f"{path}:1: {wrong}")
    return found, len(paths)


def main():
    found, count = problems(sys.argv[1])
    for problem in found:
        print(problem)
    print(f"layering: {count} files, {len(found)} wrong arrows")
    if count == 0:
        print("layering: no C++ file was found: the test looked in the wrong place")
    return 1 if found or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
