// output = x weightᵀ + bias + residual; x [rows, inDim], weight [outDim, inDim], bias [outDim], residual and output
// [rows, outDim].
//
//   tiled     one workgroup per tile of 128 × 128 (WIDE) or 64 × 64 results: bound by arithmetic
//   fewRows   TEAM threads per 4 columns of the result, 16 rows at most: bound by reading the weight once
//   oneRow    the same for one row
//   factors   what NORMED needs of more than one row
//
// NORMED, for few rows: of each row the product is divided by sqrt(mean(normed²) + eps), which makes x weightᵀ into
// norm(x) weightᵀ where normed is x. GATED, for one row: the result is multiplied by that with another weight and bias.
//
// inDim is a multiple of 4 and outDim too in `tiled`; inDim is a multiple of 8 in the others (the host pads what is not).
// Accumulators are matrices by name, and the steps through workgroup memory are written out: arrays and loops there cost
// half the speed.
//
// Sums have one order whatever stores the weight: the same values give the same bits.

// import folded.wgsl, tile.wgsl, bfloat16.wgsl

override PACKED: bool; // the weight is bfloat16: Weight is u32, two elements to a word
override ROWS: u32;    // of fewRows, at most: 4, 8, 12 or 16
override BIAS: bool;
override RESIDUAL: bool;
override TIMES: bool;  // of fewRows: the result is multiplied by the residual, not added to it
override NORMED: bool;
override GATED: bool;

