// Causal softmax attention in tiles, as FlashAttention-2 computes it: the forward keeps the logarithm of each row's sum,
// and the backward makes the weights from it again.
//   O = P V,   P[i][j] = exp(scale · q_i·k_j − L_i) for j ≤ i, else 0
//   dV = Pᵀ dO,   dS = P ⊙ (dO Vᵀ − D),   D_i = dO_i·O_i,   dQ = scale · dS K,   dK = scale · dSᵀ Q
// One pass over tiles of keys for dK and dV, one over tiles of queries for dQ: no atomics, the same bits every time.
// Logarithms are to base 2: scoreScale is scale · log2(e), and so is L.

// import ../../gpu/folded.wgsl, tile.wgsl

struct Parameters {
  seqLen: u32,
  heads: u32,
  headDim: u32,  // in vectors
  valueDim: u32, // in vectors
  workgroups: u32,
  scoreScale: f32,
  scale: f32, // of rotate: the direction, 1 or -1
}

// Dimensions in vectors; logSums and deltas are L and D.
@group(0) @binding(0) var<storage, read> q: array<vec4f>; // [batch, seqLen, heads, headDim]
@group(0) @binding(1) var<storage, read> k: array<vec4f>; // [batch, seqLen, heads, headDim]
@group(0) @binding(2) var<storage, read> v: array<vec4f>; // [batch, seqLen, heads, valueDim]
@group(0) @binding(3) var<storage, read> dOutput: array<vec4f>; // as v; nothing in the forward
// forward
@group(0) @binding(4) var<storage, read_write> output: array<vec4f>; // [batch, seqLen, heads, valueDim]
@group(0) @binding(5) var<storage, read_write> logSumsOut: array<f32>; // [batch, seqLen, heads]
// keyGradients and queryGradients
@group(0) @binding(4) var<storage, read> logSums: array<f32>; // [batch, seqLen, heads]
@group(0) @binding(5) var<storage, read> deltas: array<f32>; // [batch, seqLen, heads]
@group(0) @binding(6) var<storage, read_write> dk: array<vec4f>; // [batch, seqLen, heads, headDim]
@group(0) @binding(7) var<storage, read_write> dv: array<vec4f>; // [batch, seqLen, heads, valueDim]
@group(0) @binding(6) var<storage, read_write> dq: array<vec4f>; // [batch, seqLen, heads, headDim]
// rotate, with its operand at q
@group(0) @binding(1) var<storage, read> angles: array<vec4f>; // [seqLen, headDim]
@group(0) @binding(2) var<storage, read_write> rotated: array<vec4f>; // [batch, seqLen, heads, headDim]
// rowDots
@group(0) @binding(0) var<storage, read> dRows: array<vec4f>; // [batch, seqLen, heads, valueDim]
@group(0) @binding(1) var<storage, read> rows: array<vec4f>; // [batch, seqLen, heads, valueDim]
@group(0) @binding(2) var<storage, read_write> dots: array<f32>; // [batch, seqLen, heads]
@group(1) @binding(0) var<uniform> parameters: Parameters;

// RoFormer, equation 34: elements 2i and 2i + 1 rotate by the angle position · 10000^(−2i/headDim). Scores then depend on
// distances alone. `angles` holds (cos, sin) of every pair, [seqLen, headDim].
@compute @workgroup_size(256)
fn rotate(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups) * 256u + thread;
  if (id >= parameters.workgroups) { return; }
  let column = id % parameters.headDim;
  let position = id / parameters.headDim / parameters.heads % parameters.seqLen;
  let cosSin = angles[position * parameters.headDim + column] * vec4f(1.0, parameters.scale, 1.0, parameters.scale);
  let x = q[id];
  rotated[id] = vec4f(
    x.x * cosSin.x - x.y * cosSin.y,
    x.x * cosSin.y + x.y * cosSin.x,
    x.z * cosSin.z - x.w * cosSin.w,
    x.z * cosSin.w + x.w * cosSin.z,
  );
}

