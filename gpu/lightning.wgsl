// Lightning Attention with decay λ = e^(−slope).
//
// The host cuts each sequence into segments, enough of them to fill the GPU, and dispatches
//   updateState   one workgroup per (segment but the last, head, tile of the state): the segment's own sum of k vᵀ
//   carryState    one thread per 4 elements of a state: walks the segments, finds the state before each
//   attend        one workgroup per (segment, head, tile of the state): walks the segment's tokens, writes outputs
//
// A workgroup holds its tile of S in registers and takes a few tokens at a time into workgroup memory. With S in
// registers a block is one token: k_i v_iᵀ is added before q_i is applied. O[i] = q_iᵀ S is then interBlock and intraBlock
// together, and saves the conventional product inside of larger blocks. In attend a thread has 32 rows and 4
// columns of S, so it knows the sum over its own rows only: the sums of the row groups are added up in workgroup memory.
//
// S decays once per PERIOD tokens, by λ^m. Within the period, which ends at token e, keys are stored as λ^(e−j) k_j and
// queries as λ^−(e−i) q_i. Slopes too steep for the negative powers have a period of one token.
//
// headDim and valueDim are multiples of 4 here (the host pads others), and tensors are read as vectors. Registers are
// matrices by name: arrays cost half the speed.
//
// REVERSE walks from the last token to the first, for gradients, as `lightningBackward.ts` explains. The host negates
// tokens and token strides, so that addresses come out the same; i, j and m count from the end. The gradient of the
// state is handed from segment to segment as D = λ dS:
//   O[i] = λ^i q_iᵀ D + Σ_{j≤i} λ^(i−j) (q_i·k_j) v_j
//   D ← λ^m D + scale · Σ_j λ^(m−j) k_j v_jᵀ

// import folded.wgsl, outer.wgsl

override WIDE_HEAD: bool;  // tiles are 128 rows of headDim high, else 64
override WIDE_VALUE: bool; // tiles are 128 columns of valueDim wide, else 64
override THREADS: u32;     // of updateState: 8 × 8 elements of S each; of attend: TOKENS per 4 columns of S
override HALVES: u32;      // of a tile's columns in attend: 2 with WIDE_VALUE, else 1
override BUFFERS: u32;     // of updateState: with 2, storing the next tokens overlaps with the sums of these
override ROUNDS: u32;      // of partial sums in attend: 2 take more memory and a barrier less, for a workgroup alone on its processor
override LATER: bool;      // attend adds to the outputs of tiles of other rows
override STEEP: bool;      // period of one token: slopes too steep for the negative powers
override REVERSE: bool;    // for gradients: see above

const TOKENS = 4u;         // of one step of attend
const UPDATE_TOKENS = 16u; // of one step of updateState
const PERIOD = 48u;

struct Shape {
  // Elements from one batch element, one head and one token to the next, and those before the bound window.
  query: vec4<u32>,
  key: vec4<u32>,
  value: vec4<u32>,
  heads: u32,
  queryGroup: u32, // heads that share a head of q, and of k
  keyGroup: u32,
  firstHead: u32,
  headCount: u32, // heads of this dispatch, from firstHead
  headDim: u32,
  valueDim: u32,
  workgroups: u32,
  segments: u32,    // entries of the table: segments, of which each sequence's last one comes last, then sequences
  sequences: u32,
  firstRow: u32,    // of attend: its tile's first row of the state
  stateOrigin: u32, // elements of states before the bound window
}

@group(1) @binding(0) var<uniform> shape: Shape;

// [segments + sequences]. Segments: first token, tokens, batch element, unused. Sequences: first segment, segments but
// the last, row of the state, origin of the state (ZERO, INITIAL or STATE). Of step: [batch], x the row of the state.
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
// [heads, DECAYS], see below; of step [heads]: decayChange(1).
@group(0) @binding(1) var<storage, read> decays: array<f32>;
// [segments, headCount, headDim, valueDim / 4]: the sum of each segment, then (after carryState) the state before it.
@group(0) @binding(2) var<storage, read_write> scratch: array<vec4<f32>>;
// updateState, attend and step; windows of [batch, heads, seqLen, dim / 4] or [batch, seqLen, heads, dim / 4], where the
// strides of `shape` say what follows what.
@group(0) @binding(3) var<storage, read> k: array<vec4<S>>; // dim is headDim
@group(0) @binding(4) var<storage, read> v: array<vec4<S>>; // dim is valueDim
@group(0) @binding(5) var<storage, read> q: array<vec4<S>>; // dim is headDim
@group(0) @binding(6) var<storage, read_write> output: array<vec4<O>>; // as v
@group(0) @binding(7) var<storage, read_write> state: array<vec4<f32>>; // [sequences, heads, headDim, valueDim / 4]
// carryState
@group(0) @binding(3) var<storage, read> initialState: array<vec4<f32>>; // [sequences, heads, headDim, valueDim / 4]
@group(0) @binding(4) var<storage, read> carriedState: array<vec4<f32>>; // the same: what an earlier dispatch left

