/**
 * Linear, with plain or quantised weights, and its gradients.
 *
 * @module
 */
import { elementBytes, type FloatType } from "../core/dtype.ts";
import type { LinearBackwardCall, LinearCall } from "../core/machine.ts";
import type { Quantization } from "../core/quantize.ts";
import { FEW_ROWS, TILE_COLUMNS, TILE_ROWS } from "../core/sizes.ts";
import { type Crew, type Range, ranges } from "./crew.ts";
import { at } from "./operands.ts";
import { BLOCK_OUT_DIM, blockBytes } from "./quantized.ts";

/** See `Operations.linear`. */
export function linear(crew: Crew, call: LinearCall): void {
  const { x, weight, bias, residual, rows, inDim, outDim, output } = call;
  if (weight.quantization !== undefined) return linearQuantized(crew, call, weight.quantization);
  const few = rows <= FEW_ROWS, work = rows * weight.size;
  // A few rows are cut into outputs, so that each part reads its own rows of the weight.
  const [rowRanges, outRanges] = few
    ? [[{ start: 0, count: rows }], ranges(outDim, crew.parts("linear", work), TILE_COLUMNS)]
    : tiled(crew, rows, outDim, work);
  const weightBytes = elementBytes(weight.dtype as FloatType);
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
      stride: 4 * outDim,
      few: few ? 1 : 0,
      weightBytes,
    }))
  );
  const scratch = crew.scratch(crew.call("linearScratch", { rows, inDim, outDim }));
  crew.run("linear", calls, { work, scratch });
}

/** Rows or columns of a part of a blocked product, at least: each part packs its own operands. */
const LEAST_SIDE = 128;

/** How a blocked product is cut: about square, as that leaves the least to pack. */
function tiled(crew: Crew, rows: number, columns: number, work: number): [rows: Range[], columns: Range[]] {
  const parts = crew.parts("linear", work);
  const side = parts === 1 ? Infinity : Math.max(LEAST_SIDE, Math.sqrt(2 * rows * columns / parts));
  return [
    ranges(rows, Math.round(rows / side), 4 * TILE_ROWS),
    ranges(columns, Math.round(columns / side), TILE_COLUMNS),
  ];
}

/** How a product is cut of which each part needs all columns. */
function byRows(
  crew: Crew,
  kernel: "linearWeight" | "linearInput",
  rows: number,
  work: number,
): Range[] {
  return ranges(rows, Math.min(crew.parts(kernel, work), Math.floor(rows / LEAST_SIDE)), 4 * TILE_ROWS);
}
/** Multiply-adds that take as long as quantising an element. */
const QUANTIZE_WORK = 8;

/** Rows of x become integers; then each part takes some of the outputs. */
function linearQuantized(
  crew: Crew,
  { x, weight, bias, residual, rows, inDim, outDim, output }: LinearCall,
  { bits, group }: Quantization,
): void {
  const bytes = (rows: number) => crew.call("quantizedScratch", { rows, inDim, bits, group });
  const integers = crew.reserve(bytes(rows)), work = QUANTIZE_WORK * x.size;
  const quantized = ranges(rows, crew.parts("quantizeRows", work), 1).map(({ start, count }) => ({
    x: at(x, start * inDim),
    rows: count,
    inDim,
    bits,
    group,
    target: integers + bytes(start),
  }));
  crew.run("quantizeRows", quantized, { work });
  const calls = ranges(outDim, crew.parts("linearQuantized", rows * weight.size), BLOCK_OUT_DIM).map((
    { start, count },
  ) => ({
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
    const calls = byRows(crew, "linearWeight", outDim, work).map(({ start, count }) => ({
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
  const calls = byRows(crew, "linearInput", rows, work).map(({ start, count }) => ({
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
