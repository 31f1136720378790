// Servers that speak as those of each kind of upstream do, as far as a test can know: what they answer is told once,
//   {thought, text: ["pie", "ces"], calls: [{id, name, arguments}], stop: "stop"|"length"|"tool_calls", usage: {prompt, completion, cached}},
// and written as a stream in the words of the kind; without `stop` it does not end. (Anthropic's, Ollama's and AWS's own
// clients read them so.)
import http from "node:http";
import { crc32 } from "node:zlib";

const sse = (value, event) => (event ? `event: ${event}\n` : "") + `data: ${JSON.stringify(value)}\n\n`;
const halves = (text) => [text.slice(0, text.length / 2), text.slice(text.length / 2)];

// OpenAI's, Azure's and those of all who do as they do.
function* openai({ thought, text = [], calls = [], stop, usage }) {
  const chunk = (delta, finish_reason = null) =>
    sse({ id: "chatcmpl-theirs", object: "chat.completion.chunk", created: 1, model: "theirs", choices: [{ index: 0, delta, finish_reason, logprobs: null }] });
  yield chunk({ role: "assistant", content: "", refusal: null });
  if (thought) yield chunk({ reasoning_content: thought });
  for (const content of text) yield chunk({ content });
  for (const [index, call] of calls.entries()) {
    yield chunk({ tool_calls: [{ index, id: call.id, type: "function", function: { name: call.name, arguments: "" } }] });
    for (const piece of halves(call.arguments)) yield chunk({ tool_calls: [{ index, function: { arguments: piece } }] });
  }
  if (!stop) return;
  yield chunk({}, stop);
  yield sse({ id: "chatcmpl-theirs", object: "chat.completion.chunk", created: 1, model: "theirs", choices: [], usage: { prompt_tokens: usage.prompt,
    completion_tokens: usage.completion, total_tokens: usage.prompt + usage.completion, prompt_tokens_details: { cached_tokens: usage.cached } } });
  yield "data: [DONE]\n\n";
}

function* anthropic({ thought, text = [], calls = [], stop, usage }) {
  const event = (value) => sse(value, value.type);
  let index = 0;
  const block = function* (content_block, deltas) {
    yield event({ type: "content_block_start", index, content_block });
    for (const delta of deltas) yield event({ type: "content_block_delta", index, delta });
    yield event({ type: "content_block_stop", index: index++ });
  };
  yield event({ type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "theirs", content: [], stop_reason: null,
    stop_sequence: null, usage: { input_tokens: usage.prompt - usage.cached, cache_read_input_tokens: usage.cached, cache_creation_input_tokens: 0, output_tokens: 1 } } });
  yield event({ type: "ping" });
  if (thought)
    yield* block({ type: "thinking", thinking: "", signature: "" }, [{ type: "thinking_delta", thinking: thought }, { type: "signature_delta", signature: "c2ln" }]);
  if (text.length) yield* block({ type: "text", text: "" }, text.map((piece) => ({ type: "text_delta", text: piece })));
  for (const call of calls)
    yield* block({ type: "tool_use", id: call.id, name: call.name, input: {} }, ["", ...halves(call.arguments)].map((piece) => ({ type: "input_json_delta", partial_json: piece })));
  if (!stop) return;
  const reasons = { stop: "end_turn", length: "max_tokens", tool_calls: "tool_use" };
  yield event({ type: "message_delta", delta: { stop_reason: reasons[stop], stop_sequence: null }, usage: { output_tokens: usage.completion } });
  yield event({ type: "message_stop" });
}

function* ollama({ thought, text = [], calls = [], stop, usage }) {
  const line = (value) => JSON.stringify({ model: "theirs", created_at: "2026-01-01T00:00:00.1Z", ...value }) + "\n";
  if (thought) yield line({ message: { role: "assistant", content: "", thinking: thought }, done: false });
  for (const content of text) yield line({ message: { role: "assistant", content }, done: false });
  for (const call of calls)
    yield line({ message: { role: "assistant", content: "", tool_calls: [{ function: { name: call.name, arguments: JSON.parse(call.arguments) } }] }, done: false });
  if (!stop) return;
  yield line({ message: { role: "assistant", content: "" }, done: true, done_reason: stop === "length" ? "length" : "stop", total_duration: 9, load_duration: 1,
    prompt_eval_count: usage.prompt, prompt_eval_duration: 1, eval_count: usage.completion, eval_duration: 1 });
}

// A message of AWS's event stream: lengths, headers of strings, the payload, checksums.
function awsEvent(type, value) {
  const payload = Buffer.from(JSON.stringify(value));
  const headers = Buffer.concat(Object.entries({ ":event-type": type, ":content-type": "application/json", ":message-type": "event" }).map(([name, said]) => {
    const length = Buffer.alloc(3);
    length.writeUInt8(7);
    length.writeUInt16BE(said.length, 1);
    return Buffer.concat([Buffer.from([name.length]), Buffer.from(name), length, Buffer.from(said)]);
  }));
  const whole = Buffer.alloc(16 + headers.length + payload.length);
  whole.writeUInt32BE(whole.length, 0);
  whole.writeUInt32BE(headers.length, 4);
  whole.writeUInt32BE(crc32(whole.subarray(0, 8)), 8);
  headers.copy(whole, 12);
  payload.copy(whole, 12 + headers.length);
  whole.writeUInt32BE(crc32(whole.subarray(0, -4)), whole.length - 4);
  return whole;
}

