#!/usr/bin/env python3
"""Writes down what the program does for requests, for the compiler: cmake/requests.profdata (docs/decisions/0021).

  cmake --preset profile && cmake --build --preset profile
  cmake --preset bench && cmake --build --preset bench --target stub_upstream paced_client
  bench/train_profile.py

Needs wrk and Debian's llvm-19. The program has a key check, limits with a budget, a route and rows of usage on, as in
bench/proxy.py. It is asked for whole answers by many clients at once and at random moments, and for streams.
"""
import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import proxy

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", default="build/profile/ashlar")
    parser.add_argument("--stub", default="build/bench/bench/stub_upstream", help="paced_client stands beside it")
    parser.add_argument("--seconds", type=int, default=10, help="of each kind of load")
    parser.add_argument("--output", default=HERE.parent / "cmake" / "requests.profdata")
    args = parser.parse_args()
    args.threads, args.pieces, args.pause = 2, 40, 20
    args.more = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["LLVM_PROFILE_FILE"] = str(folder / "%p.profraw")
        started = proxy.Started(folder)
        try:
            proxy.start_all(args, started)
            print("whole answers, requests/s, p50 and p99 in ms:", proxy.wrk(started, "ashlar", args.seconds, 32))
            print("at random moments, p50 and p99 in ms:", proxy.paced(args, started, "ashlar", 2000))
            size, well = asyncio.run(proxy.streams(started, "ashlar", 1000))
            print(f"streams that ended well: {well} of 1000")
        finally:
            started.stop()
        written = [each for each in folder.glob("*.profraw") if each.stat().st_size]
        if not written:
            sys.exit(f"{args.ashlar} wrote no profile: is it of the preset 'profile'?")
        subprocess.run(["llvm-profdata-19", "merge", "-sparse", "-o", args.output, *written], check=True)
    print(f"{args.output}: {Path(args.output).stat().st_size} bytes")


if __name__ == "__main__":
    main()
