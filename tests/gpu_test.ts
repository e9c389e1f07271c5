import assert from "node:assert/strict";
import {
  alibiSlopes,
  Backend,
  BackendError,
  createBackend,
  type FloatType,
  lightningAttention,
  lightningAttentionBackward,
  lightningAttentionStep,
  quantize,
  type Tensor,
} from "../mod.ts";
import {
  adamw,
  crossEntropy,
  embeddingBackward,
  linearBackward,
  lrpeBackward,
  normBackward,
  splitHeadsBackward,
  sumSquares,
} from "../core/gradients.ts";
import { fromHalf, toHalf } from "../core/half.ts";
import { embedding, gatherRows, linear, lrpe, multiply, norm, splitHeads } from "../core/ops.ts";
import { callsOf } from "./calls.ts";
import { shadersModule } from "../gpu/build.ts";
import { type Device, type Store, storeOf } from "../gpu/device.ts";
import { gradients as training } from "../gpu/gradients.ts";
import { createMachine, WebgpuMachine, type WebgpuRequirements } from "../gpu/machine.ts";
import * as shaders from "../gpu/shaders.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { checkBackward } from "./attention.ts";
import {
  assertClose,
  assertSameBits,
  manyCalls,
  randomArray,
  Scope,
  SOFTWARE,
  WITHOUT_WEBGPU,
} from "./harness.ts";
import * as reference from "./reference.ts";
import * as gradients from "./reference_gradients.ts";
import { smallDevice } from "./small_device.ts";

const LIMIT = 2e-6;
const GRADIENT_LIMIT = 3e-6;
/** One rounding to 11 bits, of operands and of results. */
const HALF_LIMIT = 1e-3;

const GOLDEN = new URL("./golden/tnl/", import.meta.url);

/** Registers a test that needs an adapter, whichever it is. */
function gpuTest(
  name: string,
  body: (backend: Backend, device: Device) => Promise<void>,
  requirements?: WebgpuRequirements,
): void {
  Deno.test({
    name: `WebGPU: ${name}`,
    ignore: WITHOUT_WEBGPU,
    fn: async () => {
      const machine = await createMachine({}, "asked for by the test", {
        gradients: training,
        ...requirements,
      });
      using backend = new Backend(machine);
      await body(backend, machine.device);
    },
  });
}

const full = (value: number, length = 5) => new Float32Array(length).fill(value);

async function valueOf(tensor: Tensor): Promise<number> {
  using held = tensor;
  const data = await held.data();
  assert(data.every((value) => value === data[0]), "all elements are made equal");
  return data[0];
}

const rejectsWith = (reason: BackendError["reason"]) => (error: unknown) =>
  error instanceof BackendError && error.reason === reason;

// ------------------------------------------------------------------------------------------------- order of work

gpuTest("an upload does not overtake enqueued work that reads the old elements", async (backend) => {
  using x = backend.tensor(full(3), [5]);
  const before = multiply(x, x);
  backend.write(x, full(7));
  const after = multiply(x, x);
  assert.equal(await valueOf(before), 9);
  assert.equal(await valueOf(after), 49);
});

gpuTest("an upload from an element on reaches the pieces that it must", async (backend) => {
  const expected = Float32Array.from({ length: 64 * 5 }, (_, i) => i);
  using x = backend.tensor(expected, [5, 64]);
  assert.equal(storeOf(x).pieces.length, 5);
  for (const [start, length] of [[0, 1], [3, 64], [63, 130], [128, 64], [319, 1], [320, 0], [1, 318]]) {
    const data = new Float32Array(length).map((_, i) => -start - i);
    expected.set(data, start);
    backend.write(x, data, start);
    assert.deepEqual(await x.data(), expected);
  }
}, { limits: { windowBytes: 256 } });

gpuTest("a new tensor does not take memory from under enqueued work", async (backend) => {
  const old = backend.tensor(full(3), [5]);
  const before = multiply(old, old);
  old.dispose();
  const young = backend.tensor(full(8), [5]);
  assert.equal(await valueOf(before), 9);
  assert.equal(await valueOf(young), 8);
});

gpuTest("data() gives the elements as they were when it was called", async (backend) => {
  using x = backend.tensor(full(3), [5]);
  const first = x.data();
  backend.write(x, full(4));
  const second = x.data();
  assert.deepEqual([(await first)[0], (await second)[0]], [3, 4]);
});

gpuTest("a decoded token of a model is one submit and one readback", async (backend) => {
  using model = await TransNormerLLM.load(GOLDEN, { backend });
  using session = model.session();
  using prefilled = session.prefill([5, 17, 9]);
  await prefilled.data();
  using first = session.step(4); // pipelines and tables are made now
  await first.data();
  const counts = { submit: 0, mapAsync: 0 };
  const counted = <Name extends keyof typeof counts>(name: Name, prototype: Record<Name, unknown>) => {
    const original = prototype[name] as (...args: unknown[]) => unknown;
    return {
      value(this: unknown, ...args: unknown[]) {
        counts[name]++;
        return original.apply(this, args);
      },
    };
  };
  const submit = counted("submit", GPUQueue.prototype), mapAsync = counted("mapAsync", GPUBuffer.prototype);
  await withProperty(
    GPUQueue.prototype,
    "submit",
    submit,
    () =>
      withProperty(GPUBuffer.prototype, "mapAsync", mapAsync, async () => {
        using logits = session.step(8);
        await logits.data();
      }),
  );
  assert.deepEqual(counts, { submit: 1, mapAsync: 1 });
});

// -------------------------------------------------------------------------------------------------------- faults

