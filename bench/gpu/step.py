#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole steps on the card, in process and through gRPC.

    bench/gpu/step.py BUNDLE     prints JSON, name -> number

Makes a model folder of 1.57 B random weights beside the bundle's programs, measures the
engine alone, then weir-server with many clients.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

SESSIONS = 256
HERE = pathlib.Path(__file__).resolve().parent


def serve(binary, folder):
    """A server, and where it listens."""
    server = subprocess.Popen(
        [binary / "weir-server", "--model", f"random={folder}", "--device", "cuda",
         "--slots", str(SESSIONS + 8), "--listen", "127.0.0.1:0", "--metrics-listen", "off"],
        stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if line.startswith("listening on "):
            return server, line.split()[-1]
    sys.exit(f"the server ended with {server.wait()}")


def clients(binary, address, *options):
    done = subprocess.run(
        [binary / "weir-clients", "--server", address, "--sessions", str(SESSIONS),
         "--seconds", "8", "--warm-seconds", "4", *options],
        check=True, capture_output=True, text=True, timeout=120)
    return json.loads(done.stdout)


def main():
    binary = pathlib.Path(sys.argv[1]).resolve() / "bin"
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "random"
        subprocess.run([sys.executable, "-B", HERE / "make_model.py", folder], check=True)
        done = subprocess.run([binary / "weir-gpu-step-bench", folder], check=True,
                              capture_output=True, text=True)
        numbers = json.loads(done.stdout)
        server, address = serve(binary, folder)
        try:
            generating = clients(binary, address)
            # Appends of 16 tokens at half of what the engine takes in decode.
            rate = numbers["e2e_decode_b256_tok_s"] / 16 / 2
            appending = clients(binary, address, "--appends-per-second", f"{rate:.0f}")
        finally:
            server.terminate()
            server.wait(timeout=60)
    numbers["grpc_tok_s"] = generating["tokens_per_second"]
    numbers["grpc_share"] = generating["tokens_per_second"] / numbers["e2e_decode_b256_tok_s"]
    numbers["grpc_appends_per_second"] = rate
    for result in (generating, appending):
        for name, value in result.items():
            if name.endswith("_ms"):
                numbers[f"grpc_{name}"] = value
    print(json.dumps(numbers, indent=1))


main()
