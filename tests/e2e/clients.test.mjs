// Libraries of others, as their users configure them, before our own model: here, and behind a second Ashlar.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";
import { Server, binary, run } from "./server.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const folder = mkdtempSync(path.join(os.tmpdir(), "ashlar-clients-"));
const served = "team/chat:latest";  // the model's name at the second
let back, front, both;
before(async () => {
  back = await Server.start();
  const file = path.join(folder, "ashlar.json");
  writeFileSync(file, JSON.stringify({ upstreams: [{ name: "back", url: back.url + "/v1", models: [{ name: served, model: back.model }] }] }));
  front = await Server.start(["--config", file], { models: [] });
  both = [back, front];
});
after(async () => {
  await front?.stop();
  await back?.stop();
  rmSync(folder, { recursive: true });
});
const compatible = (server, more = {}) => createOpenAICompatible({ name: "ashlar", baseURL: server.url + "/v1", apiKey: "none", includeUsage: true,
  supportsStructuredOutputs: true, ...more });
// Counts what a client sends.
function counting() {
  const count = { sent: 0, fetch: (...given) => (++count.sent, fetch(...given)) };
  return count;
}
// The embedded model has a template; another, named by the environment, may not.
const asked = (server, more = {}) => server.chat("What is an ashlar?", { temperature: 0, max_tokens: 12, ...more });

test("models are listed, iterated and found by name, a slash in it or not", async () => {
  for (const server of both) {
    const ids = [];
    for await (const model of server.client().models.list()) ids.push(model.id);
    assert.deepEqual(ids, [server.model]);
    assert.equal((await server.client().models.retrieve(server.model)).id, server.model);
    await assert.rejects(server.client().models.retrieve("none/such"), OpenAI.NotFoundError);
  }
  assert.equal(front.model, served);
});

test("both libraries get the same answer, whole and streamed, here and there", async () => {
  const answers = [];
  for (const server of both) {
    const whole = await server.client().chat.completions.create(asked(server));
    const helper = server.client().chat.completions.stream({ ...asked(server), stream_options: { include_usage: true } });
    const put = await helper.finalChatCompletion();
    for (const { choices, usage } of [whole, put]) answers.push([choices[0].message.content, choices[0].finish_reason, usage.prompt_tokens, usage.completion_tokens]);
    if (back.chatExtras.chat_template) continue;
    const given = { model: compatible(server)(server.model), prompt: "What is an ashlar?", temperature: 0, maxOutputTokens: 12 };
    const generated = await generateText(given), stream = streamText(given);
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    assert.equal(text, generated.text);
    for (const [reason, usage] of [[generated.finishReason, generated.usage], [await stream.finishReason, await stream.usage]])
      answers.push([text, reason, usage.inputTokens, usage.outputTokens]);
  }
  assert.ok(answers[0][0].length > 0);
  for (const answer of answers) assert.deepEqual(answer, answers[0]);
});

test("an answer's headers and the request's id are the client's to see", async () => {
  for (const server of both) {
    const client = server.client({ defaultHeaders: { "X-Request-Id": "trace-7" } });
    for (const stream of [false, true]) {
      const { data, response, request_id } = await client.chat.completions.create(asked(server, { stream })).withResponse();
      if (stream) for await (const part of data) assert.ok(part.id);
      else assert.equal(data._request_id, "trace-7");
      assert.equal(request_id, "trace-7");
      assert.ok(Number(response.headers.get("x-ashlar-overhead-ms")) >= 0);
    }
    const fault = await client.chat.completions.create({ ...asked(server), model: "none" }).catch((error) => error);
    assert.equal(fault.requestID, "trace-7");
  }
});

test("the older completions stream, several at once, with their usage", async () => {
  for (const server of both) {
    const given = { model: server.model, prompt: ["Once upon", "A stone"], n: 2, max_tokens: 6, temperature: 0 };
    const whole = await server.client().completions.create(given);
    const texts = ["", "", "", ""];
    let usage;
    for await (const part of await server.client().completions.create({ ...given, stream: true, stream_options: { include_usage: true } })) {
      for (const choice of part.choices) texts[choice.index] += choice.text;
      usage = part.usage ?? usage;
    }
    assert.deepEqual(whole.choices.map((choice) => choice.text), texts);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  }
});

test("vectors are the same as Base64, as numbers, and through the gateway", async () => {
  const input = ["A stone that is cut true.", "石頭"];
  const seen = [];
  for (const server of both) {
    const client = server.client();
    seen.push((await client.embeddings.create({ model: server.model, input })).data.map((each) => each.embedding));
    seen.push((await client.embeddings.create({ model: server.model, input, encoding_format: "float" })).data.map((each) => each.embedding));
    seen.push((await embedMany({ model: compatible(server).embeddingModel(server.model), values: input })).embeddings);
  }
  for (const vectors of seen)
    for (const [i, vector] of vectors.entries()) {
      assert.equal(vector.length, seen[0][i].length);
      for (const [k, value] of vector.entries()) assert.ok(Math.abs(value - seen[0][i][k]) < 1e-6);
    }
});

