// The same API over HTTP/1.1, HTTP/2 and TLS, and clients that misbehave.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server, run } from "./server.mjs";

const folder = mkdtempSync(path.join(tmpdir(), "ashlar-e2e-"));
const certificate = path.join(folder, "cert.pem"), key = path.join(folder, "key.pem");
let plain, secure;
before(async () => {
  const made = await run("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", key,
    "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
  assert.equal(made.code, 0, made.err);
  plain = await Server.start(["--header-timeout", "400", "--body-timeout", "400", "--write-timeout", "400", "--max-unsent", "64KiB"]);
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";  // for this file's own fetch; curl checks the certificate below
  secure = await Server.start(["--tls-cert", certificate, "--tls-key", key]);
});
after(async () => {
  await Promise.all([plain.stop(), secure.stop()]);
  rmSync(folder, { recursive: true });
});

const curl = (...args) => run("curl", ["-sS", "--max-time", "30", "-w", "\n%{http_version} %{http_code}", ...args]);
const body = () => JSON.stringify(plain.chat("Hello", { max_tokens: 5, stream: true }));
function assertStream({ code, out, err }, version) {
  assert.equal(code, 0, err);
  const lines = out.trim().split("\n");
  assert.equal(lines.pop(), `${version} 200`);
  assert.equal(lines.filter((line) => line).at(-1), "data: [DONE]");
  assert.match(lines[0], /^data: \{"id":"chatcmpl-/);
}

test("streams over HTTP/1.1, HTTP/1.0 and HTTP/2 without TLS", async () => {
  const ask = ["-N", "-H", "content-type: application/json", "-d", body(), plain.url + "/v1/chat/completions"];
  assertStream(await curl("--http1.1", ...ask), "1.1");
  assertStream(await curl("--http2-prior-knowledge", ...ask), "2");
  const old = await curl("--http1.0", ...ask);
  assert.equal(old.code, 0, old.err);
  assert.match(old.out, /data: \[DONE\]\n\n\n1\.[01] 200$/);
});

test("streams over TLS, chosen by ALPN, 1.3 only", async () => {
  const ask = ["--cacert", certificate, "-N", "-H", "content-type: application/json", "-d", body(), secure.url + "/v1/chat/completions"];
  assertStream(await curl("--http2", ...ask), "2");
  assertStream(await curl("--http1.1", ...ask), "1.1");
  assert.notEqual((await curl("--tls-max", "1.2", ...ask)).code, 0);
  assert.match((await curl("--http1.1", secure.url.replace("https", "http") + "/health")).out, /use https:.* 400$/s);
});

test("many requests share one connection", async () => {
  const urls = Array.from({ length: 20 }, () => plain.url + "/health");
  for (const version of ["--http1.1", "--http2-prior-knowledge"]) {
    const { out } = await run("curl", ["-sS", version, "-w", "%{num_connects} ", ...urls.flatMap((url) => ["-o", "/dev/null", url])]);
    assert.equal(out.trim().split(" ").reduce((sum, n) => sum + Number(n), 0), 1, `${version}: ${out}`);
  }
});

test("HEAD and OPTIONS", async () => {
  const head = await curl("-I", plain.url + "/health");
  assert.match(head.out, /^HTTP\/1.1 200/);
  const options = await curl("-i", "-X", "OPTIONS", plain.url + "/v1/models");
  assert.match(options.out, /allow: GET, HEAD, OPTIONS/i);
});

// What a raw socket hears until the server closes it.
function hear(send) {
  return new Promise((resolve) => {
    let heard = "";
    const socket = net.connect(plain.port, "127.0.0.1", () => send(socket));
    socket.on("data", (data) => (heard += data));
    socket.on("error", () => {});
    socket.on("close", () => resolve(heard));
  });
}

test("who sends nothing, or a byte at a time, is let go", async () => {
  const slowly = (text) => hear((socket) => {
    let at = 0;
    const timer = setInterval(() => (at < text.length ? socket.write(text[at++]) : clearInterval(timer)), 50);
    socket.on("close", () => clearInterval(timer));
  });
  const [silent, header, body] = await Promise.all([hear(() => {}), slowly("GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx-long: " + "y".repeat(100)),
    hear((socket) => socket.write("POST /tokenize HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{"))]);
  for (const text of [silent, header, body]) assert.ok(text === "" || text.startsWith("HTTP/1.1 408"), text);
  assert.equal((await fetch(plain.url + "/health")).status, 200);
});

test("garbage instead of HTTP is answered or dropped", async () => {
  for (const text of ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n" + "x: y\r\n".repeat(30_000) + "\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\xff".repeat(200)]) {
    const heard = await hear((socket) => {
      socket.write(Buffer.from(text, "latin1"));
      socket.end();
    });
    assert.ok(!heard.startsWith("HTTP/1.1 2"), heard.slice(0, 100));
  }
  assert.equal((await fetch(plain.url + "/health")).status, 200);
});

test("who stops reading is dropped, and the work with him", async () => {
  const before = await plain.metric("vllm:request_success_total", 'finished_reason="abort"');
  const text = JSON.stringify(plain.chat("Go on", { n: 128, stream: true, logprobs: true, top_logprobs: 20, ignore_eos: true }));
  const socket = net.connect(plain.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.pause();
  socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
  await plain.until(() => plain.metric("vllm:request_success_total", 'finished_reason="abort"'), (aborted) => aborted === before + 1, 60_000);
  await plain.idle();
  socket.destroy();
});
