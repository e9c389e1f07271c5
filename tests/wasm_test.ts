// What the WASM backend promises beyond its results: no permission, precompiled modules, memory.
import assert from "node:assert/strict";
import {
  alibiSlopes,
  type BackendError,
  type BackendOptions,
  createBackend,
  lightningAttention,
  lightningAttentionBackward,
  type Tensor,
} from "../mod.ts";
import {
  adamw,
  crossEntropy,
  linearBackward,
  lrpeBackward,
  normBackward,
  splitHeadsBackward,
  sumSquares,
} from "../core/gradients.ts";
import { embedding, linear, lrpe, multiply, norm, scatterRows, splitHeads } from "../core/ops.ts";
import { fromBfloat16s, toBfloat16s } from "../core/bfloat16.ts";
import { Account } from "../wasm/account.ts";
import { Crew, type Kernels, ranges } from "../wasm/crew.ts";
import { LinearMemory } from "../wasm/memory.ts";
import { wasmKernels } from "../wasm/module.ts";
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

/** All gradients that threads share, each with enough work for several. */
function gradients(scope: Scope, tensor: (shape: number[], seed: number) => Tensor): Tensor[] {
  const x = tensor([300, 130], 1), weight = tensor([310, 130], 2), dy = tensor([300, 310], 3);
  const dWeight = tensor([310, 130], 4), dBias = tensor([310], 5);
  const wide = tensor([300, 1000], 6), scale = tensor([1000], 7);
  const affine = { weight: scale, bias: scale, dWeight: tensor([1000], 8), dBias: tensor([1000], 9) };
  const part = (seed: number) => tensor([1, 500, 3, 40], seed), joint = tensor([1, 500, 480], 10);
  const encoded = tensor([3, 150, 5, 100], 11), theta = tensor([5, 100], 12), dTheta = tensor([5, 100], 13);
  const positions = [0, 9, 1000];
  const moments = { first: tensor([300, 1000], 14), second: scope.keep(multiply(wide, wide)) };
  const parameter = tensor([300, 1000], 15);
  const results = [
    scope.keep(linearBackward(x, weight, dy, { dWeight, dBias, residual: x })),
    scope.keep(normBackward(wide, wide, { residual: wide }).dx),
    ...Object.values(scope.keep(normBackward(wide, wide, { gate: wide }) as { dx: Tensor; dGate: Tensor })),
    scope.keep(normBackward(wide, wide, affine).dx),
    scope.keep(
      splitHeadsBackward(joint, 3, "silu", {
        dq: part(16),
        dk: part(17),
        dv: part(18),
        du: tensor([1, 500, 120], 20),
      }),
    ),
    scope.keep(lrpe(encoded, theta, positions)),
    scope.keep(lrpeBackward(encoded, theta, positions, tensor([3, 150, 5, 200], 19), dTheta)),
    ...Object.values(scope.keep(crossEntropy(wide, Array.from({ length: 300 }, (_, i) => i - 1)))),
  ];
  adamw(parameter, wide, moments, tensor([1], 21), { count: 3, learningRate: 0.1, maxNorm: 0.5 });
  return [
    ...results,
    dWeight,
    dBias,
    affine.dWeight,
    affine.dBias,
    dTheta,
    parameter,
    ...Object.values(moments),
  ];
}

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
      ...gradients(scope, tensor),
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

Deno.test("weights in bf16 give the bits of the same weights in f32", async () => {
  const sizes = [[1, 1], [3, 5], [7, 9], [12, 17], [130, 67], [257, 33], [301, 520]];
  for (const baseline of [false, true]) {
    for (const threads of [1, 2]) {
      using backend = await createBackend({ prefer: "wasm", baseline, threads });
      for (const [inDim, outDim] of sizes) {
        using scope = new Scope();
        const tensor = (shape: number[], seed: number) =>
          scope.keep(backend.tensor(randomArray(shape, seed), shape));
        const shape = [outDim, inDim], bits = toBfloat16s(randomArray(shape, 1));
        const weight = scope.keep(backend.tensor(bits, shape, { dtype: "bf16" }));
        const wide = scope.keep(backend.tensor(fromBfloat16s(bits), shape));
        for (const rows of [1, 2, 5, 6, 17, 64, 65, 200]) {
          const x = tensor([rows, inDim], 2),
            bias = tensor([outDim], 3),
            residual = tensor([rows, outDim], 4);
          for (const options of [{}, { bias, residual }]) {
            const [actual, expected] = [weight, wide].map((w) => scope.keep(linear(x, w, options)));
            const what = `linear ${rows} × ${inDim} → ${outDim} on ${threads} threads`;
            assertSameBits(await actual.data(), await expected.data(), what);
          }
        }
        const ids = [outDim - 1, 0, outDim - 1, outDim >> 1];
        const [actual, expected] = [weight, wide].map((table) =>
          scope.keep(embedding(table, ids, { scale: 1.7 }))
        );
        assertSameBits(await actual.data(), await expected.data(), `embedding of width ${inDim}`);
      }
    }
  }
});

