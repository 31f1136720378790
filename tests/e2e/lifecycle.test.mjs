// Starting, refusing to start, draining, dying.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server, binary, events, run } from "./server.mjs";

test("SIGTERM lets running answers end and refuses new ones", async () => {
  const server = await Server.start(["--drain-timeout", "120000"]);
  const answer = await server.fetch("/v1/chat/completions", { method: "POST",
    body: JSON.stringify(server.chat("Go on", { stream: true, n: 4, max_tokens: 100, ignore_eos: true, temperature: 1 })) });
  const stream = events(answer);
  await stream.next();
  server.process.kill("SIGTERM");
  let last;
  for await (const data of stream) last = data;
  assert.equal(last, "[DONE]");
  assert.deepEqual(await server.exit, { code: 0, signal: null });
  await assert.rejects(fetch(server.url + "/health"));
});

test("an answer that is still on its way when the process ends arrives whole", async () => {
  const server = await Server.start();
  const text = JSON.stringify(server.chat("Go on", { stream: true, max_tokens: 100, ignore_eos: true }));
  const socket = net.connect(server.port, "127.0.0.1");
  socket.pause();
  socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  await server.until(() => server.metric("vllm:generation_tokens_total"), (tokens) => tokens > 0);
  assert.deepEqual(await server.stop(), { code: 0, signal: null });
  let heard = "";
  for await (const data of socket) heard += data;
  assert.match(heard, /data: \[DONE\]/);
});

test("a second signal ends it at once", async () => {
  const server = await Server.start(["--drain-timeout", "600000"]);
  const answer = await server.fetch("/v1/chat/completions", { method: "POST",
    body: JSON.stringify(server.chat("Go on", { stream: true, n: 128, ignore_eos: true, temperature: 1 })) });
  await events(answer).next();
  server.process.kill("SIGTERM");
  await server.until(() => /draining/.test(server.log), (yes) => yes);
  await server.until(() => server.process.kill("SIGTERM") && server.process.exitCode === null && server.process.signalCode === null, (alive) => !alive);
  const { code, signal } = await server.exit;
  assert.ok(signal === "SIGTERM" || code === 0, `${code} ${signal}`);
});

test("what cannot be served is said in one sentence", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "ashlar-e2e-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = (name, content) => {
    writeFileSync(path.join(folder, name), content);
    return path.join(folder, name);
  };
  const server = await Server.start();
  t.after(() => server.stop());
  const cases = [
    [["--host", "0.0.0.0"], /--api-key/],
    [["--port", String(server.port)], /in use/],
    [[path.join(folder, "none.gguf")], /none\.gguf/],
    [[folder], /./],
    [[file("text.gguf", "not a model")], /text\.gguf/],
    [[file("short.gguf", Buffer.concat([Buffer.from("GGUF"), Buffer.from([3, 0, 0, 0]), Buffer.alloc(16, 0xff)]))], /short\.gguf/],
    [["--api-key-file", path.join(folder, "none")], /cannot be read/],
    [["--api-key", "with blank"], /API key/],
    [["--tls-cert", file("c.pem", "x"), "--tls-key", file("k.pem", "x")], /./],
    [["--port", "http"], /port/],
    [["--no-such-option"], /no-such-option/],
  ];
  for (const [args, words] of cases) {
    const { code, out, err } = await run(binary, ["serve", "--port", "0", ...args]);
    assert.ok(code > 0, `${args}: ended with ${code}: ${out}${err}`);
    assert.match(err, words);
    assert.ok(err.trim().split("\n").length <= 3, `${args}: ${err}`);
  }
});

test("kill -9 under load, and a new one serves at once", async () => {
  for (let round = 0; round < 3; ++round) {
    const server = await Server.start();
    const answers = Promise.allSettled(Array.from({ length: 20 }, async () => {
      const answer = await server.fetch("/v1/chat/completions", { method: "POST",
        body: JSON.stringify(server.chat("Go on", { stream: true, n: 4, ignore_eos: true, temperature: 1 })) });
      const all = await Array.fromAsync(events(answer));
      if (all.at(-1) !== "[DONE]") throw new Error("cut off");
    }));
    await server.until(() => server.metric("vllm:num_requests_running"), (running) => running > 0);
    assert.deepEqual(await server.kill(), { code: null, signal: "SIGKILL" });
    assert.ok((await answers).some((end) => end.status === "rejected"));
  }
});
