// Lightning Attention with decay λ = e^(−slope), for every block of every sequence at once.
//
// The host cuts each sequence into segments, and each segment into blocks of BLOCK tokens, and dispatches
//   updateState   one workgroup per (segment, head, tile of the state): the state before each block of the segment
//   carryState    one thread per 4 elements of a state: walks the segments of each sequence
//   attend        one workgroup per (block, head, tile of the output): interBlock and intraBlock
// With one segment per sequence updateState starts from the true state, and carryState is not needed. With several it
// starts from zero, carryState finds the true state before each segment, and interBlock takes the sum of both.
//
// headDim and valueDim are multiples of 4 here (the host pads others), and tensors are read as vectors. Accumulators
// are matrices by name, and steps of 4 × 4 are written out: arrays and loops over workgroup memory cost half the speed.
//
// REVERSE walks from the last token to the first, for gradients, as `lightningBackward.ts` explains. The host negates
// tokens and token strides, so that addresses come out the same; i, j and m count from the end, and
//   interBlock    O_inter[i] = λ^i q_iᵀ S
//   updateState   S ← λ^m S + scale · Σ_j λ^(m−j) k_j v_jᵀ

override WIDE_HEAD: bool;  // tiles are 128 elements of headDim wide, else 64
override WIDE_VALUE: bool; // tiles are 128 elements of valueDim wide, else 64
override THREADS: u32;     // of updateState: 8 × 8 elements of the state each
override REVERSE: bool;    // for gradients: see below
override BUFFERS: u32;     // of each kind in workgroup memory: with 2, loading overlaps with computing

const BLOCK = 64u;
const DEPTH = 16u; // tokens, or elements of headDim, that workgroup memory holds at once

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
  blocks: u32,        // entries of the table: blocks, then segments, then sequences
  segments: u32,
  decayLength: u32,  // elements per head in the table of decays
  stateOrigin: u32,  // elements of states before the bound window
  segmented: u32,    // 0: each sequence is one segment; of step: 0: batch element b has state b, else table[b].x
  scale: f32,
}

@group(1) @binding(0) var<uniform> shape: Shape;

// Blocks: first token, tokens, batch element, segment. Segments: first token, tokens, batch element, first block.
// Sequences: first segment, segments, row of the state, where the state comes from (ZERO, INITIAL or STATE).
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
// For each head λ^0 ... λ^BLOCK, then λ^(BLOCK·0), λ^(BLOCK·1), ...: each rounded once, none a power of a rounded λ. Then
// decayChange of core/decay.ts for the same numbers of tokens, for states, which decay again and again.
@group(0) @binding(1) var<storage, read> decays: array<f32>;

// The state before each block, counted from its segment's start, then the total of each segment (after carryState: the
// state before it): [blocks + segments, heads, headDim, valueDim].
@group(0) @binding(2) var<storage, read_write> scratch: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<S>>;
@group(0) @binding(4) var<storage, read> v: array<vec4<S>>;
// updateState and carryState
@group(0) @binding(5) var<storage, read> initial: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> state: array<vec4<f32>>;
// attend
@group(0) @binding(5) var<storage, read> q: array<vec4<S>>;
@group(0) @binding(6) var<storage, read_write> output: array<vec4<S>>;

const ZERO = 0u;
const INITIAL = 1u;

fn decay(head: u32, tokens: u32) -> f32 {
  return decays[head * shape.decayLength + tokens];
}

fn blockDecay(head: u32, blocks: u32) -> f32 {
  return decays[head * shape.decayLength + BLOCK + 1u + blocks];
}

// decayChange(tokens), tokens ≤ BLOCK, and decayChange(BLOCK · blocks).
fn decayChange(head: u32, tokens: u32) -> f32 {
  return decay(head, shape.decayLength / 2u + tokens);
}

fn blockDecayChange(head: u32, blocks: u32) -> f32 {
  return blockDecay(head, shape.decayLength / 2u + blocks);
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

// c + a bᵀ, row by row: the sums of 4 × 4 elements in registers.
fn outer(c: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    fma(vec4<f32>(a.x), b, c[0]),
    fma(vec4<f32>(a.y), b, c[1]),
    fma(vec4<f32>(a.z), b, c[2]),
    fma(vec4<f32>(a.w), b, c[3]),
  );
}

