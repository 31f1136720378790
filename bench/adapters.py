#!/usr/bin/env python3
"""What adapters cost over HTTP: sixteen streams over eight LoRA adapters beside sixteen of the base model.

  bench/adapters.py --ashlar build/release/ashlar --model a-Q4_0.gguf --rank 16 --rounds 5

Makes the adapters, random ones beside all seven matrices of each layer (a PEFT folder each, in float32), starts one `ashlar serve` with them
and lets both kinds take turns, with the same prompts, which differ from one another and from round to round. Nothing is kept from one
request for another, and nothing is guessed ahead. For each kind it prints the tokens generated per second, from the first request to the
last token (median, least and most over the rounds), and the ratio: that of each round, of which the median counts.
"""
import argparse
import asyncio
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def gguf_keys(path):
    """The keys of a GGUF file that are numbers or texts, and how many elements its lists have."""
    with open(path, "rb") as file:
        def read(form):
            return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]

        def value(kind):
            if kind in SCALARS:
                return read(SCALARS[kind])
            if kind == 8:
                return file.read(read("Q")).decode(errors="replace")
            inner, count = read("I"), read("Q")
            for _ in range(count):
                value(inner)
            return count

        if file.read(4) != b"GGUF":
            sys.exit(f"{path} is no GGUF file")
        read("I"), read("Q")
        keys = {}
        for _ in range(read("Q")):
            name = file.read(read("Q")).decode()
            keys[name] = value(read("I"))
        return keys


def shapes_of(path):
    """(layers, {module: (rows, columns)})"""
    keys = gguf_keys(path)
    of = lambda name, otherwise=None: keys.get(f"{keys['general.architecture']}.{name}", otherwise)
    width, hidden, heads = of("embedding_length"), of("feed_forward_length"), of("attention.head_count")
    head = of("attention.key_length", width // heads)
    q, kv = heads * head, of("attention.head_count_kv", heads) * head
    return of("block_count"), {"self_attn.q_proj": (q, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
                               "self_attn.o_proj": (width, q), "mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width),
                               "mlp.down_proj": (width, hidden)}


def write_adapter(folder, layers, modules, rank, seed):
    rng = random.Random(seed)
    longest = rank * max(max(shape) for shape in modules.values())
    # One run of numbers serves all matrices, each from another place: what they are costs nothing, that they are many does.
    pool = array("f", (rng.gauss(0, 0.01) for _ in range(longest + 4096)))
    header, parts, end = {}, [], 0
    for layer in range(layers):
        for module, (rows, columns) in modules.items():
            for half, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                begin, count = rng.randrange(4096), shape[0] * shape[1]
                parts.append(memoryview(pool)[begin:begin + count])
                header[f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"] = {
                    "dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * count]}
                end += 4 * count
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none",
        "target_modules": [module.split(".")[1] for module in modules]}))
    text = json.dumps(header).encode()
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            file.write(part)


def start(options, adapters):
    command = [options.ashlar, "serve", options.model, "--port", "0", "--speculation", "off", "--no-enable-prefix-caching",
               "--threads", str(options.threads), "--max-model-len", str(options.prompt_tokens * 3 + options.max_tokens + 64)]
    for name, folder in adapters.items():
        command += ["--adapter", f"{name}={folder}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = []
    for line in server.stdout:
        seen.append(line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found:
            return server, int(found[1])
    sys.exit("the server did not start:\n" + "".join(seen))


async def exchange(port, method, path, body=None):
    """The lines of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode() if body else b""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    try:
        async for line in reader:
            yield line
    finally:
        writer.close()


async def stream(port, model, prompt, options):
    """(prompt's tokens, tokens generated, when the first and the last arrived)"""
    body = {"model": model, "prompt": prompt, "max_tokens": options.max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}
    first = usage = None
    seen = []
    async for line in exchange(port, "POST", "/v1/completions", body):
        if not line.startswith(b"data: {"):
            seen.append(line)
            continue
        first = first or time.monotonic()
        if b'"usage":{' in line:
            usage = json.loads(line[6:])["usage"]
    if usage is None:
        sys.exit("a request failed: " + b"".join(seen).decode(errors="replace"))
    return usage["prompt_tokens"], usage["completion_tokens"], first, time.monotonic()


async def burst(port, models, prompts, options):
    begin = time.monotonic()
    answers = await asyncio.gather(*(stream(port, models[i % len(models)], prompt, options) for i, prompt in enumerate(prompts)))
    whole = sum(a[1] for a in answers) / (max(a[3] for a in answers) - begin)
    return whole, statistics.mean(a[0] for a in answers)


async def model_names(port):
    async for line in exchange(port, "GET", "/v1/models"):
        if line.startswith(b"{"):
            return [card["id"] for card in json.loads(line)["data"]]


async def measure(port, options, names):
    base = next(name for name in await model_names(port) if name not in names)
    rng = random.Random(1)
    words = ["river", "stone", "light", "seven", "north", "paper", "green", "winter", "glass", "morning", "iron", "salt"]
    rates = {"base": [], "adapters": []}
    for turn in range(options.rounds + 1):
        prompts = [" ".join(rng.choice(words) for _ in range(options.prompt_tokens)) for _ in range(options.streams)]
        kinds = [("base", [base]), ("adapters", names)]
        for kind, models in kinds if turn % 2 == 0 else kinds[::-1]:
            rate, prompt_tokens = await burst(port, models, prompts, options)
            if turn > 0:  # the first warms up
                rates[kind].append(rate)
    return rates, prompt_tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ashlar", default="build/release/ashlar")
    parser.add_argument("--model", required=True, help="a GGUF file of the Llama or Qwen2 kind")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=64, help="words, about as many tokens")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    options.ashlar, options.model = os.path.abspath(options.ashlar), os.path.abspath(options.model)
    with tempfile.TemporaryDirectory(prefix="ashlar-adapters-") as room:
        layers, modules = shapes_of(options.model)
        adapters = {f"adapter-{i}": Path(room) / str(i) for i in range(options.adapters)}
        for seed, folder in enumerate(adapters.values()):
            write_adapter(folder, layers, modules, options.rank, seed)
        server, port = start(options, adapters)
        try:
            rates, prompt_tokens = asyncio.run(measure(port, options, list(adapters)))
        finally:
            server.terminate()
            server.wait()
    print(f"{Path(options.model).name}, rank {options.rank}: {options.streams} streams, prompts of {prompt_tokens:.0f} tokens, answers of "
          f"{options.max_tokens}; generated tokens/s, median [least..most] of {options.rounds} rounds")
    for kind, name in (("base", "the base model"), ("adapters", f"{options.adapters} adapters")):
        print(f"  {name:<16}{statistics.median(rates[kind]):>8.1f} [{min(rates[kind]):.1f}..{max(rates[kind]):.1f}]")
    ratios = [a / b for a, b in zip(rates["adapters"], rates["base"])]
    print(f"  {'ratio':<16}{statistics.median(ratios):>8.3f} [{min(ratios):.3f}..{max(ratios):.3f}]")


if __name__ == "__main__":
    main()
