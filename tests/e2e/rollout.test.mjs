// Versions on trial before real servers: a bad one is rolled back by itself and no client sees it, a good one gets all.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { Server, binary, run } from "./server.mjs";

// A proxy before a server, which fails or delays what passes: `share` of the answers are errors, and each piece of an
// answer comes `delay` milliseconds late.
async function proxy(t, target, { share = 0, status = 500, delay = 0 } = {}) {
  const seen = { requests: 0, failed: 0 };
  const server = http.createServer((request, response) => {
    const asks = request.method === "POST";
    seen.requests += asks ? 1 : 0;
    if (asks && (seen.requests * share) % 1 < share) {
      seen.failed += 1;
      request.resume();
      response.writeHead(status, { "content-type": "application/json" });
      return response.end(JSON.stringify({ error: { message: "broken on purpose", type: "server_error" } }));
    }
    const up = http.request(target + request.url, { method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      let last = Promise.resolve();
      const later = (what) => (last = last.then(() => new Promise((resolve) => setTimeout(() => resolve(what()), asks ? delay : 0))));
      answer.on("data", (piece) => later(() => response.write(piece)));
      answer.on("end", () => later(() => response.end()));
    });
    up.on("error", () => response.destroy());
    request.pipe(up);
    response.on("close", () => up.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.closeAllConnections(), server.close()));
  return { url: `http://127.0.0.1:${server.address().port}`, seen };
}

let stable, other;
const servers = async () => {
  stable ??= await Server.start();
  other ??= await Server.start();
  return [stable, other];
};
after(async () => {
  await stable?.stop();
  await other?.stop();
});

// A gateway whose route `name` leads to the stable server, and to the other one at `url` as its rollout or shadow says.
async function gateway(t, name, url, more) {
  const dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-rollout-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const file = path.join(dir, "ashlar.yaml");
  writeFileSync(file, `
upstreams:
  - {name: old, url: "${stable.url}/v1", max_attempts: 1}
  - {name: new, url: "${url}/v1", max_attempts: 1}
routes:
  - name: ${name}
    deployments: [old/${stable.model}]
    ${more.replaceAll("MODEL", `new/${other.model}`)}
`);
  const front = await Server.start(["--config", file], { models: [] });
  front.config = file;
  front.ask = (text, members = {}) => front.post("/v1/chat/completions", { ...front.chat(text), model: name, max_tokens: 6, temperature: 0.5, ...members });
  front.state = () => front.metric("ashlar_gateway_rollout_state", `route="${name}"`);
  // Asks, some at once, until the rollout is over; all answers.
  front.drive = async (most, over) => {
    const answers = [];
    let done = false;
    await Promise.all(Array.from({ length: 3 }, async () => {
      while (!done && answers.length < most) {
        answers.push(await front.ask(`Say the number ${answers.length}.`));
        if (answers.length % 5 === 0 && over.includes(await front.state())) done = true;
      }
    }));
    return answers;
  };
  t.after(() => front.stop());
  return front;
}
const promoted = 4, rolledBack = 5;
const ask = async (front, ...words) => {
  const told = await run(binary, ["rollout", ...words, "--server", front.url]);
  assert.equal(told.code, 0, told.err);
  return told.out;
};

test("a version that fails is rolled back by itself, and no client sees it", async (t) => {
  await servers();
  const bad = await proxy(t, other.url, { share: 0.5 });
  const front = await gateway(t, "failing", bad.url, "rollout: {to: MODEL, steps: [25%, 100%], hold: 60s, minimum_requests: 20, gates: {ttft_p95: off, itl_p95: off}}");
  const answers = await front.drive(400, [rolledBack]);
  assert.deepEqual([...new Set(answers.map((answer) => answer.status))], [200]);
  assert.equal(await front.state(), rolledBack, `${answers.length} asked, ${bad.seen.requests} of the trial, ${bad.seen.failed} failed`);
  assert.ok(bad.seen.requests <= answers.length * 0.25 + 4 * Math.sqrt(answers.length * 0.25) + 2, `${bad.seen.requests} of ${answers.length}`);
  const before = bad.seen.requests;
  for (let i = 0; i < 20; ++i) assert.equal((await front.ask("On we go.")).status, 200);
  assert.equal(bad.seen.requests, before, "nobody goes there any more");
  const shown = JSON.parse(await ask(front, "show", "failing", "--json"));
  assert.equal(shown.state, "rolled_back");
  assert.match(shown.why, /error_rate/);
  assert.match(await ask(front, "show", "failing"), /rolled_back[^]*CANARY +STABLE[^]*fails +error_rate/);
  // Nor after a restart.
  const { url } = bad;
  await front.stop();
  const again = await Server.start(["--config", front.config], { models: [] });
  t.after(() => again.stop());
  assert.equal(await again.metric("ashlar_gateway_rollout_state", 'route="failing"'), rolledBack, url);
  assert.match(await ask(again, "list"), /failing +rolled_back +0 %/);
  const told = await (await again.fetch("/admin/v1/events?kind=rollout")).json();
  assert.ok(told.events.some((event) => event.kind === "rollout.rolled_back" && event.subject === "failing"), JSON.stringify(told));
  await ask(again, "start", "failing");
  assert.equal(await again.metric("ashlar_gateway_rollout_state", 'route="failing"'), 1);
});

test("a version that refuses what the stable one takes is rolled back", async (t) => {
  await servers();
  const bad = await proxy(t, other.url, { share: 1, status: 400 });
  const front = await gateway(t, "refusing", bad.url, "rollout: {to: MODEL, steps: [25%, 100%], hold: 60s, minimum_requests: 20, gates: {ttft_p95: off, itl_p95: off}}");
  const answers = await front.drive(300, [rolledBack]);
  assert.deepEqual([...new Set(answers.map((answer) => answer.status))], [200]);
  assert.equal(await front.state(), rolledBack);
});

test("a version that is slow between its tokens is rolled back", async (t) => {
  await servers();
  const slow = await proxy(t, other.url, { delay: 250 });
  const front = await gateway(t, "slow", slow.url, "rollout: {to: MODEL, steps: [40%, 100%], hold: 60s, minimum_requests: 10, gates: {ttft_p95: off}}");
  await front.drive(300, [rolledBack]);
  assert.equal(await front.state(), rolledBack);
  assert.match(JSON.parse(await ask(front, "show", "slow", "--json")).why, /itl_p95/);
});

test("a good version is promoted, and may be called back", async (t) => {
  await servers();
  const good = await proxy(t, other.url);
  const front = await gateway(t, "good", good.url,
    "rollout: {to: MODEL, steps: [50%, 100%], hold: 300ms, minimum_requests: 15, gates: {ttft_p95: 20x, itl_p95: 20x}}");
  const answers = await front.drive(400, [promoted, rolledBack]);
  assert.equal(await front.state(), promoted, await ask(front, "show", "good"));
  assert.deepEqual([...new Set(answers.map((answer) => answer.status))], [200]);
  const before = good.seen.requests;
  for (let i = 0; i < 5; ++i) assert.equal((await front.ask("All go there.")).status, 200);
  assert.equal(good.seen.requests, before + 5);
  await ask(front, "rollback", "good", "--why", "for the test");
  for (let i = 0; i < 5; ++i) assert.equal((await front.ask("None goes there.")).status, 200);
  assert.equal(good.seen.requests, before + 5);
  assert.equal(JSON.parse(await ask(front, "show", "good", "--json")).why, "for the test");
  const nobody = await run(binary, ["rollout", "pause", "good", "--server", front.url]);
  assert.equal(nobody.code, 1);
  assert.match(nobody.err, /not running: it is rolled_back/);
  const page = await (await front.fetch("/metrics")).text();
  assert.match(page, /ashlar_gateway_deployment_requests_total\{[^}]*label="canary"[^}]*\} \d+/);
  assert.match(page, /ashlar_gateway_deployment_inter_token_seconds_count\{[^}]*label="stable"[^}]*\} \d+/);
  assert.match(page, /ashlar_gateway_route_desired_replicas\{route="good"\} [1-9]/);
});

