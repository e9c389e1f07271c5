/**
 * Matrix products of few rows, which are bound by reading the weight once.
 *
 * @module
 */
import type { Quantization } from "../core/quantize.ts";
import type { Device, Store } from "./device.ts";
import * as shaders from "./shaders.ts";
import { roundUp } from "./store.ts";

/** A product of few rows. */
export interface FewRows {
  /** `[rows, inDim]` */
  readonly x: Store;
  readonly weight: WeightRows;
  /** `[outDim]` */
  readonly bias: Store | undefined;
  /** `[rows, outDim]` */
  readonly residual: Store | undefined;
  /** `[rows, outDim]` */
  readonly output: Store;
  readonly rows: number;
  /** Elements of a row of x that count; with more, the rest are zeros. */
  readonly inDim: number;
  readonly outDim: number;
  /** What each row's product is divided by: the root of the mean square of this, `[rows, inDim]`, stored as x. */
  readonly norm?: { readonly normed: Store; readonly eps: number };
  /** What the result is multiplied by: the same with another weight of the same type, and another bias. */
  readonly gate?: { readonly weight: WeightRows; readonly bias: Store | undefined };
}

/** How a weight lies in memory. */
export interface WeightRows {
  readonly store: Store;
  /** Elements of the store in a row. */
  readonly rowLength: number;
  /** Of x that a row is multiplied by, a multiple of 8: inDim, or with a quantised weight whole groups. */
  readonly inside: number;
  /** Of a quantised weight. */
  readonly quantization?: Quantization;
  /** Word of its row where its scales begin. */
  readonly scalesAt?: number;
}

const { teams, tiles, constants: { LANES, TEAM_THREADS } } = shaders.fewRows;

/** Blocks of 4 × 4 elements that a thread of `tiles` can load per step. */
const MOST_UNITS = 3;
/** Up to this many rows are computed by teams, more in tiles. */
const TEAM_ROWS = 16;
/** Workgroups that fill a large GPU. */
const ENOUGH_WORKGROUPS = 128;

/** How inDim is cut, which is part of the order of sums: it depends on nothing else. */
function rangesOf(inDim: number): { RANGES: number; rangePairs: number } {
  const RANGES = inDim >= 2048 ? 16 : inDim >= 1024 ? 8 : 4;
  return { RANGES, rangePairs: roundUp(Math.ceil(inDim / 8 / RANGES), LANES) };
}

/** What a workgroup computes, and how. The result does not depend on it. */
export type Shape = TeamShape | TileShape;

/** Of the kernel `teams`. */
export interface TeamShape {
  readonly kernel: "teams";
  readonly ROWS: number;
}

/** Of the kernel `tiles`. */
export interface TileShape {
  readonly kernel: "tiles";
  readonly ROW_GROUPS: number;
  readonly COLUMN_GROUPS: number;
  readonly STEP: number;
}

const isApart = ({ x, norm }: FewRows): boolean => norm !== undefined && norm.normed !== x;

/** What follows from a shape: constants of both kernels, rows and columns of a workgroup, and what it takes. */
function constantsOf(shape: Shape, product: FewRows) {
  const { RANGES, rangePairs } = rangesOf(product.weight.inside), TEAM = LANES * RANGES;
  const gated = product.gate !== undefined;
  if (shape.kernel === "teams") {
    const { ROWS } = shape;
    const PARTIALS = TEAM_THREADS * (Math.min(ROWS, 4) + (product.norm === undefined ? 0 : 1));
    return {
      ...{ TEAM, RANGES, PARTIALS, ROWS, ...NO_TILE },
      rows: ROWS,
      columns: TEAM_THREADS / TEAM * (gated ? 2 : 4),
      bytes: 16 * PARTIALS,
      fits: true,
    };
  }
  const { ROW_GROUPS, COLUMN_GROUPS, STEP } = shape;
  const POSITIONS = ROW_GROUPS * COLUMN_GROUPS, THREADS = LANES * POSITIONS;
  const GROUPS = ROW_GROUPS * (isApart(product) ? 2 : 1) + 2 * COLUMN_GROUPS, PITCH = GROUPS | 1;
  const UNITS = Math.ceil(GROUPS * STEP / (THREADS / 16)), vectors = 64 * STEP * PITCH;
  return {
    ...{ TEAM, RANGES, PARTIALS: 1, ROWS: 1, ROW_GROUPS, COLUMN_GROUPS, STEP },
    ...{ POSITIONS, THREADS, GROUPS, PITCH, UNITS },
    rows: 4 * ROW_GROUPS,
    columns: COLUMN_GROUPS * (gated ? 4 : 8),
    bytes: 16 * vectors,
    // Partial sums and factors of rows take the place of operands.
    fits: 2 * THREADS + ROW_GROUPS <= vectors && UNITS <= MOST_UNITS && rangePairs % (LANES * STEP) === 0,
  };
}

/** Constants of `tiles` that `teams` does not read. */
const NO_TILE = {
  ...{ ROW_GROUPS: 1, COLUMN_GROUPS: 1, STEP: 1, POSITIONS: 1, THREADS: 1, UNITS: 1, GROUPS: 1, PITCH: 1 },
};

