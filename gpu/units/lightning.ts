/**
 * Lightning Attention on matrix units: the stages of `lightning.wgsl` in this folder. How work is cut and how states are
 * carried is `../lightning.ts`, of which gradients are made as in f32: see `../lightningBackward.ts`.
 *
 * Memory in addition to the result: one state in f32 per segment, and one in f16 per chunk.
 *
 * @module
 */
import { decayChange } from "../../core/decay.ts";
import type { LightningBackwardCall, LightningCall, LightningShape } from "../../core/machine.ts";
import { FEW_ROWS } from "../../core/sizes.ts";
import { type Device, type Store, storeOf, type Window } from "../device.ts";
import { runSequences, segmentsAndSequences, type SpanRun, type Stages } from "../lightning.ts";
import { lightningBackward as backward } from "../lightningBackward.ts";
import type { Matrices } from "./matrices.ts";
import * as shaders from "./shaders.ts";
import { writtenOut } from "./writtenOut.ts";

/** Workgroups of a walk that fill a large GPU. */
const WALKS = 128;
/** Tokens of a segment at least. */
export const LEAST_SEGMENT = 1024;
/** Largest slope · log2(e): beyond, the next token has forgotten everything. */
const LARGEST_SLOPE = 1e4;

/** Tokens from one state in f16 to the next: a multiple of all blocks and of the queries of a workgroup. */
export const CHUNK = 64;
/** Tokens that a walk takes into workgroup memory together. */
const BLOCK_TOKENS = 32;

/** How workgroups cut their work: constants of the pipelines, explained in `lightning.wgsl`. */
interface Tiles {
  readonly COLUMNS: number;
  readonly KEYS: number;
  readonly BUFFERS: number;
  readonly ACROSS: number;
  readonly HIGH: number;
  /** Columns of the output that leave through workgroup memory together. */
  readonly PASS: number;
  /** Subgroups of a workgroup of `walkSegments`, and of `attendChunks`. */
  readonly walkers: number;
  readonly attenders: number;
}

/** The largest divisor of n that is a multiple of `unit`, at most `most`. */
function divisor(n: number, most: number, unit = 1): number {
  for (let size = Math.floor(most / unit) * unit; size > unit; size -= unit) if (n % size === 0) return size;
  return unit;
}

/** Vectors of the arrays that lie in workgroup memory, and their sum for either kernel. */
function strips(unit: number, headDim: number, valueDim: number, tiles: Tiles) {
  const { COLUMNS, KEYS, BUFFERS, ACROSS, HIGH, walkers, attenders } = tiles;
  const rows = headDim / walkers, queryStrips = attenders / ACROSS * HIGH, keyStrips = BUFFERS * KEYS / unit;
  const lengths = {
    walkKeys: Math.max(BLOCK_TOKENS * (rows / 8 + 1), rows * COLUMNS / 4),
    walkValues: BLOCK_TOKENS * (COLUMNS / 8 + 1),
    strip: unit * (headDim / 8 + 1),
    values: unit * (valueDim / ACROSS / 8 + 1),
    products: unit * (KEYS / ACROSS / 4 + 1),
    masked: unit * (KEYS / 8 + 1),
  };
  const count = Math.max(queryStrips, attenders, keyStrips);
  const { walkKeys, walkValues, strip, values, products, masked } = lengths;
  const largest = Math.max(
    walkKeys * walkers + walkValues,
    strip * count + values * keyStrips * ACROSS + queryStrips * (products * ACROSS + masked),
  );
  return { ...lengths, count, largest };
}

/** Tiles for a shape; undefined where units do not take it, or workgroup memory does not hold it. */
function tilesFor(
  device: Device,
  { M, N, K }: Matrices,
  { headDim, valueDim }: LightningShape,
): Tiles | undefined {
  const unit = M;
  const attenders = 4;
  if (N !== unit || K !== unit || headDim % unit !== 0 || valueDim % unit !== 0) return undefined;
  if (CHUNK % (attenders * unit) !== 0 || BLOCK_TOKENS % unit !== 0) return undefined;
  // The arrays of vectors, and 1 KiB for what else there is.
  const vectors = device.adapterLimits.maxComputeWorkgroupStorageSize / 16 - 64;
  for (const ACROSS of [2, 1]) {
    if (valueDim % (ACROSS * unit) !== 0) continue;
    const part = valueDim / ACROSS;
    for (const KEYS of [2 * unit, unit]) {
      if (KEYS % (ACROSS * unit) !== 0) continue;
      const tiles = {
        COLUMNS: divisor(part, 32, unit),
        KEYS,
        BUFFERS: 1,
        ACROSS,
        HIGH: ACROSS,
        PASS: divisor(part, headDim / 2 + 4, unit),
        walkers: divisor(headDim / unit, 4),
        attenders,
      };
      if (strips(unit, headDim, valueDim, tiles).largest <= vectors) return tiles;
    }
  }
  return undefined;
}

