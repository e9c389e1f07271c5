/**
 * `deno task serve`: a model over HTTP on this machine.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import {
  backendOption,
  cli,
  command,
  downloadLine,
  frugalCommand,
  groupOption,
  integer,
  interruption,
  location,
  type Needs,
  number,
  path,
  permissionsOption,
  several,
  text,
  threads,
  UsageError,
  weightsOption,
} from "../cli/mod.ts";
import { createBackend } from "../backend.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { affordable, listen, type Listener } from "./listen.ts";
import { tryTokenizer } from "./texts.ts";
import { createHandler, type Handler, openStore, type SessionStore } from "./mod.ts";
import { folderStore } from "./stores/folder.ts";
import { withoutPassword } from "./stores/mod.ts";

/** Milliseconds that a client gets to take the last event of an answer that was cut off. */
const LAST_EVENT = 1000;

const serve = command("serve", "Serves a model over HTTP.")
  .requiredOption(
    "--model <folder, URL or id>",
    "checkpoint: config.json, model.safetensors, tokenizer.json",
    location,
  )
  .option("--name <name>", "what clients call it", text, "levin")
  .option("--hostname <name>", "where to listen; 0.0.0.0: everywhere", text, "127.0.0.1")
  .option("--port <n>", "0: any free port", integer(0, 65535), 8000)
  .option(
    "--storage <folder or URL>",
    "where sessions are kept: a folder, kv:<path>, redis://..., postgres://...; default: memory",
    storagePlace,
  )
  .addOption(backendOption())
  .addOption(weightsOption())
  .addOption(groupOption())
  .option("--threads <n>", 'of WASM; "auto": one per core', threads, 1)
  .option("--batch <n>", "answers decoded together", integer(1), 64)
  .option("--connections <n>", "kept at the same time; fewer where the host has no room", integer(1), 1024)
  .option("--max-tokens <n>", "maximum number of tokens of an answer", integer(1), 4096)
  .option("--chat-template <file>", "Jinja template for chats; default: the model's", path)
  .option("--cors <origin>", "whose pages may use it; may be repeated", several(text))
  .option(
    "--host <name>",
    "by which clients reach it; may be repeated; --hostname, localhost and addresses always",
    several(text),
  )
  .option("--redirect <host>", "that a remote model may redirect to; may be repeated", several(text))
  .option("--requests-per-minute <n>", "of one key; default: any number", integer(1))
  .option("--tokens-per-minute <n>", "of one key, read and written; default: any number", integer(1))
  .option(
    "--drain <seconds>",
    "how long answers in flight may take after SIGTERM or Ctrl-C",
    number("of at least 0", (x) => x >= 0),
    25,
  )
  .addOption(permissionsOption())
  .addHelpText(
    "after",
    `
In the environment: LEVIN_API_KEYS, keys separated by commas, of which clients then need one; and
LEVIN_SESSION_SECRET, which seals stored sessions.
SIGTERM and Ctrl-C stop the server when the answers in flight have ended; a second one stops it immediately.`,
  )
  .action(async (options) => {
    const { hostname, port, model: checkpoint } = options;
    if (options.permissions) return console.log(frugalCommand(import.meta.url, needs(options)));
    const apiKeys = Deno.env.get("LEVIN_API_KEYS")?.split(",").map((key) => key.trim()).filter((key) =>
      key !== ""
    );
    if (apiKeys?.length === 0) throw new UsageError("LEVIN_API_KEYS must hold a key, or not be set");
    const chatTemplate = options.chatTemplate && await templateFile(options.chatTemplate);
    const storage = options.storage === undefined ? undefined : await openStorage(options.storage);

    const stop = interruption("SIGTERM");
    using backend = await createBackend({
      prefer: options.backend,
      threads: options.threads,
      signal: stop,
    });
    const begun = Promise.withResolvers<void>();
    const loading = TransNormerLLM.load(checkpoint, {
      backend,
      weights: options.weights,
      group: options.group,
      signal: stop,
      onDownload: downloadLine(),
      redirects: options.redirect,
      inspect: (json, config) => tryTokenizer(json, config),
      onProgress: () => begun.resolve(),
    });
    // Configuration and headers were right once weights arrive: from then on the server says that it is loading.
    await Promise.race([begun.promise, loading]);
    const connections = affordable(options.connections);
    const handler = createHandler({
      model: new Promise((resolve) => loading.then(resolve, () => {})), // its failure ends the process
      name: options.name,
      checkpoint,
      chatTemplate,
      storage,
      apiKeys,
      untrusted: true,
      sessionSecret: Deno.env.get("LEVIN_SESSION_SECRET"),
      limits: {
        batch: options.batch,
        queue: Math.min(256, Math.ceil(connections / 2)), // connections are left to those who need not wait
        maxTokens: options.maxTokens,
        keyRequestsPerMinute: options.requestsPerMinute,
        keyTokensPerMinute: options.tokensPerMinute,
      },
      cors: options.cors,
      hosts: [hostname, ...options.host ?? []],
    });
    const listener = await openPort(handler, hostname, port, connections);
    using model = await loading;
    console.log(`${model.parameterCount} parameters on ${backend.name} (${backend.info.device})`);
    await handler.sweep();
    const sweeping = setInterval(() => handler.sweep().catch(console.error), 3600_000);
    await aborted(stop);
    clearInterval(sweeping);
    await putDown(handler, listener, options.drain);
    await storage?.close();
    stop.throwIfAborted();
  });

