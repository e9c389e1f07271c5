/**
 * Linear, with plain or quantised weights, and its gradients.
 *
 * @module
 */
import { elementBytes, type FloatType } from "../core/dtype.ts";
import type { LinearBackwardCall, LinearCall } from "../core/machine.ts";
import type { Quantization } from "../core/quantize.ts";
import { FEW_ROWS, TILE_COLUMNS, TILE_ROWS } from "../core/sizes.ts";
import { type Crew, ranges } from "./crew.ts";
import { at } from "./operands.ts";
import { BLOCK_OUT_DIM, blockBytes } from "./quantized.ts";

/** See `Operations.linear`. */
export function linear(crew: Crew, call: LinearCall): void {
  const { x, weight, bias, residual, rows, inDim, outDim, output } = call;
  if (weight.quantization !== undefined) return linearQuantized(crew, call, weight.quantization);
  const weightBytes = elementBytes(weight.dtype as FloatType);
  const scratch = crew.scratch(crew.call("linearScratch", { rows, inDim, outDim }));
  // Each thread takes some rows; of one row, some outputs.
  const rowRanges = rows <= FEW_ROWS ? ranges(rows, crew.threads, TILE_ROWS) : manyRows(crew, rows);
  const outRanges = ranges(outDim, rows === 1 ? crew.threads : 1, TILE_COLUMNS);
  const calls = rowRanges.flatMap((row) =>
    outRanges.map((out) => ({
      x: at(x, row.start * inDim),
      weight: at(weight, out.start * inDim),
      bias: at(bias, out.start),
      residual: at(residual, row.start * outDim + out.start),
      output: at(output, row.start * outDim + out.start),
      rows: row.count,
      inDim,
      outDim: out.count,
      weightBytes,
    }))
  );
  crew.run("linear", calls, { work: rows * weight.size, scratch });
}

/** How a blocked product is cut: not at all unless each part has many rows, as each thread packs the other operand. */
function manyRows({ threads }: Crew, rows: number): { start: number; count: number }[] {
  return ranges(rows, rows >= (FEW_ROWS + 2 * TILE_ROWS) * threads ? threads : 1, TILE_ROWS);
}

/** Rows of x become integers, on one thread, as that is little work; then each thread takes some of the outputs. */
function linearQuantized(
  crew: Crew,
  { x, weight, bias, residual, rows, inDim, outDim, output }: LinearCall,
  { bits, group }: Quantization,
): void {
  const integers = crew.reserve(crew.call("quantizedScratch", { rows, inDim, bits, group }));
  crew.call("quantizeRows", { x: at(x), rows, inDim, bits, group, target: integers });
  const calls = ranges(outDim, crew.threads, BLOCK_OUT_DIM).map(({ start, count }) => ({
    x: integers,
    weight: at(weight) + start / BLOCK_OUT_DIM * blockBytes(inDim, { bits, group }),
    bias: at(bias, start),
    residual: at(residual, start),
    output: at(output, start),
    rows,
    inDim,
    outDim: count,
    stride: 4 * outDim,
    bits,
    group,
  }));
  crew.run("linearQuantized", calls, { work: rows * weight.size });
}

/** See `Operations.linearBackward`. Threads take rows of dx, and rows of dWeight. */
export function linearBackward(
  crew: Crew,
  { x, weight, dy, residual, rows, inDim, outDim, dx, dWeight }: LinearBackwardCall,
): void {
  const work = rows * weight.size;
  if (dWeight !== undefined) {
    const calls = manyRows(crew, outDim).map(({ start, count }) => ({
      dy: at(dy, start),
      x: at(x),
      dWeight: at(dWeight, start * inDim),
      rows,
      outDim: count,
      inDim,
      stride: 4 * outDim,
    }));
    const bytes = crew.call("matmulScratch", { rows: outDim, inner: rows, columns: inDim });
    crew.run("linearWeight", calls, { work, scratch: crew.scratch(bytes) });
  }
  const calls = manyRows(crew, rows).map(({ start, count }) => ({
    dy: at(dy, start * outDim),
    weight: at(weight),
    residual: at(residual, start * inDim),
    dx: at(dx, start * inDim),
    rows: count,
    outDim,
    inDim,
  }));
  const bytes = crew.call("matmulScratch", { rows, inner: outDim, columns: inDim });
  crew.run("linearInput", calls, { work, scratch: crew.scratch(bytes) });
}
