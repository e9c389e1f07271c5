/**
 * Matrix products with weights, and their gradients: tiles of the result, or, for few rows, one pass over the weight.
 *
 * @module
 */
import type { LinearBackwardCall, LinearCall, NormLinearCall } from "../core/machine.ts";
import { FEW_ROWS } from "../core/sizes.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, type Store, storeOf } from "./device.ts";
import { multiplyFewRows, vectorsOfRows, type WeightRows } from "./fewRows.ts";
import { multipleOf4, pad, padded } from "./pad.ts";
import { elementsOf, integerRows } from "./quantized.ts";
import * as shaders from "./shaders.ts";
import { roundUp } from "./store.ts";
import { addRows } from "./sums.ts";

/** Tiles of 128 × 128 that fill a large GPU; a product of fewer is cut into tiles of 64 × 64. */
const FORWARD_TILES = 128;
/** The same for the gradient of the weight; fewer are multiplied by ranges of rows. */
const BACKWARD_TILES = 512;
/** Rows of such a range at least. */
const RANGE_ROWS = 256;

/** See {@linkcode Operations.linear}. */
export function linear(device: Device, call: LinearCall): void {
  const { rows, inDim, outDim } = call;
  if (call.output.size === 0) return;
  if (rows <= FEW_ROWS) return multiplyRows(device, call);
  const x = storeOf(call.x), bias = call.bias && storeOf(call.bias), output = storeOf(call.output);
  const residual = call.residual && storeOf(call.residual);
  using scope = device.scope();
  // For few rows a quantised weight is dequantised on the way into each product, for many once before all of them.
  const weight = elementsOf(scope, call.weight, output.dtype);
  const inside = multipleOf4(inDim), outside = multipleOf4(outDim);
  const inputs = (store: Store) => padded(scope, store, [1, inDim], [1, inside]);
  const outputs = (store: Store) => padded(scope, store, [1, outDim], [1, outside]);
  const result = outDim === outside ? output : scope.allocate([rows, outside], output.dtype);
  multiplyManyRows(device, {
    x: inputs(x),
    weight: inputs(weight),
    bias: bias && outputs(bias),
    residual: residual && outputs(residual),
    output: result,
    rows,
    inDim: inside,
    outDim,
    stride: outside,
  });
  if (outDim !== outside) pad(device, result, [1, outside], [1, outDim], output);
}

/** See {@linkcode Fused.normLinear}. The norm is a factor of each row, which is found on the way. */
export function normLinear(device: Device, call: NormLinearCall): void {
  if (call.output.size > 0) multiplyRows(device, call, call);
}

/** The product of a call of few rows, whatever stores its weight. */
function multiplyRows(
  device: Device,
  { x, weight, bias, residual, output, rows, inDim, outDim }: LinearCall,
  norm?: Pick<NormLinearCall, "normed" | "eps" | "gate">,
): void {
  using scope = device.scope();
  const rowsOf = (weight: Tensor): WeightRows => {
    if (weight.quantization !== undefined) return integerRows(weight, weight.quantization);
    const inside = roundUp(inDim, 8);
    return { store: padded(scope, storeOf(weight), [1, inDim], [1, inside]), rowLength: inside, inside };
  };
  const operand = rowsOf(weight), gate = norm?.gate;
  const inputs = (tensor: Tensor) => padded(scope, storeOf(tensor), [1, inDim], [1, operand.inside]);
  const own = inputs(x);
  multiplyFewRows(device, {
    x: own,
    weight: operand,
    bias: bias && storeOf(bias),
    residual: residual && storeOf(residual),
    output: storeOf(output),
    rows,
    inDim,
    outDim,
    norm: norm && { normed: norm.normed.storage === x.storage ? own : inputs(norm.normed), eps: norm.eps },
    gate: gate && { weight: rowsOf(gate.weight), bias: gate.bias && storeOf(gate.bias) },
  });
}

