/**
 * Matrix products with weights: tiles of the result, or, for few rows, one pass over the weight.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { FEW_ROWS } from "../core/tile.ts";
import { type Device, type Store, storeOf } from "./device.ts";
import { multipleOf4, pad } from "./pad.ts";
import source from "./linear.wgsl" with { type: "text" };
import outer from "./outer.wgsl" with { type: "text" };

const SOURCE = source + outer;

/** Rows that `fewRows` takes in one pass over the weight. */
const ROWS_AT_ONCE = 16;
/** Tiles of 128 × 128 that fill a large GPU; fewer are cut into tiles of 64 × 64. */
const ENOUGH_TILES = 128;

/** See {@linkcode Kernels.linear}. */
export function linear(
  device: Device,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  residual: Tensor | undefined,
  output: Tensor,
): void {
  const [out, inner] = weight.shape;
  if (output.size === 0) return;
  const rows = output.size / out;
  const few = rows <= FEW_ROWS;
  const inner4 = multipleOf4(inner), out4 = few ? out : multipleOf4(out);

  const held: Store[] = [];
  const padded = (tensor: Tensor, from: number, to: number) => {
    const store = storeOf(tensor);
    if (from === to) return store;
    held.push(pad(device, store, [1, from], [1, to]));
    return held.at(-1)!;
  };
  try {
    const result = out === out4 ? storeOf(output) : device.allocate([rows, out4], output.dtype);
    if (out !== out4) held.push(result);
    multiply(device, {
      x: padded(x, inner, inner4),
      weight: padded(weight, inner, inner4),
      bias: bias && padded(bias, out, out4),
      residual: residual && padded(residual, out, out4),
      output: result,
      rows,
      inner: inner4,
      out,
      stride: out4,
    });
    if (out !== out4) pad(device, result, [1, out4], [1, out], storeOf(output));
  } finally {
    for (const store of held) device.release(store);
  }
}

interface Product {
  x: Store;
  weight: Store;
  bias: Store | undefined;
  residual: Store | undefined;
  output: Store;
  rows: number;
  inner: number;
  /** Rows of the weight. */
  out: number;
  /** Elements of a row of the output: `out`, padded. */
  stride: number;
}

function multiply(
  device: Device,
  { x, weight, bias, residual, output, rows, inner, out, stride }: Product,
): void {
  const few = rows <= FEW_ROWS;
  const wide = Math.ceil(rows / 128) * Math.ceil(out / 128) >= ENOUGH_TILES;
  const edge = wide ? 128 : 64;
  const team = inner >= 2048 ? 128 : inner >= 1024 ? 64 : 32;
  const kernel = device.kernel({
    source: SOURCE,
    entryPoint: few ? "fewRows" : "tiled",
    bindings: ["read", "read", "read", "read", "update"],
    types: {
      X: x.dtype,
      Weight: weight.dtype,
      Bias: bias?.dtype ?? "f32",
      Residual: residual?.dtype ?? "f32",
      Output: output.dtype,
    },
    constants: {
      WIDE: Number(wide),
      THREADS: wide ? 256 : 128,
      BUFFERS: device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768 ? 2 : 1,
      TEAM: team,
      ROWS: rows === 1 ? 1 : Math.min(multipleOf4(rows), ROWS_AT_ONCE),
      BIAS: Number(bias !== undefined),
      RESIDUAL: Number(residual !== undefined),
    },
  });
  // Windows of the weight start at whole vectors of the output.
  const fit = Math.floor(device.limits.windowBytes / (inner * weight.elementBytes));
  const step = weight.pieces.length === 1 ? out : fit - fit % (fit < 128 ? 4 : 128);
  const residualRows = residual === undefined ? [] : [[residual, stride] as const];
  for (const { start, count } of device.chunks(rows, [x, inner], [output, stride], ...residualRows)) {
    const result = [start * stride, count * stride] as const;
    for (let column = 0; column < out; column += step) {
      const columns = Math.min(step, out - column);
      const workgroups = few
        ? Math.ceil(columns / (4 * 128 / team)) * Math.ceil(count / ROWS_AT_ONCE)
        : Math.ceil(count / edge) * Math.ceil(columns / edge);
      device.dispatch(
        kernel,
        [
          x.window(start * inner, count * inner),
          weight.window(column * inner, columns * inner),
          bias ?? device.nothing,
          residual?.window(...result) ?? device.nothing,
          output.window(...result),
        ],
        [count, inner / 4, columns, column, stride, workgroups],
        workgroups,
      );
    }
  }
}