// 8 × 8 elements of a thread: rows 4r ... 4r+3 of each half of the tile, columns likewise.
struct Tile { c00: mat4x4<f32>, c01: mat4x4<f32>, c10: mat4x4<f32>, c11: mat4x4<f32> }

fn kept(x: vec4<f32>, condition: bool) -> vec4<f32> {
  return select(vec4<f32>(), x, condition);
}

// ------------------------------------------------------------------------------------------------- updateState

var<workgroup> keys: array<array<array<vec4<f32>, 32>, DEPTH>, BUFFERS>;   // [token][headDim / 4], decayed
var<workgroup> values: array<array<array<vec4<f32>, 32>, DEPTH>, BUFFERS>; // [token][valueDim / 4]

// k_j v_jᵀ for one token in workgroup memory.
fn addToken(sums: ptr<function, Tile>, buffer: u32, j: u32, row: u32, column: u32) {
  let a0 = keys[buffer][j][row];
  let a1 = keys[buffer][j][row + select(8u, 16u, WIDE_HEAD)];
  let b0 = values[buffer][j][column];
  let b1 = values[buffer][j][column + select(8u, 16u, WIDE_VALUE)];
  (*sums).c00 = outer((*sums).c00, a0, b0);
  (*sums).c01 = outer((*sums).c01, a0, b1);
  (*sums).c10 = outer((*sums).c10, a1, b0);
  (*sums).c11 = outer((*sums).c11, a1, b1);
}

// One thread's tile of a state, as it lies in memory.
struct Place {
  row: u32,      // of the first element, and the distance of the second half
  rowHalf: u32,
  column: u32,   // in vectors
  columnHalf: u32,
}

// 4 × 4 elements of the state before a sequence; zeros outside.
fn readState(origin: u32, start: u32, row: u32, column: u32) -> mat4x4<f32> {
  let vectors = shape.valueDim / 4u;
  if (origin == ZERO || row >= shape.headDim || column >= vectors) { return mat4x4<f32>(); }
  let at = start + row * vectors + column;
  if (origin == INITIAL) {
    return mat4x4<f32>(initial[at], initial[at + vectors], initial[at + 2u * vectors], initial[at + 3u * vectors]);
  }
  return mat4x4<f32>(state[at], state[at + vectors], state[at + 2u * vectors], state[at + 3u * vectors]);
}

fn readTile(origin: u32, start: u32, place: Place) -> Tile {
  return Tile(
    readState(origin, start, place.row, place.column),
    readState(origin, start, place.row, place.column + place.columnHalf),
    readState(origin, start, place.row + place.rowHalf, place.column),
    readState(origin, start, place.row + place.rowHalf, place.column + place.columnHalf),
  );
}

fn writeState(last: bool, start: u32, row: u32, column: u32, x: mat4x4<f32>) {
  let vectors = shape.valueDim / 4u;
  if (row >= shape.headDim || column >= vectors) { return; }
  let at = start + row * vectors + column;
  if (last) {
    state[at] = x[0];
    state[at + vectors] = x[1];
    state[at + 2u * vectors] = x[2];
    state[at + 3u * vectors] = x[3];
  } else {
    scratch[at] = x[0];
    scratch[at + vectors] = x[1];
    scratch[at + 2u * vectors] = x[2];
    scratch[at + 3u * vectors] = x[3];
  }
}

fn writeTile(last: bool, start: u32, place: Place, tile: Tile) {
  writeState(last, start, place.row, place.column, tile.c00);
  writeState(last, start, place.row, place.column + place.columnHalf, tile.c01);
  writeState(last, start, place.row + place.rowHalf, place.column, tile.c10);
  writeState(last, start, place.row + place.rowHalf, place.column + place.columnHalf, tile.c11);
}

// k_j, decayed to the end of its block; zero outside.
fn decayedKey(x: vec4<S>, head: u32, j: u32, end: u32, inside: bool) -> vec4<f32> {
  let kept = inside && j < end;
  var factor = decay(head, select(0u, end - select(1u, 0u, REVERSE) - j, kept));
  if (REVERSE) { factor *= shape.scale; }
  return select(vec4<f32>(), vec4<f32>(x) * factor, kept);
}

