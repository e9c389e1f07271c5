/**
 * Lightning Attention: cuts sequences into segments, dispatches the stages of `lightning.wgsl`.
 *
 * Memory beside the result: a state for each segment, of which there are as many as fill the GPU and one per sequence at
 * least, whatever the length. Calls that cannot be bound run in spans of fewer sequences, heads or tokens, tokens with
 * the state carried from span to span.
 *
 * @module
 */
import { decayChange } from "../core/decay.ts";
import type { FloatType } from "../core/dtype.ts";
import type { LightningCall, LightningShape, LightningStepCall, Sequence } from "../core/machine.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, float, type Store, storeOf, type Window } from "./device.ts";
import { multipleOf4, pad, padded } from "./pad.ts";
import source from "./lightning.wgsl" with { type: "text" };
import outer from "./outer.wgsl" with { type: "text" };

const SOURCE = source + outer;

/** Tokens after which the state decays, and which a segment has a multiple of; as in `lightning.wgsl`. */
export const PERIOD = 48;
/** Steeper slopes let the state decay at every token: beyond, λ^−(PERIOD−1) would cost range. */
const STEEP = 1;
/** Workgroups that fill a large GPU, two on each of 132 processors. */
const TARGET_WORKGROUPS = 264;
/** From as many on, one for each processor and no segments takes less time: the sums of segments need not be taken. */
const ALONE_WORKGROUPS = 100;
/** Tokens of one segment at least. */
export const SEGMENT_TOKENS = 96;

/** Where a sequence's state comes from; as in `lightning.wgsl`. */
const ZERO = 0, INITIAL = 1, STATE = 2;

const BINDINGS = {
  updateState: ["read", "read", "update", "read", "read"],
  carryState: ["read", "read", "update", "read", "read"],
  attend: ["read", "read", "update", "read", "read", "read", "update", "update"],
  step: ["read", "read", "update", "read", "read", "read", "update"],
} as const;

/** The operands of a call, as stores, with dimensions that are multiples of 4. */
export interface Operands {
  shape: LightningShape;
  q: Store;
  k: Store;
  v: Store;
  initialState: Store | undefined;
  state: Store;
  output: Store;
}

/** A part of a sequence: `length` tokens from `start`, whose state is row `row` of the states. */
interface Piece {
  readonly row: number;
  readonly batch: number;
  readonly start: number;
  readonly length: number;
  /** {@linkcode ZERO}, {@linkcode INITIAL} or {@linkcode STATE}. */
  readonly origin: number;
}

/** What is computed at once: some heads of some pieces. */
interface Span {
  readonly head: number;
  readonly heads: number;
  readonly pieces: readonly Piece[];
  /** Whether tokens run from the last to the first. */
  readonly reverse: boolean;
}

/** See {@linkcode Operations.lightning}. */
export function lightning(device: Device, call: LightningCall): void {
  const { slopes, scale, sequences, initialState } = call;
  withPadding(device, call, initialState, (operands) => {
    const { shape, output } = operands;
    if (output.dtype === "f32" || tiling(device, shape).rowTiles === 1) {
      return runSequences(device, operands, slopes, scale, sequences, false);
    }
    // Tiles of rows add to what the tiles before them wrote: halves would round every sum.
    using scope = device.scope();
    const sums = scope.allocate([output.length]);
    runSequences(device, { ...operands, output: sums }, slopes, scale, sequences, false);
    pad(device, sums, [1, shape.valueDim], [1, shape.valueDim], output);
  });
}

/**
 * Runs the stages over sequences, or, for gradients, over the same sequences from their last token to their first:
 * see `REVERSE` in `lightning.wgsl`.
 */
export function runSequences(
  device: Device,
  operands: Operands,
  slopes: Float64Array,
  scale: number,
  sequences: readonly Sequence[],
  reverse: boolean,
): void {
  const origin = operands.initialState === undefined ? ZERO : INITIAL;
  const pieces = sequences.map(({ batch, start, length }, row) => ({ row, batch, start, length, origin }));
  const whole = { head: 0, heads: operands.shape.heads, pieces, reverse };
  for (const span of spans(device, operands, whole)) runSpan(device, operands, slopes, scale, span);
}

