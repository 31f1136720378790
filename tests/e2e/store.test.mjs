// The model store, through the program's own commands: a hub played here, with a
// content network that is another server, and the program killed in the middle.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash, randomFillSync } from "node:crypto";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, readdirSync, chmodSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { binary } from "./server.mjs";

const folder = mkdtempSync(path.join(tmpdir(), "ashlar-store-"));
const root = path.resolve(import.meta.dirname, "../..");
const assistant = readFileSync(path.join(root, "assets/model/ashlar-assistant.gguf"));
const large = Buffer.alloc(96 << 20);
randomFillSync(large);
large.write("GGUF", 0);
const files = { "tiny-Q8_0.gguf": assistant, "large-Q4_K_M.gguf": large };
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const digests = Object.fromEntries(Object.entries(files).map(([name, body]) => [name, sha256(body)]));
const token = "hf_a_token_that_nobody_else_sees";
const commit = "0123456789abcdef0123456789abcdef01234567";

const hub = { requests: [], cdn: [], served: 0, held: [], holdAfter: Infinity };

function listen(handler) {
  const server = http.createServer(handler);
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}
const url = (server) => `http://127.0.0.1:${server.address().port}`;

// Sends `body` in small pieces, and holds the connection once `holdAfter` bytes have gone out in all.
async function trickle(res, body) {
  res.gone = new Promise((resolve) => res.once("close", resolve));
  for (let at = 0; at < body.length; at += 1 << 18) {
    if (hub.served >= hub.holdAfter) return void hub.held.push(res);
    const piece = body.subarray(at, at + (1 << 18));
    hub.served += piece.length;
    if (!res.write(piece)) await Promise.race([new Promise((next) => res.once("drain", next)), res.gone]);
    if (res.destroyed) return;
  }
  res.end();
}

before(async () => {
  hub.cdnServer = await listen((req, res) => {
    hub.cdn.push(req);
    const name = decodeURIComponent(new URL(req.url, "http://x").pathname.slice(1)), body = files[name];
    const headers = { etag: `"${digests[name].slice(0, 32)}"`, "accept-ranges": "bytes" };
    const range = req.headers.range?.match(/^bytes=(\d+)-(\d+)$/);
    if (!range) {
      res.writeHead(200, { ...headers, "content-length": body.length });
      return void trickle(res, body);
    }
    const first = Number(range[1]), last = Math.min(Number(range[2]), body.length - 1);
    res.writeHead(206, { ...headers, "content-length": last - first + 1, "content-range": `bytes ${first}-${last}/${body.length}` });
    trickle(res, body.subarray(first, last + 1));
  });
  hub.server = await listen((req, res) => {
    hub.requests.push(req);
    if (req.headers.authorization !== `Bearer ${token}`) {
      res.writeHead(401, { "x-error-code": "GatedRepo", "x-error-message": "Access to model acme/tiny is restricted." });
      return void res.end();
    }
    if (["main", commit].some((at) => req.url === `/api/models/acme/tiny/revision/${at}?blobs=true`)) {
      res.setHeader("content-type", "application/json");
      const siblings = Object.entries(files).map(([rfilename, body]) =>
        ({ rfilename, size: body.length, blobId: "0".repeat(40), lfs: { sha256: digests[rfilename], size: body.length, pointerSize: 134 } }));
      return void res.end(JSON.stringify({ id: "acme/tiny", sha: commit, cardData: { license: "apache-2.0" }, siblings }));
    }
    const name = decodeURIComponent(req.url.split("/").at(-1));
    if (!req.url.startsWith(`/acme/tiny/resolve/${commit}/`) || !files[name]) {
      res.writeHead(404, { "x-error-code": "RepoNotFound" });
      return void res.end();
    }
    res.writeHead(302, { location: `${url(hub.cdnServer)}/${encodeURIComponent(name)}?signature=x`, "x-linked-etag": `"${digests[name]}"`,
                         "x-linked-size": files[name].length, "x-repo-commit": commit });
    res.end();
  });
});
after(() => {
  for (const res of hub.held) res.destroy();
  for (const server of [hub.server, hub.cdnServer]) { server.close(); server.closeAllConnections(); }
  rmSync(folder, { recursive: true });
});

