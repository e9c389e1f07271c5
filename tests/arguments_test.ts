/**
 * Bad arguments: every public function, every argument, every kind of wrong value. The answer is an error of the
 * library that names the function and the argument; nothing is computed, and nothing is kept.
 *
 * @module
 */
import assert from "node:assert/strict";
import { norm } from "../core/ops.ts";
import { createBackend, quantize, Tensor } from "../mod.ts";
import { callsOf, type PublicCall } from "./calls.ts";
import { eachBackend, Scope } from "./harness.ts";

/** Holds a call to an error of the library. */
function assertRefused(name: string, { call }: PublicCall, args: unknown[], what: string): void {
  assert.throws(
    () => disposeAll(call(...args as never[])),
    (error: Error) => {
      const grammar = new RegExp(`^Cannot run ${name} as .+: current value is `);
      const ours = (error instanceof TypeError || error instanceof RangeError) && grammar.test(error.message);
      const gone = error.name === "BackendError" && /disposed or reshaped/.test(error.message);
      assert(ours || gone, `${name} with ${what}: ${error.name}: ${error.message}`);
      return true;
    },
    `${name} with ${what}`,
  );
}

function disposeAll(value: unknown): void {
  if (value instanceof Tensor) value.dispose();
  else if (typeof value === "object" && value !== null) Object.values(value).forEach(disposeAll);
}

/** Functions whose first argument may have any shape. */
const ANY_SHAPE = ["activate", "gatherRows", "norm", "sum", "sumSquares"];

eachBackend(
  "every argument of every function is checked: wrong kind, disposed, foreign, quantised",
  async (backend) => {
    using scope = new Scope();
    using other = await createBackend({ prefer: "wasm" });
    const gone = backend.zeros([2]);
    gone.dispose();
    const integers = scope.keep(backend.quantized(quantize(new Float32Array(36), [6, 6], { bits: 8 })));
    const unlike: Record<string, unknown> = {
      "undefined": undefined,
      "null": null,
      "a number": 0.5,
      "a string": "x",
      "an array of strings": ["x", "y"],
      "a disposed tensor": gone,
      "a tensor of another backend": other.zeros([2, 6]),
      "a tensor of other shape": scope.keep(backend.zeros([7, 7, 7, 7, 7])),
    };
    for (const [name, made] of Object.entries(callsOf(backend, scope))) {
      const { args, options = {} } = made;
      disposeAll(made.call(...args as never[])); // what is refused below is refused for its one fault
      for (let index = 0; index < args.length; index++) {
        for (const [what, value] of Object.entries(unlike)) {
          if (what === "a tensor of other shape" && index === 0 && ANY_SHAPE.includes(name)) continue;
          // The only tensor of a call says which backend computes.
          const tensors = args.filter((arg) => arg instanceof Tensor).length;
          if (what === "a tensor of another backend" && tensors === 1) continue;
          const bad = args.with(index, value);
          assertRefused(name, made, bad, `${what} as argument ${index}`);
        }
        const { size } = args[index] instanceof Tensor ? args[index] as Tensor : { size: 0 };
        const takesWeights = name === "linear" && index === 1 || name === "embedding" && index === 0;
        if (size > 0 && !takesWeights) {
          assertRefused(name, made, args.with(index, integers), `a quantised weight as argument ${index}`);
        }
      }
      for (const option of Object.keys(options)) {
        for (const [what, value] of Object.entries(unlike)) {
          if (value === undefined) continue; // the default
          assertRefused(name, made, [...args, { ...options, [option]: value }], `${what} as ${option}`);
        }
        assertRefused(
          name,
          made,
          [...args, { ...options, [option]: integers }],
          `a quantised weight as ${option}`,
        );
      }
      if (made.call.length > args.length || Object.keys(options).length > 0) {
        for (const value of [null, 1, "x"]) {
          assertRefused(
            name,
            made,
            [...args, value],
            `${value} as options`,
          );
        }
      }
    }
  },
);

eachBackend("options that are null or numbers are refused by every function that has options", (backend) => {
  using scope = new Scope();
  const functions = callsOf(backend, scope);
  for (
    const name of [
      "embedding",
      "gatherRows",
      "linear",
      "norm",
      "embeddingBackward",
      "linearBackward",
      "normBackward",
      "crossEntropy",
      "lightningAttention",
      "lightningAttentionBackward",
      "lightningAttentionStep",
    ]
  ) {
    for (const value of [null, 1, "x"]) {
      const { args } = functions[name];
      assertRefused(name, functions[name], [...args, value], `${JSON.stringify(value)} as options`);
    }
  }
});

