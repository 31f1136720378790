// Plain completions: prompts of every kind, and the scoring that evaluation harnesses do.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server, events, haveStories, stories } from "./server.mjs";

let server, client;
before(async () => {
  server = await Server.start();
  client = server.client();
});
after(() => server.stop());

const ask = (more) => client.completions.create({ model: server.model, max_tokens: 8, temperature: 0, ...more });

test("a known model continues its published text", async (t) => {
  if (!haveStories) return t.skip("no shared data");
  const other = await Server.start([], { models: ["--model", `stories=${stories}`] });
  t.after(() => other.stop());
  const answer = await other.client().completions.create({ model: "stories", prompt: "Once upon a time", max_tokens: 60, temperature: 0 });
  assert.ok(answer.choices[0].text.startsWith(", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."),
    answer.choices[0].text);
});

test("text, token ids and many prompts give the same answers", async () => {
  const { json } = await server.post("/tokenize", { model: server.model, prompt: "Hello my friend" });
  const [one, ids, many] = await Promise.all([ask({ prompt: "Hello my friend" }), ask({ prompt: json.tokens }),
    ask({ prompt: ["Hello my friend", "Once", "Hello my friend"], n: 2 })]);
  assert.equal(ids.choices[0].text, one.choices[0].text);
  assert.deepEqual(many.choices.map((choice) => choice.index), [0, 1, 2, 3, 4, 5]);
  for (const index of [0, 1, 4, 5]) assert.equal(many.choices[index].text, one.choices[0].text);
});

test("echo shows the prompt, streamed or not", async () => {
  const whole = await ask({ prompt: "Once upon", echo: true });
  assert.ok(whole.choices[0].text.startsWith("Once upon"));
  let text = "";
  for await (const chunk of await ask({ prompt: "Once upon", echo: true, stream: true })) text += chunk.choices[0].text;
  assert.equal(text, whole.choices[0].text);
});

test("a continuation scores the same, echoed or generated", async () => {
  const generated = (await ask({ prompt: "The boy", logprobs: 3, max_tokens: 6, ignore_eos: true, return_token_ids: true })).choices[0];
  assert.equal(generated.logprobs.tokens.length, 6);
  assert.equal(generated.logprobs.text_offset[0], 0);
  const { json } = await server.post("/tokenize", { model: server.model, prompt: "The boy" });
  const prompt = [...json.tokens, ...generated.token_ids];
  for (const max_tokens of [0, 1]) {
    const scored = (await ask({ prompt, echo: true, logprobs: 1, max_tokens })).choices[0].logprobs;
    assert.equal(scored.tokens.length, prompt.length + max_tokens);
    assert.equal(scored.token_logprobs[0], null);
    assert.equal(scored.top_logprobs[0], null);
    const tail = scored.token_logprobs.slice(json.tokens.length, prompt.length);
    tail.forEach((logprob, i) => assert.ok(Math.abs(logprob - generated.logprobs.token_logprobs[i]) < 1e-4, `${tail} ${generated.logprobs.token_logprobs}`));
    scored.top_logprobs.slice(json.tokens.length, prompt.length).forEach((top, i) => assert.equal(Math.max(...Object.values(top)), tail[i]));
  }
});

test("prompt_logprobs are there when asked by name", async () => {
  const { json } = await server.post("/v1/completions", { model: server.model, prompt: "Hello my", prompt_logprobs: 2, max_tokens: 1 });
  const list = json.choices[0].prompt_logprobs;
  assert.equal(list[0], null);
  assert.equal(list.length, json.usage.prompt_tokens);
  for (const entry of list.slice(1)) assert.ok(Object.values(entry).length >= 2);
});

test("bias, allowed tokens and min_tokens steer", async () => {
  const { json } = await server.post("/tokenize", { model: server.model, prompt: "x", add_special_tokens: false });
  const id = json.tokens.at(-1);
  const forced = await ask({ prompt: "Hello", logit_bias: { [id]: 100 }, max_tokens: 4, return_token_ids: true });
  assert.deepEqual(forced.choices[0].token_ids, [id, id, id, id]);
  const allowed = await ask({ prompt: "Hello", allowed_token_ids: [id], max_tokens: 3, return_token_ids: true });
  assert.deepEqual(allowed.choices[0].token_ids, [id, id, id]);
  const long = await ask({ prompt: "Hello", min_tokens: 20, max_tokens: 20 });
  assert.equal(long.usage.completion_tokens, 20);
});

test("a stream of many prompts keeps them apart", async () => {
  const answer = await server.fetch("/v1/completions", { method: "POST",
    body: JSON.stringify({ model: server.model, prompt: ["One", "Two"], n: 2, max_tokens: 5, temperature: 0, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } }) });
  const texts = ["", "", "", ""], ends = [];
  let total = 0;
  for await (const data of events(answer)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    assert.ok(chunk.usage.completion_tokens >= total);
    total = chunk.usage.completion_tokens;
    for (const choice of chunk.choices) {
      texts[choice.index] += choice.text;
      if (choice.finish_reason) ends.push(choice.index);
    }
  }
  assert.equal(texts[0], texts[1]);
  assert.equal(texts[2], texts[3]);
  assert.deepEqual(ends.sort(), [0, 1, 2, 3]);
});
