// Read from bench/baselines/*.wgsl by `deno task build`: do not edit.
// deno-fmt-ignore-file
// deno-lint-ignore-file

// gpu/folded.wgsl
const foldedSource = `fn folded(workgroup: vec3u, workgroups: vec3u) -> u32 {
  return workgroup.x + workgroup.y * workgroups.x;
}
`;

// bench/baselines/tile.wgsl
const tileSource = `override WIDE: bool;
const EDGE = 64u;
const THREADS = 128u;
const INNER = 8u;
const OPERAND_PITCH = 9u;
const WEIGHT_PITCH = 17u;
const RIGHT = 576u;
var<workgroup> tile: array<vec4f, 1152>;
var<workgroup> values: array<vec4f, 512>;
struct Rows { operand: u32, first: u32, stride: u32, count: u32, width: u32 }
struct Tile { upper: mat4x4f, lower: mat4x4f }
struct Sums { near: Tile, far: Tile }
fn vectorOf(rows: Rows, row: u32, column: u32) -> vec4f {
  if (row >= rows.count || column >= rows.width) { return vec4f(); }
  return load(rows.operand, rows.first + row * rows.stride + column);
}
fn combine(c: vec4f, a: vec4f, b: mat4x4f) -> vec4f {
  return fma(vec4f(a.x), b[0], fma(vec4f(a.y), b[1], fma(vec4f(a.z), b[2], fma(vec4f(a.w), b[3], c))));
}
fn addRows(c: mat4x4f, at: u32, pitch: u32, b: mat4x4f) -> mat4x4f {
  return mat4x4f(
    combine(c[0], tile[at], b),
    combine(c[1], tile[at + pitch], b),
    combine(c[2], tile[at + 2u * pitch], b),
    combine(c[3], tile[at + 3u * pitch], b),
  );
}
fn stage(left: Rows, right: Rows, inner: u32, index: u32) {
  let row = index / INNER;
  let column = index % INNER;
  tile[row * OPERAND_PITCH + column] = vectorOf(left, row, inner + column);
  let place = row % 4u * 16u + row / 4u;
  tile[RIGHT + place * OPERAND_PITCH + column] = vectorOf(right, row, inner + column);
}
fn addDots(sums: ptr<function, Tile>, inner: u32, row: u32, column: u32) {
  let at = RIGHT + column * OPERAND_PITCH + inner;
  let b = transpose(mat4x4f(
    tile[at],
    tile[at + 16u * OPERAND_PITCH],
    tile[at + 32u * OPERAND_PITCH],
    tile[at + 48u * OPERAND_PITCH],
  ));
  (*sums).upper = addRows((*sums).upper, row * OPERAND_PITCH + inner, OPERAND_PITCH, b);
  (*sums).lower = addRows((*sums).lower, (row + 32u) * OPERAND_PITCH + inner, OPERAND_PITCH, b);
}
fn scores(left: Rows, right: Rows, thread: u32) -> Tile {
  let row = 4u * (thread / 16u);
  let column = thread % 16u;
  var sums = Tile();
  for (var inner = 0u; inner < left.width; inner += INNER) {
    workgroupBarrier();
    stage(left, right, inner, thread);
    stage(left, right, inner, thread + THREADS);
    stage(left, right, inner, thread + 2u * THREADS);
    stage(left, right, inner, thread + 3u * THREADS);
    workgroupBarrier();
    addDots(&sums, 0u, row, column);
    addDots(&sums, 1u, row, column);
    addDots(&sums, 2u, row, column);
    addDots(&sums, 3u, row, column);
    addDots(&sums, 4u, row, column);
    addDots(&sums, 5u, row, column);
    addDots(&sums, 6u, row, column);
    addDots(&sums, 7u, row, column);
  }
  return sums;
}
fn put(weights: Tile, thread: u32) {
  workgroupBarrier();
  let at = 4u * (thread / 16u) * WEIGHT_PITCH + thread % 16u;
  tile[at] = weights.upper[0];
  tile[at + WEIGHT_PITCH] = weights.upper[1];
  tile[at + 2u * WEIGHT_PITCH] = weights.upper[2];
  tile[at + 3u * WEIGHT_PITCH] = weights.upper[3];
  tile[at + 32u * WEIGHT_PITCH] = weights.lower[0];
  tile[at + 33u * WEIGHT_PITCH] = weights.lower[1];
  tile[at + 34u * WEIGHT_PITCH] = weights.lower[2];
  tile[at + 35u * WEIGHT_PITCH] = weights.lower[3];
}
fn valuesAt(at: u32, across: u32) -> mat4x4f {
  return mat4x4f(values[at], values[at + across], values[at + 2u * across], values[at + 3u * across]);
}
fn addValues(sums: ptr<function, Sums>, first: u32, key: u32, thread: u32) {
  let across = select(16u, 32u, WIDE);
  let at = key * across + thread % 16u;
  let upper = 4u * (thread / 16u) * WEIGHT_PITCH + (first + key) / 4u;
  let lower = upper + 32u * WEIGHT_PITCH;
  let near = valuesAt(at, across);
  (*sums).near.upper = addRows((*sums).near.upper, upper, WEIGHT_PITCH, near);
  (*sums).near.lower = addRows((*sums).near.lower, lower, WEIGHT_PITCH, near);
  if (WIDE) {
    let far = valuesAt(at + 16u, across);
    (*sums).far.upper = addRows((*sums).far.upper, upper, WEIGHT_PITCH, far);
    (*sums).far.lower = addRows((*sums).far.lower, lower, WEIGHT_PITCH, far);
  }
}
fn product(sums: ptr<function, Sums>, rows: Rows, thread: u32) {
  let across = select(16u, 32u, WIDE);
  let chunk = 512u / across;
  let row = thread / across;
  let column = thread % across;
  let step = THREADS / across;
  for (var first = 0u; first < EDGE; first += chunk) {
    workgroupBarrier();
    values[thread] = vectorOf(rows, first + row, column);
    values[thread + THREADS] = vectorOf(rows, first + row + step, column);
    values[thread + 2u * THREADS] = vectorOf(rows, first + row + 2u * step, column);
    values[thread + 3u * THREADS] = vectorOf(rows, first + row + 3u * step, column);
    workgroupBarrier();
    for (var key = 0u; key < chunk; key += 8u) {
      addValues(sums, first, key, thread);
      addValues(sums, first, key + 4u, thread);
    }
  }
}
`;