eachBackend("tensor, empty, zeros, reshape, write and read check what they are given", async (backend) => {
  using other = await createBackend({ prefer: "wasm" });
  using x = backend.zeros([2, 2]);
  using foreign = other.zeros([2, 2]);
  for (
    const shape of [
      [-2, -2],
      [0.5, 8],
      [NaN, 4],
      [Infinity, 0],
      ["2", "2"],
      [2 ** 31, 2 ** 31],
      "22",
      null,
      4,
    ]
  ) {
    const bad = shape as number[];
    for (
      const make of [
        () => backend.tensor(new Float32Array(4), bad),
        () => backend.empty(bad),
        () => backend.zeros(bad),
        () => x.reshape(bad),
      ]
    ) assert.throws(make, /^(Type|Range)Error: Cannot run (tensor|reshape) as .*shape/, String(shape));
  }
  assert.throws(
    () => backend.zeros([1], "int8" as "f32"),
    /RangeError: Cannot run tensor as dtype must be "f32"/,
  );
  for (const data of [new Float64Array(4), [9, 9, 9, 9], new Int32Array(4), null, undefined]) {
    assert.throws(
      () => backend.write(x, data as unknown as Float32Array),
      /^TypeError: Cannot run write as data must be a Float32Array/,
    );
    assert.throws(
      () => backend.tensor(data as unknown as Float32Array, [2, 2]),
      /^TypeError: Cannot run tensor as data must be a Float32Array/,
    );
  }
  assert.throws(() => backend.write(x, new Float32Array(3)), /data must hold 4 elements/);
  assert.throws(() => backend.write(x, new Float32Array(4), 1), /data must hold at most 3 elements.*from 1/);
  for (const start of [-1, 0.5, NaN, 5]) {
    assert.throws(() => backend.write(x, new Float32Array(0), start), /start must be an integer from 0 to 4/);
  }
  assert.throws(() => backend.write(foreign, new Float32Array(4)), /tensor must belong to the same backend/);
  await assert.rejects(backend.read(foreign), /tensor must belong to the same backend/);
  await assert.rejects(backend.read({} as Tensor), /tensor must be a Tensor/);
  await assert.rejects(
    backend.read(x, [0] as unknown as Float32Array),
    /TypeError: .*into must be a Float32Array/,
  );
  await assert.rejects(backend.read(x, new Float32Array(5)), /RangeError: .*into must have 4 elements/);
  using integers = backend.quantized(quantize(new Float32Array(4), [2, 2], { bits: 4 }));
  assert.equal(integers.dtype, "int4");
  assert.throws(() => backend.write(integers, new Float32Array(4)), /tensor must not be quantised/);
  assert.throws(() => integers.reshape([4]), /a quantised weight keeps its shape/);
  assert.deepEqual([...await x.data()], [0, 0, 0, 0], "nothing was written");
  assert(!x.disposed, "a refused reshape leaves the tensor alone");
});

eachBackend("a tensor of another copy of the library is named as such", async (backend) => {
  const specifier: string = new URL("../core/tensor.ts?copy", import.meta.url).href;
  const copy: { Tensor: typeof Tensor } = await import(specifier);
  const stranger = new copy.Tensor(backend, [1], "f32", {});
  assert.throws(() => norm(stranger), /x must be a Tensor of this copy of the library: .*another copy/);
});

Deno.test("createBackend refuses options that do not exist, whatever device it would take", async () => {
  for (const prefer of ["auto", "wasm"] as const) {
    for (const threads of [0, -1, 1.5, NaN, "many", null]) {
      await assert.rejects(
        createBackend({ prefer, threads: threads as number }),
        /^RangeError: Cannot run createBackend as threads must be an integer >= 1 or "auto"/,
      );
    }
  }
  for (const prefer of ["cuda", null, 1]) {
    await assert.rejects(
      createBackend({ prefer: prefer as "auto" }),
      /prefer must be "auto", "webgpu" or "wasm"/,
    );
  }
});

eachBackend("read: into a part of the caller's memory, whatever the storage", async (backend) => {
  const elements = Float32Array.of(1, -2, 3, 4, -5, 6), bf16 = { dtype: "bf16" } as const;
  using plain = backend.tensor(elements, [2, 3]), halves = backend.tensor(elements, [3, 2], bf16);
  using odd = backend.tensor(elements.subarray(0, 5), [5], bf16);
  using integers = backend.quantized(quantize(elements, [3, 2], { bits: 8 }));
  const memory = new Float32Array(30).fill(9);
  let at = 1;
  const parts = [plain, halves, odd, integers].map((one) =>
    [one, memory.subarray(at, at += one.size)] as const
  );
  const read = await Promise.all(parts.map(([one, part]) => backend.read(one, part)));
  for (const [i, [one, part]] of parts.entries()) {
    assert.equal(read[i], part);
    assert.deepEqual(part, await one.data());
  }
  assert.deepEqual([memory[0], ...memory.subarray(at)], new Array(31 - at).fill(9));
});

eachBackend("write: from an element on, and nothing else", async (backend) => {
  using x = backend.tensor(new Float32Array(9).fill(1), [3, 3]);
  backend.write(x, Float32Array.of(2, 3), 4);
  backend.write(x, Float32Array.of(5), 8);
  backend.write(x, new Float32Array(0), 9);
  backend.write(x, Float32Array.of(7), 0);
  assert.deepEqual([...await x.data()], [7, 1, 1, 1, 2, 3, 1, 1, 5]);
});
