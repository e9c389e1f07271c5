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
export async function tfjsLinearCase(rows: number, inner: number, out: number): Promise<Case> {
  const xData = noise([rows, inner], 1), weightData = noise([out, inner], 2);
  const x = tensor2d(xData, [rows, inner]);
  const weight = tensor2d(weightData, [out, inner]);
  // Transposed beforehand: matMul would do it in every call.
  const transposed = transpose(weight);
  weight.dispose();
  const y = matMul(x, transposed);
  const actual = await y.data() as Float32Array;
  y.dispose();
  for (const row of new Set([0, rows >> 1, rows - 1])) {
    const expected = reference.linear(xData.subarray(row * inner, (row + 1) * inner), weightData, [
      1,
      inner,
      out,
    ]);
    assertClose(actual.subarray(row * out, (row + 1) * out), expected, 1e-5, `row ${row} of ${rows}`);
  }
  return {
    name: "tfjs-backend-wasm matMul",
    operations: 2 * rows * inner * out,
    bytes: 0,
    tokens: rows,
    run: () => matMul(x, transposed).dispose(),
    [Symbol.dispose]() {
      x.dispose();
      transposed.dispose();
    },
  };
}