function start(args, env = {}, input = "") {
  const child = spawn(binary, args, { env: { PATH: process.env.PATH, HOME: folder, HF_ENDPOINT: url(hub.server), HF_TOKEN: token, ...env } });
  child.stdin.on("error", () => {});  // it may end without reading
  child.stdin.end(input);
  let out = "", err = "";
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (err += data));
  child.done = new Promise((resolve) => child.on("close", (status, signal) => resolve({ status, signal, out, err })));
  return child;
}
const ashlar = (args, env, input) => start(args, env, input).done;
const store = path.join(folder, ".local/share/ashlar");
const rooms = (room) => { try { return readdirSync(path.join(store, room)); } catch { return []; } };

// Looks again and again until `condition` holds.
async function until(condition, what) {
  for (const end = Date.now() + 60_000; !condition(); await new Promise((next) => setTimeout(next, 20)))
    assert.ok(Date.now() < end, `${what} did not come about`);
}

test("a pulled model answers by its name, and the token stays with the hub", async () => {
  const pulled = await ashlar(["pull", "hf:acme/tiny:Q8_0"]);
  assert.equal(pulled.status, 0, pulled.err);
  assert.match(pulled.out, /hf:acme\/tiny:Q8_0: 1 file, 4\.1 MiB, in .* licence: apache-2\.0/);
  assert.ok(hub.cdn.length > 0 && hub.cdn.every((req) => req.headers.authorization === undefined));
  assert.ok(!(pulled.out + pulled.err).includes(token));

  const listed = JSON.parse((await ashlar(["list", "--json"])).out);
  assert.equal(listed.length, 1);
  assert.equal(listed[0].files[0].sha256, digests["tiny-Q8_0.gguf"]);
  assert.equal(listed[0].version, commit);
  assert.match((await ashlar(["show", "tiny-Q8_0"])).out, /apache-2\.0[\s\S]*architecture/);

  const answer = await ashlar(["run", "tiny", "What is Ashlar?", "--temperature", "0", "--max-tokens", "8", "--threads", "1"], { ASHLAR_OFFLINE: "1" });
  assert.equal(answer.status, 0, answer.err);
  assert.ok(answer.out.length > 5);
  assert.equal((await ashlar(["run", "tiny", "What is Ashlar?", "--temperature", "0", "--max-tokens", "8", "--threads", "1"])).out, answer.out);
});

test("every command takes a pulled model's name", async () => {
  const text = path.join(folder, "text.txt"), context = path.join(folder, "context.json"), out = (name) => path.join(folder, name);
  writeFileSync(text, "Ashlar serves large language models, one program for all of it. ".repeat(60));
  writeFileSync(context, JSON.stringify({ messages: [{ role: "user", content: "Hi" }], add_generation_prompt: true }));
  const few = ["--threads", "1"];
  const cases = [
    { args: ["show", "tiny"], says: /architecture/ },
    { args: ["tokenize", "tiny"], input: "What is Ashlar?", says: /^\d+( \d+)*\s*$/ },
    { args: ["render", "tiny", context], says: /Hi/ },
    { args: ["perplexity", "tiny", text, "--context", "64", ...few], says: /perplexity \d/ },
    { args: ["bench", "tiny", "--prompt", "16", "--generate", "4", "--repeat", "1", ...few], says: /./ },
    { args: ["importance", "tiny", text, "--output", out("tiny.imatrix.gguf"), "--window", "32", "--windows", "2", ...few], makes: "tiny.imatrix.gguf" },
    { args: ["quantize", "tiny", out("tiny-Q4_0.gguf"), "--type", "Q4_0", "--allow-requantize", ...few], makes: "tiny-Q4_0.gguf" },
    { args: ["convert", "tiny", out("tiny.gguf")], refuses: /tiny-Q8_0\.gguf/ },
    { args: ["run", "tiny", "Hi", "--max-tokens", "2", ...few], says: /./ },
  ];
  for (const { args, input, says, makes, refuses } of cases) {
    const done = await ashlar(args, { ASHLAR_OFFLINE: "1" }, input);
    assert.equal(done.status, refuses ? 1 : 0, `${args.join(" ")}: ${done.err}`);
    if (says) assert.match(done.out, says, args.join(" "));
    if (refuses) assert.match(done.err, refuses, args.join(" "));
    if (makes) assert.ok(existsSync(out(makes)), args.join(" "));
    const unknown = await ashlar(args.map((arg) => (arg === "tiny" ? "acme/none" : arg)), { ASHLAR_OFFLINE: "1" }, input);
    assert.equal(unknown.status, 1, args.join(" "));
    assert.match(unknown.err, /ashlar pull hf:acme\/none/, args.join(" "));
  }
});

