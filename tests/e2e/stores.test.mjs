// Redis and PostgreSQL that are down, slow or back again: money is never spent unseen, the rest goes on, and health says so.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Server, binary, run } from "./server.mjs";
import { folder, freePort, havePostgres, haveRedis, postgres, redis, way } from "./services.mjs";

const limits = (dir, text) => {
  writeFileSync(path.join(dir, "limits.yaml"), text);
  return ["--data-dir", dir, "--limits", path.join(dir, "limits.yaml")];
};
const ask = (server, more = {}) => server.post("/v1/chat/completions", server.chat("Say a word.", { max_tokens: 3, temperature: 0, ...more }));
const troubles = async (server) => (await (await server.fetch("/api/status")).json()).troubles ?? [];
const priced = 'prices:\n  - {model: "*", input: 1000, output: 1000}\n';

for (const [how, down, up] of [["down", (service) => service.kill(), (service) => service.start()],
  ["that hangs", (service) => service.signal("SIGSTOP"), (service) => service.signal("SIGCONT")]])
  test(`Redis ${how}: rates are counted here, money waits, and both go on as they were`, { skip: !haveRedis && "no redis-server" }, async (t) => {
    const shared = await redis(t);
    const rates = await Server.start([...limits(folder(t), "limits:\n  - {scope: global, name: rpd, measure: requests, capacity: 1000, period: 24h}\n"),
      "--counters", shared.url]);
    const money = await Server.start([...limits(folder(t), priced + "limits:\n  - {scope: global, name: all, kind: budget, dollars: 1000, window: total}\n"),
      "--counters", shared.url]);
    t.after(() => Promise.all([rates.stop(), money.stop()]));
    for (const server of [rates, money]) assert.equal((await ask(server)).status, 200);
    await down(shared);
    for (let i = 0; i < 5; ++i) {
      assert.equal((await ask(rates)).status, 200);
      const refused = await ask(money);
      assert.equal(refused.status, 503, JSON.stringify(refused.json));
    }
    for (const server of [rates, money]) {
      await server.until(() => troubles(server), (all) => /shared counts/.test(all.join()));
      assert.ok([200, 503].includes((await server.fetch("/health")).status), "health answers");
    }
    await up(shared);
    await money.until(async () => (await ask(money)).status, (status) => status === 200);
    await rates.until(() => troubles(rates), (all) => all.length === 0);
  });

test("Redis lost its data: money goes on where it was, rates begin anew", { skip: !haveRedis && "no redis-server" }, async (t) => {
  const shared = await redis(t);
  // A dollar for each thousand tokens.
  const server = await Server.start([...limits(folder(t), priced + "limits:\n  - {scope: global, name: all, kind: budget, dollars: 0.3, window: total}\n" +
    "  - {scope: global, name: rph, measure: requests, capacity: 1000, period: 1h}\n"), "--counters", shared.url]);
  t.after(() => server.stop());
  let spent = 0;
  const asked = async () => {
    const answer = await ask(server, { ignore_eos: true });
    if (answer.status === 200) spent += answer.json.usage.total_tokens;
    return answer;
  };
  for (let i = 0; i < 3; ++i) assert.equal((await asked()).status, 200);
  await shared.kill();
  await shared.start();
  await server.until(async () => (await asked()).status, (status) => status === 200);
  assert.ok(Number((await asked()).headers.get("x-ratelimit-remaining-requests")) >= 995);
  let last;
  do last = await asked(); while (last.status === 200);
  assert.equal(last.status, 429, JSON.stringify(last.json));
  const left = Number(last.json.error.message.match(/\$([\d.]+) of/)[1]);
  assert.equal(Math.round((0.3 - left) * 1000), spent, "to the token");
  assert.ok(spent <= 300);
});

test("PostgreSQL down at the start: one sentence, and nothing is served", { skip: !havePostgres && "no PostgreSQL" }, async () => {
  const nobody = await freePort();
  const told = await run(binary, ["serve", "--port", "0", "--database", `postgres://ashlar:secret@127.0.0.1:${nobody}/postgres`]);
  assert.equal(told.code, 1);
  assert.match(told.err, new RegExp(`127\\.0\\.0\\.1:${nobody}`));
  assert.doesNotMatch(told.err, /secret|listening/);
  assert.match(told.err.trim().split("\n").at(-1), /^Nothing is served: keys and budgets are not known/);
});

for (const [how, down, up] of [["dies", (service) => service.kill(), (service) => service.start()],
  ["hangs", (service) => service.signal("SIGSTOP"), (service) => service.signal("SIGCONT")]])
  test(`PostgreSQL ${how}: keys and budgets stand, answers go on, and their rows come later, once`, { skip: !havePostgres && "no PostgreSQL" }, async (t) => {
    const database = await postgres(t);
    const dir = folder(t);
    const made = await run(binary, ["key", "create", "--name", "app", "--tenant", "acme", "--json", "--database", database.url]);
    assert.equal(made.code, 0, made.err);
    const headers = { authorization: `Bearer ${JSON.parse(made.out).key}` };
    const server = await Server.start([...limits(dir, priced + "limits:\n  - {scope: global, name: all, kind: budget, dollars: 1000, window: total}\n"),
      "--database", database.url]);
    t.after(() => server.stop());
    const model = (await (await server.fetch("/v1/models", { headers })).json()).data[0].id;
    const asked = () => server.post("/v1/chat/completions", { model, messages: [{ role: "user", content: "Hello" }], max_tokens: 3 }, { headers });
    assert.equal((await asked()).status, 200);
    await down(database);
    for (let i = 0; i < 10; ++i) assert.equal((await asked()).status, 200, `request ${i} while it is away`);
    assert.equal((await server.post("/v1/chat/completions", { model, messages: [] }, { headers: { authorization: "Bearer ak-wrong" } })).status, 401);
    await up(database);
    const rows = async () => {
      const told = await run(binary, ["usage", "--json", "--by", "tenant", "--database", database.url]);
      return told.code === 0 && told.out.trim() !== "" ? JSON.parse(told.out.trim().split("\n")[0]).requests : 0;
    };
    assert.equal(await server.until(rows, (count) => count >= 11, 60_000), 11);
  });