// updateState: S ← λ^m S + Σ_j λ^(m−1−j) k_j v_jᵀ
@compute @workgroup_size(THREADS)
fn updateState(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  var id = workgroup.x + workgroup.y * workgroups.x;
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
  let segment = table[shape.blocks + segmentIndex];
  let sequence = table[shape.blocks + shape.segments + segmentIndex]; // used where each is one segment

  let row = thread / 32u / (valueVectors / 16u) * 4u + thread % 32u / 8u;
  let column = thread / 32u % (valueVectors / 16u) * 8u + thread % 8u;
  let place = Place(4u * (keyTile + row), 2u * keyVectors, valueTile + column, valueVectors / 2u);

  // Every thread loads one column, of every keyStep-th and valueStep-th token.
  let keyColumn = thread % keyVectors;
  let keyToken = thread / keyVectors;
  let keyStep = THREADS / keyVectors;
  let keyInside = keyTile + keyColumn < shape.headDim / 4u;
  let valueColumn = thread % valueVectors;
  let valueToken = thread / valueVectors;
  let valueStep = THREADS / valueVectors;
  let valueInside = valueTile + valueColumn < shape.valueDim / 4u;
  let keyStride = tokenStride(shape.key);
  let valueStride = tokenStride(shape.value);
  var keyAt = (segment.z * shape.key.x + head / shape.keyGroup * shape.key.y + segment.x * shape.key.z - shape.key.w) / 4u
    + keyTile + keyColumn + keyToken * keyStride;
  var valueAt = (segment.z * shape.value.x + head * shape.value.y + segment.x * shape.value.z - shape.value.w) / 4u
    + valueTile + valueColumn + valueToken * valueStride;

  var sums = Tile();
  if (shape.segmented == 0u) { sums = readTile(sequence.w, stateStart(sequence.z, head), place); }

  var k0 = k[keyAt];
  var k1 = k[keyAt + keyStep * keyStride];
  var k2 = vec4<S>();
  var k3 = vec4<S>();
  if (keyStep == 4u) {
    k2 = k[keyAt + 8u * keyStride];
    k3 = k[keyAt + 12u * keyStride];
  }
  var v0 = v[valueAt];
  var v1 = v[valueAt + valueStep * valueStride];
  var v2 = vec4<S>();
  var v3 = vec4<S>();
  if (valueStep == 4u) {
    v2 = v[valueAt + 8u * valueStride];
    v3 = v[valueAt + 12u * valueStride];
  }
  for (var token = 0u; token < segment.y; token += DEPTH) {
    let buffer = token / DEPTH % BUFFERS;
    let blockEnd = min(token / BLOCK * BLOCK + BLOCK, segment.y);
    if (BUFFERS == 1u) { workgroupBarrier(); }
    {
      let j = token + keyToken;
      keys[buffer][keyToken][keyColumn] = decayedKey(k0, head, j, blockEnd, keyInside);
      keys[buffer][keyToken + keyStep][keyColumn] = decayedKey(k1, head, j + keyStep, blockEnd, keyInside);
      if (keyStep == 4u) {
        keys[buffer][keyToken + 8u][keyColumn] = decayedKey(k2, head, j + 8u, blockEnd, keyInside);
        keys[buffer][keyToken + 12u][keyColumn] = decayedKey(k3, head, j + 12u, blockEnd, keyInside);
      }
    }
    {
      let j = token + valueToken;
      let end = select(0u, segment.y, valueInside);
      values[buffer][valueToken][valueColumn] = kept(vec4<f32>(v0), j < end);
      values[buffer][valueToken + valueStep][valueColumn] = kept(vec4<f32>(v1), j + valueStep < end);
      if (valueStep == 4u) {
        values[buffer][valueToken + 8u][valueColumn] = kept(vec4<f32>(v2), j + 8u < end);
        values[buffer][valueToken + 12u][valueColumn] = kept(vec4<f32>(v3), j + 12u < end);
      }
    }
    workgroupBarrier();
    if (token + DEPTH < segment.y) {
      keyAt += DEPTH * keyStride;
      valueAt += DEPTH * valueStride;
      k0 = k[keyAt];
      k1 = k[keyAt + keyStep * keyStride];
      if (keyStep == 4u) {
        k2 = k[keyAt + 8u * keyStride];
        k3 = k[keyAt + 12u * keyStride];
      }
      v0 = v[valueAt];
      v1 = v[valueAt + valueStep * valueStride];
      if (valueStep == 4u) {
        v2 = v[valueAt + 8u * valueStride];
        v3 = v[valueAt + 12u * valueStride];
      }
    }
    if (token % BLOCK == 0u) {
      // Nothing precedes the first block of a segment that starts from zero.
      if (token > 0u || shape.segmented == 0u) {
        writeTile(false, scratchStart(segment.w + token / BLOCK, localHead), place, sums);
      }
      // λ − 1, added to S itself, keeps the digits that λ would lose beside 1; else λ.
      let change = decayChange(head, blockEnd - token);
      let decayed = Tile(sums.c00 * change, sums.c01 * change, sums.c10 * change, sums.c11 * change);
      if (change <= 0.0) {
        sums.c00 += decayed.c00;
        sums.c01 += decayed.c01;
        sums.c10 += decayed.c10;
        sums.c11 += decayed.c11;
      } else {
        sums = decayed;
      }
    }
    addToken(&sums, buffer, 0u, row, column);
    addToken(&sums, buffer, 1u, row, column);
    addToken(&sums, buffer, 2u, row, column);
    addToken(&sums, buffer, 3u, row, column);
    addToken(&sums, buffer, 4u, row, column);
    addToken(&sums, buffer, 5u, row, column);
    addToken(&sums, buffer, 6u, row, column);
    addToken(&sums, buffer, 7u, row, column);
    addToken(&sums, buffer, 8u, row, column);
    addToken(&sums, buffer, 9u, row, column);
    addToken(&sums, buffer, 10u, row, column);
    addToken(&sums, buffer, 11u, row, column);
    addToken(&sums, buffer, 12u, row, column);
    addToken(&sums, buffer, 13u, row, column);
    addToken(&sums, buffer, 14u, row, column);
    addToken(&sums, buffer, 15u, row, column);
  }
  if (shape.segmented == 0u) {
    writeTile(true, stateStart(sequence.z, head), place, sums);
  } else {
    writeTile(false, scratchStart(shape.blocks + segmentIndex, localHead), place, sums);
  }
}

