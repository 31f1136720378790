// Libraries of others, as their users configure them, before every kind of upstream: each sees one and the same API.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";
import { kinds, provider } from "./providers.mjs";
import { Server } from "./server.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const names = Object.keys(kinds);
const folder = mkdtempSync(path.join(os.tmpdir(), "ashlar-kinds-"));
const providers = {};
let gateway, client, models;
before(async () => {
  for (const kind of names) providers[kind] = await provider(kind);
  const file = path.join(folder, "ashlar.json");
  writeFileSync(file, JSON.stringify({ upstreams: names.map((kind) => providers[kind].config) }));
  gateway = await Server.start(["--config", file, "--api-key", "ours-alone"], { models: [], env: { PROVIDER_KEY: "theirs-alone" } });
  client = gateway.client({ apiKey: "ours-alone" });
  models = createOpenAICompatible({ name: "ashlar", baseURL: gateway.url + "/v1", apiKey: "ours-alone", includeUsage: true, supportsStructuredOutputs: true });
});
after(async () => {
  await gateway?.stop();
  for (const server of Object.values(providers)) server.close(), server.closeAllConnections();
  rmSync(folder, { recursive: true });
});

// From here on the provider of this kind says `answer`, or what it gives.
function say(kind, answer) {
  const server = providers[kind];
  server.asked.length = 0;
  server.answer = typeof answer === "function" ? answer : () => answer;
  return server;
}
const hello = [{ role: "user", content: "How is the weather?" }];
const calls = [{ id: "call_a", name: "weather", arguments: '{"city":"Bern"}' }, { id: "call_b", name: "clock", arguments: "{}" }];
const looks = { thought: "Hm.", text: ["Let me ", "look."], calls, stop: "tool_calls" };
// Who is asked a first time wants to look; with what was found he answers.
const agent = () => {
  let times = 0;
  return () => (times++ === 0 ? looks : { text: ["It is ", "sunny."] });
};
const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const nothing = { type: "object", properties: {} };
const number = { type: "object", properties: { answer: { type: "number" } }, required: ["answer"], additionalProperties: false };
const byTool = (kind) => kind === "anthropic" || kind === "bedrock";  // these are asked for a schema as a tool's

