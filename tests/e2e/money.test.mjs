// What answers cost and say of it: prices of a cache's writes, shared answers, a client's own name for its request, soft budgets.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server, binary, events, run } from "./server.mjs";

// A front over one upstream, whose answers to a chat are what `script(response, body)` sends.
async function front(t, script, { kind = "openai", limits = "{}\n", more = [], routes = "" } = {}) {
  const dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-money-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const asked = [];
  const back = http.createServer((request, response) => {
    let body = "";
    request.on("data", (piece) => (body += piece));
    request.on("end", () => {
      if (request.method === "GET") return response.end(JSON.stringify({ data: [{ id: "fake" }] }));
      asked.push(JSON.parse(body));
      script(response, asked.at(-1));
    });
  });
  await new Promise((resolve) => back.listen(0, "127.0.0.1", resolve));
  t.after(() => (back.closeAllConnections(), back.close()));
  const url = `http://127.0.0.1:${back.address().port}${kind === "azure" ? "" : "/v1"}`;
  const write = (name, text) => (writeFileSync(path.join(dir, name), text), path.join(dir, name));
  const config = write("ashlar.yaml", `upstreams: [{name: up, kind: ${kind}, url: "${url}", models: [fake], load_interval: 0}]\n${routes}`);
  const server = await Server.start(["--config", config, "--data-dir", dir, "--limits", write("limits.yaml", limits), ...more], { models: [] });
  t.after(() => server.stop());
  const usage = async (...args) => {
    const done = await run(binary, ["usage", "--data-dir", dir, ...args]);
    assert.equal(done.code, 0, done.err);
    return done.out;
  };
  const rows = async (...args) => (await usage("--json", ...args)).trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const chat = (words, { headers = {}, ...body } = {}) => server.post("/v1/chat/completions",
    { model: server.model, messages: [{ role: "user", content: words }], max_tokens: 20, ...body }, { headers });
  return { server, asked, usage, rows, chat, dir };
}

const whole = (response, events) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const event of events) response.write(`data: ${JSON.stringify(event)}\n\n`);
  response.end("data: [DONE]\n\n");
};
const says = (content) => ({ choices: [{ index: 0, delta: { content } }] });
const ends = { choices: [{ index: 0, delta: {}, finish_reason: "stop" }] };

test("what a cache is written with has its own price, and the row the client's own name", async (t) => {
  const usage = { prompt_tokens: 100, completion_tokens: 10, prompt_tokens_details: { cached_tokens: 30, cache_write_tokens: 50, cache_creation_token_details: { ephemeral_5m_input_tokens: 30, ephemeral_1h_input_tokens: 20 } } };
  const { chat, rows, usage: shown, server } = await front(t, (response) => whole(response, [says("ok"), ends, { choices: [], usage }]), {
    limits: "prices: [{model: fake, input: 1000, cached_input: 100, cache_write: 1250, cache_write_1h: 2000, output: 2000}]\n" +
      "limits: [{scope: global, name: all, kind: budget, dollars: 100}]\n" });
  const answer = await chat("hello", { headers: { "x-request-id": "trace-7.a:1" } });
  assert.equal(answer.status, 200, JSON.stringify(answer.json));
  assert.equal(answer.headers.get("x-request-id"), "trace-7.a:1");
  assert.equal(answer.json.usage.prompt_tokens_details.cache_write_tokens, 50);
  assert.equal(answer.json.usage.prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens, 20);
  await chat("hello", { headers: { "x-request-id": "no good id" } });
  await server.until(rows, (all) => all.length === 2);
  const found = await rows("--request", "trace-7.a:1");
  assert.equal(found.length, 1);
  assert.equal(found[0].request_id, "trace-7.a:1");
  assert.deepEqual([found[0].prompt_tokens, found[0].cached_tokens, found[0].cache_write_tokens], [100, 30, 50]);
  assert.equal(found[0].cost_nano_usd, 20 * 1e6 + 30 * 1e5 + 30 * 1.25e6 + 20 * 2e6 + 10 * 2e6);
  assert.equal((await rows("--by", "model"))[0].cache_write_tokens, 100);
  const [head, first] = (await shown("--csv", "--request", "trace-7.a:1")).split("\n");
  assert.match(head, /,cache_write_tokens,request_id$/);
  assert.match(first, /,50,"trace-7.a:1"$/);
  assert.match((await shown("--csv", "--by", "request")).split("\n")[0], /^"request",.*,cache_write_tokens$/);
});

