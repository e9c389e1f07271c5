/**
 * Lightning Attention: cuts sequences into segments and blocks, chooses the schedule, dispatches the stages of
 * `lightning.wgsl`.
 *
 * Memory beside the result: the states before the blocks, {@linkcode SCRATCH_BYTES} at most, whatever the length. Longer
 * calls run in spans of fewer sequences, heads or tokens, tokens with the state carried from span to span.
 *
 * @module
 */
import type { LightningCall, LightningShape, LightningStepCall, Sequence } from "../core/backend.ts";
import { decayChange, decayPowers } from "../core/decay.ts";
import type { DType, Tensor } from "../core/tensor.ts";
import { type Device, float, type Store, storeOf, type Window } from "./device.ts";
import { multipleOf4, pad } from "./pad.ts";
import source from "./lightning.wgsl" with { type: "text" };

/** Tokens of one block; as in `lightning.wgsl`. */
const BLOCK = 64;
/** Bytes of scratch for states at most; 128 to 512 MiB measure alike, see `docs/performance.md`. */
const SCRATCH_BYTES = 512 * 2 ** 20;
/** Workgroups of `updateState` that fill a large GPU; fewer segments cost it idle processors, more cost traffic. */
const TARGET_WORKGROUPS = 264;
/** Blocks of one segment at least. */
const SEGMENT_BLOCKS = 4;

/** Where a sequence's state comes from; as in `lightning.wgsl`. */
const ZERO = 0, INITIAL = 1, STATE = 2;

const BINDINGS = ["read", "read", "update", "read", "read", "read", "update"] as const;

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

