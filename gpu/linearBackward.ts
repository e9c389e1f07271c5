/**
 * Gradients of matrix products with weights.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, type Store, storeOf } from "./device.ts";
import { linear } from "./linear.ts";
import { multipleOf4, pad } from "./pad.ts";
import { sumRows } from "./sumRows.ts";
import { transpose } from "./transpose.ts";
import source from "./linearBackward.wgsl" with { type: "text" };

/** Tiles of 128 × 128 that fill a large GPU; fewer are multiplied by ranges of rows. */
const ENOUGH_TILES = 512;
/** Rows of a range at least. */
const FEW_ROWS = 256;

/** See {@linkcode GradientKernels.linearInput}: {@linkcode linear} with the weight transposed, which is small. */
export function linearInput(
  device: Device,
  dy: Tensor,
  weight: Tensor,
  residual: Tensor | undefined,
  dx: Tensor,
): void {
  const [out, inner] = weight.shape;
  using transposed = weight.backend.empty([inner, out]);
  transpose(device, storeOf(weight), [out, inner], storeOf(transposed));
  linear(device, dy, transposed, undefined, residual, dx);
}

/** See {@linkcode GradientKernels.linearWeight}. */
export function linearWeight(device: Device, dy: Tensor, x: Tensor, dWeight: Tensor): void {
  const [out, inner] = dWeight.shape;
  if (dWeight.size === 0 || x.size === 0) return;
  const rows = x.size / inner;
  const out4 = multipleOf4(out), inner4 = multipleOf4(inner);
  const target = storeOf(dWeight);

  const held: Store[] = [];
  const padded = (tensor: Tensor, from: number, to: number) => {
    if (from === to) return storeOf(tensor);
    held.push(pad(device, storeOf(tensor), [1, from], [1, to]));
    return held.at(-1)!;
  };
  try {
    const from = [padded(dy, out, out4), padded(x, inner, inner4)] as const;
    for (const outs of device.chunks(out, [target, inner])) {
      const part = target.window(outs.start * inner, outs.count * inner);
      const tiles = Math.ceil((outs.start % 4 + outs.count) / 128) * Math.ceil(inner / 128);
      const most = Math.floor(device.limits.windowBytes / (4 * part.length)); // ranges whose products can be bound
      for (const { start, count } of device.chunks(rows, [from[0], out4], [from[1], inner4])) {
        const wanted = Math.min(Math.ceil(ENOUGH_TILES / tiles), Math.ceil(count / FEW_ROWS));
        const step = Math.ceil(count / Math.max(1, Math.min(wanted, most)));
        const ranges = Math.ceil(count / step);
        const kernel = device.kernel({
          source,
          bindings: ["read", "read", "update"],
          constants: {
            BUFFERS: device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768 ? 2 : 1,
            ADD: Number(ranges === 1),
          },
        });
        const products = ranges === 1 ? part : device.allocate([ranges, part.length]);
        if (products !== part) held.push(products.store);
        device.dispatch(
          kernel,
          [
            from[0].window(start * out4, count * out4),
            from[1].window(start * inner4, count * inner4),
            products,
          ],
          [count, step, out4 / 4, inner4 / 4, outs.start, outs.count, inner, tiles * ranges],
          tiles * ranges,
        );
        if (products !== part) sumRows(device, products.store, part.length, part);
      }
    }
  } finally {
    for (const store of held) device.release(store);
  }
}

/** See {@linkcode GradientKernels.linearBias}. */
export function linearBias(device: Device, dy: Tensor, dBias: Tensor): void {
  sumRows(device, storeOf(dy), dBias.size, storeOf(dBias));
}