/** See {@linkcode Operations.lightningStep}. */
export function lightningStep(device: Device, call: LightningStepCall): void {
  const { slopes, scale, stateRows } = call;
  withPadding(device, call, undefined, ({ shape, q, k, v, state, output }) => {
    const { batch, heads, queryHeads, keyHeads, headDim, valueDim } = shape;
    using scope = device.scope();
    // With stateRows any state may be anywhere: they are bound as a whole.
    const table = stateRows && scope.upload(rowTable(stateRows));
    const kernel = lightningKernel(device, "step", { S: q.dtype, O: output.dtype }, shape);
    const decays = device.constant(`lightning step ${slopes.join()}`, () => {
      return Float32Array.from(slopes, (slope) => decayChange(slope, 1));
    });
    const lengths = [queryHeads * headDim, keyHeads * headDim, heads * valueDim, heads * headDim * valueDim];
    const [queries, keys, values, states] = [q, k, v, state].map((store, index) =>
      [store, lengths[index]] as const
    );
    const cut = stateRows === undefined ? [states] : [];
    for (
      const { start, count } of device.chunks(batch, queries, keys, values, [output, lengths[2]], ...cut)
    ) {
      const part = (store: Store, length: number) => store.window(start * length, count * length);
      const workgroups = count * heads * Math.ceil(valueDim / 64);
      const strides = (heads: number, dim: number) => [heads * dim, dim, dim, 0];
      device.dispatch(
        kernel,
        [
          table?.window(4 * start, 4 * count) ?? device.nothing,
          decays,
          table === undefined ? part(state, lengths[3]) : state,
          part(k, lengths[1]),
          part(v, lengths[2]),
          part(q, lengths[0]),
          part(output, lengths[2]),
        ],
        [
          ...strides(queryHeads, headDim),
          ...strides(keyHeads, headDim),
          ...strides(heads, valueDim),
          ...[heads, heads / queryHeads, heads / keyHeads, 0, heads, headDim, valueDim],
          ...[workgroups, 0, 0, 0, 0, Number(table !== undefined), float(scale)],
        ],
        workgroups,
      );
    }
  });
}

/** Rows of states as vectors, which is how `step` reads its table. */
function rowTable(rows: Uint32Array): Uint32Array {
  const table = new Uint32Array(4 * rows.length);
  rows.forEach((row, i) => table[4 * i] = row);
  return table;
}

/** Runs an operation on operands whose dimensions are multiples of 4: the call's own, or padded copies of them. */
function withPadding(
  device: Device,
  call: LightningCall | LightningStepCall,
  initialTensor: Tensor | undefined,
  run: (operands: Operands) => void,
): void {
  const { shape } = call;
  const [q, k, v, state, output] = [call.q, call.k, call.v, call.state, call.output].map(storeOf);
  const initialState = initialTensor && storeOf(initialTensor);
  const { headDim: d, valueDim: e } = shape;
  const [d4, e4] = [multipleOf4(d), multipleOf4(e)];
  if (d4 === d && e4 === e) return run({ shape, q, k, v, initialState, state, output });

  using scope = device.scope();
  const rows = (store: Store, from: number, to: number) => padded(scope, store, [1, from], [1, to]);
  const states = (store: Store) => padded(scope, store, [d, e], [d4, e4]);
  const operands = {
    shape: { ...shape, headDim: d4, valueDim: e4 },
    q: rows(q, d, d4),
    k: rows(k, d, d4),
    v: rows(v, e, e4),
    initialState: initialState && states(initialState),
    state: states(state),
    output: e === e4 ? output : scope.allocate([output.length / e, e4], output.dtype),
  };
  run(operands);
  if (operands.output !== output) pad(device, operands.output, [1, e4], [1, e], output);
  if (operands.state !== state) pad(device, operands.state, [d4, e4], [d, e], state);
}

