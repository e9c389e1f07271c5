/**
 * Sums over rows, in stages of fixed order: the end of every gradient of a parameter.
 *
 * @module
 */
import type { SumRowsCall, SumSquaresCall } from "../core/machine.ts";
import { type Device, type Store, storeOf, type Window } from "./device.ts";
import * as shaders from "./shaders.ts";

/** Workgroups of the first stage that fill a large GPU. */
const FIRST_STAGE_WORKGROUPS = 1024;
/** Columns from which each has a thread to itself: there are enough, and few rows, those of a weight's gradient. */
const MANY_COLUMNS = 2 ** 16;
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
  const { threads } = shaders.sums.main;
  const shared = Math.min(64, 2 ** Math.ceil(Math.log2(width)));
  const columns = width >= MANY_COLUMNS ? threads : shared;
  const groups = Math.ceil(width / columns);
  const most = Math.ceil(FIRST_STAGE_WORKGROUPS / Math.ceil(width / shared));
  const stage = (x: Window, y: Window, rows: number, ranges: number, SQUARE: boolean, ADD: boolean) => {
    const kernel = device.kernel(shaders.sums.main, {
      access: { y: "update" },
      constants: { COLUMNS: columns, SQUARE, ADD },
    });
    const workgroups = ranges * groups;
    device.dispatch(
      kernel,
      { x, y },
      { rows, width, step: Math.ceil(rows / ranges), workgroups },
      workgroups,
    );
  };
  for (const { start, count } of device.chunks(x.length / width, [x, width])) {
    const rows = x.window(start * width, count * width);
    const worthwhile = Math.ceil(count * columns / (ROWS_OF_THREAD * threads));
    const ranges = Math.ceil(count / Math.ceil(count / Math.min(most, worthwhile)));
    if (ranges === 1) {
      stage(rows, total, count, 1, square, true);
      continue;
    }
    using scope = device.scope();
    const sums = scope.allocate([ranges, width]);
    stage(rows, sums, count, ranges, square, false);
    stage(sums, total, ranges, 1, false, true);
  }
}
