/**
 * Sums over rows, in stages of fixed order: the end of every gradient of a parameter.
 *
 * @module
 */
import type { SumRowsCall, SumSquaresCall } from "../core/machine.ts";
import { type Device, type Store, storeOf, type Window } from "./device.ts";
import source from "./sums.wgsl" with { type: "text" };

/** Workgroups of the first stage that fill a large GPU. */
const FIRST_STAGE_WORKGROUPS = 1024;
/** Rows per thread below which a second stage costs more than it gains. */
const ROWS_OF_THREAD = 8;

/** See {@linkcode Operations.sumRows}. */
export function sumRows(device: Device, { x, width, total }: SumRowsCall): void {
  addRows(device, storeOf(x), width, storeOf(total));
}

/** See {@linkcode Operations.sumSquares}. */
export function sumSquares(device: Device, { x, total }: SumSquaresCall): void {
  addRows(device, storeOf(x), 1, storeOf(total), true);
}

/** `total[i] += Σ_r x[r, i]` over the rows of `width` elements of x; `square`: of the squares. */
export function addRows(device: Device, x: Store, width: number, total: Window, square = false): void {
  if (width === 0) return;
  const columns = Math.min(64, 2 ** Math.ceil(Math.log2(width)));
  const groups = Math.ceil(width / columns);
  const most = Math.ceil(FIRST_STAGE_WORKGROUPS / groups);
  for (const { start, count } of device.chunks(x.length / width, [x, width])) {
    const rows = x.window(start * width, count * width);
    const step = Math.ceil(count / Math.min(most, Math.ceil(count * columns / (ROWS_OF_THREAD * 256))));
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
      sum(rows, total, count, 1, { square, add: true });
      continue;
    }
    using scope = device.scope();
    const sums = scope.allocate([ranges, width]);
    sum(rows, sums, count, ranges, { square, add: false });
    sum(sums, total, ranges, 1, { square: false, add: true });
  }
}
