// A disk that fails: the n-th write, sync or truncation of a file, for every n. What was said to be kept is kept, and nothing is half.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { openSync, readSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";
import { before, test } from "node:test";
import { Server, binary, run } from "./server.mjs";
import { folder } from "./services.mjs";

const shim = `#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>
static long* left;
__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("FAIL_NTH"), O_RDWR | O_CLOEXEC);
  void* at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at != MAP_FAILED) left = at;
}
static int fails(int fd) {
  if (fd <= 2 || !left || __atomic_load_n(left, __ATOMIC_RELAXED) <= 0 || __atomic_fetch_sub(left, 1, __ATOMIC_RELAXED) != 1) return 0;
  errno = EIO;
  return 1;
}
#define REAL(name, type) static type real; if (!real) real = (type)dlsym(RTLD_NEXT, #name)
typedef ssize_t (*Write)(int, const void*, size_t);
typedef ssize_t (*Pwrite)(int, const void*, size_t, off_t);
typedef int (*Sync)(int);
typedef int (*Truncate)(int, off_t);
ssize_t write(int fd, const void* at, size_t n) { REAL(write, Write); return fails(fd) ? -1 : real(fd, at, n); }
ssize_t pwrite(int fd, const void* at, size_t n, off_t to) { REAL(pwrite, Pwrite); return fails(fd) ? -1 : real(fd, at, n, to); }
ssize_t pwrite64(int fd, const void* at, size_t n, off_t to) { REAL(pwrite64, Pwrite); return fails(fd) ? -1 : real(fd, at, n, to); }
int fsync(int fd) { REAL(fsync, Sync); return fails(fd) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync, Sync); return fails(fd) ? -1 : real(fd); }
int ftruncate(int fd, off_t n) { REAL(ftruncate, Truncate); return fails(fd) ? -1 : real(fd, n); }
int ftruncate64(int fd, off_t n) { REAL(ftruncate64, Truncate); return fails(fd) ? -1 : real(fd, n); }
`;
const compiler = ["cc", "gcc", "clang-19", "clang"].find((each) => spawnSync(each, ["--version"]).status === 0);
// {env, fail(n), used()}: with `env` the n-th such operation fails; used() is how many there were since fail(1e9).
async function disk(t) {
  const dir = folder(t), at = path.join(dir, "left"), library = path.join(dir, "shim.so");
  writeFileSync(at, Buffer.alloc(4096));
  writeFileSync(path.join(dir, "shim.c"), shim);
  const made = await run(compiler, ["-shared", "-fPIC", "-O1", "-o", library, path.join(dir, "shim.c"), "-ldl"]);
  assert.equal(made.code, 0, made.err);
  const file = openSync(at, "r+"), number = Buffer.alloc(8);
  return { env: { LD_PRELOAD: library, FAIL_NTH: at },
    fail: (n) => (number.writeBigInt64LE(BigInt(n)), writeSync(file, number, 0, 8, 0)),
    used: () => (readSync(file, number, 0, 8, 0), 1e9 - Number(number.readBigInt64LE())) };
}

test("a command that failed has kept nothing, one that did not has kept it", { skip: !compiler && "no C compiler" }, async (t) => {
  const { env, fail, used } = await disk(t), dir = folder(t);
  const cli = (...args) => {
    const { status, stdout, stderr } = spawnSync(binary, ["key", ...args, "--json", "--data-dir", dir], { env: { ...process.env, ...env } });
    return { code: status, out: stdout.toString(), err: stderr.toString() };
  };
  cli("create", "--name", "first");
  fail(1e9);
  cli("create", "--name", "second");
  const most = used();
  assert.ok(most > 10, `${most} operations`);
  let failed = 0;
  for (let n = 1; n <= most; ++n) {
    fail(n);
    const made = cli("create", "--name", `key-${n}`);
    fail(0);
    const listed = cli("list");
    assert.equal(listed.code, 0, `operation ${n}: ${listed.err}`);
    assert.equal(listed.out.includes(`"key-${n}"`), made.code === 0, `operation ${n}: ${made.code} ${made.err}`);
    failed += made.code === 0 ? 0 : 1;
  }
  assert.ok(failed > 0);
  assert.equal(cli("create", "--name", "last").code, 0);
});

test("a server answers on, and its rows say what clients got, each once", { skip: !compiler && "no C compiler" }, async (t) => {
  const { env, fail } = await disk(t), dir = folder(t), limits = path.join(dir, "limits.yaml");
  writeFileSync(limits, 'prices:\n  - {model: "*", input: 1000, output: 1000}\nlimits:\n  - {scope: global, name: all, kind: budget, dollars: 1000, window: total}\n');
  const server = await Server.start(["--data-dir", dir, "--limits", limits], { env });
  t.after(() => server.stop());
  let received = 0;
  for (let n = 1; n <= 60; ++n) {
    fail(n % 30 + 1);
    const answer = await server.post("/v1/chat/completions", server.chat("Hello", { max_tokens: 3 }));
    assert.ok([200, 503].includes(answer.status), `${n}: ${answer.status} ${JSON.stringify(answer.json)}`);
    if (answer.status === 200) received += answer.json.usage.total_tokens;
  }
  fail(0);
  assert.equal((await server.post("/v1/chat/completions", server.chat("Hello", { max_tokens: 3 })).then((answer) => (received += answer.json.usage.total_tokens, answer))).status, 200);
  const spent = async () => {
    const told = await run(binary, ["usage", "--json", "--by", "tenant", "--data-dir", dir]);
    const sum = told.code === 0 && told.out.trim() !== "" ? JSON.parse(told.out.trim().split("\n")[0]) : { prompt_tokens: 0, completion_tokens: 0 };
    return sum.prompt_tokens + sum.completion_tokens;
  };
  assert.equal(await server.until(spent, (tokens) => tokens >= received, 60_000), received);
});
