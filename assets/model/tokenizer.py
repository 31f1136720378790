"""The assistant's tokenizer: byte-level BPE as GGUF files carry it.

Model "gpt2", pre-tokenizer "llama-bpe". The vocabulary is trained here, on the
text that data.py writes; nothing is taken from another model.
"""

import collections
import json
import random
import unicodedata

SPECIALS = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
BEGIN, END, SYSTEM, USER, ASSISTANT = range(len(SPECIALS))


def byte_alphabet():
    """GPT-2's map from bytes to printable characters."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for byte in range(256):
        if byte in keep:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


BYTES = byte_alphabet()
CHARACTERS = {character: byte for byte, character in BYTES.items()}


def _kind(character):
    if character in "\r\n":
        return "n"
    if character.isspace():
        return "s"
    major = unicodedata.category(character)[0]
    return {"L": "L", "N": "N"}.get(major, "p")


def split(text):
    """llama-bpe's pattern, by hand: Python's re knows no \\p{L}.

    (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}
    | ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+
    """
    kinds = [_kind(c) for c in text]
    size, at, words = len(text), 0, []

    def run(start, wanted):
        while start < size and kinds[start] in wanted:
            start += 1
        return start

    while at < size:
        end = at
        if text[at] == "'":
            for tail in ("s", "t", "re", "ve", "m", "ll", "d"):
                if text[at + 1 : at + 1 + len(tail)].lower() == tail:
                    end = at + 1 + len(tail)
                    break
        if end == at:
            start = at + (kinds[at] in "sp")
            stop = run(start, "L")
            if stop > start:
                end = stop
        if end == at and kinds[at] == "N":
            end = min(run(at, "N"), at + 3)
        if end == at:
            start = at + (text[at] == " ")
            stop = run(start, "p")
            if stop > start:
                end = run(stop, "n")
        if end == at:  # white space: through the last line end, else all but the last character
            stop = run(at, "sn")
            lines = [i for i in range(at, stop) if kinds[i] == "n"]
            if lines:
                end = lines[-1] + 1
            elif stop == size or stop == at + 1:
                end = stop
            else:
                end = stop - 1
        words.append(text[at:end])
        at = end
    return words


def spell(word):
    return tuple(BYTES[b] for b in word.encode("utf-8"))


def train(words, size):
    """Merges, best first, from a Counter of pre-tokenized words."""
    symbols = [list(spell(w)) for w in words]
    counts = list(words.values())
    pairs = collections.Counter()
    where = collections.defaultdict(set)
    for i, parts in enumerate(symbols):
        for pair in zip(parts, parts[1:]):
            pairs[pair] += counts[i]
            where[pair].add(i)
    merges = []
    while len(merges) + 256 + len(SPECIALS) < size:
        best = max(pairs, key=lambda p: (pairs[p], p))
        if pairs[best] < 2:
            break
        merges.append(best)
        joined = best[0] + best[1]
        for i in list(where[best]):
            parts = symbols[i]
            for pair in zip(parts, parts[1:]):
                pairs[pair] -= counts[i]
                where[pair].discard(i)
            merged, k = [], 0
            while k < len(parts):
                if k + 1 < len(parts) and (parts[k], parts[k + 1]) == best:
                    merged.append(joined)
                    k += 2
                else:
                    merged.append(parts[k])
                    k += 1
            symbols[i] = merged
            for pair in zip(merged, merged[1:]):
                pairs[pair] += counts[i]
                where[pair].add(i)
        del pairs[best]
    return merges


class Tokenizer:
    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.tokens = list(SPECIALS) + [BYTES[b] for b in range(256)]
        known = set(self.tokens)
        for left, right in self.merges:
            if left + right not in known:  # two merges may spell the same token
                self.tokens.append(left + right)
                known.add(left + right)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks = {pair: i for i, pair in enumerate(self.merges)}
        self.cache = {}

    @staticmethod
    def load(path):
        with open(path, encoding="utf-8") as file:
            return Tokenizer([m.split(" ") for m in json.load(file)["merges"]])

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"merges": [" ".join(m) for m in self.merges]}, file, ensure_ascii=False, indent=0)

    def _word(self, word, dropout=0.0):
        parts = list(spell(word))
        if not dropout and "".join(parts) in self.ids:  # llama-bpe takes whole words as they are
            return [self.ids["".join(parts)]]
        while len(parts) > 1:
            ranked = [
                (self.ranks[pair], i)
                for i, pair in enumerate(zip(parts, parts[1:]))
                if pair in self.ranks and not (dropout and random.random() < dropout)
            ]
            if not ranked:
                break
            _, i = min(ranked)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [self.ids[p] for p in parts]

    def encode(self, text, dropout=0.0):
        """Plain text only: control tokens are the caller's. `dropout` leaves
        merges out by chance, so that training sees many spellings of a word."""
        ids = []
        for word in split(text):
            if dropout:
                ids += self._word(word, dropout)
                continue
            if word not in self.cache:
                self.cache[word] = self._word(word)
            ids += self.cache[word]
        return ids

    def decode(self, ids):
        raw = b"".join(
            b"" if i < len(SPECIALS) else bytes(CHARACTERS[c] for c in self.tokens[i]) for i in ids
        )
        return raw.decode("utf-8", errors="replace")


def chat(tokenizer, messages, generation=True, dropout=0.0):
    """What the chat template renders, as ids."""
    roles = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    ids = [BEGIN]
    for message in messages:
        text = message["content"].strip()
        ids.append(roles[message["role"]])
        ids += tokenizer.encode(text, dropout if message["role"] == "user" else 0.0)
        ids.append(END)
    return ids + [ASSISTANT] if generation else ids