test("a proxy is asked where the environment names one", async (t) => {
  const asked = [];
  const proxy = await listen((req, res) => {
    asked.push(req.url);
    if (req.headers["proxy-authorization"] !== `Basic ${btoa("me:a secret")}`) return void res.writeHead(407).end();
    const { port, pathname, search } = new URL(req.url);
    const { "proxy-authorization": _, ...headers } = req.headers;
    req.pipe(http.request({ port, path: pathname + search, method: req.method, headers }, (answer) => {
      res.writeHead(answer.statusCode, answer.headers);
      answer.pipe(res);
    }).on("error", () => res.destroy()));
    res.on("error", () => {});
  });
  t.after(() => { proxy.close(); proxy.closeAllConnections(); });
  const where = `127.0.0.1:${proxy.address().port}`;
  // No name server knows it: the proxy does.
  const what = `http://files.test:${hub.cdnServer.address().port}/tiny-Q8_0.gguf`;
  const offline = await ashlar(["pull", what, "--offline"], { http_proxy: `http://me:a%20secret@${where}` });
  assert.equal(offline.status, 1);
  assert.equal(asked.length, 0);
  const refused = await ashlar(["pull", what], { http_proxy: `http://me:another@${where}` });
  assert.equal(refused.status, 1);
  assert.match(refused.err, new RegExp(`The proxy http://${where} wants a user name and a password, and not these`));
  assert.ok(!refused.err.includes("another@"));
  const pulled = await ashlar(["pull", what, "--name", "proxied"], { all_proxy: `me:a%20secret@${where}` });
  assert.equal(pulled.status, 0, pulled.err);
  assert.ok(asked.length > 1 && asked.every((url) => url.startsWith("http://files.test:")));
  assert.equal((await ashlar(["remove", "proxied"])).status, 0);
  // What is on this machine is never asked for by a proxy.
  const before = asked.length;
  const direct = await ashlar(["pull", "hf:acme/tiny:Q8_0"], { all_proxy: `http://me:a%20secret@${where}` });
  assert.equal(direct.status, 0, direct.err);
  assert.equal(asked.length, before);
});

test("killed in the middle, the next pull goes on", async () => {
  const digest = digests["large-Q4_K_M.gguf"];
  hub.served = 0;
  hub.holdAfter = 40 << 20;
  const child = start(["pull", "hf:acme/tiny:Q4_K_M"]);
  const journal = path.join(store, "partial", `sha256-${digest}.journal`);
  const have = () => {
    try { return JSON.parse(readFileSync(journal)).pieces.reduce((sum, piece) => sum + piece[2], 0); } catch { return 0; }
  };
  await until(() => hub.served >= hub.holdAfter && have() > 30 << 20, "a journal of 30 MiB");
  child.kill("SIGKILL");
  assert.equal((await child.done).signal, "SIGKILL");
  assert.deepEqual(rooms("blobs"), [`sha256-${digests["tiny-Q8_0.gguf"]}`]);

  const kept = have();
  hub.served = 0;
  hub.holdAfter = Infinity;
  const pulled = await ashlar(["pull", "hf:acme/tiny:Q4_K_M"]);
  assert.equal(pulled.status, 0, pulled.err);
  assert.ok(hub.served <= large.length - kept + (2 << 20), `${hub.served} bytes came again, of ${large.length}, though ${kept} were there`);
  assert.equal(sha256(readFileSync(path.join(store, "blobs", `sha256-${digest}`))), digest);
  assert.deepEqual(rooms("partial"), []);
});

