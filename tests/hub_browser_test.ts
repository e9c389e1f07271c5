/** Models from the hub in a browser: the origin's own file system is the cache. */
import assert from "node:assert/strict";
import { type Browser, type BrowserContext, chromium } from "playwright-core";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import type { Loaded } from "./browser/hub.ts";
import { cut, Hub } from "./hub_server.ts";
import { SERVED, serving } from "./reference_model.ts";
import { textFiles } from "./serve_setup.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

const COMMIT = "d".repeat(40), REPO = "owner/tiny", WEIGHTS = "model.safetensors", FILES = textFiles();

/** Packages that no literal names: here an import map does. */
const PACKAGES = ["@huggingface/hub", "@noble/hashes/sha2.js", "@noble/hashes/legacy.js"];

Deno.test({
  name: "in a browser models from the hub stay in the origin's files, and cut downloads continue",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async () => {
    await using hub = new Hub({ [REPO]: { refs: { main: COMMIT }, commits: { [COMMIT]: FILES } } });
    await using site = await serveSite();
    const expected = await loadHere();
    await using browser = await launch();
    const load = async (context: BrowserContext, { giveUp = false, before = "" } = {}): Promise<Loaded> => {
      const page = await context.newPage(); // each in its own page: what the cache holds outlives one
      await page.addInitScript(before);
      await page.goto(site.url, { timeout: 0 });
      await page.waitForFunction(() => "load" in globalThis, undefined, { timeout: 0 });
      const loaded = await page.evaluate(
        // deno-lint-ignore no-explicit-any -- of the page
        ([endpoint, repo, giveUp]) => (globalThis as any).load(endpoint, repo, giveUp),
        [hub.endpoint, REPO, giveUp] as const,
      );
      await page.close();
      return loaded;
    };

    const context = await browser.browser.newContext();
    hub.interfere = ({ host, file }, right) =>
      host === "cdn" && file === WEIGHTS ? cut(right(), 3000) : undefined;
    assert.deepEqual(await load(context, { giveUp: true }), { tokens: [], error: "given up" });
    hub.interfere = undefined;
    hub.requests.length = 0;
    assert.deepEqual(await load(context), { tokens: expected });
    const ranges = hub.requests.filter(({ host }) => host === "cdn").map(({ range }) => range);
    assert.equal(ranges.length, 1);
    assert.match(ranges[0]!, new RegExp(`^bytes=[1-9]\\d*-${FILES[WEIGHTS].length - 1}$`));

    hub.requests.length = 0;
    assert.deepEqual(await load(context), { tokens: expected });
    assert.deepEqual(hub.requests.map(({ path }) => path), [`/api/models/${REPO}/revision/main`]);
    hub.interfere = () => new Response(null, { status: 503 });
    assert.deepEqual(await load(context), { tokens: expected }, "without the hub the cache serves");

    // Pages without files of their own read what comes, and see at its end whether it was right.
    const before = 'Object.defineProperty(navigator, "storage", { value: undefined });';
    hub.interfere = ({ host, range }, right) =>
      host === "cdn" && range === null ? cut(right(), 1000) : undefined;
    assert.deepEqual(await load(context, { before }), { tokens: expected });

    const damaged = FILES[WEIGHTS].slice();
    damaged[damaged.length - 1] ^= 1;
    hub.interfere = ({ host, file }) =>
      host === "cdn" && file === WEIGHTS ? new Response(damaged) : undefined;
    for (const fresh of [{}, { before }]) {
      await using other = await browser.browser.newContext();
      const { error = "" } = await load(other, fresh);
      assert.match(
        error,
        /model\.safetensors must have the bytes that the hub's listing says, SHA-256 [0-9a-f]{64}: /,
      );
      if (fresh.before !== undefined) continue;
      hub.interfere = undefined;
      assert.deepEqual(await load(other), { tokens: expected }, "nothing of them stays");
      hub.interfere = ({ host, file }) =>
        host === "cdn" && file === WEIGHTS ? new Response(damaged) : undefined;
    }
  },
});

async function loadHere(): Promise<number[]> {
  using backend = await createBackend({ prefer: "wasm" });
  using model = await TransNormerLLM.load(SERVED, { backend, fetch: serving(FILES) });
  const tokens: number[] = [];
  for await (const { token } of model.generate("hello", { maxTokens: 4, temperature: 0 })) tokens.push(token);
  return tokens;
}

async function launch(): Promise<AsyncDisposable & { browser: Browser }> {
  const browser = await chromium.launch({
    timeout: 0,
    executablePath: findBrowser(),
    args: ["--no-sandbox"],
  });
  return { browser, [Symbol.asyncDispose]: () => browser.close() };
}

/** A site with the page and the packages. */
async function serveSite(): Promise<AsyncDisposable & { url: string }> {
  const folder = await Deno.makeTempDir();
  const scripts = new Map([["/page.js", await bundle(new URL("./browser/hub.ts", import.meta.url).href)]]);
  const names: Record<string, string> = {};
  for (const [i, name] of PACKAGES.entries()) {
    const entry = `${folder}/${i}.ts`;
    await Deno.writeTextFile(entry, `export * from "${name}";`);
    scripts.set(names[name] = `/package${i}.js`, await bundle(entry));
  }
  await Deno.remove(folder, { recursive: true });
  const page = `<!doctype html><link rel="icon" href="data:,"><script type="importmap">${
    JSON.stringify({ imports: names })
  }</script><script type="module" src="/page.js"></script>`;
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
    const script = scripts.get(new URL(url).pathname);
    return script === undefined
      ? new Response(page, { headers: { "content-type": "text/html" } })
      : new Response(script, { headers: { "content-type": "text/javascript" } });
  });
  return { url: `http://127.0.0.1:${server.addr.port}/`, [Symbol.asyncDispose]: () => server.shutdown() };
}

/** A module and all that it imports, as one script for browsers. */
async function bundle(entry: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", "--config", "deno.json", entry],
    cwd: new URL("..", import.meta.url),
  }).output();
  if (!success) throw new Error(`deno bundle failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}
