// Names that clients ask for, and the models behind them that answer.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server, binary, run } from "./server.mjs";

const config = (t, text) => {
  const dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-routes-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const file = path.join(dir, "ashlar.yaml");
  writeFileSync(file, text);
  return file;
};

test("a route answers under its names, and goes on when one of its models dies", async (t) => {
  const first = await Server.start(), second = await Server.start();
  t.after(() => second.stop());
  const front = await Server.start(["--config", config(t, `
upstreams:
  - {name: one, url: "${first.url}/v1", max_attempts: 1}
  - {name: two, url: "${second.url}/v1", max_attempts: 1}
routes:
  - name: chat
    aliases: [gpt-4o-mini]
    strategy: weighted
    deployments: [one/${first.model}, two/${second.model}]
`)], { models: [] });
  t.after(() => front.stop());
  const listed = (await (await front.fetch("/v1/models")).json()).data.map((card) => card.id);
  for (const name of ["chat", "gpt-4o-mini"]) assert.ok(listed.includes(name), listed.join());
  const ask = (model) => front.post("/v1/chat/completions", { ...front.chat("Say a word."), model, max_tokens: 4, temperature: 0.5 });
  for (const model of ["chat", "gpt-4o-mini", "chat", "chat"]) {
    const answer = await ask(model);
    assert.equal(answer.status, 200, JSON.stringify(answer.json));
    assert.equal(answer.json.model, model);
  }
  for (const server of [first, second]) assert.ok((await server.metric("vllm:request_success_total")) >= 1, "both had a share");
  await first.kill();
  const after = await Promise.all(Array.from({ length: 12 }, () => ask("chat")));
  assert.deepEqual(after.map((answer) => answer.status), Array(12).fill(200));
});

test("an alias is no way around a limit, a price or a rule", async (t) => {
  const back = await Server.start();
  t.after(() => back.stop());
  const dir = path.dirname(config(t, ""));
  writeFileSync(path.join(dir, "limits.yaml"), "prices: [{model: chat, input: 0, output: 1000}]\nlimits:\n" +
    "  - {scope: model, who: chat, name: rph, measure: requests, capacity: 2, period: 1h}\n");
  writeFileSync(path.join(dir, "identity.yaml"), "policy: [{name: no chat, effect: deny, when: {model: chat, user: bob}}]\n");
  const key = async (...args) => {
    const made = await run(binary, ["key", "create", "--json", "--data-dir", dir, ...args]);
    assert.equal(made.code, 0, made.err);
    return { headers: { authorization: `Bearer ${JSON.parse(made.out).key}` } };
  };
  const ann = await key("--user", "ann", "--model", "chat"), bob = await key("--user", "bob");
  const front = await Server.start(["--data-dir", dir, "--limits", path.join(dir, "limits.yaml"), "--identity", path.join(dir, "identity.yaml"), "--config", config(t, `
upstreams: [{name: one, url: "${back.url}/v1"}]
routes: [{name: chat, aliases: [cheap], deployments: [one/${back.model}]}]
`)], { models: [], look: false });
  t.after(() => front.stop());
  const ask = (model, who) => front.post("/v1/chat/completions", { ...back.chat("Say a word."), model, max_tokens: 4, ignore_eos: true }, who);
  assert.equal((await ask("cheap", bob)).status, 403);
  assert.equal((await (await front.fetch("/v1/models", bob)).json()).data.some((card) => card.id === "cheap"), false);
  assert.equal((await ask("cheap", ann)).status, 200);
  assert.equal((await ask("chat", ann)).status, 200);
  const refused = await ask("cheap", ann);
  assert.equal(refused.status, 429, JSON.stringify(refused.json));
  const rows = await front.until(async () => (await run(binary, ["usage", "--data-dir", dir, "--json"])).out.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line)),
    (all) => all.length === 2);
  for (const row of rows) {
    assert.equal(row.model, "chat");
    assert.equal(row.cost_nano_usd, 4 * 1e6);
    assert.notEqual(row.deployment, "");
    assert.ok(row.ttft_ms >= 0 && row.ttft_ms <= row.duration_ms, JSON.stringify(row));
  }
});

test("sensitive data goes only where it may", async (t) => {
  const back = await Server.start();
  t.after(() => back.stop());
  const front = await Server.start(["--config", config(t, `
upstreams: [{name: cloud, url: "${back.url}/v1"}]
routes:
  - name: both
    strategy: weighted
    deployments: [{model: cloud/${back.model}, weight: 1000}, {model: ashlar-assistant, data_classes: [sensitive]}]
  - {name: cloudy, deployments: [cloud/${back.model}]}
`)], { models: ["--model", "ashlar-assistant"] });
  t.after(() => front.stop());
  const asked = async () => back.metric("vllm:request_success_total");
  const ask = (model, headers = {}) => front.post("/v1/chat/completions", { ...front.chat("My diagnosis is secret."), model, max_tokens: 4 }, { headers });
  const secret = { "x-ashlar-data-class": "sensitive" };
  assert.equal((await ask("both")).status, 200);
  const before = await asked();
  for (let i = 0; i < 5; ++i) assert.equal((await ask("both", secret)).status, 200);
  const refused = await ask("cloudy", secret);
  assert.ok(refused.status >= 400, JSON.stringify(refused.json));
  // Nor by the model's own name, nor as vectors; our own model takes it.
  const direct = await ask(`cloud/${back.model}`, secret);
  assert.equal(direct.status, 403, JSON.stringify(direct.json));
  assert.match(direct.json.error.message, /may not see data of the class 'sensitive'/);
  const vectors = await front.post("/v1/embeddings", { model: `cloud/${back.model}`, input: "secret" }, { headers: secret });
  assert.equal(vectors.status, 403, JSON.stringify(vectors.json));
  assert.equal(await asked(), before);
  assert.equal((await ask("ashlar-assistant", secret)).status, 200);
});

