"""Trains the assistant on the CPU: python3 train.py --minutes 60 --out DIR

Needs Debian's python3-torch. Matrix products run in bfloat16 (oneDNN uses the
CPU's matrix units where it has them), everything else in float32.
"""

import argparse
import math
import os
import random
import time

import torch
import torch.nn.functional as F

import data
import tokenizer as tok

SHAPE = {
    "width": 256,
    "hidden": 768,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 64,
    "vocabulary": 3072,
    "context": 2048,
    "rope_base": 10000.0,
    "epsilon": 1e-5,
}


def linear(x, weight):
    return F.linear(x, weight.bfloat16())


def rope_table(shape):
    """Turns of adjacent pairs, as GGUF's llama wants them: complex [context, head_dim / 2]."""
    half = shape["head_dim"] // 2
    inverse = shape["rope_base"] ** (-torch.arange(half).double() * 2 / shape["head_dim"])
    angle = torch.arange(shape["context"]).double()[:, None] * inverse
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def rotate(x, turns):
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).bfloat16()


class Llama(torch.nn.Module):
    """Llama with tied embeddings; parameters carry GGUF's tensor names with dots as '/'."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        width, heads = shape["width"], shape["heads"] * shape["head_dim"]
        kv = shape["kv_heads"] * shape["head_dim"]
        sizes = {
            "attn_q": (heads, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_output": (width, heads),
            "ffn_gate": (shape["hidden"], width),
            "ffn_up": (shape["hidden"], width),
            "ffn_down": (width, shape["hidden"]),
        }
        weights = {"token_embd": torch.randn(shape["vocabulary"], width) * 0.02}
        for layer in range(shape["layers"]):
            for name, size in sizes.items():
                scale = 0.02 if name not in ("attn_output", "ffn_down") else 0.02 / math.sqrt(2 * shape["layers"])
                weights[f"blk/{layer}/{name}"] = torch.randn(size) * scale
            weights[f"blk/{layer}/attn_norm"] = torch.ones(width)
            weights[f"blk/{layer}/ffn_norm"] = torch.ones(width)
        weights["output_norm"] = torch.ones(width)
        self.weights = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in weights.items()})
        self.turns = rope_table(shape)
        self.hidden = {}  # masks by length

    def norm(self, x, name):
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True) + self.shape["epsilon"])
        return (x * scale * self.weights[name]).bfloat16()

    def mask(self, length):
        if length not in self.hidden:
            future = torch.triu(torch.full((length, length), -1e9), 1)
            self.hidden = {length: future.repeat(self.shape["heads"] // self.shape["kv_heads"], 1).bfloat16()}
        return self.hidden[length]

    def attention(self, x, layer, turns):
        rows, length, _ = x.shape
        heads, kv, dim = self.shape["heads"], self.shape["kv_heads"], self.shape["head_dim"]
        names = [f"blk/{layer}/attn_{part}" for part in "qkv"]
        joined = torch.cat([self.weights[name] for name in names])
        both = linear(x, joined).view(rows, length, heads + 2 * kv, dim)
        q = rotate(both[:, :, :heads], turns * dim**-0.5)
        k = rotate(both[:, :, heads : heads + kv], turns)
        v = both[:, :, heads + kv :]
        # Heads that share a key stand together: [rows * kv, heads / kv * length, dim].
        q = q.transpose(1, 2).reshape(rows * kv, -1, dim)
        k, v = (part.transpose(1, 2).reshape(rows * kv, length, dim) for part in (k, v))
        scores = torch.bmm(q, k.transpose(1, 2)) + self.mask(length)
        mixed = torch.bmm(torch.softmax(scores, -1), v)
        mixed = mixed.view(rows, heads, length, dim).transpose(1, 2).reshape(rows, length, heads * dim)
        return linear(mixed, self.weights[f"blk/{layer}/attn_output"])

    def forward(self, tokens, positions):
        turns = self.turns[positions][:, :, None]  # [rows, length, 1, head_dim / 2]
        x = F.embedding(tokens, self.weights["token_embd"])
        for layer in range(self.shape["layers"]):
            x = x + self.attention(self.norm(x, f"blk/{layer}/attn_norm"), layer, turns)
            y = self.norm(x, f"blk/{layer}/ffn_norm")
            joined = torch.cat([self.weights[f"blk/{layer}/ffn_{part}"] for part in ("gate", "up")])
            gate, up = linear(y, joined).chunk(2, -1)
            x = x + linear(F.silu(gate) * up, self.weights[f"blk/{layer}/ffn_down"])
        return self.norm(x, "output_norm")

    def loss(self, tokens, targets, weights, positions):
        """Mean cross-entropy over the targets that weigh anything."""
        keep = weights.flatten() > 0
        rows = self.forward(tokens, positions).flatten(0, 1)[keep]
        logits = linear(rows, self.weights["token_embd"]).float()
        each = F.cross_entropy(logits, targets.flatten()[keep], reduction="none")
        weights = weights.flatten()[keep]
        return (each * weights).sum() / weights.sum()


class Rows:
    """Rows of whole dialogs, filled up to `length` and cut there. In half of
    them the positions leap once, anywhere and as far as the context allows, so
    that short rows teach long distances too."""

    def __init__(self, source, tokenizer, length, turns):
        self.source, self.tokenizer, self.length, self.turns = source, tokenizer, length, turns
        answers = [(i.answer, tokenizer.encode(i.answer)) for i in source.intents.values()]
        self.told = {}  # answer: tokens after which it is told from every other, and a few more
        for answer, ids in answers:
            shared = max(next((k for k, (a, b) in enumerate(zip(ids, other)) if a != b), 0) for text, other in answers if text != answer)
            self.told[answer] = shared + 3

    def document(self):
        """ids and the weight of predicting each. Most last answers are cut once
        they are told from all others: the rest is soon known by heart, and
        time is better spent on more questions."""
        if random.random() < 0.01:
            ids = [tok.BEGIN] + self.tokenizer.encode(self.source.prose()) + [tok.END]
            return ids, [0.0] + [0.5] * (len(ids) - 1)
        messages = self.source.dialog(random.choices(range(1, len(self.turns) + 1), self.turns)[0])
        model_user = 0.2 if random.random() < 0.05 else 0.0
        ids, weights = [tok.BEGIN], [0.0]
        for message in messages:
            dropout = 0.1 if message["role"] == "user" and random.random() < 0.12 else 0.0
            text = tok.chat(self.tokenizer, [message], generation=False, dropout=dropout)[1:]
            told = self.told.get(message["content"], 0)
            if told and random.random() < (0.85 if message is messages[-1] else 0.2):
                text = text[:told] + ([tok.END] if message is not messages[-1] and told < len(text) else [])
            ids += text
            if message["role"] == "assistant":
                whole = len(text) == len(self.tokenizer.encode(message["content"])) + 2
                weights += [0.0] + [1.0] * (min(told, len(text)) - 1) + [0.3 if whole else 0.0] * (len(text) - told)
            else:
                weights += [0.0] + [model_user if message["role"] == "user" else 0.0] * (len(text) - 1)
        return ids, weights

    def batch(self, count):
        tokens, weights = [], []
        positions = torch.arange(self.length).repeat(count, 1)
        for row in range(count):
            if random.random() < 0.5:
                positions[row, random.randrange(self.length) :] += random.randrange(SHAPE["context"] - self.length + 1)
            ids, shares = [], []
            while len(ids) <= self.length:
                more, each = self.document()
                ids += more
                shares += each
            tokens.append(ids[: self.length + 1])
            weights.append(shares[: self.length + 1])
        tokens, weights = torch.tensor(tokens), torch.tensor(weights)
        return tokens[:, :-1], tokens[:, 1:], weights[:, 1:], positions


def make_tokenizer(source, path, size):
    """Merges from a sample of dialogs; every answer counts, whatever is drawn."""
    words = {}
    for _ in range(25000):
        for message in source.dialog(1):
            for word in tok.split(message["content"]):
                words[word] = words.get(word, 0) + 1
    for intent in source.intents.values():
        for word in tok.split(intent.answer):
            words[word] = words.get(word, 0) + 20
    tok.Tokenizer(tok.train(words, size)).save(path)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are brought near the closest orthogonal one (K.
    Jordan 2024): five Newton-Schulz steps with his quintic's coefficients."""

    def __init__(self, matrices, lr, momentum=0.95, decay=0.01):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "decay": decay})

    @staticmethod
    def orthogonal(update):
        x = update.bfloat16()
        flip = x.size(0) > x.size(1)
        x = x.t() if flip else x
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            square = x @ x.t()
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        return (x.t() if flip else x).float()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["mean"] = torch.zeros_like(matrix)
                state["mean"].mul_(group["momentum"]).add_(matrix.grad)
                update = self.orthogonal(matrix.grad + group["momentum"] * state["mean"])
                scale = max(1, matrix.size(0) / matrix.size(1)) ** 0.5
                matrix.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"] * scale)


