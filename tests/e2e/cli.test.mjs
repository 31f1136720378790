// The commands, as a person or a script would call them.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, watch, writeFileSync, copyFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { binary, haveStories, stories } from "./server.mjs";

const folder = mkdtempSync(path.join(tmpdir(), "ashlar-cli-"));
after(() => rmSync(folder, { recursive: true }));
const root = path.resolve(import.meta.dirname, "../..");
const assistant = path.join(root, "assets/model/ashlar-assistant.gguf");

function ashlar(args, input = "") {
  const done = spawnSync(binary, args, { input, maxBuffer: 1 << 28 });
  return { status: done.status, out: done.stdout.toString(), err: done.stderr.toString() };
}
function file(name, content) {
  const where = path.join(folder, name);
  writeFileSync(where, content);
  return where;
}

test("help names every command, and each has its own", () => {
  const help = ashlar(["help"]);
  assert.equal(help.status, 0);
  for (const command of ["serve", "run", "pull", "list", "remove", "gc", "show", "tokenize", "detokenize", "render", "perplexity", "quantize", "bench", "load", "usage", "backup", "restore"]) {
    assert.match(help.out, new RegExp(`ashlar ${command} `));
    const own = ashlar([command, "--help"]);
    assert.equal(own.status, 0);
    assert.match(own.out, /Usage:|OPTIONS|Options:/);
  }
  assert.match(ashlar(["version"]).out, /^ashlar \d+\.\d+\.\d+\n$/);
  assert.equal(ashlar([]).status, 2);
});

test("output that the disk does not take is a failure, who reads no more is none", () => {
  const state = mkdtempSync(path.join(folder, "state-"));
  const sh = (command) => spawnSync("sh", ["-c", command, binary], { env: { ...process.env, ASHLAR_DATA_DIR: state } });
  for (const words of ["help", "key list --json", "usage --csv", "config import-litellm " + file("litellm.yaml", "model_list: []\n")]) {
    const full = sh(`"$0" ${words} > /dev/full`);
    assert.equal(full.status, 1, words);
    assert.match(full.stderr.toString(), /not all of the output could be written/);
    assert.equal(sh(`"$0" ${words} > /dev/null`).status, 0, words);
  }
  const left = sh(`{ "$0" help; echo $? >&2; } | true`);
  assert.equal(left.stderr.toString().trim(), "0");
});

test("an import never overwrites what it reads", () => {
  const text = "model_list:\n  - {model_name: a, litellm_params: {model: openai/gpt-4o, rpm: 5}}\n";
  const from = file("proxy.yaml", text);
  const over = ashlar(["config", "import-litellm", from, "--out", path.join(folder, ".", "proxy.yaml")]);
  assert.equal(over.status, 1);
  assert.match(over.err, /is what is read: write somewhere else/);
  const limits = file("other.limits.yaml", text);
  assert.equal(ashlar(["config", "import-litellm", limits, "--out", path.join(folder, "other.yaml")]).status, 1);
  assert.equal(readFileSync(from, "utf8"), text);
  assert.equal(readFileSync(limits, "utf8"), text);
});

test("a wrong command, flag or value is one sentence and exit 2", () => {
  for (const args of [["fly"], ["serve", "--no-such-flag"], ["serve", "--port", "many"], ["show"], ["run", "--top-k", "x"]]) {
    const { status, out, err } = ashlar(args);
    assert.equal(status, 2, args.join(" "));
    assert.equal(out, "");
    assert.match(err, /^ashlar/);
    assert.ok(err.split("\n").length <= 3, err);
  }
});

test("a missing, empty, foreign or truncated model file is one sentence and exit 1", () => {
  const whole = readFileSync(assistant);
  const cut = path.join(folder, "cut.gguf");
  copyFileSync(assistant, cut);
  for (const size of [3, 10, 100, 5000, whole.length >> 1, whole.length - 1]) {
    truncateSync(cut, Math.min(size, whole.length));
    copyFileSync(assistant, cut);
    truncateSync(cut, size);
    for (const command of [["show", cut], ["run", cut, "hello"]]) {
      const { status, err } = ashlar(command);
      assert.equal(status, 1, `${size} bytes: ${err}`);
      assert.match(err, /cut\.gguf/);
      assert.equal(err.trim().split("\n").length, 1, err);
    }
  }
  for (const bad of ["/nonexistent/model.gguf", folder, file("empty.gguf", ""), file("text.gguf", "hello there\n".repeat(100))]) {
    const { status, err } = ashlar(["show", bad]);
    assert.equal(status, 1);
    assert.equal(err.trim().split("\n").length, 1, err);
  }
});