Deno.test("bf16 takes half the memory, and is written as numbers or as bits, also in parts", async () => {
  for (const threads of [1, 2]) {
    using backend = await createBackend({ prefer: "wasm", threads });
    using wide = backend.empty([64, 1024]);
    const bytes = backend.bytesInUse;
    using tensor = backend.zeros([64, 1024], "bf16");
    assert.equal(backend.bytesInUse - bytes, 64 + (bytes - 64) / 2); // a block has 64 bytes behind it
    assert((await tensor.data()).every((value) => Object.is(value, 0)));

    const data = randomArray(wide.shape, 1), bits = toBfloat16s(data), expected = fromBfloat16s(bits);
    backend.write(tensor, data);
    assertSameBits(await tensor.data(), expected, "written as numbers");
    backend.write(tensor, new Uint16Array(bits.length));
    for (let start = 0; start < bits.length; start += 1000) {
      const part = start % 3000 === 0 ? data : bits;
      backend.write(tensor, part.subarray(start, start + 1000), start);
    }
    assertSameBits(await tensor.data(), expected, "written in parts");
    assert.throws(() => backend.empty([2, 2], "f16"), /dtype must be "f32" or "bf16" on this wasm backend/);
  }
});

Deno.test("the same bits when long sequences are cut, whatever their number and lengths", async () => {
  const headDim = 120, valueDim = 130; // whose states make spans of a few thousand tokens
  const cases: { heads: number; slopes: number[]; cuSeqlens: number[] }[] = [
    { heads: 1, slopes: [0.01], cuSeqlens: [0, 7011] },
    { heads: 1, slopes: [0], cuSeqlens: [0, 3000, 3000, 3001, 6002] },
    { heads: 3, slopes: [4e-8, 3, 0.1], cuSeqlens: [0, 2500] },
  ];
  const counts = [1, 2, 5]; // three heads are cut for five threads
  const backends = await Promise.all(counts.map((threads) => createBackend({ prefer: "wasm", threads })));
  try {
    for (const { heads, slopes, cuSeqlens } of cases) {
      const seqLen = cuSeqlens.at(-1)!, sequences = cuSeqlens.length - 1;
      const [q, k, v, state] = [
        [1, heads, seqLen, headDim],
        [1, heads, seqLen, headDim],
        [1, heads, seqLen, valueDim],
        [sequences, heads, headDim, valueDim],
      ].map((shape, seed) => ({ shape, data: randomArray(shape, seed) }));
      for (const first of [undefined, state]) {
        const results = await Promise.all(backends.map(async (backend) => {
          using scope = new Scope();
          const tensor = ({ data, shape }: typeof q) => scope.keep(backend.tensor(data, shape));
          const initialState = first && tensor(first);
          const { output, state } = scope.keep(
            lightningAttention(tensor(q), tensor(k), tensor(v), { slopes, cuSeqlens, initialState }),
          );
          return await Promise.all([output.data(), state.data()]);
        }));
        for (const [index, [output, state]] of results.entries()) {
          const what = `${heads} heads, ${sequences} sequences on ${counts[index]} threads`;
          assertSameBits(output, results[0][0], `output of ${what}`);
          assertSameBits(state, results[0][1], `state of ${what}`);
        }
      }
    }
  } finally {
    for (const backend of backends) backend.dispose();
  }
});