test("stopped by Ctrl-C it says so and keeps what came", async () => {
  await ashlar(["remove", "hf:acme/tiny:Q4_K_M"]);
  hub.served = 0;
  hub.holdAfter = 20 << 20;
  const child = start(["pull", "hf:acme/tiny:Q4_K_M"]);
  await until(() => hub.served >= hub.holdAfter, "20 MiB");
  child.kill("SIGINT");
  const { status, err } = await child.done;
  hub.holdAfter = Infinity;
  assert.equal(status, 130);
  assert.match(err, /what has come is kept/);
  assert.equal(rooms("partial").length, 2);
  const gone = await ashlar(["gc", "--partial"]);
  assert.equal(gone.status, 0, gone.err);
  assert.deepEqual(rooms("partial"), []);
});

test("a damaged file is not served", async () => {
  const blob = path.join(store, "blobs", `sha256-${digests["tiny-Q8_0.gguf"]}`);
  chmodSync(blob, 0o600);
  const fd = openSync(blob, "r+");
  writeSync(fd, "damage", 1_000_000);
  closeSync(fd);
  const refused = await ashlar(["run", "tiny", "hi", "--offline"]);
  assert.equal(refused.status, 1);
  assert.match(refused.err, /missing or damaged/);
  assert.equal(rooms("aside").length, 1);
  const mended = await ashlar(["run", "tiny", "hi", "--max-tokens", "2", "--threads", "1"]);
  assert.equal(mended.status, 0, mended.err);
  assert.equal(sha256(readFileSync(blob)), digests["tiny-Q8_0.gguf"]);
  assert.equal(statSync(blob).mode & 0o222, 0);
});

test("what is not here says what to type, and what is wrong is one sentence", async () => {
  const cases = [
    [["run", "acme/other", "hi"], /ashlar pull hf:acme\/other/],
    [["serve", "llama3.2"], /ashlar pull ollama:llama3\.2/],
    [["serve", "hf:acme/other"], /ashlar pull hf:acme\/other/],
    [["pull", "hf:acme/none"], /no such thing/],
    [["pull", "acme/tiny"], /names no model to pull/],
    [["pull", "hf:acme/tiny:weights.bin"], /never fetched/],
    [["pull", "hf:acme/tiny:Q2_K"], /large-Q4_K_M\.gguf, tiny-Q8_0\.gguf/],
    [["pull", "hf:acme/tiny", "--offline"], /offline/],
    [["pull", "http://127.0.0.1:1/m.gguf", "--offline"], /offline/],
  ];
  for (const [args, expected] of cases) {
    const { status, err } = await ashlar(args);
    assert.equal(status, 1, args.join(" "));
    assert.match(err, expected);
    assert.equal(err.trim().split("\n").length, 1, err);
  }
  const asked = hub.requests.length;
  assert.match((await ashlar(["pull", "hf:acme/tiny:Q8_0"], { ASHLAR_OFFLINE: "1" })).err, /offline/);
  assert.equal(hub.requests.length, asked);
  assert.match((await ashlar(["pull", "hf:acme/tiny:Q8_0"], { HF_TOKEN: "" })).err, /HF_TOKEN/);
  assert.equal((await ashlar(["remove", "tiny"])).status, 0);
  assert.match((await ashlar(["list"])).out, /No model has been pulled/);
  assert.deepEqual(rooms("blobs"), []);
});