gpuTest("a refused command reaches all that depends on it, and nothing else", async (backend, device) => {
  using x = backend.tensor(full(3), [5]);
  await x.data();
  using broken = backend.empty([5]);
  const kernel = device.kernel({
    code: "no WGSL",
    entryPoint: "main",
    threads: 1,
    overrides: [],
    aliases: [],
    bindings: { z: [0, "read_write"] },
    parameters: {},
  }, { access: { z: "write" } });
  device.dispatch(kernel, { z: storeOf(broken) }, {}, 1);
  using dependent = multiply(broken, x);
  await assert.rejects(broken.data(), rejectsWith("validation"));
  await assert.rejects(dependent.data(), rejectsWith("validation"));
  await assert.rejects(dependent.data(), rejectsWith("validation"), "reading again does not help");
  assert.throws(() => multiply(dependent, x), rejectsWith("validation"));
  assert.equal(await valueOf(multiply(x, x)), 9);
});

gpuTest(
  "a lost device fails what is pending, or it is right, and what comes; a new backend works",
  async (backend, device) => {
    using x = backend.tensor(full(3), [5]);
    // What is pending fails or, where it was read before the loss, is right.
    const pending = multiply(x, x).data().then((values) => [...values], rejectsWith("lost"));
    await device.lose();
    const outcome = await pending;
    if (outcome !== true) assert.deepEqual(outcome, Array(5).fill(9));
    await assert.rejects(x.data(), rejectsWith("lost"));
    assert.throws(() => multiply(x, x), rejectsWith("lost"));
    assert.throws(() => backend.tensor(full(1), [5]), rejectsWith("lost"));

    using next = await createBackend({ prefer: "webgpu" });
    using y = next.tensor(full(4), [5]);
    assert.equal(await valueOf(multiply(y, y)), 16);
  },
);

gpuTest(
  "a snapshot taken before a loss continues on a new backend, WebGPU or WASM",
  async (backend, device) => {
    const ids = [5, 17, 9, 200, 31];
    using model = await TransNormerLLM.load(GOLDEN, { backend });
    using session = model.session();
    session.prefill(ids).dispose();
    const bytes = await session.snapshot();
    using uninterrupted = session.step(77);
    const expected = await uninterrupted.data();
    await device.lose();
    assert.throws(() => session.step(78), rejectsWith("lost"));

    for (const prefer of ["webgpu", "wasm"] as const) {
      using next = await createBackend({ prefer });
      using sameModel = await TransNormerLLM.load(GOLDEN, { backend: next });
      using continued = sameModel.restore(bytes);
      using logits = continued.step(77);
      if (prefer === "webgpu") assertSameBits(await logits.data(), expected);
      else assertClose(await logits.data(), expected, 1e-5);
    }
  },
);

gpuTest("a session started on WASM continues on WebGPU", async (backend) => {
  using wasm = await createBackend({ prefer: "wasm" });
  using model = await TransNormerLLM.load(GOLDEN, { backend: wasm });
  using session = model.session();
  session.prefill([5, 17, 9, 200, 31]).dispose();
  using expected = session.step(77);

  using fresh = model.session();
  fresh.prefill([5, 17, 9, 200, 31]).dispose();
  using sameModel = await TransNormerLLM.load(GOLDEN, { backend });
  using continued = sameModel.restore(await fresh.snapshot());
  using logits = continued.step(77);
  assertClose(await logits.data(), await expected.data(), 1e-5);
});

gpuTest("a lack of memory is an error, and passes when memory is given back", async (backend) => {
  using x = backend.tensor(new Float32Array([3]), [1]);
  assert.deepEqual([...await x.data()], [3]);
  // What a device reports that has no memory left, of the batch that follows. Exhausting a software adapter would take
  // all memory of the machine; outOfMemory.ts does it to a real one.
  const { popErrorScope } = GPUDevice.prototype;
  using large = backend.zeros([2 ** 20, 32]);
  using row = gatherRows(large, [5]);
  GPUDevice.prototype.popErrorScope = function () {
    GPUDevice.prototype.popErrorScope = popErrorScope;
    return popErrorScope.call(this).then(() => new GPUOutOfMemoryError("no memory, for the test"));
  };
  try {
    await assert.rejects(row.data(), rejectsWith("out-of-memory"));
  } finally {
    GPUDevice.prototype.popErrorScope = popErrorScope;
  }
  await assert.rejects(large.data(), rejectsWith("out-of-memory"));
  assert.deepEqual([...await x.data()], [3], "what was computed before stays");
  using product = multiply(x, x);
  assert.deepEqual([...await product.data()], [9]);
  // The same size again: what the pool kept of the failure must not come back.
  using again = backend.zeros([2 ** 20, 32]);
  using sound = gatherRows(again, [5]);
  assert.deepEqual([...(await sound.data()).subarray(0, 1)], [0]);
});

Deno.test({
  name: "WebGPU: a GPU without memory says so, and works again when memory is given back",
  ignore: WITHOUT_WEBGPU || SOFTWARE, // see the test above
  fn: async () => {
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-all", "--no-lock", new URL("./outOfMemory.ts", import.meta.url).href],
      cwd: new URL("..", import.meta.url),
    }).output();
    const text = new TextDecoder().decode(stdout);
    assert(text.startsWith("{"), new TextDecoder().decode(stderr));
    assert.deepEqual(JSON.parse(text), { during: "out-of-memory", after: [9], again: [0] });
  },
});