// -------------------------------------------------------------------------------------------------- carryState

fn changed(x: vec4<f32>, change: f32) -> vec4<f32> {
  return fma(vec4<f32>(change), x, select(vec4<f32>(), x, change <= 0.0));
}

// S ← λ^m S + total of the segment, and S before each segment in the total's place.
@compute @workgroup_size(64)
fn carryState(@builtin(global_invocation_id) thread: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
  let vectors = shape.headDim * (shape.valueDim / 4u);
  let id = thread.x + thread.y * workgroups.x * 64u;
  if (id >= shape.workgroups * 64u) { return; }
  let element = id % vectors;
  let localHead = id / vectors % shape.headCount;
  let index = id / vectors / shape.headCount;
  if (index >= arrayLength(&table) - shape.blocks - shape.segments) { return; }
  let head = shape.firstHead + localHead;
  let sequence = table[shape.blocks + shape.segments + index];
  let stateAt = stateStart(sequence.z, head) + element;
  var carried = vec4<f32>();
  if (sequence.w == INITIAL) { carried = initial[stateAt]; } else if (sequence.w != ZERO) { carried = state[stateAt]; }

  var at = scratchStart(shape.blocks + sequence.x, localHead) + element;
  let step = shape.headCount * vectors;
  var next = scratch[at];
  for (var i = 0u; i < sequence.y; i++) {
    let total = next;
    next = scratch[at + step]; // read ahead: the chain is then without reads
    let count = table[shape.blocks + sequence.x + i].y;
    scratch[at] = carried;
    // Every block but a sequence's last is whole.
    let whole = (count - 1u) / BLOCK;
    carried = changed(carried, blockDecayChange(head, whole));
    carried = changed(carried, decayChange(head, count - whole * BLOCK)) + total;
    at += step;
  }
  state[stateAt] = carried;
}