// Where the state before a sequence's first token comes from.
const ZERO = 0u;
const INITIAL = 1u; // initialState
const STATE = 2u; // carriedState

// Of each head: the factors of keys, λ^0 ... λ^(PERIOD−1), then 0; those of queries, λ^0 ... λ^−(PERIOD−1) times scale (with
// REVERSE the scale is that of keys), then 0; decayChange of core/decay.ts for 0 ... PERIOD tokens, and for the tokens of a
// segment. Each is rounded once, none is a power of a rounded λ.
const OUTSIDE = PERIOD;    // the factor 0, for tokens and rows outside
const QUERY = PERIOD + 1u; // where those of queries begin
const CHANGE = 2u * QUERY;
const SEGMENT_CHANGE = CHANGE + PERIOD + 1u;
const DECAYS = SEGMENT_CHANGE + 1u;

// S after `change`, which is λ^m − 1, added to S itself, where λ^m alone would lose digits near 1; else λ^m.
fn changed(x: vec4<f32>, change: f32) -> vec4<f32> {
  return fma(vec4<f32>(change), x, select(vec4<f32>(), x, change <= 0.0));
}

// From a token to the next one, in vectors: negative with REVERSE.
fn tokenStride(strides: vec4<u32>) -> u32 {
  return u32(i32(strides.z) / 4);
}

// Where state (row, head) starts, in vectors: in the scratch of this dispatch, and in the bound window of states.
fn scratchStart(row: u32, head: u32) -> u32 {
  return (row * shape.headCount + head) * shape.headDim * (shape.valueDim / 4u);
}

fn stateStart(row: u32, head: u32) -> u32 {
  return ((row * shape.heads + head) * shape.headDim * shape.valueDim - shape.stateOrigin) / 4u;
}

// ---------------------------------------------------------------------------------- S in registers, and its decay

// Mirrors the odd rows of 4 × 4 elements, or mirrors them back (see outer.wgsl).
fn mirrored(x: mat4x4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(x[0], x[1].wzyx, x[2], x[3].wzyx);
}

// As `changed`, for 4 rows and change <= 0.
fn decayMatrix(x: mat4x4<f32>, change: f32) -> mat4x4<f32> {
  let c = vec4<f32>(change);
  return mat4x4<f32>(fma(c, x[0], x[0]), fma(c, x[1], x[1]), fma(c, x[2], x[2]), fma(c, x[3], x[3]));
}

// decayChange for the period that starts at `token` of a segment of `count` tokens.
fn periodChange(head: u32, token: u32, count: u32) -> f32 {
  var tokens = min(select(PERIOD, 1u, STEEP), max(count, token) - token);
  if (REVERSE && token == 0u) { tokens -= min(1u, tokens); } // D has decayed to this token
  return decays[head * DECAYS + CHANGE + tokens];
}

// Where the factors of a token are: tokens from it to the last one, `end` − 1, of its period, or OUTSIDE.
fn tokensLeft(token: u32, end: u32, inside: bool) -> u32 {
  return select(OUTSIDE, select(end - 1u - token, 0u, STEEP), inside && token < end);
}

// x, or zero outside.
fn kept(x: vec4<f32>, inside: bool) -> vec4<f32> {
  return select(vec4<f32>(), x, inside);
}

// ------------------------------------------------------------------------------------------------- updateState

// 8 × 8 elements of S: 4 rows of each half of the tile.
struct Sums { upper: Rows, lower: Rows }

var<workgroup> keyRows: array<array<array<vec4<f32>, 32>, UPDATE_TOKENS>, BUFFERS>;   // [token][row / 4], decayed
var<workgroup> valueRows: array<array<array<vec4<f32>, 32>, UPDATE_TOKENS>, BUFFERS>; // [token][column / 4]

