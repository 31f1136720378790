// Real services for tests, on free ports of 127.0.0.1, ended with the test: redis-server and postgres.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";

export function folder(t, name = "faults") {
  const made = mkdtempSync(path.join(os.tmpdir(), `ashlar-${name}-`));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}
export const freePort = () => new Promise((resolve) => {
  const server = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function reached(port) {
  for (const end = Date.now() + 30_000; ;) {
    const there = await new Promise((resolve) => {
      const socket = net.connect(port, "127.0.0.1", () => resolve(true)).on("error", () => resolve(false)).on("connect", () => socket.destroy());
    });
    if (there) return;
    if (Date.now() > end) throw new Error(`nothing listens on ${port}`);
    await pause(20);
  }
}

// What a process is started by, again on the same port after kill().
class Service {
  constructor(t, command, args, options = {}) {
    Object.assign(this, { command, args, options });
    t.after(() => this.kill());
  }
  async start() {
    this.process = spawn(this.command, this.args, { stdio: "ignore", ...this.options });
    this.ended = new Promise((resolve) => this.process.on("exit", resolve).on("error", resolve));
    await reached(this.port);
    return this;
  }
  // Its processes: postgres has one for each connection.
  #all() {
    const found = [this.process.pid];
    for (const pid of spawnSync("pgrep", ["-P", String(this.process.pid)]).stdout.toString().split("\n").filter(Boolean)) found.push(Number(pid));
    return found;
  }
  signal(name) {
    for (const pid of this.#all()) try { process.kill(pid, name); } catch {}
  }
  async kill() {
    if (this.process?.exitCode === null && this.process.signalCode === null) this.signal("SIGKILL");
    await this.ended;
  }
}

export const haveRedis = spawnSync("redis-server", ["--version"]).status === 0;
export async function redis(t) {
  const port = await freePort();
  const service = new Service(t, "redis-server", ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], { cwd: folder(t, "redis") });
  return Object.assign(service, { port, url: `redis://127.0.0.1:${port}` }).start();
}

const versions = existsSync("/usr/lib/postgresql") ? readdirSync("/usr/lib/postgresql").sort() : [];
const bin = versions.length > 0 ? `/usr/lib/postgresql/${versions.at(-1)}/bin` : "";
export const havePostgres = bin !== "" && existsSync(path.join(bin, "initdb"));
// It does not run as root, and so its files belong to somebody else then.
export async function postgres(t) {
  const dir = folder(t, "pg"), data = path.join(dir, "data"), port = await freePort();
  const user = {};
  if (process.getuid() === 0) {
    const name = spawnSync("id", ["-u", "postgres"]).status === 0 ? "postgres" : "nobody";
    const id = (flag) => Number(execFileSync("id", [flag, name]).toString());
    Object.assign(user, { uid: id("-u"), gid: id("-g") });
    chownSync(dir, user.uid, user.gid);
  }
  execFileSync(path.join(bin, "initdb"), ["-D", data, "-A", "trust", "-U", "ashlar", "-N"], { ...user, cwd: dir, stdio: "ignore" });
  const service = new Service(t, path.join(bin, "postgres"), ["-D", data, "-k", dir, "-c", "listen_addresses=127.0.0.1", "-p", String(port), "-c", "fsync=off",
    "-c", "shared_buffers=16MB"], { ...user, cwd: dir });
  await Object.assign(service, { port, url: `postgres://ashlar@127.0.0.1:${port}/postgres` }).start();
  while (spawnSync(path.join(bin, "pg_isready"), ["-q", "-h", "127.0.0.1", "-p", String(port)]).status !== 0) await pause(20);
  return service;
}
