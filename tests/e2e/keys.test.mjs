// Kept keys: made, used, blocked, rotated and deleted by the CLI while a server runs.
import { test, before, after } from "node:test";
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { binary, events, run, Server, stories, haveStories } from "./server.mjs";

const folder = mkdtempSync(path.join(os.tmpdir(), "ashlar-keys-"));
after(() => rmSync(folder, { recursive: true }));
const cli = (...args) => run(binary, ["key", ...args, "--data-dir", folder]);
const json = async (...args) => {
  const done = await cli(...args, "--json");
  assert.equal(done.code, 0, done.err);
  return JSON.parse(done.out);
};

let server, laptop;
before(async () => {
  laptop = await json("create", "--name", "laptop", "--tenant", "acme", "--tag", "env=test", "--expires", "30d");
  server = await Server.start(["--data-dir", folder], { models: haveStories ? ["--model", stories] : [] });
});
after(() => server?.stop());

const status = async (key, where = "/v1/models") =>
  (await fetch(server.url + where, { headers: key ? { authorization: `Bearer ${key}` } : {} })).status;
// Soon: the deadline only ends a test that hangs.
async function becomes(key, wanted) {
  const end = Date.now() + 30_000;
  let last;
  while ((last = await status(key)) !== wanted) {
    assert.ok(Date.now() < end, `still ${last}, not ${wanted}, after half a minute`);
    await new Promise((next) => setTimeout(next, 10));
  }
}

test("a key is shown once and opens the server", async () => {
  assert.match(laptop.key, /^ak-[0-9A-Za-z]{46}$/);
  assert.equal(laptop.state, "active");
  assert.deepEqual(laptop.tags, { env: "test" });
  assert.equal(await status(laptop.key), 200);
  assert.equal(await status(), 401);
  assert.equal(await status(laptop.key.slice(0, -1) + (laptop.key.endsWith("x") ? "y" : "x")), 401);
  assert.equal(await status(laptop.key, "/metrics"), 403, "a developer reads no metrics");
  const listed = await json("list");
  assert.equal(listed.length, 1);
  assert.equal(listed[0].key, undefined);
  assert.ok(!JSON.stringify(listed).includes(laptop.key));
  assert.ok(!server.log.includes(laptop.key));
  const shown = await cli("show", laptop.prefix);
  assert.match(shown.out, /laptop[\s\S]*acme[\s\S]*developer/);
});

test("a server that runs notices a block, an unblock and a new key", async () => {
  assert.equal((await cli("block", "laptop")).code, 0);
  await becomes(laptop.key, 401);
  assert.equal((await cli("unblock", laptop.id)).code, 0);
  await becomes(laptop.key, 200);
  const other = await json("create", "--role", "operator");
  await becomes(other.key, 200);
  assert.equal(await status(other.key, "/metrics"), 200);
  assert.equal((await cli("delete", other.id)).code, 0);
  await becomes(other.key, 401);
});

test("a rotated key has an old one beside it for a while", async () => {
  const fresh = await json("rotate", "laptop", "--overlap", "1h");
  assert.equal(fresh.id, laptop.id);
  await becomes(fresh.key, 200);
  assert.equal(await status(laptop.key), 200);
  const last = await json("rotate", "laptop", "--overlap", "0");
  await becomes(last.key, 200);
  await becomes(fresh.key, 401);
  assert.equal(await status(laptop.key), 401);
});

test("a key reaches its models alone, from its networks", async () => {
  const narrow = await json("create", "--model", "other-*");
  await becomes(narrow.key, 200);
  const answer = await fetch(server.url + "/v1/completions", { method: "POST", headers: { authorization: `Bearer ${narrow.key}` },
    body: JSON.stringify({ prompt: "a", max_tokens: 1 }) });
  assert.equal(answer.status, 403);
  assert.equal((await answer.json()).error.code, "model_not_allowed");
  const inside = await json("create", "--network", "127.0.0.0/8", "--network", "::1"), outside = await json("create", "--network", "10.0.0.0/8");
  await becomes(inside.key, 200);
  assert.equal(await status(outside.key), 401);
});

// One place, taken by a long answer: who is urgent does not wait for its end.
test("a key says whether its requests may be urgent", async () => {
  const place = mkdtempSync(path.join(os.tmpdir(), "ashlar-urgent-"));
  const make = async (...args) => JSON.parse((await run(binary, ["key", "create", "--role", "app", ...args, "--data-dir", place, "--json"])).out);
  const app = await make("--name", "app"), pager = await make("--name", "pager", "--min-priority", "-1");
  assert.equal(app.min_priority, 0);
  assert.equal(pager.min_priority, -1);
  assert.match((await run(binary, ["key", "show", "pager", "--data-dir", place])).out, /urgent +down to priority -1/);
  const one = await Server.start(["--data-dir", place, "--max-num-seqs", "1"]);
  try {
    const ask = (key, body) => fetch(one.url + "/v1/completions", { method: "POST", headers: { authorization: `Bearer ${key}` },
      body: JSON.stringify({ temperature: 0, ignore_eos: true, ...body }) });
    const long = await ask(app.key, { prompt: "A wall of", max_tokens: 1500, stream: true });
    let pieces = 0, others;
    for await (const event of events(long)) {
      if (event !== "[DONE]" && JSON.parse(event).choices[0].text) pieces++;
      if (others || pieces < 3) continue;
      // Both claim it. How far the long answer was when they were answered:
      others = [app.key, pager.key].map((key) => ask(key, { prompt: "Stones", max_tokens: 4, priority: -1 }).then(async (answer) => {
        assert.equal((await answer.json()).usage.completion_tokens, 4);
        return pieces;
      }));
    }
    const [usual, urgent] = await Promise.all(others);
    assert.ok(usual > 0.9 * pieces && urgent < 0.9 * pieces, `after ${usual} and ${urgent} of ${pieces} pieces`);
  } finally {
    await one.stop();
    rmSync(place, { recursive: true });
  }
});

test("wrong words get a sentence that helps", async () => {
  for (const [args, wanted] of [
    [["create", "--expires", "soon"], /--expires: 'soon' is no time such as 30d/],
    [["create", "--role", "king"], /a role is admin, operator, auditor, developer or app/],
    [["create", "--network", "10.0.0.1/8"], /bits beyond its prefix/],
    [["create", "--name", "a\nb"], /control character U\+000A/],
    [["create", "--tag", "x"], /not NAME=VALUE/],
    [["show", "nobody"], /no key is called 'nobody'/],
    [["block", "nobody"], /no key is called 'nobody'/],
  ]) {
    const done = await cli(...args);
    assert.equal(done.code, 1, args.join(" "));
    assert.match(done.err, wanted);
  }
  assert.equal((await run(binary, ["key", "frob"])).code, 2);
  assert.match((await run(binary, ["key", "--help"])).out, /ashlar key create/);
  assert.match((await run(binary, ["key", "create", "--help"])).out, /--expires/);
});
