# SPDX-License-Identifier: Apache-2.0
"""Fails unless each program is position-independent, read-only after
relocation, and built with the stack protector and checked string functions.

  hardening.py PROGRAM...
"""

import subprocess
import sys


def readelf(option, program):
    return subprocess.run(
        ["readelf", "-W", option, program], check=True, capture_output=True, text=True
    ).stdout


def missing(program):
    symbols = readelf("--dyn-syms", program)
    dynamic = readelf("--dynamic", program)
    wanted = {
        "position-independent": "PIE" in dynamic,
        "bound at start": "NOW" in dynamic,
        "read-only after relocation": "GNU_RELRO" in readelf("--program-headers", program),
        "with the stack protector": "__stack_chk_fail" in symbols,
        "with checked string functions": "_chk@" in symbols.replace("__stack_chk_fail@", ""),
    }
    return [name for name, there in wanted.items() if not there]


def main():
    failed = False
    for program in sys.argv[1:]:
        for name in missing(program):
            print(f"{program}: not {name}")
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
