// Who asks too much is told so, what is spent is kept, and every token is accounted for.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { writeBert } from "./gguf.mjs";
import { Server, binary, events, run } from "./server.mjs";

const folder = (t) => {
  const made = mkdtempSync(path.join(os.tmpdir(), "ashlar-limits-"));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
};
const limited = (dir, text) => {
  writeFileSync(path.join(dir, "limits.yaml"), text);
  return Server.start(["--data-dir", dir, "--limits", path.join(dir, "limits.yaml")]);
};
const usage = async (dir, ...args) => {
  const told = await run(binary, ["usage", "--data-dir", dir, "--json", ...args]);
  assert.equal(told.code, 0, told.err);
  return told.out.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
};
// An answer of exactly this many tokens.
const tokens = (server, max_tokens, more = {}) => ({ ...server.chat("Say something."), max_tokens, ignore_eos: true, temperature: 0, ...more });

test("requests an hour are counted, and each answer tells how many are left", async (t) => {
  const server = await limited(folder(t), "limits:\n  - {scope: global, name: rph, measure: requests, capacity: 3, period: 1h}\n");
  t.after(() => server.stop());
  for (const left of ["2", "1", "0"]) {
    const answer = await server.post("/v1/chat/completions", tokens(server, 2));
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get("x-ratelimit-limit-requests"), "3");
    assert.equal(answer.headers.get("x-ratelimit-remaining-requests"), left);
  }
  const refused = await server.post("/v1/chat/completions", tokens(server, 2));
  assert.equal(refused.status, 429);
  assert.equal(refused.json.error.code, "rate_limit_exceeded");
  assert.ok(Number(refused.headers.get("retry-after")) > 3000);
  assert.equal(refused.headers.get("x-ratelimit-remaining-requests"), "0");
  assert.match(refused.headers.get("x-ratelimit-reset-requests"), /^(59|1h|60)/);
});

test("every answer to who may ask tells where he stands, and a restart gives no rate twice", async (t) => {
  const dir = folder(t);
  const text = "limits:\n  - {scope: global, name: rph, measure: requests, capacity: 3, period: 1h}\n  - {scope: global, name: tpd, capacity: 100000, period: 24h}\n";
  let server = await limited(dir, text);
  t.after(() => server.stop());
  const told = (answer) => [answer.headers.get("x-ratelimit-remaining-requests"), answer.headers.get("x-ratelimit-limit-tokens")];
  const first = await server.post("/v1/chat/completions", tokens(server, 2));
  assert.deepEqual(told(first), ["2", "100000"]);
  assert.deepEqual(told(await server.post("/v1/chat/completions", { ...tokens(server, 2), model: "no such model" })), ["2", "100000"]);
  assert.deepEqual(told(await server.post("/v1/chat/completions", "{")), ["2", "100000"]);
  assert.deepEqual(told(await server.fetch("/v1/models")), ["2", "100000"]);
  assert.deepEqual(told(await server.fetch("/health")), [null, null]);
  await server.until(() => usage(dir), (rows) => rows.length === 1);
  await server.kill();
  server = await limited(dir, text);
  const after = await server.fetch("/v1/models");
  assert.equal(after.headers.get("x-ratelimit-remaining-requests"), "2");
  const left = Number(after.headers.get("x-ratelimit-remaining-tokens"));
  assert.equal(left, 100000 - first.json.usage.total_tokens);
});

test("a budget admits exactly what fits, whoever asks at once, and a restart forgets nothing", async (t) => {
  const dir = folder(t);
  const free = await Server.start(["--data-dir", dir]);
  const { json } = await free.post("/v1/chat/completions", tokens(free, 8));
  await free.stop();
  assert.equal(json.usage.completion_tokens, 8);
  // A dollar for each thousand tokens of either kind: five such requests and not one token more.
  const dollars = ((json.usage.total_tokens * 5) / 1000).toFixed(6);
  const text = `prices:\n  - {model: "*", input: 1000, output: 1000}\nlimits:\n  - {scope: global, name: all, kind: budget, dollars: ${dollars}, window: total}\n`;
  // What the first server's request cost nothing then, costs nothing now.
  let server = await limited(dir, text);
  t.after(() => server.stop());
  const answers = await Promise.all(Array.from({ length: 40 }, () => server.post("/v1/chat/completions", tokens(server, 8))));
  const good = answers.filter((answer) => answer.status === 200);
  assert.equal(good.length, 5);
  for (const answer of answers.filter((one) => one.status !== 200)) {
    assert.equal(answer.status, 429);
    assert.equal(answer.json.error.code, "insufficient_quota");
  }
  await server.stop();
  server = await limited(dir, text);
  assert.equal((await server.post("/v1/chat/completions", tokens(server, 1))).status, 429);

  const [sum] = await usage(dir, "--by", "model");
  assert.equal(sum.requests, 6);
  assert.equal(sum.prompt_tokens, json.usage.prompt_tokens * 6);
  assert.equal(sum.completion_tokens, 48);
});

