// Embeddings and reranking through the real program, with small random encoders.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { writeBert } from "./gguf.mjs";
import { Server } from "./server.mjs";

let server, client, folder;
before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "ashlar-e2e-"));
  writeBert(path.join(folder, "vectors.gguf"));
  writeBert(path.join(folder, "ranker.gguf"), { pooling: 4, seed: 2 });
  server = await Server.start(["--packed-cache", "off"], { models: ["--model", path.join(folder, "vectors.gguf"),
    "--model", path.join(folder, "ranker.gguf"), "--model", "ashlar-assistant"] });
  client = server.client();
});
after(async () => {
  await server.stop();
  rmSync(folder, { recursive: true });
});

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const embed = async (input, more = {}) => (await server.post("/v1/embeddings", { model: "vectors", input, ...more })).json;

test("the official client gets vectors of length one, which it asks for as base64", async () => {
  const answer = await client.embeddings.create({ model: "vectors", input: ["hello there", "x"] });
  assert.equal(answer.data.length, 2);
  assert.equal(answer.data[0].embedding.length, 32);
  assert.ok(Math.abs(dot(answer.data[0].embedding, answer.data[0].embedding) - 1) < 1e-5);
  assert.deepEqual(answer.usage, { prompt_tokens: 10 + 2 + 1 + 2, total_tokens: 15 });
  const floats = await client.embeddings.create({ model: "vectors", input: ["hello there", "x"], encoding_format: "float" });
  floats.data.forEach((one, i) => one.embedding.forEach((value, j) => assert.ok(Math.abs(value - answer.data[i].embedding[j]) < 1e-6)));
});

test("text and its token ids give the same vector", async () => {
  const { json } = await server.post("/tokenize", { model: "vectors", prompt: "some words" });
  const [text, ids, many] = [await embed("some words"), await embed(json.tokens), await embed([json.tokens, json.tokens.slice(1)])];
  assert.deepEqual(ids.data[0].embedding, text.data[0].embedding);
  assert.deepEqual(many.data[0].embedding, text.data[0].embedding);
  assert.notDeepEqual(many.data[1].embedding, text.data[0].embedding);
});

test("fewer dimensions are the first ones at length one", async () => {
  const all = (await embed("abc")).data[0].embedding, few = (await embed("abc", { dimensions: 8 })).data[0].embedding;
  assert.equal(few.length, 8);
  const length = Math.hypot(...all.slice(0, 8));
  few.forEach((value, i) => assert.ok(Math.abs(value - all[i] / length) < 1e-5));
});

test("many clients at once get what each gets alone", async () => {
  const words = Array.from({ length: 60 }, (_, i) => "abcdefghij klmnop qrstuvw xyz".slice(i % 7, 8 + i % 20));
  const alone = await Promise.all([...new Set(words)].map(async (word) => [word, (await embed(word)).data[0].embedding]));
  const known = new Map(alone);
  const steps = await server.metric("ashlar_reader_steps_total", "vectors");
  await Promise.all(Array.from({ length: 12 }, async (_, i) => {
    const mine = words.slice(i * 5, i * 5 + 5);
    const answer = await client.embeddings.create({ model: "vectors", input: mine, encoding_format: "float" });
    answer.data.forEach((one, j) => assert.deepEqual(one.embedding, known.get(mine[j])));
  }));
  assert.ok(await server.metric("ashlar_reader_steps_total", "vectors") - steps < 60);
  assert.ok(await server.metric("vllm:prompt_tokens_total", "vectors") > 0);
});

test("documents are ranked, the best first", async () => {
  const documents = ["one", { text: "two" }, "a longer one", "four"];
  for (const where of ["/v1/rerank", "/rerank"]) {
    const { status, json } = await server.post(where, { model: "ranker", query: "which", documents });
    assert.equal(status, 200);
    assert.deepEqual(json.results.map((one) => one.index).sort(), [0, 1, 2, 3]);
    json.results.forEach((one, i) => {
      assert.ok(one.relevance_score > 0 && one.relevance_score < 1);
      assert.ok(i === 0 || json.results[i - 1].relevance_score >= one.relevance_score);
      assert.equal(one.document.text, documents[one.index].text ?? documents[one.index]);
    });
    const top = (await server.post(where, { model: "ranker", query: "which", documents, top_n: 2, return_documents: false })).json;
    assert.deepEqual(top.results, json.results.slice(0, 2).map(({ index, relevance_score }) => ({ index, relevance_score })));
  }
});

test("each model does what it can, and says so otherwise", async () => {
  const listed = (await (await server.fetch("/v1/models")).json()).data;
  assert.deepEqual(listed.map((one) => one.id), ["vectors", "ranker", "ashlar-assistant"]);
  assert.deepEqual(listed.map((one) => [one.meta.generates, one.meta.ranks]), [[false, false], [false, true], [true, false]]);
  const refused = async (where, body) => {
    const { status, json } = await server.post(where, body);
    assert.equal(status, 400, JSON.stringify(json));
    return json.error;
  };
  assert.match((await refused("/v1/chat/completions", { model: "vectors", messages: [{ role: "user", content: "hi" }] })).message, /does not generate/);
  assert.match((await refused("/v1/completions", { model: "ranker", prompt: "hi" })).message, /\/v1\/rerank/);
  assert.match((await refused("/v1/embeddings", { model: "ranker", input: "hi" })).message, /no embeddings/);
  assert.match((await refused("/v1/rerank", { model: "vectors", query: "q", documents: ["d"] })).message, /not a reranker/);
  const long = await refused("/v1/embeddings", { model: "vectors", input: ["a", "b ".repeat(80)] });
  assert.equal(long.code, "context_length_exceeded");
  assert.match(long.message, /input 1 has 82 tokens.*64/);
  assert.equal((await embed("b ".repeat(80), { truncate_prompt_tokens: -1 })).usage.prompt_tokens, 64);
});

test("a generator's vectors are its last token's", async () => {
  const vector = async (input) => (await server.post("/v1/embeddings", { model: "ashlar-assistant", input })).json.data[0].embedding;
  const [one, same, other] = [await vector("What is an ashlar?"), await vector("What is an ashlar?"), await vector("Something else")];
  assert.deepEqual(one, same);
  assert.notDeepEqual(one, other);
  assert.ok(Math.abs(dot(one, one) - 1) < 1e-5);
  const [answer] = await Promise.all([client.completions.create({ model: "ashlar-assistant", prompt: "An ashlar is", max_tokens: 24, temperature: 0 }),
    ...Array.from({ length: 8 }, () => vector("What is an ashlar?").then((found) => assert.deepEqual(found, one)))]);
  assert.ok(answer.choices[0].text.length > 0);
});