for (const kind of names) {
  test(`${kind}: a whole answer has the text, the thoughts, the calls and the usage`, async () => {
    const server = say(kind, looks);
    const answer = await client.chat.completions.create({ model: server.model, messages: hello, max_tokens: 50,
      tools: [{ type: "function", function: { name: "weather", parameters: city } }, { type: "function", function: { name: "clock", parameters: nothing } }] });
    const { message, finish_reason } = answer.choices[0];
    assert.equal(answer.model, server.model);
    assert.equal(message.content, "Let me look.");
    assert.equal(message.reasoning_content, "Hm.");
    assert.deepEqual(message.tool_calls.map((call) => [call.type, call.function]),
      calls.map((call) => ["function", { name: call.name, arguments: call.arguments }]));
    if (kind !== "ollama") assert.deepEqual(message.tool_calls.map((call) => call.id), ["call_a", "call_b"]);
    assert.equal(finish_reason, "tool_calls");
    assert.deepEqual([answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens], [21, 8, 29]);
    assert.equal(answer.usage.prompt_tokens_details.cached_tokens, kind === "ollama" ? 0 : 5);
    const shown = JSON.stringify(server.asked[0].headers);
    assert.match(shown, /theirs-alone/);
    assert.doesNotMatch(shown, /ours-alone|stainless/);
  });

  test(`${kind}: openai's helpers put a stream together, run its tools, and go on with what they gave`, async () => {
    const server = say(kind, agent());
    const ran = [];
    const run = (name, parameters) => ({ type: "function", function: { name, parameters, parse: JSON.parse,
      function: (given) => (ran.push([name, given]), "sunny") } });
    const runner = client.chat.completions.runTools({ model: server.model, messages: hello, stream: true, stream_options: { include_usage: true },
      tools: [run("weather", city), run("clock", nothing)] });
    assert.equal(await runner.finalContent(), "It is sunny.");
    assert.deepEqual(ran, [["weather", { city: "Bern" }], ["clock", {}]]);
    assert.deepEqual(runner.messages.map((message) => message.role), ["user", "assistant", "tool", "tool", "assistant"]);
    const usage = await runner.totalUsage();
    assert.equal(usage.total_tokens, 58);
    assert.equal(server.asked.length, 2);
    assert.match(JSON.stringify(server.asked[1].body), /Let me look\..*Bern.*sunny.*sunny/);
  });

  test(`${kind}: an agent of the AI SDK calls the same tools, whole and as a stream`, async () => {
    const tools = { weather: tool({ inputSchema: jsonSchema(city), execute: ({ city }) => ({ city, sky: "blue" }) }),
      clock: tool({ inputSchema: jsonSchema(nothing), execute: () => "noon" }) };
    const server = say(kind, agent());
    const asked = { model: models(server.model), prompt: "How is the weather?", tools, stopWhen: isStepCount(3), maxRetries: 0 };
    const whole = await generateText(asked);
    assert.equal(whole.text, "It is sunny.");
    assert.deepEqual(whole.steps.map((step) => [step.finishReason, step.reasoningText]), [["tool-calls", "Hm."], ["stop", undefined]]);
    assert.deepEqual(whole.steps[0].toolResults.map((result) => result.output), [{ city: "Bern", sky: "blue" }, "noon"]);
    assert.equal(whole.usage.totalTokens, 58);
    say(kind, agent());
    const stream = streamText(asked);
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    assert.equal(text, "Let me look.It is sunny.");
    assert.equal((await stream.usage).totalTokens, 58);
    assert.equal(await stream.finishReason, "stop");
  });

  test(`${kind}: an answer that has a schema is read by both libraries`, async () => {
    const json = '{"answer":42}';
    const server = say(kind, byTool(kind) ? { calls: [{ id: "x", name: "answer", arguments: json }], stop: "tool_calls" } : { text: [json.slice(0, 5), json.slice(5)] });
    const parsed = await client.chat.completions.parse({ model: server.model, messages: hello,
      response_format: { type: "json_schema", json_schema: { name: "number", strict: true, schema: number } } });
    assert.deepEqual(parsed.choices[0].message.parsed, { answer: 42 });
    assert.equal(parsed.choices[0].finish_reason, "stop");
    assert.deepEqual((await generateText({ model: models(server.model), prompt: "?", output: Output.object({ schema: jsonSchema(number) }) })).output, { answer: 42 });
    for (const { body } of server.asked) assert.ok(JSON.stringify(body).includes('"answer":{"type":"number"}'));
  });

  test(`${kind}: a picture arrives`, async () => {
    const server = say(kind, { text: ["A cat."] });
    const { text } = await generateText({ model: models(server.model), maxRetries: 0, messages: [{ role: "user", content: [{ type: "text", text: "What is it?" },
      { type: "file", data: Buffer.from("89504e470d0a1a0a", "hex"), mediaType: "image/png" }] }] });
    assert.equal(text, "A cat.");
    assert.match(JSON.stringify(server.asked[0].body), /iVBORw0KGgo=/);
  });

  test(`${kind}: errors are those of the client's class, and tried again where that helps`, async () => {
    const told = async (status, type, headers) => {
      const server = say(kind, { status, type, headers, message: "no" });
      const error = await gateway.client({ apiKey: "ours-alone", maxRetries: 1 }).chat.completions.create({ model: server.model, messages: hello }).catch((thrown) => thrown);
      return [error.constructor.name, error.status, error.code, server.asked.length];
    };
    assert.deepEqual((await told(400, "invalid_request_error")).slice(0, 2), ["BadRequestError", 400]);
    assert.deepEqual(await told(404, "not_found_error"), ["NotFoundError", 404, "model_not_found", 1]);
    assert.deepEqual((await told(422, "unprocessable")).slice(0, 2), ["UnprocessableEntityError", 422]);
    // Our key there is no business of the client's, who cannot mend it by asking again.
    assert.deepEqual(await told(401, "authentication_error"), ["InternalServerError", 502, "upstream_refuses_us", 1]);
    assert.deepEqual(await told(402, "billing_error"), ["InternalServerError", 503, "upstream_quota", 1]);
    assert.deepEqual(await told(429, "rate_limit_error", { "retry-after": "300" }), ["RateLimitError", 429, "rate_limit_exceeded", 1]);
    // A fault that passes is not seen at all.
    let times = 0;
    const server = say(kind, () => (times++ === 0 ? { status: 503, type: "overloaded_error", message: "busy" } : { text: ["Here."] }));
    const answer = await client.chat.completions.create({ model: server.model, messages: hello });
    assert.equal(answer.choices[0].message.content, "Here.");
    assert.equal(times, 2);
  });

  test(`${kind}: who leaves a stream, or waits no longer, is gone there too`, async () => {
    const leaves = [
      async (stream) => {
        for await (const part of stream) if (part.choices[0]?.delta?.content) break;
      },
      async (stream) => {
        for await (const part of stream) if (part.choices[0]?.delta?.content) stream.controller.abort();
      }];
    for (const leave of leaves) {
      let server;
      const gone = new Promise((hang) => (server = say(kind, { text: ["Once ", "upon"], hang })));
      await leave(await client.chat.completions.create({ model: server.model, messages: hello, stream: true }));
      await gone;
    }
    let server;
    const gone = new Promise((resolve) => (server = say(kind, (body, request, response) => void response.on("close", resolve))));
    await assert.rejects(client.chat.completions.create({ model: server.model, messages: hello }, { timeout: 100 }), OpenAI.APIConnectionTimeoutError);
    await gone;
  });

  test(`${kind}: a stream that is cut is an error to both libraries, not an end`, async () => {
    const server = say(kind, (body, request, response) => ({ text: ["Once ", "upon"], hang() {}, cut: setTimeout(() => response.destroy(), 20) }));
    let text = "";
    const read = async () => {
      for await (const part of await client.chat.completions.create({ model: server.model, messages: hello, stream: true })) text += part.choices[0]?.delta?.content ?? "";
    };
    await assert.rejects(read, (error) => error instanceof OpenAI.APIError && error.code === "upstream_error");
    assert.equal(text, "Once upon");
    const errors = [];
    for await (const part of streamText({ model: models(server.model), prompt: "?", maxRetries: 0, onError: () => {} }).fullStream) if (part.type === "error") errors.push(part.error);
    assert.equal(errors.length, 1);
    assert.match(JSON.stringify(errors[0], Object.getOwnPropertyNames(errors[0])), /upstream_error|midst/);
  });
}