/** A crew of `threads` threads over a memory for itself. */
async function crewOf(threads: number): Promise<Crew> {
  const module = new WebAssembly.Module(wasmKernels("relaxed", true)), memory = new LinearMemory(true);
  const { exports } = new WebAssembly.Instance(module, { env: { memory: memory.memory } });
  return await Crew.start(exports as unknown as Kernels, memory, module, threads);
}

Deno.test("threads: workers sleep while there is nothing to do, and wake for the next call", async () => {
  const crew = await crewOf(5);
  try {
    const x = crew.memory.allocate(4 * 4000), output = crew.memory.allocate(4 * 4000);
    crew.memory.floats(x, 4000).fill(3);
    for (let round = 1; round <= 3; round++) {
      // They look for work a moment before they sleep. Whoever does not would hold this test for ever.
      while (crew.sleeping < 4) await new Promise((resolve) => setTimeout(resolve, 1));
      crew.memory.floats(output, 4000).fill(0);
      const calls = ranges(4000, 40, 4).map(({ start, count }) => (
        { x: x + 4 * start, y: x + 4 * start, output: output + 4 * start, count }
      ));
      crew.run("multiply", calls, { work: 1e9 });
      assert(crew.memory.floats(output, 4000).every((value) => value === 9));
    }
  } finally {
    crew.dispose();
  }
});

Deno.test("threads: workers that cost more than they save rest, and are tried again", async () => {
  const crew = await crewOf(3);
  try {
    const x = crew.memory.allocate(4 * 4000), output = crew.memory.allocate(4 * 4000);
    crew.memory.floats(x, 4000).fill(3);
    /** Makes a job by a clock that advances by so many milliseconds from one look to the next. */
    const run = async (work: number, ...steps: number[]) => {
      let now = 0;
      await withGlobal("performance", { now: () => now += steps.shift() ?? 0 }, () => {
        crew.memory.floats(output, 4000).fill(0);
        // Cut as operations do: while workers rest, into nothing.
        const calls = ranges(4000, crew.parts("multiply", work), 4).map(({ start, count }) => (
          { x: x + 4 * start, y: x + 4 * start, output: output + 4 * start, count }
        ));
        crew.run("multiply", calls, { work });
        return Promise.resolve();
      });
      assert(crew.memory.floats(output, 4000).every((value) => value === 9));
    };
    const LARGE = 1e9, SMALL = 1e6;
    assert.equal(crew.parts("multiply", LARGE), 64);
    // It began, published after 150 ms, and was finished in no time: alone it would have taken none.
    await run(LARGE, 0, 150);
    assert(crew.rests("multiply", LARGE));
    assert.equal(crew.parts("multiply", LARGE), 1);
    assert(!crew.rests("norm", LARGE) && !crew.rests("multiply", LARGE + 1), "others do not");
    // 100 ms of loss are remembered. 64 times as much time makes up for them.
    await run(LARGE, 0, 6399);
    assert(crew.rests("multiply", LARGE));
    await run(LARGE, 0, 2);
    assert(!crew.rests("multiply", LARGE));
    // A trial may lose half a millisecond, and no more; and the rest after a second failure is twice as long.
    await run(LARGE, 0, 0.5);
    assert(!crew.rests("multiply", LARGE));
    await run(LARGE, 0, 0.5);
    assert(crew.rests("multiply", LARGE));
    await run(LARGE, 0, 2 * 64 * 1 - 1);
    assert(crew.rests("multiply", LARGE));
    await run(LARGE, 0, 2);
    assert(!crew.rests("multiply", LARGE));
    // Small jobs of a new kind are made alone at first.
    for (let job = 0; job < 5; job++) {
      assert(crew.rests("multiply", SMALL), `job ${job}`);
      await run(SMALL, 0, 1);
    }
    assert(!crew.rests("multiply", SMALL));
  } finally {
    crew.dispose();
  }
});