// D = dO · O, row by row.
@compute @workgroup_size(64)
fn rowDots(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups) * 64u + thread;
  if (id >= parameters.workgroups) { return; }
  var sums = vec4f();
  for (var i = id * parameters.valueDim; i < (id + 1u) * parameters.valueDim; i++) {
    sums = fma(dRows[i], rows[i], sums);
  }
  dots[id] = sums.x + sums.y + sums.z + sums.w;
}

const Q = 0u;
const K = 1u;
const V = 2u;
const D_OUTPUT = 3u;

fn load(operand: u32, at: u32) -> vec4f {
  switch operand {
    case Q: { return q[at]; }
    case K: { return k[at]; }
    case V: { return v[at]; }
    default: { return dOutput[at]; }
  }
}

const MASKED = -1e30;

// A workgroup's place: tiles with the longest walk come first, so that none is left alone at the end.
struct Place { batch: u32, head: u32, tiles: u32, order: u32 }

fn placeOf(id: u32) -> Place {
  let tiles = (parameters.seqLen + EDGE - 1u) / EDGE;
  let sequences = parameters.workgroups / tiles;
  let sequence = id % sequences;
  return Place(sequence / parameters.heads, sequence % parameters.heads, tiles, id / sequences);
}

fn rowOf(place: Place, token: u32) -> u32 {
  return (place.batch * parameters.seqLen + token) * parameters.heads + place.head;
}

// 64 tokens of an operand, from token `first`.
fn tokens(operand: u32, width: u32, place: Place, first: u32) -> Rows {
  let row = rowOf(place, first);
  return Rows(operand, row * width, parameters.heads * width, parameters.seqLen - first, width);
}

fn scaled(m: mat4x4f, by: vec4f) -> mat4x4f {
  return mat4x4f(m[0] * by.x, m[1] * by.y, m[2] * by.z, m[3] * by.w);
}

// ---------------------------------------------------------------------------------------------------- forward

fn maskedRows(scores: mat4x4f, row: u32, columns: vec4u) -> mat4x4f {
  let s = scores * parameters.scoreScale;
  return mat4x4f(
    select(vec4f(MASKED), s[0], columns <= vec4u(row)),
    select(vec4f(MASKED), s[1], columns <= vec4u(row + 1u)),
    select(vec4f(MASKED), s[2], columns <= vec4u(row + 2u)),
    select(vec4f(MASKED), s[3], columns <= vec4u(row + 3u)),
  );
}

fn largest(m: mat4x4f) -> vec4f {
  let t = transpose(m);
  return max(max(t[0], t[1]), max(t[2], t[3]));
}

fn summed(m: mat4x4f) -> vec4f {
  let t = transpose(m);
  return (t[0] + t[1]) + (t[2] + t[3]);
}

fn exp2Rows(m: mat4x4f, top: vec4f) -> mat4x4f {
  return mat4x4f(exp2(m[0] - top.x), exp2(m[1] - top.y), exp2(m[2] - top.z), exp2(m[3] - top.w));
}

// Where a thread's value of its 4 rows lies in `values`, for the 16 threads that share them.
fn shared16(thread: u32) -> u32 {
  return thread / 16u * WEIGHT_PITCH;
}

fn largest16(start: u32, initial: vec4f) -> vec4f {
  var result = initial;
  for (var i = 0u; i < 16u; i++) { result = max(result, values[start + i]); }
  return result;
}

fn sum16(start: u32) -> vec4f {
  var result = vec4f();
  for (var i = 0u; i < 16u; i++) { result += values[start + i]; }
  return result;
}

fn writeOutput(place: Place, token: u32, column: u32, x: vec4f) {
  if (token < parameters.seqLen && column < parameters.valueDim) {
    output[rowOf(place, token) * parameters.valueDim + column] = x;
  }
}

fn writeOutputs(place: Place, token: u32, column: u32, m: mat4x4f) {
  writeOutput(place, token, column, m[0]);
  writeOutput(place, token + 1u, column, m[1]);
  writeOutput(place, token + 2u, column, m[2]);
  writeOutput(place, token + 3u, column, m[3]);
}