test("who leaves pays for what came", async (t) => {
  const dir = folder(t);
  const server = await limited(dir, 'prices:\n  - {model: "*", input: 0, output: 1000}\n');
  t.after(() => server.stop());
  const leaving = new AbortController();
  const answer = await server.fetch("/v1/chat/completions", { method: "POST", signal: leaving.signal,
    headers: { "content-type": "application/json" }, body: JSON.stringify(tokens(server, 400, { stream: true })) });
  let pieces = 0;
  for await (const data of events(answer)) {
    if (JSON.parse(data).choices[0].delta.content && ++pieces === 5) break;
  }
  leaving.abort();
  await server.idle();
  const rows = await server.until(() => usage(dir, "--by", "status"), (all) => all.length > 0);
  assert.equal(rows.length, 1);
  assert.equal(rows[0].status ?? rows[0].by?.[0], "499");
  assert.ok(rows[0].completion_tokens >= 5 && rows[0].completion_tokens < 400, JSON.stringify(rows[0]));
});

test("embeddings and rankings are limited, paid and accounted for as answers are", async (t) => {
  const dir = folder(t);
  writeBert(path.join(dir, "vectors.gguf"));
  writeBert(path.join(dir, "ranker.gguf"), { pooling: 4, seed: 2 });
  writeFileSync(path.join(dir, "limits.yaml"), 'prices:\n  - {model: "*", input: 1000, output: 1000}\nlimits:\n' +
    "  - {scope: global, name: tpd, kind: sliding_window, capacity: 200, period: 24h}\n  - {scope: global, name: all, kind: budget, dollars: 0.15, window: total}\n");
  const server = await Server.start(["--data-dir", dir, "--limits", path.join(dir, "limits.yaml"), "--packed-cache", "off"],
    { models: ["--model", path.join(dir, "vectors.gguf"), "--model", path.join(dir, "ranker.gguf")] });
  t.after(() => server.stop());
  const embedded = await server.post("/v1/embeddings", { model: "vectors", input: ["hello there", "x"] });
  assert.equal(embedded.status, 200);
  const read = embedded.json.usage.prompt_tokens;
  assert.equal(embedded.headers.get("x-ratelimit-limit-tokens"), "200");
  assert.equal(embedded.headers.get("x-ratelimit-remaining-tokens"), String(200 - read));
  const ranked = await server.post("/v1/rerank", { model: "ranker", query: "ab", documents: ["abc", "xyz"] });
  assert.equal(ranked.status, 200);
  assert.equal(ranked.headers.get("x-ratelimit-limit-tokens"), "200");
  const sums = await server.until(() => usage(dir, "--by", "model"), (all) => all.length === 2);
  const of = (name) => sums.find((sum) => sum.model === name || sum.by?.[0] === name);
  assert.equal(of("vectors").prompt_tokens, read);
  assert.equal(of("vectors").cost_nano_usd ?? of("vectors").cost_nano, read * 1e6);
  assert.equal(of("ranker").prompt_tokens, ranked.json.usage.prompt_tokens);
  const refused = await server.post("/v1/embeddings", { model: "vectors", input: Array(14).fill("hello there") });
  assert.equal(refused.status, 429);
  assert.equal(refused.json.error.code, "insufficient_quota");
  assert.equal((await server.post("/v1/embeddings", { model: "vectors", input: Array(40).fill("hello there") })).status, 400);
});

test("a faulty file of limits is refused with its line", async (t) => {
  const dir = folder(t);
  writeFileSync(path.join(dir, "limits.yaml"), "limits:\n  - {scope: nobody}\n");
  const refused = await run(binary, ["serve", "--port", "0", "--limits", path.join(dir, "limits.yaml")]);
  assert.equal(refused.code, 1);
  assert.match(refused.err, /limits\.yaml:2: /);
});
