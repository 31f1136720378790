// Upstreams by name: the name's server cannot be asked, or says something else than before.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { test } from "node:test";
import { Server } from "./server.mjs";
import { folder } from "./services.mjs";

const mayMount = process.getuid() === 0 && spawnSync("unshare", ["-m", "true"]).status === 0;
test("an upstream keeps its address while its name cannot be looked up, and has another once it is not there any more", { skip: !mayMount && "no right to mount" }, async (t) => {
  const dir = folder(t), say = (name, text) => writeFileSync(path.join(dir, name), text);
  const asked = [0, 0], servers = [];
  let port = 0;
  for (const which of [0, 1]) {
    const server = http.createServer((request, response) => {
      request.resume().on("end", () => {
        ++asked[which];
        response.writeHead(200, { "content-type": "application/json", connection: "close" }).end(JSON.stringify({ model: "m", choices: [{ index: 0,
          message: { role: "assistant", content: "x" }, finish_reason: "stop" }], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } }));
      });
    });
    await new Promise((resolve) => server.listen(port, `127.0.0.${which + 1}`, resolve));
    ({ port } = server.address());
    servers.push(server);
  }
  t.after(() => servers.forEach((server) => (server.closeAllConnections(), server.close())));
  say("hosts", "127.0.0.1 up.test\n");
  say("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");  // nobody is there
  say("nsswitch.conf", "hosts: files dns\n");
  say("ashlar.yaml", `upstreams:\n  - {name: up, url: "http://up.test:${port}/v1", models: [m], allow_private: true, health_interval: 0s, load_interval: 0s}\n`);
  const mounts = ["hosts", "resolv.conf", "nsswitch.conf"].map((name) => `mount --bind ${dir}/${name} /etc/${name}`).join(" && ");
  const server = await Server.start(["--config", path.join(dir, "ashlar.yaml")], { models: [],
    limits: `exec unshare -m sh -c 'mount --make-rprivate / && ${mounts} && exec "$0" "$@"' "$0" "$@"` });
  t.after(() => server.stop());
  const ask = async () => (await server.post("/v1/chat/completions", { model: "m", messages: [{ role: "user", content: "x" }] })).status;
  assert.equal(await ask(), 200);
  say("hosts", "\n");
  for (let i = 0; i < 5; ++i) assert.equal(await ask(), 200, "as it was known last");
  assert.deepEqual(asked, [6, 0]);
  say("hosts", "127.0.0.2 up.test\n");
  servers[0].close();
  for (let i = 0; i < 5; ++i) assert.equal(await ask(), 200, "looked up again within the request");
  assert.deepEqual(asked, [6, 5]);
});
