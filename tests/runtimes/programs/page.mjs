// A page: attention on one thread and on all, a model, and attention on WebGPU where the address asks for it. Sends what it saw to the server,
// and goes where the answer says.
import { createBackend, lightningAttention } from "@levin/attention";
import { TransNormerLLM } from "@levin/attention/tnl";
import { attention, checkAttention } from "./attention.mjs";

async function see() {
  const single = await createBackend({ prefer: "wasm" });
  const output = await attention(single, lightningAttention);
  checkAttention(output);
  const all = await createBackend({ prefer: "wasm", threads: "auto" });
  const again = await attention(all, lightningAttention);
  const { threads, reason } = all.info;
  const model = await TransNormerLLM.load(new URL("/model/", location.href), { backend: single });
  let text = "";
  for await (const part of model.generate("The state", { maxTokens: 16, temperature: 0 })) text += part.text;
  const seen = {
    text,
    device: single.info.device,
    isolated: globalThis.crossOriginIsolated,
    threads,
    reason,
    sameBits: again.every((value, i) => Object.is(value, output[i])),
  };
  if (new URLSearchParams(location.search).has("webgpu")) {
    const gpu = await createBackend({ prefer: "webgpu" });
    checkAttention(await attention(gpu, lightningAttention));
    seen.webgpu = gpu.info.device;
  }
  return seen;
}

const seen = await see().catch((error) => ({ error: error.message }));
const response = await fetch("/seen", {
  method: "POST",
  body: JSON.stringify({ ...seen, page: location.pathname + location.search }),
});
const next = await response.text();
if (next !== "") location.href = next;
