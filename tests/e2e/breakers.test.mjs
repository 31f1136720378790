// An upstream that fails for a while: how much of it clients see, how often it is asked, and how it comes back.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { test } from "node:test";
import { Server } from "./server.mjs";
import { folder } from "./services.mjs";

// An upstream of one model, its own name; `fails(n)` says whether its n-th call since it was set does.
async function upstream(t, name) {
  const it = { name, asked: 0, fails: () => false };
  const server = http.createServer((request, response) => {
    if (request.method === "GET") return response.end(JSON.stringify({ data: [{ id: name }] }));
    request.resume().on("end", () => {
      if (it.fails(it.asked++)) return response.writeHead(500).end('{"error": {"message": "out of order"}}');
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ model: name, choices: [{ index: 0,
        message: { role: "assistant", content: name }, finish_reason: "stop" }], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } }));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.closeAllConnections(), server.close()));
  return Object.assign(it, { url: `http://127.0.0.1:${server.address().port}/v1` });
}

test("six of ten calls fail: the breaker opens, others answer, it is left alone, tried again, and closed", async (t) => {
  const sick = await upstream(t, "sick"), spare = await upstream(t, "spare");
  const config = path.join(folder(t), "ashlar.yaml");
  writeFileSync(config, `
upstreams:
  - {name: a, url: "${sick.url}"}
  - {name: b, url: "${spare.url}"}
routes:
  - {name: chat, deployments: [a/sick], fallbacks: {error: [rest]}}
  - {name: rest, deployments: [b/spare]}
  - {name: alone, deployments: [a/sick]}
`);
  const server = await Server.start(["--config", config, "--data-dir", folder(t)], { models: [] });
  t.after(() => server.stop());
  let sent = 0;
  const ask = async (model = "chat") => {
    ++sent;
    return server.post("/v1/chat/completions", { model, messages: [{ role: "user", content: "x" }] });
  };
  const who = async () => {
    const answer = await ask();
    assert.equal(answer.status, 200, JSON.stringify(answer.json));
    return answer.json.choices[0].message.content;
  };
  const breaker = (route) => server.metric("ashlar_gateway_deployment_breaker", `deployment="${route}/a/sick"`);
  // Until it is open some clients hear of failures: more than a fifth of the requests are not asked again.
  const load = (route) => Promise.all(Array.from({ length: 20 }, async () => {
    while ((await breaker(route)) !== 2) assert.ok([200, 502, 503].includes((await ask(route)).status));
  }));
  for (let i = 0; i < 20; ++i) assert.equal(await who(), "sick");

  sick.fails = (n) => n % 5 < 3;
  sent = sick.asked = spare.asked = 0;
  await load("chat");
  // All within the 15 s that it stays open.
  for (let i = 0; i < 25; ++i)
    for (const name of await Promise.all(Array.from({ length: 20 }, who))) assert.equal(name, "spare", "while it is open");
  assert.ok(sick.asked + spare.asked <= 1.2 * sent, `${sent} requests became ${sick.asked} calls of the one and ${spare.asked} of the other`);
  // Where nobody else answers: refused without a call, with the time to come back.
  await load("alone");
  const before = sick.asked, refused = await ask("alone");
  assert.equal(refused.status, 503, JSON.stringify(refused.json));
  assert.ok(Number(refused.headers.get("retry-after")) > 0);
  assert.equal(sick.asked, before);

  sick.fails = () => false;
  await server.until(who, (name) => name === "sick", 60_000);
  await server.until(async () => (await who(), breaker("chat")), (state) => state === 0);
  for (let i = 0; i < 10; ++i) assert.equal(await who(), "sick");
  const kinds = (await (await server.fetch("/admin/v1/events?limit=100")).json()).events.filter((each) => each.subject === "chat/a/sick").map((each) => each.kind);
  for (const kind of ["breaker.opened", "breaker.half_open", "breaker.closed"]) assert.ok(kinds.includes(kind), kinds.join());
});
