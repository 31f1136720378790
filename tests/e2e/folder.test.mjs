// A Hugging Face folder as its publisher offers it: converted, served as it stands, with adapters that come and go.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { binary, haveStories, Server, stories } from "./server.mjs";

const skip = haveStories ? false : "no shared data";
const room = mkdtempSync(path.join(tmpdir(), "ashlar-folder-"));
after(() => rmSync(room, { recursive: true }));
const folder = path.join(path.dirname(stories), "hf");

function ashlar(...args) {
  const done = spawnSync(binary, args, { maxBuffer: 1 << 28 });
  return { status: done.status, out: done.stdout.toString(), err: done.stderr.toString() };
}

// A PEFT adapter of rank `rank` for q_proj and down_proj of the stories model, of numbers that `seed` fixes.
function writeAdapter(name, rank, seed, width = 64) {
  const where = path.join(room, name);
  mkdirSync(where, { recursive: true });
  let state = seed;
  const next = () => ((state = (Math.imul(state, 1103515245) + 12345) >>> 0) / 2 ** 32 - 0.5) * 0.6;
  const header = {};
  const pieces = [];
  let at = 0;
  const add = (tensor, rows, columns) => {
    const values = new Float32Array(rows * columns).map(next);
    header[tensor] = { dtype: "F32", shape: [rows, columns], data_offsets: [at, at + values.byteLength] };
    pieces.push(Buffer.from(values.buffer));
    at += values.byteLength;
  };
  for (let layer = 0; layer < 5; ++layer)
    for (const [module, rows, columns] of [["self_attn.q_proj", width, width], ["mlp.down_proj", width, 172]]) {
      const prefix = `base_model.model.model.layers.${layer}.${module}`;
      add(`${prefix}.lora_A.weight`, rank, columns);
      add(`${prefix}.lora_B.weight`, rows, rank);
    }
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path.join(where, "adapter_model.safetensors"), Buffer.concat([size, text, ...pieces]));
  writeFileSync(path.join(where, "adapter_config.json"), JSON.stringify({
    peft_type: "LORA", r: rank, lora_alpha: 2 * rank, bias: "none", target_modules: ["q_proj", "down_proj"],
    base_model_name_or_path: "stories260K" }));
  return where;
}

async function text(server, model, prompt = "Once upon a time") {
  const { status, json } = await server.post("/v1/completions", { model, prompt, max_tokens: 24, temperature: 0, logprobs: 1 });
  assert.equal(status, 200, JSON.stringify(json));
  return JSON.stringify([json.choices[0].text, json.choices[0].logprobs.token_logprobs]);
}
async function adapterCall(server, what, body) {
  const answer = await server.fetch(`/v1/${what}_lora_adapter`, {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
  return { status: answer.status, text: await answer.text() };
}

test("a folder and the file made of it answer alike, bit for bit", { skip }, async () => {
  const out = path.join(room, "converted.gguf");
  assert.equal(ashlar("convert", folder, out).status, 0);
  assert.match(ashlar("show", folder).out, /Hugging Face folder/);
  assert.equal(ashlar("tokenize", folder, "--pieces").status, 0);
  const answers = [];
  for (const model of [folder, out]) {
    const server = await Server.start([], { models: [model] });
    answers.push(await text(server, server.model));
    await server.stop();
  }
  assert.equal(answers[0], answers[1]);
});

test("adapters are chosen by name, come and go, and share no cache", { skip }, async () => {
  const a = writeAdapter("a", 4, 1), b = writeAdapter("b", 8, 2);
  const merged = path.join(room, "merged.gguf");
  assert.equal(ashlar("convert", folder, merged, "--merge-adapter", a).status, 0);
  const server = await Server.start(["--adapter", `tuned=${a}`], { models: [`base=${folder}`] });
  const base = await text(server, "base"), tuned = await text(server, "tuned");
  assert.notEqual(base, tuned);
  assert.equal(await text(server, "base:tuned"), tuned);

  const loaded = await adapterCall(server, "load", { lora_name: "other", lora_path: b });
  assert.equal(loaded.status, 200, loaded.text);
  assert.match(loaded.text, /^Success: LoRA adapter 'other' added successfully\.$/);
  const other = await text(server, "other");
  assert.notEqual(other, base);
  assert.notEqual(other, tuned);
  const listed = await (await server.fetch("/v1/models")).json();
  assert.deepEqual(listed.data.map((model) => [model.id, model.parent]), [["base", null], ["other", "base"], ["tuned", "base"]]);
  assert.equal(listed.data[1].root, b);

  // All at once, in one batch: each as it was alone.
  const names = ["base", "tuned", "other", "base:other", "tuned", "base"];
  const expected = { base, tuned, other, "base:other": other };
  const answers = await Promise.all(names.map((name) => text(server, name)));
  names.forEach((name, i) => assert.equal(answers[i], expected[name], name));

  assert.equal((await adapterCall(server, "load", { lora_name: "other", lora_path: a })).status, 400);
  assert.equal((await adapterCall(server, "load", { lora_name: "base", lora_path: a })).status, 400);
  assert.equal((await adapterCall(server, "load", { lora_name: "none", lora_path: path.join(room, "nowhere") })).status, 404);
  const foreign = await adapterCall(server, "load", { lora_name: "wide", lora_path: writeAdapter("wide", 4, 3, 128) });
  assert.equal(foreign.status, 400);
  assert.match(foreign.text, /another base/);
  const gone = await adapterCall(server, "unload", { lora_name: "other" });
  assert.equal(gone.status, 200, gone.text);
  assert.equal((await adapterCall(server, "unload", { lora_name: "other" })).status, 404);
  assert.equal((await server.post("/v1/completions", { model: "other", prompt: "x" })).status, 404);

  // The same name again is another adapter, and remembers nothing of the first.
  assert.equal((await adapterCall(server, "load", { lora_name: "other", lora_path: a })).status, 200);
  assert.equal(await text(server, "other"), tuned);
  await server.stop();
});

test("what is wrong with a folder or an adapter is one sentence", { skip }, () => {
  const broken = path.join(room, "broken");
  mkdirSync(broken);
  for (const [name, content] of [["config.json", readFileSync(path.join(folder, "config.json"))], ["model.safetensors", "x"]])
    writeFileSync(path.join(broken, name), content);
  for (const args of [["show", broken], ["convert", broken, path.join(room, "never.gguf")], ["run", broken, "hi"],
    ["run", stories, "hi", "--adapter", `x=${broken}`], ["run", stories, "hi", "--adapter", "x"]]) {
    const { status, err } = ashlar(...args);
    assert.equal(status, 1, args.join(" "));
    assert.equal(err.trim().split("\n").length, 1, err);
  }
});
