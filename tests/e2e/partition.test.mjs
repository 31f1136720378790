// A network that is cut or bad between servers and what they share, and between a front and its replicas.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Server, binary, events, run } from "./server.mjs";
import { folder, havePostgres, haveRedis, postgres, redis, way } from "./services.mjs";

const write = (t, text) => {
  const file = path.join(folder(t), "a.yaml");
  writeFileSync(file, text);
  return file;
};
const ask = (server, more = {}) => server.post("/v1/chat/completions", server.chat("Say a word.", { max_tokens: 6, temperature: 0, ignore_eos: true, ...more }));

test("a server that is cut off spends nothing, the other goes on, and what they share is whole afterwards", { skip: (!haveRedis || !havePostgres) && "no redis-server, or no PostgreSQL" }, async (t) => {
  const counters = await redis(t), database = await postgres(t);
  // A dollar for each thousand tokens.
  const limits = write(t, 'prices:\n  - {model: "*", input: 1000, output: 1000}\nlimits:\n  - {scope: global, name: all, kind: budget, dollars: 1.5, window: total}\n');
  const start = async () => {
    const ways = [await way(t, counters.port), await way(t, database.port)];
    const server = await Server.start(["--data-dir", folder(t), "--limits", limits, "--counters", `redis://127.0.0.1:${ways[0].port}`,
      "--database", database.url.replace(`:${database.port}`, `:${ways[1].port}`)]);
    t.after(() => server.stop());
    return Object.assign(server, { cut: (is) => { for (const each of ways) each.cut = is; },
      spoil: () => { for (const each of ways) Object.assign(each, { delay: 90, lost: 20 }); } });
  };
  const [lone, other] = [await start(), await start()];
  let received = 0;
  const paid = async (server, more) => {
    const answer = await ask(server, more);
    if (answer.status === 200) received += answer.json.usage.total_tokens;
    return answer;
  };
  for (const server of [lone, other]) assert.equal((await paid(server)).status, 200);
  const begun = paid(lone, { max_tokens: 150 });
  await lone.until(() => lone.metric("vllm:num_requests_running"), (running) => running === 1);
  lone.cut(true);
  assert.equal((await begun).status, 200, "what was reserved before is answered");
  for (let i = 0; i < 5; ++i) {
    assert.equal((await paid(lone)).status, 503, "money waits");
    assert.equal((await paid(other)).status, 200, "nobody waits for who is away");
  }
  assert.ok((await lone.fetch("/metrics")).ok);
  lone.cut(false);
  await lone.until(async () => (await paid(lone)).status, (status) => status === 200, 60_000);

  // 180 ms there and back, one piece in twenty lost: slow, and exact. Both ask until nothing is left.
  for (const server of [lone, other]) server.spoil();
  const load = async (server) => {
    for (;;) {
      const answer = await paid(server);
      if (answer.status === 429) return;
      assert.ok([200, 503].includes(answer.status), JSON.stringify(answer.json));
    }
  };
  await Promise.all([lone, other].flatMap((server) => Array.from({ length: 8 }, () => load(server))));
  assert.ok(received <= 1500, `${received} tokens of 1500`);
  const spent = async () => {
    const told = await run(binary, ["usage", "--json", "--by", "tenant", "--database", database.url]);
    const sum = told.code === 0 && told.out.trim() !== "" ? JSON.parse(told.out.trim().split("\n")[0]) : { prompt_tokens: 0, completion_tokens: 0 };
    return sum.prompt_tokens + sum.completion_tokens;
  };
  assert.equal(await other.until(spent, (tokens) => tokens >= received, 60_000), received, "rows say what clients got, each once");
});

test("a replica that cannot be reached: its streams end with an error, others answer, and it is back when it can be", async (t) => {
  const replicas = [await Server.start(), await Server.start()];
  t.after(() => Promise.all(replicas.map((each) => each.stop())));
  const ways = [await way(t, replicas[0].port), await way(t, replicas[1].port)];
  const times = "connect_timeout: 3s, first_token_timeout: 3s, between_tokens_timeout: 3s, health_interval: 200ms, health_failures: 2";
  const { model } = replicas[0];
  const front = await Server.start(["--config", write(t, `
upstreams:
  - {name: one, url: "http://127.0.0.1:${ways[0].port}/v1", ${times}}
  - {name: two, url: "http://127.0.0.1:${ways[1].port}/v1", ${times}}
routes:
  - {name: chat, strategy: weighted, deployments: [one/${model}, two/${model}]}
`)], { models: [] });
  t.after(() => front.stop());
  front.model = "chat";
  const states = async () => (await (await front.fetch("/admin/v1/upstreams")).json()).upstreams.map((each) => each.state).join();
  await front.until(states, (all) => all === "up,up");
  const served = (replica) => replica.metric("vllm:request_success_total");
  const streams = await Promise.all(Array.from({ length: 4 }, async () => {
    const stream = events(await front.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify(front.chat("Go on", { stream: true, max_tokens: 800, ignore_eos: true })) }));
    await stream.next();
    return stream;
  }));
  ways[0].cut = true;
  const asked = Array.from({ length: 12 }, () => ask(front));
  const ends = await Promise.all(streams.map(async (stream) => {
    let last;
    for await (const data of stream) last = data;
    return last;
  }));
  assert.equal(ends.filter((last) => last === "[DONE]").length, 2, ends.join("\n"));
  for (const last of ends) assert.match(last, /\[DONE\]|"error"/, "a stream that was cut never ends as if it were whole");
  for (const answer of await Promise.all(asked)) assert.equal(answer.status, 200, JSON.stringify(answer.json));
  await front.until(states, (all) => all !== "up,up" && all.endsWith(",up"));
  for (let i = 0; i < 10; ++i) assert.equal((await ask(front)).status, 200);

  Object.assign(ways[0], { cut: false, delay: 200, lost: 20 });
  await front.until(states, (all) => all === "up,up", 60_000);
  const before = await served(replicas[0]);
  await front.until(async () => {
    assert.equal((await ask(front)).status, 200);
    return served(replicas[0]);
  }, (count) => count > before, 60_000);
});