/** A product of many rows whose operands can be read as vectors. */
interface Product {
  /** `[rows, inDim]` */
  readonly x: Store;
  /** `[outDim, inDim]` */
  readonly weight: Store;
  /** `[stride]` */
  readonly bias: Store | undefined;
  /** `[rows, stride]` */
  readonly residual: Store | undefined;
  /** `[rows, stride]` */
  readonly output: Store;
  readonly rows: number;
  /** A multiple of 4. */
  readonly inDim: number;
  readonly outDim: number;
  /** outDim, or the next multiple of 4. */
  readonly stride: number;
}

function multiplyManyRows(device: Device, product: Product): void {
  const { x, weight, bias, residual, output, rows, inDim, outDim, stride } = product;
  const wide = Math.ceil(rows / 128) * Math.ceil(outDim / 128) >= FORWARD_TILES, edge = wide ? 128 : 64;
  const kernel = device.kernel(shaders.linear.tiled, {
    access: { output: "update" },
    types: {
      X: x.dtype,
      Weight: weight.dtype,
      Bias: bias?.dtype ?? "f32",
      Residual: residual?.dtype ?? "f32",
      Output: output.dtype,
    },
    constants: {
      WIDE: wide,
      THREADS: wide ? 256 : 128,
      BUFFERS: buffersOf(device),
      PACKED: weight.dtype === "bf16",
      BIAS: bias !== undefined,
      RESIDUAL: residual !== undefined,
    },
  });
  const residualRows = residual === undefined ? [] : [[residual, stride] as const];
  for (const { start, count } of device.chunks(rows, [x, inDim], [output, stride], ...residualRows)) {
    const first = start * stride, length = count * stride;
    for (const bound of vectorsOfRows(device, weight, outDim, inDim)) {
      const workgroups = Math.ceil(count / edge) * Math.ceil(bound.count / edge);
      device.dispatch(
        kernel,
        {
          x: x.window(start * inDim, count * inDim),
          weight: weight.window(bound.start * inDim, bound.count * inDim),
          bias: bias ?? device.nothing,
          residual: residual?.window(first, length) ?? device.nothing,
          output: output.window(first, length),
        },
        {
          rows: count,
          inVectors: inDim / 4,
          outCount: bound.count,
          firstOut: bound.start,
          stride,
          workgroups,
        },
        workgroups,
      );
    }
  }
}

/** Buffers of each kind in workgroup memory: two overlap loading with computing. */
function buffersOf(device: Device): number {
  return device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768 ? 2 : 1;
}

/** See {@linkcode Operations.linearBackward}. */
export function linearBackward(device: Device, call: LinearBackwardCall): void {
  const { x, weight, dy, residual, rows, inDim, outDim, dx, dWeight } = call;
  const out4 = multipleOf4(outDim), in4 = multipleOf4(inDim);
  using scope = device.scope();
  const incoming = padded(scope, storeOf(dy), [1, outDim], [1, out4]);
  if (dx.size > 0) {
    const inputs = (store: Store) => padded(scope, store, [1, inDim], [1, in4]);
    const result = inDim === in4 ? storeOf(dx) : scope.allocate([rows, in4]);
    multiplyByTransposed(
      device,
      incoming,
      inputs(storeOf(weight)),
      residual && inputs(storeOf(residual)),
      result,
      [rows, in4, outDim],
    );
    if (inDim !== in4) pad(device, result, [1, in4], [1, inDim], storeOf(dx));
  }
  if (dWeight !== undefined && dWeight.size > 0 && x.size > 0) {
    addWeightGradient(device, incoming, storeOf(x), storeOf(dWeight), [rows, inDim, outDim]);
  }
}

