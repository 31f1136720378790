#!/usr/bin/env python3
"""The time to the first byte of a real model's answer, direct and through Ashlar as a gateway, in pairs.

  ashlar bench --shape llama-3.2-1b --type Q4_0 --vocabulary FOLDER --write 1b.gguf
  bench/first_byte.py --ashlar build/release/ashlar --model 1b.gguf --pairs 200

One Ashlar serves the model; another stands before it with a key check, limits with a budget, a route and a durable row of usage.
Both get each prompt, in turns who is first; no two prompts begin alike, so that nobody is helped by a cache. A connection is kept
to each. `first byte` is the answer's first, `first token` its first text; the ratio is that of each pair.
"""
import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from open_load import first_model
from proxy import LIMITS, Started, free_port

WORDS = "the of stone wall was a and to in lime square mason built from house block cut with mortar quarry it is that old".split()


class Asker:
    def __init__(self, port, model, key=""):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self.model, self.headers = model, {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    def ask(self, text, tokens):
        """Seconds to the first byte, and to the first text."""
        body = json.dumps({"model": self.model, "prompt": text, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True})
        began = time.perf_counter()
        self.connection.request("POST", "/v1/completions", body, self.headers)
        answer = self.connection.getresponse()
        byte = text_at = None
        if answer.status != 200:
            sys.exit(f"{answer.status}: {answer.read()}")
        while line := answer.readline():
            byte = byte or time.perf_counter() - began
            if text_at is None and line.startswith(b"data: {"):
                text_at = time.perf_counter() - began
        return byte, text_at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", default="build/release/ashlar")
    parser.add_argument("--model", default="", help="left out: the model inside the program")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--words", default="32,128", help="of the prompts")
    parser.add_argument("--tokens", type=int, default=2, help="of each answer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        started = Started(Path(temporary))
        folder = started.folder
        try:
            behind, front = free_port(), free_port()
            started.run("behind", [args.ashlar, "serve"] + ([f"--model=m={args.model}"] if args.model else []) +
                        ["--port", str(behind), "--data-dir", str(folder / "one"), "--log-level", "warn", "--speculation", "off"], behind)
            model = first_model(behind)
            made = subprocess.run([args.ashlar, "key", "create", "--name", "bench", "--json", "--data-dir", str(folder / "two")],
                                  capture_output=True, text=True, check=True)
            (folder / "limits.yaml").write_text(LIMITS)
            (folder / "ashlar.yaml").write_text(f"""upstreams:
  - {{name: behind, url: "http://127.0.0.1:{behind}/v1"}}
routes:
  - {{name: chat, deployments: [behind/{model}]}}
""")
            started.run("front", [args.ashlar, "serve", "--config", str(folder / "ashlar.yaml"), "--limits", str(folder / "limits.yaml"), "--data-dir",
                                  str(folder / "two"), "--port", str(front), "--log-level", "warn"], front)
            sides = {"direct": Asker(behind, model), "gateway": Asker(front, "chat", json.loads(made.stdout)["key"])}
            chance = random.Random(1)
            prompt = lambda words: " ".join([str(chance.random())] + [chance.choice(WORDS) for _ in range(words)])
            for asker in sides.values():
                for _ in range(5):
                    asker.ask(prompt(16), args.tokens)
            print(f"{'words':>6}{'pairs':>7}{'':>13}{'direct ms':>24}{'gateway ms':>24}{'added ms':>10}{'ratio of pairs':>26}")
            for words in (int(each) for each in args.words.split(",")):
                times = {name: [] for name in sides}
                for pair in range(args.pairs):
                    for name in sorted(sides, reverse=pair % 2 == 1):
                        times[name].append(sides[name].ask(prompt(words), args.tokens))
                for i, what in enumerate(("first byte", "first token")):
                    one, two = ([1000 * each[i] for each in times[name]] for name in ("direct", "gateway"))
                    ratio = [b / a for a, b in zip(one, two)]
                    quarter = lambda v: f"{statistics.median(v):.2f} [{statistics.quantiles(v)[0]:.2f}..{statistics.quantiles(v)[2]:.2f}]"
                    print(f"{words:6}{args.pairs:7}{what:>13}{quarter(one):>24}{quarter(two):>24}{statistics.median(two) - statistics.median(one):10.2f}"
                          f"{statistics.median(ratio):12.3f} [{statistics.quantiles(ratio)[0]:.3f}..{statistics.quantiles(ratio)[2]:.3f}]", flush=True)
        finally:
            started.stop()


if __name__ == "__main__":
    main()