gpuTest("attention cuts its work where tensors are cut, and copies none of them", async (backend) => {
  const shape = [1, 4, 192, 16], sizes = { batch: 1, heads: 4, seqLen: 192, headDim: 16, valueDim: 16 };
  const [q, k, v] = [1, 2, 3].map((seed) => randomArray(shape, seed));
  const slopes = alibiSlopes(4), expected = reference.lightningAttention(q, k, v, sizes, { slopes }).output;
  for (const layout of ["bhnd", "bnhd"] as const) {
    const arranged = (x: ArrayLike<number>) =>
      layout === "bnhd" ? reference.toBnhd(x, shape) : Float32Array.from(x);
    const operands = [q, k, v].map((x) =>
      backend.tensor(arranged(x), layout === "bnhd" ? [1, 192, 4, 16] : shape)
    );
    assert.equal(storeOf(operands[0]).pieces.length, 2);
    let copies = 0, output: Tensor | undefined;
    const copy = { value: () => copies++ };
    await withProperty(GPUCommandEncoder.prototype, "copyBufferToBuffer", copy, async () => {
      const [q, k, v] = operands;
      output = await Promise.resolve(lightningAttention(q, k, v, { slopes, layout }).output);
    });
    assert.equal(copies, 0, layout);
    assertClose(await output!.data(), arranged(expected), 1e-5, layout);
  }
}, { limits: { windowBytes: 192 * 4 * 16 * 4 / 2 } });

// -------------------------------------------------------------------------------------------------------- memory

gpuTest("after dispose() everything is disposed, and disposing again does nothing", async (backend) => {
  const x = backend.tensor(full(3), [5]);
  assert(backend.bytesInUse > 0);
  backend.dispose();
  assert.equal(backend.bytesInUse, 0);
  assert.equal(backend.bytesReserved, 0);
  await assert.rejects(x.data(), rejectsWith("disposed"));
  assert.throws(() => multiply(x, x), rejectsWith("disposed"));
  x.dispose();
  backend.dispose();
  assert.equal(backend.bytesInUse, 0);
});

gpuTest("disposed tensors give their memory back immediately", async (backend) => {
  using x = backend.tensor(full(3), [5]);
  await x.data();
  // More than the pool keeps, of lengths that differ too much to share buffers: twice what was in use at a time.
  const most = 2 ** 24 * 23;
  for (let i = 0; i < 20; i++) backend.empty([2 ** 22 * (4 + i)]).dispose();
  await x.data();
  assert(
    backend.bytesReserved <= 2 * most + 4096,
    `${backend.bytesReserved} bytes are still allocated`,
  );
  assert.equal(backend.bytesInUse, x.size * 4);
});

gpuTest("memory that comes again is kept, and goes when it comes no more", async (backend, device) => {
  const size = 2 ** 27, kept = 2 * size + backend.bytesReserved;
  const cycle = () => Array.from({ length: 5 }, () => backend.empty([size / 4])).forEach((x) => x.dispose());
  cycle();
  assert(backend.bytesReserved <= kept, `${backend.bytesReserved} bytes are kept after the first time`);
  cycle();
  const reserved = backend.bytesReserved;
  assert(reserved >= 5 * size, `${reserved} bytes are kept after the second time`);
  let created = 0;
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    created++;
    return createBuffer.call(this, descriptor);
  };
  try {
    for (let i = 0; i < 200; i++) {
      cycle();
      if (i % 10 === 0) device.flush();
    }
  } finally {
    GPUDevice.prototype.createBuffer = createBuffer;
  }
  assert.equal(created, 0);
  assert.equal(backend.bytesReserved, reserved);
  for (let i = 0; i < 130; i++) device.flush();
  using zero = backend.zeros([1]);
  await zero.data();
  assert(backend.bytesReserved <= kept + 2 ** 12, `${backend.bytesReserved} bytes are kept for ever`);
});

gpuTest("the same work again makes no bind group", (backend) => {
  using x = backend.zeros([6]), y = backend.zeros([6]);
  const work = () => {
    const kept = [multiply(x, y), multiply(y, y), multiply(x, x)];
    kept.push(multiply(kept[2], kept[0]));
    for (const i of [1, 3, 0, 2]) kept[i].dispose(); // another order than that of their making
  };
  work();
  let made = 0;
  const { createBindGroup } = GPUDevice.prototype;
  GPUDevice.prototype.createBindGroup = function (descriptor) {
    made++;
    return createBindGroup.call(this, descriptor);
  };
  try {
    for (let i = 0; i < 5; i++) work();
  } finally {
    GPUDevice.prototype.createBindGroup = createBindGroup;
  }
  assert.equal(made, 0);
  return Promise.resolve();
});

gpuTest("much recorded work begins before anything is read", (backend) => {
  using small = backend.zeros([4]), large = backend.zeros([2 ** 22]);
  let submits = 0;
  const { submit } = GPUQueue.prototype;
  GPUQueue.prototype.submit = function (commands) {
    submits++;
    return submit.call(this, commands);
  };
  try {
    for (let i = 0; i < 1000; i++) multiply(small, small).dispose();
    assert.equal(submits, 0);
    for (let i = 0; i < 64; i++) multiply(large, large).dispose();
    assert.equal(submits, 1);
  } finally {
    GPUQueue.prototype.submit = submit;
  }
  return Promise.resolve();
});

gpuTest("a profile has every dispatch, in its order", async (backend, device) => {
  using x = backend.tensor(full(3), [5]);
  let y: Tensor;
  const timed = await device.profile(() => {
    y = multiply(x, x);
    device.flush();
    y.dispose();
    y = norm(x);
  });
  assert.deepEqual(timed.map(({ values }) => values), [{ count: 5 }, { rows: 1, width: 5, eps: 1e-6 }]);
  assert.deepEqual(timed.map(({ bytes }) => bytes), [3 * 5 * 4, 2 * 5 * 4]);
  for (const { milliseconds } of timed) assert(milliseconds >= 0, `${milliseconds} ms`);
  const [one] = await y!.data();
  y!.dispose();
  assert(Math.abs(one - 1) < 1e-6);
});

