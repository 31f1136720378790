// Clients that show a certificate, and clients that show a key instead.
import { test, before, after } from "node:test";
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { run, Server } from "./server.mjs";

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
async function signed(name, by, alternative) {
  writeFileSync(file(`${name}.ext`), `subjectAltName=${alternative}\n`);
  await openssl("req", ...kind, "-keyout", file(`${name}.key`), "-out", file(`${name}.csr`), "-subj", `/CN=${name}`);
  await openssl("x509", "-req", "-in", file(`${name}.csr`), "-CA", file(`${by}.pem`), "-CAkey", file(`${by}.key`), "-CAcreateserial", "-days", "2",
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