// bench/baselines/leftProduct.wgsl
const leftProductSource = `override TRANSPOSED: bool;
struct Parameters {
  seqLen: u32,
  heads: u32,
  inner: u32,
  outer: u32,
  workgroups: u32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read> c: array<vec4f>;
@group(0) @binding(3) var<storage, read> slopes: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
const A = 0u;
const B = 1u;
const C = 2u;
fn load(operand: u32, at: u32) -> vec4f {
  switch operand {
    case A: { return a[at]; }
    case B: { return b[at]; }
    default: { return c[at]; }
  }
}
fn tokens(operand: u32, width: u32, batch: u32, head: u32, first: u32) -> Rows {
  let row = (batch * parameters.seqLen + first) * parameters.heads + head;
  return Rows(operand, row * width, parameters.heads * width, parameters.seqLen - first, width);
}
fn masked(scores: vec4f, row: u32, columns: vec4u, slope: f32) -> vec4f {
  let distance = select(vec4i(i32(row)) - vec4i(columns), vec4i(columns) - vec4i(i32(row)), TRANSPOSED);
  return select(vec4f(), scores * exp(-slope * vec4f(distance)), distance >= vec4i());
}
fn maskedRows(scores: mat4x4f, row: u32, columns: vec4u, slope: f32) -> mat4x4f {
  return mat4x4f(
    masked(scores[0], row, columns, slope),
    masked(scores[1], row + 1u, columns, slope),
    masked(scores[2], row + 2u, columns, slope),
    masked(scores[3], row + 3u, columns, slope),
  );
}
fn write(batch: u32, head: u32, token: u32, column: u32, sum: vec4f) {
  if (token >= parameters.seqLen || column >= parameters.outer) { return; }
  let row = (batch * parameters.seqLen + token) * parameters.heads + head;
  output[row * parameters.outer + column] = parameters.scale * sum;
}
fn writeRows(batch: u32, head: u32, first: u32, column: u32, sums: mat4x4f) {
  write(batch, head, first, column, sums[0]);
  write(batch, head, first + 1u, column, sums[1]);
  write(batch, head, first + 2u, column, sums[2]);
  write(batch, head, first + 3u, column, sums[3]);
}
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let tiles = (parameters.seqLen + EDGE - 1u) / EDGE;
  let sequences = parameters.workgroups / tiles;
  let order = id / sequences;
  let rowTile = select(tiles - 1u - order, order, TRANSPOSED);
  let head = id % sequences % parameters.heads;
  let batch = id % sequences / parameters.heads;
  let row = rowTile * EDGE + 4u * (thread / 16u);
  let left = tokens(A, parameters.inner, batch, head, rowTile * EDGE);
  let slope = slopes[head];
  var sums = Sums();
  let begin = select(0u, rowTile, TRANSPOSED);
  let end = select(rowTile + 1u, tiles, TRANSPOSED);
  for (var columnTile = begin; columnTile < end; columnTile++) {
    let first = columnTile * EDGE;
    let columns = first + 4u * (thread % 16u) + vec4u(0u, 1u, 2u, 3u);
    let dots = scores(left, tokens(B, parameters.inner, batch, head, first), thread);
    put(Tile(maskedRows(dots.upper, row, columns, slope), maskedRows(dots.lower, row + 32u, columns, slope)), thread);
    product(&sums, tokens(C, parameters.outer, batch, head, first), thread);
  }
  let column = thread % 16u;
  writeRows(batch, head, row, column, sums.near.upper);
  writeRows(batch, head, row + 32u, column, sums.near.lower);
  if (WIDE) {
    writeRows(batch, head, row, column + 16u, sums.far.upper);
    writeRows(batch, head, row + 32u, column + 16u, sums.far.lower);
  }
}
`;

