/**
 * Matrix products of few rows, which are bound by reading the weight once.
 *
 * @module
 */
import type { Device, Store } from "./device.ts";
import * as shaders from "./shaders.ts";
import { roundUp } from "./store.ts";

/** A product of few rows. */
export interface FewRows {
  /** `[rows, inDim]` */
  readonly x: Store;
  /** `[outDim, inDim]` */
  readonly weight: Store;
  /** `[outDim]` */
  readonly bias: Store | undefined;
  /** `[rows, outDim]` */
  readonly residual: Store | undefined;
  /** `[rows, outDim]` */
  readonly output: Store;
  readonly rows: number;
  /** A multiple of 8. */
  readonly inDim: number;
  readonly outDim: number;
  /** What each row's product is divided by: the root of the mean square of this, `[rows, inDim]`, stored as x. */
  readonly norm?: { readonly normed: Store; readonly eps: number };
  /** What the result is multiplied by: the same with another weight of the same type, and another bias. */
  readonly gate?: { readonly weight: Store; readonly bias: Store | undefined };
}

const { teams, tiles, constants: { LANES } } = shaders.fewRows;

/** Threads of a workgroup of `teams`, and the columns of each team. */
const TEAM_THREADS = teams.threads, TEAM_COLUMNS = 4;
/** Up to this many rows are computed by teams, as many each: a tile would have too few threads. */
const TEAM_ROWS = 4;
/** Blocks of 4 × 4 elements that a thread of `tiles` can load per step. */
const MOST_UNITS = 5;
/** How inDim is cut, which is part of the order of sums: it depends on nothing else. */
export function rangesOf(inDim: number): { RANGES: number; rangePairs: number } {
  const RANGES = inDim >= 2048 ? 16 : inDim >= 1024 ? 8 : 4;
  return { RANGES, rangePairs: roundUp(Math.ceil(inDim / 8 / RANGES), LANES) };
}

/** Shape of a tile of `tiles`: threads, and what each of them has. */
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
    /** Vectors of workgroup memory. */
    memory: BUFFERS * 64 * STEP * PITCH,
    /** Those that are needed after the last step, of the first buffer. */
    ending: 2 * THREADS + rowVectors,
    /** Of a workgroup. */
    rows: 4 * rowVectors,
    columns: gated ? 4 * COLUMN_GROUPS : 4 * columnVectors,
  };
}

/** Heights of tiles, and what they are best made of: how many workgroups at least, and then steps and buffers. */
const HEIGHTS: readonly (readonly [height: number, workgroups: number])[] = [
  [64, 128],
  [32, 128],
  [16, 256],
  [8, 256],
];
/** Steps and buffers, the best first. */
const DEPTHS: readonly (readonly [STEP: number, BUFFERS: number])[] = [[2, 2], [2, 1], [1, 2], [1, 1]];

/** The tile for a product: as high as it has rows, as wide as leaves enough workgroups, as deep as fits. */
export function tileOf(device: Device, { rows, inDim, outDim, x, norm, gate }: FewRows) {
  const gated = gate !== undefined, apart = norm !== undefined && norm.normed !== x;
  const { maxComputeWorkgroupStorageSize: bytes } = device.adapterLimits;
  const rounds = rangesOf(inDim).rangePairs / LANES;
  for (const [height, workgroups] of HEIGHTS) {
    if (height > 8 && 2 * rows <= height) continue;
    const TALL = height === 64, BROAD = gated || height >= 32, ROW_GROUPS = height / (TALL ? 8 : 4);
    for (let COLUMN_GROUPS = 32 / Math.max(ROW_GROUPS, 4); COLUMN_GROUPS >= 2; COLUMN_GROUPS /= 2) {
      for (const [STEP, BUFFERS] of DEPTHS) {
        const tile = tileConstants({ ROW_GROUPS, COLUMN_GROUPS, TALL, BROAD, STEP, BUFFERS }, {
          gated,
          apart,
        });
        const isEnough = COLUMN_GROUPS === 2 || Math.ceil(outDim / tile.columns) >= workgroups;
        const fits = 16 * tile.memory <= bytes && tile.ending * BUFFERS <= tile.memory &&
          tile.UNITS <= MOST_UNITS;
        if (isEnough && fits && rounds % STEP === 0) return tile;
      }
    }
  }
  throw new RangeError(`no tile fits ${bytes} bytes of workgroup memory`); // which all devices have 16 KiB of
}

/** Multiplies. */
export function multiplyFewRows(device: Device, product: FewRows): void {
  const { x, weight, bias, residual, output, rows, inDim, outDim, norm, gate } = product;
  const { RANGES, rangePairs } = rangesOf(inDim), TEAM = LANES * RANGES;
  const byTeams = rows <= TEAM_ROWS, teamRows = rows === 3 ? 4 : Math.min(rows, 4);
  const tile = tileOf(device, product), { rows: height, columns, PITCH, STEP } = tile;
  const options = {
    access: { output: "update" },
    types: {
      X: x.dtype,
      Weight: weight.dtype,
      Bias: bias?.dtype ?? "f32",
      Residual: residual?.dtype ?? "f32",
      Output: output.dtype,
      Buffer: `array<array<array<vec4<f32>, ${PITCH}>, ${16 * STEP}>, 4>`,
    },
    constants: {
      ...tile,
      RANGES,
      TEAM,
      COLUMNS: TEAM_COLUMNS,
      ROWS: teamRows,
      PACKED: weight.dtype === "bf16",
      BIAS: bias !== undefined,
      RESIDUAL: residual !== undefined,
      NORMED: norm !== undefined,
      GATED: gate !== undefined,
      APART: norm !== undefined && norm.normed !== x,
    },
  } as const;
  const kernel = device.kernel(byTeams ? teams : tiles, options);
  const residualRows = residual === undefined ? [] : [[residual, outDim] as const];
  for (const { start, count } of device.chunks(rows, [x, inDim], [output, outDim], ...residualRows)) {
    const inside = (store: Store) => store.window(start * inDim, count * inDim);
    const outside = (store: Store) => store.window(start * outDim, count * outDim);
    for (const { start: firstOut, count: outCount } of vectorsOfRows(device, weight, outDim, inDim)) {
      const part = (weight: Store) => weight.window(firstOut * inDim, outCount * inDim);
      const workgroups = byTeams
        ? Math.ceil(outCount / (TEAM_COLUMNS * TEAM_THREADS / TEAM)) * Math.ceil(count / teamRows)
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
          inVectors: inDim / 4,
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
