// What hostile or broken input gets from the real program: tokens, headers, names, upstreams, clocks, descriptors, disks.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHmac, generateKeyPairSync, sign } from "node:crypto";
import { mkdtempSync, rmdirSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server, binary, events, run } from "./server.mjs";
import { folder } from "./services.mjs";

const write = (dir, name, text) => {
  writeFileSync(path.join(dir, name), text);
  return path.join(dir, name);
};
const usage = async (dir, ...by) => {
  const told = await run(binary, ["usage", "--data-dir", dir, "--json", ...by]);
  return told.code === 0 ? told.out.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line)) : [];
};
async function keyed(dir, ...more) {
  const made = await run(binary, ["key", "create", "--name", "app", "--tenant", "acme", "--json", "--data-dir", dir, ...more]);
  assert.equal(made.code, 0, made.err);
  return JSON.parse(made.out).key;
}
// Sends bytes as they are and gives all that comes back until the server closes, or nothing more comes.
const raw = (port, text, wait = 1500) => new Promise((resolve) => {
  let got = "", timer;
  const done = () => { socket.destroy(); resolve(got); };
  const socket = net.connect(port, "127.0.0.1", () => socket.write(text));
  const later = () => { clearTimeout(timer); timer = setTimeout(done, wait); };
  socket.on("data", (piece) => { got += piece; later(); }).on("close", done).on("error", done);
  later();
});

test("tokens: expired, malformed, of another algorithm, issuer or audience are 401", async (t) => {
  const dir = folder(t);
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }), other = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const jwk = { ...rsa.publicKey.export({ format: "jwk" }), kid: "one", use: "sig", alg: "RS256" };
  write(dir, "jwks.json", JSON.stringify({ keys: [jwk] }));
  const identity = write(dir, "identity.yaml", `issuers:\n  - {issuer: "https://login.example.com", audience: ashlar, algorithms: [RS256], jwks_file: ${dir}/jwks.json, ` +
    `default_roles: [app], claims: {tenant: org}, tenants: ["acme*"]}\n`);
  await keyed(dir);  // so that the server asks for something
  const server = await Server.start(["--data-dir", dir, "--identity", identity]);
  t.after(() => server.stop());
  const now = Math.floor(Date.now() / 1000), b64 = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
  const claims = { iss: "https://login.example.com", aud: "ashlar", sub: "ann", org: "acme", iat: now, exp: now + 600 };
  const token = (change = {}, head = {}, key = rsa.privateKey) => {
    const text = `${b64({ alg: "RS256", kid: "one", typ: "JWT", ...head })}.${b64({ ...claims, ...change })}`;
    return `${text}.${sign("sha256", Buffer.from(text), key).toString("base64url")}`;
  };
  const unsigned = `${b64({ alg: "none", kid: "one" })}.${b64(claims)}.`;
  const confused = `${b64({ alg: "HS256", kid: "one" })}.${b64(claims)}`;
  const hmac = `${confused}.${createHmac("sha256", rsa.publicKey.export({ type: "spki", format: "pem" })).update(confused).digest("base64url")}`;
  const good = token();
  const asked = async (bearer) => (await fetch(server.url + "/v1/models", { headers: { authorization: `Bearer ${bearer}` } })).status;
  assert.equal(await asked(good), 200);
  for (const [what, bad] of Object.entries({
    expired: token({ exp: now - 3600 }), "not yet good": token({ nbf: now + 3600 }), "for somebody else": token({ aud: "other" }), "of another issuer": token({ iss: "https://evil.example.com" }),
    "of another key": token({}, {}, other.privateKey), "without a signature": unsigned, "signed with the public key as a secret": hmac, "of an unknown kid": token({}, { kid: "two" }),
    "changed afterwards": good.replace(/\.[^.]+\./, `.${b64({ ...claims, sub: "root" })}.`), "cut off": good.slice(0, -20), "of no parts": "abc", "of four parts": good + ".x", "not of base64": "a.b!.c",
    "huge": "a".repeat(20_000), "with another tenant": token({ org: "globex" }), "without an end": token({ exp: undefined }) })) {
    const status = await asked(bad);
    assert.ok(status === 401 || status === 431 || (what === "with another tenant" && status === 403), `a token ${what}: ${status}`);
  }
});