// bench/baselines/softmax.wgsl
const softmaxSource = `struct Parameters {
  seqLen: u32,
  heads: u32,
  headDim: u32,
  valueDim: u32,
  workgroups: u32,
  scoreScale: f32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> dOutput: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> logSumsOut: array<f32>;
@group(0) @binding(4) var<storage, read> logSums: array<f32>;
@group(0) @binding(5) var<storage, read> deltas: array<f32>;
@group(0) @binding(6) var<storage, read_write> dk: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> dv: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> dq: array<vec4f>;
@group(0) @binding(1) var<storage, read> angles: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> rotated: array<vec4f>;
@group(0) @binding(0) var<storage, read> dRows: array<vec4f>;
@group(0) @binding(1) var<storage, read> rows: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dots: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
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
fn tokens(operand: u32, width: u32, place: Place, first: u32) -> Rows {
  let row = rowOf(place, first);
  return Rows(operand, row * width, parameters.heads * width, parameters.seqLen - first, width);
}
fn scaled(m: mat4x4f, by: vec4f) -> mat4x4f {
  return mat4x4f(m[0] * by.x, m[1] * by.y, m[2] * by.z, m[3] * by.w);
}
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
fn weights(scores: vec4f, logSum: vec4f, present: vec4<bool>) -> vec4f {
  return select(vec4f(), exp2(scores * parameters.scoreScale - logSum), present);
}
fn keyWeights(scores: mat4x4f, row: u32, columns: vec4u, kept: Kept) -> mat4x4f {
  return mat4x4f(
    weights(scores[0], kept.logSum, columns >= vec4u(row)),
    weights(scores[1], kept.logSum, columns >= vec4u(row + 1u)),
    weights(scores[2], kept.logSum, columns >= vec4u(row + 2u)),
    weights(scores[3], kept.logSum, columns >= vec4u(row + 3u)),
  );
}
fn queryWeights(scores: mat4x4f, row: u32, columns: vec4u, kept: Kept) -> mat4x4f {
  return mat4x4f(
    weights(scores[0], vec4f(kept.logSum.x), columns <= vec4u(row)),
    weights(scores[1], vec4f(kept.logSum.y), columns <= vec4u(row + 1u)),
    weights(scores[2], vec4f(kept.logSum.z), columns <= vec4u(row + 2u)),
    weights(scores[3], vec4f(kept.logSum.w), columns <= vec4u(row + 3u)),
  );
}
fn keyScores(p: mat4x4f, dp: mat4x4f, delta: vec4f) -> mat4x4f {
  return mat4x4f(p[0] * (dp[0] - delta), p[1] * (dp[1] - delta), p[2] * (dp[2] - delta), p[3] * (dp[3] - delta));
}
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
`;