test("show tells a person and a script what is in a file", () => {
  const { out } = ashlar(["show", assistant]);
  assert.match(out, /architecture +llama/);
  assert.match(out, /context +\d+ tokens/);
  const json = JSON.parse(ashlar(["show", assistant, "--json", "--context", "1024"]).out);
  assert.equal(json.architecture, "llama");
  assert.equal(json.memory[0].kv_bytes, 1024 * 2 * 2 * json.layers * json.kv_heads * json.head_dim);
  assert.match(ashlar(["show", assistant, "--template"]).out, /messages/);
});

test("tokenize and detokenize are each other's inverse", () => {
  for (const text of ["Hello, world!", "tabs\tand\nlines\n", "héllo 漢字 😀", "  spaces   kept  ", ""]) {
    const ids = ashlar(["tokenize", assistant, "--no-special"], text);
    assert.equal(ids.status, 0);
    assert.match(ids.out, /^(\d+( \d+)*)?\n$/);
    assert.equal(ashlar(["detokenize", assistant], ids.out).out, text);
  }
  assert.match(ashlar(["detokenize", assistant], "1 two").err, /byte 2: expected a token id/);
  assert.match(ashlar(["detokenize", assistant], "99999999").err, /no token/);
});

test("render gives the template's text and nothing else", () => {
  const template = file("t.jinja", "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{{ strftime_now('%Y-%m-%d %H:%M') }}");
  const context = file("c.json", JSON.stringify({ messages: [{ role: "user", content: "Hi" }] }));
  const { status, out } = ashlar(["render", template, context, "--now", "2026-07-04T12:30"]);
  assert.equal(status, 0);
  assert.equal(out, "[user] Hi\n2026-07-04 12:30");
  assert.match(ashlar(["render", assistant, context]).out, /Hi/);
  const refuses = ashlar(["render", file("r.jinja", "{{ raise_exception('Only user turns') }}"), context]);
  assert.equal(refuses.status, 1);
  assert.equal(refuses.out, "");
  assert.match(refuses.err, /Only user turns/);
  assert.equal(refuses.err.trim().split("\n").length, 1);
  assert.equal(ashlar(["render", template, file("bad.json", "{")]).status, 1);
});

test("run answers a prompt or a pipe, the answer alone on stdout, the same each time", () => {
  const asked = ashlar(["run", "--temperature", "0", "What is Ashlar?"]);
  assert.equal(asked.status, 0, asked.err);
  assert.match(asked.out, /Ashlar/);
  assert.equal(asked.err, "");
  assert.equal(ashlar(["run", "--temperature", "0"], "What is Ashlar?\n").out, asked.out);
  assert.equal(ashlar(["run", assistant, "What is Ashlar?", "--temperature", "0"]).out, asked.out);
  const seeded = ["run", "--temperature", "1", "--seed", "7", "--max-tokens", "20", "Tell me something"];
  assert.equal(ashlar(seeded).out, ashlar(seeded).out);
  assert.equal(ashlar(["run"], "").status, 1);
});

test("run --raw continues a text as published", { skip: !haveStories && "no shared data" }, () => {
  const { out } = ashlar(["run", stories, "Once upon a time", "--raw", "--temperature", "0", "--max-tokens", "60"]);
  assert.ok(out.includes("there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."), out);
});

test("perplexity scores the second half of each window", () => {
  const text = file("text.txt", "Ashlar is one program that serves large language models. ".repeat(60));
  const { status, out, err } = ashlar(["perplexity", assistant, text, "--context", "64", "--json"]);
  assert.equal(status, 0, err);
  const json = JSON.parse(out);
  assert.equal(json.tokens % 31, 0);
  assert.ok(json.perplexity > 1 && json.perplexity < 1000, out);
  assert.match(ashlar(["perplexity", assistant, file("short.txt", "Hi")]).err, /fewer than one window/);
});