test("a request cannot be smuggled behind another", async (t) => {
  const server = await Server.start();
  t.after(() => server.stop());
  const hidden = "GET /version HTTP/1.1\r\nhost: x\r\n\r\n";
  const head = (lines) => `POST /tokenize HTTP/1.1\r\nhost: x\r\n${lines.join("\r\n")}\r\n\r\n`;
  for (const [what, text] of Object.entries({
    "both lengths": head(["content-length: 4", "transfer-encoding: chunked"]) + `0\r\n\r\n${hidden}`,
    "two lengths": head(["content-length: 0", `content-length: ${hidden.length}`]) + hidden,
    "a list of lengths": head([`content-length: 0, ${hidden.length}`]) + hidden,
    "a signed length": head(["content-length: +0"]) + hidden,
    "chunked twice": head(["transfer-encoding: chunked, chunked"]) + `0\r\n\r\n${hidden}`,
    "an unknown coding": head(["transfer-encoding: xchunked"]) + `0\r\n\r\n${hidden}`,
    "a blank before the colon": head(["content-length : 0"]) + hidden,
    "a folded line": head(["x-a: b", " transfer-encoding: chunked", "content-length: 0"]) + hidden,
    "a bare line feed in a chunk": head(["transfer-encoding: chunked"]) + `0\n\n${hidden}`,
    "a size that wraps": head(["transfer-encoding: chunked"]) + `10000000000000000\r\n${hidden}`,
    "a NUL in a header": head(["x-a: b\0c", "content-length: 0"]) + hidden })) {
    const got = await raw(server.port, text);
    assert.doesNotMatch(got, /"version"/, `${what}: the hidden request was answered: ${got}`);
    assert.ok((got.match(/HTTP\/1\.1 /g) ?? []).length <= 1 && !/^HTTP\/1\.1 2/.test(got), `${what}: ${got.slice(0, 200)}`);
  }
  assert.equal((await server.fetch("/version")).status, 200);
});

test("no header makes a client somebody else, and nothing that it says makes a line of the log", async (t) => {
  const dir = folder(t);
  const key = await keyed(dir);
  const server = await Server.start(["--data-dir", dir, "--log-format", "json", "--log-level", "debug"]);
  t.after(() => server.stop());
  const forged = Object.fromEntries(["x-tenant", "x-ashlar-tenant", "x-ashlar-user", "x-user", "x-team", "x-ashlar-team", "x-forwarded-user", "x-tenant-id", "x-ashlar-key", "x-auth-request-user",
    "x-ssl-client-cert", "x-client-cert"].map((name) => [name, "globex"]));
  const evil = 'x\n{"level":"error","event":"forged"}\r\n\u001b[31mforged\u2028';
  const headers = { authorization: `Bearer ${key}`, ...forged };
  const model = (await (await server.fetch("/v1/models", { headers })).json()).data[0].id;
  const body = { model, messages: [{ role: "user", content: "Hi" }], max_tokens: 2, user: evil };
  assert.equal((await server.post("/v1/chat/completions", body, { headers })).status, 200);
  for (const ask of [{ ...body, model: evil }, { ...body, [evil]: 1, temperature: evil }, evil])
    assert.ok((await server.post("/v1/chat/completions", ask, { headers })).status >= 400);
  await server.fetch("/" + encodeURIComponent(evil), { headers });
  await server.fetch("/v1/models", { headers: { authorization: "Bearer ak-forged\u00ff", "user-agent": "a\tforged", "x-request-id": 'a"forged' } });
  const rows = await server.until(() => usage(dir, "--by", "tenant"), (all) => all.length > 0);
  assert.deepEqual(rows.map((row) => row.tenant ?? row.by?.[0]), ["acme"]);
  await server.stop();
  for (const line of server.log.split("\n").filter(Boolean)) {
    if (!line.startsWith("{")) {
      assert.doesNotMatch(line, /forged/);
      continue;
    }
    assert.notEqual(JSON.parse(line).event, "forged");
    assert.doesNotMatch(line, /[\u0000-\u001f\u007f\u2028]/);
  }
});

test("upstreams lead to no private network by a name in a file, nor to the cloud's metadata at all", async (t) => {
  const dir = folder(t);
  const check = async (url, more = "") => run(binary, ["config", "check", write(dir, "a.yaml", `upstreams:\n  - {name: a, url: "${url}"${more}}\n`)]);
  for (const url of ["file:///etc/passwd", "ftp://example.com", "http://user:pass@example.com", "http://", "gopher://127.0.0.1:6379/"]) assert.equal((await check(url)).code, 1, url);
  // Addresses are judged when they are connected to.
  for (const [url, more] of [["http://10.255.255.1:9/v1", ""], ["http://169.254.169.254/v1", ", allow_private: true"], ["http://[::ffff:169.254.169.254]/v1", ", allow_private: true"], ["http://0x0a000001/v1", ""]]) {
    const config = write(dir, "b.yaml", `upstreams:\n  - {name: a, url: "${url}", models: [m], connect_timeout: 1s, max_attempts: 1${more}}\n`);
    const server = await Server.start(["--config", config], { models: [] });
    t.after(() => server.stop());
    const answer = await server.post("/v1/chat/completions", { model: "m", messages: [{ role: "user", content: "x" }] });
    assert.ok([502, 503].includes(answer.status), `${url}: ${answer.status}`);
    assert.match(server.log + JSON.stringify(answer.json), /private|no upstream has/, url);
  }
});

