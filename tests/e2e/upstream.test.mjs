// Another server behind ours: a second Ashlar, and fakes that do what real ones seldom do.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server, binary, events, run } from "./server.mjs";
import { folder, freePort } from "./services.mjs";

let back, front;
before(async () => {
  back = await Server.start();
  front = await Server.start(["--upstream", `fast=${back.url}/v1`], { models: [] });
});
after(async () => {
  await front?.stop();
  await back?.stop();
});

// A server whose answer to a POST is what `script(request, response, body)` makes of it; its models are `models`.
async function fake(script, models = ["fake"]) {
  const server = http.createServer((request, response) => {
    let body = "";
    request.on("data", (piece) => (body += piece));
    request.on("end", () => {
      if (request.method === "GET") return response.end(JSON.stringify({ data: models.map((id) => ({ id })) }));
      script(request, response, JSON.parse(body));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.url = `http://127.0.0.1:${server.address().port}/v1`;
  return server;
}
const chunk = (delta, more = {}) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, ...more }] })}\n\n`;

test("the models of an upstream stand beside our own", async (t) => {
  assert.equal(front.model, back.model);
  const both = await Server.start(["--upstream", `fast=${back.url}/v1`], { models: ["--model", "ashlar-assistant"] });
  t.after(() => both.stop());
  const listed = (await (await both.fetch("/v1/models")).json()).data.map((card) => [card.id, card.owned_by]);
  assert.deepEqual(listed, [["ashlar-assistant", "ashlar"], [`fast/${back.model}`, "fast"]]);
  const asked = { ...both.chat("Say a word."), temperature: 0, max_tokens: 8 };
  const own = await both.post("/v1/chat/completions", asked);
  const theirs = await both.post("/v1/chat/completions", { ...asked, model: `fast/${back.model}` });
  assert.equal(theirs.json.choices[0].message.content, own.json.choices[0].message.content);
});

test("a model's second name works beside routes, and is no way around its limit; a route gives no vectors", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "ashlar-second-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const upstream = await fake((request, response) => response.end(JSON.stringify({
    choices: [{ index: 0, message: { role: "assistant", content: "Hi." }, finish_reason: "stop" }],
    usage: { prompt_tokens: 1, completion_tokens: 1 } })), ["m"]);
  t.after(() => upstream.close());
  const limits = path.join(folder, "limits.yaml"), config = path.join(folder, "ashlar.yaml");
  writeFileSync(limits, "limits:\n  - {scope: model, who: m, name: rph, measure: requests, capacity: 1, period: 1h}\n");
  const plain = `upstreams:\n  - {name: theirs, url: "${upstream.url}", models: [m]}\n`;
  for (const routes of ["", "routes:\n  - {name: chat, deployments: [theirs/m]}\n"]) {
    writeFileSync(config, plain + routes);
    const server = await Server.start(["--config", config, "--limits", limits, "--data-dir", path.join(folder, routes ? "a" : "b")], { models: [] });
    t.after(() => server.stop());
    const ask = (model) => server.post("/v1/chat/completions", { model, messages: [{ role: "user", content: "Hi" }], max_tokens: 4 });
    assert.equal((await ask("theirs/m")).status, 200, "a second name");
    assert.equal((await ask("m")).status, 429, "counts as the first");
    assert.equal((await ask("theirs/m")).status, 429);
    assert.equal((await ask("theirs/n")).status, 404);
    if (!routes) continue;
    const vectors = await server.post("/v1/embeddings", { model: "chat", input: "Hi" });
    assert.equal(vectors.status, 400);
    assert.match(vectors.json.error.message, /gives no embeddings/);
  }
});

test("the openai client streams the same text through both", async () => {
  const ask = { ...back.chat("What is an ashlar?"), temperature: 0, max_tokens: 40, stream: true, stream_options: { include_usage: true } };
  const collect = async (server) => {
    let text = "", usage, reason;
    for await (const part of await server.client().chat.completions.create(ask)) {
      text += part.choices[0]?.delta?.content ?? "";
      reason = part.choices[0]?.finish_reason ?? reason;
      usage = part.usage ?? usage;
    }
    return { text, reason, prompt: usage.prompt_tokens, completion: usage.completion_tokens, estimated: usage.estimated };
  };
  const direct = await collect(back), proxied = await collect(front);
  assert.ok(direct.text.length > 0);
  assert.deepEqual(proxied, direct);
});

test("whole answers, completions, n and stops are the same too", async () => {
  for (const [where, body] of [
    ["/v1/chat/completions", { ...back.chat("Count to five."), temperature: 0, max_tokens: 12, n: 2 }],
    ["/v1/completions", { model: back.model, prompt: "Once upon a time", temperature: 0, max_tokens: 12 }],
    ["/v1/completions", { model: back.model, prompt: ["One", "Two"], temperature: 0, max_tokens: 6, logprobs: 2 }]]) {
    const direct = await back.post(where, body), proxied = await front.post(where, body);
    assert.equal(proxied.status, 200, JSON.stringify(proxied.json));
    const told = ({ json }) => json.choices.map(({ index, text, message, finish_reason, logprobs }) => ({ index, text, message, finish_reason,
      tokens: logprobs?.tokens }));
    assert.deepEqual(told(proxied), told(direct));
    assert.equal(proxied.json.usage.completion_tokens, direct.json.usage.completion_tokens);
  }
});

test("errors of the upstream keep their status and meaning", async () => {
  const long = await front.post("/v1/chat/completions", front.chat("word ".repeat(20000)));
  assert.equal(long.status, 400);
  assert.equal(long.json.error.code, "context_length_exceeded");
  assert.equal((await front.post("/v1/chat/completions", { ...front.chat("x"), model: "none" })).status, 404);
});

test("tools, pictures and unknown members reach the upstream, calls come back", async (t) => {
  let seen;
  const server = await fake((request, response, body) => {
    seen = body;
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(chunk({ role: "assistant", reasoning_content: "Hm." }));
    response.write(chunk({ tool_calls: [{ index: 0, id: "call_1", type: "function", function: { name: "weather", arguments: "" } }] }));
    response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: '{"city":' } }] }));
    response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: '"Bern"}' } }] }));
    response.write(chunk({}, { finish_reason: "tool_calls" }));
    response.end('data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5}}\n\ndata: [DONE]\n\n');
  });
  const gateway = await Server.start(["--upstream", `fake=${server.url}`], { models: [] });
  t.after(async () => {
    await gateway.stop();
    server.close();
  });
  const ask = {
    model: "fake", tool_choice: "required", response_format: { type: "json_object" }, reasoning_effort: "low", some_extra: 7,
    messages: [{ role: "user", content: [{ type: "text", text: "Where?" }, { type: "image_url", image_url: { url: "data:image/png;base64,AA==" } }] }],
    tools: [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }],
  };
  const answer = await gateway.client().chat.completions.create(ask);
  const message = answer.choices[0].message;
  assert.deepEqual(message.tool_calls, [{ id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Bern"}' } }]);
  assert.equal(message.content, null);
  assert.equal(message.reasoning_content, "Hm.");
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  assert.equal(answer.usage.total_tokens, 16);
  for (const name of Object.keys(ask)) assert.deepEqual(seen[name], ask[name]);

  const pieces = [];
  for await (const part of await gateway.client().chat.completions.create({ ...ask, stream: true }))
    pieces.push(...(part.choices[0]?.delta?.tool_calls ?? []));
  assert.equal(pieces[0].function.name, "weather");
  assert.equal(pieces.map((piece) => piece.function.arguments).join(""), '{"city":"Bern"}');
  assert.ok(pieces.slice(1).every((piece) => piece.id === undefined));
});

test("an upstream that dies in the midst ends the stream with an error; the next are told soon", async (t) => {
  const doomed = await Server.start();
  const gateway = await Server.start(["--upstream", `doomed=${doomed.url}/v1`], { models: [] });
  t.after(() => gateway.stop());
  const answer = await gateway.fetch("/v1/chat/completions", { method: "POST",
    body: JSON.stringify(gateway.chat("Go on", { stream: true, n: 8, max_tokens: 2000, ignore_eos: true, temperature: 1 })) });
  const stream = events(answer);
  for (let i = 0; i < 20; ++i) await stream.next();
  doomed.process.kill("SIGKILL");
  let last;
  for await (const data of stream) last = data;
  assert.match(JSON.parse(last).error.message, /doomed/);
  for (let i = 0; i < 3; ++i) {
    const began = Date.now();
    const next = await gateway.post("/v1/chat/completions", gateway.chat("Hello?"));
    assert.ok([502, 503].includes(next.status), JSON.stringify(next.json));
    assert.ok(Date.now() - began < 15_000, "a dead upstream was waited for");
  }
});

test("a client that leaves ends the request at the upstream", async (t) => {
  let left;
  const gone = new Promise((resolve) => (left = resolve));
  const server = await fake((request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(chunk({ content: "Hel" }));
    response.on("close", left);
  });
  const gateway = await Server.start(["--upstream", `fake=${server.url}`], { models: [] });
  t.after(async () => {
    await gateway.stop();
    server.close();
  });
  const leave = new AbortController();
  const answer = await gateway.fetch("/v1/chat/completions", { method: "POST", signal: leave.signal,
    body: JSON.stringify({ model: "fake", stream: true, messages: [{ role: "user", content: "x" }] }) });
  const stream = events(answer);
  await stream.next();
  leave.abort();
  await gone;
});

test("a configuration file is checked as a whole, and served", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "ashlar-e2e-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const good = path.join(folder, "good.yaml"), wrong = path.join(folder, "wrong.yaml");
  writeFileSync(good, `sse_ping: 5000\nupstreams:\n  - name: fast\n    url: ${back.url}/v1\n    models: [{name: small, model: ${back.model}}]\n`);
  writeFileSync(wrong, "upstreams:\n  - name: a\n    url: http://x\n    modles: [b]\n  - name: b\n    kind: opneai\n    url: ftp://x\n    api_key: sk-plain\n");
  assert.equal((await run(binary, ["config", "check", good])).code, 0);
  const { code, err } = await run(binary, ["config", "check", wrong]);
  assert.equal(code, 1);
  assert.match(err, /wrong.yaml:4: .*'modles'; did you mean 'models'\?/);
  assert.match(err, /wrong.yaml:6: .*'opneai'; did you mean 'openai'\?/);
  assert.match(err, /wrong.yaml:7: /);
  assert.match(err, /wrong.yaml:8: 'api_key'/);
  assert.doesNotMatch(err, /sk-plain/);
  const gateway = await Server.start(["--config", good], { models: [] });
  t.after(() => gateway.stop());
  assert.equal(gateway.model, "small");
  const answer = await gateway.post("/v1/chat/completions", gateway.chat("Hello", { max_tokens: 4 }));
  assert.equal(answer.status, 200, JSON.stringify(answer.json));
  assert.equal(answer.json.model, "small");
});

test("an upstream that was never reached is unknown, not up, until it is known to be down; health says why", async (t) => {
  const dir = folder(t), nobody = await freePort();
  writeFileSync(path.join(dir, "a.yaml"), `upstreams:\n  - {name: away, url: "http://127.0.0.1:${nobody}/v1", models: [m], health_interval: 2s, health_failures: 3}\n`);
  const server = await Server.start(["--config", path.join(dir, "a.yaml"), "--data-dir", dir], { models: [] });
  t.after(() => server.stop());
  const seen = async () => (await (await server.fetch("/admin/v1/upstreams")).json()).upstreams[0];
  const first = await seen();
  assert.equal(first.state, "unknown");
  assert.match(first.trouble, /refused|connect/);
  assert.match((await run(binary, ["upstream", "list", "--server", server.url])).out, /away +unknown/);
  const troubles = async () => (await (await server.fetch("/admin/v1/status")).json()).troubles.join();
  assert.match(await troubles(), /the upstream 'away' has not answered yet: /);
  assert.equal(await server.metric("ashlar_upstream_healthy"), 0);
  await server.until(seen, (now) => now.state === "down");
  assert.match(await troubles(), /the upstream 'away' is down: /);
});
