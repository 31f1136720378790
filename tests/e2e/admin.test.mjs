// The admin API over HTTP, and the commands that use it or the same state.
import { test, before, after } from "node:test";
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { binary, run, Server } from "./server.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const folder = mkdtempSync(path.join(os.tmpdir(), "ashlar-admin-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const cli = (...args) => run(binary, args);
const json = async (...args) => {
  const done = await cli(...args, "--json");
  assert.equal(done.code, 0, `${args.join(" ")}: ${done.err}`);
  return JSON.parse(done.out);
};
const state = ["--data-dir", folder];

let server, admin, keys;
before(async () => {
  keys = {};
  for (const role of ["admin", "operator", "auditor", "developer", "app"])
    keys[role] = await json("key", "create", "--name", role, "--role", role, ...state);
  admin = keys.admin;
  const limits = path.join(folder, "limits.yaml");
  // A dollar for each thousand tokens.
  writeFileSync(limits, 'prices:\n  - {model: "*", input: 1000, output: 1000}\nlimits:\n  - {scope: tenant, name: all, kind: budget, dollars: 1000, window: month}\n');
  server = await Server.start([...state, "--limits", limits]);
  server.model = (await (await fetch(server.url + "/v1/models", { headers: { authorization: `Bearer ${admin.key}` } })).json()).data[0].id;
});
after(() => server?.stop());

// {status, json} of an admin operation.
async function ask(method, where, body, { key = admin.key, headers = {} } = {}) {
  const answer = await fetch(server.url + "/admin/v1" + where, { method,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
    body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, json: JSON.parse(text) };
}
async function good(method, where, body, options) {
  const answer = await ask(method, where, body, options);
  assert.equal(answer.status, 200, `${method} ${where}: ${JSON.stringify(answer.json)}`);
  return answer.json;
}
const complete = async (key, max_tokens = 4) => {
  const answer = await fetch(server.url + "/v1/completions", { method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model: server.model, prompt: "Hello", max_tokens, temperature: 0, ignore_eos: true }) });
  return { status: answer.status, json: await answer.json() };
};

test("a key is made, used, blocked and refused", async () => {
  const made = await good("POST", "/keys", { name: "visitor", roles: ["app"] });
  assert.match(made.key, /^ak-/);
  assert.equal((await complete(made.key)).status, 200);
  await good("PATCH", `/keys/${made.id}`, { blocked: true });
  assert.equal((await complete(made.key)).status, 401);
  await good("PATCH", `/keys/${made.id}`, { blocked: false });
  assert.equal((await complete(made.key)).status, 200);
  const rotated = await good("POST", `/keys/${made.id}/rotate`, { overlap: "0" });
  assert.equal((await complete(made.key)).status, 401);
  assert.equal((await complete(rotated.key)).status, 200);
  await good("DELETE", `/keys/${made.id}`);
  assert.equal((await complete(rotated.key)).status, 401);
  assert.ok(!server.log.includes(made.key) && !server.log.includes(rotated.key));

  const { events } = await good("GET", `/events?subject=${made.id}`);
  assert.deepEqual(events.map((each) => each.kind), ["key.deleted", "key.rotated", "key.unblocked", "key.blocked", "key.created"]);
  for (const each of events) assert.equal(each.actor, admin.id);
  assert.ok(!JSON.stringify(events).includes(made.key));
});

