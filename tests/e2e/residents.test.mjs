// More models than are in memory at once: each answers when it is asked for.
import assert from "node:assert/strict";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server } from "./server.mjs";

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
