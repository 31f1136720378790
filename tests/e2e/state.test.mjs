// usage, backup, restore: the state as an operator meets it.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { binary } from "./server.mjs";

const folder = mkdtempSync(path.join(tmpdir(), "ashlar-state-"));
after(() => rmSync(folder, { recursive: true }));
const data = path.join(folder, "data");

function ashlar(...args) {
  const done = spawnSync(binary, [...args, "--data-dir", data]);
  return { status: done.status, out: done.stdout.toString(), err: done.stderr.toString() };
}

test("before anything was counted, each says so", () => {
  for (const args of [["usage"], ["backup", path.join(folder, "none.db")]]) {
    const { status, out, err } = ashlar(...args);
    assert.equal(status, 1);
    assert.equal(out, "");
    assert.match(err, /^ashlar \w+: .*state\.db: (no request has been counted|there is no such file)/);
  }
});

test("a backup comes back, and what was there is kept", () => {
  const copy = path.join(folder, "copy.db");
  writeFileSync(path.join(folder, "empty.db"), "");
  assert.equal(ashlar("usage", "--database", path.join(folder, "empty.db")).status, 0);
  assert.equal(ashlar("backup", copy, "--database", path.join(folder, "empty.db")).status, 0);
  assert.equal(statSync(copy).mode & 0o777, 0o600);
  assert.equal(ashlar("backup", copy, "--database", path.join(folder, "empty.db")).status, 1, "overwrites nothing");

  assert.match(ashlar("restore", copy).out, /state\.db is .*copy\.db now \(versions of its tables: usage \d+\)\n$/);
  assert.match(ashlar("restore", copy).out, /what was there is kept as .*before-restore/);
  assert.equal(statSync(path.join(data, "state.db")).mode & 0o777, 0o600);
  const usage = ashlar("usage");
  assert.equal(usage.status, 0);
  assert.match(usage.out, /^model +requests .*\ntotal +0 /);
  assert.equal(ashlar("usage", "--csv").out.split("\n").length, 2, "the names of the columns alone");
});

test("a damaged backup replaces nothing", () => {
  const before = readFileSync(path.join(data, "state.db"));
  const bad = path.join(folder, "bad.db");
  writeFileSync(bad, Buffer.alloc(9000, 7));
  const { status, err } = ashlar("restore", bad);
  assert.equal(status, 1);
  assert.match(err, /no SQLite database, or a damaged one/);
  assert.deepEqual(readFileSync(path.join(data, "state.db")), before);
  assert.deepEqual(readdirSync(data).filter((name) => name.includes(".restored-")), []);
});

test("PostgreSQL is named its own tools, and no password is shown", () => {
  const address = "postgres://ann:secret@127.0.0.1:1/ashlar";
  const refused = ashlar("backup", path.join(folder, "x.db"), "--database", address);
  assert.equal(refused.status, 1);
  assert.match(refused.err, /pg_dump/);
  const down = ashlar("usage", "--database", address);
  assert.equal(down.status, 1);
  assert.match(down.err, /postgresql:\/\/127\.0\.0\.1:1\/ashlar: |client library/);
  assert.doesNotMatch(refused.err + down.err, /secret/);
});
