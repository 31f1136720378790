// Tokenizing, templates, models, health and metrics.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server, run } from "./server.mjs";

let server;
before(async () => {
  server = await Server.start();
});
after(() => server.stop());

test("text survives the way to tokens and back", async () => {
  for (const text of ["Hello world", "naïve café", "日本語と中文", "emoji 👩‍👩‍👧 and\ttabs\nlines", "", " leading", "a".repeat(3000)]) {
    const { status, json } = await server.post("/tokenize", { model: server.model, prompt: text, add_special_tokens: false, return_token_strs: true });
    assert.equal(status, 200);
    assert.equal(json.count, json.tokens.length);
    assert.equal(json.token_strs.length, json.count);
    assert.ok(json.max_model_len > 0);
    const back = await server.post("/detokenize", { model: server.model, tokens: json.tokens });
    assert.equal(back.json.prompt.trimStart(), text.trimStart());
    assert.equal(back.json.content, back.json.prompt);
  }
});

test("llama.cpp's shape of tokenize", async () => {
  const { json } = await server.post("/tokenize", { content: "Hello é", with_pieces: true });
  for (const token of json.tokens) assert.ok(Number.isInteger(token.id) && (typeof token.piece === "string" || Array.isArray(token.piece)));
  const plain = await server.post("/tokenize", { content: "Hello é" });
  assert.deepEqual(plain.json.tokens, json.tokens.map((token) => token.id));
});

test("a conversation's tokens are those of its rendering", async () => {
  const messages = server.chat("How are you?");
  const rendered = await server.post("/apply-template", messages);
  assert.match(rendered.json.prompt, /How are you\?/);
  const [chat, text] = await Promise.all([server.post("/tokenize", messages), server.post("/tokenize", { prompt: rendered.json.prompt, add_special_tokens: false })]);
  assert.deepEqual(chat.json.tokens, text.json.tokens);
  const answer = await server.post("/v1/chat/completions", { ...messages, max_tokens: 1 });
  assert.equal(answer.json.usage.prompt_tokens, chat.json.count);
});

test("models, health, version, load", async () => {
  const models = await (await server.fetch("/v1/models")).json();
  assert.equal(models.object, "list");
  for (const name of ["id", "object", "created", "owned_by", "max_model_len", "root", "meta"]) assert.ok(name in models.data[0], name);
  assert.deepEqual(await (await server.fetch(`/v1/models/${encodeURIComponent(server.model)}`)).json(), models.data[0]);
  assert.deepEqual(await (await server.fetch("/health")).json(), { status: "ok" });
  assert.match((await (await server.fetch("/version")).json()).version, /^\d+\.\d+\.\d+/);
  const status = await (await server.fetch("/api/status")).json();
  for (const name of ["running", "waiting", "kv_used", "decode_tokens_per_second"]) assert.equal(typeof status[name], "number");
});

test("request ids come back", async () => {
  assert.equal((await server.fetch("/health", { headers: { "x-request-id": "mine-1" } })).headers.get("x-request-id"), "mine-1");
  assert.match((await server.fetch("/health")).headers.get("x-request-id"), /^req-/);
});

// The text format 0.0.4: each family described before its samples, histograms that add up.
function parseMetrics(text) {
  const families = new Map();
  let family;
  assert.ok(text.endsWith("\n"));
  for (const line of text.slice(0, -1).split("\n")) {
    const described = line.match(/^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/);
    if (described) {
      const [, what, name, rest] = described;
      if (what === "HELP") {
        assert.ok(!families.has(name), `${name} described twice`);
        families.set(name, (family = { name, samples: [] }));
      } else {
        assert.equal(family.name, name);
        family.type = rest;
      }
      continue;
    }
    const sample = line.match(/^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$/);
    assert.ok(sample, `no sample: ${line}`);
    assert.ok(Number.isFinite(Number(sample[3])), line);
    const suffix = sample[1].slice(family.name.length);
    assert.ok(sample[1].startsWith(family.name) && (family.type === "histogram" ? ["_bucket", "_sum", "_count"].includes(suffix) : suffix === ""), line);
    family.samples.push({ suffix, value: Number(sample[3]) });
  }
  for (const { name, type, samples } of families.values()) {
    assert.ok(["counter", "gauge", "histogram"].includes(type), name);
    if (type !== "histogram") continue;
    let last = 0;
    for (const { suffix, value } of samples) {
      if (suffix === "_bucket") {
        assert.ok(value >= last, `${name} is not cumulative`);
        last = value;
      }
      if (suffix === "_count") {
        assert.equal(value, last, `${name}: the last bucket holds all`);
        last = 0;
      }
    }
  }
  return families;
}

test("metrics carry the names that dashboards know", async () => {
  await server.post("/v1/chat/completions", server.chat("x", { max_tokens: 4 }));
  const answer = await server.fetch("/metrics");
  assert.equal(answer.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  const text = await answer.text();
  const families = parseMetrics(text);
  for (const name of ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total", "vllm:request_success_total", "vllm:num_preemptions_total", "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total", "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens", "vllm:iteration_tokens_total",
    "ashlar_http_requests_total", "ashlar_http_request_duration_seconds"])
    assert.ok(families.has(name), `${name} is missing`);
  assert.match(text, /vllm:num_requests_running\{[^}]*model_name="/);
  const tool = await run("promtool", ["check", "metrics"], text);
  if (tool.code !== -1) assert.ok(!/error while linting/.test(tool.err), tool.err);
});