// S ← S + k_j v_jᵀ
fn updateToken(s: ptr<function, Sums>, buffer: u32, j: u32, row: u32, column: u32) {
  let upper = keyRows[buffer][j][row];
  let lower = keyRows[buffer][j][row + select(8u, 16u, WIDE_HEAD)];
  let left = valueRows[buffer][j][column];
  let right = valueRows[buffer][j][column + select(8u, 16u, WIDE_VALUE)];
  (*s).upper = outerRows((*s).upper, upper, left, right);
  (*s).lower = outerRows((*s).lower, lower, left, right);
}

// k_j and v_j, j = token + i, to workgroup memory; zero from `end` or `count` on.
fn storeKey(buffer: u32, i: u32, column: u32, x: vec4<S>, head: u32, token: u32, end: u32) {
  keyRows[buffer][i][column] = kept(decays[head * DECAYS + tokensLeft(token + i, end, true)] * vec4<f32>(x), token + i < end);
}

fn storeValue(buffer: u32, i: u32, column: u32, x: vec4<S>, token: u32, count: u32) {
  valueRows[buffer][i][column] = kept(vec4<f32>(x), token + i < count);
}

fn decaySums(s: ptr<function, Sums>, change: f32) {
  if (change <= 0.0) {
    (*s).upper.left = decayMatrix((*s).upper.left, change);
    (*s).upper.right = decayMatrix((*s).upper.right, change);
    (*s).lower.left = decayMatrix((*s).lower.left, change);
    (*s).lower.right = decayMatrix((*s).lower.right, change);
  } else {
    (*s).upper.left = (*s).upper.left * change;
    (*s).upper.right = (*s).upper.right * change;
    (*s).lower.left = (*s).lower.left * change;
    (*s).lower.right = (*s).lower.right * change;
  }
}

fn writeSums(start: u32, row: u32, column: u32, x: mat4x4<f32>) {
  let vectors = shape.valueDim / 4u;
  if (row >= shape.headDim || column >= vectors) { return; }
  let at = start + row * vectors + column;
  scratch[at] = x[0];
  scratch[at + vectors] = x[1];
  scratch[at + 2u * vectors] = x[2];
  scratch[at + 3u * vectors] = x[3];
}