// bench/baselines/softmaxStep.wgsl
const softmaxStepSource = `const CHUNK = 256u;
struct Parameters {
  length: u32,
  capacity: u32,
  heads: u32,
  headDim: u32,
  valueDim: u32,
  chunks: u32,
  scoreScale: f32,
}
@group(0) @binding(0) var<storage, read> key: array<vec4f>;
@group(0) @binding(1) var<storage, read> value: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> keyCache: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> valueCache: array<vec4f>;
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> keys: array<vec4f>;
@group(0) @binding(2) var<storage, read> values: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> partials: array<vec4f>;
@group(0) @binding(0) var<storage, read> found: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(64)
fn append(@builtin(global_invocation_id) thread: vec3u) {
  let id = thread.x;
  let head = id / (parameters.headDim + parameters.valueDim);
  let column = id % (parameters.headDim + parameters.valueDim);
  let token = parameters.length - 1u;
  if (head >= parameters.heads) { return; }
  if (column < parameters.headDim) {
    let row = head * parameters.headDim + column;
    keyCache[row * parameters.capacity + token] = key[row];
  } else {
    let c = column - parameters.headDim;
    valueCache[(head * parameters.capacity + token) * parameters.valueDim + c] = value[head * parameters.valueDim + c];
  }
}
var<workgroup> numbers: array<f32, CHUNK>;
var<workgroup> weights: array<f32, CHUNK>;
var<workgroup> sums: array<vec4f, CHUNK>;
fn largest(x: f32, thread: u32) -> f32 {
  workgroupBarrier();
  numbers[thread] = x;
  for (var half = CHUNK / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { numbers[thread] = max(numbers[thread], numbers[thread + half]); }
  }
  workgroupBarrier();
  return numbers[0];
}
fn total(x: f32, thread: u32) -> f32 {
  workgroupBarrier();
  numbers[thread] = x;
  for (var half = CHUNK / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { numbers[thread] += numbers[thread + half]; }
  }
  workgroupBarrier();
  return numbers[0];
}
fn columnTotal(x: vec4f, thread: u32, slots: u32) -> vec4f {
  sums[thread] = x;
  workgroupBarrier();
  var sum = vec4f();
  if (thread < parameters.valueDim) {
    for (var slot = 0u; slot < slots; slot++) { sum += sums[slot * parameters.valueDim + thread]; }
  }
  return sum;
}
@compute @workgroup_size(CHUNK)
fn partial(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) thread: u32) {
  let chunk = workgroup.x;
  let head = workgroup.y;
  let first = chunk * CHUNK;
  let inside = first + thread < parameters.length;
  var score = -1e30;
  if (inside) {
    score = 0.0;
    for (var c = 0u; c < parameters.headDim; c++) {
      let row = head * parameters.headDim + c;
      score += dot(q[row], keys[row * parameters.capacity + first + thread]);
    }
    score *= parameters.scoreScale;
  }
  let top = largest(score, thread);
  let weight = select(0.0, exp2(score - top), inside);
  weights[thread] = weight;
  let sum = total(weight, thread);
  let width = parameters.valueDim;
  let slots = CHUNK / width;
  let column = thread % width;
  let count = min(CHUNK, parameters.length - first);
  var weighted = vec4f();
  if (thread < slots * width) {
    for (var i = thread / width; i < count; i += slots) {
      weighted += weights[i] * values[(head * parameters.capacity + first + i) * width + column];
    }
  }
  let result = columnTotal(weighted, thread, slots);
  let at = (head * parameters.chunks + chunk) * (width + 1u);
  if (thread < width) { partials[at + thread] = result; }
  if (thread == width) { partials[at + width] = vec4f(top, sum, 0.0, 0.0); }
}
@compute @workgroup_size(CHUNK)
fn combine(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let width = parameters.valueDim;
  let start = head * parameters.chunks;
  var top = -1e30;
  for (var i = thread; i < parameters.chunks; i += CHUNK) { top = max(top, found[(start + i) * (width + 1u) + width].x); }
  top = largest(top, thread);
  var sum = 0.0;
  for (var i = thread; i < parameters.chunks; i += CHUNK) {
    let ofChunk = found[(start + i) * (width + 1u) + width];
    sum += exp2(ofChunk.x - top) * ofChunk.y;
  }
  sum = total(sum, thread);
  let slots = CHUNK / width;
  var weighted = vec4f();
  if (thread < slots * width) {
    for (var i = thread / width; i < parameters.chunks; i += slots) {
      let at = (start + i) * (width + 1u);
      weighted += exp2(found[at + width].x - top) * found[at + thread % width];
    }
  }
  let result = columnTotal(weighted, thread, slots);
  if (thread < width) { output[head * width + thread] = result / sum; }
}
`;