fn writeLogSum(place: Place, token: u32, x: f32) {
  if (token < parameters.seqLen) { logSumsOut[rowOf(place, token)] = x; }
}

fn writeLogSums(place: Place, token: u32, x: vec4f) {
  writeLogSum(place, token, x.x);
  writeLogSum(place, token + 1u, x.y);
  writeLogSum(place, token + 2u, x.z);
  writeLogSum(place, token + 3u, x.w);
}

@compute @workgroup_size(THREADS)
fn forward(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let place = placeOf(id);
  let rowTile = place.tiles - 1u - place.order;
  let row = rowTile * EDGE + 4u * (thread / 16u);
  let queries = tokens(Q, parameters.headDim, place, rowTile * EDGE);
  let upper = shared16(thread);
  let lower = upper + 8u * WEIGHT_PITCH;

  var sums = Sums();
  // Largest score of each row so far, and this thread's part of the sum of exponentials.
  var topUpper = vec4f(MASKED);
  var topLower = vec4f(MASKED);
  var partUpper = vec4f();
  var partLower = vec4f();
  for (var columnTile = 0u; columnTile <= rowTile; columnTile++) {
    let first = columnTile * EDGE;
    let columns = first + 4u * (thread % 16u) + vec4u(0u, 1u, 2u, 3u);
    let s = scores(queries, tokens(K, parameters.headDim, place, first), thread);
    let scoresUpper = maskedRows(s.upper, row, columns);
    let scoresLower = maskedRows(s.lower, row + 32u, columns);
    values[upper + thread % 16u] = largest(scoresUpper);
    values[lower + thread % 16u] = largest(scoresLower);
    workgroupBarrier();
    let newUpper = largest16(upper, topUpper);
    let newLower = largest16(lower, topLower);
    let fadeUpper = exp2(topUpper - newUpper);
    let fadeLower = exp2(topLower - newLower);
    topUpper = newUpper;
    topLower = newLower;
    let p = Tile(exp2Rows(scoresUpper, topUpper), exp2Rows(scoresLower, topLower));
    partUpper = fma(partUpper, fadeUpper, summed(p.upper));
    partLower = fma(partLower, fadeLower, summed(p.lower));
    sums.near = Tile(scaled(sums.near.upper, fadeUpper), scaled(sums.near.lower, fadeLower));
    if (WIDE) { sums.far = Tile(scaled(sums.far.upper, fadeUpper), scaled(sums.far.lower, fadeLower)); }
    put(p, thread);
    product(&sums, tokens(V, parameters.valueDim, place, first), thread);
  }

  workgroupBarrier();
  values[upper + thread % 16u] = partUpper;
  values[lower + thread % 16u] = partLower;
  workgroupBarrier();
  let sumUpper = sum16(upper);
  let sumLower = sum16(lower);
  let column = thread % 16u;
  writeOutputs(place, row, column, scaled(sums.near.upper, 1.0 / sumUpper));
  writeOutputs(place, row + 32u, column, scaled(sums.near.lower, 1.0 / sumLower));
  if (WIDE) {
    writeOutputs(place, row, column + 16u, scaled(sums.far.upper, 1.0 / sumUpper));
    writeOutputs(place, row + 32u, column + 16u, scaled(sums.far.lower, 1.0 / sumLower));
  }
  if (column == 0u) {
    writeLogSums(place, row, topUpper + log2(sumUpper));
    writeLogSums(place, row + 32u, topLower + log2(sumLower));
  }
}

// --------------------------------------------------------------------------------------------------- backward

// L and D of 4 neighbouring queries; zeros behind the last one, whose rows of Q and dO are zeros too.
struct Kept { logSum: vec4f, delta: vec4f }

