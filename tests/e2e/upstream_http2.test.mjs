// Upstreams that speak HTTP/2: node's servers behind ours.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server, events, run } from "./server.mjs";

const folder = mkdtempSync(path.join(tmpdir(), "ashlar-e2e-"));
const certificate = path.join(folder, "cert.pem"), keyFile = path.join(folder, "key.pem");
let identity;
before(async () => {
  const made = await run("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", keyFile,
    "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,DNS:up.test,IP:127.0.0.1"]);
  assert.equal(made.code, 0, made.err);
  identity = { key: readFileSync(keyFile), cert: readFileSync(certificate) };
});
after(() => rmSync(folder, { recursive: true }));

const chunk = (delta, more = {}) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, ...more }] })}\n\n`;
const words = ["One ", "two ", "three ", "four."];

// A whole answer in pieces, a turn of the event loop between them.
async function speak(response) {
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const word of words) {
    response.write(chunk({ content: word }));
    await new Promise((resolve) => setImmediate(resolve));
  }
  response.end(chunk({}, { finish_reason: "stop" }) + "data: [DONE]\n\n");
}

// `server` listens, and a gateway in front of it; `answer` is called for what is no probe.
async function behind(t, server, answer, options = "", host = "localhost") {
  const sessions = new Set();
  server.on("session", (session) => sessions.add(session));
  server.on("request", (request, response) => {
    if (request.method === "GET") return response.end('{"data": [{"id": "fake"}]}');
    request.resume();
    request.on("end", () => answer(request, response));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const scheme = server instanceof https.Server || server.setSecureContext ? "https" : "http";
  const config = path.join(folder, `${server.address().port}.yaml`);
  writeFileSync(config, `upstreams:\n  - name: fake\n    url: ${scheme}://${host}:${server.address().port}/v1\n    tls_ca: ${certificate}\n${options}`);
  const gateway = await Server.start(["--config", config], { models: [] });
  t.after(async () => {
    await gateway.stop();
    for (const session of sessions) session.destroy();
    server.close();
  });
  return { gateway, sessions };
}

const ask = (gateway, more = {}) => gateway.fetch("/v1/chat/completions", { method: "POST", ...more,
  body: JSON.stringify({ model: "fake", stream: true, messages: [{ role: "user", content: "Count." }] }) });
async function text(answer) {
  let out = "";
  assert.equal(answer.status, 200);
  for await (const data of events(answer)) if (data !== "[DONE]") {
    const event = JSON.parse(data);
    assert.equal(event.error, undefined, data);
    out += event.choices[0]?.delta?.content ?? "";
  }
  return out;
}

test("many streams share few connections, and no more of them than the server allows", async (t) => {
  let most = 0, open = 0;
  const server = http2.createSecureServer({ ...identity, settings: { maxConcurrentStreams: 40 } });
  const { gateway, sessions } = await behind(t, server, async (request, response) => {
    assert.equal(request.httpVersion, "2.0");
    const stream = request.stream.session;
    stream.open = (stream.open ?? 0) + 1;
    most = Math.max(most, stream.open);
    ++open;
    await speak(response);
    --stream.open;
    --open;
  });
  const texts = await Promise.all(Array.from({ length: 200 }, async () => text(await ask(gateway))));
  for (const each of texts) assert.equal(each, words.join(""));
  assert.equal(open, 0);
  assert.ok(most > 1 && most <= 40, `${most} at once on one connection`);
  assert.ok(sessions.size <= 20, `${sessions.size} connections`);
});

test("a server that says goodbye in the midst fails nobody", async (t) => {
  let left = 0, abandoned = 0;
  const server = http2.createSecureServer({ ...identity });
  const { gateway, sessions } = await behind(t, server, (request, response) => {
    const { session, id } = request.stream;
    if (!session) return;  // the connection is gone by now
    // The first connection serves so many, and tells the rest to go elsewhere.
    session.served = (session.served ?? 0) + 1;
    if (session.leaves === undefined) session.leaves = left++ < 1 ? 20 : Infinity;
    if (session.served <= session.leaves) {
      session.last = Math.max(session.last ?? 0, id);
      return speak(response);
    }
    ++abandoned;
    if (session.served === session.leaves + 1) session.goaway(http2.constants.NGHTTP2_NO_ERROR, session.last);
  });
  const texts = await Promise.all(Array.from({ length: 150 }, async () => text(await ask(gateway))));
  for (const each of texts) assert.equal(each, words.join(""));
  assert.ok(abandoned > 0 && sessions.size > 1, `${abandoned} abandoned, ${sessions.size} connections`);
});

test("connections that die one after the other, and requests that nobody looked at, fail nobody", async (t) => {
  for (const [how, refuse] of [["dies as it is made", null], ["refuses each", (request) => request.stream.close(http2.constants.NGHTTP2_REFUSED_STREAM)]]) {
    let deaths = 0, asked = 0;
    const server = http2.createSecureServer({ ...identity });
    if (refuse === null) server.on("session", (session) => deaths > 0 && (--deaths, session.destroy()));
    const { gateway } = await behind(t, server, (request, response) => {
      ++asked;
      if (refuse !== null && deaths > 0) return --deaths, refuse(request);
      speak(response);
    }, "    health_interval: 0s\n    models: [fake]\n    retry_base: 20ms\n");
    for (const burst of [1, 30]) {
      deaths = 5;
      // Five refusals of one request, or of a whole burst.
      const texts = await Promise.all(Array.from({ length: burst }, async () => text(await ask(gateway))));
      for (const each of texts) assert.equal(each, words.join(""), how);
      assert.equal(deaths, burst === 1 ? 0 : deaths, `${how}: ${deaths} deaths are left`);
    }
    assert.ok(asked >= 31);
  }
});

