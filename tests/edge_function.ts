/**
 * The edge function as an isolate would run it, for its test and for the measurement of its cold start: a process with
 * no permission but loopback and its settings, 128 MB of heap, and a bucket that serves the model's files.
 *
 * @module
 */
import assert from "node:assert/strict";
import { listening } from "./listening.ts";

/** Serves files on loopback, as a bucket would. */
export function bucket(
  read: (name: string) => Promise<Uint8Array<ArrayBuffer> | undefined>,
): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async ({ url }) => {
    const file = await read(new URL(url).pathname.slice(1));
    return file === undefined ? new Response(null, { status: 404 }) : new Response(file);
  });
}

/** A file of a folder; undefined if it does not exist. */
export async function fileOf(folder: URL, name: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
  try {
    return await Deno.readFile(new URL(name, folder));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Starts the function; `flags` in addition to its network and its memory, `heap` in MB. */
export async function isolate(port: number, flags: string[] = [], heap = 128) {
  const start = performance.now();
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-prompt", "--no-check", "--allow-net=127.0.0.1", "--allow-env=API_KEYS,MODEL"],
      `--v8-flags=--max-old-space-size=${heap}`,
      ...["--unstable-no-legacy-abort", ...flags],
      new URL("./edge_isolate.ts", import.meta.url).href,
      `http://127.0.0.1:${port}/`,
    ],
    env: { DENO_SERVE_ADDRESS: "tcp:127.0.0.1:0", NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const { url: address, done, log } = listening(process);
  const url = await address;
  return {
    start,
    process,
    url,
    /** The most bytes of heap, buffers and kernels so far. */
    memory: () => Number(log().match(/^memory \d+(?=\n)/gm)?.at(-1)?.slice("memory ".length)),
    async ask(body: unknown): Promise<Response> {
      const response = await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) });
      assert.equal(response.status, 200, log());
      return response;
    },
    async [Symbol.asyncDispose]() {
      process.kill("SIGKILL");
      await process.status;
      await done;
    },
  };
}

/** Asks a function that was just started for text; milliseconds from its start to its first token. */
export async function firstToken(edge: Awaited<ReturnType<typeof isolate>>): Promise<number> {
  const response = await edge.ask({ prompt: "hello", max_tokens: 32, temperature: 0, stream: true });
  const reader = response.body!.getReader();
  await reader.read();
  const taken = performance.now() - edge.start;
  while (!(await reader.read()).done);
  return taken;
}