/** `dx = dy weight + residual`: dy `[rows, outDim]`, padded to a multiple of 4; inDim is a multiple of 4. */
function multiplyByTransposed(
  device: Device,
  dy: Store,
  weight: Store,
  residual: Store | undefined,
  dx: Store,
  [rows, inDim, outDim]: readonly [number, number, number],
): void {
  if (outDim === 0) {
    return residual === undefined ? device.clear(dx) : pad(device, residual, [1, inDim], [1, inDim], dx);
  }
  const out4 = multipleOf4(outDim);
  const wide = Math.ceil(rows / 128) * Math.ceil(inDim / 128) >= FORWARD_TILES, edge = wide ? 128 : 64;
  const residualRows = residual === undefined ? [] : [[residual, inDim] as const];
  for (const { start, count } of device.chunks(rows, [dy, out4], [dx, inDim], ...residualRows)) {
    const workgroups = Math.ceil(count / edge) * Math.ceil(inDim / edge);
    const part = (store: Store) => store.window(start * inDim, count * inDim);
    for (const terms of vectorsOfRows(device, weight, outDim, inDim)) {
      const first = terms.start === 0;
      const kernel = device.kernel(shaders.linearBackward.input, {
        access: { dx: "update" },
        constants: {
          WIDE: wide,
          THREADS: wide ? 256 : 128,
          BUFFERS: buffersOf(device),
          RESIDUAL: first && residual !== undefined,
          ADD: !first,
        },
      });
      device.dispatch(
        kernel,
        {
          dy: dy.window(start * out4, count * out4),
          weight: weight.window(terms.start * inDim, terms.count * inDim),
          residual: first && residual !== undefined ? part(residual) : device.nothing,
          dx: part(dx),
        },
        {
          rows: count,
          terms: terms.count,
          firstTerm: terms.start,
          outVectors: out4 / 4,
          inVectors: inDim / 4,
          workgroups,
        },
        workgroups,
      );
    }
  }
}

/**
 * `dWeight += dyᵀ x`: tiles of dWeight over ranges of rows, whose products are then added up. dy is padded to a multiple
 * of 4.
 */
function addWeightGradient(
  device: Device,
  left: Store,
  x: Store,
  dWeight: Store,
  [rows, inDim, outDim]: readonly [number, number, number],
): void {
  const out4 = multipleOf4(outDim), in4 = multipleOf4(inDim);
  using scope = device.scope();
  const right = padded(scope, x, [1, inDim], [1, in4]);
  const { weights, constants: { EDGE } } = shaders.linearBackward;
  for (const bound of device.chunks(outDim, [dWeight, inDim])) {
    const part = dWeight.window(bound.start * inDim, bound.count * inDim);
    const tiles = Math.ceil((bound.start % 4 + bound.count) / EDGE) * Math.ceil(inDim / EDGE);
    const most = Math.floor(device.limits.windowBytes / (4 * part.length)); // ranges whose products can be bound
    for (const { start, count } of device.chunks(rows, [left, out4], [right, in4])) {
      const wanted = Math.min(Math.ceil(BACKWARD_TILES / tiles), Math.ceil(count / RANGE_ROWS));
      const step = Math.ceil(count / Math.max(1, Math.min(wanted, most)));
      const ranges = Math.ceil(count / step), workgroups = tiles * ranges;
      const kernel = device.kernel(weights, {
        access: { dWeight: "update" },
        constants: {
          WIDE: true,
          THREADS: 256,
          RESIDUAL: false,
          BUFFERS: buffersOf(device),
          ADD: ranges === 1,
        },
      });
      using scratch = device.scope();
      const products = ranges === 1 ? undefined : scratch.allocate([ranges, part.length]);
      device.dispatch(
        kernel,
        {
          dy: left.window(start * out4, count * out4),
          x: right.window(start * in4, count * in4),
          dWeight: products ?? part,
        },
        {
          rows: count,
          step,
          dyStride: out4 / 4,
          xStride: in4 / 4,
          firstOut: bound.start,
          outCount: bound.count,
          inDim,
          workgroups,
        },
        workgroups,
      );
      if (products !== undefined) addRows(device, products, part.length, part);
    }
  }
}