Deno.test("threads: what trials of workers lose is a small share of the time, whatever they cost", () => {
  const random = seeded(3);
  /** Jobs of 0.1 ms alone, of `kinds` kinds in turn. @returns time over that alone */
  const cost = (kinds: number, together: () => number, milliseconds: number) => {
    const accounts = Array.from({ length: kinds }, () => new Account(false));
    let time = 0, alone = 0, resting = kinds;
    for (let job = 0; alone < milliseconds; job++) {
      const account = accounts[job % kinds], was = account.resting, taken = was ? 0.1 : together();
      time += taken;
      alone += 0.1;
      if (was) account.addAlone(taken, time);
      else account.addTogether(taken, taken / 2, 0.5, time, resting);
      resting += Number(account.resting) - Number(was);
    }
    return time / alone;
  };
  for (const kinds of [1, 8, 40]) {
    // Slower always; by a little; and seldom, but by a slice of the system's.
    for (const together of [() => 0.3, () => 0.12, () => random() < 0.1 ? 4 : 0.06]) {
      const share = cost(kinds, together, 60_000);
      assert(share <= 1.02, `${share} with ${kinds} kinds`);
    }
    const helped = cost(kinds, () => 0.05, 60_000);
    assert(helped <= 0.51, `${helped} where they help`);
    // Parts that take longer in company, as workers share the core, do not hide it: jobs alone were seen.
    assert(cost(kinds, () => 0.2, 60_000) <= 1.02);
  }
  // The weather changes: they help for a second, then cost for a second, and so on.
  let jobs = 0;
  const changing = cost(8, () => Math.floor(++jobs / 10_000) % 2 === 0 ? 0.05 : 0.15, 60_000);
  assert(changing <= 1, `${changing}`);
});

Deno.test("threads: how a call is cut follows from its work, not from their number", async () => {
  const [one, two, five] = await Promise.all([1, 2, 5].map(crewOf));
  try {
    for (const work of [0, 1e5, 2e7, 1e9]) {
      assert.equal(one.parts("linear", work), 1);
      assert.equal(two.parts("linear", work), five.parts("linear", work));
    }
    assert.equal(two.parts("linear", 1e5), 1);
    assert(two.parts("linear", 1e9) >= 4 * 16);
  } finally {
    for (const crew of [one, two, five]) crew.dispose();
  }
});

/** Runs a body while a global is another, or is gone. */
async function withGlobal(name: string, value: unknown, body: () => Promise<void>): Promise<void> {
  const descriptor = Object.getOwnPropertyDescriptor(globalThis, name)!;
  Object.defineProperty(globalThis, name, { value, configurable: true });
  try {
    await body();
  } finally {
    Object.defineProperty(globalThis, name, descriptor);
  }
}

/** A worker as a host makes it that does not load its script: it says so in an event without a message. */
class RefusedWorker {
  onerror?: (event: Event) => void;
  terminated = false;
  postMessage() {
    queueMicrotask(() => this.onerror?.(new Event("error", { cancelable: true })));
  }
  terminate() {
    this.terminated = true;
  }
}

/** A worker as a host makes it that refuses it immediately. */
class ThrowingWorker {
  constructor() {
    throw new DOMException("blocked by the content security policy", "SecurityError");
  }
}

/** A worker that never answers. */
class SilentWorker extends RefusedWorker {
  static made: SilentWorker[] = [];
  constructor() {
    super();
    SilentWorker.made.push(this);
  }
  override postMessage() {}
}

Deno.test("threads: a number is had or refused, auto falls back to one thread and says why", async () => {
  // Deno has Node's workers as well; without `process` nobody can ask for them.
  const hosts: [string, unknown, RegExp][] = [
    ["SharedArrayBuffer", undefined, /no SharedArrayBuffer/],
    ["Worker process", undefined, /no workers/],
    ["Worker", RefusedWorker, /its workers do not start .*"worker-src blob:", or pass workerUrl/],
    ["Worker", ThrowingWorker, /its workers do not start .*"worker-src blob:", or pass workerUrl/],
  ];
  for (const [names, value, why] of hosts) {
    const [name, other = name] = names.split(" ");
    const without = (body: () => Promise<void>) =>
      withGlobal(name, value, () => withGlobal(other, value, body));
    await without(async () => {
      await assert.rejects(createBackend({ prefer: "wasm", threads: 2 }), (error: BackendError) => {
        assert.equal(error.reason, "unavailable");
        assert.match(error.message, why);
        assert.match(error.message, /with 2 threads as .*: ask for one thread$/);
        return true;
      });
      await withGlobal("navigator", { hardwareConcurrency: 4 }, async () => {
        using backend = await createBackend({ prefer: "wasm", threads: "auto" });
        assert.equal(backend.info.threads, 1);
        assert.match(backend.info.reason, /^asked for by name; on one thread, as /);
        assert.match(backend.info.reason, why);
        assert.equal(backend.bytesInUse, 0);
        using x = backend.tensor(new Float32Array([1, 2]), [2]);
        using y = multiply(x, x);
        assert.deepEqual([...await y.data()], [1, 4]);
      });
    });
  }
  await assert.rejects(
    createBackend({ prefer: "wasm", threads: 0 }),
    /threads must be an integer >= 1 or "auto"/,
  );
});

