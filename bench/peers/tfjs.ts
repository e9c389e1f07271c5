/**
 * TensorFlow.js on its WASM backend, one thread.
 *
 * @module
 */
import { matMul, ready, setBackend, tensor2d, transpose } from "@tensorflow/tfjs-core";
import { setThreadsCount } from "@tensorflow/tfjs-backend-wasm";
import { assertClose } from "../../tests/numbers.ts";
import * as reference from "../../tests/reference.ts";
import type { Case } from "../measure/cases.ts";
import { noise } from "../measure/operands.ts";

setThreadsCount(1);
await setBackend("wasm");
await ready();

/** `matMul`. */
export async function tfjsLinearCase(rows: number, inDim: number, outDim: number): Promise<Case> {
  const xData = noise([rows, inDim], 1), weightData = noise([outDim, inDim], 2);
  const x = tensor2d(xData, [rows, inDim]);
  const weight = tensor2d(weightData, [outDim, inDim]);
  // Transposed beforehand: matMul would do it in every call.
  const transposed = transpose(weight);
  weight.dispose();
  const y = matMul(x, transposed);
  const actual = await y.data() as Float32Array;
  y.dispose();
  for (const row of new Set([0, rows >> 1, rows - 1])) {
    const expected = reference.linear(xData.subarray(row * inDim, (row + 1) * inDim), weightData, [
      1,
      inDim,
      outDim,
    ]);
    assertClose(actual.subarray(row * outDim, (row + 1) * outDim), expected, 1e-5, `row ${row} of ${rows}`);
  }
  return {
    name: "tfjs-backend-wasm matMul",
    operations: 2 * rows * inDim * outDim,
    bytes: 0,
    tokens: rows,
    run: () => matMul(x, transposed).dispose(),
    [Symbol.dispose]() {
      x.dispose();
      transposed.dispose();
    },
  };
}
