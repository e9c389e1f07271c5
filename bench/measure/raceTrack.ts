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

/** What the page may load besides its script, by path: text of scripts, files by their URL, or parts of a file. */
export type Served = Readonly<Record<string, string | URL | (() => Iterable<Uint8Array<ArrayBuffer>>)>>;

/** A page that runs a script. */
export interface Track extends AsyncDisposable {
  /** Calls a function of the object that the script left as `globalThis.race`. */
  call<T>(name: string, ...args: unknown[]): Promise<T>;
  /** The version of Chromium. */
  readonly browser: string;
}

/** Both engines may have threads: the page is isolated. */
const ISOLATED = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".wasm": "application/wasm",
  "": "application/octet-stream",
};

/** Opens a page with the script of `page`. Kernels of wllama are at `/wllama.wasm`. */
export async function openTrack(page: URL, served: Served): Promise<Track> {
  const manifest = pathToFileURL(findPackageJSON("@wllama/wllama", import.meta.url)!);
  const all: Served = {
    "/": '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>',
    "/page.js": await bundle(page),
    "/wllama.wasm": new URL("esm/wasm/wllama.wasm", manifest),
    ...served,
  };
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async ({ url }) => {
    const { pathname } = new URL(url), found = all[pathname];
    if (found === undefined) return new Response(null, { status: 404 });
    const extension = /\.\w+$/.exec(pathname)?.[0] ?? (pathname === "/" ? ".html" : "");
    const body = typeof found === "string"
      ? found
      : found instanceof URL
      ? (await Deno.open(found)).readable
      : ReadableStream.from(found());
    return new Response(body, { headers: { ...ISOLATED, "content-type": TYPES[extension] ?? TYPES[""] } });
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
      browser: browser.version(),
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

/** A module and all that it imports, as one script for browsers. */
export async function bundle(entry: URL): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", entry.href],
    cwd: new URL("../..", import.meta.url),
    stdout: "piped",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`deno bundle failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}