// updateState: S ← λ^m S + Σ_j λ^(m−1−j) k_j v_jᵀ, from zero
@compute @workgroup_size(THREADS)
fn updateState(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  var id = folded(workgroup, workgroups);
  if (id >= shape.workgroups) { return; }
  let keyVectors = select(16u, 32u, WIDE_HEAD);
  let valueVectors = select(16u, 32u, WIDE_VALUE);
  let keyTiles = (shape.headDim / 4u + keyVectors - 1u) / keyVectors;
  let valueTiles = (shape.valueDim / 4u + valueVectors - 1u) / valueVectors;
  let keyTile = id % keyTiles * keyVectors;
  id /= keyTiles;
  let valueTile = id % valueTiles * valueVectors;
  id /= valueTiles;
  let localHead = id % shape.headCount;
  let head = shape.firstHead + localHead;
  let segmentIndex = id / shape.headCount;
  let segment = table[segmentIndex];
  let count = segment.y;

  // Every thread loads one column of every keyStep-th and valueStep-th token, the 8th or 4th: 2 or 4 vectors.
  let keyStep = THREADS / keyVectors;
  let keyToken = thread / keyVectors;
  let keyColumn = thread % keyVectors;
  let keyInside = keyTile + keyColumn < shape.headDim / 4u;
  let keyStride = tokenStride(shape.key);
  var keyAt = (segment.z * shape.key.x + head / shape.keyGroup * shape.key.y + segment.x * shape.key.z - shape.key.w) / 4u
    + keyTile + keyColumn + keyToken * keyStride;
  let valueStep = THREADS / valueVectors;
  let valueToken = thread / valueVectors;
  let valueColumn = thread % valueVectors;
  let valueInside = valueTile + valueColumn < shape.valueDim / 4u;
  let valueStride = tokenStride(shape.value);
  var valueAt = (segment.z * shape.value.x + head * shape.value.y + segment.x * shape.value.z - shape.value.w) / 4u
    + valueTile + valueColumn + valueToken * valueStride;

  // Warps of 4 × 8 threads read the fewest different vectors.
  let row = thread / 32u / (valueVectors / 16u) * 4u + thread % 32u / 8u;
  let column = thread / 32u % (valueVectors / 16u) * 8u + thread % 8u;
  var s = Sums();
  var k0 = k[keyAt];
  var k1 = k[keyAt + 8u * keyStride];
  var k2 = vec4<S>();
  var k3 = vec4<S>();
  if (keyStep == 4u) {
    k2 = k[keyAt + 4u * keyStride];
    k3 = k[keyAt + 12u * keyStride];
  }
  var v0 = v[valueAt];
  var v1 = v[valueAt + 8u * valueStride];
  var v2 = vec4<S>();
  var v3 = vec4<S>();
  if (valueStep == 4u) {
    v2 = v[valueAt + 4u * valueStride];
    v3 = v[valueAt + 12u * valueStride];
  }
  for (var start = 0u; start < count; start += PERIOD) {
    if (!STEEP) { decaySums(&s, periodChange(head, start, count)); }
    let end = min(start + PERIOD, count);
    for (var token = start; token < end; token += UPDATE_TOKENS) {
      let buffer = token / UPDATE_TOKENS % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      storeKey(buffer, keyToken, keyColumn, k0, head, token, select(0u, end, keyInside));
      storeKey(buffer, keyToken + 8u, keyColumn, k1, head, token, select(0u, end, keyInside));
      if (keyStep == 4u) {
        storeKey(buffer, keyToken + 4u, keyColumn, k2, head, token, select(0u, end, keyInside));
        storeKey(buffer, keyToken + 12u, keyColumn, k3, head, token, select(0u, end, keyInside));
      }
      storeValue(buffer, valueToken, valueColumn, v0, token, select(0u, count, valueInside));
      storeValue(buffer, valueToken + 8u, valueColumn, v1, token, select(0u, count, valueInside));
      if (valueStep == 4u) {
        storeValue(buffer, valueToken + 4u, valueColumn, v2, token, select(0u, count, valueInside));
        storeValue(buffer, valueToken + 12u, valueColumn, v3, token, select(0u, count, valueInside));
      }
      workgroupBarrier();
      // The next step's, while the sums of this one are taken.
      keyAt += UPDATE_TOKENS * keyStride;
      valueAt += UPDATE_TOKENS * valueStride;
      k0 = k[keyAt];
      k1 = k[keyAt + 8u * keyStride];
      if (keyStep == 4u) {
        k2 = k[keyAt + 4u * keyStride];
        k3 = k[keyAt + 12u * keyStride];
      }
      v0 = v[valueAt];
      v1 = v[valueAt + 8u * valueStride];
      if (valueStep == 4u) {
        v2 = v[valueAt + 4u * valueStride];
        v3 = v[valueAt + 12u * valueStride];
      }
      if (STEEP) {
        for (var j = 0u; j < UPDATE_TOKENS; j++) {
          decaySums(&s, periodChange(head, token + j, count));
          updateToken(&s, buffer, j, row, column);
        }
      } else {
        updateToken(&s, buffer, 0u, row, column);
        updateToken(&s, buffer, 1u, row, column);
        updateToken(&s, buffer, 2u, row, column);
        updateToken(&s, buffer, 3u, row, column);
        updateToken(&s, buffer, 4u, row, column);
        updateToken(&s, buffer, 5u, row, column);
        updateToken(&s, buffer, 6u, row, column);
        updateToken(&s, buffer, 7u, row, column);
        updateToken(&s, buffer, 8u, row, column);
        updateToken(&s, buffer, 9u, row, column);
        updateToken(&s, buffer, 10u, row, column);
        updateToken(&s, buffer, 11u, row, column);
        updateToken(&s, buffer, 12u, row, column);
        updateToken(&s, buffer, 13u, row, column);
        updateToken(&s, buffer, 14u, row, column);
        updateToken(&s, buffer, 15u, row, column);
      }
    }
  }
  if (REVERSE && count > 0u) { decaySums(&s, decays[head * DECAYS + CHANGE + 1u]); }

  let start = scratchStart(segmentIndex, localHead);
  let lower = row + keyVectors / 2u;
  let right = column + valueVectors / 2u;
  writeSums(start, 4u * (keyTile + row), valueTile + column, mirrored(s.upper.left));
  writeSums(start, 4u * (keyTile + row), valueTile + right, mirrored(s.upper.right));
  writeSums(start, 4u * (keyTile + lower), valueTile + column, mirrored(s.lower.left));
  writeSums(start, 4u * (keyTile + lower), valueTile + right, mirrored(s.lower.right));
}

// -------------------------------------------------------------------------------------------------- carryState

