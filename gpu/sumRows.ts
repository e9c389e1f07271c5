/**
 * Sums over rows, in stages of fixed order: the end of every gradient of a parameter.
 *
 * @module
 */
import type { Device, Store, Window } from "./device.ts";
import source from "./sumRows.wgsl" with { type: "text" };

/** Workgroups that fill a large GPU. */
const ENOUGH_WORKGROUPS = 1024;
/** Rows per thread below which a second stage costs more than it gains. */
const FEW_ROWS = 8;

/** `target[i] += Σ_r x[r, i]` over the rows of `width` elements of x; `square`: of the squares. */
export function sumRows(device: Device, x: Store, width: number, target: Window, square = false): void {
  if (width === 0) return;
  const columns = Math.min(64, 2 ** Math.ceil(Math.log2(width)));
  const groups = Math.ceil(width / columns);
  const most = Math.ceil(ENOUGH_WORKGROUPS / groups);
  for (const { start, count } of device.chunks(x.length / width, [x, width])) {
    const rows = x.window(start * width, count * width);
    const step = Math.ceil(count / Math.min(most, Math.ceil(count * columns / (FEW_ROWS * 256))));
    const ranges = Math.ceil(count / step);
    const sum = (from: Window, to: Window, count: number, ranges: number, options: Record<string, boolean>) =>
      device.dispatch(
        device.kernel({
          source,
          bindings: ["read", "update"],
          constants: { COLUMNS: columns, SQUARE: Number(options.square), ADD: Number(options.add) },
        }),
        [from, to],
        [count, width, Math.ceil(count / ranges), ranges * groups],
        ranges * groups,
      );
    if (ranges === 1) {
      sum(rows, target, count, 1, { square, add: true });
      continue;
    }
    const sums = device.allocate([ranges, width]);
    try {
      sum(rows, sums, count, ranges, { square, add: false });
      sum(sums, target, ranges, 1, { square: false, add: true });
    } finally {
      device.release(sums);
    }
  }
}
