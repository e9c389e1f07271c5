// Attention without any permission, in Deno.
import { createBackend, lightningAttention } from "@levin/attention";
import { attention, checkAttention } from "./attention.mjs";

const backend = await createBackend({ prefer: "wasm", threads: 2 });
checkAttention(await attention(backend, lightningAttention));
console.log(JSON.stringify({ threads: backend.info.threads }));
backend.dispose();