gpuTest("many forward calls do not grow memory", async (backend) => {
  const shape = [1, 1, 3, 4];
  using q = backend.tensor(randomArray(shape, 1), shape);
  const call = () => {
    const { output, state } = lightningAttention(q, q, q, { slopes: [0.1] });
    state.dispose();
    return output;
  };
  const calls = manyCalls("webgpu");
  for (let i = 0; i < calls / 5; i++) call().dispose(); // some submits: the pool is full
  const allocated = backend.bytesReserved, held = backend.bytesInUse;
  for (let i = 0; i < calls; i++) call().dispose();
  using last = call();
  await last.data();
  assert.equal(backend.bytesInUse, held + last.size * 4);
  assert(
    backend.bytesReserved <= allocated + 4096,
    `${allocated} bytes grew to ${backend.bytesReserved}`,
  );
});

gpuTest("operations give uploads and scratch back when a dispatch throws", (backend, device) => {
  using scope = new Scope();
  const tensor = (...shape: number[]) => scope.keep(backend.tensor(randomArray(shape, 1), shape));
  const quantized = (bits: 8 | 4) =>
    scope.keep(backend.quantized(quantize(randomArray([30, 37], 2), [30, 37], { bits })));
  // Every function once, and those that upload more or take other kernels at other sizes.
  const calls = Object.entries(callsOf(backend, scope)).map(([name, { call, args, options }]) =>
    [name, () => call(...[...args, ...options === undefined ? [] : [options]] as never[])] as const
  );
  const x = tensor(70, 37), weight = tensor(30, 37), few = tensor(2, 37);
  const table = quantized(8), weight4 = quantized(4);
  const [q, k, v, states] = [
    tensor(1, 2, 300, 13),
    tensor(1, 1, 300, 13),
    tensor(1, 4, 300, 6),
    tensor(1, 4, 13, 6),
  ];
  const [q1, v1, state] = [tensor(3, 2, 13), tensor(3, 4, 6), tensor(5, 4, 13, 6)];
  const ids = Array.from({ length: 70 }, (_, i) => i % 30), options = { initialState: states };
  calls.push(
    ["lightning", () => lightningAttention(q, k, v, options)],
    ["lightningStep with rows", () => lightningAttentionStep(q1, q1, v1, state, { rows: [4, 0, 2] })],
    ["lightningBackward", () => lightningAttentionBackward(q, k, v, v, { ...options, dState: states })],
    ["embedding of a quantised table", () => embedding(table, ids)],
    ["linear, many rows", () => linear(x, weight)],
    ["linear, few rows of a quantised weight", () => linear(few, weight4)],
    ["linear, many rows of a quantised weight", () => linear(x, table)],
  );
  const operations = backend.machine.operations as unknown as Record<string, (call: never) => void>;
  const met = new Set<string>();
  const { dispatch } = device;
  for (const [name, operation] of Object.entries(operations)) {
    operations[name] = (call) => {
      met.add(name);
      operation(call);
    };
  }
  for (const [name, call] of calls) {
    // The n-th dispatch throws, for every n that the call comes to.
    for (let last = 0, thrown = true; thrown; last++) {
      const before = backend.bytesInUse;
      let count = 0;
      device.dispatch = (...operands) => {
        if (count++ === last) throw new Error("this dispatch throws");
        dispatch.apply(device, operands);
      };
      try {
        using results = new Scope();
        const result = call();
        thrown = false;
        if (result !== undefined) results.keep(result as Tensor);
      } catch (error) {
        assert.equal((error as Error).message, "this dispatch throws", name);
      } finally {
        device.dispatch = dispatch;
      }
      assert.equal(backend.bytesInUse, before, `${name}, dispatch ${last}`);
    }
  }
  assert.deepEqual([...met].sort(), Object.keys(operations).sort(), "every operation was called");
  return Promise.resolve();
});

gpuTest("reading a quantised weight gives scratch back when a dispatch throws", async (backend, device) => {
  using weight = backend.quantized(quantize(randomArray([30, 37], 2), [30, 37], { bits: 8 }));
  const before = backend.bytesInUse;
  device.dispatch = () => {
    throw new Error("this dispatch throws");
  };
  await assert.rejects(weight.data(), /this dispatch throws/);
  assert.equal(backend.bytesInUse, before);
});

// ------------------------------------------------------------------------------------------------ the seam to WGSL

Deno.test("shaders.ts is what the WGSL says, in gpu/ and in bench/baselines/", async () => {
  for (const folder of ["gpu", "bench/baselines"]) {
    const path = new URL(`../${folder}/shaders.ts`, import.meta.url);
    assert.equal(shadersModule(folder), await Deno.readTextFile(path), `${folder}: run \`deno task build\``);
  }
});

