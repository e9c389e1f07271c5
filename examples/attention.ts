/**
 * Attention over a whole sequence, then over one more token at the same cost.
 *
 *     deno run examples/attention.ts
 *
 * @module
 */
import assert from "node:assert/strict";
import { alibiSlopes, createBackend, lightningAttention, lightningAttentionStep } from "@levin/attention";

using backend = await createBackend(); // a hardware GPU if there is one, else WebAssembly
const [heads, tokens, dim] = [8, 1000, 64], slopes = alibiSlopes(heads);
const random = (size: number) => Float32Array.from({ length: size }, () => Math.random() - 0.5);

using x = backend.tensor(random(heads * tokens * dim), [1, heads, tokens, dim]);
const { output, state } = lightningAttention(x, x, x, { slopes });
assert.deepEqual(output.shape, [1, heads, tokens, dim]);

// The state stands for all 1000 tokens. It has the same size after a million.
using token = backend.tensor(random(heads * dim), [1, heads, dim]);
using next = lightningAttentionStep(token, token, token, state, { slopes });
assert.equal((await next.data()).length, heads * dim);
assert.deepEqual(state.shape, [1, heads, dim, dim]);

output.dispose();
state.dispose();
console.log(`${tokens} tokens and one more on ${backend.name}: ${backend.info.device}`);
