// Threads under a content security policy that forbids blob workers, in a real browser.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

const POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'";

/** A module and all that it imports, as one script for browsers. */
async function bundle(path: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", path],
    cwd: new URL("..", import.meta.url),
  }).output();
  if (!success) throw new Error(`deno bundle failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

Deno.test({
  name:
    "a page that forbids blob workers computes on one thread, or on several with workerUrl; a worker may own them",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async () => {
    const scripts: Record<string, string> = {
      "/levin.js": await bundle("wasm/mod.ts"),
      "/worker.js": await bundle("wasm/worker.ts"),
      "/owner.js": `import { createBackend, lightningAttention } from "/levin.js";
        onmessage = async ({ data: { data, stop } }) => {
          using backend = await createBackend({ threads: 2, workerUrl: "/worker.js" });
          const x = backend.tensor(data, [1, 4, 500, 32]);
          postMessage("computing");
          let result = lightningAttention(x, x, x);
          while (Atomics.load(stop, 0) === 0) {
            result.output.dispose();
            result.state.dispose();
            result = lightningAttention(x, x, x);
          }
          postMessage([...await result.output.data()]);
        };`,
      "/page.js": 'import * as levin from "/levin.js"; globalThis.levin = levin;',
    };
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
      const { pathname } = new URL(request.url);
      const text = pathname === "/"
        ? '<!doctype html><script type="module" src="/page.js"></script>'
        : scripts[pathname];
      return new Response(text, {
        status: text === undefined ? 404 : 200,
        headers: {
          "content-type": pathname === "/" ? "text/html" : "text/javascript",
          "content-security-policy": POLICY,
          "cross-origin-opener-policy": "same-origin",
          "cross-origin-embedder-policy": "require-corp",
        },
      });
    });
    const browser = await chromium.launch({ executablePath: findBrowser(), args: ["--no-sandbox"] });
    try {
      const tab = await browser.newPage();
      await tab.goto(`http://127.0.0.1:${server.addr.port}/`);
      await tab.waitForFunction(() => "levin" in globalThis);
      const run = (options: { threads: number | "auto"; workerUrl?: string }) =>
        tab.evaluate(async (options) => {
          // deno-lint-ignore no-explicit-any -- types of this process do not reach into the page
          const { createBackend, lightningAttention } = (globalThis as any).levin;
          Object.defineProperty(navigator, "hardwareConcurrency", { value: 3, configurable: true });
          try {
            using backend = await createBackend(options);
            const data = Float32Array.from({ length: 4 * 500 * 32 }, (_, i) => Math.sin(i));
            const x = backend.tensor(data, [1, 4, 500, 32]);
            const { output } = lightningAttention(x, x, x);
            const { threads, reason } = backend.info;
            return { threads, reason, output: [...await output.data()] as number[] };
          } catch (error) {
            return { threads: 0, reason: (error as Error).message, output: [] };
          }
        }, options);

      const one = await run({ threads: 1 });
      assert.equal(one.threads, 1);
      const auto = await run({ threads: "auto" });
      assert.equal(auto.threads, 1, auto.reason);
      assert.match(auto.reason, /on one thread, as its workers do not start .*worker-src blob:/);
      assert.deepEqual(auto.output, one.output);
      const two = await run({ threads: 2 });
      assert.equal(two.threads, 0);
      assert.match(two.reason, /with 2 threads as its workers do not start .*: ask for one thread/);
      for (const threads of ["auto", 2] as const) {
        const served = await run({ threads, workerUrl: "/worker.js" });
        assert.equal(served.threads, threads === "auto" ? 3 : 2, served.reason);
        assert.deepEqual(served.output, one.output);
      }
      const absent = await run({ threads: "auto", workerUrl: "/absent.js" });
      assert.equal(absent.threads, 1);
      assert.match(absent.reason, /its workers do not start from \/absent.js/);

      // The owner computes without a pause until the page tells it to stop: a page that waits for it could not.
      const owned = await tab.evaluate(() =>
        new Promise<number[]>((resolve, reject) => {
          const owner = new Worker("/owner.js", { type: "module" });
          const data = Float32Array.from({ length: 4 * 500 * 32 }, (_, i) => Math.sin(i));
          const stop = new Int32Array(new SharedArrayBuffer(4));
          owner.onerror = (event) => reject(new Error(event.message));
          owner.onmessage = ({ data }) => {
            if (data === "computing") setTimeout(() => Atomics.store(stop, 0, 1));
            else resolve(data);
          };
          owner.postMessage({ data, stop });
        })
      );
      assert.deepEqual(owned, one.output);
    } finally {
      await browser.close();
      await server.shutdown();
    }
  },
});
