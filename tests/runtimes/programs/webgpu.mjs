// Attention on WebGPU in Node.js, through Dawn as the npm package "webgpu" has it.
import { create } from "webgpu";
import { createBackend, lightningAttention } from "@levin/attention";
import { attention, checkAttention } from "./attention.mjs";

const backend = await createBackend({ prefer: "webgpu", gpu: create([]) });
checkAttention(await attention(backend, lightningAttention));
console.log(JSON.stringify({ device: backend.info.device }));
backend.dispose();
process.exit(); // Dawn keeps the process
