// The embedded model, asked what it has not seen in training.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Server } from "./server.mjs";

const questions = JSON.parse(readFileSync(path.join(import.meta.dirname, "../../assets/model/questions.json"), "utf8"));

test("it answers held-out questions about Ashlar", { skip: process.env.ASHLAR_E2E_MODEL && "another model is under test" }, async () => {
  const server = await Server.start();
  const wrong = [];
  for (const { turns, words, system } of questions) {
    const messages = system ? [{ role: "system", content: system }] : [];
    let answer = "";
    for (const turn of turns) {
      messages.push({ role: "user", content: turn });
      const { status, json } = await server.post("/v1/chat/completions", { messages, temperature: 0, max_tokens: 150 });
      assert.equal(status, 200, JSON.stringify(json));
      answer = json.choices[0].message.content;
      messages.push({ role: "assistant", content: answer });
    }
    if (!words.every((word) => answer.toLowerCase().includes(word.toLowerCase()))) wrong.push(`${turns.at(-1)} → ${answer}`);
  }
  await server.stop();
  assert.ok(questions.length >= 30);
  assert.ok(wrong.length <= questions.length * 0.1, `${wrong.length} of ${questions.length} wrong:\n${wrong.join("\n")}`);
});