const leftProductModule = /* @__PURE__ */ (() => ({
  code: foldedSource + tileSource + leftProductSource,
  overrides: ["WIDE","TRANSPOSED"],
  aliases: [],
} as const))();

/** bench/baselines/leftProduct.wgsl */
export const leftProduct = /* @__PURE__ */ (() => ({
  constants: { EDGE: 64, THREADS: 128, INNER: 8, OPERAND_PITCH: 9, WEIGHT_PITCH: 17, RIGHT: 576, A: 0, B: 1, C: 2 },
  main: {
    ...leftProductModule,
    entryPoint: "main",
    threads: 128,
    bindings: {
      a: [0, "read"],
      b: [1, "read"],
      c: [2, "read"],
      slopes: [3, "read"],
      output: [4, "read_write"],
    },
    parameters: {
      seqLen: [0, "u32"],
      heads: [1, "u32"],
      inner: [2, "u32"],
      outer: [3, "u32"],
      workgroups: [4, "u32"],
      scale: [5, "f32"],
    },
  },
} as const))();

const softmaxModule = /* @__PURE__ */ (() => ({
  code: foldedSource + tileSource + softmaxSource,
  overrides: ["WIDE"],
  aliases: [],
} as const))();

/** bench/baselines/softmax.wgsl */
export const softmax = /* @__PURE__ */ (() => ({
  constants: { EDGE: 64, THREADS: 128, INNER: 8, OPERAND_PITCH: 9, WEIGHT_PITCH: 17, RIGHT: 576, Q: 0, K: 1, V: 2, D_OUTPUT: 3 },
  rotate: {
    ...softmaxModule,
    entryPoint: "rotate",
    threads: 256,
    bindings: {
      q: [0, "read"],
      angles: [1, "read"],
      rotated: [2, "read_write"],
    },
    parameters: {
      seqLen: [0, "u32"],
      heads: [1, "u32"],
      headDim: [2, "u32"],
      valueDim: [3, "u32"],
      workgroups: [4, "u32"],
      scoreScale: [5, "f32"],
      scale: [6, "f32"],
    },
  },
  rowDots: {
    ...softmaxModule,
    entryPoint: "rowDots",
    threads: 64,
    bindings: {
      dRows: [0, "read"],
      rows: [1, "read"],
      dots: [2, "read_write"],
    },
    parameters: {
      seqLen: [0, "u32"],
      heads: [1, "u32"],
      headDim: [2, "u32"],
      valueDim: [3, "u32"],
      workgroups: [4, "u32"],
      scoreScale: [5, "f32"],
      scale: [6, "f32"],
    },
  },
  forward: {
    ...softmaxModule,
    entryPoint: "forward",
    threads: 128,
    bindings: {
      q: [0, "read"],
      k: [1, "read"],
      v: [2, "read"],
      dOutput: [3, "read"],
      output: [4, "read_write"],
      logSumsOut: [5, "read_write"],
    },
    parameters: {
      seqLen: [0, "u32"],
      heads: [1, "u32"],
      headDim: [2, "u32"],
      valueDim: [3, "u32"],
      workgroups: [4, "u32"],
      scoreScale: [5, "f32"],
      scale: [6, "f32"],
    },
  },
  keyGradients: {
    ...softmaxModule,
    entryPoint: "keyGradients",
    threads: 128,
    bindings: {
      q: [0, "read"],
      k: [1, "read"],
      v: [2, "read"],
      dOutput: [3, "read"],
      logSums: [4, "read"],
      deltas: [5, "read"],
      dk: [6, "read_write"],
      dv: [7, "read_write"],
    },
    parameters: {
      seqLen: [0, "u32"],
      heads: [1, "u32"],
      headDim: [2, "u32"],
      valueDim: [3, "u32"],
      workgroups: [4, "u32"],
      scoreScale: [5, "f32"],
      scale: [6, "f32"],
    },
  },
  queryGradients: {
    ...softmaxModule,
    entryPoint: "queryGradients",
    threads: 128,
    bindings: {
      q: [0, "read"],
      k: [1, "read"],
      v: [2, "read"],
      dOutput: [3, "read"],
      logSums: [4, "read"],
      deltas: [5, "read"],
      dq: [6, "read_write"],
    },
    parameters: {
      seqLen: [0, "u32"],
      heads: [1, "u32"],
      headDim: [2, "u32"],
      valueDim: [3, "u32"],
      workgroups: [4, "u32"],
      scoreScale: [5, "f32"],
      scale: [6, "f32"],
    },
  },
} as const))();

