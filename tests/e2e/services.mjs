// Real services for tests, on free ports of 127.0.0.1, ended with the test: redis-server and postgres; and the network
// between them and whoever uses them.
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

// The way to a port of this machine, which can be cut (nothing passes, nobody is told) or bad: each piece takes so many
// milliseconds, and one in `lost` is sent again later, as a lost packet is.
export async function way(t, to) {
  const it = { cut: false, delay: 0, lost: Infinity };
  const sockets = new Set();
  let pieces = 0;
  const carry = (from, into) => {
    let due = 0;  // in their order
    const queue = [];
    const move = () => {
      while (queue.length > 0 && !it.cut && queue[0].due <= performance.now()) {
        const { piece } = queue.shift();
        piece === null ? into.end() : into.write(piece);
      }
      if (queue.length > 0) setTimeout(move, it.cut ? 5 : Math.max(0, queue[0].due - performance.now()));
    };
    const put = (piece) => {
      due = Math.max(due, performance.now() + it.delay * (++pieces % it.lost === 0 ? 3 : 1));
      queue.push({ piece, due });
      if (queue.length === 1) move();
    };
    from.on("data", put).on("end", () => put(null));
    from.on("close", () => setTimeout(() => it.cut || into.destroy(), it.delay * 4));
  };
  const server = net.createServer({ allowHalfOpen: true }, (near) => {
    const far = net.connect({ port: to, host: "127.0.0.1", allowHalfOpen: true });
    for (const socket of [near, far]) sockets.add(socket.on("error", () => {}).on("close", () => sockets.delete(socket)));
    carry(near, far);
    carry(far, near);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return Object.assign(it, { port: server.address().port });
}
