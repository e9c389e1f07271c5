/**
 * Sums over whole tensors that stay on the device.
 *
 * @module
 */
import { checkOperand } from "../check.ts";
import { F32 } from "../dtype.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

/**
 * `total[0] += Σ x`, without a wait.
 *
 * @param x any shape @param total `[1]`
 * @throws {TypeError} when an argument is no tensor, or not stored as f32
 * @throws {RangeError} when total has another shape
 */
export function sum(x: Tensor, total: Tensor): void {
  checkSum("sum", x, total);
  x.backend.machine.operations.sumRows({ x, rows: x.size, width: 1, total });
}

/**
 * `total[0] += Σ x²`, without a wait: the gradients of all parameters give their global norm.
 *
 * @param x any shape @param total `[1]`
 * @throws {TypeError} when an argument is no tensor, or not stored as f32
 * @throws {RangeError} when total has another shape
 */
export function sumSquares(x: Tensor, total: Tensor): void {
  checkSum("sumSquares", x, total);
  x.backend.machine.operations.sumSquares({ x, total });
}

function checkSum(operation: string, x: Tensor, total: Tensor): void {
  checkTensor(operation, "x", x, F32);
  checkOperand(operation, "total", total, F32, x.backend, [1], "[1]");
}