// Each row takes half a second there, and many more come.
test("PostgreSQL is slow: requests go on, health says so, a change of keys ends, and all rows come", { skip: !havePostgres && "no PostgreSQL" }, async (t) => {
  const database = await postgres(t);
  const server = await Server.start(["--data-dir", folder(t), "--database", database.url]);
  t.after(() => server.stop());
  const sql = (text) => assert.equal(spawnSync("psql", [database.url, "-qAtc", text]).status, 0);
  sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$; " +
    "CREATE TRIGGER slow BEFORE INSERT ON usage_rows FOR EACH ROW EXECUTE FUNCTION slow()");
  for (let i = 0; i < 40; ++i) assert.equal((await ask(server)).status, 200);
  await server.until(() => troubles(server), (all) => /the database is slow .*writes wait/.test(all.join()));
  assert.equal((await (await server.fetch("/health")).json()).troubles, 1);
  sql("DROP TRIGGER slow ON usage_rows");
  const made = await server.post("/admin/v1/keys", { name: "late" });
  assert.ok(made.status === 200 || made.status === 503, JSON.stringify(made.json));
  const rows = async () => JSON.parse((await run(binary, ["usage", "--json", "--by", "tenant", "--database", database.url])).out.split("\n")[0] || '{"requests":0}').requests;
  assert.equal(await server.until(rows, (count) => count >= 40, 60_000), 40);
});

test("of ten rotations of a key at once one is done, and the others are told", { skip: !havePostgres && "no PostgreSQL" }, async (t) => {
  const database = await postgres(t), slow = await way(t, database.port);
  const server = await Server.start(["--data-dir", folder(t), "--database", database.url.replace(`:${database.port}`, `:${slow.port}`)]);
  t.after(() => server.stop());
  const boss = await server.post("/admin/v1/keys", { name: "boss", roles: ["admin"] });
  const headers = { authorization: `Bearer ${boss.json.key}` };
  const made = await server.post("/admin/v1/keys", { name: "app" }, { headers });
  slow.delay = 100;  // so that none has ended before all are there
  const all = await Promise.all(Array.from({ length: 10 }, () => server.post(`/admin/v1/keys/${made.json.id}/rotate`, { overlap: "0" }, { headers })));
  slow.delay = 0;
  assert.deepEqual(all.map((each) => each.status).sort(), [200, ...Array(9).fill(409)]);
  for (const { status, json } of all) if (status === 409) assert.match(json.error.message, /rotated or deleted by somebody else at the same time/);
  const shown = all.find((each) => each.status === 200).json.key;
  assert.equal((await server.fetch("/v1/models", { headers: { authorization: `Bearer ${shown}` } })).status, 200);
  assert.equal((await server.post(`/admin/v1/keys/${made.json.id}/rotate`, {}, { headers })).status, 200, "later it may be done again");
});

test("two servers share a budget on Redis and rows on PostgreSQL; one is killed, the other goes on, and none spends too much",
  { skip: (!haveRedis || !havePostgres) && "no redis-server, or no PostgreSQL" }, async (t) => {
    const shared = await redis(t), database = await postgres(t);
    const text = priced + "limits:\n  - {scope: global, name: all, kind: budget, dollars: 2, window: total}\n";
    const start = () => Server.start([...limits(folder(t), text), "--database", database.url, "--counters", shared.url]);
    let [first, second] = [await start(), await start()];
    t.after(() => Promise.all([first.kill(), second.kill()]));
    let received = 0;
    const until = { over: false };
    const load = (server) => Promise.all(Array.from({ length: 8 }, async () => {
      while (!until.over) {
        const answer = await ask(server, { max_tokens: 12, ignore_eos: true }).catch(() => null);
        if (answer === null) return;
        if (answer.status === 200) received += answer.json.usage.total_tokens;
        else if (answer.status === 429) return;
        else assert.fail(JSON.stringify(answer.json));
      }
    }));
    const loads = [load(first), load(second)];
    await first.until(() => received, (tokens) => tokens > 300);
    await first.kill();
    await Promise.all(loads);
    // What the dead one held is held still: nobody has spent more than the budget.
    assert.ok(received <= 2000, `${received} tokens of 2000`);
    // Its journal tells what became of it.
    first = await Server.start(first.args.slice(5), { models: [] }).catch((error) => assert.fail(error));
    until.over = true;
    const told = await run(binary, ["usage", "--json", "--by", "tenant", "--database", database.url]);
    assert.equal(told.code, 0, told.err);
    const sum = JSON.parse(told.out.trim().split("\n")[0]);
    const spent = sum.prompt_tokens + sum.completion_tokens;
    assert.ok(spent >= received && spent <= 2000, `rows say ${spent}, clients received ${received}`);
  });