fn keptOf(place: Place, token: u32) -> Kept {
  let last = parameters.seqLen - 1u;
  let at = vec4u(
    rowOf(place, min(token, last)),
    rowOf(place, min(token + 1u, last)),
    rowOf(place, min(token + 2u, last)),
    rowOf(place, min(token + 3u, last)),
  );
  let present = token + vec4u(0u, 1u, 2u, 3u) <= vec4u(last);
  let logSum = vec4f(logSums[at.x], logSums[at.y], logSums[at.z], logSums[at.w]);
  let delta = vec4f(deltas[at.x], deltas[at.y], deltas[at.z], deltas[at.w]);
  return Kept(select(vec4f(), logSum, present), select(vec4f(), delta, present));
}

// P, where the query is not before the key.
fn weights(scores: vec4f, logSum: vec4f, present: vec4<bool>) -> vec4f {
  return select(vec4f(), exp2(scores * parameters.scoreScale - logSum), present);
}

// Pᵀ: rows are keys, columns queries.
fn keyWeights(scores: mat4x4f, row: u32, columns: vec4u, kept: Kept) -> mat4x4f {
  return mat4x4f(
    weights(scores[0], kept.logSum, columns >= vec4u(row)),
    weights(scores[1], kept.logSum, columns >= vec4u(row + 1u)),
    weights(scores[2], kept.logSum, columns >= vec4u(row + 2u)),
    weights(scores[3], kept.logSum, columns >= vec4u(row + 3u)),
  );
}

// P: rows are queries, columns keys.
fn queryWeights(scores: mat4x4f, row: u32, columns: vec4u, kept: Kept) -> mat4x4f {
  return mat4x4f(
    weights(scores[0], vec4f(kept.logSum.x), columns <= vec4u(row)),
    weights(scores[1], vec4f(kept.logSum.y), columns <= vec4u(row + 1u)),
    weights(scores[2], vec4f(kept.logSum.z), columns <= vec4u(row + 2u)),
    weights(scores[3], vec4f(kept.logSum.w), columns <= vec4u(row + 3u)),
  );
}

// P ⊙ (dP − D), with D along the columns.
fn keyScores(p: mat4x4f, dp: mat4x4f, delta: vec4f) -> mat4x4f {
  return mat4x4f(p[0] * (dp[0] - delta), p[1] * (dp[1] - delta), p[2] * (dp[2] - delta), p[3] * (dp[3] - delta));
}

// P ⊙ (dP − D), with D along the rows.
fn queryScores(p: mat4x4f, dp: mat4x4f, delta: vec4f) -> mat4x4f {
  return mat4x4f(p[0] * (dp[0] - delta.x), p[1] * (dp[1] - delta.y), p[2] * (dp[2] - delta.z), p[3] * (dp[3] - delta.w));
}

fn writeKeyGradient(place: Place, token: u32, column: u32, x: vec4f) {
  if (token < parameters.seqLen && column < parameters.headDim) {
    dk[rowOf(place, token) * parameters.headDim + column] = parameters.scale * x;
  }
}

fn writeKeyGradients(place: Place, token: u32, column: u32, m: mat4x4f) {
  writeKeyGradient(place, token, column, m[0]);
  writeKeyGradient(place, token + 1u, column, m[1]);
  writeKeyGradient(place, token + 2u, column, m[2]);
  writeKeyGradient(place, token + 3u, column, m[3]);
}

fn writeValueGradient(place: Place, token: u32, column: u32, x: vec4f) {
  if (token < parameters.seqLen && column < parameters.valueDim) {
    dv[rowOf(place, token) * parameters.valueDim + column] = x;
  }
}

fn writeValueGradients(place: Place, token: u32, column: u32, m: mat4x4f) {
  writeValueGradient(place, token, column, m[0]);
  writeValueGradient(place, token + 1u, column, m[1]);
  writeValueGradient(place, token + 2u, column, m[2]);
  writeValueGradient(place, token + 3u, column, m[3]);
}

