/**
 * The browser of the race, and a server for its page: scripts, kernels of wllama, random models as GGUF.
 *
 * @module
 */
import { findPackageJSON } from "node:module";
import { pathToFileURL } from "node:url";
import { type Browser, chromium } from "playwright-core";
import { seeded } from "../../tests/numbers.ts";
import { findBrowser } from "../../tests/setup.ts";
import { llamaGguf, type LlamaSizes, SPECIAL_TOKENS } from "../peers/gguf.ts";

/** Models by the last part of their address, each as the parts of a file. */
export type Models = Readonly<Record<string, () => Iterable<Uint8Array<ArrayBuffer>>>>;

/** A page that runs a script. */
export interface Track extends AsyncDisposable {
  /** Calls a function of the object that the script left as `globalThis.race`. */
  call<T>(name: string, ...args: unknown[]): Promise<T>;
}

/** Both engines may have threads: the page is isolated. */
const ISOLATED = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

/** Opens a page with the script of `page`, which finds that of `worker` at `/worker.js`. */
export async function openTrack(models: Models, page: URL, worker?: URL): Promise<Track> {
  const scripts = new Map([["/page.js", await bundle(page)]]);
  if (worker !== undefined) scripts.set("/worker.js", await bundle(worker));
  const manifest = pathToFileURL(findPackageJSON("@wllama/wllama", import.meta.url)!);
  const kernels = await Deno.readFile(new URL("esm/wasm/wllama.wasm", manifest));
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    const { pathname } = new URL(request.url);
    const answer = (body: BodyInit, type: string) =>
      new Response(body, { headers: { ...ISOLATED, "content-type": type } });
    const script = scripts.get(pathname), model = models[pathname.replace("/model/", "")];
    if (script !== undefined) return answer(script, "text/javascript");
    if (model !== undefined) return answer(ReadableStream.from(model()), "application/octet-stream");
    if (pathname === "/wllama.wasm") return answer(kernels, "application/wasm");
    if (pathname !== "/") return new Response(null, { status: 404 });
    return answer('<!doctype html><script type="module" src="/page.js"></script>', "text/html");
  });
  let browser: Browser | undefined;
  const close = async () => {
    await browser?.close();
    await server.shutdown();
  };
  try {
    browser = await chromium.launch({
      timeout: 0,
      executablePath: findBrowser(),
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
      ],
    });
    const tab = await browser.newPage();
    const failed = new Promise<never>((_, reject) => {
      tab.on("pageerror", reject);
      tab.on("crash", () => reject(new Error("the page crashed")));
    });
    failed.catch(() => {}); // those who wait hear of it
    await tab.goto(`http://127.0.0.1:${server.addr.port}/`, { timeout: 0 });
    await Promise.race([tab.waitForFunction(() => "race" in globalThis, undefined, { timeout: 0 }), failed]);
    return {
      call: (name, ...args) =>
        Promise.race([
          // deno-lint-ignore no-explicit-any -- types of this process do not reach into the page
          tab.evaluate(([name, args]) => (globalThis as any).race[name](...args), [name, args] as const),
          failed,
        ]),
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * Weights as they are before training: evenly distributed up to 1.7 / √in, so that a product keeps the magnitude of its
 * rows. Rows of the head for tokens that are no text are 0, so that such a token is never the likeliest.
 */
export function randomLlama(
  sizes: LlamaSizes,
  type: "F32" | "Q8_0" | "Q4_K",
): Iterable<Uint8Array<ArrayBuffer>> {
  const random = seeded(7);
  return llamaGguf(sizes, type, (name, shape) => {
    const data = new Float32Array(shape.reduce((product, n) => product * n, 1));
    if (shape.length === 1) return data.fill(1);
    const magnitude = 1.7 / Math.sqrt(shape[1]);
    for (let i = 0; i < data.length; i++) data[i] = magnitude * (2 * random() - 1);
    if (name === "output.weight") data.fill(0, 0, SPECIAL_TOKENS * shape[1]);
    return data;
  });
}

async function bundle(entry: URL): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", entry.href],
    cwd: new URL("../..", import.meta.url),
    stdout: "piped",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`deno bundle failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}