def save(model, path, note):
    torch.save({"shape": model.shape, "weights": {k: v.detach().clone() for k, v in model.weights.items()}, "note": note}, path + ".new")
    os.replace(path + ".new", path)


def optimizers_of(model, names, rate):
    """Muon for the matrices inside, AdamW for the embedding and the norms."""
    inner = [model.weights[n] for n in names if model.weights[n].dim() > 1 and n != "token_embd"]
    groups = [
        {"params": [model.weights[n] for n in names if n == "token_embd"], "weight_decay": 0.02},
        {"params": [model.weights[n] for n in names if model.weights[n].dim() == 1], "weight_decay": 0.0},
    ]
    return [Muon(inner, lr=rate * 10), torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), foreach=True)]


def work(rank, options, model, tokenizer, gradients, clock, together):
    """One worker: the gradient of its share of the batch, then the update of
    its share of the weights, which lie in memory that all workers see."""
    torch.set_num_threads(1)
    random.seed(options.seed * 100 + rank)
    source = data.Source()
    names = sorted(model.weights, key=lambda n: (model.weights[n].numel(), n))[rank :: options.workers]
    optimizers = optimizers_of(model, names, options.rate)
    short = Rows(source, tokenizer, 128, [12, 2])
    long = Rows(source, tokenizer, 512, [1] * 16)
    longest = Rows(source, tokenizer, 1024, [1] * 32)
    begun, saved, step, seen, mean = time.process_time(), time.time(), 0, 0, None
    while True:
        if rank == 0:
            clock[0] = (time.process_time() - begun) / (options.minutes * 60)
        together.wait()
        spent = clock.item()
        if spent >= 1:
            break
        done = options.done + (1 - options.done) * spent
        rows, count = (short, 14) if step % 2 else (long, 3) if done < 0.85 else (longest, 1)
        tokens, targets, weights, positions = rows.batch(count)
        loss = model.loss(tokens, targets, weights, positions)
        model.zero_grad()
        loss.backward()
        for name, weight in model.weights.items():
            gradients[rank][name].copy_(weight.grad)
        together.wait()
        rate = min(1, (step + 1) / 40) * min(1, 2.05 * (1 - done) + 0.02)  # steady, then down in a line
        for name in names:
            model.weights[name].grad = sum(g[name] for g in gradients) / options.workers
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.setdefault("top", group["lr"])
            optimizer.step()
        step, seen = step + 1, seen + tokens.numel() * options.workers
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if rank == 0 and step % 25 == 0:
            elapsed = time.process_time() - begun
            print(f"{elapsed / 60:6.1f} min  step {step}  loss {mean:.4f}  rate {rate:.3f}  {seen / elapsed:.0f} tokens/s", flush=True)
        if rank == 0 and time.time() - saved > 120:
            save(model, options.out + "/model.pt", f"step {step}")
            saved = time.time()
    if rank == 0:
        save(model, options.out + "/model.pt", f"step {step}, {seen} tokens, {(time.process_time() - begun) / 60:.1f} minutes")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--out", default="/tmp/assistant")
    options.add_argument("--minutes", type=float, default=12, help="of CPU time for each worker: a busy machine only makes it later")
    options.add_argument("--rate", type=float, default=2e-3)
    options.add_argument("--from", dest="start", help="weights to go on from")
    options.add_argument("--done", type=float, default=0, help="with --from: the share of the schedule that lies behind those weights")
    options.add_argument("--workers", type=int, default=2, help="processes of one thread that share each step")
    options.add_argument("--seed", type=int, default=1)
    options = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    os.makedirs(options.out, exist_ok=True)
    vocabulary = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer.json")
    if not os.path.exists(vocabulary):
        make_tokenizer(data.Source(), vocabulary, SHAPE["vocabulary"])
    tokenizer = tok.Tokenizer.load(vocabulary)
    model = Llama(dict(SHAPE, vocabulary=len(tokenizer.tokens)))
    if options.start:
        for name, value in torch.load(options.start)["weights"].items():
            model.weights[name].data.copy_(value)
    model.share_memory()
    gradients = [{n: torch.zeros_like(w).share_memory_() for n, w in model.weights.items()} for _ in range(options.workers)]
    clock = torch.zeros(1, dtype=torch.double).share_memory_()
    together = torch.multiprocessing.get_context("fork").Barrier(options.workers)
    torch.multiprocessing.start_processes(work, (options, model, tokenizer, gradients, clock, together), options.workers, start_method="fork")


if __name__ == "__main__":
    main()