// S ← λ^m S + sum of the segment, and S before each segment in the sum's place.
@compute @workgroup_size(64)
fn carryState(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let vectors = shape.headDim * (shape.valueDim / 4u);
  let id = folded(workgroup, workgroups) * 64u + thread;
  let element = id % vectors;
  let localHead = id / vectors % shape.headCount;
  let index = id / vectors / shape.headCount;
  if (index >= shape.sequences) { return; }
  let head = shape.firstHead + localHead;
  let sequence = table[shape.segments + index];
  let stateAt = stateStart(sequence.z, head) + element;
  var carried = vec4<f32>();
  if (sequence.w == INITIAL) { carried = initialState[stateAt]; }
  if (sequence.w == STATE) { carried = carriedState[stateAt]; }

  var at = scratchStart(sequence.x, localHead) + element;
  let step = shape.headCount * vectors;
  let change = decays[head * DECAYS + SEGMENT_CHANGE];
  var next = scratch[at];
  for (var i = 0u; i < sequence.y; i++) {
    let sum = next;
    next = scratch[at + step]; // read ahead: the chain is then without reads
    scratch[at] = carried;
    carried = changed(carried, change) + sum;
    at += step;
  }
  scratch[scratchStart(shape.segments - shape.sequences + index, localHead) + element] = carried;
}

// ------------------------------------------------------------------------------------------------------ attend

// 4 columns of S and a quarter of the tile's rows: 32, or 16 without WIDE_HEAD.
struct State {
  s0: mat4x4<f32>, s1: mat4x4<f32>, s2: mat4x4<f32>, s3: mat4x4<f32>,
  s4: mat4x4<f32>, s5: mat4x4<f32>, s6: mat4x4<f32>, s7: mat4x4<f32>,
}

fn readRows(start: u32, row: u32, column: u32) -> mat4x4<f32> {
  let vectors = shape.valueDim / 4u;
  if (row >= shape.headDim || column >= vectors) { return mat4x4<f32>(); }
  let at = start + row * vectors + column;
  return mirrored(mat4x4<f32>(scratch[at], scratch[at + vectors], scratch[at + 2u * vectors], scratch[at + 3u * vectors]));
}

fn readState(start: u32, row: u32, column: u32) -> State {
  var s = State();
  s.s0 = readRows(start, row, column);
  s.s1 = readRows(start, row + 4u, column);
  s.s2 = readRows(start, row + 8u, column);
  s.s3 = readRows(start, row + 12u, column);
  if (WIDE_HEAD) {
    s.s4 = readRows(start, row + 16u, column);
    s.s5 = readRows(start, row + 20u, column);
    s.s6 = readRows(start, row + 24u, column);
    s.s7 = readRows(start, row + 28u, column);
  }
  return s;
}

fn writeRows(start: u32, row: u32, column: u32, x: mat4x4<f32>) {
  let vectors = shape.valueDim / 4u;
  if (row >= shape.headDim || column >= vectors) { return; }
  let at = start + row * vectors + column;
  state[at] = x[0];
  state[at + vectors] = x[1];
  state[at + 2u * vectors] = x[2];
  state[at + 3u * vectors] = x[3];
}

// S ← λ^m S
fn decayState(s: ptr<function, State>, change: f32) {
  if (change <= 0.0) {
    (*s).s0 = decayMatrix((*s).s0, change);
    (*s).s1 = decayMatrix((*s).s1, change);
    (*s).s2 = decayMatrix((*s).s2, change);
    (*s).s3 = decayMatrix((*s).s3, change);
    if (WIDE_HEAD) {
      (*s).s4 = decayMatrix((*s).s4, change);
      (*s).s5 = decayMatrix((*s).s5, change);
      (*s).s6 = decayMatrix((*s).s6, change);
      (*s).s7 = decayMatrix((*s).s7, change);
    }
  } else {
    (*s).s0 = (*s).s0 * change;
    (*s).s1 = (*s).s1 * change;
    (*s).s2 = (*s).s2 * change;
    (*s).s3 = (*s).s3 * change;
    if (WIDE_HEAD) {
      (*s).s4 = (*s).s4 * change;
      (*s).s5 = (*s).s5 * change;
      (*s).s6 = (*s).s6 * change;
      (*s).s7 = (*s).s7 * change;
    }
  }
}