test("a team's budget stops its keys and only those, and its end lets them go on", async () => {
  await good("POST", "/teams", { name: "search", members: ["ann"] });
  const of_it = await good("POST", "/keys", { team: "search" }), by_user = await good("POST", "/keys", { user: "ann" }),
    other = await good("POST", "/keys", { team: "ads" });
  const { json: first } = await complete(of_it.key);
  const one = first.usage.total_tokens;  // thousandths of a dollar
  // What is spent counts; two more fit.
  const budget = await good("POST", "/budgets", { scope: "team", who: "search", name: "month", dollars: ((one * 3) / 1000).toFixed(3), alerts: [50, 100] });
  assert.equal((await complete(by_user.key)).status, 200, "a member's key that names no team is the team's");
  assert.equal((await complete(of_it.key)).status, 200);
  for (const key of [of_it, by_user]) {
    const refused = await complete(key.key);
    assert.equal(refused.status, 429);
    assert.equal(refused.json.error.code, "insufficient_quota");
    assert.match(refused.json.error.message, /'month' of team 'search'/);
  }
  assert.equal((await complete(other.key)).status, 200);
  const standing = (await good("GET", "/budgets")).budgets.find((each) => each.id === budget.id);
  assert.equal(standing.spent_by[0].who, "team 'search'");
  assert.equal(standing.spent_by[0].spent_nano_usd, one * 3 * 1e6);
  assert.equal(standing.spent_by[0].left_nano_usd, 0);
  const all = (await good("GET", "/budgets")).budgets.find((each) => each.id === null);
  assert.equal(all.name, "all");
  assert.ok(all.spent_by.length >= 1, "the file's budget tells who spent");

  // The rows say the same, a moment later.
  const listed = async () => (await json("budget", "list", ...state)).find((each) => each.id === budget.id).spent_nano_usd;
  await server.until(listed, (spent) => spent === one * 3 * 1e6);
  // Another process gives more: the server follows.
  await json("budget", "change", budget.id, "--dollars", "100", ...state);
  await server.until(() => complete(of_it.key).then((answer) => answer.status), (status) => status === 200, 60_000);
  await server.until(() => good("GET", "/events?kind=budget.alert").then(({ events }) => events.length), (count) => count >= 1);
  await good("DELETE", `/budgets/${budget.id}`);
  await good("DELETE", `/budgets/${budget.id}`);

  await good("PATCH", "/teams/search", { blocked: true });
  assert.equal((await complete(of_it.key)).status, 401);
  assert.equal((await complete(by_user.key)).status, 401);
  assert.equal((await complete(other.key)).status, 200);
  await good("PATCH", "/teams/search", { blocked: false, models: ["no-such-*"] });
  const refused = await complete(of_it.key);
  assert.equal(refused.status, 403);
  assert.equal(refused.json.error.code, "model_not_allowed");
  assert.equal((await complete(other.key)).status, 200);
  const kinds = (await good("GET", "/events?kind=team")).events;
  assert.deepEqual(kinds.map((each) => each.kind), ["team.changed", "team.unblocked", "team.blocked", "team.created"]);
});

test("the document is the committed one, and every path of it is there", async () => {
  const served = await good("GET", "/openapi.json");
  assert.deepEqual(served, JSON.parse(readFileSync(path.join(root, "docs/openapi.json"))));
  const follow = (node) => {
    if (node === null || typeof node !== "object") return;
    if (typeof node.$ref === "string") {
      const target = node.$ref.slice(2).split("/").reduce((at, part) => at?.[part], served);
      assert.ok(target !== undefined, node.$ref);
    }
    Object.values(node).forEach(follow);
  };
  follow(served);
  for (const [where, methods] of Object.entries(served.paths))
    for (const method of Object.keys(methods)) {
      const operation = methods[method];
      const names = (operation.parameters ?? []).filter((each) => each.in === "path").map((each) => each.name);
      const real = where.replace("{model}", server.model).replace(/\{\w+\}/g, "nobody");
      for (const name of names) assert.ok(where.includes(`{${name}}`));
      const answer = await fetch(server.url + real, { method: method.toUpperCase(), headers: { authorization: `Bearer ${admin.key}` },
        body: method === "get" || method === "delete" ? undefined : "" });
      const text = await answer.text();
      // A 404 is about somebody who is not there, never about the path.
      assert.ok(!text.includes("no such path"), `${method} ${where}: ${text}`);
      assert.notEqual(answer.status, 405);
      assert.ok(answer.status < 500, `${method} ${where}: ${text}`);
    }
});

test("roles: an app may nothing, an auditor reads", async () => {
  const { paths } = await good("GET", "/openapi.json");
  for (const [where, methods] of Object.entries(paths).filter(([each]) => each.startsWith("/admin/")))
    for (const method of Object.keys(methods)) {
      const at = where.replace("/admin/v1", "").replace(/\{\w+\}/g, "nobody");
      for (const role of ["app", "developer"]) assert.equal((await ask(method.toUpperCase(), at, undefined, { key: keys[role].key })).status, 403, where);
      const audited = await ask(method.toUpperCase(), at, undefined, { key: keys.auditor.key });
      assert.equal(audited.status === 403, method !== "get", `${method} ${where}`);
      assert.equal((await fetch(server.url + "/admin/v1" + at, { method: method.toUpperCase() })).status, 401);
    }
});