/** Elements from one batch element, one head and one token to the next. */
function strides({ layout, seqLen }: LightningShape, heads: number, dim: number): [number, number, number] {
  return layout === "bhnd"
    ? [heads * seqLen * dim, seqLen * dim, dim]
    : [seqLen * heads * dim, dim, heads * dim];
}

/** The part of a store that a span touches, or all of it where that can be bound. */
function spanWindow(store: Store, shape: LightningShape, heads: number, dim: number, span: Span): Window {
  const used = span.pieces.filter(({ length }) => length > 0);
  if (store.pieces.length === 1 || used.length === 0) return store;
  const [batchStride, headStride, tokenStride] = strides(shape, heads, dim);
  const group = shape.heads / heads;
  const ends = used.map(({ batch, start, length }) =>
    batch * batchStride + (start + length - 1) * tokenStride
  );
  const starts = used.map(({ batch, start }) => batch * batchStride + start * tokenStride);
  const start = Math.min(...starts) + Math.floor(span.head / group) * headStride;
  const end = Math.max(...ends) + Math.floor((span.head + span.heads - 1) / group) * headStride + dim;
  return store.window(start, end - start);
}

/** The states that a span reads and writes, or all of them. */
function stateWindow(store: Store, { heads, headDim, valueDim }: LightningShape, span: Span): Window {
  if (store.pieces.length === 1 || span.pieces.length === 0) return store;
  const size = headDim * valueDim;
  const start = (span.pieces[0].row * heads + span.head) * size;
  const end = (span.pieces.at(-1)!.row * heads + span.head + span.heads) * size;
  return store.window(start, end - start);
}

const tokensOf = ({ pieces }: Span) => pieces.reduce((sum, { length }) => sum + length, 0);

/** Tiles of the state, as `lightning.wgsl` cuts it. */
function tiling(device: Device, { headDim, valueDim }: LightningShape) {
  const wideHead = headDim > 64;
  // A tile of 128 columns takes 22 KiB of workgroup memory, and half the reads of keys and queries that two of 64 take.
  const wideValue = valueDim > 64 && device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768;
  const rows = wideHead ? 128 : 64, columns = wideValue ? 128 : 64;
  return {
    wideHead,
    wideValue,
    rows,
    columns,
    rowTiles: Math.ceil(headDim / rows),
    columnTiles: Math.ceil(valueDim / columns),
  };
}

/**
 * Tokens of a segment: few sequences and heads are cut into as many segments as fill the GPU. `alone`: there are no
 * segments, and not more workgroups than processors.
 */
function segmentation(device: Device, shape: LightningShape, span: Span): { tokens: number; alone: boolean } {
  const { rows, columns, columnTiles } = tiling(device, shape);
  const longest = Math.max(...span.pieces.map(({ length }) => length));
  const fill = TARGET_WORKGROUPS * 128 * 128 / (rows * columns);
  // Sequences count as far as they are as long as the longest.
  const workgroups = tokensOf(span) / Math.max(1, longest) * span.heads * columnTiles;
  // (From the last token to the first, walking whole sequences was measured to be slower.)
  const whole = !span.reverse && rows * columns === 128 * 128;
  if (whole && workgroups >= ALONE_WORKGROUPS && workgroups <= TARGET_WORKGROUPS / 2) {
    return { tokens: Math.max(1, Math.ceil(longest / PERIOD)) * PERIOD, alone: true };
  }
  const states = Math.floor(device.limits.windowBytes / (span.heads * shape.headDim * shape.valueDim * 4));
  const wanted = tokensOf(span) /
    Math.max(1, Math.min(states, Math.floor(fill / (span.heads * columnTiles))));
  // Segments of the longest sequence of equal length.
  const count = Math.max(1, Math.round(longest / Math.max(SEGMENT_TOKENS, wanted)));
  return { tokens: Math.max(SEGMENT_TOKENS, Math.ceil(longest / count / PERIOD) * PERIOD), alone: false };
}

