// Writes small random encoders as GGUF files: enough of the format for tests.
import { writeFileSync } from "node:fs";

const text = (value) => { const bytes = Buffer.from(value), size = Buffer.alloc(8); size.writeBigUInt64LE(BigInt(bytes.length)); return Buffer.concat([size, bytes]); };
const number = (bytes, write) => { const out = Buffer.alloc(bytes); write(out); return out; };
const u32 = (value) => number(4, (b) => b.writeUInt32LE(value));
const u64 = (value) => number(8, (b) => b.writeBigUInt64LE(BigInt(value)));
export const kinds = {
  u32: (value) => Buffer.concat([u32(4), u32(value)]),
  i32s: (values) => Buffer.concat([u32(9), u32(5), u64(values.length), ...values.map(u32)]),
  f32: (value) => Buffer.concat([u32(6), number(4, (b) => b.writeFloatLE(value))]),
  flag: (value) => Buffer.concat([u32(7), Buffer.from([value ? 1 : 0])]),
  text: (value) => Buffer.concat([u32(8), text(value)]),
  texts: (values) => Buffer.concat([u32(9), u32(8), u64(values.length), ...values.map(text)]),
};

// A letter is a token, at a word's beginning and within.
const letters = [..."abcdefghijklmnopqrstuvwxyz"];
const tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ...letters.map((l) => "\u2581" + l), ...letters];

// pooling: 1 mean, 2 cls, 4 rank, with a classifier of one score.
export function writeBert(path, { width = 32, hidden = 64, layers = 2, heads = 4, context = 64, pooling = 1, seed = 1 } = {}) {
  let state = seed * 2654435761 % 4294967296;
  const uniform = () => (state = (state * 1664525 + 1013904223) % 4294967296) / 4294967296 - 0.5;
  const tensors = [];
  const add = (name, dims, spread, mean = 0) => {
    const data = new Float32Array(dims.reduce((a, b) => a * b));
    const drawn = Math.min(data.length, 1 << 16);  // what is larger repeats itself
    for (let i = 0; i < drawn; ++i) data[i] = mean + spread * uniform();
    for (let at = drawn; at < data.length; at *= 2) data.copyWithin(at, 0, at);
    tensors.push({ name, dims, data });
  };
  const layer = (name, rows, columns) => { add(name + ".weight", [columns, rows], 3.5 / Math.sqrt(columns)); add(name + ".bias", [rows], 1); };
  const norm = (name) => { add(name + ".weight", [width], 0.5, 1); add(name + ".bias", [width], 0.5); };
  add("token_embd.weight", [width, tokens.length], 3.5);
  add("token_types.weight", [width, 2], 1);
  add("position_embd.weight", [width, context], 1);
  norm("token_embd_norm");
  for (let i = 0; i < layers; ++i) {
    for (const part of ["attn_q", "attn_k", "attn_v", "attn_output"]) layer(`blk.${i}.${part}`, width, width);
    norm(`blk.${i}.attn_output_norm`);
    layer(`blk.${i}.ffn_up`, hidden, width);
    layer(`blk.${i}.ffn_down`, width, hidden);
    norm(`blk.${i}.layer_output_norm`);
  }
  if (pooling === 4) { layer("cls", width, width); layer("cls.output", 1, width); }
  const keys = {
    "general.architecture": kinds.text("bert"), "bert.block_count": kinds.u32(layers), "bert.context_length": kinds.u32(context),
    "bert.embedding_length": kinds.u32(width), "bert.feed_forward_length": kinds.u32(hidden), "bert.attention.head_count": kinds.u32(heads),
    "bert.attention.layer_norm_epsilon": kinds.f32(1e-12), "bert.attention.causal": kinds.flag(false), "bert.pooling_type": kinds.u32(pooling),
    "tokenizer.ggml.model": kinds.text("bert"), "tokenizer.ggml.pre": kinds.text("default"), "tokenizer.ggml.tokens": kinds.texts(tokens),
    "tokenizer.ggml.token_type": kinds.i32s(tokens.map((_, id) => (id < 5 ? 3 : 1))), "tokenizer.ggml.token_type_count": kinds.u32(2),
    "tokenizer.ggml.unknown_token_id": kinds.u32(1), "tokenizer.ggml.cls_token_id": kinds.u32(2), "tokenizer.ggml.seperator_token_id": kinds.u32(3),
  };
  const parts = [Buffer.from("GGUF"), u32(3), u64(tensors.length), u64(Object.keys(keys).length)];
  for (const [key, value] of Object.entries(keys)) parts.push(text(key), value);
  let offset = 0;
  for (const tensor of tensors) {
    parts.push(text(tensor.name), u32(tensor.dims.length), ...tensor.dims.map(u64), u32(0), u64(offset));
    offset += Math.ceil(tensor.data.byteLength / 32) * 32;
  }
  const pad = (size) => Buffer.alloc((32 - size % 32) % 32);
  parts.push(pad(parts.reduce((sum, part) => sum + part.length, 0)));
  for (const tensor of tensors) parts.push(Buffer.from(tensor.data.buffer), pad(tensor.data.byteLength));
  writeFileSync(path, Buffer.concat(parts));
}