test("hostile bodies get a sentence", async () => {
  const deep = "[".repeat(100_000), bodies = ["{", "[]", "1", '"x"', "null", deep, '{"a":' + deep, '{"name":{"$gt":""}}', '{"roles":"admin"}',
    '{"name":1e400}', '{"name":"\\ud800"}', '{"unknown":1}', '{"name":"a","name":"b"}', '{"max_output_tokens":-1}', '{"expires":5}', '{"tags":{"a":1}}'];
  for (const body of bodies) {
    const answer = await ask("POST", "/keys", body);
    assert.equal(answer.status, 400, body.slice(0, 40));
    assert.ok(answer.json.error.message.length > 10);
  }
  assert.equal((await ask("POST", "/keys", JSON.stringify({ name: "x".repeat(2 << 20) }))).status, 413);
  assert.equal((await ask("GET", "/events?limit=100000")).status, 400);
  assert.equal((await ask("GET", "/nothing")).status, 404);
  assert.equal((await ask("PUT", "/keys")).status, 405);
  assert.equal((await ask("GET", "/keys/..%2f..%2fetc%2fpasswd")).status, 404);
});

test("who sends a POST again with its Idempotency-Key makes one key", async () => {
  const options = { headers: { "idempotency-key": "e2e-1" } };
  const one = await good("POST", "/keys", { name: "once" }, options), two = await good("POST", "/keys", { name: "once" }, options);
  assert.deepEqual(one, two);
  assert.equal((await ask("POST", "/keys", { name: "other" }, options)).status, 422);
});