// sum + aᵀ c; c is mirrored.
fn product(sum: vec4<f32>, a: vec4<f32>, c: mat4x4<f32>) -> vec4<f32> {
  return fma(
    vec4<f32>(a.w),
    c[3].wzyx,
    fma(vec4<f32>(a.z), c[2], fma(vec4<f32>(a.y), c[1].wzyx, fma(vec4<f32>(a.x), c[0], sum))),
  );
}

// The tokens of two steps, filled alternately. With constants for the inner indices one address serves all reads of a step.
// (PartialRow, from the host, holds the vectors of a row of the tile: overrides can size outer arrays only.)
var<workgroup> keys: array<array<array<array<vec4<f32>, 8>, 4>, TOKENS>, 2>;    // [token][row group][row / 4], decayed
var<workgroup> queries: array<array<array<array<vec4<f32>, 8>, 4>, TOKENS>, 2>; // the same
var<workgroup> values: array<array<array<array<vec4<f32>, 16>, TOKENS>, 2>, HALVES>;   // [half][buffer][token][column / 4]
var<workgroup> partials: array<array<array<PartialRow, 4>, TOKENS>, ROUNDS>;           // [round][token][row group][column / 4]

// S ← S + k_i v_iᵀ, then q_iᵀ S, as far as the thread's own rows go.
fn attendToken(s: ptr<function, State>, buffer: u32, i: u32, group: u32, column: u32) -> vec4<f32> {
  let value = values[column / 16u][buffer][i][column % 16u];
  (*s).s0 = outer((*s).s0, keys[buffer][i][group][0], value);
  (*s).s1 = outer((*s).s1, keys[buffer][i][group][1], value);
  (*s).s2 = outer((*s).s2, keys[buffer][i][group][2], value);
  (*s).s3 = outer((*s).s3, keys[buffer][i][group][3], value);
  if (WIDE_HEAD) {
    (*s).s4 = outer((*s).s4, keys[buffer][i][group][4], value);
    (*s).s5 = outer((*s).s5, keys[buffer][i][group][5], value);
    (*s).s6 = outer((*s).s6, keys[buffer][i][group][6], value);
    (*s).s7 = outer((*s).s7, keys[buffer][i][group][7], value);
  }
  var sum = vec4<f32>();
  sum = product(sum, queries[buffer][i][group][0], (*s).s0);
  sum = product(sum, queries[buffer][i][group][1], (*s).s1);
  sum = product(sum, queries[buffer][i][group][2], (*s).s2);
  sum = product(sum, queries[buffer][i][group][3], (*s).s3);
  if (WIDE_HEAD) {
    sum = product(sum, queries[buffer][i][group][4], (*s).s4);
    sum = product(sum, queries[buffer][i][group][5], (*s).s5);
    sum = product(sum, queries[buffer][i][group][6], (*s).s6);
    sum = product(sum, queries[buffer][i][group][7], (*s).s7);
  }
  return sum;
}

// The sum over the row groups, to the output.
fn writeOutput(round: u32, i: u32, column: u32, at: u32) {
  var sum = (partials[round][i][0][column] + partials[round][i][1][column])
    + (partials[round][i][2][column] + partials[round][i][3][column]);
  if (LATER) { sum += vec4<f32>(output[at]); }
  output[at] = vec4<O>(sum);
}