Deno.test("a dispatch whose names are not those of its WGSL does not compile", () => {
  // Only compiled: each of the marked lines would be an error without its mark, and is one with a needless mark.
  const compiled = (device: Device, x: Store) => {
    const { main } = shaders.multiply, types = { X: "f32", Y: "f32", Output: "f32" };
    const kernel = device.kernel(main, { access: { output: "write" }, types });
    device.dispatch(kernel, { x, y: x, output: x }, { count: 1 }, 1);
    // @ts-expect-error: y is missing
    device.dispatch(kernel, { x, output: x }, { count: 1 }, 1);
    // @ts-expect-error: z is misspelled
    device.dispatch(kernel, { x, y: x, output: x, z: x }, { count: 1 }, 1);
    // @ts-expect-error: count is missing
    device.dispatch(kernel, { x, y: x, output: x }, {}, 1);
    // @ts-expect-error: size is misspelled
    device.dispatch(kernel, { x, y: x, output: x }, { count: 1, size: 1 }, 1);
    // @ts-expect-error: windows and values are swapped
    device.dispatch(kernel, { count: 1 }, { x, y: x, output: x }, 1);
    // @ts-expect-error: WGSL only reads x
    device.kernel(main, { access: { output: "write", x: "write" }, types });
    // @ts-expect-error: how output is written is missing
    device.kernel(main, { access: {}, types });
    // @ts-expect-error: the alias Output is missing
    device.kernel(main, { access: { output: "write" }, types: { X: "f32", Y: "f32" } });
    // @ts-expect-error: the override ACTIVATION is missing
    device.kernel(shaders.splitHeadsBackward.main, { access: { dx: "write" } });
    const constants = { ACTIVATIONS: 1 };
    // @ts-expect-error: ACTIVATION is misspelled
    device.kernel(shaders.splitHeadsBackward.main, { access: { dx: "write" }, constants });
  };
  assert.equal(typeof compiled, "function");
});

gpuTest("pipelines differ where constants, aliases or accesses differ, and are made once", (_, device) => {
  const kernel = (ADD: boolean, SQUARE: boolean) =>
    device.kernel(shaders.sums.main, { access: { y: "update" }, constants: { SQUARE, COLUMNS: 1, ADD } });
  assert.equal(kernel(true, false), kernel(true, false));
  assert.notEqual(kernel(true, false), kernel(false, true));
  const { input } = shaders.normBackward,
    constants = { WORKGROUP: 64, AFFINE: 0, CENTRED: 0, GATED: 1, RESIDUAL: 0 };
  const first = device.kernel(input, { access: { dx: "write", dGate: "update" }, constants });
  const same = device.kernel(input, { access: { dGate: "update", dx: "write" }, constants });
  const other = device.kernel(input, { access: { dGate: "write", dx: "update" }, constants });
  assert.equal(first, same);
  assert.notEqual(first, other);
  return Promise.resolve();
});

// --------------------------------------------------------------------------------------------- limits and storage

/** Runs every operation on shapes that no limit divides evenly, and holds them to the oracle. */
async function checkOps(backend: Backend, dtype: FloatType): Promise<void> {
  using scope = new Scope();
  const limit = dtype === "f16" ? HALF_LIMIT : LIMIT;
  const store = (data: Float32Array) => dtype === "f16" ? fromHalf(toHalf(data)) : data;
  const upload = (shape: number[], seed: number, factor = 1): [Float32Array, Tensor] => {
    const data = store(randomArray(shape, seed).map((x) => factor * x));
    return [data, scope.keep(backend.tensor(data, shape, { dtype }))];
  };
  const close = async (tensor: Tensor, expected: ArrayLike<number>, what: string) =>
    assertClose(await scope.keep(tensor).data(), expected, limit, `${what}, ${dtype}`);

  const [x, tx] = upload([100, 37], 1);
  const [y, ty] = upload([100, 37], 2);
  await close(multiply(tx, ty), x.map((value, i) => value * y[i]), "multiply");
  await close(multiply(tx, tx), x.map((value) => value * value), "multiply of a tensor with itself");

  const ids = Array.from({ length: 151 }, (_, i) => i * 7919 % 100);
  await close(embedding(tx, ids, { scale: 3 }), reference.embedding(x, 37, ids, 3), "embedding");

  const [weight, tw] = upload([37], 3);
  const [bias, tb] = upload([37], 4);
  await close(norm(tx), reference.norm(x, 37, 1e-6), "SRMSNorm");
  await close(
    norm(tx, { weight: tw, bias: tb, gate: ty }),
    reference.norm(x, 37, 1e-5, { weight, bias }, y),
    "LayerNorm",
  );

  const [joint, tj] = upload([2, 13, 4 * 24], 5, 4);
  for (const activation of ["silu", "exp"] as const) {
    const actual = splitHeads(tj, 3, activation);
    const expected = reference.splitHeads(joint, 24, 3, activation);
    for (const part of ["q", "k", "v", "u"] as const) await close(actual[part], expected[part], activation);
  }

  const [theta, tt] = upload([3, 5], 6, 3);
  const [rows, tr] = upload([2, 20, 3, 5], 7);
  for (const positions of [[0, 5], [1_000_000, 2_000_000]]) {
    const expected = reference.lrpe(rows, theta, [2, 20, 3, 5], positions);
    await close(lrpe(tr, tt, positions), expected, `lrpe from ${positions}`);
  }
}