/** See {@linkcode Kernels.lightning}. */
export function lightning(device: Device, call: LightningCall): void {
  const { slopes, scale, sequences, initialState } = call;
  withPadding(device, call, initialState, (operands) => {
    runSequences(device, operands, slopes, scale, sequences, false);
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

/** See {@linkcode Kernels.lightningStep}. */
export function lightningStep(device: Device, call: LightningStepCall): void {
  const { slopes, scale, rows } = call;
  withPadding(device, call, undefined, ({ shape, q, k, v, state, output }) => {
    const { batch, heads, queryHeads, keyHeads, headDim, valueDim } = shape;
    // With rows any element may be anywhere: the states are bound as a whole.
    const table = rows && device.upload(Uint32Array.from([...rows].flatMap((row) => [row, 0, 0, 0])));
    const kernel = lightningKernel(device, "step", q.dtype, shape);
    const decays = device.constant(`lightning step ${slopes.join()}`, () => {
      return Float32Array.from(slopes, (slope) => decayChange(slope, 1));
    });
    const lengths = [queryHeads * headDim, keyHeads * headDim, heads * valueDim, heads * headDim * valueDim];
    const [queries, keys, values, states] = [q, k, v, state].map((store, index) =>
      [store, lengths[index]] as const
    );
    const cut = rows === undefined ? [states] : [];
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
          ...[workgroups, 0, 0, 1, 0, Number(table !== undefined), float(scale)],
        ],
        workgroups,
      );
    }
    if (table !== undefined) device.release(table);
  });
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

  const held: Store[] = [];
  const keep = (store: Store) => (held.push(store), store);
  try {
    const padded = {
      shape: { ...shape, headDim: d4, valueDim: e4 },
      q: keep(pad(device, q, [1, d], [1, d4])),
      k: keep(pad(device, k, [1, d], [1, d4])),
      v: keep(pad(device, v, [1, e], [1, e4])),
      initialState: initialState && keep(pad(device, initialState, [d, e], [d4, e4])),
      state: keep(pad(device, state, [d, e], [d4, e4])),
      output: keep(device.allocate([output.length / e, e4], output.dtype)),
    };
    run(padded);
    pad(device, padded.output, [1, e4], [1, e], output);
    pad(device, padded.state, [d4, e4], [d, e], state);
  } finally {
    for (const store of held) device.release(store);
  }
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

const blocksOf = (length: number) => Math.ceil(length / BLOCK);

/** The windows of a span's operands, and the bytes of scratch that it needs at most. */
function footprint({ shape, q, k, v, state, initialState, output }: Operands, span: Span) {
  const { queryHeads, keyHeads, heads, headDim, valueDim } = shape;
  const blocks = span.pieces.reduce((sum, { length }) => sum + blocksOf(length), 0);
  return {
    q: spanWindow(q, shape, queryHeads, headDim, span),
    k: spanWindow(k, shape, keyHeads, headDim, span),
    v: spanWindow(v, shape, heads, valueDim, span),
    output: spanWindow(output, shape, heads, valueDim, span),
    state: stateWindow(state, shape, span),
    initialState: initialState && stateWindow(initialState, shape, span),
    scratchBytes: 2 * blocks * span.heads * headDim * valueDim * 4,
  };
}

/** Cuts a span until its windows can be bound and its scratch is small enough; in order, for states that carry on. */
function* spans(device: Device, operands: Operands, span: Span): Generator<Span> {
  const { q, k, v, output, state, initialState, scratchBytes } = footprint(operands, span);
  const limit = device.limits.windowBytes;
  const bound = [q, k, v, output, state, initialState ?? state].every(
    (window) => window.length * window.store.elementBytes <= limit,
  );
  // The second half of the bytes is for the segments, of which there are fewer than blocks.
  const small = scratchBytes <= 2 * Math.min(SCRATCH_BYTES, limit / 2);
  const halves = bound && small ? undefined : halve(span, operands.shape);
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
  const blocks = pieces.reduce((sum, { length }) => sum + blocksOf(length), 0);
  if (blocks < 2) return undefined;
  const [first, second]: [Piece[], Piece[]] = [[], []];
  let left = Math.ceil(blocks / 2); // blocks of the first half
  for (const piece of pieces) {
    const length = Math.min(piece.length, left * BLOCK);
    left -= blocksOf(length);
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

/** The pipeline of a stage: tiles of 64 where a dimension is no larger, two buffers where they fit. */
function lightningKernel(
  device: Device,
  entryPoint: string,
  dtype: DType,
  shape: LightningShape,
  reverse = false,
) {
  const wideHead = shape.headDim > 64, wideValue = shape.valueDim > 64;
  return device.kernel({
    source,
    entryPoint,
    bindings: BINDINGS,
    types: { S: dtype },
    constants: {
      WIDE_HEAD: Number(wideHead),
      WIDE_VALUE: Number(wideValue),
      REVERSE: Number(reverse),
      THREADS: (wideHead ? 16 : 8) * (wideValue ? 16 : 8),
      // Two buffers are 32 KiB: worth it where registers leave room for one workgroup per processor anyway.
      BUFFERS: entryPoint === "updateState" && device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768
        ? 2
        : 1,
    },
  });
}

/** Blocks, segments and sequences of a span, as `lightning.wgsl` reads them. */
function schedule({ pieces, reverse }: Span, segmentBlocks: number) {
  const blocks: number[] = [], segments: number[] = [], sequences: number[] = [];
  for (const { row, batch, start, length, origin } of pieces) {
    // Where token t of the walk is; negative where its stride is: the product is then the address, modulo 2^32.
    const place = (t: number) => reverse ? -(start + length - 1 - t) : start + t;
    const count = segmentBlocks === Infinity ? 1 : Math.ceil(length / (segmentBlocks * BLOCK));
    sequences.push(segments.length / 4, count, row, origin);
    for (let segment = 0; segment < count; segment++) {
      const first = segmentBlocks === Infinity ? 0 : segment * segmentBlocks * BLOCK;
      const end = Math.min(first + segmentBlocks * BLOCK, length);
      const index = segments.length / 4;
      segments.push(place(first), end - first, batch, blocks.length / 4);
      for (let token = first; token < end; token += BLOCK) {
        blocks.push(place(token), Math.min(BLOCK, end - token), batch, index);
      }
    }
  }
  return Uint32Array.of(...blocks, ...segments, ...sequences);
}

function runSpan(device: Device, operands: Operands, slopes: Float64Array, scale: number, span: Span): void {
  const { shape } = operands;
  const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const { pieces, reverse } = span;
  const windows = footprint(operands, span);
  const valueTiles = Math.ceil(valueDim / (valueDim > 64 ? 128 : 64));
  const tiles = Math.ceil(headDim / (headDim > 64 ? 128 : 64)) * valueTiles;

  // Few sequences and heads: as many segments as fill the GPU. Short sequences, or many: one segment each.
  const lengths = pieces.map(({ length }) => blocksOf(length));
  const blocks = lengths.reduce((sum, n) => sum + n, 0);
  const longest = Math.max(...lengths);
  const wanted = Math.max(SEGMENT_BLOCKS, Math.ceil(blocks * span.heads * tiles / TARGET_WORKGROUPS));
  const segmentBlocks = wanted >= longest ? Infinity : wanted;
  const segments = segmentBlocks === Infinity
    ? pieces.length
    : lengths.reduce((sum, n) => sum + Math.ceil(n / segmentBlocks), 0);

  const key = pieces.map(({ row, batch, start, length, origin }) =>
    [row, batch, start, length, origin].join(" ")
  );
  const table = device.constant(`lightning table ${reverse},${segmentBlocks},${key.join()}`, () => {
    return schedule(span, segmentBlocks);
  });
  const powers = segmentBlocks === Infinity ? 1 : segmentBlocks;
  const decayLength = 2 * (BLOCK + 1 + powers);
  const decays = device.constant(`lightning decays ${powers},${slopes.join()}`, () => {
    const data = new Float32Array(heads * decayLength);
    slopes.forEach((slope, head) => {
      const at = head * decayLength;
      data.set(decayPowers(slope, BLOCK + 1), at);
      data.set(decayPowers(slope * BLOCK, powers), at + BLOCK + 1);
      for (let n = 0; n < decayLength / 2; n++) {
        data[at + decayLength / 2 + n] = decayChange(slope, n <= BLOCK ? n : (n - BLOCK - 1) * BLOCK);
      }
    });
    return data;
  });

  const walk = (heads: number, dim: number) => {
    const [batch, head, token] = strides(shape, heads, dim);
    return [batch, head, reverse ? -token : token];
  };
  const scratch = device.allocate([blocks + segments, span.heads, headDim, valueDim]);
  try {
    const dispatch = (stage: "updateState" | "carryState" | "attend", workgroups: number) =>
      device.dispatch(
        lightningKernel(device, stage, operands.q.dtype, shape, reverse),
        [
          table,
          decays,
          scratch,
          windows.k,
          windows.v,
          ...(stage === "attend"
            ? [windows.q, windows.output]
            : [windows.initialState ?? device.nothing, windows.state]),
        ],
        [
          ...walk(queryHeads, headDim),
          windows.q.start,
          ...walk(keyHeads, headDim),
          windows.k.start,
          ...walk(heads, valueDim),
          windows.v.start,
          ...[heads, heads / queryHeads, heads / keyHeads, span.head, span.heads, headDim, valueDim],
          ...[workgroups, blocks, segments, decayLength, windows.state.start],
          ...[segmentBlocks === Infinity ? 0 : 1, float(scale)],
        ],
        workgroups,
      );
    dispatch("updateState", segments * span.heads * tiles);
    if (segmentBlocks !== Infinity) {
      dispatch("carryState", Math.ceil(pieces.length * span.heads * headDim * valueDim / 4 / 64));
    }
    dispatch("attend", blocks * span.heads * valueTiles);
  } finally {
    device.release(scratch);
  }
}
