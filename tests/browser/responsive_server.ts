/**
 * Serves the page of `responsive_test.ts` to a browser that is started for it, without a driver: Debian's Firefox has none.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createBackend } from "../../mod.ts";
import { TransNormerLLM } from "../../model/mod.ts";
import type { Seen } from "./responsive.ts";

const HEADERS = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};
const MODEL = new URL("../../models/sotu/", import.meta.url);

/** A module and all that it imports, as one script for browsers. */
async function bundle(entry: URL): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", entry.href],
    cwd: new URL("../..", import.meta.url),
  }).output();
  if (!success) throw new Error(`deno bundle failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** An isolated page with these scripts by path, and the shipped model under `/model/`. Others go to `handle`. */
export function servePage(
  html: string,
  scripts: ReadonlyMap<string, string>,
  handle?: (request: Request) => Promise<Response>,
): AsyncDisposable & { readonly url: string } {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { pathname } = new URL(request.url), script = scripts.get(pathname);
    const answer = (body: BodyInit, type: string) =>
      new Response(body, { headers: { ...HEADERS, "content-type": type } });
    if (pathname === "/") return answer(html, "text/html");
    if (script !== undefined) return answer(script, "text/javascript");
    const file = /^\/model\/([\w.]+)$/.exec(pathname)?.[1];
    try {
      if (file !== undefined) {
        return answer(await Deno.readFile(new URL(file, MODEL)), "application/octet-stream");
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    return await handle?.(request) ?? new Response(null, { status: 404 });
  });
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/**
 * Holds what the page saw to what it must see. Speed does not matter: the page's thread computes nothing, and it hears and
 * draws while the worker does.
 */
export async function checkResponsive(seen: Seen): Promise<void> {
  assert.equal(seen.error, undefined);
  assert.deepEqual({ backend: seen.backend, threads: seen.threads }, { backend: "wasm", threads: 2 });
  assert.deepEqual(seen.used, ["validate"], "the page's thread used WebAssembly");
  assert(seen.turnsOfPrefill > 0, "the page heard nothing while the worker read a prompt");
  assert(seen.framesOfDecode >= 20 && seen.tokens > 0, "the page drew nothing while the worker wrote");
  using backend = await createBackend({ prefer: "wasm" });
  using model = await TransNormerLLM.load(MODEL, { backend });
  let text = "";
  for await (const piece of model.generate("The state", { maxTokens: 16, temperature: 0 })) {
    text += piece.text;
  }
  assert.equal(seen.text, text, "what the worker wrote after an answer that was left");
}

/** Starts a browser by a command, shows it the page, and ends it when the page has told what it saw. */
export async function visitResponsive(command: (profile: string, url: string) => string[]): Promise<Seen> {
  const scripts = new Map([
    ["/page.js", await bundle(new URL("responsive.ts", import.meta.url))],
    ["/worker.js", await bundle(new URL("../../examples/page/worker.ts", import.meta.url))],
  ]);
  const { promise: seen, resolve } = Promise.withResolvers<Seen>();
  const html = '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>';
  await using server = servePage(html, scripts, async (request) => {
    if (!request.url.endsWith("/seen")) return new Response(null, { status: 404 });
    resolve(await request.json());
    return new Response();
  });
  const profile = await Deno.makeTempDir();
  const [program, ...args] = command(profile, server.url);
  const browser = new Deno.Command(program, { args, stdin: "null", stdout: "null", stderr: "piped" }).spawn();
  const log = new Response(browser.stderr).text();
  try {
    const ended = browser.status.then(async () => {
      throw new Error(`the browser ended before the page told what it saw:\n${await log}`);
    });
    ended.catch(() => {}); // when the page has told it is ended here
    return await Promise.race([seen, ended]);
  } finally {
    try {
      browser.kill();
    } catch {
      // It has ended.
    }
    await browser.status;
    await log;
    await Deno.remove(profile, { recursive: true }).catch(() => {}); // the browser's own processes may still write
  }
}
