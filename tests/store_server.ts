/**
 * A server over a store that others share: `store_server.ts <folder of the model> <URL of the store>`. Sessions come in
 * several values, also where the store would take one.
 *
 * @module
 */
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { createHandler } from "../serve/mod.ts";
import { listen } from "../serve/listen.ts";

const [checkpoint, storage] = Deno.args;
const backend = await createBackend({ prefer: "wasm" });
const model = await TransNormerLLM.load(checkpoint, { backend });
const handler = createHandler({ model, storage, limits: { valueBytes: 4000, storeSeconds: 3 } });
const listener = await listen(handler, { hostname: "127.0.0.1", port: 0, connections: 1024 });
console.log(`Listening on ${listener.url}/`);