test("calls, thoughts and what Azure's filter found come through a route, streamed and whole", async (t) => {
  const verdict = (severity, filtered = false) => ({ hate: { filtered, severity } });
  const { server, chat } = await front(t, (response) => whole(response, [
    { choices: [], prompt_filter_results: [{ prompt_index: 0, content_filter_results: verdict("safe") }] },
    { choices: [{ index: 0, delta: { role: "assistant", content: "", reasoning_content: "hm" } }] },
    { choices: [{ index: 0, delta: { content: "ok" }, content_filter_results: verdict("low") }] },
    { choices: [{ index: 0, delta: { tool_calls: [{ index: 0, id: "a", type: "function", function: { name: "f", arguments: "{}" } }] } }] },
    { choices: [{ index: 0, delta: {}, finish_reason: "tool_calls" }] },
    { choices: [{ index: 0, finish_reason: null, content_filter_results: verdict("safe"), content_filter_offsets: { check_offset: 44 } }] },
  ]), { kind: "azure", routes: "routes: [{name: chat, deployments: [fake]}]\n" });
  for (const model of ["chat", "fake"]) {
    const answer = await chat("hello", { model });
    assert.equal(answer.status, 200, JSON.stringify(answer.json));
    const [choice] = answer.json.choices;
    assert.equal(choice.message.reasoning_content, "hm");
    assert.equal(choice.message.tool_calls[0].function.name, "f");
    assert.deepEqual(choice.content_filter_results, verdict("low"));
    assert.deepEqual(choice.content_filter_offsets, { check_offset: 44 });
    assert.deepEqual(answer.json.prompt_filter_results, [{ prompt_index: 0, content_filter_results: verdict("safe") }]);
  }
  const stream = await server.fetch("/v1/chat/completions", { method: "POST", headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "chat", stream: true, messages: [{ role: "user", content: "hello" }] }) });
  const all = [];
  for await (const event of events(stream)) if (event !== "[DONE]") all.push(JSON.parse(event));
  assert.equal(all.filter((event) => event.prompt_filter_results).length, 1);
  assert.deepEqual(all.flatMap((event) => event.choices.map((choice) => choice.content_filter_results?.hate.severity)).filter(Boolean), ["low", "safe"]);
});

test("of those who share an answer one pays", async (t) => {
  let go;
  const held = new Promise((resolve) => (go = resolve));
  const usage = { prompt_tokens: 10, completion_tokens: 5 };
  const { server, asked, rows, chat } = await front(t, async (response) => {
    await held;
    whole(response, [says("shared"), ends, { choices: [], usage }]);
  }, { limits: "prices: [{model: chat, input: 1000, output: 1000}]\n", routes: "routes: [{name: chat, deployments: [fake]}]\n", more: ["--response-cache", "16MiB"] });
  const same = () => chat("same", { model: "chat", temperature: 0 });
  const all = [same()];
  await server.until(() => asked.length, (count) => count === 1);
  all.push(same(), same());  // who come while it is under way
  await server.until(() => server.metric("ashlar_gateway_response_cache_joined_total"), (count) => count === 2);
  go();
  for (const answer of await Promise.all(all)) assert.equal(answer.json.choices[0].message.content, "shared");
  await same();
  const kept = await server.until(rows, (found) => found.length === 4);
  assert.deepEqual(kept.map((row) => row.cost_nano_usd).sort((a, b) => b - a), [15e6, 0, 0, 0]);
  assert.deepEqual(kept.map((row) => row.tags.cache ?? "").sort(), ["", "hit", "hit", "hit"]);
  assert.equal(asked.length, 1);
});

test("a soft budget of the command line tells and refuses nobody, until it is hard", async (t) => {
  const { server, chat, dir, rows } = await front(t, (response) => whole(response, [says("ok"), ends, { choices: [], usage: { prompt_tokens: 10, completion_tokens: 10 } }]),
    { limits: "prices: [{model: fake, input: 1000, output: 1000}]\n" });
  const cli = async (...args) => run(binary, ["budget", ...args, "--data-dir", dir]);
  const key = JSON.parse((await run(binary, ["key", "create", "--json", "--data-dir", dir, "--user", "ann"])).out).key;
  const headers = { authorization: `Bearer ${key}` };
  const made = await cli("create", "user:ann", "--dollars", "0.01", "--soft", "--alert", "100", "--alert", "300", "--json");
  assert.equal(made.code, 0, made.err);
  const budget = JSON.parse(made.out);
  assert.deepEqual([budget.soft, budget.alerts], [true, [100, 300]]);
  assert.match((await cli("list")).out, /soft/);
  await server.until(() => chat("a", { headers }).then((answer) => answer.status), (status) => status === 200);
  for (let i = 0; i < 3; ++i) assert.equal((await chat(`b${i}`, { headers })).status, 200);
  await server.until(rows, (all) => all.length >= 4);
  const refused = await cli("change", budget.id, "--hard");
  assert.notEqual(refused.code, 0);
  assert.match(refused.err, /an alert is at 1 to 100 percent/);
  assert.match((await cli("change", budget.id, "--hard", "--soft")).err, /not both/);
  assert.equal((await cli("change", budget.id, "--hard", "--alert", "80")).code, 0);
  await server.until(() => chat("c", { headers }).then((answer) => answer.status), (status) => status === 429);
});

test("the head of a refusal of a malformed body tells what it took", async (t) => {
  const { server } = await front(t, (response) => response.end());
  for (const where of ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"]) {
    const answer = await server.fetch(where, { method: "POST", body: "{" });
    assert.equal(answer.status, 400, where);
    assert.match(answer.headers.get("x-ashlar-overhead-ms"), /^[0-9]+\.[0-9]{3}$/, where);
    await answer.arrayBuffer();
  }
});