/** Whether matrix units compute a call, and the gradients of one. Few tokens are left to f32, as few rows of `linear` are. */
export function takes(device: Device, matrices: Matrices, shape: LightningShape): boolean {
  const { batch, seqLen, headDim, valueDim } = shape;
  const transposed = { ...shape, headDim: valueDim, valueDim: headDim };
  return batch * seqLen > FEW_ROWS &&
    [shape, transposed].every((shape) => tilesFor(device, matrices, shape) !== undefined);
}

/** Lightning Attention, for shapes that units take. */
export function lightning(device: Device, matrices: Matrices, call: LightningCall): void {
  const { shape, slopes, scale, sequences, initialState } = call;
  const [q, k, v, state, output] = [call.q, call.k, call.v, call.state, call.output].map(storeOf);
  const operands = { shape, q, k, v, state, output, initialState: initialState && storeOf(initialState) };
  runSequences(device, stagesOf(matrices), operands, slopes, scale, sequences, false);
}

/** Its gradients, the same. */
export function lightningBackward(device: Device, matrices: Matrices, call: LightningBackwardCall): void {
  backward(device, call, stagesOf(matrices));
}

const chunksOf = (tokens: number) => Math.ceil(tokens / CHUNK);

/** The stages, as `../lightning.ts` takes them. */
function stagesOf(matrices: Matrices): Stages {
  return {
    name: "units",
    segmentation(device, shape, { parts, heads }) {
      const { COLUMNS } = tilesFor(device, matrices, shape)!;
      const longest = Math.max(...parts.map(({ length }) => length));
      const tokens = parts.reduce((sum, { length }) => sum + length, 0);
      // Sequences count as far as they are as long as the longest.
      const workgroups = tokens / Math.max(1, longest) * heads * shape.valueDim / COLUMNS;
      const wanted = Math.max(LEAST_SEGMENT, longest * workgroups / WALKS);
      const count = Math.max(1, Math.round(longest / wanted));
      return { tokens: Math.max(1, chunksOf(longest / count)) * CHUNK, alone: false };
    },
    scratchBytes({ headDim, valueDim }, { heads, parts }, segments) {
      const chunks = parts.reduce((sum, { length }) => sum + chunksOf(length), 0);
      return Math.max(4 * segments, 2 * (segments + chunks)) * heads * headDim * valueDim;
    },
    schedule(span, segmentTokens) {
      const chunks: number[] = [];
      const table = segmentsAndSequences(span, segmentTokens, (place, tokens, batch) => {
        const first = chunks.length / 4;
        for (let t = 0; t < tokens; t += CHUNK) {
          chunks.push(place(t), Math.min(CHUNK, tokens - t), batch, t === 0 ? 1 : 0);
        }
        return first;
      });
      return Uint32Array.of(...table, ...chunks);
    },
    updateState(run) {
      const { device, shape: { headDim, valueDim } } = run;
      using scope = device.scope();
      // Bound, but not written.
      walk(matrices, run, true, scope.allocate([headDim, valueDim], "f16"), scope.allocate([1]));
    },
    attend(run) {
      const { device, shape, span, windows: { k, v, q, output }, table } = run;
      const { headDim, valueDim } = shape;
      const chunks = table.length / 4 - run.segments - span.parts.length;
      using scope = device.scope();
      const states = scope.allocate([chunks, span.heads, headDim, valueDim], "f16");
      const { COLUMNS, attenders } = tilesFor(device, matrices, shape)!;
      const exponents = scope.allocate([chunks, span.heads, valueDim / COLUMNS]);
      walk(matrices, run, false, states, exponents);
      const options = optionsOf(matrices, run, attenders),
        workgroups = chunks * span.heads * CHUNK / options.constants.ROWS;
      device.dispatch(
        device.kernel(writtenOut(shaders.lightning.attendChunks, options), {
          access: { output: "update" },
          ...options,
        }),
        { table, decays: decaysOf(run), k, v, q, output, chunkStates: states, chunkExponents: exponents },
        { ...valuesOf(run), workgroups },
        workgroups,
      );
    },
  };
}

