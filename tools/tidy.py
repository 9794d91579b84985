# SPDX-License-Identifier: Apache-2.0
"""Runs clang-tidy over the project's own C++ files, several at a time.

    tools/tidy.py BUILD [FOLDER...]     BUILD has compile_commands.json

A file that was found clean is remembered by the hash of everything that the
answer depends on: its compile command, its text, the text of every header of
ours that it reaches, the protos, the pinned versions, .clang-tidy and the tool
itself. The second time costs seconds.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

TIDY = "clang-tidy-14"
MEMORY_PER_FILE = 1_500_000_000
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
ROOT = pathlib.Path(__file__).resolve().parent.parent


def kept_answers():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(base) / "weir" / "tidy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def jobs():
    available = 0
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    return max(1, min(os.cpu_count() or 1, available // MEMORY_PER_FILE))


def reached(path, seen):
    """The file and every file of the project that it includes, by any way."""
    if path in seen or not path.is_file():
        return seen
    seen.add(path)
    for name in INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
        reached(ROOT / name, seen)
    return seen


def common_hash():
    """What every answer depends on."""
    digest = hashlib.sha256()
    digest.update(subprocess.run([TIDY, "--version"], capture_output=True, check=True).stdout)
    for path in [".clang-tidy", "tools/versions.env", "tools/setup.sh", "tools/tidy.py"]:
        digest.update((ROOT / path).read_bytes())
    for path in sorted(ROOT.glob("proto/**/*.proto")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(entry, common):
    # The folder of the clone is not part of the answer.
    command = entry["command"].replace(str(ROOT), "")
    digest = hashlib.sha256(f"{common}\n{command}\n".encode())
    for path in sorted(reached(pathlib.Path(entry["file"]), set())):
        digest.update(f"{path.relative_to(ROOT)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def of_ours(entry, build, folders):
    path = pathlib.Path(entry["file"])
    if not path.is_relative_to(ROOT) or path.is_relative_to(build):
        return False
    relative = path.relative_to(ROOT)
    return not folders or any(relative.is_relative_to(f) for f in folders)


def examine(entry, build):
    """Clang-tidy's output for one file, and whether the file is clean."""
    started = time.monotonic()
    # -Wno-...: flags of GCC that clang does not know are no finding.
    command = [TIDY, "-p", str(build), "--quiet", "--extra-arg=-Wno-unknown-warning-option",
               "--extra-arg=-Wno-ignored-optimization-argument", entry["file"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    noise = re.compile(r"^\d+ (warnings?|errors?)( and \d+ errors?)? (generated|treated as errors?)")
    lines = [l for l in (done.stdout + done.stderr).splitlines() if not noise.match(l)]
    return "\n".join(lines).strip(), done.returncode == 0, time.monotonic() - started


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build = pathlib.Path(sys.argv[1]).resolve()
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    entries = [e for e in entries if of_ours(e, build, sys.argv[2:])]
    for entry in entries:
        entry.setdefault("command", shlex.join(entry.get("arguments", [])))
    if not entries:
        sys.exit(f"tidy: {build} compiles no file of ours")

    answers, common = kept_answers(), common_hash()
    keys = {id(entry): key_of(entry, common) for entry in entries}
    waiting = [e for e in entries if not (answers / keys[id(e)]).exists()]
    print(f"tidy: {len(entries)} files, {len(waiting)} of them to examine, {jobs()} at a time",
          flush=True)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(jobs()) as pool:
        futures = {pool.submit(examine, entry, build): entry for entry in waiting}
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            entry = futures[future]
            output, clean, seconds = future.result()
            name = os.path.relpath(entry["file"], ROOT)
            print(f"tidy: [{number}/{len(waiting)}] {name} {seconds:.0f} s"
                  f"{'' if clean else ' FAILED'}", flush=True)
            if clean:
                (answers / keys[id(entry)]).touch()
            else:
                failed += 1
                print(output, flush=True)
    print(f"tidy: {len(entries) - failed} clean, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