test("a server that wants HTTP/1.1 is asked in that, again and from then on", async (t) => {
  const versions = [];
  const server = http2.createSecureServer({ ...identity, allowHTTP1: true });
  const { gateway } = await behind(t, server, (request, response) => {
    versions.push(request.httpVersion);
    request.httpVersion === "2.0" ? request.stream.close(http2.constants.NGHTTP2_HTTP_1_1_REQUIRED) : speak(response);
  }, "    health_interval: 0s\n    models: [fake]\n    max_attempts: 1\n");
  for (let i = 0; i < 5; ++i) assert.equal(await text(await ask(gateway)), words.join(""));
  // Once for each network thread.
  assert.ok(versions.filter((each) => each === "2.0").length <= 4, versions.join());
  assert.equal(versions.filter((each) => each === "1.1").length, 5);
  assert.equal(versions.at(-1), "1.1");
});

test("a client that leaves ends its stream, and no other", async (t) => {
  let left, stays;
  const gone = new Promise((resolve) => (left = resolve));
  const server = http2.createSecureServer({ ...identity });
  const { gateway } = await behind(t, server, (request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(chunk({ content: "Hel" }));
    if (!stays) return (stays = response);
    request.stream.on("close", () => left(request.stream.rstCode));
  });
  const first = events(await ask(gateway));
  await first.next();
  const leave = new AbortController();
  const second = events(await ask(gateway, { signal: leave.signal }));
  await second.next();
  leave.abort();
  assert.equal(await gone, http2.constants.NGHTTP2_CANCEL);
  stays.end(chunk({ content: "lo" }) + chunk({}, { finish_reason: "stop" }) + "data: [DONE]\n\n");
  let rest = "";
  for await (const data of first) if (data !== "[DONE]") rest += JSON.parse(data).choices[0]?.delta?.content ?? "";
  assert.match(rest, /lo$/);
});

test("what is spoken is what the server chooses and the configuration allows", async (t) => {
  for (const [server, options, version] of [
    [http2.createSecureServer({ ...identity, allowHTTP1: true }), "", "2.0"],
    [http2.createSecureServer({ ...identity, allowHTTP1: true }), "    http2: false\n", "1.1"],
    [https.createServer({ ...identity }), "", "1.1"],
    [http2.createServer(), "    http2: always\n", "2.0"]]) {
    let seen;
    const { gateway } = await behind(t, server, (request, response) => {
      seen = request.httpVersion;
      speak(response);
    }, options);
    assert.equal(await text(await ask(gateway)), words.join(""));
    assert.equal(seen, version);
  }
});

test("an upstream that must speak HTTP/2 and does not is told from one that is silent", async (t) => {
  const { gateway } = await behind(t, http.createServer(), () => assert.fail("it understood"), "    models: [fake]\n    http2: always\n");
  const answer = await gateway.post("/v1/chat/completions", { model: "fake", messages: [{ role: "user", content: "x" }] });
  assert.ok([502, 503].includes(answer.status), JSON.stringify(answer.json));
  assert.match(answer.json.error.message, /speaks HTTP\/1\.1 where HTTP\/2 was to be spoken/);
});

// A proxy for whoever says the password; every name is this machine's.
async function proxy(t) {
  const asked = [], server = http.createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    if (request.headers["proxy-authorization"] !== "Basic bWU6eA==") return response.writeHead(407).end();
    const { port, pathname } = new URL(request.url);
    request.pipe(http.request({ port, path: pathname, method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    }));
  });
  server.on("connect", (request, socket, head) => {
    asked.push(`CONNECT ${request.url}`);
    const there = net.connect(Number(request.url.split(":").pop()), "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      there.write(head);
      there.pipe(socket).pipe(there);
    });
    for (const each of [there, socket]) each.on("error", () => (there.destroy(), socket.destroy()));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return { port: server.address().port, asked };
}

test("an upstream is reached by a proxy, in HTTP/2 through its tunnel", async (t) => {
  const { port, asked } = await proxy(t);
  process.env.ASHLAR_E2E_PROXY = `http://me:x@127.0.0.1:${port}`;
  for (const [server, version] of [[http2.createSecureServer({ ...identity }), "2.0"], [http.createServer(), "1.1"]]) {
    let seen;
    const { gateway } = await behind(t, server, (request, response) => {
      seen = request.httpVersion;
      speak(response);
    }, "    proxy: env:ASHLAR_E2E_PROXY\n", "up.test");
    assert.equal(await text(await ask(gateway)), words.join(""));
    assert.equal(seen, version);
    const there = `up.test:${server.address().port}`;
    assert.ok(asked.includes(version === "2.0" ? `CONNECT ${there}` : `POST http://${there}/v1/chat/completions`), asked.join("\n"));
  }
});
