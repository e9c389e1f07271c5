/**
 * Products whose operands are anything that f32 holds: what rounding to f16 must not spoil. The bodies hold on every
 * backend; `webgpu-f16` is the one that they are for (see `units_test.ts`).
 *
 * @module
 */
import assert from "node:assert/strict";
import { linearBackward } from "../core/gradients.ts";
import { linear } from "../core/ops.ts";
import { fromBfloat16s, toBfloat16s } from "../core/bfloat16.ts";
import { precisionOptions } from "../cli/mod.ts";
import { gradients } from "../gpu/gradients.ts";
import { createMachine } from "../gpu/machine.ts";
import { units as matrixUnits } from "../gpu/units/mod.ts";
import { Backend, dequantize, quantize } from "../mod.ts";
import {
  assertClose,
  assertSameBits,
  eachBackend,
  limitOn,
  poison,
  randomArray,
  Scope,
  upload,
} from "./harness.ts";
import * as reference from "./reference.ts";
import * as gradientsOf from "./reference_gradients.ts";

/** More rows than are computed one by one, and no whole number of tiles. */
const ROWS = 139, IN = 264, OUT = 196;
const LIMIT = 3e-6;

eachBackend("products: operands of any magnitude, beyond the range of f16 too", async (backend) => {
  for (const [left, right] of [[1, 1], [1e6, 1], [1e-9, 1e-9], [1e20, 1e-18], [1e-18, 1e18], [1e-30, 1e25]]) {
    using scope = new Scope();
    const tensor = (shape: number[], seed: number, factor: number) => {
      const data = randomArray(shape, seed).map((x) => factor * x);
      return [data, scope.keep(backend.tensor(data, shape))] as const;
    };
    const [x, tx] = tensor([ROWS, IN], 1, left), [weight, tw] = tensor([OUT, IN], 2, right);
    const [dy, tdy] = tensor([ROWS, OUT], 3, left), limit = limitOn(backend, LIMIT, true);
    poison(backend, [ROWS, OUT]);
    const y = scope.keep(linear(tx, tw)), what = `${left} and ${right}`;
    assertClose(await y.data(), reference.linear(x, weight, [ROWS, IN, OUT]), limit, `y of ${what}`);
    if (left > 1e10 || left < 1e-10) continue; // dyᵀ x would lie outside of f32
    const dWeight = scope.keep(backend.zeros([OUT, IN]));
    const dx = scope.keep(linearBackward(tx, tw, tdy, { dWeight }));
    const expected = gradientsOf.linear(x, weight, dy, [ROWS, IN, OUT]);
    assertClose(await dx.data(), expected.dx, limit, `dx of ${what}`);
    assertClose(await dWeight.data(), expected.dWeight, limit, `dWeight of ${what}`);
  }
});

eachBackend("products: small elements next to large ones keep their digits", async (backend) => {
  // Each row has a magnitude of its own, from 1 down to 2^-20 of it: none is lost to the largest.
  const x = randomArray([ROWS, IN], 1).map((value, i) => value * 2 ** -(Math.floor(i / IN) % 21));
  const weight = randomArray([OUT, IN], 2);
  using tx = backend.tensor(x, [ROWS, IN]), tw = backend.tensor(weight, [OUT, IN]), y = linear(tx, tw);
  const actual = await y.data(), expected = reference.linear(x, weight, [ROWS, IN, OUT]);
  for (let row = 0; row < ROWS; row++) {
    const part = (data: ArrayLike<number>) => Array.prototype.slice.call(data, row * OUT, (row + 1) * OUT);
    assertClose(part(actual), part(expected), limitOn(backend, LIMIT), `row ${row}`);
  }
});

eachBackend("products: infinities and NaN stay in their rows, and zeros give the bias", async (backend) => {
  const x = randomArray([ROWS, IN], 1), weight = randomArray([OUT, IN], 2), bias = randomArray([OUT], 3);
  const expected = reference.linear(x, weight, [ROWS, IN, OUT], bias);
  const special = [[3, NaN], [70, Infinity], [138, -Infinity]] as const;
  for (const [row, value] of special) x[row * IN + 17] = value;
  using tx = backend.tensor(x, [ROWS, IN]), tw = backend.tensor(weight, [OUT, IN]);
  using tb = backend.tensor(bias, [OUT]), y = linear(tx, tw, { bias: tb });
  const actual = await y.data();
  for (const [row] of special) {
    assert(
      actual.subarray(row * OUT, (row + 1) * OUT).every((value) => !Number.isFinite(value)),
      `row ${row}`,
    );
  }
  const others = (data: ArrayLike<number>) =>
    Array.from(data).filter((_, i) => special.every(([row]) => row !== Math.floor(i / OUT)));
  assertClose(others(actual), others(expected), limitOn(backend, LIMIT, true), "the other rows");

  using zeros = backend.zeros([ROWS, IN]), nothing = linear(zeros, tw, { bias: tb });
  const zero = await nothing.data();
  assert(zero.every((value, i) => value === bias[i % OUT]));
});