// attend: S ← S + k_i v_iᵀ, O[i] = q_iᵀ S
@compute @workgroup_size(THREADS)
fn attend(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  var id = folded(workgroup, workgroups);
  if (id >= shape.workgroups) { return; }
  let keyVectors = select(16u, 32u, WIDE_HEAD);
  let valueVectors = select(16u, 32u, WIDE_VALUE);
  let valueTiles = (shape.valueDim / 4u + valueVectors - 1u) / valueVectors;
  let valueTile = id % valueTiles * valueVectors;
  id /= valueTiles;
  let localHead = id % shape.headCount;
  let head = shape.firstHead + localHead;
  let segmentIndex = id / shape.headCount;
  let segment = table[segmentIndex];
  let count = segment.y;

  // Every thread loads one vector of each operand, of q and k none or two where tiles are not square. Outside of the
  // tensors it repeats the last vector; factors of zero keep that out of the sums.
  let keyToken = thread / keyVectors;
  let keyColumn = thread % keyVectors;
  let loads = THREADS <= TOKENS * keyVectors || keyToken < TOKENS;
  let both = THREADS / keyVectors < TOKENS;
  let keyGroup = keyColumn / (keyVectors / 4u);
  let keyPlace = keyColumn % (keyVectors / 4u);
  let keyInside = shape.firstRow / 4u + keyColumn < shape.headDim / 4u;
  let row = min(shape.firstRow + 4u * keyColumn, shape.headDim - 4u);
  let queryStride = tokenStride(shape.query);
  let keyStride = tokenStride(shape.key);
  let queryAt = (segment.z * shape.query.x + head / shape.queryGroup * shape.query.y + segment.x * shape.query.z
    - shape.query.w + row) / 4u;
  let keyAt = (segment.z * shape.key.x + head / shape.keyGroup * shape.key.y + segment.x * shape.key.z
    - shape.key.w + row) / 4u;
  // Group and column are also those of the thread's part of S, and token and column of the output that it adds up.
  let group = thread / valueVectors;
  let column = thread % valueVectors;
  let valueInside = valueTile + column < shape.valueDim / 4u;
  let valueStride = tokenStride(shape.value);
  let valueAt = (segment.z * shape.value.x + head * shape.value.y + segment.x * shape.value.z - shape.value.w) / 4u
    + min(valueTile + column, shape.valueDim / 4u - 1u);

  let firstRow = shape.firstRow + group * select(16u, 32u, WIDE_HEAD);
  var s = readState(scratchStart(segmentIndex, localHead), firstRow, valueTile + column);
  let last = count - 1u;
  var q0 = vec4<S>();
  var k0 = vec4<S>();
  var q1 = vec4<S>();
  var k1 = vec4<S>();
  if (loads) {
    q0 = q[queryAt + min(keyToken, last) * queryStride];
    k0 = k[keyAt + min(keyToken, last) * keyStride];
  }
  if (both) {
    q1 = q[queryAt + min(keyToken + 2u, last) * queryStride];
    k1 = k[keyAt + min(keyToken + 2u, last) * keyStride];
  }
  var v0 = v[valueAt + min(group, last) * valueStride];
  for (var start = 0u; start < count; start += PERIOD) {
    if (!STEEP) { decayState(&s, periodChange(head, start, count)); }
    let end = min(start + PERIOD, count);
    for (var token = start; token < end; token += TOKENS) {
      let buffer = token / TOKENS % 2u;
      if (loads) {
        let factors = head * DECAYS + tokensLeft(token + keyToken, end, keyInside);
        queries[buffer][keyToken][keyGroup][keyPlace] = decays[factors + QUERY] * vec4<f32>(q0);
        keys[buffer][keyToken][keyGroup][keyPlace] = decays[factors] * vec4<f32>(k0);
      }
      if (both) {
        let factors = head * DECAYS + tokensLeft(token + keyToken + 2u, end, keyInside);
        queries[buffer][keyToken + 2u][keyGroup][keyPlace] = decays[factors + QUERY] * vec4<f32>(q1);
        keys[buffer][keyToken + 2u][keyGroup][keyPlace] = decays[factors] * vec4<f32>(k1);
      }
      values[column / 16u][buffer][group][column % 16u] = vec4<f32>(v0);
      workgroupBarrier();
      // The next step's, while the sums of this one are taken.
      let next = token + TOKENS;
      if (loads) {
        let t = min(next + keyToken, last);
        q0 = q[queryAt + t * queryStride];
        k0 = k[keyAt + t * keyStride];
      }
      if (both) {
        let t = min(next + keyToken + 2u, last);
        q1 = q[queryAt + t * queryStride];
        k1 = k[keyAt + t * keyStride];
      }
      v0 = v[valueAt + min(next + group, last) * valueStride];
      // The outputs of the step before; with two rounds later, as they are not written over.
      let written = valueAt + (token + group - TOKENS) * valueStride;
      if (ROUNDS == 1u) {
        if (token > 0u && valueInside) { writeOutput(0u, group, column, written); }
        workgroupBarrier();
      }
      if (STEEP) { decayState(&s, periodChange(head, token, count)); }
      let o0 = attendToken(&s, buffer, 0u, group, column);
      if (STEEP) { decayState(&s, periodChange(head, token + 1u, count)); }
      let o1 = attendToken(&s, buffer, 1u, group, column);
      if (STEEP) { decayState(&s, periodChange(head, token + 2u, count)); }
      let o2 = attendToken(&s, buffer, 2u, group, column);
      if (STEEP) { decayState(&s, periodChange(head, token + 3u, count)); }
      let o3 = attendToken(&s, buffer, 3u, group, column);
      if (ROUNDS == 2u && token > 0u && valueInside) { writeOutput(1u - buffer, group, column, written); }
      let round = buffer % ROUNDS;
      partials[round][0][group][column] = o0;
      partials[round][1][group][column] = o1;
      partials[round][2][group][column] = o2;
      partials[round][3][group][column] = o3;
    }
  }
  workgroupBarrier();
  let rest = last / TOKENS * TOKENS + group;
  if (valueInside && rest < count) {
    writeOutput(last / TOKENS % ROUNDS, group, column, valueAt + rest * valueStride);
  }

  // The last segments of the sequences are the table's last.
  if (segmentIndex < shape.segments - shape.sequences) { return; }
  if (REVERSE && count > 0u) { decayState(&s, decays[head * DECAYS + CHANGE + 1u]); }
  let start = stateStart(table[segmentIndex + shape.sequences].z, head);
  writeRows(start, firstRow, valueTile + column, mirrored(s.s0));
  writeRows(start, firstRow + 4u, valueTile + column, mirrored(s.s1));
  writeRows(start, firstRow + 8u, valueTile + column, mirrored(s.s2));
  writeRows(start, firstRow + 12u, valueTile + column, mirrored(s.s3));
  if (WIDE_HEAD) {
    writeRows(start, firstRow + 16u, valueTile + column, mirrored(s.s4));
    writeRows(start, firstRow + 20u, valueTile + column, mirrored(s.s5));
    writeRows(start, firstRow + 24u, valueTile + column, mirrored(s.s6));
    writeRows(start, firstRow + 28u, valueTile + column, mirrored(s.s7));
  }
}

