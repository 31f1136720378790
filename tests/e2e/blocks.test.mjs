// Routes by what is cached where: replicas that tell what they have, and instances in one program.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server } from "./server.mjs";

const config = (t, text) => {
  const dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-blocks-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const file = path.join(dir, "ashlar.yaml");
  writeFileSync(file, text);
  return file;
};

// Conversations that begin differently and are long enough to have keys.
const opening = (who) => [{ role: "user", content: `I am called ${who}. ` +
  Array.from({ length: 60 }, (_, i) => `Of ${who} number ${i} I know ${(i * 7919 + who.length) % 1000}.`).join(" ") }];
const names = ["Ada", "Beatrix", "Caroline", "Dorothea", "Emmeline", "Florentina"];

// One turn; the server's trace of it is in its log.
async function turn(front, conversation, more = {}, options = {}) {
  const seen = front.log.length;
  const body = { model: "chat", messages: conversation, max_tokens: 4, ...front.chatExtras, ...more };
  const answer = await front.post("/v1/chat/completions", body, options);
  assert.equal(answer.status, 200, JSON.stringify(answer.json));
  conversation.push({ role: "assistant", content: answer.json.choices[0].message.content }, { role: "user", content: "And then?" });
  const found = await front.until(() => front.log.slice(seen).match(/routed.*?trace="?(\{.*\})"?/), (match) => match);
  const trace = JSON.parse(found[1].replaceAll('\\"', '"'));
  const { prompt_tokens, prompt_tokens_details } = answer.json.usage;
  return { home: trace.tries.at(-1).deployment, expected: trace.cached_tokens, prompt: prompt_tokens, cached: prompt_tokens_details.cached_tokens };
}
const known = async (front) => Object.fromEntries((await (await front.fetch("/admin/v1/routes")).json()).routes
  .map((route) => [route.name, route.cached_prefixes]));

test("a front that knows nothing finds the replica that has a conversation", async (t) => {
  const one = await Server.start(), two = await Server.start();
  let replaced;
  t.after(() => Promise.all([one.stop(), two.stop(), replaced?.stop()]));
  const file = config(t, `
upstreams:
  - {name: one, url: "${one.url}/v1", blocks_interval: 20ms, max_attempts: 1, health_interval: 100ms}
  - {name: two, url: "${two.url}/v1", blocks_interval: 20ms, max_attempts: 1, health_interval: 100ms}
routes:
  - name: chat
    strategy: prefix-index
    deployments: [{name: first, model: one/${one.model}}, {name: second, model: two/${two.model}}]
`);
  const start = async () => {
    const front = await Server.start(["--config", file, "--log-level", "debug"], { models: [] });
    front.chatExtras = one.chatExtras;
    return front;
  };
  let front = await start();
  t.after(() => front.stop());
  await front.until(() => known(front), (now) => now.first === 0 && now.second === 0);

  const talks = names.map((name) => ({ name, said: opening(name) }));
  for (const talk of talks) Object.assign(talk, await turn(front, talk.said));
  for (const home of ["first", "second"]) assert.ok(talks.some((talk) => talk.home === home), "both have a share");
  await front.until(() => known(front), (now) => now.first > 0 && now.second > 0);
  await front.kill();

  front = await start();
  await front.until(() => known(front), (now) => now.first > 0 && now.second > 0);
  for (const talk of [...talks].reverse()) {
    const next = await turn(front, talk.said);
    assert.equal(next.home, talk.home, `${talk.name} goes where its blocks are`);
    assert.ok(next.cached >= 0.8 * talk.prompt, `${talk.name}: ${next.cached} of ${talk.prompt} tokens were cached`);
    assert.ok(next.expected <= next.cached + 16 && next.expected > 0.7 * talk.prompt, `the front expected ${next.expected}, there were ${next.cached}`);
  }

  // A replica that comes anew has nothing, and the front knows.
  await one.kill();
  await front.until(() => known(front), (now) => now.first === 0);
  replaced = await Server.start(["--port", String(one.port)]);
  await front.until(async () => (await (await front.fetch("/admin/v1/upstreams")).json()).upstreams.every((each) => each.state === "up"), (up) => up);
  await front.stop();  // whose memory of what it sent lasts for some seconds
  front = await start();
  await front.until(() => known(front), (now) => now.first === 0 && now.second > 0);
  for (const talk of talks) {
    const next = await turn(front, talk.said);
    if (talk.home === "second") assert.equal(next.home, "second");
    if (talk.home === "first") assert.equal(next.expected, 0, "nobody has it");
  }
  await front.until(() => known(front), (now) => now.first > 0);
});

test("tenants of the front share no blocks at a replica", async (t) => {
  const back = await Server.start();
  t.after(() => back.stop());
  const front = await Server.start(["--log-level", "debug", "--api-key", "red", "--api-key", "blue", "--config", config(t, `
upstreams: [{name: one, url: "${back.url}/v1", blocks_interval: 20ms}]
routes: [{name: chat, strategy: prefix-index, deployments: [one/${back.model}]}]
`)], { models: [] });
  t.after(() => front.stop());
  front.chatExtras = back.chatExtras;
  const as = (key) => turn(front, opening("Ada"), {}, { headers: { authorization: `Bearer ${key}` } });
  assert.equal((await as("red")).cached, 0);
  const blue = await as("blue");
  assert.equal(blue.cached, 0, "another tenant's blocks are not blue's");
  assert.equal(blue.expected, 0);
  assert.ok((await as("red")).cached > 0);
});

test("instances in one program are told apart by what each has", async (t) => {
  const front = await Server.start(["--log-level", "debug", "--config", config(t, `
routes: [{name: chat, strategy: prefix-index, deployments: [a, b]}]
`)], { models: ["--model", "a=ashlar-assistant", "--model", "b=ashlar-assistant"] });
  t.after(() => front.stop());
  const talks = names.slice(0, 4).map((name) => ({ name, said: opening(name) }));
  for (const talk of talks) Object.assign(talk, await turn(front, talk.said));
  assert.ok(new Set(talks.map((talk) => talk.home)).size === 2, "both have a share");
  for (const talk of [...talks].reverse()) {
    const next = await turn(front, talk.said);
    assert.equal(next.home, talk.home);
    assert.ok(next.cached >= 0.8 * talk.prompt, `${next.cached} of ${talk.prompt}`);
  }
  const told = await known(front);
  assert.ok(told["chat/a"] > 0 && told["chat/b"] > 0, JSON.stringify(told));
  const { keys, tokens, whole } = await (await front.fetch("/v1/cache/prefixes/a?book=0&since=0")).json();
  assert.ok(whole && tokens.length === told["chat/a"] && keys.length === 16 * tokens.length);
  // One of them leaves memory: what it had is forgotten. Its models come back for whoever asks the route for tokens.
  const { count } = (await front.post("/tokenize", { model: "chat", prompt: "one two three" })).json;
  assert.ok(count > 0);
});
