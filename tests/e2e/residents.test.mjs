// More models than are in memory at once: each answers when it is asked for.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { writeBert } from "./gguf.mjs";
import { Server, events } from "./server.mjs";

const assistant = path.resolve(import.meta.dirname, "../../assets/model/ashlar-assistant.gguf");
let server;
before(async () => {
  server = await Server.start(["--max-loaded-models", "1", "--keep-alive", "1h"],
    { models: ["--model", `a=${assistant}`, "--model", `b=${assistant}`, "--model", `c=${assistant}`] });
});
after(() => server.stop());

const metric = (name) => server.metric(`ashlar_${name}`);

async function ask(model) {
  const { status, json } = await server.post("/v1/chat/completions",
    { model, temperature: 0, max_tokens: 12, messages: [{ role: "user", content: "What is Ashlar?" }] });
  assert.equal(status, 200, JSON.stringify(json));
  return json.choices[0].message.content;
}

test("all are listed, one is in memory", async () => {
  const listed = (await (await server.fetch("/v1/models")).json()).data.map((model) => model.id);
  assert.deepEqual(listed, ["a", "b", "c"]);
  assert.equal(await metric("engine_models_resident"), 1);
});

test("each answers alike, in turn and all at once", async () => {
  const first = await ask("a");
  assert.ok(first.length > 5);
  for (const model of ["b", "c", "a"]) assert.equal(await ask(model), first);
  const answers = await Promise.all(["a", "b", "c", "b", "a", "c"].map(ask));
  for (const answer of answers) assert.equal(answer, first);
  assert.equal(await metric("engine_models_resident"), 1);
  assert.ok(await metric("engine_models_unloaded_total") >= 3);
});

test("a request says how long its model stays", async () => {
  await ask("a");
  assert.equal(await metric("engine_models_resident"), 1);
  const { status } = await server.post("/v1/chat/completions",
    { model: "a", max_tokens: 1, keep_alive: 0, messages: [{ role: "user", content: "Hi" }] });
  assert.equal(status, 200);
  await server.until(() => metric("engine_models_resident"), (resident) => resident === 0);
  await ask("a");
  assert.equal(await metric("engine_models_resident"), 1);
  const wrong = await server.post("/v1/completions", { model: "a", prompt: "Hi", keep_alive: "soon" });
  assert.equal(wrong.status, 400);
  assert.equal(wrong.json.error.param, "keep_alive");
});

test("one model goes on answering while another is loaded", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "ashlar-residents-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const large = path.join(folder, "large.gguf");
  writeBert(large, { width: 1024, hidden: 4096, layers: 6, seed: 3 });  // 290 MiB to be packed
  const both = await Server.start(["--packed-cache", "off"], { models: ["--model", `a=${assistant}`, "--model", `large=${large}`] });
  t.after(() => both.stop());
  // It has been loaded already, for both fit: it goes, and comes back in the middle of an answer.
  const embed = (more) => both.post("/v1/embeddings", { model: "large", input: "abc", ...more });
  assert.equal((await embed({ keep_alive: 0 })).status, 200);
  await both.until(() => both.metric("ashlar_engine_models_resident"), (resident) => resident === 1);

  const tokens = [];
  let began, ended;
  const load = () => {
    began = performance.now();
    embed({}).then(({ status }) => { assert.equal(status, 200); ended = performance.now(); });
  };
  while (ended === undefined) {  // an answer ends where the context does
    const leaving = new AbortController();
    const answer = await both.fetch("/v1/completions", { method: "POST", signal: leaving.signal, headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "a", prompt: "Once", stream: true, ignore_eos: true, temperature: 1 }) });
    assert.equal(answer.status, 200);
    try {
      for await (const _ of events(answer)) {
        tokens.push(performance.now());
        if (tokens.length === 20) load();
        if (ended !== undefined) leaving.abort();
      }
    } catch (error) { assert.equal(error.name, "AbortError"); }
  }
  const during = tokens.filter((at) => at > began && at < ended);
  const gap = Math.max(...during.map((at, i) => at - (i === 0 ? began : during[i - 1])), ended - (during.at(-1) ?? began));
  t.diagnostic(`${during.length} tokens in ${(ended - began).toFixed(0)} ms, the largest gap ${gap.toFixed(0)} ms`);
  assert.ok(during.length >= 10, `${during.length} tokens came in the ${ended - began} ms of loading`);
  assert.ok(gap < (ended - began) * 0.75, `${gap} ms without a token, of ${ended - began} ms of loading`);
});
