// Clients that show a certificate, and clients that show a key instead; the server's own, exchanged while it runs.
import { test, before, after } from "node:test";
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import https from "node:https";
import os from "node:os";
import path from "node:path";
import tls from "node:tls";
import { events, run, Server } from "./server.mjs";

const folder = mkdtempSync(path.join(os.tmpdir(), "ashlar-certificates-"));
const file = (name) => path.join(folder, name);
async function openssl(...args) {
  const made = await run("openssl", args);
  assert.equal(made.code, 0, made.err);
}
const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
async function authority(name) {
  await openssl("req", "-x509", ...kind, "-days", "2", "-keyout", file(`${name}.key`), "-out", file(`${name}.pem`), "-subj", `/CN=${name}`);
}
async function signed(name, by, alternative, days = 2) {
  writeFileSync(file(`${name}.ext`), `subjectAltName=${alternative}\n`);
  await openssl("req", ...kind, "-keyout", file(`${name}.key`), "-out", file(`${name}.csr`), "-subj", `/CN=${name}`);
  await openssl("x509", "-req", "-in", file(`${name}.csr`), "-CA", file(`${by}.pem`), "-CAkey", file(`${by}.key`), "-CAcreateserial", "-days", String(days),
    "-extfile", file(`${name}.ext`), "-out", file(`${name}.pem`));
}

let server;
before(async () => {
  await Promise.all([authority("ca"), authority("other")]);
  await signed("server", "ca", "DNS:localhost,IP:127.0.0.1");
  await signed("payments", "ca", "URI:spiffe://prod/ns/payments");
  await signed("nobody", "ca", "URI:spiffe://test/ns/x");
  await signed("stranger", "other", "URI:spiffe://prod/ns/payments");
  writeFileSync(file("identity.yaml"), 'certificates:\n  - {match: "URI:spiffe://prod/ns/*", tenant: "$1", roles: [app]}\n');
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";  // for this file's own fetch; curl checks
  server = await Server.start(["--tls-cert", file("server.pem"), "--tls-key", file("server.key"), "--tls-client-ca", file("ca.pem"),
    "--tls-client-auth", "optional", "--identity", file("identity.yaml"), "--api-key", "sk-key"]);
});
after(async () => {
  await server?.stop();
  rmSync(folder, { recursive: true });
});

async function status(...args) {
  const { code, out } = await run("curl", ["-sS", "--max-time", "30", "--cacert", file("ca.pem"), "-o", file("body"), "-w", "%{http_code}", ...args, server.url + "/v1/models"]);
  return code === 0 ? Number(out) : out === "000" ? "refused" : `curl ${code}`;
}
const as = (name) => ["--cert", file(`${name}.pem`), "--key", file(`${name}.key`)];
const key = (text) => ["-H", `authorization: Bearer ${text}`];

test("a certificate that is optional: a key does in its place", async () => {
  assert.equal(await status(), 401, "neither");
  assert.equal(await status(...key("sk-key")), 200);
  assert.equal(await status(...key("sk-other")), 401);
  assert.equal(await status(...as("payments")), 200);
  assert.equal(await status(...as("nobody")), 401, "no rule is for it");
  assert.equal(await status(...as("nobody"), ...key("sk-key")), 200, "the key says who it is");
  assert.equal(await status(...as("payments"), ...key("sk-other")), 401);
  assert.equal(await status(...as("stranger"), ...key("sk-key")), "refused", "a wrong certificate is refused");
});

test("a certificate that is required: a key alone does not do", async () => {
  const strict = await run(process.env.ASHLAR_BIN ?? "ashlar", ["serve", "--port", "0", "--tls-client-auth", "perhaps"]);
  assert.notEqual(strict.code, 0);
  assert.match(strict.err, /--tls-client-auth is required or optional/);
  await server.stop();
  server = await Server.start(["--tls-cert", file("server.pem"), "--tls-key", file("server.key"), "--tls-client-ca", file("ca.pem"),
    "--identity", file("identity.yaml"), "--api-key", "sk-key"], { look: false });
  assert.equal(await status(...key("sk-key")), "refused");
  assert.equal(await status(...as("payments")), 200);
});

test("the certificate is exchanged under load: nobody notices but who looks; a wrong one changes nothing; the end is told of", async (t) => {
  const names = ["first", "second", "third"], days = { first: 300, second: 200, third: 5 };
  for (const name of names) await signed(name, "ca", "DNS:localhost,IP:127.0.0.1", days[name]);
  // As certificate managers do: a whole file takes the place of the other.
  const put = (from, to) => (copyFileSync(file(from), file("new")), renameSync(file("new"), file(to)));
  const use = (name) => (put(`${name}.key`, "own.key"), put(`${name}.pem`, "own.pem"));
  use("first");
  const own = await Server.start(["--data-dir", file("state"), "--header-timeout", "120000", "--tls-cert", file("own.pem"), "--tls-key", file("own.key")]);
  t.after(() => own.stop());
  const shown = () => new Promise((resolve, reject) => {
    const socket = tls.connect({ port: own.port, host: "127.0.0.1", rejectUnauthorized: false }, () => {
      resolve(socket.getPeerCertificate().subject.CN);
      socket.destroy();
    }).on("error", reject);
  });
  const troubles = async () => ((await (await own.fetch("/api/status")).json()).troubles ?? []).join();
  const told = async (kind) => (await (await own.fetch("/admin/v1/events?limit=100")).json()).events.filter((each) => each.kind === kind).length;
  assert.equal(await shown(), "first");
  assert.equal(await troubles(), "");

  // One connection for each request, kept ones beside them, and a stream that lasts through all of it.
  let asked = 0, over = false;
  const load = Promise.all([true, false].map(async (keepAlive) => {
    const agent = new https.Agent({ keepAlive, rejectUnauthorized: false });
    while (!over) await new Promise((resolve, reject) => {
      https.get(own.url + "/health", { agent }, (answer) => {
        assert.equal(answer.statusCode, 200);
        ++asked;
        answer.resume().on("end", resolve).on("error", reject);
      }).on("error", reject);
    });
    agent.destroy();
  }));
  const answer = await own.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify(own.chat("Go on", { stream: true, max_tokens: 1800, ignore_eos: true })) });
  const stream = events(answer);
  await stream.next();
  for (const name of ["second", "first", "second"]) {
    use(name);
    await own.until(shown, (now) => now === name, 60_000);
  }
  assert.ok((await told("tls.renewed")) >= 3);
  put("first.pem", "own.pem");  // whose key does not come
  await own.until(troubles, (text) => /stays as it was.*key/.test(text), 60_000);
  assert.equal(await shown(), "second");
  assert.equal(await told("tls.refused"), 1);
  put("first.key", "own.key");
  await own.until(shown, (now) => now === "first", 60_000);
  assert.equal(await troubles(), "");

  use("third");
  await own.until(troubles, (text) => /ends in [45]\.\d days/.test(text), 60_000);
  assert.equal(await shown(), "third");
  assert.equal(await told("tls.ending"), 1);
  const left = (await own.metric("ashlar_http_certificate_ends_seconds")) - Date.now() / 1000;
  assert.ok(left > 4 * 86_400 && left < 6 * 86_400, `${left} s`);
  over = true;
  await load;
  assert.ok(asked > 20, `${asked} requests`);
  let last;
  for await (const data of stream) last = data;
  assert.equal(last, "[DONE]");
});
