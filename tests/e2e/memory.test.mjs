// Memory that runs out: for one large request, for the whole machine.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Server, events } from "./server.mjs";
import { folder } from "./services.mjs";

const alive = (server) => assert.ok(server.process.exitCode === null && server.process.signalCode === null, server.log);

const mayLimit = spawnSync("prlimit", ["--version"]).status === 0;
test("no memory for a request: it gets 503, streams go on, and what was taken comes back", { skip: !mayLimit && "no prlimit" }, async (t) => {
  const server = await Server.start();
  t.after(() => server.stop());
  const { pid } = server.process;
  const limit = (bytes) => assert.equal(spawnSync("prlimit", ["--pid", String(pid), `--as=${bytes}:`]).status, 0);
  const taken = () => 1024 * Number(readFileSync(`/proc/${pid}/status`, "utf8").match(/VmSize:\s+(\d+)/)[1]);
  const ask = (text, more = {}) => server.post("/v1/chat/completions", server.chat(text, { max_tokens: 2, ...more }));
  assert.equal((await ask("Hello")).status, 200);
  const stream = events(await server.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify(server.chat("Go on", { stream: true, max_tokens: 1500, ignore_eos: true })) }));
  await stream.next();
  for (const room of [64, 16, 4, 1, 0]) {
    limit(taken() + room * (1 << 20));
    for (const size of [1, 4, 16, 30]) {
      const answer = await ask("x".repeat(size << 20));
      assert.ok([400, 503].includes(answer.status), `${size} MiB with ${room} MiB left: ${answer.status} ${JSON.stringify(answer.json)}`);
      if (size === 30) assert.equal(answer.status, 503);
      if (answer.status === 503) assert.ok(Number(answer.headers.get("retry-after")) > 0);
    }
    // Where there is not even memory for a refusal, the connection is dropped.
    const many = await Promise.all(Array.from({ length: 20 }, (_, i) => ask("hello ".repeat(i % 2 === 0 ? 5 : 50_000)).catch((error) => ({ status: "dropped", json: String(error) }))));
    for (const answer of many) assert.ok([200, 400, 503, "dropped"].includes(answer.status), `${answer.status} ${JSON.stringify(answer.json)}`);
    assert.ok((await server.fetch("/metrics")).ok);
  }
  alive(server);
  let last;
  for await (const data of stream) last = data;
  assert.equal(last, "[DONE]", "who ran goes on");
  limit("unlimited");
  assert.equal((await ask("x".repeat(30 << 20))).status, 400, "too long for the model, and no matter of memory");
  assert.equal((await ask("Hello")).status, 200);
});

const mayMount = process.getuid() === 0 && spawnSync("unshare", ["-m", "true"]).status === 0;
test("the machine's memory is nearly full: fewer requests are let in, the urgent ones all, until there is room", { skip: !mayMount && "no right to mount" }, async (t) => {
  // What a container's limits look like to the program.
  const dir = folder(t), say = (name, text) => writeFileSync(path.join(dir, name), text);
  say("memory.max", "1000000000\n");
  say("memory.current", "300000000\n");
  say("memory.stat", "file 0\nshmem 0\n");
  say("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
  const server = await Server.start(["--data-dir", folder(t)], { limits: `[ -n "$INSIDE" ] || INSIDE=1 exec unshare -m sh -c 'mount --make-rprivate / && mount --bind ${dir} /sys/fs/cgroup && exec "$0" "$@"' "$0" "$@"` });
  t.after(() => server.stop());
  const ask = (more = {}) => server.post("/v1/chat/completions", server.chat("Hello", { max_tokens: 2, ...more }));
  const alarm = (on) => server.until(() => server.metric("ashlar_gateway_memory_alarm"), (is) => is === on, 60_000);
  assert.equal((await ask()).status, 200);
  const streams = await Promise.all(Array.from({ length: 4 }, async () => {
    const stream = events(await server.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify(server.chat("Go on", { stream: true, max_tokens: 1500, ignore_eos: true })) }));
    await stream.next();
    return stream;
  }));
  // Others come all the time, so that somebody runs when the alarm is raised and after it.
  let over = false;
  const load = Promise.all(Array.from({ length: 4 }, async () => {
    while (!over) assert.ok([200, 503].includes((await ask({ max_tokens: 300, ignore_eos: true })).status));
  }));
  say("memory.current", "990000000\n");
  await alarm(1);
  let refused;
  await server.until(async () => (refused = await ask()).status, (status) => status === 503, 60_000);
  assert.match(refused.json.error.message, /memory/);
  assert.ok(Number(refused.headers.get("retry-after")) > 0);
  assert.equal((await ask({ priority: -1 })).status, 200, "urgent");
  for (const stream of streams) {
    let last;
    for await (const data of stream) last = data;
    assert.equal(last, "[DONE]");
  }
  say("memory.current", "300000000\n");
  await alarm(0);
  over = true;
  await load;
  assert.equal((await ask()).status, 200);
  const kinds = (await (await server.fetch("/admin/v1/events?limit=100")).json()).events.map((each) => each.kind);
  for (const kind of ["memory.high", "memory.fine"]) assert.ok(kinds.includes(kind), kinds.join());
});
