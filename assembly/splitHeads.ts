// splitHeads and its gradient: joint rows of query, key, value and gate.
import { activateRow, activateRowBackward } from "./parts/activation";

/** Rows `[4 · hidden]`, `[3 · hidden]` where u is 0, to q, k (activated), v, u, rows of `hidden` each. */
export function splitHeads(
  x: usize, q: usize, k: usize, v: usize, u: usize, rows: i32, hidden: i32, headDim: i32, activation: i32,
): void {
  const row = <usize> hidden << 2;
  for (let r = 0; r < rows; r++) {
    activateRow(x, q, hidden, headDim, activation);
    activateRow(x + row, k, hidden, headDim, activation);
    memory.copy(v, x + 2 * row, row);
    if (u != 0) {
      memory.copy(u, x + 3 * row, row);
      u += row;
      x += row;
    }
    x += 3 * row;
    q += row;
    k += row;
    v += row;
  }
}

/** Rows of dq, dk, dv, du to rows `[4 · hidden]` of dx, `[3 · hidden]` where du is 0; x is what `splitHeads` split. */
export function splitHeadsBackward(
  x: usize, dq: usize, dk: usize, dv: usize, du: usize, dx: usize,
  rows: i32, hidden: i32, headDim: i32, activation: i32,
): void {
  const row = <usize> hidden << 2;
  for (let r = 0; r < rows; r++) {
    activateRowBackward(x, dq, dx, hidden, headDim, activation);
    activateRowBackward(x + row, dk, dx + row, hidden, headDim, activation);
    memory.copy(dx + 2 * row, dv, row);
    if (du != 0) {
      memory.copy(dx + 3 * row, du, row);
      du += row;
      x += row;
      dx += row;
    }
    x += 3 * row;
    dx += 3 * row;
    dq += row;
    dk += row;
    dv += row;
  }
}
