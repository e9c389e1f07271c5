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

const { fewRows, oneRow, constants: { LANES } } = shaders.fewRows;

/** Threads of a workgroup of `oneRow`, and the columns of each of its teams. */
const ONE_ROW_THREADS = oneRow.threads, ONE_ROW_COLUMNS = 4;
/** Blocks of 4 × 4 elements that a thread of `fewRows` can load per step. */
const MOST_UNITS = 5;
/** Workgroups that fill a large GPU. */
const ENOUGH_WORKGROUPS = 128;

/** How inDim is cut, which is part of the order of sums: it depends on nothing else. */
export function rangesOf(inDim: number): { RANGES: number; rangePairs: number } {
  const RANGES = inDim >= 2048 ? 16 : inDim >= 1024 ? 8 : 4;
  return { RANGES, rangePairs: roundUp(Math.ceil(inDim / 8 / RANGES), LANES) };
}

/** Shape of a tile of `fewRows`: threads, and what each of them has. */
export interface TileShape {
  readonly ROW_GROUPS: number;
  readonly COLUMN_GROUPS: number;
  readonly TALL: boolean;
  readonly BROAD: boolean;
  readonly STEP: number;
  readonly BUFFERS: number;
}

/** What follows from the shape of a tile. */
export function tileConstants(
  shape: TileShape,
  { gated, apart }: { gated: boolean; apart: boolean },
) {
  const { ROW_GROUPS, COLUMN_GROUPS, TALL, BROAD, STEP, BUFFERS } = shape;
  const rowVectors = ROW_GROUPS * (TALL ? 2 : 1), columnVectors = COLUMN_GROUPS * (BROAD ? 2 : 1);
  const POSITIONS = ROW_GROUPS * COLUMN_GROUPS, THREADS = LANES * POSITIONS;
  const GROUPS = rowVectors * (apart ? 2 : 1) + columnVectors, PITCH = GROUPS | 1;
  return {
    ...shape,
    POSITIONS,
    THREADS,
    GROUPS,
    PITCH,
    UNITS: Math.ceil(GROUPS * STEP / (THREADS / 16)),
    MEMORY: Math.max(BUFFERS * 64 * STEP * PITCH, 2 * THREADS + rowVectors),
    /** Of a workgroup. */
    rows: 4 * rowVectors,
    columns: gated ? 4 * COLUMN_GROUPS : 4 * columnVectors,
  };
}

/** The tile of `fewRows` for a product. */
function tileOf(device: Device, { rows, weight, outDim, x, norm, gate }: FewRows) {
  const kind = { gated: gate !== undefined, apart: norm !== undefined && norm.normed !== x };
  const { maxComputeWorkgroupStorageSize: bytes, maxComputeInvocationsPerWorkgroup: threads } =
    device.adapterLimits;
  const { rangePairs } = rangesOf(weight.inside);
  const fits = (shape: TileShape) => {
    const { MEMORY, THREADS, UNITS } = tileConstants(shape, kind);
    return 16 * MEMORY <= bytes && THREADS <= threads && UNITS <= MOST_UNITS &&
      rangePairs % (LANES * shape.STEP) === 0;
  };
  // As high as there are rows, as wide as leaves enough workgroups, as deep as fits.
  const few = Math.min(roundUp(rows, 4), 64);
  for (
    let height = few <= 4 ? 4 : few <= 8 ? 8 : few <= 16 ? 16 : few <= 32 ? 32 : 64;
    height >= 4;
    height /= 2
  ) {
    const TALL = height === 64, ROW_GROUPS = height / (TALL ? 8 : 4), BROAD = kind.gated || height >= 32;
    for (const COLUMN_GROUPS of [8, 4, 2]) {
      if (ROW_GROUPS * COLUMN_GROUPS > 32) continue;
      const width = 4 * COLUMN_GROUPS * (BROAD && !kind.gated ? 2 : 1);
      if (COLUMN_GROUPS > 2 && Math.ceil(outDim / width) < ENOUGH_WORKGROUPS) continue;
      for (const [STEP, BUFFERS] of [[2, 2], [1, 2], [2, 1], [1, 1]]) {
        const shape = { ROW_GROUPS, COLUMN_GROUPS, TALL, BROAD, STEP, BUFFERS };
        if (fits(shape)) return tileConstants(shape, kind);
      }
    }
  }
  throw new RangeError(`no tile fits ${bytes} bytes of workgroup memory`);
}

/** Multiplies. */
export function multiplyFewRows(device: Device, product: FewRows): void {
  const { x, weight, bias, residual, output, rows, inDim, outDim, norm, gate } = product;
  const { store, rowLength, inside: width, quantization, scalesAt = 0 } = weight;
  const { RANGES, rangePairs } = rangesOf(width), TEAM = LANES * RANGES;
  const { rows: height, columns, ...tile } = tileOf(device, product);
  const options = {
    access: { output: "update" },
    types: {
      X: x.dtype,
      Weight: quantization === undefined ? store.dtype : "u32",
      Bias: bias?.dtype ?? "f32",
      Residual: residual?.dtype ?? "f32",
      Output: output.dtype,
    },
    constants: {
      ...tile,
      RANGES,
      TEAM,
      COLUMNS: ONE_ROW_COLUMNS,
      PAIRS: quantization === undefined ? 1 : 2,
      PACKED: quantization === undefined && store.dtype === "bf16",
      BITS: quantization?.bits ?? 0,
      GROUP: quantization?.group ?? 32,
      BIAS: bias !== undefined,
      RESIDUAL: residual !== undefined,
      NORMED: norm !== undefined,
      GATED: gate !== undefined,
      APART: norm !== undefined && norm.normed !== x,
    },
  } as const;
  const kernel = device.kernel(rows === 1 ? oneRow : fewRows, options);
  const residualRows = residual === undefined ? [] : [[residual, outDim] as const];
  for (const { start, count } of device.chunks(rows, [x, width], [output, outDim], ...residualRows)) {
    const inside = (store: Store) => store.window(start * width, count * width);
    const outside = (store: Store) => store.window(start * outDim, count * outDim);
    for (const { start: firstOut, count: outCount } of vectorsOfRows(device, store, outDim, rowLength)) {
      const part = ({ store }: WeightRows) => store.window(firstOut * rowLength, outCount * rowLength);
      const workgroups = rows === 1
        ? Math.ceil(outCount / (ONE_ROW_COLUMNS * ONE_ROW_THREADS / TEAM))
        : Math.ceil(outCount / columns) * Math.ceil(count / height);
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
