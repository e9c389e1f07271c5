import assert from "node:assert/strict";
import { type Browser, chromium, type Page as Tab } from "playwright-core";
import { alibiSlopes } from "../core/decay.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import { decodeSafetensors, toFloat32 } from "../model/safetensors.ts";
import type { Page, PlainTensor } from "./browser/page.ts";
import { assertClose, randomArray } from "./harness.ts";
import * as reference from "./reference.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

const LIMIT = 2e-6;
const BACKENDS = ["webgpu", "wasm"] as const;
const GOLDEN = new URL("./golden/tnl/", import.meta.url);

const plain = (shape: number[], seed: number): PlainTensor => ({
  data: [...randomArray(shape, seed)],
  shape,
});

Deno.test({
  name: "in a browser the library computes what it computes in Deno, on WebGPU and on WASM",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async (t) => {
    await using page = await openPage();

    await t.step("a software adapter is no GPU, unless asked for by name", async () => {
      const auto = await page.call("describe", {});
      assert.equal(auto.name, "wasm");
      assert.match(auto.reason, /software/);
      assert.equal((await page.call("describe", { prefer: "webgpu" })).name, "webgpu");
    });

    for (const backend of BACKENDS) {
      await t.step(`lightningAttention (${backend})`, async () => {
        for (const seqLen of [0, 1, 64, 65, 200]) {
          await checkAttention(page, backend, [1, 3, seqLen, 24, 40]);
        }
        await checkAttention(page, backend, [2, 2, 130, 32, 32], { layout: "bnhd" });
        await checkAttention(page, backend, [1, 2, 150, 16, 16], {
          cuSeqlens: [0, 0, 70, 149, 150],
          scale: 0.3,
        });
        await checkAttention(page, backend, [1, 1, 140, 128, 128], { slopes: undefined });
      });

      await t.step(`lightningAttentionStep (${backend})`, async () => {
        const [batch, heads, seqLen, headDim, valueDim] = [2, 2, 5, 24, 40];
        const slopes = [...alibiSlopes(heads)];
        const q = randomArray([batch, heads, seqLen, headDim], 1);
        const k = randomArray([batch, heads, seqLen, headDim], 2);
        const v = randomArray([batch, heads, seqLen, valueDim], 3);
        const sizes = { batch, heads, seqLen, headDim, valueDim };
        const expected = reference.lightningAttention(q, k, v, sizes, { slopes });
        const token = (x: ArrayLike<number>, dim: number, t: number): PlainTensor => ({
          data: Array.from(
            { length: batch * heads * dim },
            (_, i) => x[(Math.floor(i / dim) * seqLen + t) * dim + i % dim],
          ),
          shape: [batch, heads, dim],
        });
        const tokens = Array.from({ length: seqLen }, (_, t) => ({
          q: token(q, headDim, t),
          k: token(k, headDim, t),
          v: token(v, valueDim, t),
        }));
        const { output, state } = await page.call("steps", backend, tokens, slopes);
        output.forEach((o, t) =>
          assertClose(o, token(expected.output, valueDim, t).data, LIMIT, `token ${t}`)
        );
        assertClose(state, expected.state, LIMIT, "state");
      });

      await t.step(`splitHeads with every activation (${backend})`, async () => {
        const x = plain([2, 5, 4 * 24], 4);
        x.data = x.data.map((value) => 6 * value);
        for (const activation of ACTIVATIONS) {
          const actual = await page.call("splitHeads", backend, x, 3, activation);
          const expected = reference.splitHeads(x.data.map(Math.fround), 24, 3, activation);
          for (const part of ["q", "k", "v", "u"] as const) {
            assertClose(actual[part], expected[part], LIMIT, `${part} of ${activation}`);
          }
        }
      });

      await t.step(`decoded tokens of TransNormerLLM agree with the authors' code (${backend})`, async () => {
        const golden =
          decodeSafetensors(await Deno.readFile(new URL("expected.safetensors", GOLDEN))).tensors;
        const { bytes } = golden.get("input_ids")!;
        const ids = [...new Int32Array(bytes.slice().buffer)].slice(0, 24);
        const logits = golden.get("logits")!;
        const expected = toFloat32("F32", logits.bytes, "logits");
        const vocab = logits.shape[2];
        const actual = await page.call("decode", backend, "/golden/tnl/", ids.slice(0, 16), ids.slice(16));
        assert.equal(actual.length, 9);
        actual.forEach((row, i) => {
          const token = 15 + i;
          assertClose(
            row,
            expected.subarray(token * vocab, (token + 1) * vocab),
            1e-5,
            `logits after token ${token}`,
          );
        });
      });

      await t.step(`no tensor is left behind (${backend})`, async () => {
        assert.equal(await page.call("bytesInUse", backend), 0);
      });
    }

    assert.deepEqual(page.errors, [], "the browser reported errors");
  },
});