test("upstreams that answer with garbage, stop in the midst, trickle or never end", async (t) => {
  const chunk = (text, more = {}) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: text }, ...more }] })}\n\n`;
  const stream = (response) => response.writeHead(200, { "content-type": "text/event-stream" });
  const scripts = {
    html: (response) => response.writeHead(200, { "content-type": "text/html" }).end("<html>Welcome!</html>"),
    binary: (response) => response.writeHead(200, { "content-type": "text/event-stream" }).end(Buffer.from([0, 255, 254, 10, 10, 128])),
    broken: (response) => stream(response).end(`${chunk("Hel")}data: {"choices":[{"ind\n\ndata: [DONE]\n\n`),
    stops: (response) => (stream(response), response.write(chunk("Hel")), setTimeout(() => response.destroy(), 50)),
    unfinished: (response) => stream(response).end(chunk("Hel")),
    silent: () => {},
    hangs: (response) => (stream(response), response.write(chunk("Hel"))),
    trickle: (response) => {
      stream(response);
      response.write(chunk("Hel"));
      const timer = setInterval(() => response.write("d"), 100);
      response.on("close", () => clearInterval(timer));
    },
    endless: (response) => {
      stream(response);
      const more = () => { while (!response.destroyed && response.write(chunk("more "))) ; };
      response.on("drain", more);
      more();
    },
  };
  const fake = http.createServer((request, response) => {
    if (request.method === "GET") return response.end(JSON.stringify({ data: Object.keys(scripts).map((id) => ({ id })) }));
    let body = "";
    request.on("data", (piece) => (body += piece)).on("end", () => scripts[JSON.parse(body).model](response));
  });
  await new Promise((resolve) => fake.listen(0, "127.0.0.1", resolve));
  const dir = folder(t);
  const server = await Server.start(["--config", write(dir, "a.yaml", `upstreams:\n  - {name: a, url: "http://127.0.0.1:${fake.address().port}/v1", max_attempts: 1, first_token_timeout: 700ms, between_tokens_timeout: 700ms, max_answer: 1MiB}\n`)],
    { models: [] });
  t.after(async () => {
    await server.stop();
    fake.closeAllConnections();
    fake.close();
  });
  for (const model of Object.keys(scripts)) {
    const body = { model, messages: [{ role: "user", content: "x" }], max_tokens: 50 };
    const whole = await server.post("/v1/chat/completions", body);
    if (model === "endless") assert.equal(whole.json.choices?.[0].finish_reason, "length", JSON.stringify(whole.json).slice(0, 300));
    else {
      assert.ok([502, 503, 504].includes(whole.status), `${model}: ${whole.status} ${JSON.stringify(whole.json)}`);
      assert.ok(whole.json.error.message.length > 10);
    }
    const answer = await server.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify({ ...body, stream: true }) });
    let last = "", text = "";
    for await (const data of events(answer)) last = data, text += data;
    if (model === "endless") assert.equal(last, "[DONE]");
    else if (answer.status === 200) assert.match(last, /"error"/, `${model}: a stream that broke ends with its error, never as if it were whole`);
    else assert.ok([502, 503, 504].includes(answer.status), `${model}: ${answer.status}`);
  }
});

test("descriptors run out: who is there goes on, and when some are free again all is as before", async (t) => {
  const server = await Server.start([], { limits: "ulimit -n 120" });
  t.after(() => server.stop());
  const answer = await server.fetch("/v1/chat/completions", { method: "POST",
    body: JSON.stringify(server.chat("Go on", { stream: true, max_tokens: 600, ignore_eos: true })) });
  const stream = events(answer);
  await stream.next();
  const sockets = [];
  for (let i = 0; i < 300; ++i) sockets.push(net.connect(server.port, "127.0.0.1").on("error", () => {}));
  let count = 0, last;
  for await (const data of stream) ++count, last = data;
  assert.equal(last, "[DONE]");
  assert.ok(count > 100, `${count} events`);
  for (const socket of sockets) socket.destroy();
  assert.equal((await server.post("/v1/chat/completions", server.chat("Hello", { max_tokens: 2 }))).status, 200);
});