function* bedrock({ thought, text = [], calls = [], stop, usage }) {
  let contentBlockIndex = 0;
  const block = function* (start, deltas) {
    if (start) yield awsEvent("contentBlockStart", { contentBlockIndex, start });
    for (const delta of deltas) yield awsEvent("contentBlockDelta", { contentBlockIndex, delta });
    yield awsEvent("contentBlockStop", { contentBlockIndex: contentBlockIndex++ });
  };
  yield awsEvent("messageStart", { role: "assistant" });
  if (thought) yield* block(null, [{ reasoningContent: { text: thought } }, { reasoningContent: { signature: "c2ln" } }]);
  if (text.length) yield* block(null, text.map((piece) => ({ text: piece })));
  for (const call of calls)
    yield* block({ toolUse: { toolUseId: call.id, name: call.name } }, halves(call.arguments).map((input) => ({ toolUse: { input } })));
  if (!stop) return;
  const reasons = { stop: "end_turn", length: "max_tokens", tool_calls: "tool_use" };
  yield awsEvent("messageStop", { stopReason: reasons[stop] });
  yield awsEvent("metadata", { usage: { inputTokens: usage.prompt - usage.cached, outputTokens: usage.completion, totalTokens: usage.prompt + usage.completion,
    cacheReadInputTokens: usage.cached }, metrics: { latencyMs: 1 } });
}

function* dashscope({ thought, text = [], calls = [], stop, usage }) {
  let id = 0;
  const event = (message, finish_reason = "null") =>
    `id:${++id}\nevent:result\n:HTTP_STATUS/200\ndata:${JSON.stringify({ output: { choices: [{ message: { role: "assistant", content: "", ...message }, finish_reason }] },
      usage: { input_tokens: usage.prompt, output_tokens: usage.completion, total_tokens: usage.prompt + usage.completion, prompt_tokens_details: { cached_tokens: usage.cached } },
      request_id: "r" })}\n\n`;
  if (thought) yield event({ reasoning_content: thought });
  for (const content of text) yield event({ content });
  for (const [index, call] of calls.entries()) {
    const [first, rest] = halves(call.arguments);
    yield event({ tool_calls: [{ index, id: call.id, type: "function", function: { name: call.name, arguments: first } }] });
    yield event({ tool_calls: [{ index, id: "", type: "function", function: { arguments: rest } }] });
  }
  if (!stop) return;
  yield event({}, stop);
}

// What an error is in the words of a kind.
const errorOf = {
  openai: (type, message) => ({ error: { message, type, param: null, code: type } }),
  anthropic: (type, message) => ({ type: "error", error: { type, message }, request_id: "req_1" }),
  ollama: (_, message) => ({ error: message }),
  bedrock: (_, message) => ({ message }),
  dashscope: (code, message) => ({ code, message, request_id: "r" }),
};

export const kinds = {
  openai: { write: openai },
  azure: { write: openai, base: "" },
  anthropic: { write: anthropic },
  ollama: { write: ollama, base: "", media: "application/x-ndjson" },
  bedrock: { write: bedrock, base: "", media: "application/vnd.amazon.eventstream", more: { region: "us-east-1" } },
  dashscope: { write: dashscope, base: "/api/v1" },
};

// A server of this kind. `server.answer(body, request, response)` gives what it says, or {status, headers, type,
// message}: an error; or {json}; or nothing, where it wrote to the response itself. With `hang` it stays silent after
// its words, and calls that when the client leaves. `server.asked` has every request.
export async function provider(kind) {
  const { write, base = "/v1", media = "text/event-stream", more } = kinds[kind];
  const server = http.createServer((request, response) => {
    let body = "";
    request.on("data", (piece) => (body += piece));
    request.on("end", async () => {
      if (request.method !== "POST") return response.end(JSON.stringify({ data: [], models: [] }));
      const asked = { url: request.url, headers: request.headers, body: JSON.parse(body) };
      server.asked.push(asked);
      const said = await server.answer(asked.body, request, response);
      if (!said) return;
      const json = said.status ? (errorOf[kind] ?? errorOf.openai)(said.type, said.message) : said.json;
      if (json) return response.writeHead(said.status ?? 200, { "content-type": "application/json", ...said.headers }).end(JSON.stringify(json));
      response.writeHead(200, { "content-type": media });
      const rest = { stop: said.hang ? null : "stop", usage: { prompt: 21, completion: 8, cached: 5 } };
      for (const piece of write({ ...rest, ...said })) response.write(piece);
      if (said.hang) response.on("close", said.hang);
      else response.end();
    });
  });
  server.asked = [];
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.model = `${kind}-model`;
  // What a configuration says of it.
  server.config = { name: kind, kind, url: `http://127.0.0.1:${server.address().port}${base}`, api_key: "env:PROVIDER_KEY",
    models: [{ name: server.model, model: "theirs" }], retry_base: "1ms", retry_cap: "5ms", ...more };
  return server;
}
