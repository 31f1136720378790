// The configuration changes while requests run, and none of them is lost.
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import http from "node:http";
import { Server, binary, events, haveStories, run, stories } from "./server.mjs";

class Folder {
  constructor(t) {
    this.dir = mkdtempSync(path.join(os.tmpdir(), "ashlar-reload-"));
    t.after(() => rmSync(this.dir, { recursive: true, force: true }));
  }
  at(name) {
    return path.join(this.dir, name);
  }
  // As editors do it: beside it, then renamed.
  write(name, text) {
    writeFileSync(this.at(name + ".new"), text);
    renameSync(this.at(name + ".new"), this.at(name));
    return this.at(name);
  }
}

const count = (server, word) => server.log.split(word).length - 1;
const applied = (server, times) => server.until(async () => count(server, " config_applied "), (seen) => seen >= times, 60_000);

// Streams answers of `models` one after another until it is told to stop.
async function load(server, models, state) {
  for (let i = 0; !state.stop; ++i) {
    const model = models[i % models.length];
    const body = JSON.stringify({ model, messages: [{ role: "user", content: "Tell me a story." }], max_tokens: 12, stream: true,
      chat_template: "{% for m in messages %}{{ m.content }}{% endfor %}" });
    try {
      const answer = await server.fetch("/v1/chat/completions", { method: "POST", body, headers: { "content-type": "application/json" } });
      if (answer.status !== 200) throw new Error(`${answer.status}: ${await answer.text()}`);
      let ended = false, done = false;
      for await (const data of events(answer)) {
        if (data === "[DONE]") done = true;
        else if (JSON.parse(data).error) throw new Error(data);
        else ended ||= Boolean(JSON.parse(data).choices[0]?.finish_reason);
      }
      if (!ended || !done) throw new Error("the stream broke off");
      ++state.fine;
    } catch (error) {
      state.failed.push(`${model}: ${error.message}`);
    }
  }
}

test("twenty reloads under load fail no request", { skip: !haveStories && "no shared data" }, async (t) => {
  const folder = new Folder(t);
  const one = await Server.start(["--model", `inner=${stories}`], { models: [] }), two = await Server.start(["--model", `inner=${stories}`], { models: [] });
  t.after(() => one.stop());
  t.after(() => two.stop());
  copyFileSync(stories, folder.at("a.gguf"));
  copyFileSync(stories, folder.at("b.gguf"));
  const config = ({ model = "a", to = ["one", "two"], further = false, requests = 100_000 }) => {
    folder.write("limits.yaml", `limits:\n  - {scope: user, name: rpm, measure: requests, capacity: ${requests}, period: 1m}\n`);
    return folder.write("ashlar.yaml", `
model: ["tale=${folder.at(model + ".gguf")}"]
limits: ${folder.at("limits.yaml")}
log_level: info
upstreams:
  - {name: one, url: "${one.url}/v1", models: [inner]}
  - {name: two, url: "${two.url}/v1", models: [inner]}
${further ? `  - {name: third, url: "${one.url}/v1", models: [inner]}` : ""}
routes:
  - name: chat
    strategy: weighted
    deployments: [${[...to, ...(further ? ["third"] : [])].map((name) => name + "/inner").join(", ")}]
  - {name: story, deployments: [tale]}
`);
  };
  const front = await Server.start(["--config", config({})], { models: [] });
  t.after(() => front.stop());
  const state = { stop: false, fine: 0, failed: [] };
  t.after(() => { state.stop = true; });
  const clients = Array.from({ length: 6 }, (_, i) => load(front, i % 2 ? ["chat", "story"] : ["story", "chat", "tale", "inner"], state));
  let model = "a";
  for (let i = 1; i <= 20; ++i) {
    if (i % 5 === 0) model = model === "a" ? "b" : "a";
    config({ model, to: [["one", "two"], ["two"], ["one"]][i % 3], further: i % 2 === 1, requests: 100_000 + i });
    await applied(front, i);
    const before = state.fine;
    await front.until(async () => state.fine, (fine) => fine > before + 3, 60_000);
  }
  state.stop = true;
  await Promise.all(clients);
  assert.deepEqual(state.failed, []);
  assert.ok(state.fine > 60, String(state.fine));
  for (const word of ["+upstream third", "-upstream third", "~route chat", "~limits", "~model tale"]) assert.ok(front.log.includes(word), word);
  assert.ok(!front.log.includes("~upstream"), "an unchanged upstream stays what it is");
  // What was replaced has left memory.
  await front.until(() => front.metric("ashlar_engine_models_resident"), (resident) => resident === 1);
});