// ------------------------------------------------------------------------------------------------------ attend

const ATTEND_THREADS = 256u; // 16 columns and 16 rows of threads

// Queries and keys [headDim][token / 4]; then scores [key][token / 4].
var<workgroup> queryColumns: array<array<array<vec4<f32>, 16>, DEPTH>, BUFFERS>;
var<workgroup> keyColumns: array<array<array<vec4<f32>, 16>, DEPTH>, BUFFERS>;
var<workgroup> rows: array<array<array<vec4<f32>, 32>, DEPTH>, BUFFERS>; // of S, then of V: [row][valueDim / 4]

// A thread's 4 × 4 scores q_i·k_j, and 4 × 8 outputs.
struct Sums { scores: mat4x4<f32>, left: mat4x4<f32>, right: mat4x4<f32> }

// One element x of headDim: q_i[x] S[x] of interBlock, and q_i[x] k_j[x] of the scores.
fn addElement(sums: ptr<function, Sums>, buffer: u32, x: u32, row: u32, column: u32, scored: bool) {
  let a = queryColumns[buffer][x][row];
  if (scored) { (*sums).scores = outer((*sums).scores, a, keyColumns[buffer][x][column]); }
  (*sums).left = outer((*sums).left, a, rows[buffer][x][column]);
  if (WIDE_VALUE) { (*sums).right = outer((*sums).right, a, rows[buffer][x][column + 16u]); }
}

// interBlock: O_inter[i] = λ^(i+1) q_iᵀ S, for DEPTH elements of headDim, without the decay
fn interBlock(sums: ptr<function, Sums>, buffer: u32, row: u32, column: u32, scored: bool) {
  addElement(sums, buffer, 0u, row, column, scored);
  addElement(sums, buffer, 1u, row, column, scored);
  addElement(sums, buffer, 2u, row, column, scored);
  addElement(sums, buffer, 3u, row, column, scored);
  addElement(sums, buffer, 4u, row, column, scored);
  addElement(sums, buffer, 5u, row, column, scored);
  addElement(sums, buffer, 6u, row, column, scored);
  addElement(sums, buffer, 7u, row, column, scored);
  addElement(sums, buffer, 8u, row, column, scored);
  addElement(sums, buffer, 9u, row, column, scored);
  addElement(sums, buffer, 10u, row, column, scored);
  addElement(sums, buffer, 11u, row, column, scored);
  addElement(sums, buffer, 12u, row, column, scored);
  addElement(sums, buffer, 13u, row, column, scored);
  addElement(sums, buffer, 14u, row, column, scored);
  addElement(sums, buffer, 15u, row, column, scored);
}

fn addScored(sums: ptr<function, Sums>, buffer: u32, j: u32, row: u32, column: u32) {
  let a = queryColumns[buffer][j][row];
  (*sums).left = outer((*sums).left, a, rows[buffer][j][column]);
  if (WIDE_VALUE) { (*sums).right = outer((*sums).right, a, rows[buffer][j][column + 16u]); }
}

// intraBlock: O_intra[i] = Σ_{j≤i} λ^(i−j) (q_i·k_j) v_j, for DEPTH tokens j
fn intraBlock(sums: ptr<function, Sums>, buffer: u32, row: u32, column: u32) {
  addScored(sums, buffer, 0u, row, column);
  addScored(sums, buffer, 1u, row, column);
  addScored(sums, buffer, 2u, row, column);
  addScored(sums, buffer, 3u, row, column);
  addScored(sums, buffer, 4u, row, column);
  addScored(sums, buffer, 5u, row, column);
  addScored(sums, buffer, 6u, row, column);
  addScored(sums, buffer, 7u, row, column);
  addScored(sums, buffer, 8u, row, column);
  addScored(sums, buffer, 9u, row, column);
  addScored(sums, buffer, 10u, row, column);
  addScored(sums, buffer, 11u, row, column);
  addScored(sums, buffer, 12u, row, column);
  addScored(sums, buffer, 13u, row, column);
  addScored(sums, buffer, 14u, row, column);
  addScored(sums, buffer, 15u, row, column);
}

