// Guessing ahead: the same answers, told by the usage and the metrics.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server, events } from "./server.mjs";

const lines = Array.from({ length: 12 }, (_, i) => `  total += prices[${i % 4}] * amounts[${i % 4}];`).join("\n");

let server, client;
before(async () => {
  server = await Server.start(["--draft-model", "ashlar-assistant"], { models: [] });
  client = server.client();
});
after(() => server.stop());

const ask = (more) => client.completions.create({ model: server.model, prompt: lines, max_tokens: 80, temperature: 0, ignore_eos: true, return_token_ids: true, ...more });
const guesses = (answer) => answer.usage.completion_tokens_details;

test("answers are the same whoever guesses", async () => {
  for (const more of [{}, { temperature: 0.8, seed: 5 }, { frequency_penalty: 0.5, logprobs: 2 }, { stop: [";"], n: 2 }]) {
    const plain = await ask({ ...more, speculation: "off" });
    assert.equal(guesses(plain).accepted_prediction_tokens + guesses(plain).rejected_prediction_tokens, 0);
    for (const speculation of ["ngram", "draft", "auto"]) {
      const guessed = await ask({ ...more, speculation });
      assert.deepEqual(guessed.choices, plain.choices);
    }
  }
});

test("guesses are counted", async () => {
  const before = await server.metric("vllm:spec_decode_num_accepted_tokens_total");
  const answer = await ask({ speculation: "draft" });
  assert.equal(guesses(answer).rejected_prediction_tokens, 0, "the model is its own draft model");
  assert.ok(guesses(answer).accepted_prediction_tokens > 50);
  await server.idle();
  assert.equal(await server.metric("vllm:spec_decode_num_accepted_tokens_total"), before + guesses(answer).accepted_prediction_tokens);
  assert.ok(await server.metric("vllm:spec_decode_num_draft_tokens_total") >= before + guesses(answer).accepted_prediction_tokens);
  assert.ok(await server.metric("vllm:spec_decode_num_drafts_total") > 0);
});

test("a prediction is followed", async () => {
  const conversation = server.chat("Say something about stones.", { max_tokens: 60, temperature: 0, ignore_eos: true });
  const plain = await client.chat.completions.create({ ...conversation, speculation: "off" });
  const text = plain.choices[0].message.content;
  const told = await client.chat.completions.create({ ...conversation, speculation: "ngram", prediction: { type: "content", content: text } });
  assert.equal(told.choices[0].message.content, text);
  assert.ok(guesses(told).accepted_prediction_tokens > 30, JSON.stringify(told.usage));
});

test("a stream is the same text", async () => {
  const plain = await ask({ speculation: "off" });
  const answer = await server.fetch("/v1/completions", { method: "POST", headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: lines, max_tokens: 80, temperature: 0, ignore_eos: true, stream: true, speculation: "auto" }) });
  let text = "";
  for await (const event of events(answer)) if (event !== "[DONE]") text += JSON.parse(event).choices[0]?.text ?? "";
  assert.equal(text, plain.choices[0].text);
});

test("wrong switches are refused", async () => {
  for (const [member, value] of [["speculation", "perhaps"], ["speculative_tokens", -1], ["prediction", "text"]]) {
    const { status, json } = await server.post("/v1/completions", { prompt: "x", [member]: value });
    assert.equal(status, 400);
    assert.equal(json.error.param, member);
  }
  const other = await Server.start([], { models: [] });
  try {
    const { status, json } = await other.post("/v1/completions", { prompt: "x", speculation: "draft" });
    assert.equal(status, 400);
    assert.match(json.error.message, /draft model/);
  } finally {
    await other.stop();
  }
});
