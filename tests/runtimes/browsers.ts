/**
 * Pages in real browsers, without a driver: each page tells the server what it saw, and the answer says which is next.
 *
 * @module
 */
import { FOLDER, MODEL } from "./setup.ts";

/** What a page saw; see `programs/page.mjs`. */
export interface Seen {
  readonly page: string;
  readonly error?: string;
  readonly device: string;
  readonly isolated: boolean;
  readonly threads: number;
  readonly reason: string;
  readonly sameBits: boolean;
  readonly text: string;
  readonly webgpu?: string;
}

/** What a page may do: scripts from its origin, and WebAssembly. */
const STRICT = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; img-src data:";

/**
 * Kinds of pages by the first part of their path: their headers. Isolated pages may start workers from text, and have
 * shared memory; strict ones may not start them.
 */
const KINDS: Record<string, Record<string, string>> = {
  isolated: {
    "content-security-policy": `${STRICT}; worker-src blob:`,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
  },
  strict: {
    "content-security-policy": STRICT,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
  },
  plain: { "content-security-policy": STRICT },
};

const TYPES: Record<string, string> = {
  html: "text/html",
  js: "text/javascript",
  wasm: "application/wasm",
};

/** What pages saw. Their paths are `/<kind>/<bundler>/index.html`, with the files of `.runtimes/pages/<bundler>/`; the model is at `/model/`. */
export async function visit(
  command: (url: string) => string[],
  pages: readonly string[],
): Promise<Seen[]> {
  const seen: Seen[] = [];
  const done = Promise.withResolvers<void>();
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    async (request) => {
      const { pathname } = new URL(request.url);
      if (pathname === "/seen") {
        seen.push(await request.json());
        const next = pages[seen.length];
        if (next === undefined) done.resolve();
        return new Response(next ?? "");
      }
      const [, kind, ...path] = pathname.split("/");
      try {
        const folder = kind === "model" ? MODEL : `${FOLDER}/pages`;
        const body = await Deno.readFile(`${folder}/${path.join("/")}`);
        const type = TYPES[path.at(-1)!.split(".").at(-1)!] ??
          "application/octet-stream";
        return new Response(body, {
          headers: { ...KINDS[kind], "content-type": type },
        });
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
        return new Response(null, { status: 404 });
      }
    },
  );
  const [program, ...args] = command(
    `http://127.0.0.1:${server.addr.port}${pages[0]}`,
  );
  const browser = new Deno.Command(program, {
    args,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const log = new Response(browser.stderr).text();
  const { status } = browser;
  try {
    const ended = status.then(async () => {
      throw new Error(
        `the browser ended after ${seen.length} of ${pages.length} pages:\n${await log}`,
      );
    });
    ended.catch(() => {}); // when all pages were seen it is ended here
    await Promise.race([done.promise, ended]);
  } finally {
    try {
      browser.kill();
    } catch {
      // It has ended.
    }
    await status;
    await log;
    await server.shutdown();
  }
  return seen;
}