eachBackend("products: weights of every type, and results of f16", async (backend) => {
  const x = randomArray([ROWS, IN], 1),
    data = randomArray([OUT, IN], 2),
    limit = limitOn(backend, LIMIT, true);
  using tx = backend.tensor(x, [ROWS, IN]);
  const bits = toBfloat16s(data);
  using bf16 = backend.tensor(data, [OUT, IN], { dtype: "bf16" });
  using ofBf16 = linear(tx, bf16);
  const rounded = fromBfloat16s(bits);
  assertClose(await ofBf16.data(), reference.linear(x, rounded, [ROWS, IN, OUT]), limit, "bf16");
  // WASM rounds x to integers there: quantize_test.ts holds it to that.
  for (const width of backend.name === "wasm" ? [] : [8, 4] as const) {
    const weight = quantize(data, [OUT, IN], { bits: width });
    using quantized = backend.quantized(weight), y = linear(tx, quantized);
    const expected = reference.linear(x, dequantize(weight), [ROWS, IN, OUT]);
    assertClose(await y.data(), expected, limit, `int${width}`);
  }
  if (!backend.machine.dtypes.includes("f16")) return;
  using hx = backend.tensor(x, [ROWS, IN], { dtype: "f16" }),
    hw = backend.tensor(data, [OUT, IN], { dtype: "f16" });
  using residual = backend.tensor(randomArray([ROWS, OUT], 5), [ROWS, OUT], { dtype: "f16" });
  using y = linear(hx, hw, { residual });
  const [ex, ew, er] = await Promise.all([hx.data(), hw.data(), residual.data()]);
  const expected = reference.linear(ex, ew, [ROWS, IN, OUT], undefined, er);
  assertClose(await y.data(), expected, 1e-3, "f16");
});

eachBackend(
  "products: long sums, weight gradients by ranges of rows, the same bits each time",
  async (backend) => {
    const rows = 2100, inDim = 40, outDim = 72, limit = limitOn(backend, LIMIT, true);
    const x = randomArray([rows, inDim], 1), weight = randomArray([outDim, inDim], 2);
    const dy = randomArray([rows, outDim], 3), before = randomArray([outDim, inDim], 4);
    const expected = gradientsOf.linear(x, weight, dy, [rows, inDim, outDim]);
    using tx = backend.tensor(x, [rows, inDim]), tw = backend.tensor(weight, [outDim, inDim]);
    using tdy = backend.tensor(dy, [rows, outDim]);
    const run = async () => {
      using dWeight = backend.tensor(before, [outDim, inDim]), dx = linearBackward(tx, tw, tdy, { dWeight });
      return [await dx.data(), await dWeight.data()];
    };
    const [dx, dWeight] = await run(), again = await run();
    assertClose(dx, expected.dx, limit, "dx");
    assertClose(dWeight, before.map((value, i) => value + expected.dWeight[i]), limit, "dWeight");
    assertSameBits(again[0], dx, "dx");
    assertSameBits(again[1], dWeight, "dWeight");

    const long = 3000;
    const a = randomArray([80, long], 6), b = randomArray([24, long], 7);
    using ta = backend.tensor(a, [80, long]), tb = backend.tensor(b, [24, long]), y = linear(ta, tb);
    assertClose(await y.data(), reference.linear(a, b, [80, long, 24]), limit, "sums of 3,000");
  },
);

eachBackend("products: in parts, where a device binds little", async ({ name, info }) => {
  if (name === "wasm") return; // which binds nothing
  const units = info.units !== "f32";
  const options = units ? await precisionOptions("f16") : {};
  const limits = { windowBytes: 2 ** 18, workgroups: 16 };
  const machine = await createMachine(options, "test", {
    limits,
    gradients,
    units: units ? matrixUnits : undefined,
  });
  using backend = new Backend(machine);
  // Many rows in parts; then a weight that is too large to be an operand, which the kernels of f32 take in parts.
  for (const [rows, inDim, outDim] of [[1111, 72, 44], [150, 300, 140]]) {
    using scope = new Scope();
    const [x, tx] = upload(scope, backend, [rows, inDim], 1),
      [weight, tw] = upload(scope, backend, [outDim, inDim], 2);
    const [dy, tdy] = upload(scope, backend, [rows, outDim], 3),
      [r, residual] = upload(scope, backend, [rows, outDim], 4);
    const what = `${rows} × ${inDim} → ${outDim}`, limit = limitOn(backend, LIMIT, true);
    const y = scope.keep(linear(tx, tw, { residual })), dWeight = scope.keep(backend.zeros([outDim, inDim]));
    const dx = scope.keep(linearBackward(tx, tw, tdy, { dWeight }));
    const expected = gradientsOf.linear(x, weight, dy, [rows, inDim, outDim]);
    const forward = reference.linear(x, weight, [rows, inDim, outDim], undefined, r);
    assertClose(await y.data(), forward, limit, `y of ${what}`);
    assertClose(await dx.data(), expected.dx, limit, `dx of ${what}`);
    assertClose(await dWeight.data(), expected.dWeight, limit, `dWeight of ${what}`);
  }
});