/** The same for the operations that do the work: attention, its step, and linear. */
async function checkProducts(backend: Backend, dtype: FloatType, headDim = 12): Promise<void> {
  using scope = new Scope();
  const limit = dtype === "f16" ? HALF_LIMIT : LIMIT;
  const upload = (shape: number[], seed: number): [Float32Array, Tensor] => {
    const data = fromHalf(toHalf(randomArray(shape, seed)));
    return [data, scope.keep(backend.tensor(data, shape, { dtype }))];
  };
  const [batch, heads, seqLen, valueDim] = [2, 3, 150, 20];
  const sizes = { batch, heads, seqLen, headDim, valueDim };
  const slopes = alibiSlopes(heads);
  const [q, tq] = upload([batch, heads, seqLen, headDim], 1);
  const [k, tk] = upload([batch, heads, seqLen, headDim], 2);
  const [v, tv] = upload([batch, heads, seqLen, valueDim], 3);
  const initialState = randomArray([batch, heads, headDim, valueDim], 4);
  const options = {
    slopes,
    initialState: scope.keep(backend.tensor(initialState, [batch, heads, headDim, valueDim])),
  };
  const { output, state } = scope.keep(lightningAttention(tq, tk, tv, options));
  const expected = reference.lightningAttention(q, k, v, sizes, { slopes, initialState });
  assertClose(await output.data(), expected.output, limit, `output, ${dtype}`);
  assertClose(await state.data(), expected.state, limit, `state, ${dtype}`);

  const bnhd = (x: Float32Array, dim: number) =>
    scope.keep(
      backend.tensor(reference.toBnhd(x, [batch, heads, seqLen, dim]), [batch, seqLen, heads, dim], {
        dtype,
      }),
    );
  const other = scope.keep(
    lightningAttention(bnhd(q, headDim), bnhd(k, headDim), bnhd(v, valueDim), { ...options, layout: "bnhd" }),
  );
  const arranged = reference.toBnhd(expected.output, [batch, heads, seqLen, valueDim]);
  assertClose(await other.output.data(), arranged, limit, `output of layout bnhd, ${dtype}`);
  assertClose(await other.state.data(), expected.state, limit, `state of layout bnhd, ${dtype}`);

  const [q1, tq1] = upload([batch, heads, headDim], 5);
  const [k1, tk1] = upload([batch, heads, headDim], 6);
  const [v1, tv1] = upload([batch, heads, valueDim], 7);
  const stepped = scope.keep(lightningAttentionStep(tq1, tk1, tv1, state, { slopes }));
  const after = reference.lightningAttention(q1, k1, v1, { ...sizes, seqLen: 1 }, {
    slopes,
    initialState: expected.state,
  });
  assertClose(await stepped.data(), after.output, limit, `output of a step, ${dtype}`);
  assertClose(await state.data(), after.state, limit, `state after a step, ${dtype}`);

  for (const [rows, inDim, outDim] of [[1, 40, 70], [33, 52, 75]] as const) {
    const [x, tx] = upload([rows, inDim], 8);
    const [weight, tw] = upload([outDim, inDim], 9);
    const [bias, tb] = upload([outDim], 10);
    const [residual, tr] = upload([rows, outDim], 11);
    const y = scope.keep(linear(tx, tw, { bias: tb, residual: tr }));
    assertClose(
      await y.data(),
      reference.linear(x, weight, [rows, inDim, outDim], bias, residual),
      limit,
      `linear ${rows} × ${inDim} → ${outDim}, ${dtype}`,
    );
  }
}

/** The same for gradients, which are f32. Parameters' gradients are added to what is there. */
async function checkGradients(backend: Backend): Promise<void> {
  using scope = new Scope();
  const upload = (shape: number[], seed: number): [Float32Array, Tensor] => {
    const data = randomArray(shape, seed);
    return [data, scope.keep(backend.tensor(data, shape))];
  };
  const close = async (
    tensor: Tensor,
    before: Float32Array | undefined,
    expected: Float64Array,
    what: string,
  ) =>
    assertClose(
      await scope.keep(tensor).data(),
      expected.map((value, i) => value + (before?.[i] ?? 0)),
      GRADIENT_LIMIT,
      what,
    );

  const [rows, width] = [151, 37];
  const [x, tx] = upload([rows, width], 1);
  const [gate, tg] = upload([rows, width], 2);
  const [residual, tr] = upload([rows, width], 3);
  const [d, td] = upload([rows, width], 4);
  for (const outDim of [30, 75]) {
    const [weight, tw] = upload([outDim, width], 5);
    const [dy, tdy] = upload([rows, outDim], 6);
    const [weightBefore, dWeight] = upload([outDim, width], 7);
    const [biasBefore, dBias] = upload([outDim], 8);
    const dx = scope.keep(linearBackward(tx, tw, tdy, { dWeight, dBias, residual: tr }));
    const expected = gradients.linear(x, weight, dy, [rows, width, outDim]);
    await close(dx, residual, expected.dx, "linear dx");
    await close(dWeight, weightBefore, expected.dWeight, "linear dWeight");
    await close(dBias, biasBefore, expected.dBias, "linear dBias");
  }

  const [weight, tw] = upload([width], 9);
  const [bias, tb] = upload([width], 10);
  const [weightBefore, dWeight] = upload([width], 11);
  const [biasBefore, dBias] = upload([width], 12);
  const affine = { weight: tw, bias: tb, dWeight, dBias };
  const { dx, dGate } = normBackward(tx, td, { ...affine, gate: tg, residual: tr });
  const norm = gradients.norm(x, d, width, 1e-5, { weight, bias }, gate);
  await close(dx, residual, norm.dx, "norm dx");
  await close(dGate!, undefined, norm.dGate, "norm dGate");
  await close(dWeight, weightBefore, norm.dWeight, "norm dWeight");
  await close(dBias, biasBefore, norm.dBias, "norm dBias");

  const [joint, tj] = upload([2, 13, 4 * 24], 13);
  const parts = [[3, 8], [3, 8], [3, 8], [24]].map((shape, i) => upload([2, 13, ...shape], 14 + i));
  const [dq, dk, dv, du] = parts.map(([, tensor]) => tensor);
  const incoming = parts.map(([data]) => data);
  const dJoint = splitHeadsBackward(tj, 3, "exp", { dq, dk, dv, du });
  await close(dJoint, undefined, gradients.splitHeads(joint, incoming, 24, 3, "exp"), "splitHeads");

  const [theta, tt] = upload([3, 5], 20);
  const [tokens, tokensTensor] = upload([2, 20, 3, 5], 21);
  const [dEncoded, tEncoded] = upload([2, 20, 3, 10], 22);
  const [thetaBefore, dTheta] = upload([3, 5], 23);
  const lrpe = gradients.lrpe(tokens, theta, dEncoded, [2, 20, 3, 5], [0, 500]);
  await close(lrpeBackward(tokensTensor, tt, [0, 500], tEncoded, dTheta), undefined, lrpe.dx, "lrpe dx");
  await close(dTheta, thetaBefore, lrpe.dTheta, "lrpe dTheta");

  const ids = Array.from({ length: rows }, (_, i) => i % 2 === 0 ? 5 : i * 7919 % 100);
  const [tableBefore, dTable] = upload([100, width], 24);
  embeddingBackward(ids, td, dTable, { scale: 3 });
  await close(dTable, tableBefore, gradients.embedding(ids, d, [100, width], 3), "embedding");

  const labels = ids.map((id) => id % width - 1);
  const { loss, dLogits } = crossEntropy(tx, labels, { scale: 0.5 });
  const entropy = gradients.crossEntropy(x, width, labels, 0.5);
  await close(loss, undefined, entropy.loss, "loss");
  await close(dLogits, undefined, entropy.dLogits, "dLogits");

  const squares = scope.keep(backend.zeros([1]));
  sumSquares(td, squares);
  const exact = d.reduce((sum, value) => sum + value ** 2, 0);
  await close(squares, undefined, Float64Array.of(exact), "sumSquares");
  const [first, second] = [1, 2].map(() => scope.keep(backend.zeros([rows, width])));
  const step = {
    count: 1,
    learningRate: 0.1,
    beta1: 0.9,
    beta2: 0.9,
    eps: 1e-3,
    weightDecay: 0.1,
    maxNorm: 3,
  };
  adamw(tx, td, { first, second }, squares, step);
  const stepped = [Float64Array.from(x), new Float64Array(x.length), new Float64Array(x.length)];
  gradients.adamw(stepped, d, step, exact);
  await close(tx, undefined, stepped[0], "adamw");
}

