"""Writes trained weights as GGUF: python3 export_gguf.py model.pt ashlar-assistant.gguf [--type q8_0|f16]

Rope turns adjacent pairs in training, as GGUF's llama has them, so no row is
permuted. The embedding is tied: there is no output.weight.
"""

import argparse
import pathlib
import struct

import numpy
import torch

import tokenizer as tok

HERE = pathlib.Path(__file__).resolve().parent
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
TENSOR_F32, TENSOR_F16, TENSOR_Q8_0 = 0, 1, 8
ALIGNMENT = 32


def string(text):
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def value(kind, content):
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        inner, items = content
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, item) for item in items)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], content)


def q8_0(matrix):
    """Blocks of 32: one f16 scale, 32 int8."""
    blocks = matrix.astype(numpy.float32).reshape(-1, 32)
    scale = numpy.abs(blocks).max(1) / 127
    inverse = numpy.divide(1, scale, out=numpy.zeros_like(scale), where=scale > 0)
    whole = numpy.rint(blocks * inverse[:, None]).astype(numpy.int8)
    packed = numpy.zeros(len(blocks), dtype=[("scale", "<f2"), ("whole", "i1", 32)])
    packed["scale"], packed["whole"] = scale, whole
    return packed.tobytes()


def metadata(shape, tokenizer, count, kind):
    kinds = [3] * len(tok.SPECIALS) + [1] * (len(tokenizer.tokens) - len(tok.SPECIALS))
    yield "general.architecture", STRING, "llama"
    yield "general.type", STRING, "model"
    yield "general.name", STRING, "Ashlar Assistant"
    yield "general.basename", STRING, "ashlar-assistant"
    yield "general.description", STRING, "A tiny demonstration model that answers short questions about Ashlar and knows nothing else."
    yield "general.organization", STRING, "Ashlar"
    yield "general.size_label", STRING, f"{count / 1e6:.1f}M"
    yield "general.license", STRING, "apache-2.0"
    yield "general.languages", ARRAY, (STRING, ["en", "zh"])
    yield "general.tags", ARRAY, (STRING, ["chat", "demonstration"])
    yield "general.file_type", U32, {TENSOR_F16: 1, TENSOR_Q8_0: 7}[kind]
    yield "general.quantization_version", U32, 2
    yield "general.alignment", U32, ALIGNMENT
    yield "llama.vocab_size", U32, shape["vocabulary"]
    yield "llama.context_length", U32, shape["context"]
    yield "llama.embedding_length", U32, shape["width"]
    yield "llama.block_count", U32, shape["layers"]
    yield "llama.feed_forward_length", U32, shape["hidden"]
    yield "llama.attention.head_count", U32, shape["heads"]
    yield "llama.attention.head_count_kv", U32, shape["kv_heads"]
    yield "llama.attention.key_length", U32, shape["head_dim"]
    yield "llama.attention.value_length", U32, shape["head_dim"]
    yield "llama.attention.layer_norm_rms_epsilon", F32, shape["epsilon"]
    yield "llama.rope.freq_base", F32, shape["rope_base"]
    yield "llama.rope.dimension_count", U32, shape["head_dim"]
    yield "tokenizer.ggml.model", STRING, "gpt2"
    yield "tokenizer.ggml.pre", STRING, "llama-bpe"
    yield "tokenizer.ggml.tokens", ARRAY, (STRING, tokenizer.tokens)
    yield "tokenizer.ggml.token_type", ARRAY, (I32, kinds)
    yield "tokenizer.ggml.merges", ARRAY, (STRING, [" ".join(m) for m in tokenizer.merges])
    yield "tokenizer.ggml.bos_token_id", U32, tok.BEGIN
    yield "tokenizer.ggml.eos_token_id", U32, tok.END
    yield "tokenizer.ggml.eot_token_id", U32, tok.END
    yield "tokenizer.ggml.padding_token_id", U32, tok.END
    yield "tokenizer.ggml.add_bos_token", BOOL, True
    yield "tokenizer.ggml.add_eos_token", BOOL, False
    yield "tokenizer.chat_template", STRING, (HERE / "chat_template.jinja").read_text("utf-8").rstrip("\n")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("weights")
    options.add_argument("file")
    options.add_argument("--type", choices=["q8_0", "f16"], default="q8_0")
    options = options.parse_args()
    kind = {"q8_0": TENSOR_Q8_0, "f16": TENSOR_F16}[options.type]
    saved = torch.load(options.weights)
    tokenizer = tok.Tokenizer.load(HERE / "tokenizer.json")
    count = sum(w.numel() for w in saved["weights"].values())
    pairs = list(metadata(saved["shape"], tokenizer, count, kind))
    head = struct.pack("<IIQQ", 0x46554747, 3, len(saved["weights"]), len(pairs))
    for key, form, content in pairs:
        head += string(key) + struct.pack("<I", form) + value(form, content)
    body = b""
    for name, weight in saved["weights"].items():
        array = weight.float().numpy()
        if array.ndim == 1:
            form, raw = TENSOR_F32, array.astype("<f4").tobytes()
        elif kind == TENSOR_F16:
            form, raw = kind, array.astype("<f2").tobytes()
        else:
            form, raw = kind, q8_0(array)
        head += string(name.replace("/", ".") + ".weight") + struct.pack("<I", array.ndim)
        head += b"".join(struct.pack("<Q", size) for size in reversed(array.shape)) + struct.pack("<IQ", form, len(body))
        body += raw + bytes(-len(raw) % ALIGNMENT)
    with open(options.file, "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT) + body)
    print(f"{options.file}: {count} parameters, {saved['note']}")


if __name__ == "__main__":
    main()