test("a broken file keeps what holds, and says every line", async (t) => {
  const folder = new Folder(t);
  const front = await Server.start(["--config", folder.write("ashlar.yaml", "routes:\n  - {name: first, deployments: [ashlar-assistant]}\n")], { models: [] });
  t.after(() => front.stop());
  const ask = (model) => front.post("/v1/chat/completions", { model, messages: [{ role: "user", content: "Hi" }], max_tokens: 2 });
  assert.equal((await ask("first")).status, 200);
  folder.write("ashlar.yaml", "log_levl: info\nroutes:\n  - {name: second, deployments: [ashlar-assistant]}\n  - {strategy: weighted}\n");
  await front.until(async () => count(front, " config_refused "), (seen) => seen === 1);
  assert.match(front.log, /ashlar\.yaml:1: no option is called 'log_levl'/);
  assert.match(front.log, /ashlar\.yaml:4: a route needs a 'name'/);
  assert.equal((await ask("first")).status, 200);
  assert.equal((await ask("second")).status, 404);
  // A model that is not there refuses the whole, too.
  folder.write("ashlar.yaml", "model: [missing.gguf]\nroutes:\n  - {name: second, deployments: [missing]}\n");
  await front.until(async () => count(front, " config_refused "), (seen) => seen === 2);
  assert.equal((await ask("first")).status, 200);
  folder.write("ashlar.yaml", "port: 1\nthreads: 1\nroutes:\n  - {name: second, deployments: [ashlar-assistant]}\n  - {name: third, aliases: [nth], deployments: [ashlar-assistant]}\n");
  await applied(front, 1);
  assert.equal((await ask("second")).status, 200);
  assert.equal((await ask("nth")).status, 200);
  assert.equal((await ask("first")).status, 404);
});

test("keys, and SIGHUP for what no file's time tells", async (t) => {
  const folder = new Folder(t);
  folder.write("keys.txt", "sk-first\n");
  const front = await Server.start(["--api-key-file", folder.at("keys.txt"), "--model", "ashlar-assistant"], { models: [] });
  t.after(() => front.stop());
  const status = async (key) => (await fetch(front.url + "/v1/models", { headers: { authorization: `Bearer ${key}` } })).status;
  assert.equal(await status("sk-first"), 200);
  folder.write("keys.txt", "sk-second\n");
  await applied(front, 1);
  assert.equal(await status("sk-second"), 200);
  assert.equal(await status("sk-first"), 401);
  const before = count(front, " config_applied ");
  front.process.kill("SIGHUP");
  await applied(front, before + 1);
  folder.write("keys.txt", "bad key with blanks\n");
  await front.until(async () => count(front, " config_refused "), (seen) => seen >= 1);
  assert.equal(await status("sk-second"), 200);
  assert.equal((await front.stop()).code, 0);
});

test("a version that appears in the repository is served, and the one before comes back", { skip: !haveStories && "no shared data" }, async (t) => {
  const folder = new Folder(t);
  const put = (version, text) => {
    mkdirSync(folder.at(`models/tale/${version}`), { recursive: true });
    if (text) writeFileSync(folder.at(`models/tale/${version}/model.gguf`), text);
    else copyFileSync(stories, folder.at(`models/tale/${version}/model.gguf`));
  };
  put(1);
  const front = await Server.start(["--model-repository", folder.at("models"), "--model-versions", "2"], { models: [] });
  t.after(() => front.stop());
  const names = async () => (await (await front.fetch("/v1/models")).json()).data.map((card) => card.id).sort().join();
  assert.equal(await names(), "tale,tale@1");
  const state = { stop: false, fine: 0, failed: [] };
  t.after(() => { state.stop = true; });
  const client = load(front, ["tale"], state);
  put(2);
  await front.until(names, (now) => now === "tale,tale@1,tale@2", 60_000);
  put(3, "no model at all");
  await front.until(async () => count(front, "model_refused"), (seen) => seen >= 1, 60_000);
  assert.equal(await names(), "tale,tale@1,tale@2");
  rmSync(folder.at("models/tale/2"), { recursive: true });
  await front.until(names, (now) => now === "tale,tale@1", 60_000);
  state.stop = true;
  await client;
  assert.deepEqual(state.failed, []);
});

test("a LiteLLM proxy's file becomes one that reads well", async (t) => {
  const folder = new Folder(t);
  const theirs = folder.write("config.yaml", `
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, rpm: 60}
    model_info: {input_cost_per_token: 0.0000025, output_cost_per_token: 0.00001}
litellm_settings: {drop_params: true}
`);
  const made = await run(binary, ["config", "import-litellm", theirs, "--out", folder.at("ashlar.yaml"), "--json"]);
  assert.equal(made.code, 0, made.err);
  assert.deepEqual(JSON.parse(made.out).map((note) => [note.line, note.key]), [[6, "litellm_settings.drop_params"]]);
  const fine = await run(binary, ["config", "check", folder.at("ashlar.yaml")]);
  assert.equal(fine.code, 0, fine.err);
  const strict = await run(binary, ["config", "import-litellm", theirs, "--strict"]);
  assert.equal(strict.code, 1);
  assert.match(strict.err, /config\.yaml:6: litellm_settings\.drop_params/);
});

