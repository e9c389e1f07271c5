// Everything that the package offers, in Node.js, Bun or Deno: attention, gradients, a model, the server. Says what it saw
// as one line of JSON. Arguments: the folder of a model.
import assert from "node:assert/strict";
import { createBackend, lightningAttention, lightningAttentionBackward } from "@levin/attention";
import { linearBackward } from "@levin/attention/gradients";
import { loadKernels } from "@levin/attention/kernels";
import { multiply } from "@levin/attention/ops";
import { createHandler } from "@levin/attention/serve";
import { TransNormerLLM } from "@levin/attention/tnl";
import { createBackend as createWasmBackend } from "@levin/attention/wasm";
import { attention, checkAttention } from "./attention.mjs";

const [folder] = process.argv.slice(2);
const seen = { attention: false, gradients: false, model: "", server: false, threads: 0, device: "" };

const backend = await createBackend({ prefer: "wasm" });
seen.device = backend.info.device;
const single = await attention(backend, lightningAttention);
checkAttention(single);
seen.attention = true;

const crew = await createBackend({ prefer: "wasm", threads: 2 });
assert.deepEqual(await attention(crew, lightningAttention), single, "threads do not change the bits");
seen.threads = crew.info.threads;
crew.dispose();
const compiled = await createWasmBackend({ module: await loadKernels("baseline") });
assert.equal(compiled.info.device, "baseline SIMD");
checkAttention(await attention(compiled, lightningAttention));
compiled.dispose();

// Tensors of one entry are tensors of the others.
const x = backend.tensor(new Float32Array([1, 2, 3, 4]), [2, 2]);
assert.deepEqual([...await multiply(x, x).data()], [1, 4, 9, 16]);
const dx = linearBackward(x, x, x, { dWeight: backend.zeros([2, 2]) });
assert.deepEqual([...await dx.data()], [7, 10, 15, 22]);
const ones = backend.tensor(new Float32Array(8).fill(1), [1, 1, 4, 2]);
const { dv } = lightningAttentionBackward(ones, ones, ones, ones);
// Without slopes dv of token s is the sum over t >= s of (q·k) dOutput, q·k being 2.
assert.deepEqual([...await dv.data()], [8, 8, 6, 6, 4, 4, 2, 2]);
seen.gradients = true;

const model = await TransNormerLLM.load(folder, { backend });
for await (const { text } of model.generate("The state", { maxTokens: 16, temperature: 0 })) seen.model += text;

const handler = createHandler({ model });
const { url, close } = await listen(handler);
const ask = (body, signal) =>
  fetch(new URL("/v1/completions", url), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "The state", max_tokens: 16, temperature: 0, ...body }),
    signal,
  });
const whole = await (await ask({})).json();
assert.equal(whole.choices[0].text, seen.model);
const streamed = (await (await ask({ stream: true })).text()).split("\n")
  .filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)).choices[0].text);
assert(streamed.length > 2);
assert.equal(streamed.join(""), seen.model);
// A client that goes ends its answer: the server writes nothing afterwards.
const leaving = new AbortController();
const reader = (await ask({ stream: true, max_tokens: 4000 }, leaving.signal)).body.getReader();
await reader.read();
leaving.abort();
await reader.closed.catch(() => {});
for (;;) {
  const metrics = await (await fetch(new URL("/metrics", url))).text();
  const [, writing] = /^levin_writing (\d+)$/m.exec(metrics) ?? assert.fail(metrics);
  if (writing === "0") break;
}
seen.server = true;
await close();
await handler.close();
model.dispose();
backend.dispose();
console.log(JSON.stringify(seen));

/** Each host's own server. */
async function listen(handler) {
  if (globalThis.Bun !== undefined) {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: handler.fetch });
    return { url: server.url, close: () => server.stop(true) };
  }
  if (globalThis.Deno !== undefined) {
    const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);
    return { url: `http://127.0.0.1:${server.addr.port}`, close: () => server.shutdown() };
  }
  const { serve } = await import("@hono/node-server");
  return await new Promise((resolve) => {
    const server = serve({ fetch: handler.fetch, port: 0, hostname: "127.0.0.1" }, ({ port }) =>
      resolve({
        url: `http://127.0.0.1:${port}`,
        close: () => new Promise((closed) => {
          server.close(closed);
          server.closeAllConnections();
        }),
      }));
  });
}
