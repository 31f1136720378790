// kill -9 at a random moment: what clients received is what is accounted for, to the token, once.
// ASHLAR_KILL_ROUNDS=100 for more rounds than the suite runs.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import http2 from "node:http2";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import tls from "node:tls";
import { Server, binary, haveStories, run, stories } from "./server.mjs";
import { havePostgres, haveRedis, postgres, redis } from "./services.mjs";

process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";  // for a certificate of our own
const rounds = Number(process.env.ASHLAR_KILL_ROUNDS ?? 6);
const clients = Number(process.env.ASHLAR_KILL_CLIENTS ?? 24);
const budget = 50_000, token = 0.001;  // dollars

// What of an HTTP/1.1 answer came whole: {text, whole}.
function unchunked(bytes) {
  const head = bytes.indexOf("\r\n\r\n");
  if (head < 0) return { text: "", whole: false };
  const length = bytes.subarray(0, head).toString("latin1").match(/content-length: (\d+)/);
  if (length) {
    const body = bytes.subarray(head + 4);
    return { text: body.toString(), whole: body.length === Number(length[1]) };
  }
  const parts = [];
  for (let at = head + 4;;) {
    const line = bytes.indexOf("\r\n", at);
    const size = line < 0 ? NaN : parseInt(bytes.subarray(at, line).toString("latin1"), 16);
    if (size === 0) return { text: Buffer.concat(parts).toString(), whole: true };
    if (Number.isNaN(size) || bytes.length < line + 2 + size) {
      if (!Number.isNaN(size)) parts.push(bytes.subarray(line + 2));
      return { text: Buffer.concat(parts).toString(), whole: false };
    }
    parts.push(bytes.subarray(line + 2, line + 2 + size));
    at = line + 4 + size;
  }
}

