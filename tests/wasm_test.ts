// What the WASM backend promises beyond its results: no permission, precompiled modules, memory.
import assert from "node:assert/strict";
import {
  alibiSlopes,
  createBackend,
  lightningAttention,
  lightningAttentionBackward,
  type Tensor,
  wasmKernels,
} from "../mod.ts";
import { linear, multiply, norm, splitHeads } from "../core/ops.ts";
import { LinearMemory } from "../wasm/memory.ts";
import { assertClose, assertSameBits, randomArray, Scope, seeded } from "./harness.ts";
import * as reference from "./reference.ts";

const SHAPE = [1, 2, 50, 8];
const SIZES = { batch: 1, heads: 2, seqLen: 50, headDim: 8, valueDim: 8 };

Deno.test("the library needs no permission: no file, no network, no environment", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const script = `${folder}/main.ts`;
    await Deno.writeTextFile(
      script,
      `import { createBackend, lightningAttention } from "${new URL("../mod.ts", import.meta.url)}";
      using backend = await createBackend({ prefer: "wasm" });
      using x = backend.tensor(new Float32Array(16).fill(1), [1, 1, 4, 4]);
      const { output } = lightningAttention(x, x, x);
      console.log((await output.data()).join(" "));`,
    );
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-prompt", script],
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    // Token t has met t + 1 equal keys, each scoring 4.
    const expected = [4, 8, 12, 16].flatMap((value) => [value, value, value, value]);
    assert.equal(new TextDecoder().decode(stdout).trim(), expected.join(" "));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("importing the library touches no GPU global", async () => {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      `for (const name of Object.getOwnPropertyNames(globalThis).filter((name) => name.startsWith("GPU"))) {
        Object.defineProperty(globalThis, name, { get() { throw new Error(name + " was touched"); } });
      }
      Object.defineProperty(navigator, "gpu", { get() { throw new Error("navigator.gpu was touched"); } });
      await import("${new URL("../mod.ts", import.meta.url)}");
      await import("${new URL("../model/mod.ts", import.meta.url)}");`,
    ],
  }).output();
  assert(success, new TextDecoder().decode(stderr));
});

Deno.test("a precompiled module runs, and hosts that forbid compiling are told about it", async () => {
  using scope = new Scope();
  for (const variant of ["relaxed", "baseline"] as const) {
    const module = new WebAssembly.Module(wasmKernels(variant));
    using backend = await createBackend({ prefer: "wasm", module });
    assert.equal(backend.info.device, `${variant} SIMD`);
    const [q, k, v] = [1, 2, 3].map((seed) => randomArray(SHAPE, seed));
    const tensors = [q, k, v].map((data) => scope.keep(backend.tensor(data, SHAPE)));
    const { output } = scope.keep(lightningAttention(tensors[0], tensors[1], tensors[2]));
    assertClose(await output.data(), reference.lightningAttention(q, k, v, SIZES).output, 2e-6);
  }
  await assert.rejects(
    createBackend({ prefer: "wasm", module: {} as never }),
    /module must be a WebAssembly.Module/,
  );
  const empty = new WebAssembly.Module(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]));
  await assert.rejects(
    createBackend({ prefer: "wasm", module: empty }),
    /module must be compiled from wasmKernels/,
  );

  const { compile } = WebAssembly;
  WebAssembly.compile = () =>
    Promise.reject(new WebAssembly.CompileError("code generation disallowed by embedder"));
  try {
    await assert.rejects(createBackend({ prefer: "wasm" }), /pass a precompiled module to createBackend/);
  } finally {
    WebAssembly.compile = compile;
  }
});

Deno.test("a call's work space does not depend on the length", async () => {
  const held = async (seqLen: number) => {
    const shape = [1, 1, seqLen, 64], bytes = 4 * seqLen * 64;
    using backend = await createBackend({ prefer: "wasm" });
    using x = backend.zeros(shape);
    for (let call = 0; call < 3; call++) {
      const { output, state } = lightningAttention(x, x, x, { slopes: [0.1] });
      output.dispose();
      state.dispose();
    }
    // The one input and the one output that live at the same time are the call's own.
    return backend.bytesReserved - 2 * bytes;
  };
  const [short, long] = [await held(1024), await held(65536)];
  assert(
    Math.abs(long - short) <= 2 * 65536,
    `work space of ${short} bytes at 1024 tokens, ${long} at 65536`,
  );
});

Deno.test("memory runs out with a clear error, and the backend stays usable", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  assert.throws(() => backend.zeros([2 ** 30]), {
    name: "BackendError",
    reason: "out-of-memory",
    message: /Cannot allocate 4294967360 bytes of WebAssembly memory, 0 of \d+ are in use: dispose tensors/,
  });
  using x = backend.tensor(randomArray(SHAPE, 1), SHAPE);
  const { output, state } = lightningAttention(x, x, x);
  assert((await output.data()).every(Number.isFinite));
  output.dispose();
  state.dispose();
});

