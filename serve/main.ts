/**
 * `deno task serve`: a model over HTTP on this machine.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { createStorage } from "unstorage";
import folder from "unstorage/drivers/fs-lite";
import { createBackend } from "../backend.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { createHandler } from "./mod.ts";

const HELP = `Usage: deno task serve --model <folder or URL> [options]

  --model <location>     checkpoint: config.json, model.safetensors, tokenizer.json
  --name <name>          what clients call it                        levin
  --hostname <name>      where to listen                             127.0.0.1
  --port <n>             0: any free port                            8000
  --sessions <folder>    where sessions are kept                     memory
  --backend <name>       auto, webgpu or wasm                        auto
  --threads <n>          of WASM; "auto": one per core               1
  --batch <n>            answers decoded together                    64
  --max-tokens <n>       maximum number of tokens of an answer       4096
  --cors <origin>        whose pages may use it; may be repeated
  --host <name>          by which clients reach it; may be repeated  --hostname, localhost, addresses

LEVIN_API_KEYS in the environment: keys, separated by commas. Clients then need one of them.
`;

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    name: { type: "string", default: "levin" },
    hostname: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "8000" },
    sessions: { type: "string" },
    backend: { type: "string", default: "auto" },
    threads: { type: "string", default: "1" },
    batch: { type: "string", default: "64" },
    "max-tokens": { type: "string", default: "4096" },
    cors: { type: "string", multiple: true },
    host: { type: "string", multiple: true },
    help: { type: "boolean", short: "h" },
  },
});
if (values.help || values.model === undefined) {
  console.error(HELP);
  Deno.exit(values.help ? 0 : 2);
}

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, () => stop.abort());

using backend = await createBackend({
  prefer: values.backend as "auto",
  threads: values.threads === "auto" ? "auto" : Number(values.threads),
  signal: stop.signal,
});
const checkpoint = values.model;
const loading = TransNormerLLM.load(checkpoint, { backend, signal: stop.signal });
const handler = createHandler({
  model: loading,
  name: values.name,
  checkpoint,
  storage: values.sessions === undefined
    ? undefined
    : createStorage({ driver: folder({ base: values.sessions }) }),
  apiKeys: Deno.env.get("LEVIN_API_KEYS")?.split(",").filter((key) => key !== ""),
  limits: { batch: Number(values.batch), maxTokens: Number(values["max-tokens"]) },
  cors: values.cors,
  hosts: [values.hostname, ...values.host ?? []],
});
const server = Deno.serve({
  hostname: values.hostname,
  port: Number(values.port),
  signal: stop.signal,
  onListen: ({ hostname, port }) => console.log(`Listening on http://${hostname}:${port}/`),
}, handler);
try {
  using model = await loading;
  console.log(`${model.parameterCount} parameters on ${backend.name} (${backend.info.device})`);
  const sweeping = setInterval(handler.sweep, 3600_000);
  await handler.sweep();
  await server.finished;
  clearInterval(sweeping);
  await handler.close();
} catch (error) {
  if (error !== stop.signal.reason) throw error; // told to stop while the model was loading
  await server.finished;
}