test("what clients send beside the request is no fault; tools that nobody must call are none", async () => {
  for (const server of both) {
    const answer = await server.client({ organization: "org", project: "proj" }).chat.completions.create({ ...asked(server), store: false, metadata: { a: "b" },
      user: "u", safety_identifier: "u", service_tier: "auto", prompt_cache_key: "k", verbosity: "low", top_p: 0, modalities: ["text"], parallel_tool_calls: true });
    assert.equal(answer.choices[0].message.role, "assistant");
    if (back.chatExtras.chat_template) continue;
    const { text } = await generateText({ model: compatible(server)(server.model), prompt: "Hello", maxOutputTokens: 4,
      tools: { look: tool({ inputSchema: jsonSchema({ type: "object" }), execute: () => "x" }) } });
    assert.equal(typeof text, "string");
  }
});

test("what is not served says so once, and no client tries again", async () => {
  for (const server of both) {
    const count = counting();
    const client = server.client({ maxRetries: 2, fetch: count.fetch });
    const refused = (call, type, code) => assert.rejects(call, (error) => error instanceof type && error.code === code);
    await refused(client.responses.create({ model: server.model, input: "x" }), OpenAI.NotFoundError, "unknown_url");
    await refused(client.moderations.create({ input: "x" }), OpenAI.NotFoundError, "unknown_url");
    await refused(client.chat.completions.create({ ...asked(server), model: "none" }), OpenAI.NotFoundError, "model_not_found");
    await refused(client.chat.completions.create(asked(server, { response_format: { type: "json_object" } })), OpenAI.BadRequestError, "unsupported");
    await refused(client.chat.completions.create(server.chat("word ".repeat(20_000))), OpenAI.BadRequestError, "context_length_exceeded");
    assert.equal(count.sent, 5);
    const output = Output.object({ schema: jsonSchema({ type: "object" }) });
    await assert.rejects(generateText({ model: compatible(server, { fetch: count.fetch })(server.model), prompt: "x", output }),
      (error) => APICallError.isInstance(error) && error.statusCode === 400 && !error.isRetryable);
    assert.equal(count.sent, 6);
  }
});

test("a limit of rates is waited for as told; a longer wait, a spent budget and a wrong key are told once", async (t) => {
  const file = path.join(folder, "limits.yaml");
  writeFileSync(file, `prices:
  - {model: "*", input: 1, output: 1}
limits:
  - {scope: tag, who: pace=second, name: second, kind: token_bucket, measure: requests, capacity: 1, period: 1s}
  - {scope: tag, who: pace=hour, name: hour, kind: sliding_window, measure: requests, capacity: 1, period: 1h}
  - {scope: tag, who: pace=poor, name: poor, kind: budget, dollars: 0.000001, window: day}
`);
  const data = path.join(folder, "limited");
  const keys = {};
  for (const pace of ["second", "hour", "poor"]) {
    const made = await run(binary, ["key", "create", "--data-dir", data, "--name", pace, "--tag", `pace=${pace}`, "--json"]);
    assert.equal(made.code, 0, made.err);
    keys[pace] = JSON.parse(made.out).key;
  }
  const server = await Server.start(["--data-dir", data, "--limits", file], { look: false });
  t.after(() => server.stop());
  const client = (apiKey) => {
    const count = counting();
    return [server.client({ apiKey, maxRetries: 2, fetch: count.fetch }), count];
  };
  const ask = back.chat("Hello", { max_tokens: 2 });

  const [paced, count] = client(keys.second);
  let answered = 0;
  for (; answered < 20 && count.sent === answered; ++answered) {  // a machine that stood still gave time to pass
    const { response } = await paced.chat.completions.create(ask).withResponse();
    assert.equal(response.headers.get("x-ratelimit-remaining-requests"), "0");
  }
  assert.ok(count.sent > answered);

  const [slow, slowly] = client(keys.hour);
  await slow.chat.completions.create(ask);
  await assert.rejects(slow.chat.completions.create(ask), (error) => error instanceof OpenAI.RateLimitError && error.code === "rate_limit_exceeded" &&
    Number(error.headers.get("retry-after")) > 60);
  assert.equal(slowly.sent, 2);

  for (const stream of [false, true]) {
    const [poor, poorly] = client(keys.poor);
    await assert.rejects(poor.chat.completions.create({ ...ask, stream }), (error) => error instanceof OpenAI.RateLimitError &&
      error.code === "insufficient_quota" && error.type === "insufficient_quota");
    assert.equal(poorly.sent, 1);
  }

  const [stranger, strangely] = client("ak-nobody");
  await assert.rejects(stranger.models.list(), (error) => error instanceof OpenAI.AuthenticationError && error.code === "invalid_api_key");
  assert.equal(strangely.sent, 1);
});

test("who waits no longer, aborts, or leaves the loop, ends the work behind the gateway", async () => {
  const endless = asked(front, { n: 16, max_tokens: undefined, ignore_eos: true, temperature: 1 });
  await assert.rejects(front.client().chat.completions.create(endless, { timeout: 50 }), OpenAI.APIConnectionTimeoutError);
  await back.idle();
  for await (const part of await front.client().chat.completions.create({ ...endless, stream: true })) if (part.choices[0]?.delta?.content) break;
  await back.idle();
  const stream = await front.client().chat.completions.create({ ...endless, stream: true });
  for await (const part of stream) if (part.choices[0]?.delta?.content) stream.controller.abort();
  await back.idle();
  const leave = new AbortController();
  const generated = streamText({ model: compatible(front)(front.model), prompt: "Go on", maxRetries: 0, abortSignal: leave.signal, onError: () => {} });
  for await (const part of generated.fullStream) if (part.type === "text-delta") leave.abort();
  await back.idle();
});
