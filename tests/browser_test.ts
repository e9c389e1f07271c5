import assert from "node:assert/strict";
import { type Browser, chromium, type Page as Tab } from "playwright-core";
import { alibiSlopes } from "../core/decay.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import { decodeSafetensors, toFloat32 } from "../model/safetensors.ts";
import type { Page, PlainTensor } from "./browser/page.ts";
import { assertClose, randomArray } from "./harness.ts";
import * as reference from "./reference.ts";
import * as gradients from "./reference_gradients.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

const LIMIT = 2e-6;
const GRADIENT_LIMIT = 3e-6;
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

      await t.step(`lightningAttentionBackward (${backend})`, async () => {
        const sizes = { batch: 1, heads: 4, queryHeads: 2, keyHeads: 1, headDim: 13, valueDim: 24 };
        const seqLen = 330, state = [1, 4, 13, 24], slopes = [...alibiSlopes(4)];
        const operands = {
          q: plain([1, 2, seqLen, 13], 1),
          k: plain([1, 1, seqLen, 13], 2),
          v: plain([1, 4, seqLen, 24], 3),
          dOutput: plain([1, 4, seqLen, 24], 4),
          initialState: plain(state, 5),
          dState: plain(state, 6),
        };
        const { q, k, v, dOutput, initialState, dState } = operands;
        const expected = reference.lightningAttentionBackward(
          q.data,
          k.data,
          v.data,
          dOutput.data,
          { ...sizes, seqLen },
          { slopes, scale: 0.3, initialState: initialState.data, dState: dState.data },
        );
        const actual = await page.call("attentionBackward", backend, operands, { slopes, scale: 0.3 });
        for (const name of ["dq", "dk", "dv", "dInitialState"] as const) {
          assertClose(actual[name], expected[name], GRADIENT_LIMIT, name);
        }
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

      await t.step(`gradients (${backend})`, async () => {
        const [rows, heads, headDim, outDim] = [300, 3, 8, 40], width = heads * headDim;
        const operands = {
          x: plain([1, rows, heads, headDim], 1),
          weight: plain([outDim, width], 2),
          dy: plain([rows, outDim], 3),
          scale: plain([width], 4),
          bias: plain([width], 5),
          gate: plain([rows, width], 6),
          dx: plain([rows, width], 7),
          theta: plain([heads, headDim], 8),
          dEncoded: plain([1, rows, heads, 2 * headDim], 9),
        };
        const ids = Array.from({ length: rows }, (_, i) => i % 3 === 0 ? 0 : i * 7 % 20);
        const actual = await page.call("gradients", backend, operands, ids);
        const [x, weight, dy] = [operands.x.data, operands.weight.data, operands.dy.data];
        const dx = operands.dx.data;
        const linear = gradients.linear(x, weight, dy, [rows, width, outDim]);
        const affine = { weight: operands.scale.data, bias: operands.bias.data };
        const norm = gradients.norm(x, dx, width, 1e-5, affine, operands.gate.data);
        const sizes = [1, rows, heads, headDim];
        const lrpe = gradients.lrpe(x, operands.theta.data, operands.dEncoded.data, sizes, [1000]);
        const entropy = gradients.crossEntropy(x, width, ids.map((id) => id - 1), 0.5);
        const stepped = [
          Float64Array.from(weight),
          new Float64Array(outDim * width),
          new Float64Array(outDim * width),
        ];
        const step = {
          count: 1,
          learningRate: 0.01,
          beta1: 0.9,
          beta2: 0.95,
          eps: 1e-8,
          weightDecay: 0.1,
          maxNorm: 1,
        };
        gradients.adamw(
          stepped,
          linear.dWeight,
          step,
          linear.dWeight.reduce((sum, value) => sum + value ** 2, 0),
        );
        const expected = {
          linearInput: linear.dx,
          linearWeight: linear.dWeight,
          linearBias: linear.dBias,
          normInput: norm.dx,
          normGate: norm.dGate,
          normWeight: norm.dWeight,
          normBias: norm.dBias,
          embedding: gradients.embedding(ids, dx, [20, width], 3),
          lrpeInput: lrpe.dx,
          lrpeTheta: lrpe.dTheta,
          loss: entropy.loss,
          logits: entropy.dLogits,
          adamw: stepped[0],
        };
        for (const name of Object.keys(expected) as (keyof typeof expected)[]) {
          assertClose(actual[name], expected[name], GRADIENT_LIMIT, name);
        }
      });

      await t.step(`splitHeadsBackward with every activation (${backend})`, async () => {
        const x = plain([2, 5, 4 * 24], 4);
        x.data = x.data.map((value) => Math.fround(6 * value));
        const headed = [2, 5, 3, 8];
        const incoming = {
          dq: plain(headed, 1),
          dk: plain(headed, 2),
          dv: plain(headed, 3),
          du: plain([2, 5, 24], 4),
        };
        const parts = [incoming.dq, incoming.dk, incoming.dv, incoming.du].map(({ data }) => data);
        for (const activation of ACTIVATIONS) {
          const actual = await page.call("splitHeadsBackward", backend, x, incoming, activation);
          assertClose(
            actual,
            gradients.splitHeads(x.data, parts, 24, 3, activation),
            GRADIENT_LIMIT,
            activation,
          );
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
    // A busy machine may take any time: what is waited for is the page itself, or its error.
    browser = await chromium.launch({
      timeout: 0,
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
    const failed = new Promise<never>((_, reject) => tab.on("pageerror", reject));
    failed.catch(() => {}); // later errors are in `errors`
    await tab.goto(`http://127.0.0.1:${server.addr.port}/`, { timeout: 0 });
    await Promise.race([tab.waitForFunction(() => "levin" in globalThis, undefined, { timeout: 0 }), failed]);
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
