/**
 * Matrix products on matrix units: `linear` and its gradients, by one kernel.
 *
 * @module
 */
import type { LinearBackwardCall, LinearCall } from "../../core/machine.ts";
import { type Device, type Scope, type Store, storeOf, type Window } from "../device.ts";
import { multipleOf4, pad, padded } from "../pad.ts";
import { elementsOf } from "../quantized.ts";
import { roundUp } from "../store.ts";
import { addRows } from "../sums.ts";
import type { Matrices } from "./matrices.ts";
import * as shaders from "./shaders.ts";

/** Elements to which both dimensions of an operand are padded: whole tiles and whole steps of every shape. */
const PADDED = 256;
/** Tiles that fill a large GPU: a product of fewer large ones is made of smaller ones. */
const MANY_TILES = 128;
/** Rows of a range of terms, at least; see `addWeightGradient`. */
const RANGE_STEPS = 16;
/** Rows of tiles that are walked column by column. */
const BAND = 8;

/** How a workgroup computes a tile: constants of a pipeline. A strip is 32 × 32 elements. */
export interface TileShape {
  /** Subgroups of a workgroup, each with a part of the tile. */
  readonly DOWN: number;
  /** The same across. */
  readonly ACROSS: number;
  /** Strips of a part. */
  readonly ROWS: number;
  /** The same across. */
  readonly COLUMNS: number;
  /** Of each strip in workgroup memory. */
  readonly BUFFERS: number;
}

const { EDGE, STRIP, BIAS, RESIDUAL, RESULT } = shaders.product.constants;

/**
 * Shapes by the rows of a matrix, the largest first; a part is 4 × 4 matrices at most. Measured on an H100: docs/performance.md
 * has the table.
 */
export const SHAPES: Readonly<Record<8 | 16, TileShape[]>> = {
  8: [{ DOWN: 2, ACROSS: 2, ROWS: 1, COLUMNS: 1, BUFFERS: 2 }],
  16: [
    { DOWN: 4, ACROSS: 2, ROWS: 2, COLUMNS: 2, BUFFERS: 1 },
    { DOWN: 2, ACROSS: 4, ROWS: 2, COLUMNS: 1, BUFFERS: 1 },
    { DOWN: 2, ACROSS: 2, ROWS: 1, COLUMNS: 1, BUFFERS: 2 },
  ],
};

/** The largest shape whose strips workgroup memory holds and of which a result has many tiles, or the smallest. */
function shapeOf(
  { adapterLimits }: Device,
  { M }: Matrices,
  tilesOf: (shape: TileShape) => number,
): TileShape {
  const shapes = SHAPES[M as 8 | 16];
  const fits = ({ DOWN, ACROSS, ROWS, COLUMNS, BUFFERS }: TileShape) =>
    16 * STRIP * BUFFERS * (DOWN * ROWS + ACROSS * COLUMNS) <= adapterLimits.maxComputeWorkgroupStorageSize;
  return shapes.find((shape) => fits(shape) && tilesOf(shape) >= MANY_TILES) ?? shapes.at(-1)!;
}

/** An operand as `product.wgsl` takes it. */
export interface Operand {
  /** `[lines, width]`, f16, both padded. */
  readonly halves: Store;
  /** The exponents of the scales of lines, or four times that of all. */
  readonly exponents: Store;
  /** Whether each line has a scale. */
  readonly byLines: boolean;
  /** Elements of a line, padded. */
  readonly width: number;
}

/** Elements of `[lines, width]`, both padded. */
const paddedLength = (lines: number, width: number) => roundUp(lines, PADDED) * roundUp(width, PADDED);

/**
 * Rounds `[lines, width]`, a multiple of 8, to an operand.
 *
 * @param byLines whether each line has a scale: reads x once, but no line may be a term of the product
 */
export function operandOf(scope: Scope, x: Window, lines: number, width: number, byLines = false): Operand {
  const { device } = scope, { dtype } = x.store;
  const toLines = roundUp(lines, PADDED), toWidth = roundUp(width, PADDED);
  const { PARTS, VECTORS } = shaders.halves.constants;
  const exponents = scope.allocate([byLines ? toLines : 4]),
    halves = scope.allocate([toLines, toWidth], "f16");
  const options = { types: { X: dtype }, constants: { PACKED: dtype === "bf16" } };
  const access = { halves: "write", exponents: "write" } as const;
  const parts = Math.min(PARTS, Math.ceil(lines * width / (8 * 4 * PARTS)));
  const sizes = { rows: lines, vectors: width / 8, padded: toWidth / 8, parts };
  const operand = { halves, exponents, byLines, width: toWidth };
  if (byLines) {
    const kernel = device.kernel(shaders.halves.roundRows, { access, ...options });
    device.dispatch(kernel, { x, halves, exponents }, { ...sizes, size: 0, workgroups: toLines }, toLines);
    return operand;
  }
  const found = scope.allocate([parts]);
  device.dispatch(
    device.kernel(shaders.halves.largest, { access: { found: "write" }, ...options }),
    { x, found },
    { ...sizes, size: lines * width / 8, workgroups: parts },
    parts,
  );
  const size = toLines * toWidth / 8, workgroups = Math.ceil(size / (VECTORS * PARTS));
  device.dispatch(
    device.kernel(shaders.halves.round, { access, ...options }),
    { x, known: found, halves, exponents },
    { ...sizes, size, workgroups },
    workgroups,
  );
  return operand;
}

