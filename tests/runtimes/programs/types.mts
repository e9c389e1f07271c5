// Compiled by TypeScript under strict rules, with the declarations of the package and no others.
import { type Backend, createBackend, lightningAttention, type Tensor } from "@levin/attention";
import type { BackendOptions } from "@levin/attention/backend";
import { linearBackward } from "@levin/attention/gradients";
import { loadKernels } from "@levin/attention/kernels";
import relaxed from "@levin/attention/kernels/relaxed.wasm";
import { linear } from "@levin/attention/ops";
import { createHandler } from "@levin/attention/serve";
import { createHandler as createBareHandler } from "@levin/attention/serve/bare";
import { TransNormerLLM } from "@levin/attention/tnl";
import { TransNormerLLM as BareModel } from "@levin/attention/tnl/bare";
import { createBackend as createWasmBackend } from "@levin/attention/wasm";
import { createBackend as createWebgpuBackend } from "@levin/attention/webgpu";

const options: BackendOptions = { prefer: "auto", threads: "auto" };
const backends: Promise<Backend>[] = [
  createBackend(options),
  createWasmBackend({ module: relaxed }),
  createWasmBackend({ module: await loadKernels() }),
  createWebgpuBackend(),
];
using backend = await backends[0];
using x: Tensor = backend.tensor(new Float32Array(4), [1, 1, 2, 2]);
const { output } = lightningAttention(x, x, x);
using y: Tensor = linear(output.reshape([2, 2]), backend.zeros([2, 2]));
const dx = linearBackward(y, y, y, { dWeight: y });
// @ts-expect-error a tensor is no number
const wrong: number = dx;
const model: TransNormerLLM = await TransNormerLLM.load("model", { backend });
export const fetch: (request: Request) => Promise<Response> = createHandler({ model }).fetch;
// A model of either entry is a model for both handlers; the bare one is given its backend.
const bare: BareModel = await BareModel.load("model", { backend });
export const handlers = [createHandler({ model: bare }), createBareHandler({ model })];
// @ts-expect-error the backend is missing
await BareModel.load("model");
export { wrong };