test("perplexity --base tells how far off another model's probabilities are", () => {
  const text = file("base.txt", "Ashlar is one program that serves large language models. ".repeat(60));
  const smaller = path.join(folder, "compared.gguf");
  assert.equal(ashlar(["quantize", assistant, smaller, "--type", "Q3_K_S", "--allow-requantize"]).status, 0);
  const beside = (model) => {
    const { status, out, err } = ashlar(["perplexity", model, text, "--context", "64", "--base", assistant, "--json"]);
    assert.equal(status, 0, err);
    return JSON.parse(out);
  };
  const same = beside(assistant), other = beside(smaller);
  assert.ok(Math.abs(same.divergence) < 1e-9 && same.same_top === 1 && same.base_perplexity === same.perplexity);
  assert.equal(other.base_perplexity, same.perplexity);
  assert.ok(other.divergence > 1e-4 && other.divergence < 5 && other.same_top < 1 && other.same_top > 0.3);
  if (!haveStories) return;
  const foreign = ashlar(["perplexity", assistant, text, "--base", stories]);
  assert.equal(foreign.status, 1);
  assert.match(foreign.err, /so they cannot be compared/);
});

test("bench measures a file and a shape", () => {
  const bench = (...words) => JSON.parse(ashlar(["bench", assistant, "--repeat", "1", "--json", ...words]).out);
  const both = bench("--prompt", "32", "--generate", "8", "--batch", "1,2", "--depth", "0,20");
  assert.deepEqual(both.tests.map((t) => [t.name, t.batch, t.depth]), [["pp32", 1, 0], ["tg8", 1, 0], ["pp32", 1, 20], ["tg8", 1, 20],
    ["pp32+tg8", 2, 0], ["pp32+tg8", 2, 20]]);
  for (const { tokens_per_second: rate, share, limit, disturbed_runs } of [...both.tests, both.tests[4].prefill, both.tests[4].decode]) {
    assert.ok(rate.min > 0 && rate.min <= rate.median && rate.median <= rate.max);
    assert.ok(limit > 0 && Math.abs(share - rate.median / limit) < 1e-6);
    assert.ok(disturbed_runs === undefined || disturbed_runs >= 0);
  }
  const [shared] = bench("--shared-prefix", "40", "--generate", "4", "--batch", "3", "--profile").tests;
  assert.deepEqual([shared.name, shared.prefill.name, shared.decode.name], ["shared40+tg4", "shared40", "tg4"]);
  const { operations, passes } = shared.profile.decode;
  assert.equal(passes, 4);
  assert.equal(operations.down.layers.length, operations.qkv.calls / passes);
  assert.ok(Object.values(operations).reduce((sum, { share }) => sum + share, 0) < 1.0001);
  assert.match(ashlar(["bench", assistant, "--shared-prefix", "40", "--depth", "8"]).err, /either/);
  assert.match(ashlar(["bench", "--shape", "no-such"]).err, /llama-3\.2-1b/);
});

test("quantize writes a model that runs, and says what became of each tensor", () => {
  const out = path.join(folder, "small.gguf");
  const asked = ["quantize", assistant, out, "--type", "q5_k_m", "--allow-requantize", "--json"];
  const { status, out: json, err } = ashlar(asked);
  assert.equal(status, 0, err);
  assert.equal(err, "");
  const told = JSON.parse(json);
  assert.equal(told.bytes, readFileSync(out).length);
  assert.ok(told.bytes < told.bytes_before && told.bits_per_weight < 7);
  const shown = ashlar(["show", out, "--tensors"]).out;
  for (const { name, type } of told.tensors) assert.match(shown, new RegExp(`${name.replaceAll(".", "\\.")} +${type} `));
  assert.equal(JSON.parse(ashlar(["show", out, "--json"]).out).file_type, "Q5_K_M");
  assert.equal(ashlar(["show", out, "--template"]).out, ashlar(["show", assistant, "--template"]).out);
  assert.match(ashlar(["run", out, "What is Ashlar?", "--temperature", "0"]).out, /Ashlar/);
  const before = readFileSync(out);
  const again = ashlar(asked);
  assert.equal(again.status, 1);
  assert.match(again.err, /is there already.*--force/);
  assert.ok(before.equals(readFileSync(out)));
  const forced = ashlar([...asked.slice(0, -1), "--threads", "1", "--force"]);
  assert.equal(forced.status, 0, forced.err);
  assert.match(forced.out, /Q5_K_M, .* bits per weight/);
  assert.ok(before.equals(readFileSync(out)), "threads do not change the bytes");
});