// dV = Pᵀ dO and dK = scale · dSᵀ Q, for 64 keys.
@compute @workgroup_size(THREADS)
fn keyGradients(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let place = placeOf(id);
  let rowTile = place.order;
  let row = rowTile * EDGE + 4u * (thread / 16u);
  let keys = tokens(K, parameters.headDim, place, rowTile * EDGE);
  let valueRows = tokens(V, parameters.valueDim, place, rowTile * EDGE);

  var dKeys = Sums();
  var dValues = Sums();
  for (var columnTile = rowTile; columnTile < place.tiles; columnTile++) {
    let first = columnTile * EDGE;
    let column = first + 4u * (thread % 16u);
    let columns = column + vec4u(0u, 1u, 2u, 3u);
    let queries = tokens(Q, parameters.headDim, place, first);
    let dOutputs = tokens(D_OUTPUT, parameters.valueDim, place, first);
    let kept = keptOf(place, column);
    let s = scores(keys, queries, thread);
    let p = Tile(keyWeights(s.upper, row, columns, kept), keyWeights(s.lower, row + 32u, columns, kept));
    let dp = scores(valueRows, dOutputs, thread);
    put(p, thread);
    product(&dValues, dOutputs, thread);
    put(Tile(keyScores(p.upper, dp.upper, kept.delta), keyScores(p.lower, dp.lower, kept.delta)), thread);
    product(&dKeys, queries, thread);
  }

  let column = thread % 16u;
  writeKeyGradients(place, row, column, dKeys.near.upper);
  writeKeyGradients(place, row + 32u, column, dKeys.near.lower);
  writeValueGradients(place, row, column, dValues.near.upper);
  writeValueGradients(place, row + 32u, column, dValues.near.lower);
  if (WIDE) {
    writeKeyGradients(place, row, column + 16u, dKeys.far.upper);
    writeKeyGradients(place, row + 32u, column + 16u, dKeys.far.lower);
    writeValueGradients(place, row, column + 16u, dValues.far.upper);
    writeValueGradients(place, row + 32u, column + 16u, dValues.far.lower);
  }
}

fn writeQueryGradient(place: Place, token: u32, column: u32, x: vec4f) {
  if (token < parameters.seqLen && column < parameters.headDim) {
    dq[rowOf(place, token) * parameters.headDim + column] = parameters.scale * x;
  }
}

fn writeQueryGradients(place: Place, token: u32, column: u32, m: mat4x4f) {
  writeQueryGradient(place, token, column, m[0]);
  writeQueryGradient(place, token + 1u, column, m[1]);
  writeQueryGradient(place, token + 2u, column, m[2]);
  writeQueryGradient(place, token + 3u, column, m[3]);
}

// dQ = scale · dS K, for 64 queries.
@compute @workgroup_size(THREADS)
fn queryGradients(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let place = placeOf(id);
  let rowTile = place.tiles - 1u - place.order;
  let row = rowTile * EDGE + 4u * (thread / 16u);
  let queries = tokens(Q, parameters.headDim, place, rowTile * EDGE);
  let dOutputs = tokens(D_OUTPUT, parameters.valueDim, place, rowTile * EDGE);
  let upper = keptOf(place, row);
  let lower = keptOf(place, row + 32u);

  var sums = Sums();
  for (var columnTile = 0u; columnTile <= rowTile; columnTile++) {
    let first = columnTile * EDGE;
    let columns = first + 4u * (thread % 16u) + vec4u(0u, 1u, 2u, 3u);
    let keys = tokens(K, parameters.headDim, place, first);
    let s = scores(queries, keys, thread);
    let dp = scores(dOutputs, tokens(V, parameters.valueDim, place, first), thread);
    put(
      Tile(
        queryScores(queryWeights(s.upper, row, columns, upper), dp.upper, upper.delta),
        queryScores(queryWeights(s.lower, row + 32u, columns, lower), dp.lower, lower.delta),
      ),
      thread,
    );
    product(&sums, keys, thread);
  }

  let column = thread % 16u;
  writeQueryGradients(place, row, column, sums.near.upper);
  writeQueryGradients(place, row + 32u, column, sums.near.lower);
  if (WIDE) {
    writeQueryGradients(place, row, column + 16u, sums.far.upper);
    writeQueryGradients(place, row + 32u, column + 16u, sums.far.lower);
  }
}