// -------------------------------------------------------------------------------------------------------- step

struct StepShape {
  heads: u32,
  queryHeads: u32,
  keyHeads: u32,
  queryGroup: u32, // heads that share a head of q, and of k
  keyGroup: u32,
  headDim: u32,
  valueDim: u32,
  workgroups: u32,
  rowTable: u32,   // 0: batch element b has state b, else table[b].x
  scale: f32,
}

@group(0) @binding(2) var<storage, read_write> states: array<vec4<f32>>; // [batch or rows, heads, headDim, valueDim / 4]
@group(1) @binding(0) var<uniform> stepShape: StepShape;

var<workgroup> partial: array<array<vec4<f32>, 16>, 16>;

// S ← λ S + k vᵀ, o = scale · qᵀ S: one workgroup per (sequence, head, 64 elements of valueDim).
@compute @workgroup_size(256)
fn step(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= stepShape.workgroups) { return; }
  let vectors = stepShape.valueDim / 4u;
  let tiles = (vectors + 15u) / 16u;
  let index = id / tiles; // of the sequence and head
  let batch = index / stepShape.heads;
  let head = index % stepShape.heads;
  let column = id % tiles * 16u + thread % 16u;
  let queryAt = (batch * stepShape.queryHeads + head / stepShape.queryGroup) * (stepShape.headDim / 4u);
  let keyAt = (batch * stepShape.keyHeads + head / stepShape.keyGroup) * (stepShape.headDim / 4u);
  let stateRow = select(batch, table[min(batch, arrayLength(&table) - 1u)].x, stepShape.rowTable != 0u);
  let stateAt = (stateRow * stepShape.heads + head) * stepShape.headDim;
  // decayChange of core/decay.ts: λ − 1, added to S itself, keeps the digits that λ would lose near 1; else λ.
  let change = decays[head];
  let keep = select(0.0, 1.0, change <= 0.0);
  var sum = vec4<f32>();
  if (column < vectors) {
    let value = vec4<f32>(v[index * vectors + column]);
    for (var row = thread / 16u; row < stepShape.headDim; row += 16u) {
      let at = (stateAt + row) * vectors + column;
      let old = states[at];
      let update = fma(vec4<f32>(f32(k[keyAt + row / 4u][row % 4u])), value, change * old);
      let next = fma(vec4<f32>(keep), old, update);
      states[at] = next;
      sum = fma(vec4<f32>(f32(q[queryAt + row / 4u][row % 4u])), next, sum);
    }
  }
  partial[thread / 16u][thread % 16u] = sum;
  for (var half = 8u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread / 16u < half) { partial[thread / 16u][thread % 16u] += partial[thread / 16u + half][thread % 16u]; }
  }
  if (thread < 16u && column < vectors) {
    output[index * vectors + column] = vec4<O>(stepShape.scale * partial[0][thread]);
  }
}