// λ^n for n ≥ 0, times the scale of scores; zero for the keys after a query, n < 0.
fn mask(head: u32, n: i32) -> f32 {
  return select(0.0, shape.scale * decay(head, u32(max(n, 0))), n >= 0);
}

// λ^(i−j) for 4 × 4 scores, i − j = n in the corner.
fn maskTile(head: u32, n: i32, x: mat4x4<f32>) -> mat4x4<f32> {
  let after = vec4<f32>(mask(head, n - 3), mask(head, n - 2), mask(head, n - 1), mask(head, n));
  let before = vec3<f32>(mask(head, n + 1), mask(head, n + 2), mask(head, n + 3));
  let m0 = after.wzyx;
  let m1 = vec4<f32>(before.x, after.wzy);
  let m2 = vec4<f32>(before.yx, after.wz);
  let m3 = vec4<f32>(before.zyx, after.w);
  // Scores of tokens outside may be anything: chosen away, not multiplied by zero.
  return mat4x4<f32>(
    select(vec4<f32>(), x[0] * m0, m0 != vec4<f32>()),
    select(vec4<f32>(), x[1] * m1, m1 != vec4<f32>()),
    select(vec4<f32>(), x[2] * m2, m2 != vec4<f32>()),
    select(vec4<f32>(), x[3] * m3, m3 != vec4<f32>()),
  );
}

// λ^(i+1) for 4 rows from i = row.
fn decayRows(head: u32, row: u32, x: mat4x4<f32>) -> mat4x4<f32> {
  let first = row + select(1u, 0u, REVERSE);
  let scale = select(shape.scale, 1.0, REVERSE); // of REVERSE it is in S
  return mat4x4<f32>(
    x[0] * (scale * decay(head, first)),
    x[1] * (scale * decay(head, first + 1u)),
    x[2] * (scale * decay(head, first + 2u)),
    x[3] * (scale * decay(head, first + 3u)),
  );
}

fn writeOutput(at: u32, row: u32, count: u32, inside: bool, x: mat4x4<f32>) {
  let stride = tokenStride(shape.value);
  if (inside && row < count) { output[at + row * stride] = vec4<S>(x[0]); }
  if (inside && row + 1u < count) { output[at + (row + 1u) * stride] = vec4<S>(x[1]); }
  if (inside && row + 2u < count) { output[at + (row + 2u) * stride] = vec4<S>(x[2]); }
  if (inside && row + 3u < count) { output[at + (row + 3u) * stride] = vec4<S>(x[3]); }
}

