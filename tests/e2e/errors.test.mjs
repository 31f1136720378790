// What bad input gets: a clear answer each time, the server still serving the others.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { Server } from "./server.mjs";

let server;
before(async () => {
  server = await Server.start(["--api-key", "sk-right", "--api-key", "sk-other", "--max-body", "16MiB"]);
});
after(() => server.stop());

// The shape that every client reads.
function assertError({ status, json }, expected, words = /./) {
  assert.equal(status, expected, JSON.stringify(json));
  assert.deepEqual(Object.keys(json.error), ["message", "type", "param", "code"]);
  assert.match(json.error.message, words);
  assert.equal(typeof json.error.type, "string");
  for (const word of [json.error.param, json.error.code]) assert.ok(word === null || typeof word === "string", JSON.stringify(json));
  return json.error;
}

test("a key is needed everywhere but for liveness and the page", async () => {
  for (const open of ["/health", "/v1/health", "/ping", "/version", "/"]) assert.equal((await fetch(server.url + open)).status, 200, open);
  for (const closed of ["/v1/models", "/v1/models/x", "/metrics", "/api/status", "/nowhere"]) {
    const answer = await fetch(server.url + closed);
    assertError({ status: answer.status, json: await answer.json() }, 401);
  }
  for (const closed of ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/apply-template"])
    assert.equal((await fetch(server.url + closed, { method: "POST", body: "{}" })).status, 401, closed);
  assert.equal((await fetch(server.url + "/v1/models", { headers: { "x-api-key": "sk-other" } })).status, 200);
  await assert.rejects(server.client({ apiKey: "sk-wrong" }).models.list(), OpenAI.AuthenticationError);
  assert.equal((await server.client({ apiKey: "sk-right" }).models.list()).data[0].id, server.model);
});

test("an unknown model is 404, for the client too", async () => {
  const client = server.client({ apiKey: "sk-right" });
  await assert.rejects(client.chat.completions.create({ model: "nope", messages: [{ role: "user", content: "x" }] }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found" && error.param === "model");
  await assert.rejects(client.models.retrieve("nope"), OpenAI.NotFoundError);
  assert.equal((await client.models.retrieve(server.model)).id, server.model);
});

test("unknown paths and methods", async () => {
  assertError(await server.post("/v1/nothing", {}), 404);
  const wrong = await server.fetch("/v1/chat/completions");
  assert.equal(wrong.status, 405);
  assert.equal(wrong.headers.get("allow"), "POST");
});

test("a prompt over the context names both numbers", async () => {
  const context = (await (await server.fetch("/v1/models")).json()).data[0].max_model_len;
  const error = assertError(await server.post("/v1/chat/completions", server.chat("many words ".repeat(context))), 400);
  assert.equal(error.code, "context_length_exceeded");
  assert.match(error.message, new RegExp(`\\d+ tokens.*\\b${context}\\b`));
  assert.equal(assertError(await server.post("/v1/completions", { prompt: "a", max_tokens: context }), 400).code, "context_length_exceeded");
});

test("every kind of bad JSON is 400", async () => {
  const bodies = ["", " ", "{", "}", "[", "]", "nul", "null", "true", "1", '"x"', "[]", "{}", "{]", "[}", '{"a"}', '{"a":}', '{"a":1,}', '{,"a":1}',
    "{'a':1}", "{a:1}", '{"a":01}', '{"a":+1}', '{"a":.5}', '{"a":1.}', '{"a":1e}', '{"a":0x10}', '{"a":NaN}', '{"a":Infinity}', '{"a":-}',
    '{"a":"\\x"}', '{"a":"\\u12"}', '{"a":"\\ud800"}', '{"a":"\\udc00\\ud800"}', '{"a":"\n"}', '{"a":"\u0001"}', '{"a":"x', '{"a":1}{"b":2}', '{"a":1} x',
    "// c\n{}", "/* c */{}", "\ufeff\ufeff{}", '{"messages":1e999}', "[".repeat(10_000), '{"a":'.repeat(10_000), '{"a":' + "[".repeat(10_000) + "]".repeat(10_000) + "}",
    Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), Buffer.from([0xff, 0xfe, 0x7b, 0, 0x7d, 0]), Buffer.from([0]), Buffer.alloc(1000, 0x80),
    Buffer.from('{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}', "latin1")];
  for (const body of bodies)
    for (const where of ["/v1/chat/completions", "/v1/completions", "/tokenize"]) {
      const answer = await server.post(where, body);
      assertError(answer, 400);
    }
});

test("strings of 10 MB and a million members are answered", async () => {
  const long = "x".repeat(10 << 20);
  assertError(await server.post("/v1/chat/completions", { model: long, messages: [{ role: "user", content: "x" }] }), 400, /model/);
  assert.equal(assertError(await server.post("/v1/chat/completions", server.chat(long)), 400).code, "context_length_exceeded");
  assertError(await server.post("/v1/completions", { prompt: "a", stop: long }), 400, /stop/);
  const members = "{" + Array.from({ length: 1_000_000 }, (_, i) => `"k${i}":1`).join(",") + "}";
  assertError(await server.post("/v1/completions", members), 400, /members/);
  assertError(await server.post("/v1/completions", { prompt: Array.from({ length: 1_000_000 }, () => 5) }), 400);
  assertError(await server.post("/v1/chat/completions", { messages: Array.from({ length: 100_000 }, () => ({ role: "user", content: "x" })), ...server.chatExtras }), 400);
});

test("a body over the limit is 413", async () => {
  assert.equal(assertError(await server.post("/v1/completions", { prompt: "x".repeat(17 << 20) }), 413).type, "request_too_large");
});

test("wrong types and ranges name their field", async () => {
  for (const [field, value] of Object.entries({ temperature: "hot", top_p: -0.1, n: 0, max_tokens: -1, stop: 7, seed: "x", stream: "yes", logit_bias: { "-1": 2 },
    top_logprobs: 3, presence_penalty: 9, stop_token_ids: ["a"], tools: "f", tool_choice: "required", response_format: { type: "json_schema" } })) {
    const error = assertError(await server.post("/v1/chat/completions", server.chat("x", { [field]: value })), 400);
    assert.equal(error.param, field);
  }
  assertError(await server.post("/v1/chat/completions", server.chat("x", { messages: [] })), 400, /messages/);
  assertError(await server.post("/v1/chat/completions", server.chat("x", { chat_template: "{% for %}" })), 400);
  assertError(await server.post("/v1/chat/completions", server.chat("x", { chat_template: "{{ raise_exception('not like this') }}" })), 400, /not like this/);
  assertError(await server.post("/v1/chat/completions", server.chat("x", { chat_template: "{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}" })), 413);
});

test("unknown fields are ignored", async () => {
  const answer = await server.post("/v1/chat/completions", server.chat("x", { max_tokens: 1, no_such_field: { a: [1] }, user: "u", metadata: {}, store: false, service_tier: "auto" }));
  assert.equal(answer.status, 200);
});

test("after all of that the server is well", async () => {
  assert.deepEqual(await (await fetch(server.url + "/health")).json(), { status: "ok" });
  assert.equal(await server.metric("vllm:num_requests_running"), 0);
  assert.equal((await server.post("/v1/chat/completions", server.chat("x", { max_tokens: 1 }))).status, 200);
});