test("a faulty file is refused as a whole, with lines", async (t) => {
  const file = config(t, "routes:\n  - {name: a, stratgy: weighted}\n  - {strategy: weighted}\n");
  const told = await run(binary, ["config", "check", file]);
  assert.equal(told.code, 1);
  assert.match(told.err, /:2: a route has no 'stratgy'; did you mean 'strategy'\?/);
  assert.match(told.err, /:3: a route needs a 'name'/);
  const fine = await run(binary, ["config", "check", config(t, "routes:\n  - {name: a, deployments: [x]}\n")]);
  assert.equal(fine.code, 0, fine.err);
});

// A server of OpenAI's kind that answers every model as `answers` says: [status, body], or a text.
async function stub(t, answers) {
  const asked = [];
  const server = http.createServer((request, response) => {
    let text = "";
    request.on("data", (piece) => (text += piece));
    request.on("end", () => {
      if (request.method !== "POST") return response.writeHead(404).end("{}");
      const { model } = JSON.parse(text);
      asked.push(model);
      const answer = answers[model];
      const [status, body] = Array.isArray(answer) ? answer
        : [200, { choices: [{ index: 0, message: { role: "assistant", content: answer }, finish_reason: "stop" }], usage: { prompt_tokens: 1000, completion_tokens: 1000 } }];
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  t.after(() => server.close());
  return { url: `http://127.0.0.1:${server.address().port}/v1`, asked };
}

test("fallbacks go by their cause, and what the cache gives costs nothing", async (t) => {
  const filtered = [400, { error: { message: "filtered", type: "invalid_request_error", code: "content_filter" } }];
  const quota = [429, { error: { message: "You exceeded your current quota", type: "insufficient_quota", code: "insufficient_quota" } }];
  const back = await stub(t, { strict: filtered, poor: quota, dear: "dear", free: "free" });
  const limits = config(t, "limits: [{scope: global, name: day, kind: budget, dollars: 0.0025, window: day}]\nprices: [{model: dearly, input: 0, output: 1}]\n");
  const file = config(t, `
upstreams: [{name: up, url: "${back.url}", models: [strict, poor, dear, free], load_interval: 0}]
routes:
  - {name: safe, deployments: [free]}
  - {name: careful, deployments: [strict], fallbacks: {policy: [safe]}}
  - {name: told, deployments: [strict, free]}
  - {name: account, deployments: [poor], fallbacks: {budget: [safe]}}
  - {name: dearly, deployments: [dear], fallbacks: {budget: [safe]}}
`);
  const front = await Server.start(["--config", file, "--limits", limits, "--response-cache", "16MiB"], { models: [] });
  t.after(() => front.stop());
  const ask = async (model, words, more = {}) => {
    const answer = await front.post("/v1/chat/completions", { model, messages: [{ role: "user", content: words }], max_tokens: 1000, ...more });
    return answer.status === 200 ? answer.json.choices[0].message.content : `${answer.status} ${answer.json.error.code}`;
  };
  assert.equal(await ask("careful", "a"), "free");
  assert.equal(await ask("account", "b"), "free");
  for (let i = 0; i < 2; ++i) assert.equal(await ask("told", `c${i}`, { temperature: 1 }), i === 0 ? "400 content_policy_violation" : "free");
  for (let i = 0; i < 5; ++i) assert.equal(await ask("dearly", "same", { temperature: 0 }), "dear");
  assert.equal(back.asked.filter((model) => model === "dear").length, 1, "four of the cache, which the budget does not know");
  assert.equal(await ask("dearly", "other", { temperature: 0 }), "dear");
  assert.equal(await ask("dearly", "third", { temperature: 0 }), "free", "half a thousandth of a dollar is left, and it may cost a whole one");

  const explained = async (model, words, more = {}) => {
    const answer = await front.fetch("/v1/chat/completions", { method: "POST",
      headers: { "content-type": "application/json", ...more }, body: JSON.stringify({ model, messages: [{ role: "user", content: words }], temperature: 0 }) });
    await answer.arrayBuffer();
    assert.match(answer.headers.get("x-ashlar-overhead-ms"), /^[0-9]+\.[0-9]{3}$/);
    return answer.headers.get("x-ashlar-route");
  };
  assert.equal(await explained("careful", "why"), null, "who does not ask is not told");
  const why = await explained("careful", "and why", { "x-ashlar-explain": "true" });
  assert.match(why, /^group=safe .*tries=careful\/strict:(failed|refused)\/[a-z_]+,safe\/free:running$/);
  assert.match(await explained("careful", "and why", { "x-ashlar-explain": "true" }), /^group=careful .*cache=hit/);
});

test("a route to a model that nobody has is refused, with its line", async (t) => {
  const file = config(t, `
upstreams: [{name: up, url: "http://127.0.0.1:1/v1", models: [there]}]
routes:
  - name: chat
    deployments:
      - up/there
      - their
  - {name: empty}
`);
  const told = await run(binary, ["config", "check", file]);
  assert.equal(told.code, 1);
  assert.match(told.err, /:7: nobody serves a model 'their'/);
  assert.match(told.err, /:8: a route needs 'deployments'/);
});