gpuTest("gradients", checkGradients);
for (const limits of [{ windowBytes: 4096, workgroups: 7 }, { windowBytes: 1536, workgroups: 3 }]) {
  gpuTest(`gradients split where a binding holds ${limits.windowBytes} bytes`, checkGradients, { limits });
}

gpuTest("gradients where a workgroup has 16 KiB, WebGPU's least", async () => {
  using backend = new Backend(new WebgpuMachine(await smallDevice(), "asked for by the test", training));
  await checkGradients(backend);
  await checkAttentionGradients(backend);
});

/** Gradients of attention with shared heads and states, over several segments, in both layouts and packed. */
async function checkAttentionGradients(backend: Backend): Promise<void> {
  const sizes = { heads: 4, headDim: 12, valueDim: 20, slopes: alibiSlopes(4), scale: 0.5, withState: true };
  await checkBackward(backend, { ...sizes, batch: 2, queryHeads: 2, seqLen: 150 });
  const packed = { ...sizes, batch: 1, cuSeqlens: [0, 40, 40, 330], seqLen: 330 };
  await checkBackward(backend, { ...packed, layout: "bnhd", queryHeads: 1, keyHeads: 2 });
  await checkBackward(backend, { ...packed, keyHeads: 1 });
}

gpuTest("gradients of attention", checkAttentionGradients);
for (const limits of [{ windowBytes: 8192, workgroups: 7 }, { windowBytes: 3072, workgroups: 3 }]) {
  gpuTest(
    `gradients of attention split where a binding holds ${limits.windowBytes} bytes`,
    checkAttentionGradients,
    { limits },
  );
}

gpuTest("gradients of attention are refused for f16", (backend) => {
  using scope = new Scope();
  const x = scope.keep(backend.zeros([1, 1, 5, 4], "f16"));
  assert.throws(
    () => lightningAttentionBackward(x, x, x, x),
    /^TypeError: Cannot run lightningAttentionBackward as q must be stored as f32/,
  );
  return Promise.resolve();
});

for (const dtype of ["f32", "f16"] as const) {
  gpuTest(`attention and linear store ${dtype}`, (backend) => checkProducts(backend, dtype));
  gpuTest(
    `attention of heads larger than a tile stores ${dtype}`,
    (backend) => checkProducts(backend, dtype, 150),
  );
  for (const limits of [{ windowBytes: 8192, workgroups: 7 }, { windowBytes: 3072, workgroups: 3 }]) {
    gpuTest(
      `attention and linear of ${dtype} split where a binding holds ${limits.windowBytes} bytes`,
      (backend) => checkProducts(backend, dtype),
      { limits },
    );
  }
  gpuTest(`operations store ${dtype}`, (backend) => checkOps(backend, dtype));
  for (const limits of [{ windowBytes: 2048, workgroups: 7 }, { windowBytes: 512, workgroups: 3 }]) {
    gpuTest(
      `operations of ${dtype} split where a binding holds ${limits.windowBytes} bytes`,
      (backend) => checkOps(backend, dtype),
      { limits },
    );
  }
}