/** Runs a case in the browser and holds it to the oracle. Sizes are batch, heads, seqLen, headDim, valueDim. */
async function checkAttention(
  page: OpenPage,
  backend: "webgpu" | "wasm",
  [batch, heads, seqLen, headDim, valueDim]: [number, number, number, number, number],
  options: { layout?: "bhnd" | "bnhd"; cuSeqlens?: number[]; scale?: number; slopes?: undefined } = {},
): Promise<void> {
  const shapes = {
    q: [batch, heads, seqLen, headDim],
    k: [batch, heads, seqLen, headDim],
    v: [batch, heads, seqLen, valueDim],
  };
  const { layout = "bhnd", cuSeqlens, scale } = options;
  const slopes = "slopes" in options ? undefined : [...alibiSlopes(heads)];
  const [q, k, v] = [shapes.q, shapes.k, shapes.v].map((shape, i) => plain(shape, i + 1));
  const sequences = cuSeqlens === undefined ? batch : cuSeqlens.length - 1;
  const initialState = plain([sequences, heads, headDim, valueDim], 4);
  const expected = reference.lightningAttention(
    q.data,
    k.data,
    v.data,
    { batch, heads, seqLen, headDim, valueDim },
    { slopes, cuSeqlens, scale, initialState: initialState.data },
  );
  const place = ({ data, shape }: PlainTensor): PlainTensor =>
    layout === "bhnd"
      ? { data, shape }
      : { data: [...reference.toBnhd(data, shape)], shape: [shape[0], shape[2], shape[1], shape[3]] };
  const actual = await page.call("attention", backend, { q: place(q), k: place(k), v: place(v) }, {
    layout,
    cuSeqlens,
    scale,
    slopes,
    initialState,
  });
  const what = JSON.stringify({ backend, ...shapes, ...options });
  assertClose(
    actual.output,
    layout === "bhnd" ? expected.output : reference.toBnhd(expected.output, shapes.v),
    LIMIT,
    `output of ${what}`,
  );
  assertClose(actual.state, expected.state, LIMIT, `state of ${what}`);
}

/** A tab that runs `browser/page.ts`, served from this process. */
interface OpenPage extends AsyncDisposable {
  /** Calls a function of the page. */
  call<Name extends keyof Page>(name: Name, ...args: Parameters<Page[Name]>): ReturnType<Page[Name]>;
  /** What the browser's console complained about. */
  readonly errors: string[];
}

async function openPage(): Promise<OpenPage> {
  const script = await bundle(new URL("./browser/page.ts", import.meta.url));
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/") {
      return new Response(
        '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>',
        {
          headers: { "content-type": "text/html" },
        },
      );
    }
    if (pathname === "/page.js") {
      return new Response(script, { headers: { "content-type": "text/javascript" } });
    }
    const file = pathname.match(/^\/golden\/tnl\/([\w.]+)$/)?.[1];
    try {
      if (file !== undefined) return new Response(await Deno.readFile(new URL(file, GOLDEN)));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    return new Response(null, { status: 404 });
  });
  let browser: Browser | undefined;
  const close = async () => {
    await browser?.close();
    await server.shutdown();
  };
  try {
    browser = await chromium.launch({
      executablePath: findBrowser(),
      args: [
        "--no-sandbox",
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--disable-background-networking",
        "--disable-component-update",
      ],
    });
    const tab: Tab = await browser.newPage();
    const errors: string[] = [];
    tab.on("pageerror", (error) => errors.push(error.message));
    tab.on("console", (message) => {
      // A file that a checkpoint need not have is asked for, and the browser logs that as an error.
      const absent = message.text().includes("404");
      if (["error", "warning"].includes(message.type()) && !absent) errors.push(message.text());
    });
    await tab.goto(`http://127.0.0.1:${server.addr.port}/`);
    await tab.waitForFunction(() => "levin" in globalThis);
    return {
      errors,
      // deno-lint-ignore no-explicit-any -- types of this process do not reach into the page
      call: (name, ...args): any =>
        // deno-lint-ignore no-explicit-any
        tab.evaluate(([name, args]) => (globalThis as any).levin[name](...args), [name, args] as const),
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The module and all that it imports, as one script for browsers. */
async function bundle(entry: URL): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", entry.href],
    cwd: new URL("..", import.meta.url),
    stdout: "piped",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`deno bundle failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}