const softmaxStepModule = /* @__PURE__ */ (() => ({
  code: softmaxStepSource,
  overrides: [],
  aliases: [],
} as const))();

/** bench/baselines/softmaxStep.wgsl */
export const softmaxStep = /* @__PURE__ */ (() => ({
  constants: { CHUNK: 256 },
  append: {
    ...softmaxStepModule,
    entryPoint: "append",
    threads: 64,
    bindings: {
      key: [0, "read"],
      value: [1, "read"],
      keyCache: [2, "read_write"],
      valueCache: [3, "read_write"],
    },
    parameters: {
      length: [0, "u32"],
      capacity: [1, "u32"],
      heads: [2, "u32"],
      headDim: [3, "u32"],
      valueDim: [4, "u32"],
      chunks: [5, "u32"],
      scoreScale: [6, "f32"],
    },
  },
  partial: {
    ...softmaxStepModule,
    entryPoint: "partial",
    threads: 256,
    bindings: {
      q: [0, "read"],
      keys: [1, "read"],
      values: [2, "read"],
      partials: [3, "read_write"],
    },
    parameters: {
      length: [0, "u32"],
      capacity: [1, "u32"],
      heads: [2, "u32"],
      headDim: [3, "u32"],
      valueDim: [4, "u32"],
      chunks: [5, "u32"],
      scoreScale: [6, "f32"],
    },
  },
  combine: {
    ...softmaxStepModule,
    entryPoint: "combine",
    threads: 256,
    bindings: {
      found: [0, "read"],
      output: [1, "read_write"],
    },
    parameters: {
      length: [0, "u32"],
      capacity: [1, "u32"],
      heads: [2, "u32"],
      headDim: [3, "u32"],
      valueDim: [4, "u32"],
      chunks: [5, "u32"],
      scoreScale: [6, "f32"],
    },
  },
} as const))();
