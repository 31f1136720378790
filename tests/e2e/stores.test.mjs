// Redis and PostgreSQL that are down, slow or back again: money is never spent unseen, the rest goes on, and health says so.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Server, binary, run } from "./server.mjs";
import { folder, freePort, havePostgres, haveRedis, postgres, redis } from "./services.mjs";

const limits = (dir, text) => {
  writeFileSync(path.join(dir, "limits.yaml"), text);
  return ["--data-dir", dir, "--limits", path.join(dir, "limits.yaml")];
};
const ask = (server, more = {}) => server.post("/v1/chat/completions", server.chat("Say a word.", { max_tokens: 3, temperature: 0, ...more }));
const troubles = async (server) => (await (await server.fetch("/api/status")).json()).troubles ?? [];
const priced = 'prices:\n  - {model: "*", input: 1000, output: 1000}\n';

for (const [how, down, up] of [["down", (service) => service.kill(), (service) => service.start()],
  ["that hangs", (service) => service.signal("SIGSTOP"), (service) => service.signal("SIGCONT")]])
  test(`Redis ${how}: rates are counted here, money waits, and both go on as they were`, { skip: !haveRedis }, async (t) => {
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

test("PostgreSQL down at the start: one sentence, and nothing is served", { skip: !havePostgres }, async () => {
  const nobody = await freePort();
  const told = await run(binary, ["serve", "--port", "0", "--database", `postgres://ashlar:secret@127.0.0.1:${nobody}/postgres`]);
  assert.equal(told.code, 1);
  assert.match(told.err, new RegExp(`127\\.0\\.0\\.1:${nobody}`));
  assert.doesNotMatch(told.err, /secret|listening/);
  assert.match(told.err.trim().split("\n").at(-1), /^Nothing is served: keys and budgets are not known/);
});

for (const [how, down, up] of [["dies", (service) => service.kill(), (service) => service.start()],
  ["hangs", (service) => service.signal("SIGSTOP"), (service) => service.signal("SIGCONT")]])
  test(`PostgreSQL ${how}: keys and budgets stand, answers go on, and their rows come later, once`, { skip: !havePostgres }, async (t) => {
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

test("two servers share a budget on Redis and rows on PostgreSQL; one is killed, the other goes on, and none spends too much",
  { skip: !haveRedis || !havePostgres }, async (t) => {
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