/** The windows of a span's operands, and its segments. */
function footprint(device: Device, operands: Operands, span: Span) {
  const { shape, q, k, v, state, initialState, output } = operands;
  const { queryHeads, keyHeads, heads, headDim, valueDim } = shape;
  const { tokens: length, alone } = segmentation(device, shape, span);
  return {
    q: spanWindow(q, shape, queryHeads, headDim, span),
    k: spanWindow(k, shape, keyHeads, headDim, span),
    v: spanWindow(v, shape, heads, valueDim, span),
    output: spanWindow(output, shape, heads, valueDim, span),
    state: stateWindow(state, shape, span),
    initialState: initialState && stateWindow(initialState, shape, span),
    segmentTokens: length,
    alone,
    segments: span.pieces.reduce((sum, piece) => sum + Math.max(1, Math.ceil(piece.length / length)), 0),
  };
}

/** Cuts a span until its windows and scratch can be bound; in order, for states that carry on. */
function* spans(device: Device, operands: Operands, span: Span): Generator<Span> {
  const { q, k, v, output, state, initialState, segments } = footprint(device, operands, span);
  const limit = device.limits.windowBytes;
  const { headDim, valueDim } = operands.shape;
  const bound = segments * span.heads * headDim * valueDim * 4 <= limit &&
    [q, k, v, output, state, initialState ?? state].every(
      (window) => window.length * window.store.elementBytes <= limit,
    );
  const halves = bound ? undefined : halve(span, operands.shape);
  if (halves === undefined) yield span;
  else for (const half of halves) yield* spans(device, operands, half);
}

/** Halves of the sequences, of the heads or of the tokens: the first that gives smaller windows. */
function halve(span: Span, { layout }: LightningShape): [Span, Span] | undefined {
  const { head, heads, pieces, reverse } = span;
  const batches = pieces.at(-1)!.batch - pieces[0].batch + 1;
  if (batches > 1) {
    const middle = pieces[0].batch + Math.ceil(batches / 2);
    return [
      { ...span, pieces: pieces.filter(({ batch }) => batch < middle) },
      { ...span, pieces: pieces.filter(({ batch }) => batch >= middle) },
    ];
  }
  if (layout === "bhnd" && heads > 1) {
    const half = Math.ceil(heads / 2);
    return [{ ...span, heads: half }, { ...span, head: head + half, heads: heads - half }];
  }
  const tokens = tokensOf(span);
  if (tokens <= PERIOD) return undefined;
  const [first, second]: [Piece[], Piece[]] = [[], []];
  let left = Math.ceil(tokens / 2 / 16) * 16; // of the first half; pieces of tensors are halves, too
  for (const piece of pieces) {
    const length = Math.min(piece.length, left);
    left -= length;
    if (length === piece.length) first.push(piece);
    else if (length === 0) second.push(piece);
    else {
      const { start } = piece, rest = piece.length - length;
      first.push({ ...piece, start: reverse ? start + rest : start, length });
      second.push({ ...piece, start: reverse ? start : start + length, length: rest, origin: STATE });
    }
  }
  return [{ ...span, pieces: first }, { ...span, pieces: second }];
}

/** The pipeline of a stage. */
function lightningKernel(
  device: Device,
  entryPoint: keyof typeof BINDINGS,
  dtypes: { S: FloatType; O: FloatType },
  shape: LightningShape,
  { reverse = false, steep = false, later = false, alone = false } = {},
) {
  const { wideHead, wideValue, rows, columns } = tiling(device, shape);
  return device.kernel({
    source: SOURCE,
    entryPoint,
    bindings: BINDINGS[entryPoint],
    types: { ...dtypes, PartialRow: `array<vec4<f32>, ${columns / 4}>` },
    constants: {
      WIDE_HEAD: Number(wideHead),
      WIDE_VALUE: Number(wideValue),
      THREADS: entryPoint === "updateState" ? rows * columns / 64 : columns,
      HALVES: columns / 64,
      BUFFERS: device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768 ? 2 : 1,
      ROUNDS: alone ? 2 : 1,
      LATER: Number(later),
      STEEP: Number(steep),
      REVERSE: Number(reverse),
    },
  });
}