@compute @workgroup_size(ATTEND_THREADS)
fn attend(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  var id = workgroup.x + workgroup.y * workgroups.x;
  if (id >= shape.workgroups) { return; }
  let headVectors = shape.headDim / 4u;
  let allVectors = shape.valueDim / 4u;
  let vectors = select(16u, 32u, WIDE_VALUE);
  let tiles = (allVectors + vectors - 1u) / vectors;
  let tile = id % tiles * vectors;
  id /= tiles;
  let localHead = id % shape.headCount;
  let head = shape.firstHead + localHead;
  let blockIndex = id / shape.headCount;
  let block = table[blockIndex];
  let count = block.y;
  let index = blockIndex - table[shape.blocks + block.w].w; // in the segment

  let row = thread / 128u * 8u + thread % 32u / 4u;
  let column = thread / 32u % 4u * 4u + thread % 4u;

  // The first threads load queries and keys: 4 elements of 4 tokens, turned in registers.
  let quad = thread % 4u;
  let tokens = thread / 4u % 16u;
  let queryStride = tokenStride(shape.query);
  let keyStride = tokenStride(shape.key);
  let queryAt = (block.z * shape.query.x + head / shape.queryGroup * shape.query.y + block.x * shape.query.z - shape.query.w)
    / 4u + quad + 4u * tokens * queryStride;
  let keyAt = (block.z * shape.key.x + head / shape.keyGroup * shape.key.y + block.x * shape.key.z - shape.key.w)
    / 4u + quad + 4u * tokens * keyStride;

  // Every thread loads one column of every step-th row of S, and of V.
  let loadColumn = thread % vectors;
  let loadRow = thread / vectors;
  let step = ATTEND_THREADS / vectors;
  let inside = tile + loadColumn < allVectors;
  let local = index > 0u || shape.segmented == 0u;
  let localAt = scratchStart(blockIndex, localHead) + tile + loadColumn + loadRow * allVectors;
  let startAt = scratchStart(shape.blocks + block.w, localHead) + tile + loadColumn + loadRow * allVectors;
  let startDecay = blockDecay(head, index);
  let valueStride = tokenStride(shape.value);
  let valueStart = (block.z * shape.value.x + head * shape.value.y + block.x * shape.value.z - shape.value.w) / 4u + tile;

  var sums = Sums();
  var l0 = vec4<S>();
  var l1 = vec4<S>();
  var l2 = vec4<S>();
  var l3 = vec4<S>();
  var s0 = vec4<f32>();
  var s1 = vec4<f32>();
  var t0 = vec4<f32>();
  var t1 = vec4<f32>();
  for (var x = 0u; x < shape.headDim + DEPTH; x += DEPTH) {
    // The loads of this step, while the sums of the step before are taken. Loads after the barrier, or addresses that
    // are carried from step to step, cost a third of the speed: more registers, so fewer workgroups per processor.
    if (x < shape.headDim) {
      if (thread < 64u) {
        let at = queryAt + x / 4u;
        l0 = q[at];
        l1 = q[at + queryStride];
        l2 = q[at + 2u * queryStride];
        l3 = q[at + 3u * queryStride];
      } else if (thread < 128u) {
        let at = keyAt + x / 4u;
        l0 = k[at];
        l1 = k[at + keyStride];
        l2 = k[at + 2u * keyStride];
        l3 = k[at + 3u * keyStride];
      }
      if (local) {
        let at = localAt + x * allVectors;
        s0 = scratch[at];
        if (step == 8u) { s1 = scratch[at + 8u * allVectors]; }
      }
      if (shape.segmented != 0u) {
        let at = startAt + x * allVectors;
        t0 = scratch[at];
        if (step == 8u) { t1 = scratch[at + 8u * allVectors]; }
      }
    }
    if (x > 0u) {
      // The first half of the tokens has no use for keys of the second.
      let buffer = (x / DEPTH - 1u) % BUFFERS;
      if (row >= 8u || column < 8u) {
        interBlock(&sums, buffer, row, column, true);
      } else {
        interBlock(&sums, buffer, row, column, false);
      }
    }
    if (x < shape.headDim) {
      let buffer = x / DEPTH % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      let there = x / 4u + quad < headVectors;
      let turned = transpose(mat4x4<f32>(vec4<f32>(l0), vec4<f32>(l1), vec4<f32>(l2), vec4<f32>(l3)));
      if (thread < 64u) {
        queryColumns[buffer][4u * quad][tokens] = kept(turned[0], there);
        queryColumns[buffer][4u * quad + 1u][tokens] = kept(turned[1], there);
        queryColumns[buffer][4u * quad + 2u][tokens] = kept(turned[2], there);
        queryColumns[buffer][4u * quad + 3u][tokens] = kept(turned[3], there);
      } else if (thread < 128u) {
        keyColumns[buffer][4u * quad][tokens] = kept(turned[0], there);
        keyColumns[buffer][4u * quad + 1u][tokens] = kept(turned[1], there);
        keyColumns[buffer][4u * quad + 2u][tokens] = kept(turned[2], there);
        keyColumns[buffer][4u * quad + 3u][tokens] = kept(turned[3], there);
      }
      let end = select(0u, shape.headDim, inside);
      let first = x + loadRow;
      rows[buffer][loadRow][loadColumn] = kept(fma(vec4<f32>(startDecay), t0, s0), first < end);
      if (step == 8u) {
        rows[buffer][loadRow + 8u][loadColumn] = kept(fma(vec4<f32>(startDecay), t1, s1), first + 8u < end);
      }
      workgroupBarrier();
    }
  }

  let valueAt = valueStart + loadColumn + loadRow * valueStride;
  var v0 = v[valueAt];
  var v1 = vec4<S>();
  if (step == 8u) { v1 = v[valueAt + 8u * valueStride]; }
  sums.left = decayRows(head, 4u * row, sums.left);
  sums.right = decayRows(head, 4u * row, sums.right);
  let scores = transpose(maskTile(head, i32(4u * row) - i32(4u * column), sums.scores));

  for (var j = 0u; j < count; j += DEPTH) {
    workgroupBarrier();
    // The scores of these tokens j are in 4 columns of threads.
    if (column / 4u == j / DEPTH) {
      let first = 4u * (column % 4u);
      queryColumns[0][first][row] = scores[0];
      queryColumns[0][first + 1u][row] = scores[1];
      queryColumns[0][first + 2u][row] = scores[2];
      queryColumns[0][first + 3u][row] = scores[3];
    }
    let end = select(0u, count, inside);
    let token = j + loadRow;
    rows[0][loadRow][loadColumn] = kept(vec4<f32>(v0), token < end);
    if (step == 8u) { rows[0][loadRow + 8u][loadColumn] = kept(vec4<f32>(v1), token + 8u < end); }
    workgroupBarrier();
    v0 = v[valueAt + (j + DEPTH) * valueStride];
    if (step == 8u) { v1 = v[valueAt + (j + DEPTH + 8u) * valueStride]; }
    // Rows before these tokens have no use for them.
    if (4u * row + 3u >= j) { intraBlock(&sums, 0u, row, column); }
  }

  let outputAt = valueStart + column;
  let first = tile + column < allVectors;
  let second = WIDE_VALUE && tile + column + 16u < allVectors;
  writeOutput(outputAt, 4u * row, count, first, sums.left);
  writeOutput(outputAt + 16u, 4u * row, count, second, sums.right);
}