test("the commands say the same", async () => {
  const remote = ["--server", server.url, "--key", admin.key];
  const models = await json("model", "list", ...remote);
  assert.ok(models.some((each) => each.id === server.model && each.state === "loaded"));
  assert.equal((await json("model", "load", server.model, ...remote)).state, "loaded");
  assert.equal((await json("model", "unload", server.model, ...remote)).id, server.model);
  const state_of = async () => (await json("model", "list", ...remote)).find((each) => each.id === server.model).state;
  await server.until(state_of, (is) => is === "idle", 60_000);
  assert.equal((await json("model", "load", server.model, ...remote)).state, "loaded", "it comes back");
  assert.deepEqual(await json("route", "list", ...remote), []);
  assert.deepEqual(await json("upstream", "list", ...remote), []);
  assert.equal((await json("status", ...remote)).healthy, true);
  assert.match((await cli("model", "list", ...remote)).out, /MODEL +STATE/);
  const listed = await cli("event", "list", "--since", "1h", "--kind", "key", ...state);
  assert.match(listed.out, /key\.created .*\(by key_/);
  assert.ok((await cli("event", "list", "--json", ...state)).out.trim().split("\n").map(JSON.parse).some((each) => each.kind === "server.started"));

  await json("team", "create", "ops", "--member", "bob", "--model", "a*", ...state);
  assert.deepEqual((await json("team", "change", "ops", "--model", "", ...state)).models, []);
  assert.match((await cli("team", "list", ...state)).out, /ops +active/);
  assert.equal((await cli("team", "block", "ops", ...state)).code, 0);
  assert.equal((await json("team", "show", "ops", ...state)).state, "blocked");
  assert.equal((await cli("team", "delete", "ops", ...state)).code, 0);
  const budget = await json("budget", "create", "user:bob", "--dollars", "0.5", "--window", "day", "--alert", "80", ...state);
  assert.equal(budget.capacity_nano_usd, 5e8);
  assert.match((await cli("budget", "list", ...state)).out, /user:bob/);
  assert.equal((await cli("budget", "delete", budget.id, ...state)).code, 0);
});

test("wrong words and servers that are not there get a sentence that helps", async () => {
  const nobody = ["--server", "http://127.0.0.1:1"];
  for (const [args, wanted] of [
    [["model", "list", ...nobody], /no server answers at http:\/\/127\.0\.0\.1:1/],
    [["route", "list", "--server", server.url], /API key.*--key KEY, or ASHLAR_KEY/],
    [["route", "list", "--server", server.url, "--key", keys.app.key], /this key may not do that/],
    [["route", "open", "x", "--server", server.url, "--key", admin.key], /no routes/],
    [["model", "load", "nobody", "--server", server.url, "--key", admin.key], /no model is called 'nobody'/],
    [["model", "unload", "nobody", "--server", server.url, "--key", admin.key], /no model is called 'nobody'/],
    [["status", "--server", "nonsense"], /http/],
    [["team", "create", "a\nb", ...state], /control character/],
    [["team", "show", "nobody", ...state], /no team is called 'nobody'/],
    [["budget", "create", "x", "--dollars", "1", ...state], /key:ID, user:NAME/],
    [["budget", "create", "team:x", "--dollars", "lots", ...state], /not an amount of dollars/],
    [["budget", "create", "team:x", ...state], /--dollars is missing/],
    [["event", "list", "--since", "soon", ...state], /'soon' is no time/],
  ]) {
    const done = await cli(...args);
    assert.equal(done.code, 1, args.join(" "));
    assert.match(done.err, wanted);
  }
  for (const command of ["team", "budget", "event", "model", "route", "upstream", "key"]) {
    assert.match((await cli(command, "--help")).out, new RegExp(`ashlar ${command} `));
    assert.equal((await cli(command, "frob")).code, 2);
    assert.equal((await cli(command)).code, 2);
  }
});

test("--follow shows what comes", async () => {
  const { spawn } = await import("node:child_process");
  const follower = spawn(binary, ["event", "list", "--follow", "--kind", "key.created", "--json", ...state], { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  follower.stdout.on("data", (data) => (out += data));
  const ended = new Promise((resolve) => follower.on("exit", resolve));
  const made = await good("POST", "/keys", { name: "followed" });
  await server.until(() => new Promise((next) => setTimeout(() => next(out.includes(made.id)), 20)), (seen) => seen);
  follower.kill("SIGINT");
  await ended;
  assert.equal(out.split(made.id).length - 1 > 0, true);
});

test("what commands change in the database is in the event log, by whom", async () => {
  const made = await json("key", "create", "--name", "local", ...state);
  assert.equal((await cli("key", "block", made.id, ...state)).code, 0);
  await json("key", "rotate", made.id, ...state);
  await json("team", "create", "quiet", ...state);
  const budget = await json("budget", "create", "team:quiet", "--dollars", "5", ...state);
  assert.equal((await cli("budget", "delete", budget.id, ...state)).code, 0);
  assert.equal((await cli("team", "delete", "quiet", ...state)).code, 0);
  assert.equal((await cli("key", "delete", made.id, ...state)).code, 0);
  const { events } = await good("GET", "/events?limit=100");
  const kinds = events.filter((each) => each.actor.startsWith("local:") && [made.id, "quiet", budget.id].includes(each.subject)).map((each) => each.kind);
  assert.deepEqual(kinds.reverse(), ["key.created", "key.blocked", "key.rotated", "team.created", "budget.created", "budget.deleted", "team.deleted", "key.deleted"]);
  assert.ok(!JSON.stringify(events).includes(made.key), "never the key itself");
});

test("a restart keeps keys, teams, budgets and events", async () => {
  const before = await good("GET", "/events?kind=key&limit=1000");
  const budget = await good("POST", "/budgets", { scope: "user", who: "zoe", dollars: 0 });
  const key = await good("POST", "/keys", { user: "zoe" });
  assert.equal((await complete(key.key)).status, 429);
  await server.stop();
  const args = server.args.slice(3 + 2);
  server = await Server.start(args);
  server.model = (await (await fetch(server.url + "/v1/models", { headers: { authorization: `Bearer ${admin.key}` } })).json()).data[0].id;
  assert.equal((await complete(key.key)).status, 429);
  assert.equal((await complete(admin.key)).status, 200);
  const kinds = (await good("GET", "/events?kind=server")).events.map((each) => each.kind);
  assert.deepEqual(kinds.slice(0, 3), ["server.started", "server.stopped", "server.started"]);
  assert.ok((await good("GET", "/events?kind=key&limit=1000")).events.length >= before.events.length);
  await good("DELETE", `/budgets/${budget.id}`);
});