/** Segments and sequences of a span, as `lightning.wgsl` reads them. */
function schedule({ pieces, reverse }: Span, segmentTokens: number): Uint32Array {
  const carried: number[] = [], last: number[] = [], sequences: number[] = [];
  for (const { row, batch, start, length, origin } of pieces) {
    // Where token t of the walk is; negative where its stride is: the product is then the address, modulo 2^32.
    const place = (t: number) => reverse ? -(start + length - 1 - t) : start + t;
    const count = Math.max(1, Math.ceil(length / segmentTokens)) - 1;
    sequences.push(carried.length / 4, count, row, origin);
    for (let i = 0; i < count; i++) carried.push(place(i * segmentTokens), segmentTokens, batch, 0);
    last.push(place(count * segmentTokens), length - count * segmentTokens, batch, 0);
  }
  return Uint32Array.of(...carried, ...last, ...sequences);
}

/** What `lightning.wgsl` knows of the decay of each head. */
function decayTable(
  slopes: Float64Array,
  segmentTokens: number,
  keyScale: number,
  queryScale: number,
): Float32Array {
  const powers = (slope: number, scale: number) => [
    ...Array.from({ length: PERIOD }, (_, n) => n === 0 ? scale : scale * Math.exp(-slope * n)),
    0,
  ];
  return Float32Array.from([...slopes].flatMap((slope) => [
    ...powers(slope, keyScale),
    ...powers(-slope, queryScale),
    ...Array.from({ length: PERIOD + 1 }, (_, n) => decayChange(slope, n)),
    decayChange(slope, segmentTokens),
  ]));
}

function runSpan(device: Device, operands: Operands, slopes: Float64Array, scale: number, span: Span): void {
  const { shape } = operands;
  const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const { pieces, reverse } = span;
  const { segmentTokens, alone, segments, ...windows } = footprint(device, operands, span);
  const { rows, rowTiles, columnTiles } = tiling(device, shape);
  const carried = segments - pieces.length;

  const key = pieces.map(({ row, batch, start, length, origin }) =>
    [row, batch, start, length, origin].join(" ")
  );
  const table = device.constant(
    `lightning table ${reverse},${segmentTokens},${key.join()}`,
    () => schedule(span, segmentTokens),
  );
  const decays = device.constant(
    `lightning decays ${segmentTokens},${scale},${reverse},${slopes.join()}`,
    () => decayTable(slopes, segmentTokens, reverse ? scale : 1, reverse ? 1 : scale),
  );
  const walk = (heads: number, dim: number) => {
    const [batch, head, token] = strides(shape, heads, dim);
    return [batch, head, reverse ? -token : token];
  };
  const steep = slopes.some((slope) => slope > STEEP);
  const types = { S: operands.q.dtype, O: operands.output.dtype };
  using scope = device.scope();
  const scratch = scope.allocate([segments, span.heads, headDim, valueDim]);
  const dispatch = (
    stage: "updateState" | "carryState" | "attend",
    operands: readonly Window[],
    workgroups: number,
    firstRow = 0,
  ) =>
    device.dispatch(
      lightningKernel(device, stage, types, shape, { reverse, steep, alone, later: firstRow > 0 }),
      [table, decays, scratch, ...operands],
      [
        ...walk(queryHeads, headDim),
        windows.q.start,
        ...walk(keyHeads, headDim),
        windows.k.start,
        ...walk(heads, valueDim),
        windows.v.start,
        ...[heads, heads / queryHeads, heads / keyHeads, span.head, span.heads, headDim, valueDim],
        ...[workgroups, segments, pieces.length, firstRow, windows.state.start],
      ],
      workgroups,
    );
  if (carried > 0) {
    dispatch("updateState", [windows.k, windows.v], carried * span.heads * rowTiles * columnTiles);
  }
  dispatch(
    "carryState",
    [windows.initialState ?? device.nothing, windows.state],
    Math.ceil(pieces.length * span.heads * headDim * valueDim / 4 / 64),
  );
  for (let row = 0; row < headDim; row += rows) {
    dispatch(
      "attend",
      [windows.k, windows.v, windows.q, windows.output, windows.state],
      segments * span.heads * columnTiles,
      row,
    );
  }
}