Deno.test("halves are rounded to nearest, ties to even, and read back exactly", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const values = fromHalf(all);
  const isNumber = (_: number, i: number) => (i & 0x7fff) <= 0x7c00;
  assert.deepEqual(toHalf(values).filter(isNumber), all.filter(isNumber));
  assert(values.every((value, i) => isNumber(value, i) !== Number.isNaN(value)));
  assert(fromHalf(toHalf(full(NaN))).every(Number.isNaN));
  const between = [...randomArray([20000], 1)].flatMap((x) => [x, x * 2 ** -14, x * 2 ** -24, x * 70000]);
  const ties = [...values.filter(Number.isFinite)].map((x) => x * (1 + 2 ** -11));
  const samples = Float32Array.from([...between, ...ties, 65519, 65520, -65520, 2 ** -25, 3 * 2 ** -26]);
  assert.deepEqual(fromHalf(toHalf(samples)), samples.map(Math.f16round));
});

// -------------------------------------------------------------------------------------------------------- choice

/** Replaces a property for the time of the body. */
async function withProperty(
  target: object,
  name: string,
  descriptor: PropertyDescriptor,
  body: () => Promise<void>,
): Promise<void> {
  const original = Object.getOwnPropertyDescriptor(target, name);
  Object.defineProperty(target, name, { ...descriptor, configurable: true });
  try {
    await body();
  } finally {
    if (original !== undefined) Object.defineProperty(target, name, original);
    else delete (target as Record<string, unknown>)[name];
  }
}

/** What `createBackend` does where `navigator.gpu` is the given value. */
async function checkUnavailable(gpu: unknown, why: RegExp): Promise<void> {
  await withProperty(navigator, "gpu", { value: gpu }, async () => {
    using auto = await createBackend();
    assert.equal(auto.name, "wasm");
    assert.match(auto.info.reason, why);
    await assert.rejects(
      createBackend({ prefer: "webgpu" }),
      (error) => error instanceof BackendError && error.reason === "unavailable" && why.test(error.message),
    );
  });
}

Deno.test("createBackend says why there is no WebGPU", async () => {
  const info = { description: "a card", isFallbackAdapter: false };
  const adapter = {
    info,
    features: new Set(),
    limits: {},
    requestDevice: () => Promise.reject(new Error("no more devices")),
  };
  await checkUnavailable(undefined, /no WebGPU/);
  await checkUnavailable({ requestAdapter: () => Promise.resolve(null) }, /no GPU adapter/);
  await checkUnavailable({ requestAdapter: () => Promise.resolve(adapter) }, /no more devices/);
});

/** Runs the body with an adapter that says whether it is software in one of the two places hosts say it in. */
function withAdapter(
  software: { info?: boolean; adapter?: boolean },
  body: () => Promise<void>,
): Promise<void> {
  const { gpu } = navigator;
  const requestAdapter = async () => {
    const adapter = (await gpu.requestAdapter())!;
    return {
      info: { description: "a card", vendor: "", architecture: "", isFallbackAdapter: software.info },
      isFallbackAdapter: software.adapter,
      features: adapter.features,
      limits: adapter.limits,
      requestDevice: (descriptor: GPUDeviceDescriptor) => adapter.requestDevice(descriptor),
    };
  };
  return withProperty(navigator, "gpu", { value: { requestAdapter } }, body);
}

gpuTest(`"auto" takes a hardware adapter that passes its self-test, and no software adapter`, async () => {
  await withAdapter({ info: false }, async () => {
    using backend = await createBackend();
    assert.equal(backend.name, "webgpu", backend.info.reason);
    assert.match(backend.info.reason, /self-test/);
  });
  for (const software of [{ info: true }, { adapter: true }]) {
    await withAdapter(software, async () => {
      using auto = await createBackend();
      assert.equal(auto.name, "wasm");
      assert.match(auto.info.reason, /software/);
      using named = await createBackend({ prefer: "webgpu" });
      assert.equal(named.name, "webgpu");
    });
  }
});

gpuTest("threads that only WASM would need keep nobody from a GPU", async () => {
  await withProperty(globalThis, "SharedArrayBuffer", { value: undefined }, async () => {
    await withAdapter({ info: false }, async () => {
      using backend = await createBackend({ threads: 4 });
      assert.equal(backend.name, "webgpu", backend.info.reason);
    });
  });
  // Nor does a page that forbids WebAssembly altogether.
  const forbidden = { value: () => Promise.reject(new Error("forbidden by the page's policy")) };
  await withProperty(WebAssembly, "compile", forbidden, async () => {
    await withAdapter({ info: false }, async () => {
      using backend = await createBackend();
      assert.equal(backend.name, "webgpu", backend.info.reason);
    });
  });
});

gpuTest(`"auto" leaves a GPU alone that computes wrong numbers`, async () => {
  const skip = { value: () => {} };
  await withProperty(GPUComputePassEncoder.prototype, "dispatchWorkgroups", skip, async () => {
    await withAdapter({ info: false }, async () => {
      using backend = await createBackend();
      assert.equal(backend.name, "wasm");
      assert.match(backend.info.reason, /self-test/);
    });
  });
});

Deno.test("importing the library touches no global of WebGPU", async () => {
  const code = `
    for (const name of Object.getOwnPropertyNames(globalThis)) if (name.startsWith("GPU")) delete globalThis[name];
    Object.defineProperty(navigator, "gpu", { get() { throw new Error("navigator.gpu was touched"); } });
    for (const path of ${JSON.stringify(["mod.ts", "core/ops.ts", "model/mod.ts", "gpu/mod.ts"])}) {
      await import(${JSON.stringify(new URL("..", import.meta.url).href)} + path);
    }
    console.log("imported", typeof GPUBuffer);`;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", code],
    cwd: new URL("..", import.meta.url),
  }).output();
  assert.equal(
    new TextDecoder().decode(stdout).trim(),
    "imported undefined",
    new TextDecoder().decode(stderr),
  );
});
