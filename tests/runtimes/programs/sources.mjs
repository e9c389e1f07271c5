// Attention of the sources themselves, as they are: Node.js strips their types. Argument: the path of `mod.ts`.
import { pathToFileURL } from "node:url";
import { attention, checkAttention } from "./attention.mjs";

const { createBackend, lightningAttention } = await import(pathToFileURL(process.argv[2]).href);
const backend = await createBackend({ prefer: "wasm" });
checkAttention(await attention(backend, lightningAttention));
backend.dispose();
console.log("ok");
