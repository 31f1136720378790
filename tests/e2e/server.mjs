// Starts the real binary and talks to it.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
export const binary = process.env.ASHLAR_BIN ?? path.join(root, "build/release/ashlar");
// A 260,000-parameter model whose greedy text is published; beside the checkout, where it is there at all.
export const stories = path.join(root, "../shared/data/models/stories260K/stories260K-f32.gguf");
export const haveStories = existsSync(stories);
// With ASHLAR_E2E_MODEL=NAME=PATH another model than the embedded one.
const model = process.env.ASHLAR_E2E_MODEL;

const emptyState = mkdtempSync(path.join(os.tmpdir(), "ashlar-state-"));
process.on("exit", () => rmSync(emptyState, { recursive: true, force: true }));

export class Server {
  log = "";
  exit = null;  // a promise of {code, signal}

  // Resolves when the server listens; with `look` it is asked what it serves.
  // `env`: more of it; `limits`: a shell's command before, "ulimit -n 100".
  static async start(args = [], { models = model ? ["--model", model] : [], env = {}, limits = "", look = true } = {}) {
    const server = new Server();
    Object.assign(server, { env, limits });
    // One thread computes: these models gain nothing from more, and the tests leave the machine to others.
    server.args = ["serve", "--port", "0", "--threads", "1", ...models, ...args];
    await server.#spawn();
    if (!look) return server;
    const listed = await (await server.fetch("/v1/models")).json();
    server.model = listed.data?.[0].id;
    // A model without a chat template gets one with each request.
    if (listed.data && !listed.data[0].meta.has_chat_template)
      server.chatExtras = { chat_template: "{% for m in messages %}{{ m.content }}{% endfor %}" };
    return server;
  }
  chatExtras = {};

  async #spawn() {
    // A state of its own, unless one is named: keys of whoever runs the tests must not close these servers.
    const env = { ...process.env, ASHLAR_DATA_DIR: emptyState, ...this.env };
    const [command, args] = this.limits ? ["sh", ["-c", `${this.limits}; exec "$0" "$@"`, binary, ...this.args]] : [binary, this.args];
    this.process = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env });
    this.exit = new Promise((resolve) => {
      this.process.on("exit", (code, signal) => resolve({ code, signal }));
      this.process.on("error", (error) => resolve({ error: String(error) }));
    });
    this.url = await new Promise((resolve, reject) => {
      const hear = (data) => {
        this.log += data;
        const found = this.log.match(/listening on (https?:\/\/\S+)/);
        if (found) resolve(found[1]);
      };
      this.process.stdout.on("data", hear);
      this.process.stderr.on("data", hear);
      this.exit.then((status) => reject(new Error(`the server ended (${JSON.stringify(status)}):\n${this.log}`)));
    });
    this.port = Number(new URL(this.url).port);
  }

  fetch(where, options = {}) {
    const key = this.args[this.args.indexOf("--api-key") + 1];
    const headers = this.args.includes("--api-key") ? { authorization: `Bearer ${key}` } : {};
    return fetch(this.url + where, { ...options, headers: { ...headers, ...options.headers } });
  }
  // Posts JSON (or text as it is) and gives {status, headers, json}.
  async post(where, body, options = {}) {
    const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body);
    const answer = await this.fetch(where, { method: "POST", body: text, ...options,
      headers: { "content-type": "application/json", ...options.headers } });
    return { status: answer.status, headers: answer.headers, json: await answer.json() };
  }
  client(options = {}) {
    return new OpenAI({ baseURL: this.url + "/v1", apiKey: "none", maxRetries: 0, timeout: 120_000, ...options });
  }
  // A conversation of one message, for /v1/chat/completions.
  chat(text, more = {}) {
    return { model: this.model, messages: [{ role: "user", content: text }], ...this.chatExtras, ...more };
  }

  // The sum of a metric's samples whose labels contain `labels`.
  async metric(name, labels = "") {
    let sum = 0;
    for (const line of (await (await this.fetch("/metrics")).text()).split("\n"))
      if ((line.startsWith(name + " ") || line.startsWith(name + "{")) && line.includes(labels)) sum += Number(line.slice(line.lastIndexOf(" ") + 1));
    return sum;
  }
  // Asks until `right` holds: for what the server does a moment after it answered.
  async until(what, right, limit = 20_000) {
    const end = Date.now() + limit;
    for (;;) {
      const value = await what();
      if (right(value)) return value;
      if (Date.now() > end) throw new Error(`waited ${limit} ms in vain; last: ${value}`);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  idle() {
    return this.until(() => this.metric("vllm:num_requests_running"), (running) => running === 0);
  }

  async stop() {
    this.process.kill("SIGTERM");
    return this.exit;
  }
  async kill() {
    this.process.kill("SIGKILL");
    return this.exit;
  }
}

// The data of a stream's events, comments left out.
export async function* events(answer) {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const piece of answer.body) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

// Runs a program to its end.
export function run(command, args, input = "") {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
    let out = "", err = "";
    child.stdout.on("data", (data) => (out += data));
    child.stderr.on("data", (data) => (err += data));
    child.on("error", (error) => resolve({ code: -1, out, err: String(error) }));
    child.on("close", (code) => resolve({ code, out, err }));
    child.stdin.on("error", () => {});  // it may end without reading
    child.stdin.end(input);
  });
}