test("a session stays on its side", async (t) => {
  await servers();
  const seen = await proxy(t, other.url);
  const front = await gateway(t, "sticky", seen.url, "rollout: {to: MODEL, steps: [50%], hold: 1h, gates: {error_rate: off, ttft_p95: off, itl_p95: off}}");
  for (let session = 0; session < 6; ++session) {
    const before = seen.seen.requests;
    for (let i = 0; i < 4; ++i)
      assert.equal((await front.post("/v1/chat/completions", { ...front.chat("Hello"), model: "sticky", max_tokens: 2 },
        { headers: { "x-session-id": `session-${session}` } })).status, 200);
    assert.ok([0, 4].includes(seen.seen.requests - before), `session ${session}: ${seen.seen.requests - before} of 4`);
  }
});

test("a shadow answers beside, is compared, and its failures are its own", async (t) => {
  await servers();
  const behind = await proxy(t, other.url, { share: 0.25 });
  const front = await gateway(t, "watched", behind.url, "shadow: {to: MODEL, share: 100%, keep_texts: true, concurrency: 50}");
  for (let i = 0; i < 12; ++i) {
    const answer = await front.ask(`Count to ${i}.`, { temperature: 0 });
    assert.equal(answer.status, 200, JSON.stringify(answer.json));
  }
  const report = async () => JSON.parse(await ask(front, "shadow", "watched", "--json"));
  let last = await report();
  for (const end = Date.now() + 60_000; last.answered < 12 && Date.now() < end; last = await report());
  assert.equal(last.answered, 12, JSON.stringify(last));
  assert.equal(last.failures.shadow_alone, behind.seen.failed);
  assert.ok(behind.seen.failed > 0);
  assert.equal(last.compared.same_text, 12 - behind.seen.failed, "the same model, at temperature 0");
  assert.equal(last.compared.agreement, 1);
  assert.match(await ask(front, "shadow", "watched"), /12 answered[^]*CLIENT +SHADOW[^]*of the same text/);
  assert.ok((await front.metric("ashlar_gateway_shadow_tokens_total", 'kind="completion"')) > 0);
});
