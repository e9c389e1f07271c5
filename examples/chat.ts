/**
 * A conversation: each turn continues where the one before ended, and reads only what is new.
 *
 *     deno run --allow-read=models examples/chat.ts
 *
 * @module
 */
import assert from "node:assert/strict";
import { createBackend } from "@levin/attention";
import { TransNormerLLM } from "@levin/attention/tnl";

using backend = await createBackend();
using model = await TransNormerLLM.load("models/sotu", { backend }); // a small model of presidents' speeches
using session = model.session();
const size = session.stateBytes;

for (const prompt of ["My fellow citizens,", " As to our schools,", " And to our neighbors, I say"]) {
  let line = prompt;
  for await (const { text } of session.generate(prompt, { maxTokens: 80, temperature: 0.7, seed: 1 })) {
    line += text;
  }
  console.log(line);
  assert.equal(session.stateBytes, size); // however long the conversation
}
console.log(`${session.position} tokens in ${size} bytes`);