test("vectors come from the kinds that have them, in the form that the client asks for by itself", async () => {
  const vectors = [[0.25, -0.5], [1, 2]];
  const openai = { data: vectors.map((embedding, index) => ({ object: "embedding", index, embedding })), usage: { prompt_tokens: 3, total_tokens: 3 } };
  for (const [kind, json] of [["openai", openai], ["azure", openai], ["ollama", { embeddings: vectors, prompt_eval_count: 3 }]]) {
    const server = say(kind, { json });
    const answer = await client.embeddings.create({ model: server.model, input: ["one", "two"] });
    assert.deepEqual(answer.data.map((each) => each.embedding), vectors);
    assert.equal(answer.usage.prompt_tokens, 3);
    assert.deepEqual(server.asked[0].body.input, ["one", "two"]);
  }
  for (const kind of ["anthropic", "bedrock", "dashscope"])
    await assert.rejects(client.embeddings.create({ model: `${kind}-model`, input: "one" }), (error) => error instanceof OpenAI.BadRequestError && error.code === "unsupported");
});

test("what a kind cannot do is an error, not another answer", async () => {
  const refused = (kind, more) => assert.rejects(client.chat.completions.create({ model: say(kind, { text: ["x"] }).model, messages: hello, ...more }),
    (error) => error instanceof OpenAI.BadRequestError && error.code === "unsupported" && providers[kind].asked.length === 0);
  await refused("anthropic", { n: 2 });
  await refused("bedrock", { logprobs: true });
  await refused("ollama", { tool_choice: "required", tools: [{ type: "function", function: { name: "weather", parameters: city } }] });
  await refused("dashscope", { logit_bias: { 5: 1 } });
});
