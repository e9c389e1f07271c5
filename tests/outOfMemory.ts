/**
 * Run by `gpu_test.ts` in a separate process, on real GPUs: asks for more memory than there is, and prints what comes.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";
import { gatherRows, multiply } from "../core/ops.ts";
import { createBackend } from "../gpu/mod.ts";

using backend = await createBackend();
using x = backend.tensor(new Float32Array([3]), [1]);
await x.data(); // what is enqueued together fails together
const attempt = async (work: () => Promise<Float32Array>) => {
  try {
    return [...await work()];
  } catch (error) {
    return error instanceof BackendError ? error.reason : String(error);
  }
};

const held = Array.from({ length: 1024 }, () => backend.empty([2 ** 28])); // 1 TiB
using last = held.pop()!.reshape([2 ** 20, 256]);
const during = await attempt(async () => {
  using row = gatherRows(last, [0]);
  return await row.data();
});
for (const tensor of held) tensor.dispose();
const after = await attempt(async () => {
  using product = multiply(x, x);
  return await product.data();
});
// The same size again: what the pool kept of the failure must not come back.
const again = await attempt(async () => {
  using large = backend.zeros([2 ** 20, 32]);
  using row = gatherRows(large, [5]);
  return (await row.data()).subarray(0, 1);
});
console.log(JSON.stringify({ during, after, again }));