// How a request goes to a server and all that the kernel delivers comes back: {text, whole}.
const over = {
  "HTTP/1.1, counted on Redis": (server, text) => over["HTTP/1.1"](server, text),
  "HTTP/1.1, kept on PostgreSQL": (server, text) => over["HTTP/1.1"](server, text),
  "HTTP/1.1, counted on Redis, kept on PostgreSQL": (server, text) => over["HTTP/1.1"](server, text),
  "HTTP/1.1": (server, text) => speak(net.connect(server.port, "127.0.0.1"), "connect", text),
  TLS: (server, text) => speak(tls.connect({ port: server.port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["http/1.1"] }), "secureConnect", text),
  "HTTP/2": (server, text) => frames(http2.connect(`http://127.0.0.1:${server.port}`), text),
  "HTTP/2 and TLS": (server, text) => frames(http2.connect(`https://127.0.0.1:${server.port}`, { rejectUnauthorized: false }), text),
};
function speak(socket, ready, text) {
  return new Promise((resolve) => {
    const pieces = [];
    socket.on(ready, () => socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`));
    socket.on("data", (piece) => pieces.push(piece)).on("error", () => {}).on("close", () => resolve(unchunked(Buffer.concat(pieces))));
  });
}
function frames(session, text) {
  return new Promise((resolve) => {
    const pieces = [];
    let whole = false;
    const done = () => {
      session.destroy();
      resolve({ text: Buffer.concat(pieces).toString(), whole });
    };
    session.on("error", () => {}).on("close", done);
    const stream = session.request({ ":method": "POST", ":path": "/v1/completions", "content-type": "application/json" });
    stream.on("data", (piece) => pieces.push(piece)).on("error", () => {}).on("end", () => (whole = stream.rstCode === 0 && !stream.aborted)).on("close", done);
    stream.end(text);
  });
}

// Asks, reads all that comes, and says what it was: {done, prompt, completion}.
async function ask(server, body, send) {
  const got = await send(server, JSON.stringify(body));
  if (!body.stream) {
    if (!got.whole) return { done: false, completion: 0 };
    const { usage } = JSON.parse(got.text);
    return { done: true, prompt: usage.prompt_tokens, completion: usage.completion_tokens };
  }
  let completion = 0, usage = null, done = false;
  for (const event of got.text.split("\n\n").slice(0, -1)) {
    if (!event.startsWith("data: ")) continue;
    if (event === "data: [DONE]") { done = true; continue; }
    const chunk = JSON.parse(event.slice(6));
    for (const choice of chunk.choices) completion += choice.token_ids?.length ?? 0;
    if (chunk.usage) usage = chunk.usage;
  }
  if (got.whole) assert.ok(done, `a stream that is whole says that it is done: ${got.text.slice(-300)}`);
  return done ? { done, prompt: usage.prompt_tokens, completion: usage.completion_tokens } : { done, completion };
}

async function rowsOf(...where) {
  const told = await run(binary, ["usage", ...where, "--csv"]);
  assert.equal(told.code, 0, told.err);
  const [names, ...lines] = told.out.trim().split("\r\n").join("\n").split("\n").map((line) => line.split(/,(?=(?:[^"]*"[^"]*")*[^"]*$)/));
  return lines.map((values) => Object.fromEntries(names.map((name, i) => [name, values[i].replace(/^"|"$/g, "")])));
}

for (const [name, send] of Object.entries(over)) test(`after kill -9 over ${name}, ${rounds} times, usage and budgets are what the clients received`, { timeout: 3_600_000, skip: (name.includes("Redis") && !haveRedis && "no redis-server") || (name.includes("PostgreSQL") && !havePostgres && "no PostgreSQL") }, async (t) => {
  const dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-accounts-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const certificate = path.join(dir, "cert.pem"), key = path.join(dir, "key.pem");
  const made = await run("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", key, "-out", certificate, "-subj", "/CN=localhost"]);
  assert.equal(made.code, 0, made.err);
  const secure = name.includes("TLS") ? ["--tls-cert", certificate, "--tls-key", key] : [];
  writeFileSync(path.join(dir, "limits.yaml"), `prices:\n  - {model: "*", input: 1000, output: 1000}\nlimits:\n` +
    `  - {scope: global, name: all, kind: budget, dollars: ${budget}, window: total}\n  - {scope: model, name: seats, kind: semaphore, capacity: 1000}\n`);
  const counters = name.includes("Redis") ? ["--counters", (await redis(t)).url] : [];
  const where = ["--data-dir", dir, ...(name.includes("PostgreSQL") ? ["--database", (await postgres(t)).url] : [])];
  const start = () => Server.start([...where, "--limits", path.join(dir, "limits.yaml"), ...secure, ...counters],
    haveStories ? { models: ["--model", `m=${stories}`] } : {});
  const received = [];
  let cut = 0, server = await start();
  t.after(() => server.kill());
  for (let round = 1; round <= rounds; ++round) {
    const killed = { now: false };
    const all = Array.from({ length: clients }, async (_, i) => {
      while (!killed.now) {
        const one = await ask(server, { model: server.model, prompt: "Once upon a time", max_tokens: 1 + Math.floor(Math.random() * 120),
          ignore_eos: true, temperature: 0, return_token_ids: true,
          ...(i % 8 === 0 ? {} : { stream: true, stream_options: { include_usage: true } }) }, send);
        if (one.done) received.push(one);
        else if (one.completion > 0) received.push(one), ++cut;
      }
    });
    await new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 600));
    killed.now = true;
    await server.kill();
    await Promise.all(all);
    server = await start();

    const rows = await rowsOf(...where);
    const charged = rows.filter((row) => Number(row.completion_tokens) > 0);
    assert.equal(new Set(rows.map((row) => row.id)).size, rows.length);
    const prompt = received.find((one) => one.done)?.prompt ?? Number(charged[0]?.prompt_tokens ?? 0);
    const sorted = (list) => list.sort((a, b) => (a < b ? -1 : 1));
    assert.deepEqual(sorted(charged.map((row) => `${row.status} ${row.prompt_tokens} ${row.completion_tokens}`)),
      sorted(received.map((one) => `${one.done ? 200 : 499} ${prompt} ${one.completion}`)), `round ${round}`);
    // A request for more than the budget is told what is left of it.
    const { status, json } = await server.post("/v1/completions", { model: server.model, prompt: "x", max_tokens: 100_000_000 });
    assert.equal(status, 429, JSON.stringify(json));
    const left = Number(json.error.message.match(/\$([\d.]+) of/)[1]);
    const used = received.reduce((sum, one) => sum + prompt + one.completion, 0);
    assert.equal(Math.round((budget - left) / token), used, `round ${round}: ${json.error.message}`);
    assert.equal(readdirSync(path.join(dir, "journal")).length, 1, "the journals of the dead are gone");
  }
  t.diagnostic(`${rounds} kills: ${received.length} answers, ${cut} of them cut; all rows and the budget agree`);
  if (rounds >= 6) assert.ok(cut > 0, "some were cut");
});
