// activate and its gradient: an activation of each element.
import { activateRow, activateRowBackward } from "./parts/activation";

/** output = activation(x), rows of `width`. */
export function activate(x: usize, output: usize, rows: i32, width: i32, activation: i32): void {
  const row = <usize> width << 2;
  for (let r = 0; r < rows; r++) {
    activateRow(x, output, width, width, activation);
    x += row;
    output += row;
  }
}

/** dx = dy ⊙ activation'(x), rows of `width`. */
export function activateBackward(x: usize, dy: usize, dx: usize, rows: i32, width: i32, activation: i32): void {
  const row = <usize> width << 2;
  for (let r = 0; r < rows; r++) {
    activateRowBackward(x, dy, dx, width, width, activation);
    x += row;
    dy += row;
    dx += row;
  }
}
