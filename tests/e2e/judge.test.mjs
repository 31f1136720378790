// A judge and its clients say how good answers are: a version that answers worse is rolled back, though it is as fast and
// fails as seldom.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server } from "./server.mjs";

// An upstream whose model answers what `say` makes of the last message.
async function upstream(t, say) {
  const server = http.createServer((request, response) => {
    let text = "";
    request.on("data", (data) => (text += data)).on("end", () => {
      response.setHeader("content-type", "application/json");
      if (request.method === "GET") return response.end(JSON.stringify({ object: "list", data: [{ id: "m", object: "model" }] }));
      const asked = JSON.parse(text), content = say(asked.messages.at(-1).content);
      const usage = { prompt_tokens: 5, completion_tokens: 5, total_tokens: 10 };
      if (!asked.stream)
        return response.end(JSON.stringify({ id: "x", object: "chat.completion", model: "m", usage,
          choices: [{ index: 0, finish_reason: "stop", message: { role: "assistant", content } }] }));
      response.setHeader("content-type", "text/event-stream");
      const chunk = (delta, finish_reason = null) => response.write(`data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", model: "m",
        choices: [{ index: 0, delta, finish_reason }] })}\n\n`);
      chunk({ role: "assistant", content: "" });
      chunk({ content });
      chunk({}, "stop");
      response.write(`data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", model: "m", choices: [], usage })}\n\n`);
      response.end("data: [DONE]\n\n");
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.closeAllConnections(), server.close()));
  return `http://127.0.0.1:${server.address().port}/v1`;
}

async function gateway(t, judge, limits = "") {
  const dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-judge-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const mumbling = await upstream(t, () => "What a fine answer!");
  const [old, fresh, judging] = [await upstream(t, () => "A squared stone."), await upstream(t, () => "Bananas."),
    await upstream(t, (prompt) => (prompt.includes("Bananas") ? "Score: 2/10" : "**0.9**"))];
  const file = path.join(dir, "ashlar.yaml");
  writeFileSync(path.join(dir, "limits.yaml"), limits);
  writeFileSync(file, `
${limits ? `limits: ${path.join(dir, "limits.yaml")}` : ""}
upstreams:
  - {name: old, url: "${old}", models: [m], allow_private: true}
  - {name: new, url: "${fresh}", models: [m], allow_private: true}
  - {name: judging, url: "${judging}", models: [m], allow_private: true}
  - {name: mumbling, url: "${mumbling}", models: [m], allow_private: true}
routes:
  - name: chat
    deployments: [old/m]
    rollout:
      to: new/m
      steps: [50%, 100%]
      hold: 1h
      gates: {error_rate: off, ttft_p95: off, itl_p95: off, score: -0.1}
      ${judge}
`);
  const server = await Server.start(["--config", file, "--api-key", "sk-all", "--data-dir", dir], { models: [] });
  t.after(() => server.stop());
  server.ask = (stream = false) => server.post("/v1/chat/completions", { model: "chat", stream, temperature: 1, messages: [{ role: "user", content: "What is an ashlar?" }] });
  server.rollout = async () => (await server.fetch("/admin/v1/rollouts/chat")).json();
  return server;
}

test("a judge finds the answers of the version on trial worse, and it is rolled back", async (t) => {
  const server = await gateway(t, "judge: {model: judging/m, share: 100%, concurrency: 8}",
    "limits: [{scope: user, who: rollout-judge, name: judge, measure: requests, capacity: 100000, period: 1h}]\n");
  let asked = 0;
  const over = await server.until(async () => {
    if ((await server.rollout()).state !== "running") return server.rollout();
    assert.equal((await server.ask()).status, 200);
    ++asked;
    return server.rollout();
  }, (shown) => shown.state === "rolled_back", 120_000);
  assert.match(over.why, /^score: /);
  assert.ok(over.judge.scored >= 20, JSON.stringify(over.judge));
  assert.equal(over.judge.unclear, 0);
  for (let i = 0; i < 5; ++i) assert.equal((await server.ask()).json.choices[0].message.content, "A squared stone.");
  const usage = await server.until(async () => (await (await server.fetch("/admin/v1/usage?by=user")).json()), (said) => JSON.stringify(said).includes("rollout-judge"));
  assert.ok(usage, "what the judge used is accounted for as its own");
});

test("a judge that says nothing of use stops nobody", async (t) => {
  const server = await gateway(t, "judge: {model: mumbling/m, share: 100%}");
  for (let i = 0; i < 10; ++i) assert.equal((await server.ask()).status, 200);
  const shown = JSON.parse(await server.until(async () => JSON.stringify(await server.rollout()), (said) => JSON.parse(said).judge.unclear >= 1));
  assert.equal(shown.state, "running");
});

test("clients and evaluators score answers by their ids", async (t) => {
  const server = await gateway(t, "on_finish: wait");
  const score = async (where, body) => (await server.post(where, body));
  let clients = 0;
  const over = await server.until(async () => {
    const { json } = await server.ask();
    const good = json.choices[0].message.content.startsWith("A squared");
    if (++clients % 2 === 0) {
      const said = await score("/v1/feedback", { id: json.id, score: good ? 1 : 0.25 });
      assert.equal(said.status, 200, JSON.stringify(said.json));
    } else {
      const said = await score("/admin/v1/rollouts/chat/scores", { request: json.id, score: good ? 0.875 : 0.125 });
      assert.ok(said.status === 200 || (await server.rollout()).state === "rolled_back", JSON.stringify(said.json));
    }
    return server.rollout();
  }, (shown) => shown.state === "rolled_back", 120_000);
  assert.match(over.why, /^score: /);
  assert.deepEqual((await score("/v1/feedback", { id: "chatcmpl-unknown", score: 1 })).json, { counted: false });
  assert.equal((await score("/v1/feedback", { id: "chatcmpl-unknown", score: 7 })).status, 400);
  assert.equal((await score("/v1/feedback", { score: 1 })).status, 400);
  assert.equal((await score("/admin/v1/rollouts/chat/scores", { request: "chatcmpl-unknown", score: 1 })).status, 404);
});