/** Shapes for a product, by how many rows they take together; each list from the widest to the narrowest. */
function* shapesOf({ rows }: FewRows): Generator<Shape[]> {
  const height = 2 ** Math.ceil(Math.log2(rows));
  if (rows <= TEAM_ROWS) return yield [{ kernel: "teams", ROWS: height }];
  for (let high = height; high >= 8; high /= 2) {
    const tile = { kernel: "tiles", ROW_GROUPS: high / 4 } as const;
    yield [4, 2].flatMap((COLUMN_GROUPS) => [2, 1].map((STEP) => ({ ...tile, COLUMN_GROUPS, STEP })));
  }
}

/** Whether a device has what a shape takes. */
export function fits({ adapterLimits }: Device, product: FewRows, shape: Shape): boolean {
  const { bytes, THREADS, fits } = constantsOf(shape, product);
  return fits && bytes <= adapterLimits.maxComputeWorkgroupStorageSize &&
    THREADS <= adapterLimits.maxComputeInvocationsPerWorkgroup;
}

/** The shape that a product gets: as many rows as fit the device, and as wide as leaves enough workgroups. */
export function shapeOf(device: Device, product: FewRows): Shape {
  const isEnough = (shape: Shape) => {
    const { rows, columns } = constantsOf(shape, product);
    return Math.ceil(product.rows / rows) * Math.ceil(product.outDim / columns) >= ENOUGH_WORKGROUPS;
  };
  for (const shapes of shapesOf(product)) {
    const fitting = shapes.filter((shape) => fits(device, product, shape));
    if (fitting.length > 0) return fitting.find(isEnough) ?? fitting.at(-1)!;
  }
  throw new RangeError("Cannot multiply few rows as the device has less workgroup memory than 16 KiB");
}

/** Multiplies. */
export function multiplyFewRows(
  device: Device,
  product: FewRows,
  shape: Shape = shapeOf(device, product),
): void {
  const { x, weight, bias, residual, output, rows, inDim, outDim, norm, gate } = product;
  const { store, rowLength, inside: width, quantization, scalesAt = 0 } = weight;
  const constants = constantsOf(shape, product), { PITCH, STEP, rows: height, columns } = constants;
  const kernel = device.kernel(shape.kernel === "teams" ? teams : tiles, {
    access: { output: "update" },
    types: {
      X: x.dtype,
      Weight: quantization === undefined ? store.dtype : "u32",
      Bias: bias?.dtype ?? "f32",
      Residual: residual?.dtype ?? "f32",
      Output: output.dtype,
      Vectors: `array<array<vec4<f32>, ${PITCH}>, ${16 * STEP}>`,
    },
    constants: {
      ...constants,
      PACKED: quantization === undefined && store.dtype === "bf16",
      BITS: quantization?.bits ?? 0,
      GROUP: quantization?.group ?? 32,
      BIAS: bias !== undefined,
      RESIDUAL: residual !== undefined,
      NORMED: norm !== undefined,
      GATED: gate !== undefined,
      APART: isApart(product),
    },
  });
  const { rangePairs } = rangesOf(width);
  const residualRows = residual === undefined ? [] : [[residual, outDim] as const];
  for (const { start, count } of device.chunks(rows, [x, width], [output, outDim], ...residualRows)) {
    const inside = (store: Store) => store.window(start * width, count * width);
    const outside = (store: Store) => store.window(start * outDim, count * outDim);
    for (const { start: firstOut, count: outCount } of vectorsOfRows(device, store, outDim, rowLength)) {
      const part = ({ store }: WeightRows) => store.window(firstOut * rowLength, outCount * rowLength);
      const workgroups = Math.ceil(outCount / columns) * Math.ceil(count / height);
      device.dispatch(
        kernel,
        {
          x: inside(x),
          weight: part(weight),
          bias: bias ?? device.nothing,
          residual: residual === undefined ? device.nothing : outside(residual),
          output: outside(output),
          normed: norm === undefined ? device.nothing : inside(norm.normed),
          gateWeight: gate === undefined ? device.nothing : part(gate.weight),
          gateBias: gate?.bias ?? device.nothing,
        },
        {
          rows: count,
          inDim,
          inVectors: width / 4,
          weightStride: quantization !== undefined ? rowLength : width / (store.dtype === "bf16" ? 8 : 4),
          scalesAt,
          outCount,
          firstOut,
          stride: outDim,
          rangePairs,
          workgroups,
          eps: norm?.eps ?? 0,
        },
        workgroups,
      );
    }
  }
}

/** Ranges of rows of a weight that can be bound, from multiples of 4 on. */
export function* vectorsOfRows(device: Device, weight: Store, rows: number, rowLength: number) {
  const fit = Math.floor(device.limits.windowBytes / (rowLength * weight.elementBytes));
  const step = weight.pieces.length === 1 ? rows : fit - fit % (fit < 128 ? 4 : 128);
  for (let start = 0; start < rows; start += step) yield { start, count: Math.min(step, rows - start) };
}
