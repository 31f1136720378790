// A prompt that ends the process whenever it is computed: played by a signal while it is.
import assert from "node:assert/strict";
import { test } from "node:test";
import path from "node:path";
import { writeBert } from "./gguf.mjs";
import { Server, events } from "./server.mjs";
import { folder } from "./services.mjs";

test("a prompt on which the server crashed twice is refused, and nobody else is", async (t) => {
  const dir = folder(t);
  let server;
  const start = async () => (server = await Server.start(["--data-dir", dir], { limits: "ulimit -c 0" }));
  t.after(() => server.stop());
  const ask = (text, more = {}) => server.post("/v1/chat/completions", server.chat(text, { max_tokens: 2, ...more }));
  // It runs: the stream's first token is here.
  const begin = async (text) => {
    const answer = await server.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify(server.chat(text, { stream: true, max_tokens: 1500, ignore_eos: true })) });
    assert.equal(answer.status, 200, await (answer.ok ? "" : answer.text()));
    const stream = events(answer);
    await stream.next();
    return stream;
  };
  const crash = async (signal) => {
    server.process.kill(signal);
    assert.equal((await server.exit).signal, signal, "a crash stays a crash, for who looks after the process");
    await start();
  };
  const listed = async () => (await (await server.fetch("/admin/v1/events?limit=100")).json()).events.filter((each) => each.kind === "request.quarantined");

  await start();
  await begin("poison");
  await begin("bystander");
  await crash("SIGSEGV");
  assert.equal((await ask("somebody else")).status, 200);
  // Both are suspects now, of which one at a time is tried.
  await begin("poison");
  const waits = await ask("bystander");
  assert.equal(waits.status, 503, JSON.stringify(waits.json));
  assert.ok(Number(waits.headers.get("retry-after")) > 0);
  const another = await begin("another bystander");
  await crash("SIGABRT");
  await assert.rejects(async () => { for await (const _ of another) ; }, "who ran beside it is cut off");
  for (let round = 0; round < 2; ++round) {
    const refused = await ask("poison");
    assert.equal(refused.status, 422, JSON.stringify(refused.json));
    assert.equal(refused.json.error.code, "request_quarantined");
    for (const text of ["bystander", "another bystander", "somebody else"]) assert.equal((await ask(text)).status, 200, text);
    assert.equal((await listed()).length, 1);
    await server.stop();  // and after a restart, the same
    await start();
  }

  // Who was there at one crash and came to an end later is as everybody; kill -9 is nobody's fault.
  await begin("bystander");
  await crash("SIGBUS");
  assert.equal((await ask("bystander")).status, 200);
  for (let i = 0; i < 2; ++i) {
    await begin("killed");
    await crash("SIGKILL");
  }
  for (const text of ["bystander", "killed"]) assert.equal((await ask(text)).status, 200, text);
});

test("texts on which the server crashed twice are not read again, and others are", async (t) => {
  const dir = folder(t), model = path.join(dir, "large.gguf");
  writeBert(model, { width: 1024, hidden: 4096, layers: 6, context: 512 });  // seconds for what is asked below
  let server;
  const start = async () => (server = await Server.start(["--data-dir", path.join(dir, "data")], { limits: "ulimit -c 0", models: ["--model", `large=${model}`] }));
  t.after(() => server.stop());
  const poison = Array.from({ length: 256 }, (_, i) => "abcdefgh".repeat(30) + i);
  const embed = (input) => server.post("/v1/embeddings", { model: "large", input });
  const crash = async () => {
    await start();
    const lost = assert.rejects(embed(poison));
    await server.until(() => server.metric("ashlar_reader_waiting_texts"), (texts) => texts > 0, 60_000);
    server.process.kill("SIGSEGV");
    await server.exit;
    await lost;
  };
  await crash();
  await crash();
  await start();
  const refused = await embed(poison);
  assert.equal(refused.status, 422, JSON.stringify(refused.json));
  assert.equal(refused.json.error.code, "request_quarantined");
  assert.equal((await embed(poison.slice(0, 2))).status, 200);
});