Deno.test("threads: modules for one and for several threads", async () => {
  const module = new WebAssembly.Module(wasmKernels("baseline"));
  const shared = new WebAssembly.Module(wasmKernels("baseline", true));
  await assert.rejects(createBackend({ prefer: "wasm", threads: 2, module }), /wasmKernels\(variant, true\)/);
  const made: [{ module: WebAssembly.Module; threads: number | "auto" }, number][] = [
    [{ threads: 2, module: shared }, 2],
    [{ threads: 1, module: shared }, 1],
    [{ threads: 1, module }, 1],
    [{ threads: "auto", module }, 1],
    [{ threads: "auto", module: shared }, 3],
  ];
  await withGlobal("navigator", { hardwareConcurrency: 3 }, async () => {
    for (const [options, threads] of made) {
      using backend = await createBackend({ prefer: "wasm", ...options });
      assert.equal(backend.info.threads, threads);
      const fellBack = options.threads === "auto" && threads === 1;
      assert.equal(/wasmKernels\(variant, true\)/.test(backend.info.reason), fellBack);
    }
  });
});

Deno.test("threads: workers start from a URL too", async () => {
  const workerUrl = new URL("../wasm/worker.ts", import.meta.url);
  const run = async (options: BackendOptions) => {
    using backend = await createBackend({ prefer: "wasm", ...options });
    using x = backend.tensor(randomArray([1, 4, 500, 32], 1), [1, 4, 500, 32]);
    using scope = new Scope();
    return await scope.keep(lightningAttention(x, x, x)).output.data();
  };
  const expected = await run({});
  for (const url of [workerUrl, workerUrl.href]) {
    assertSameBits(await run({ threads: 3, workerUrl: url }), expected);
  }
  const absent = new URL("absent.ts", workerUrl);
  await assert.rejects(createBackend({ prefer: "wasm", threads: 2, workerUrl: absent }), {
    reason: "unavailable",
    message: /its workers do not start from file:.*absent.ts: ask for one thread/,
  });
});

Deno.test("threads: an aborted creation does not wait for workers that never answer", async () => {
  await withGlobal("Worker", SilentWorker, async () => {
    for (const threads of [3, "auto"] as const) {
      const controller = new AbortController();
      SilentWorker.made = [];
      await withGlobal("navigator", { hardwareConcurrency: 3 }, async () => {
        const creation = createBackend({ prefer: "wasm", threads, signal: controller.signal });
        while (SilentWorker.made.length === 0) await new Promise((resolve) => setTimeout(resolve));
        controller.abort(new Error("enough"));
        await assert.rejects(creation, /enough/);
      });
      assert(SilentWorker.made.every((worker) => worker.terminated));
    }
  });
});

Deno.test("a disposed backend refuses every use, on any number of threads", async () => {
  for (const threads of [1, 3]) {
    const backend = await createBackend({ prefer: "wasm", threads });
    const shape = [600, 600];
    const [x, y, total] = [backend.zeros(shape), backend.zeros(shape), backend.zeros([1])];
    backend.dispose();
    backend.dispose();
    const disposed = { name: "BackendError", reason: "disposed" };
    assert.throws(() => backend.zeros([1]), disposed);
    assert.throws(() => backend.write(x, new Float32Array(360_000)), disposed);
    assert.throws(() => linear(x, y), disposed);
    assert.throws(() => scatterRows(x, Array.from({ length: 600 }, (_, i) => i), y), disposed);
    assert.throws(() => sumSquares(x, total), disposed);
    await assert.rejects(x.data(), disposed);
    assert.equal(backend.bytesInUse, 0);
    x.dispose();
  }
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