/** What the server needs with some options. */
function needs(
  options: {
    model: string;
    storage?: string;
    chatTemplate?: string;
    hostname: string;
    port: number;
    redirect?: string[];
  },
): Needs {
  const { model, storage, chatTemplate, hostname, port, redirect = [] } = options;
  if (/^hf:/i.test(model)) {
    throw new UsageError("--permissions takes a folder or a URL: download the model first");
  }
  const url = URL.canParse(model) ? new URL(model) : undefined;
  const isRemote = url !== undefined && url.protocol !== "file:";
  const folder = isRemote ? undefined : url === undefined ? model : fileURLToPath(url);
  const store = storage === undefined ? undefined : storeNeeds(storage);
  return {
    read: [folder, chatTemplate, "/dev/null"],
    write: store?.write ?? [],
    net: [`${hostname}:${port}`, ...isRemote ? [url.host, ...redirect] : [], ...store?.net ?? []],
    env: ["LEVIN_API_KEYS", "LEVIN_SESSION_SECRET", ...store?.env ?? []],
  };
}

/** A URL of a store, or a folder as any other path of the command line. */
function storagePlace(value: string): string {
  return isStoreUrl(value) ? value : path(value);
}

function isStoreUrl(place: string): boolean {
  return /^[a-z]{2,}:/.test(place); // one letter is a drive
}

/** What a store needs. */
function storeNeeds(place: string): Needs {
  if (!isStoreUrl(place)) return { write: [place] };
  if (/^kv:|^memory:/.test(place)) {
    throw new UsageError("--permissions takes a folder, or the URL of a server, as --storage");
  }
  const url = new URL(place);
  if (url.protocol === "file:") return { write: [fileURLToPath(url)] };
  const isRedis = url.protocol.startsWith("redis");
  return {
    net: [`${url.hostname}:${url.port || (isRedis ? 6379 : 5432)}`],
    env: isRedis ? [] : ["PG*"],
  };
}

/** Opens the store now, and writes to it, so that a server without it does not start. */
async function openStorage(place: string): Promise<SessionStore> {
  try {
    const store = isStoreUrl(place) ? await openStore(place) : await folderStore(place);
    const key = `started:${crypto.randomUUID()}`;
    await store.write(key, new Uint8Array(1), undefined, { ttl: 60 });
    await store.remove(key);
    return store;
  } catch (cause) {
    throw new Error(`Cannot keep sessions in ${withoutPassword(place)}: ${(cause as Error).message}`, {
      cause,
    });
  }
}

async function templateFile(file: string): Promise<string> {
  try {
    return await Deno.readTextFile(file);
  } catch (cause) {
    throw new Error(`Cannot read the chat template ${file}: ${(cause as Error).message}`, { cause });
  }
}

async function openPort(
  handler: Handler,
  hostname: string,
  port: number,
  connections: number,
): Promise<Listener> {
  try {
    const listener = await listen(handler, { hostname, port, connections });
    console.log(`Listening on ${listener.url}/`);
    return listener;
  } catch (cause) {
    throw new Error(`Cannot listen on ${hostname}:${port}: ${(cause as Error).message}`, { cause });
  }
}

/** Lets the answers in flight end, within `seconds`; cuts off the others with a last event. */
async function putDown(handler: Handler, listener: Listener, seconds: number): Promise<void> {
  const answering = handler.answering();
  console.log(
    answering === 0
      ? "Stopping"
      : `Stopping: up to ${seconds} s for the answers in flight, ${answering}; a second signal cuts them off`,
  );
  await Promise.race([handler.drain(), aborted(AbortSignal.timeout(1000 * seconds))]);
  const cut = handler.answering();
  await handler.close();
  // Clients that do not take what is left for them are not waited for.
  await listener.close(LAST_EVENT);
  console.log(cut === 0 ? "Stopped" : `Stopped; answers cut off: ${cut}`);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

await cli(serve);