const isRoot = process.getuid() === 0;
const mayMount = isRoot && spawnSync("unshare", ["-m", "true"]).status === 0;
test("a full disk: answers go on, what costs money waits, rows come when there is room", { skip: !mayMount && "no right to mount" }, async (t) => {
  const dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-disk-"));
  assert.equal(spawnSync("mount", ["-t", "tmpfs", "-o", "size=12m", "tmpfs", dir]).status, 0);
  const server = await Server.start(["--data-dir", dir]);
  t.after(async () => {
    await server.stop();
    spawnSync("umount", ["-l", dir]);
    rmdirSync(dir);
  });
  const asked = async () => (await server.post("/v1/chat/completions", server.chat("Hello", { max_tokens: 2 }))).status;
  assert.equal(await asked(), 200);
  await server.until(() => usage(dir), (rows) => rows.length > 0);
  spawnSync("dd", ["if=/dev/zero", `of=${dir}/full`, "bs=64k"]);
  for (let i = 0; i < 50; ++i) assert.equal(await asked(), 200, `request ${i} on a full disk`);
  assert.ok((await server.fetch("/metrics")).ok);
  spawnSync("rm", [`${dir}/full`]);
  const counted = async () => (await usage(dir, "--by", "tenant")).reduce((sum, row) => sum + row.requests, 0);
  assert.equal(await server.until(counted, (count) => count >= 51, 60_000), 51);
});

const shim = `#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long offset(void) {
  char text[32] = {0};
  int file = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  if (read(file, text, 31) < 0) text[0] = 0;
  close(file);
  return atol(text);
}
int clock_gettime(clockid_t id, struct timespec* at) {
  static int (*real)(clockid_t, struct timespec*);
  if (!real) real = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(id, at);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += offset();
  return done;
}
int gettimeofday(struct timeval* at, void* zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t* at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
`;
const compiler = ["cc", "gcc", "clang-19", "clang"].find((each) => spawnSync(each, ["--version"]).status === 0);
test("a clock that jumps an hour ahead and back frees no rate, charges no budget twice and ends no request", { skip: !compiler && "no C compiler" }, async (t) => {
  const dir = folder(t), at = write(dir, "offset", "0");
  const made = await run(compiler, ["-shared", "-fPIC", "-O1", "-o", path.join(dir, "shim.so"), write(dir, "shim.c", shim), "-ldl"]);
  assert.equal(made.code, 0, made.err);
  const limits = write(dir, "limits.yaml", 'prices:\n  - {model: "*", input: 1000, output: 1000}\nlimits:\n  - {scope: global, name: rph, measure: requests, capacity: 6, period: 1h}\n' +
    "  - {scope: global, name: all, kind: budget, dollars: 1000, window: total}\n");
  const server = await Server.start(["--data-dir", dir, "--limits", limits, "--log-format", "json"],
    { env: { LD_PRELOAD: path.join(dir, "shim.so"), CLOCK_OFFSET: at } });
  t.after(() => server.stop());
  const asked = (max_tokens = 2) => server.post("/v1/chat/completions", server.chat("Hello", { max_tokens, ignore_eos: true }));
  const running = asked(300);
  let tokens = 0;
  for (const offset of [3600, -3600, 86_400, 0]) {
    writeFileSync(at, String(offset));
    const answer = await asked();
    assert.equal(answer.status, 200);
    assert.ok(Math.abs(answer.json.created - (Date.now() / 1000 + offset)) < 300, "the program sees the clock that jumps");
    tokens += answer.json.usage.total_tokens;
  }
  const long = await running;
  assert.equal(long.status, 200);
  tokens += long.json.usage.total_tokens;
  assert.equal((await asked()).status, 200);
  for (const offset of [3600, 86_400, -86_400, 0]) {
    writeFileSync(at, String(offset));
    const refused = await asked();
    assert.equal(refused.status, 429, "no jump gives the hour back");
    assert.ok(Number(refused.headers.get("retry-after")) > 0);
  }
  const rows = await server.until(() => usage(dir, "--by", "model"), (all) => all[0]?.requests === 6);
  assert.equal(rows[0].requests, 6);
  const csv = await run(binary, ["usage", "--data-dir", dir, "--csv"]);
  const [names, ...lines] = csv.out.trim().split(/\r?\n/).map((line) => line.split(","));
  const duration = names.indexOf("duration_ms");
  assert.ok(duration >= 0 && lines.every((line) => Number(line[duration]) >= 0 && Number(line[duration]) < 3_000_000), csv.out);
});