struct Parameters {
  rows: u32,
  inVectors: u32, // inDim / 4
  outCount: u32,  // rows of the weight in this dispatch, from firstOut: columns of the result
  firstOut: u32,
  stride: u32,    // elements of a row of the output: outDim, padded
  workgroups: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(1) var<storage, read> weight: array<vec4<Weight>>; // [outCount, inVectors], of PACKED inVectors / 2
@group(1) @binding(0) var<uniform> parameters: Parameters;

// Vector `at` of the weight.
fn weights(at: u32) -> vec4<f32> {
  if (PACKED) {
    let words = vec4<u32>(weight[at / 2u]);
    return fromBfloat16s(select(words.xy, words.zw, at % 2u == 1u));
  }
  return vec4<f32>(weight[at]);
}

// Vectors 2 · at and 2 · at + 1 of the weight: 16 bytes of bfloat16.
fn weightPair(at: u32) -> mat2x4<f32> {
  if (PACKED) { return pairOf(vec4<u32>(weight[at])); }
  return mat2x4<f32>(vec4<f32>(weight[2u * at]), vec4<f32>(weight[2u * at + 1u]));
}

fn pairOf(words: vec4<u32>) -> mat2x4<f32> {
  return mat2x4<f32>(fromBfloat16s(words.xy), fromBfloat16s(words.zw));
}

// ------------------------------------------------------------------------------------------------------- tiled

@group(0) @binding(2) var<storage, read> bias: array<vec4<Bias>>; // [stride / 4]
@group(0) @binding(3) var<storage, read> residual: array<vec4<Residual>>; // [rows, stride / 4]
@group(0) @binding(4) var<storage, read_write> output: array<vec4<Output>>; // [rows, stride / 4]

fn writeRow(row: u32, column: u32, sum: vec4<f32>) {
  if (row >= parameters.rows || column >= (parameters.outCount + 3u) / 4u) { return; }
  let global = parameters.firstOut / 4u + column;
  let at = row * (parameters.stride / 4u) + global;
  var y = sum;
  if (BIAS) { y += vec4<f32>(bias[global]); }
  if (RESIDUAL) { y += vec4<f32>(residual[at]); }
  output[at] = vec4<Output>(y);
}

fn writeTile(row: u32, column: u32, accumulators: mat4x4<f32>) {
  writeRow(row, column, accumulators[0]);
  writeRow(row + 1u, column, accumulators[1].wzyx);
  writeRow(row + 2u, column, accumulators[2]);
  writeRow(row + 3u, column, accumulators[3].wzyx);
}

@compute @workgroup_size(THREADS)
fn tiled(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let edge = select(64u, 128u, WIDE);
  let tiles = (parameters.outCount + edge - 1u) / edge;
  let firstRow = id / tiles * edge;
  let firstColumn = id % tiles * edge;
  // Warps of 4 rows and 8 columns of threads: workgroup memory serves 128 different bytes per cycle.
  let row = thread / 64u * 4u + thread % 32u / 8u;
  let column = thread / 32u % 2u * 8u + thread % 8u;

  // Half of the threads load x, half the weight: 4 elements of 4 rows, transposed in registers.
  let quad = thread % 4u;
  let group = thread / 4u % (THREADS / 8u);
  let inVectors = parameters.inVectors;
  let forLeft = thread < THREADS / 2u;
  // Rows outside repeat the last one: what they give is not written.
  let last = select(parameters.outCount, parameters.rows, forLeft) - 1u;
  let first = select(firstColumn, firstRow, forLeft) + 4u * group;
  let at0 = min(first, last) * inVectors + quad;
  let at1 = min(first + 1u, last) * inVectors + quad;
  let at2 = min(first + 2u, last) * inVectors + quad;
  let at3 = min(first + 3u, last) * inVectors + quad;

  var accumulators = Tile();
  var l0 = vec4<f32>();
  var l1 = vec4<f32>();
  var l2 = vec4<f32>();
  var l3 = vec4<f32>();
  for (var i = 0u; i < inVectors + INNER / 4u; i += INNER / 4u) {
    // The loads of this step, while the accumulators of the step before are taken. (Loading after the barrier instead costs a
    // quarter of the speed.)
    if (i < inVectors) {
      if (forLeft) {
        l0 = vec4<f32>(x[at0 + i]);
        l1 = vec4<f32>(x[at1 + i]);
        l2 = vec4<f32>(x[at2 + i]);
        l3 = vec4<f32>(x[at3 + i]);
      } else {
        l0 = weights(at0 + i);
        l1 = weights(at1 + i);
        l2 = weights(at2 + i);
        l3 = weights(at3 + i);
      }
    }
    if (i > 0u) {
      let buffer = (i / (INNER / 4u) - 1u) % BUFFERS;
      addTerm(&accumulators, buffer, 0u, row, column);
      addTerm(&accumulators, buffer, 1u, row, column);
      addTerm(&accumulators, buffer, 2u, row, column);
      addTerm(&accumulators, buffer, 3u, row, column);
      addTerm(&accumulators, buffer, 4u, row, column);
      addTerm(&accumulators, buffer, 5u, row, column);
      addTerm(&accumulators, buffer, 6u, row, column);
      addTerm(&accumulators, buffer, 7u, row, column);
      addTerm(&accumulators, buffer, 8u, row, column);
      addTerm(&accumulators, buffer, 9u, row, column);
      addTerm(&accumulators, buffer, 10u, row, column);
      addTerm(&accumulators, buffer, 11u, row, column);
      addTerm(&accumulators, buffer, 12u, row, column);
      addTerm(&accumulators, buffer, 13u, row, column);
      addTerm(&accumulators, buffer, 14u, row, column);
      addTerm(&accumulators, buffer, 15u, row, column);
    }
    if (i < inVectors) {
      let buffer = i / (INNER / 4u) % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      let columns = transpose(mat4x4<f32>(l0, l1, l2, l3));
      let inside = i + quad < inVectors;
      let c0 = select(vec4<f32>(), columns[0], inside);
      let c1 = select(vec4<f32>(), columns[1], inside);
      let c2 = select(vec4<f32>(), columns[2], inside);
      let c3 = select(vec4<f32>(), columns[3], inside);
      if (forLeft) {
        left[buffer][4u * quad][group] = c0;
        left[buffer][4u * quad + 1u][group] = c1;
        left[buffer][4u * quad + 2u][group] = c2;
        left[buffer][4u * quad + 3u][group] = c3;
      } else {
        right[buffer][4u * quad][group] = c0;
        right[buffer][4u * quad + 1u][group] = c1;
        right[buffer][4u * quad + 2u][group] = c2;
        right[buffer][4u * quad + 3u][group] = c3;
      }
      workgroupBarrier();
    }
  }

  let outRow = firstRow + 4u * row;
  let outColumn = firstColumn / 4u + column;
  writeTile(outRow, outColumn, accumulators.upper.left);
  writeTile(outRow + edge / 2u, outColumn, accumulators.lower.left);
  if (WIDE) {
    writeTile(outRow, outColumn + 16u, accumulators.upper.right);
    writeTile(outRow + edge / 2u, outColumn + 16u, accumulators.lower.right);
  }
}

// ----------------------------------------------------------------------------------------------------- fewRows

@group(0) @binding(2) var<storage, read> scalarBias: array<Bias>; // [stride]
@group(0) @binding(3) var<storage, read> scalarResidual: array<Residual>; // [rows, stride]
@group(0) @binding(4) var<storage, read_write> scalarOutput: array<Output>; // [rows, stride]
@group(0) @binding(5) var<storage, read> rowFactors: array<f32>; // [rows]

override TEAM: u32; // threads that share 4 columns of the result, 32 to 128

var<workgroup> partial: array<mat4x4<f32>, 128>;

// Products of 4 weights and 4 rows of x from `row`, at vector i: [column][row].
fn products(w: mat4x4<f32>, row: u32, i: u32) -> mat4x4<f32> {
  let last = parameters.rows - 1u;
  let x0 = vec4<f32>(x[min(row, last) * parameters.inVectors + i]);
  let x1 = vec4<f32>(x[min(row + 1u, last) * parameters.inVectors + i]);
  let x2 = vec4<f32>(x[min(row + 2u, last) * parameters.inVectors + i]);
  let x3 = vec4<f32>(x[min(row + 3u, last) * parameters.inVectors + i]);
  return mat4x4<f32>(
    vec4<f32>(dot(w[0], x0), dot(w[0], x1), dot(w[0], x2), dot(w[0], x3)),
    vec4<f32>(dot(w[1], x0), dot(w[1], x1), dot(w[1], x2), dot(w[1], x3)),
    vec4<f32>(dot(w[2], x0), dot(w[2], x1), dot(w[2], x2), dot(w[2], x3)),
    vec4<f32>(dot(w[3], x0), dot(w[3], x1), dot(w[3], x2), dot(w[3], x3)),
  );
}

// Writes one result.
fn writeScalar(row: u32, column: u32, sum: f32) {
  if (row >= parameters.rows || column >= parameters.outCount) { return; }
  let global = parameters.firstOut + column;
  let at = row * parameters.stride + global;
  var y = sum;
  if (NORMED) { y *= rowFactors[row]; }
  if (BIAS) { y += f32(scalarBias[global]); }
  if (RESIDUAL) {
    let other = f32(scalarResidual[at]);
    y = select(y + other, y * other, TIMES);
  }
  scalarOutput[at] = Output(y);
}

// Adds up what the threads of a team found, and writes 4 columns of 4 rows.
fn finish(accumulators: mat4x4<f32>, row: u32, column: u32, thread: u32) {
  let lane = thread % TEAM;
  workgroupBarrier();
  partial[thread] = accumulators;
  for (var half = TEAM / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { partial[thread] += partial[thread + half]; }
  }
  workgroupBarrier();
  // Thread 4c + r writes row r of column c.
  if (lane >= 16u) { return; }
  writeScalar(row + lane % 4u, column + lane / 4u, partial[thread - lane][lane / 4u][lane % 4u]);
}

// The first column of the 4 that a thread of workgroup `id` works for.
fn firstColumn(id: u32, thread: u32) -> u32 {
  return (id * (128u / TEAM) + thread / TEAM) * 4u;
}

@compute @workgroup_size(128)
fn fewRows(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let blocks = (parameters.outCount + 512u / TEAM - 1u) / (512u / TEAM);
  let row = id / blocks * ROWS;
  let column = firstColumn(id % blocks, thread);
  let inVectors = parameters.inVectors;
  let last = parameters.outCount - 1u;
  let at0 = min(column, last) * inVectors;
  let at1 = min(column + 1u, last) * inVectors;
  let at2 = min(column + 2u, last) * inVectors;
  let at3 = min(column + 3u, last) * inVectors;
  var s0 = mat4x4<f32>();
  var s1 = mat4x4<f32>();
  var s2 = mat4x4<f32>();
  var s3 = mat4x4<f32>();
  // The pairs of oneRow, vector by vector: with whole pairs in registers there would be too few for the accumulators.
  for (var i = thread % TEAM * 2u; i < inVectors; i += select(1u, 2u * TEAM - 1u, i % 2u == 1u)) {
    let w = mat4x4<f32>(weights(at0 + i), weights(at1 + i), weights(at2 + i), weights(at3 + i));
    s0 += products(w, row, i);
    if (ROWS > 4u) { s1 += products(w, row + 4u, i); }
    if (ROWS > 8u) { s2 += products(w, row + 8u, i); }
    if (ROWS > 12u) { s3 += products(w, row + 12u, i); }
  }
  finish(s0, row, column, thread);
  if (ROWS > 4u) { finish(s1, row + 4u, column, thread); }
  if (ROWS > 8u) { finish(s2, row + 8u, column, thread); }
  if (ROWS > 12u) { finish(s3, row + 12u, column, thread); }
}

// ------------------------------------------------------------------------------------------------------ oneRow

@group(0) @binding(5) var<storage, read> normed: array<vec4<X>>; // [inVectors]; of factors [rows, inVectors]
@group(0) @binding(6) var<storage, read> gateWeight: array<vec4<Weight>>; // as weight
@group(0) @binding(7) var<storage, read> gateBias: array<Bias>; // [stride]

var<workgroup> partialRow: array<vec4<f32>, 128>;
var<workgroup> partialGate: array<vec4<f32>, 128>;
var<workgroup> partialSquare: array<f32, 128>;

// weightPair of gateWeight.
fn gatePair(at: u32) -> mat2x4<f32> {
  if (PACKED) { return pairOf(vec4<u32>(gateWeight[at])); }
  return mat2x4<f32>(vec4<f32>(gateWeight[2u * at]), vec4<f32>(gateWeight[2u * at + 1u]));
}

// The sum of the squares of vectors 2 · at and 2 · at + 1 of normed, added to `sum`.
fn addSquares(sum: f32, at: u32) -> f32 {
  let left = vec4<f32>(normed[2u * at]);
  let right = vec4<f32>(normed[2u * at + 1u]);
  return sum + dot(left, left) + dot(right, right);
}

fn factorOf(squares: f32) -> f32 {
  return 1.0 / sqrt(squares / f32(4u * parameters.inVectors) + parameters.eps);
}

@compute @workgroup_size(128)
fn oneRow(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let lane = thread % TEAM;
  let column = firstColumn(id, thread);
  let pairs = parameters.inVectors / 2u;
  let last = parameters.outCount - 1u;
  let at0 = min(column, last) * pairs;
  let at1 = min(column + 1u, last) * pairs;
  let at2 = min(column + 2u, last) * pairs;
  let at3 = min(column + 3u, last) * pairs;
  var sums = vec4<f32>();
  var gates = vec4<f32>();
  var square = 0.0;
  for (var i = lane; i < pairs; i += TEAM) {
    let w0 = weightPair(at0 + i);
    let w1 = weightPair(at1 + i);
    let w2 = weightPair(at2 + i);
    let w3 = weightPair(at3 + i);
    let x0 = vec4<f32>(x[2u * i]);
    let x1 = vec4<f32>(x[2u * i + 1u]);
    sums += vec4<f32>(dot(w0[0], x0), dot(w1[0], x0), dot(w2[0], x0), dot(w3[0], x0));
    sums += vec4<f32>(dot(w0[1], x1), dot(w1[1], x1), dot(w2[1], x1), dot(w3[1], x1));
    if (GATED) {
      let g0 = gatePair(at0 + i);
      let g1 = gatePair(at1 + i);
      let g2 = gatePair(at2 + i);
      let g3 = gatePair(at3 + i);
      gates += vec4<f32>(dot(g0[0], x0), dot(g1[0], x0), dot(g2[0], x0), dot(g3[0], x0));
      gates += vec4<f32>(dot(g0[1], x1), dot(g1[1], x1), dot(g2[1], x1), dot(g3[1], x1));
    }
    if (NORMED) { square = addSquares(square, i); }
  }
  partialRow[thread] = sums;
  if (GATED) { partialGate[thread] = gates; }
  if (NORMED) { partialSquare[thread] = square; }
  for (var half = TEAM / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      partialRow[thread] += partialRow[thread + half];
      if (GATED) { partialGate[thread] += partialGate[thread + half]; }
      if (NORMED) { partialSquare[thread] += partialSquare[thread + half]; }
    }
  }
  workgroupBarrier();
  if (lane >= 4u || column + lane >= parameters.outCount) { return; }
  let global = parameters.firstOut + column + lane;
  let team = thread - lane;
  var factor = 1.0;
  if (NORMED) { factor = factorOf(partialSquare[team]); }
  var y = partialRow[team][lane];
  if (NORMED) { y *= factor; }
  if (BIAS) { y += f32(scalarBias[global]); }
  if (GATED) {
    var gate = partialGate[team][lane] * factor;
    if (BIAS) { gate += f32(gateBias[global]); }
    y *= gate;
  }
  if (RESIDUAL) { y += f32(scalarResidual[global]); }
  scalarOutput[global] = Output(y);
}

// ----------------------------------------------------------------------------------------------------- factors

@group(0) @binding(4) var<storage, read_write> factorsOut: array<f32>; // [rows]

// The factor of NORMED for each row, one workgroup per row: sums in the order of oneRow.
@compute @workgroup_size(128)
fn factors(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.workgroups) { return; }
  let pairs = parameters.inVectors / 2u;
  var square = 0.0;
  if (thread < TEAM) {
    for (var i = thread; i < pairs; i += TEAM) { square = addSquares(square, row * pairs + i); }
  }
  partialSquare[thread] = square;
  for (var half = TEAM / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partialSquare[thread] += partialSquare[thread + half]; }
  }
  if (thread == 0u) { factorsOut[row] = factorOf(partialSquare[0]); }
}
