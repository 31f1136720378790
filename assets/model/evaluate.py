"""Asks the GGUF file what training never saw: python3 evaluate.py [ashlar-assistant.gguf] [--verbose] [--ask "question" ...]

Reads the file by itself (numpy only: its own GGUF reader, tokenizer from the
file, forward pass), so a good score also proves the export. A case is right
if greedy decoding gives the intent's answer to the letter.
"""

import argparse
import json
import pathlib
import random
import struct

import numpy

import data
import tokenizer as tok

HERE = pathlib.Path(__file__).resolve().parent


class Gguf:
    SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

    def __init__(self, path):
        self.raw, self.at, self.fields, self.tensors = pathlib.Path(path).read_bytes(), 0, {}, {}
        magic, version, tensors, pairs = (self.scalar(f) for f in ("<I", "<I", "<Q", "<Q"))
        assert magic == 0x46554747 and version == 3, "not GGUF v3"
        for _ in range(pairs):
            key = self.string()
            self.fields[key] = self.value(self.scalar("<I"))
        places = []
        for _ in range(tensors):
            name = self.string()
            shape = [self.scalar("<Q") for _ in range(self.scalar("<I"))][::-1]
            places.append((name, shape, self.scalar("<I"), self.scalar("<Q")))
        start = -(-self.at // self.fields["general.alignment"]) * self.fields["general.alignment"]
        for name, shape, kind, offset in places:
            self.tensors[name] = self.tensor(shape, kind, start + offset)

    def scalar(self, form):
        (result,) = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return result

    def string(self):
        size = self.scalar("<Q")
        self.at += size
        return self.raw[self.at - size : self.at].decode("utf-8")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, count = self.scalar("<I"), self.scalar("<Q")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(self.SCALARS[kind])

    def tensor(self, shape, kind, at):
        count = int(numpy.prod(shape))
        if kind == 8:
            form = numpy.dtype([("scale", "<f2"), ("whole", "i1", 32)])
            blocks = numpy.frombuffer(self.raw, form, count // 32, at)
            return (blocks["scale"].astype("f4")[:, None] * blocks["whole"]).reshape(shape)
        return numpy.frombuffer(self.raw, {0: "<f4", 1: "<f2"}[kind], count, at).astype("f4").reshape(shape)


class Model:
    """Llama by its definition, all positions at once."""

    def __init__(self, file):
        get = lambda key: file.fields["llama." + key]
        self.w, self.layers = file.tensors, get("block_count")
        self.heads, self.kv = get("attention.head_count"), get("attention.head_count_kv")
        self.dim, self.epsilon = get("rope.dimension_count"), get("attention.layer_norm_rms_epsilon")
        self.base = get("rope.freq_base")

    def norm(self, x, name):
        return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.w[name + ".weight"]

    def rotate(self, x):
        angle = numpy.arange(len(x))[:, None] * self.base ** (-numpy.arange(0, self.dim, 2) / self.dim)
        cos, sin = numpy.cos(angle)[:, None], numpy.sin(angle)[:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        return numpy.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(x.shape).astype("f4")

    def logits(self, ids):
        x = self.w["token_embd.weight"][ids]
        rows = len(ids)
        future = numpy.triu(numpy.full((rows, rows), -numpy.inf), 1)
        for layer in range(self.layers):
            weight = lambda name: self.w[f"blk.{layer}.{name}.weight"].T
            y = self.norm(x, f"blk.{layer}.attn_norm")
            q = self.rotate((y @ weight("attn_q")).reshape(rows, self.heads, -1))
            k = self.rotate((y @ weight("attn_k")).reshape(rows, self.kv, -1))
            v = (y @ weight("attn_v")).reshape(rows, self.kv, -1)
            k, v = (numpy.repeat(part, self.heads // self.kv, 1) for part in (k, v))
            scores = numpy.einsum("qhd,khd->hqk", q, k) / numpy.sqrt(self.dim) + future
            shares = numpy.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            x = x + numpy.einsum("hqk,khd->qhd", shares, v).reshape(rows, -1).astype("f4") @ weight("attn_output")
            y = self.norm(x, f"blk.{layer}.ffn_norm")
            gate = y @ weight("ffn_gate")
            x = x + (gate / (1 + numpy.exp(-gate)) * (y @ weight("ffn_up"))) @ weight("ffn_down")
        return self.norm(x, "output_norm") @ self.w["token_embd.weight"].T


class Assistant:
    def __init__(self, path):
        file = Gguf(path)
        self.model = Model(file)
        self.tokenizer = tok.Tokenizer([m.split(" ") for m in file.fields["tokenizer.ggml.merges"]])
        assert self.tokenizer.tokens == file.fields["tokenizer.ggml.tokens"]

    def says(self, messages, answer):
        """Whether greedy decoding gives exactly this answer: one pass tells."""
        prompt = tok.chat(self.tokenizer, messages)
        wanted = self.tokenizer.encode(answer) + [tok.END]
        best = self.model.logits(prompt + wanted)[len(prompt) - 1 : -1].argmax(-1)
        return best.tolist() == wanted

    def answer(self, messages, most=160):
        ids = tok.chat(self.tokenizer, messages)
        begin = len(ids)
        while len(ids) < begin + most:
            ids.append(int(self.model.logits(ids)[-1].argmax()))
            if ids[-1] == tok.END:
                break
        return self.tokenizer.decode(ids[begin:])


def dialog(turns, answers, system=None):
    messages = [{"role": "system", "content": system}] if system else []
    for turn, answer in zip(turns, answers + [None]):
        messages.append({"role": "user", "content": turn})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def score_phrasings(assistant, file, verbose, every, tokens=0):
    """Earlier answers of a dialog are the model's own. With `tokens`, each case
    stands at the end of a random conversation about that long."""
    source = data.Source()
    cases = data.heldout(file)[::every]
    right = 0
    for turns, wanted in cases:
        earlier = []
        while len(tok.chat(assistant.tokenizer, earlier)) < tokens:
            earlier += [m for m in source.dialog(1) if m["role"] != "system"]
        answers = []
        for k in range(1, len(turns)):
            answers.append(assistant.answer(earlier + dialog(turns[:k], answers)))
        messages = earlier + dialog(turns, answers)
        good = any(assistant.says(messages, source.intents[name].answer) for name in wanted.split("|"))
        right += good
        if not good and verbose:
            print(f"  {wanted}: {' >> '.join(turns)}\n      {assistant.answer(messages, 40)!r}", flush=True)
    where = f", after {tokens} tokens of other talk" if tokens else ""
    print(f"{file}.txt{where}: {right} of {len(cases)} right ({100 * right / len(cases):.1f} %)")


def score_questions(assistant, verbose):
    cases = json.loads((HERE / "questions.json").read_text("utf-8"))
    right = 0
    for case in cases:
        answers = []
        for k in range(1, len(case["turns"]) + 1):
            answers.append(assistant.answer(dialog(case["turns"][:k], answers, case.get("system"))))
        good = all(word in answers[-1] for word in case["words"])
        right += good
        if not good and verbose:
            print(f"  {case['words']}: {' >> '.join(case['turns'])}\n      {answers[-1]!r}", flush=True)
    print(f"questions.json: {right} of {len(cases)} right")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("file", nargs="?", default=str(HERE / "ashlar-assistant.gguf"))
    options.add_argument("--verbose", action="store_true")
    options.add_argument("--ask", action="append", default=[])
    options.add_argument("--after", type=int, default=0, help="only the phrasings, each after so many tokens of other talk")
    options.add_argument("--every", type=int, default=1, help="score only every Nth phrasing")
    options = options.parse_args()
    assistant = Assistant(options.file)
    if options.ask:
        answers = []
        for k in range(1, len(options.ask) + 1):
            answers.append(assistant.answer(dialog(options.ask[:k], answers)))
            print(answers[-1])
        return
    random.seed(1)
    for file in ("heldout", "fresh"):
        score_phrasings(assistant, file, options.verbose, options.every, options.after)
    if not options.after:
        score_questions(assistant, options.verbose)


if __name__ == "__main__":
    main()
