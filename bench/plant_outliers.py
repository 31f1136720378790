#!/usr/bin/env python3
"""Plants outliers in the activations of a Llama-like Hugging Face folder, without changing what it computes.

In every layer some channels of what the two norms give are multiplied by a factor, and the columns that meet them in
the matrices behind are divided by it. So one sees what a way of quantizing does where large models have outliers.

    bench/plant_outliers.py FOLDER PLANTED --factor 100 --channels 5,40

Reads one model.safetensors of F32, F16 or BF16 and writes F32, for a factor that is no power of two would be rounded.
"""

import argparse
import array
import json
import pathlib
import shutil
import struct

NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def floats(dtype, data):
    if dtype == "F32":
        return array.array("f", data)
    if dtype == "F16":
        return array.array("f", struct.unpack(f"<{len(data) // 2}e", data))
    if dtype == "BF16":
        halves = array.array("H", data)
        wide = array.array("I", (half << 16 for half in halves))
        return array.array("f", wide.tobytes())
    raise SystemExit(f"{dtype}: F32, F16 or BF16 is expected")


def read(path):
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    out = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        out[name] = (entry["shape"], floats(entry["dtype"], raw[8 + size + begin : 8 + size + end]))
    return out


def write(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, values) in tensors.items():
        size = 4 * len(values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(values.tobytes())


def plant(tensors, channels, factor):
    for name, (_, norm) in tensors.items():
        layer, _, kind = name.removesuffix(".weight").rpartition(".")
        if kind not in NORMS:
            continue
        for channel in channels:
            norm[channel] *= factor
        for matrix in NORMS[kind]:
            (rows, columns), values = tensors[f"{layer}.{matrix}.weight"]
            for row in range(rows):
                for channel in channels:
                    values[row * columns + channel] /= factor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("planted", type=pathlib.Path)
    parser.add_argument("--factor", type=float, default=100)
    parser.add_argument("--channels", default="5,40")
    options = parser.parse_args()
    tensors = read(options.folder / "model.safetensors")
    plant(tensors, [int(c) for c in options.channels.split(",")], options.factor)
    options.planted.mkdir()
    for file in options.folder.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copyfile(file, options.planted / file.name)
    write(options.planted / "model.safetensors", tensors)


if __name__ == "__main__":
    main()