// -------------------------------------------------------------------------------------------------------- step

var<workgroup> partial: array<array<vec4<f32>, 16>, 16>;

// S ← λ S + k vᵀ, o = scale · qᵀ S: one workgroup per (sequence, head, 64 elements of valueDim). `scratch` is the state.
@compute @workgroup_size(256)
fn step(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = workgroup.x + workgroup.y * workgroups.x;
  if (id >= shape.workgroups) { return; }
  let vectors = shape.valueDim / 4u;
  let tiles = (vectors + 15u) / 16u;
  let index = id / tiles; // of the sequence and head
  let batch = index / shape.heads;
  let head = index % shape.heads;
  let column = id % tiles * 16u + thread % 16u;
  let queryAt = (batch * shape.query.x + head / shape.queryGroup * shape.query.y) / 4u;
  let keyAt = (batch * shape.key.x + head / shape.keyGroup * shape.key.y) / 4u;
  let stateRow = select(batch, table[min(batch, arrayLength(&table) - 1u)].x, shape.segmented != 0u);
  let stateAt = (stateRow * shape.heads + head) * shape.headDim;
  // decayChange of core/decay.ts: λ − 1, added to S itself, keeps the digits that λ would lose beside 1; else λ.
  let change = decays[head];
  let keep = select(0.0, 1.0, change <= 0.0);
  var sum = vec4<f32>();
  if (column < vectors) {
    let value = vec4<f32>(v[index * vectors + column]);
    for (var row = thread / 16u; row < shape.headDim; row += 16u) {
      let at = (stateAt + row) * vectors + column;
      let before = scratch[at];
      let update = fma(vec4<f32>(f32(k[keyAt + row / 4u][row % 4u])), value, change * before);
      let next = fma(vec4<f32>(keep), before, update);
      scratch[at] = next;
      sum = fma(vec4<f32>(f32(q[queryAt + row / 4u][row % 4u])), next, sum);
    }
  }
  partial[thread / 16u][thread % 16u] = sum;
  for (var half = 8u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread / 16u < half) { partial[thread / 16u][thread % 16u] += partial[thread / 16u + half][thread % 16u]; }
  }
  if (thread < 16u && column < vectors) {
    output[index * vectors + column] = vec4<S>(shape.scale * partial[0][thread]);
  }
}
