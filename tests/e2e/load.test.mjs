// Many at once, for a while.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { Server, events } from "./server.mjs";

const soakSeconds = Number(process.env.E2E_SOAK_SECONDS ?? 20);

let server;
before(async () => {
  // Keys and values take memory as they are first used: so little that all of it is in use long before half time.
  server = await Server.start(["--max-num-seqs", "64", "--kv-cache-memory", "32MiB"]);
});
after(() => server.stop());

async function streamed(request) {
  const answer = await server.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify({ ...request, stream: true }) });
  assert.equal(answer.status, 200);
  let text = "", finish = null, last;
  for await (const data of events(answer)) {
    last = data;
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    assert.ok(!chunk.error, data);
    text += chunk.choices[0]?.delta.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
  }
  assert.equal(last, "[DONE]");
  assert.ok(finish);
  return text;
}

test("200 concurrent streams end well, each with the text it has alone", async () => {
  const prompts = ["Once upon a time", "The dog", "What is Ashlar?", "Tell me a story about a stone"];
  const request = (i) => server.chat(prompts[i % prompts.length], { max_tokens: 24, temperature: 0 });
  const alone = [];
  for (let i = 0; i < prompts.length; ++i) alone.push(await streamed(request(i)));
  const together = await Promise.all(Array.from({ length: 200 }, (_, i) => streamed(request(i))));
  together.forEach((text, i) => assert.equal(text, alone[i % prompts.length]));
  await server.idle();
});

const residentKiB = () => Number(readFileSync(`/proc/${server.process.pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]);

test(`a soak of ${soakSeconds} s of every kind of request leaves nothing behind`, async () => {
  const end = Date.now() + soakSeconds * 1000;
  const counts = {};
  let resident = 0;
  const kinds = {
    whole: async (i) => assert.equal((await server.post("/v1/chat/completions", server.chat(`Number ${i}`, { max_tokens: 5 }))).status, 200),
    stream: (i) => streamed(server.chat(`Say ${i}`, { max_tokens: 9 })),
    completion: async () => assert.equal((await server.post("/v1/completions", { prompt: ["a", "b"], max_tokens: 3, logprobs: 2, echo: true, n: 2 })).status, 200),
    tokens: async () => assert.equal((await server.post("/tokenize", { prompt: "some words" })).status, 200),
    bad: async () => assert.equal((await server.post("/v1/chat/completions", '{"messages":')).status, 400),
    abort: async () => {
      const controller = new AbortController();
      const answer = await server.fetch("/v1/chat/completions", { method: "POST", signal: controller.signal,
        body: JSON.stringify(server.chat("Go on", { stream: true, ignore_eos: true })) });
      await events(answer).next();
      controller.abort();
    },
  };
  const names = Object.keys(kinds);
  await Promise.all(Array.from({ length: 24 }, async (_, worker) => {
    for (let i = worker; Date.now() < end; ++i) {
      const name = names[i % names.length];
      await kinds[name](i);
      counts[name] = (counts[name] ?? 0) + 1;
      if (!resident && Date.now() > end - soakSeconds * 500) resident = residentKiB();
    }
  }));
  await server.idle();
  const grown = residentKiB() - resident;
  console.log(`soak: ${JSON.stringify(counts)}; resident ${residentKiB()} KiB, ${grown} KiB more than at half time`);
  assert.ok(grown < 32 << 10, `memory grew by ${grown} KiB in the second half`);
  assert.equal(await server.metric("ashlar_api_answers_under_way"), 0);
  assert.equal(await server.metric("ashlar_http_requests_total", 'status="500"'), 0);
});