/** Walks segments: with `sums` all but the last ones of sequences, for their sums. */
function walk(matrices: Matrices, run: SpanRun, sums: boolean, states: Store, exponents: Store): void {
  const { device, shape, span, windows: { k, v, state }, table, scratch } = run;
  const { COLUMNS, walkers } = tilesFor(device, matrices, shape)!;
  const workgroups = (sums ? run.carried : run.segments) * span.heads * shape.valueDim / COLUMNS;
  const options = optionsOf(matrices, run, walkers, sums);
  device.dispatch(
    device.kernel(writtenOut(shaders.lightning.walkSegments, options), {
      access: { scratch: "update", state: "update", states: "update", exponents: "update" },
      ...options,
    }),
    { table, decays: decaysOf(run), scratch, k, v, state, states, exponents },
    { ...valuesOf(run), workgroups },
    workgroups,
  );
}

/** The slope of each head, and what a state changes by over up to a block of tokens. */
function decaysOf({ device, slopes }: SpanRun): Store {
  return device.constant(
    `lightning unit decays ${slopes.join()}`,
    () =>
      Float32Array.from([...slopes].flatMap((slope) => [
        Math.min(slope * Math.LOG2E, LARGEST_SLOPE),
        ...Array.from({ length: BLOCK_TOKENS + 1 }, (_, n) => decayChange(slope, n)),
      ])),
  );
}

function valuesOf({ values, windows, shape: { headDim, valueDim }, keyScale, queryScale }: SpanRun) {
  return { ...values, stateOrigin: windows.state.start / (headDim * valueDim), keyScale, queryScale };
}

/** What a kernel with workgroups of so many subgroups is compiled with. */
function optionsOf(
  matrices: Matrices,
  { device, shape: { headDim, valueDim }, shape, span, windows }: SpanRun,
  subgroups: number,
  sums = false,
) {
  const { M: unit, lanes } = matrices, tiles = tilesFor(device, matrices, shape)!;
  const { COLUMNS, KEYS, BUFFERS, ACROSS, HIGH, PASS, walkers, attenders } = tiles;
  const { walkKeys, walkValues, strip, count, values, products, masked } = strips(
    unit,
    headDim,
    valueDim,
    tiles,
  );
  const threads = lanes * subgroups, rows = attenders / ACROSS * HIGH * unit;
  const array = (type: string, length: number) => `array<${type}, ${length}>`;
  const vectors = (length: number) => array("vec4<u32>", length);
  const loads = (rows: number, width: number) => array("Packed", Math.ceil(rows * width / 8 / threads));
  const rowTiles = headDim / unit / walkers, columnTiles = COLUMNS / unit;
  const half = (window: Window) => window.store.dtype === "f16";
  return {
    types: {
      Left: `subgroup_matrix_left<f16, ${unit}, ${unit}>`,
      Right: `subgroup_matrix_right<f16, ${unit}, ${unit}>`,
      Sums: `subgroup_matrix_result<f32, ${unit}, ${unit}>`,
      StateSums: array("vec4<f32>", headDim * valueDim / 4),
      StateHalves: vectors(headDim * valueDim / ACROSS / 8),
      WalkSums: array("Sums", rowTiles * columnTiles),
      WalkRights: array("Right", columnTiles),
      WalkKeys: loads(BLOCK_TOKENS, headDim),
      WalkValues: loads(BLOCK_TOKENS, COLUMNS),
      WalkKeyStrip: vectors(walkKeys),
      WalkValueStrip: vectors(walkValues),
      AttendQueries: loads(rows, headDim),
      AttendKeys: loads(KEYS, headDim),
      AttendValues: loads(KEYS, valueDim),
      AttendRows: array("Left", HIGH),
      AttendLefts: array("Left", HIGH * headDim / unit),
      AttendProducts: array("Sums", HIGH),
      AttendSums: array("Sums", HIGH * valueDim / ACROSS / unit),
      Strip: vectors(strip),
      ValueStrip: vectors(values),
      ProductStrip: vectors(products),
      MaskedStrip: vectors(masked),
    },
    constants: {
      UNIT: unit,
      THREADS: threads,
      SUBGROUPS: subgroups,
      LANES: lanes,
      HEAD: headDim,
      VALUE: valueDim,
      HALF: half(windows.k),
      OUTPUT_HALF: half(windows.output),
      REVERSE: span.reverse,
      SUMS: sums,
      BLOCK: BLOCK_TOKENS,
      ...{ CHUNK, COLUMNS, KEYS, BUFFERS, ACROSS, HIGH, PASS },
      DECAYS: BLOCK_TOKENS + 2,
      ROWS: rows,
      STRIPS: count,
    },
  };
}
