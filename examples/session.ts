/**
 * A session as bytes: of the same size however much it has read, and continued on another backend.
 *
 *     deno run --allow-read=models examples/session.ts
 *
 * @module
 */
import assert from "node:assert/strict";
import { createBackend } from "@levin/attention";
import { TransNormerLLM } from "@levin/attention/tnl";

using here = await createBackend(); // a hardware GPU if there is one, else WebAssembly
using model = await TransNormerLLM.load("models/sotu", { backend: here });
using session = model.session();
await Array.fromAsync(session.generate("The state of the Union is", { maxTokens: 8, temperature: 0 }));
const early = await session.snapshot();
await Array.fromAsync(session.generate(" And so", { maxTokens: 200, temperature: 0 }));
const late = await session.snapshot();
assert.equal(late.length, early.length);

using there = await createBackend({ prefer: "wasm" });
using twin = await TransNormerLLM.load("models/sotu", { backend: there });
using restored = twin.restore(late);
assert.equal(restored.position, session.position);

const next = { maxTokens: 40, temperature: 0 };
const [first, second] = await Promise.all(
  [session, restored].map((one) => Array.fromAsync(one.generate(" We must", next))),
);
const text = second.map((token) => token.text).join("");
assert.equal(text, first.map((token) => token.text).join(""));
console.log(`${late.length} bytes for ${session.position} tokens; continued: We must${text}`);