test("quantize --report measures each version and draws it", () => {
  const place = mkdtempSync(path.join(folder, "report-"));
  const picture = path.join(place, "report.svg");
  const asked = ["quantize", assistant, picture, "--report", "--types", "Q4_0", "--text", path.join(root, "assets/model/data/heldout.txt"),
    "--window", "64", "--windows", "4"];
  const { status, out, err } = ashlar([...asked, "--json"]);
  assert.equal(status, 0, err);
  const told = JSON.parse(out);
  assert.deepEqual(told.rows.map((row) => row.method), [null, "rtn"]);
  assert.ok(told.rows[1].bytes < told.rows[0].bytes && told.rows[1].tokens_per_second > 0);
  assert.match(told.advice, /awq/);
  assert.match(readFileSync(picture, "utf8"), /^<svg [^]*rtn Q4_0[^]*<\/svg>\n$/);
  assert.deepEqual(readdirSync(place), ["report.svg"]);
  assert.match(ashlar(asked).err, /is there already.*--force/);
});

test("quantize refuses in one sentence and leaves nothing behind", () => {
  const place = mkdtempSync(path.join(folder, "refused-"));
  const out = path.join(place, "out.gguf");
  const cut = path.join(folder, "half.gguf");
  copyFileSync(assistant, cut);
  truncateSync(cut, readFileSync(assistant).length >> 1);
  for (const [args, code, said] of [
    [[assistant, out, "--type", "Q4_0"], 1, /Q8_0 already.*--allow-requantize/],
    [[assistant, out, "--type", "Q9"], 2, /no type is called 'Q9'; known are F32,/],
    [[assistant, out], 2, /--type/],
    [[cut, out, "--type", "Q8_0"], 1, /half\.gguf/],
    [[path.join(folder, "none.gguf"), out, "--type", "Q8_0"], 1, /none\.gguf/],
    [[assistant, place, "--type", "Q8_0", "--force"], 1, /is a folder/],
    [[assistant, path.join(place, "no", "out.gguf"), "--type", "Q8_0"], 1, /cannot be written/],
  ]) {
    const { status, out: printed, err } = ashlar(["quantize", ...args]);
    assert.equal(status, code, err);
    assert.equal(printed, "");
    assert.match(err, said);
    assert.ok(err.trim().split("\n").length <= code, err);
  }
  // The disk is full.
  const limited = spawnSync("sh", ["-c", 'ulimit -f 100; exec "$0" "$@"', binary, "quantize", assistant, out, "--type", "Q8_0"]);
  assert.equal(limited.status, 1, limited.stderr.toString());
  assert.match(limited.stderr.toString(), /cannot be written: File too large/);
  assert.deepEqual(readdirSync(place), []);
});

test("quantize that is interrupted leaves the whole file or none", async () => {
  for (const signal of ["SIGINT", "SIGTERM"]) {
    const place = mkdtempSync(path.join(folder, "interrupted-"));
    const out = path.join(place, "out.gguf");
    const running = spawn(binary, ["quantize", assistant, out, "--type", "Q2_K", "--allow-requantize", "--threads", "1"]);
    const watcher = watch(place, () => running.kill(signal));
    const status = await new Promise((done) => running.on("close", done));
    watcher.close();
    assert.ok(status === 0 || status === 130, `${status}`);
    assert.deepEqual(readdirSync(place), status === 0 ? ["out.gguf"] : []);
  }
});