// An upstream that answers every conversation with `text`, or with an error where that is null.
async function upstream(t, text) {
  const server = http.createServer((request, response) => {
    request.resume().on("end", () => {
      response.setHeader("content-type", "application/json");
      if (request.url.endsWith("/models")) return response.end(JSON.stringify({ object: "list", data: [{ id: "m", object: "model" }] }));
      if (text === null) return response.writeHead(500).end("{}");
      response.end(JSON.stringify({ id: "x", object: "chat.completion", model: "m", choices: [{ index: 0, finish_reason: "stop",
        message: { role: "assistant", content: text } }], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } }));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}/v1`;
}

test("a deployment that stays the same keeps its breaker; one whose upstream is another starts anew", async (t) => {
  const folder = new Folder(t);
  const [sick, well] = [await upstream(t, null), await upstream(t, "fine")];
  const config = (url, weight) => folder.write("ashlar.yaml", `
upstreams:
  - {name: one, url: "${url}", models: [m], allow_private: true}
  - {name: two, url: "${well}", models: [m], allow_private: true}
routes:
  - {name: chat, strategy: weighted, deployments: [{model: one/m, weight: ${weight}}, two/m]}
`);
  const server = await Server.start(["--config", config(sick, 1), "--api-key", "sk-all"], { models: [] });
  t.after(() => server.stop());
  const ask = () => server.post("/v1/chat/completions", { model: "chat", messages: [{ role: "user", content: "Hello" }], temperature: 1 });
  const first = async () => (await (await server.fetch("/admin/v1/routes")).json()).routes.find((each) => each.name.includes("one/m"));
  const out = async () => { const one = await first(); return one.ejected || one.breaker !== "closed"; };
  await server.until(async () => { await ask(); return out(); }, (is) => is, 60_000);
  config(sick, 3);
  await applied(server, 1);
  assert.ok(await out(), "another weight changes nothing of what is known");
  config(well, 3);
  await applied(server, 2);
  const fresh = await first();
  assert.equal(fresh.breaker, "closed");
  assert.equal(fresh.ejected, false);
  assert.equal((await ask()).status, 200);
});

test("a fault in any of the files keeps all that holds, and says its line", async (t) => {
  const folder = new Folder(t);
  const files = {
    "ashlar.yaml": (route) => `
api_key_file: ${folder.at("keys.txt")}
limits: ${folder.at("limits.yaml")}
identity: ${folder.at("identity.yaml")}
routes:
  - {name: ${route}, deployments: [ashlar-assistant]}
`,
    "keys.txt": () => "sk-first\n",
    "secret.txt": () => "s".repeat(32) + "\n",
    "limits.yaml": () => "limits: [{scope: user, name: rpm, measure: requests, capacity: 100000, period: 1m}]\n",
    "identity.yaml": () => `issuers: [{issuer: own, audience: ashlar, secret_file: ${folder.at("secret.txt")}}]\n`,
  };
  for (const [name, text] of Object.entries(files)) folder.write(name, text("first"));
  const front = await Server.start(["--config", folder.at("ashlar.yaml")], { models: [] });
  t.after(() => front.stop());
  const models = async (key) => {
    const answer = await fetch(front.url + "/v1/models", { headers: { authorization: `Bearer ${key}` } });
    return answer.status === 200 ? (await answer.json()).data.map((each) => each.id) : answer.status;
  };
  const broken = [
    ["identity.yaml", "issuers:\n  - {issuer: own, audiense: ashlar}\n", /identity\.yaml:2: an issuer has no 'audiense'; did you mean 'audience'\?/],
    ["identity.yaml", "policy: [{effect: permit}]\n", /identity\.yaml:1: 'effect' should be one of allow, deny, not 'permit'/],
    ["identity.yaml", "", /identity\.yaml: the file is empty/],
    ["secret.txt", "short\n", /identity\.yaml:1: 'secret_file': a secret for HS256 is at least 32/],
    ["limits.yaml", "limits:\n  - {scope: house, name: rpm}\n", /limits\.yaml:2: 'scope' should be one of/],
    ["limits.yaml", Buffer.from("limits: \xff\n", "latin1"), /limits\.yaml:1: the byte 0xff is no UTF-8/],
    ["keys.txt", "sk-second\nbad key\n\nworse key\n", /keys\.txt:4: an API key is/],
    ["ashlar.yaml", "routes: [{name: second, deployments: [ashlar-assistant]}, {name: second, deployments: [ashlar-assistant]}]\n", /ashlar\.yaml:1: two routes are called 'second'/],
  ];
  for (const [name, text, told] of broken) {
    // What is right beside it, and comes after it, is not applied either.
    folder.write(name, text);
    if (name !== "ashlar.yaml") folder.write("ashlar.yaml", files["ashlar.yaml"]("second"));
    const refused = count(front, " config_refused ");
    front.process.kill("SIGHUP");
    await front.until(async () => count(front, " config_refused "), (seen) => seen > refused);
    await front.until(async () => told.test(front.log), (seen) => seen);
    const listed = await models("sk-first");
    assert.ok(listed.includes("first") && !listed.includes("second"), `${name}: ${listed}`);
    assert.equal(await models("sk-second"), 401);
    for (const [file, whole] of Object.entries(files)) folder.write(file, whole("first"));
    const before = count(front, " config_applied ");
    front.process.kill("SIGHUP");
    await applied(front, before + 1);
  }
  assert.equal((await front.stop()).code, 0);
});