Deno.test("the same bits for any number of threads", async () => {
  const run = async (threads: number | "auto", heads: number) => {
    using backend = await createBackend({ prefer: "wasm", threads });
    assert.equal(backend.info.threads, threads === "auto" ? navigator.hardwareConcurrency : threads);
    using scope = new Scope();
    const tensor = (shape: number[], seed: number) =>
      scope.keep(backend.tensor(randomArray(shape, seed), shape));
    const shape = [1, heads, 700, 40];
    const [q, k, v, dOutput] = [tensor(shape, 1), tensor(shape, 2), tensor(shape, 3), tensor(shape, 4)];
    const shared = tensor([1, 1, 700, 40], 5);
    const slopes = alibiSlopes(heads);
    const x = tensor([300, 130], 6), weight = tensor([210, 130], 7), row = tensor([1, 2000], 8);
    const results = [
      ...Object.values(scope.keep(lightningAttention(q, k, v, { slopes }))),
      ...Object.values(scope.keep(lightningAttentionBackward(q, k, v, dOutput, { slopes }))),
      ...Object.values(scope.keep(lightningAttentionBackward(shared, k, v, dOutput, { slopes }))),
      scope.keep(linear(x, weight)),
      scope.keep(linear(row, tensor([333, 2000], 9))),
      scope.keep(norm(x, { gate: x })),
      scope.keep(multiply(v, v)),
      ...Object.values(scope.keep(splitHeads(tensor([1, 500, 480], 10), 3, "silu"))),
    ];
    return await Promise.all(results.map((result: Tensor) => result.data()));
  };
  for (const heads of [1, 4]) {
    const expected = await run(1, heads);
    for (const threads of [2, 3, "auto"] as const) {
      (await run(threads, heads)).forEach((actual, i) => {
        assertSameBits(actual, expected[i], `result ${i} of ${heads} heads on ${threads} threads`);
      });
    }
  }
});

Deno.test("threads: a host without workers or shared memory says so; one thread works there", async () => {
  for (
    const [name, message] of [["SharedArrayBuffer", /no SharedArrayBuffer/], [
      "Worker",
      /no workers: ask for one/,
    ]]
  ) {
    const descriptor = Object.getOwnPropertyDescriptor(globalThis, name as string)!;
    Object.defineProperty(globalThis, name as string, { value: undefined, configurable: true });
    try {
      await assert.rejects(createBackend({ prefer: "wasm", threads: 2 }), {
        reason: "unavailable",
        message: message as RegExp,
      });
      using backend = await createBackend({ prefer: "wasm", threads: "auto" });
      assert.equal(backend.info.threads, 1);
    } finally {
      Object.defineProperty(globalThis, name as string, descriptor);
    }
  }
  await assert.rejects(
    createBackend({ prefer: "wasm", threads: 0 }),
    /threads must be an integer >= 1 or "auto"/,
  );
  const module = new WebAssembly.Module(wasmKernels("baseline"));
  await assert.rejects(createBackend({ prefer: "wasm", threads: 2, module }), /wasmKernels\(variant, true\)/);
  const shared = new WebAssembly.Module(wasmKernels("baseline", true));
  using backend = await createBackend({ prefer: "wasm", threads: 2, module: shared });
  assert.equal(backend.info.threads, 2);
});

Deno.test("linear memory: blocks never overlap, freed memory is reused and joins", () => {
  const memory = new LinearMemory();
  const random = seeded(7);
  const live = new Map<number, number>();
  for (let i = 0; i < 5000; i++) {
    if (live.size > 0 && random() < 0.5) {
      const offsets = [...live.keys()], offset = offsets[Math.floor(random() * offsets.length)];
      memory.free(offset);
      live.delete(offset);
    } else {
      const bytes = Math.floor(random() ** 3 * 20000), offset = memory.allocate(bytes);
      assert.equal(offset % 64, 0);
      assert(offset >= 65536 && offset + bytes <= memory.memory.buffer.byteLength);
      for (const [other, length] of live) {
        assert(offset + bytes <= other || other + length <= offset, "blocks overlap");
      }
      live.set(offset, bytes);
    }
  }
  for (const offset of live.keys()) memory.free(offset);
  assert.equal(memory.bytesInUse, 0);
  const before = memory.memory.buffer.byteLength;
  memory.allocate(before - 65536 - 64); // all that was freed is one block again
  assert.equal(memory.memory.buffer.byteLength, before);
  assert.throws(() => memory.free(123), /no live block/);
});
