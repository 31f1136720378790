// Chats through the official client.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { Server, events } from "./server.mjs";

let server, client;
before(async () => {
  server = await Server.start();
  client = server.client();
});
after(() => server.stop());

test("a chat is answered", async () => {
  const answer = await client.chat.completions.create(server.chat("Hello", { max_tokens: 8 }));
  assert.equal(answer.object, "chat.completion");
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.model, server.model);
  assert.equal(answer.choices.length, 1);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(typeof answer.choices[0].message.content, "string");
  const usage = answer.usage;
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens <= 8);
  assert.equal(typeof usage.prompt_tokens_details.cached_tokens, "number");
  assert.equal(usage.completion_tokens_details.reasoning_tokens, 0);
});

test("the same prompt again comes from the prefix cache", async () => {
  const request = server.chat("A long question that fills more than one block of sixteen tokens: ".repeat(3), { max_tokens: 1 });
  await client.chat.completions.create(request);
  const again = await client.chat.completions.create(request);
  assert.ok(again.usage.prompt_tokens_details.cached_tokens >= 16, JSON.stringify(again.usage));
});

test("a stream gives the role, the text, the end, the usage", async () => {
  const request = server.chat("Tell me something", { max_tokens: 12, temperature: 0, ignore_eos: true });
  const whole = await client.chat.completions.create(request);
  const stream = await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.deepEqual(chunks[0].choices[0].delta, { role: "assistant", content: "" });
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, 12);
  assert.equal(last.usage.prompt_tokens, whole.usage.prompt_tokens);
  for (const chunk of chunks) assert.equal(chunk.usage, null);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  assert.deepEqual(chunks.at(-1).choices[0].delta, {});
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
});

test("a stream ends with [DONE] and carries the headers of one", async () => {
  const answer = await server.fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify(server.chat("Hi", { max_tokens: 3, stream: true })) });
  assert.equal(answer.headers.get("content-type"), "text/event-stream; charset=utf-8");
  assert.equal(answer.headers.get("cache-control"), "no-cache");
  assert.equal(answer.headers.get("x-accel-buffering"), "no");
  const all = await Array.fromAsync(events(answer));
  assert.equal(all.at(-1), "[DONE]");
  for (const data of all.slice(0, -1)) JSON.parse(data);
});

test("the client's own stream helper puts an answer together", async () => {
  const runner = client.chat.completions.stream(server.chat("Hello there", { max_tokens: 6 }));
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.role, "assistant");
  assert.ok(["stop", "length"].includes(final.choices[0].finish_reason));
});

test("n answers are independent choices", async () => {
  const answer = await client.chat.completions.create(server.chat("Hello", { n: 5, max_tokens: 16, temperature: 1.5, seed: 3, ignore_eos: true }));
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2, 3, 4]);
  assert.ok(new Set(answer.choices.map((choice) => choice.message.content)).size > 1);
  assert.equal(answer.usage.completion_tokens, 80);
});

test("a seed repeats itself, temperature 0 too", async () => {
  const say = async (more) => (await client.chat.completions.create(server.chat("Once", { max_tokens: 20, ...more }))).choices[0].message.content;
  assert.equal(await say({ seed: 42, temperature: 1 }), await say({ seed: 42, temperature: 1 }));
  assert.notEqual(await say({ seed: 1, temperature: 2, ignore_eos: true }), await say({ seed: 2, temperature: 2, ignore_eos: true }));
  assert.equal(await say({ temperature: 0 }), await say({ temperature: 0 }));
});

test("a stop string ends the answer before it is shown", async () => {
  const request = server.chat("Tell me of a day", { max_tokens: 60, temperature: 0, ignore_eos: true });
  const free = (await client.chat.completions.create(request)).choices[0].message.content;
  const stop = free.slice(10, 14);
  const cut = (await client.chat.completions.create({ ...request, stop: [stop] })).choices[0];
  assert.equal(cut.message.content, free.slice(0, free.indexOf(stop)));
  assert.equal(cut.finish_reason, "stop");
  assert.equal(cut.stop_reason, stop);
  const shown = (await client.chat.completions.create({ ...request, stop, include_stop_str_in_output: true })).choices[0];
  assert.equal(shown.message.content, free.slice(0, free.indexOf(stop)) + stop);
});

test("logprobs add up and name their bytes", async () => {
  const answer = await client.chat.completions.create(
    server.chat("Hello", { max_tokens: 6, temperature: 0, logprobs: true, top_logprobs: 4, ignore_eos: true }));
  const { content } = answer.choices[0].logprobs;
  assert.equal(content.length, 6);
  for (const token of content) {
    assert.ok(token.logprob <= 0);
    assert.equal(token.top_logprobs.length, 4);
    assert.equal(token.top_logprobs[0].logprob, token.logprob, "greedy takes the likeliest");
    for (let i = 1; i < 4; ++i) assert.ok(token.top_logprobs[i].logprob <= token.top_logprobs[i - 1].logprob);
  }
  const bytes = Buffer.from(content.flatMap((token) => token.bytes));
  assert.equal(bytes.toString("utf8").trimStart(), answer.choices[0].message.content.trimStart());
});

test("system, developer and earlier turns are taken", async () => {
  const messages = [{ role: "developer", content: "Be short." }, { role: "user", content: [{ type: "text", text: "Hi" }, { type: "text", text: "there" }] },
    { role: "assistant", content: "Hello." }, { role: "user", content: "Bye" }];
  const answer = await client.chat.completions.create({ ...server.chat(""), messages, max_tokens: 3 });
  assert.ok(answer.choices[0].finish_reason);
});

test("a client that aborts stops the work", async () => {
  const before = await server.metric("vllm:request_success_total", 'finished_reason="abort"');
  const controller = new AbortController();
  const stream = await client.chat.completions.create(
    server.chat("Go on", { stream: true, n: 16, ignore_eos: true, temperature: 1 }), { signal: controller.signal });
  await assert.rejects(async () => {
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) controller.abort();
    throw new OpenAI.APIUserAbortError();  // the client may end the loop quietly
  }, OpenAI.APIUserAbortError);
  await server.idle();
  assert.equal(await server.metric("vllm:request_success_total", 'finished_reason="abort"'), before + 1);
});

test("a whole answer's client that aborts stops the work too", async () => {
  const before = await server.metric("vllm:request_success_total", 'finished_reason="abort"');
  const controller = new AbortController();
  const asked = client.chat.completions.create(server.chat("Go on", { n: 64, ignore_eos: true }), { signal: controller.signal });
  await server.until(() => server.metric("vllm:num_requests_running"), (running) => running > 0);
  controller.abort();
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  await server.idle();
  assert.equal(await server.metric("vllm:request_success_total", 'finished_reason="abort"'), before + 1);
});
