// Attention on WebGPU in Node.js, through Dawn as the npm package "webgpu" has it.
import { create, globals } from "webgpu";
import { createBackend, lightningAttention } from "@levin/attention";
import { attention, checkAttention } from "./attention.mjs";

Object.assign(globalThis, globals);
Object.defineProperty(globalThis, "navigator", { value: { gpu: create([]) }, configurable: true });
const backend = await createBackend({ prefer: "webgpu" });
checkAttention(await attention(backend, lightningAttention));
console.log(JSON.stringify({ device: backend.info.device }));
backend.dispose();
process.exit(); // Dawn keeps the process