/** A product of operands. */
interface Product {
  readonly left: Operand;
  readonly right: Operand;
  /** Whether left lies as `[terms, rows]`, not `[rows, terms]`. */
  readonly leftByTerms: boolean;
  /** Whether right lies as `[terms, columns]`, not `[columns, terms]`. */
  readonly rightByTerms: boolean;
  readonly rows: number;
  /** A multiple of 4. */
  readonly columns: number;
  readonly terms: number;
  /** `[columns]` */
  readonly bias?: Store;
  /** `[rows, columns]` */
  readonly residual?: Window;
  /** `[ranges, rows, columns]` */
  readonly result: Window;
  /** Ranges of terms, each with a result. */
  readonly ranges?: number;
  /** Whether the result is added to. */
  readonly add?: boolean;
  readonly shape: TileShape;
}

/** Tiles of a shape that make up a result. */
function tilesOf({ DOWN, ACROSS, ROWS, COLUMNS }: TileShape, rows: number, columns: number) {
  const down = Math.ceil(rows / (DOWN * ROWS * EDGE)),
    across = Math.ceil(columns / (ACROSS * COLUMNS * EDGE));
  return { down, across, tiles: down * across };
}

/** Enqueues a product. */
export function multiply(
  device: Device,
  { M, N, K, lanes }: Matrices,
  product: Product,
  shader = shaders.product.multiply,
): void {
  const { left, right, shape, rows, columns, terms, bias, residual, result, ranges = 1, add = false } =
    product;
  const kernel = device.kernel(shader, {
    access: { result: "update" },
    types: {
      Left: `subgroup_matrix_left<f16, ${K}, ${M}>`,
      Right: `subgroup_matrix_right<f16, ${N}, ${K}>`,
      Accumulator: `subgroup_matrix_result<f32, ${N}, ${M}>`,
      Bias: bias?.dtype ?? "f32",
      Residual: residual?.store.dtype ?? "f32",
      Result: result.store.dtype,
    },
    constants: {
      M,
      N,
      K,
      ...shape,
      THREADS: shape.DOWN * shape.ACROSS * lanes,
      LEFT_BY_TERMS: product.leftByTerms,
      RIGHT_BY_TERMS: product.rightByTerms,
    },
  });
  const { down, across, tiles } = tilesOf(shape, rows, columns);
  const allSteps = Math.ceil(terms / EDGE), workgroups = tiles * ranges;
  device.dispatch(
    kernel,
    {
      left: left.halves,
      right: right.halves,
      leftExponents: left.exponents,
      rightExponents: right.exponents,
      bias: bias ?? device.nothing,
      residual: residual ?? device.nothing,
      result,
    },
    {
      rows,
      columns: columns / 4,
      down,
      across,
      band: BAND,
      steps: Math.ceil(allSteps / ranges),
      allSteps,
      leftStride: left.width / 8,
      rightStride: right.width / 8,
      workgroups,
      added: (bias === undefined ? 0 : BIAS) | (residual === undefined ? 0 : RESIDUAL) | (add ? RESULT : 0),
      leftScales: Number(left.byLines),
      rightScales: Number(right.byLines),
    },
    workgroups,
  );
}

/** Whether a weight can be an operand: one binding holds it, rounded and padded. */
export function holdsWeight(
  { limits }: Device,
  { inDim, outDim }: { inDim: number; outDim: number },
): boolean {
  return 4 * paddedLength(outDim, inDim) <= limits.windowBytes;
}

/** Ranges of rows of stores that can be bound, and whose operands of `width` elements to a row can be. */
function* rangesOf(device: Device, rows: number, width: number, ...stores: [Store, number][]) {
  const fit = Math.floor(device.limits.windowBytes / (2 * roundUp(width, PADDED)));
  const most = Math.max(fit - fit % PADDED, PADDED);
  for (const range of device.chunks(rows, ...stores)) {
    for (let start = range.start, end = start + range.count; start < end; start += most) {
      yield { start, count: Math.min(most, end - start) };
    }
  }
}

/** See {@linkcode Operations.linear}; of a weight that {@linkcode holdsWeight} takes. */
export function linear(device: Device, matrices: Matrices, call: LinearCall): void {
  const { weight, rows, inDim, outDim, output } = call;
  using scope = device.scope();
  const inside = roundUp(inDim, 8), columns = multipleOf4(outDim);
  const inputs = (store: Store) => padded(scope, store, [1, inDim], [1, inside]);
  const outputs = (store: Store) => padded(scope, store, [1, outDim], [1, columns]);
  const x = inputs(storeOf(call.x)), bias = call.bias && outputs(storeOf(call.bias));
  const residual = call.residual && outputs(storeOf(call.residual));
  const result = columns === outDim
    ? storeOf(output)
    : scope.allocate([rows, columns], output.dtype as "f32");
  const right = operandOf(
    scope,
    inputs(elementsOf(scope, weight, storeOf(output).dtype)),
    outDim,
    inside,
    true,
  );
  const residualRows: [Store, number][] = residual === undefined ? [] : [[residual, columns]];
  for (
    const { start, count } of rangesOf(device, rows, inside, [x, inside], [result, columns], ...residualRows)
  ) {
    using part = device.scope();
    multiply(device, matrices, {
      left: operandOf(part, x.window(start * inside, count * inside), count, inside, true),
      right,
      leftByTerms: false,
      rightByTerms: false,
      rows: count,
      columns,
      terms: inside,
      bias,
      residual: residual?.window(start * columns, count * columns),
      result: result.window(start * columns, count * columns),
      shape: shapeOf(device, matrices, (shape) => tilesOf(shape, count, columns).tiles),
    });
  }
  if (columns !== outDim) pad(device, result, [1, columns], [1, outDim], storeOf(output));
}

/** See {@linkcode Operations.linearBackward}; of a weight that {@linkcode holdsWeight} takes. */
export function linearBackward(device: Device, matrices: Matrices, call: LinearBackwardCall): void {
  const { rows, inDim, outDim, dWeight } = call;
  using scope = device.scope();
  const inside = roundUp(inDim, 8), outside = roundUp(outDim, 8);
  const inputs = (store: Store) => padded(scope, store, [1, inDim], [1, inside]);
  const dy = padded(scope, storeOf(call.dy), [1, outDim], [1, outside]);
  const x = dWeight && inputs(storeOf(call.x)), residual = call.residual && inputs(storeOf(call.residual));
  const dx = inside === inDim ? storeOf(call.dx) : scope.allocate([rows, inside]);
  const weight = operandOf(scope, inputs(storeOf(call.weight)), outDim, inside);
  const total = dWeight && inside !== inDim ? scope.allocate([outDim, inside]) : dWeight && storeOf(dWeight);
  if (dWeight && total !== storeOf(dWeight)) device.clear(total!);
  const bound: [Store, number][] = [[dy, outside], [dx, inside]];
  if (x !== undefined) bound.push([x, inside]);
  if (residual !== undefined) bound.push([residual, inside]);
  for (const { start, count } of rangesOf(device, rows, Math.max(inside, outside), ...bound)) {
    using part = device.scope();
    const incoming = operandOf(part, dy.window(start * outside, count * outside), count, outside);
    const rowsOf = (store: Store) => store.window(start * inside, count * inside);
    multiply(device, matrices, {
      left: incoming,
      right: weight,
      leftByTerms: false,
      rightByTerms: true,
      rows: count,
      columns: inside,
      terms: outDim,
      residual: residual && rowsOf(residual),
      result: rowsOf(dx),
      shape: shapeOf(device, matrices, (shape) => tilesOf(shape, count, inside).tiles),
    });
    if (total === undefined) continue;
    addWeightGradient(device, matrices, incoming, operandOf(part, rowsOf(x!), count, inside), total, [
      count,
      inside,
      outDim,
    ]);
  }
  if (dx !== storeOf(call.dx)) pad(device, dx, [1, inside], [1, inDim], storeOf(call.dx));
  if (dWeight && total !== storeOf(dWeight)) {
    const cut = scope.allocate([outDim, inDim]);
    pad(device, total!, [1, inside], [1, inDim], cut);
    addRows(device, cut, outDim * inDim, storeOf(dWeight));
  }
}

/** `total += dyᵀ x`, by ranges of rows where the tiles are few, whose products are then added up. */
function addWeightGradient(
  device: Device,
  matrices: Matrices,
  dy: Operand,
  x: Operand,
  total: Store,
  [rows, inDim, outDim]: readonly [number, number, number],
): void {
  const shape = shapeOf(device, matrices, () => MANY_TILES), { tiles } = tilesOf(shape, outDim, inDim);
  const steps = Math.ceil(rows / EDGE);
  const most = Math.floor(device.limits.windowBytes / (4 * total.length));
  const wanted = Math.max(
    1,
    Math.min(Math.ceil(2 * MANY_TILES / tiles), Math.floor(steps / RANGE_STEPS), most),
  );
  const ranges = Math.ceil(steps / Math.ceil(steps / wanted)); // none is empty
  using scope = device.scope();
  const result = ranges === 1 ? total : scope.allocate([ranges, total.length]);
  multiply(device, matrices, {
    left: dy,
    right: x,
    leftByTerms: true,
    rightByTerms: true,
    rows: outDim,
    columns: inDim,
    terms: rows,
    result,
    ranges,
    add: ranges === 1,
    shape,
  });
  if (ranges > 1) addRows(device, result, total.length, total);
}
