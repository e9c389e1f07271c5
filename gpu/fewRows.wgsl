// output = x weightᵀ + bias + residual for few rows, as in linear.wgsl: bound by reading the weight.
//
//   oneRow    TEAM threads per COLUMNS columns of the result
//   fewRows   one workgroup per tile of results, 8 threads for each part of it
//
// NORMED: of each row the product is divided by sqrt(mean(normed²) + eps), which makes x weightᵀ into norm(x) weightᵀ
// where normed is x. GATED: the result is multiplied by that with another weight and bias.
//
// Rows of x are multiples of 8 long: vectors are read in pairs, which are 16 bytes of bfloat16.
//
// Sums have one order, whichever kernel takes them, how large its tiles are, and whatever stores the weight: the same row
// gives the same bits in any company. inDim is cut into RANGES ranges. In each, lane l of 8 adds up the terms of every
// eighth pair of vectors, one after another. The ranges of a lane are added one after another, then the lanes pairwise.
// In oneRow each lane of each range is a thread; in fewRows a thread is a lane, and walks all ranges.

// import folded.wgsl, outer.wgsl, bfloat16.wgsl

override PACKED: bool; // the weight is bfloat16: Weight is u32, two elements to a word
override BITS: u32;    // of an element of a quantised weight, 8 or 4: Weight is u32; else 0
override GROUP: u32;   // elements of such a weight that share a scale: 32 or 64
override RANGES: u32;
override BIAS: bool;
override RESIDUAL: bool;
override NORMED: bool;
override GATED: bool;

const LANES = 8u;

struct Parameters {
  rows: u32,
  inDim: u32,
  inVectors: u32,  // of a row of x: inDim / 4; with a quantised weight in whole groups
  weightStride: u32, // of a row of the weight: vectors, or, of a quantised one, words
  scalesAt: u32,   // word of a row of a quantised weight where its scales begin, two to a word
  outCount: u32,   // rows of the weight in this dispatch, from firstOut: columns of the result
  firstOut: u32,
  stride: u32,     // elements of a row of the output: outDim
  rangePairs: u32, // of a range, whole rounds of the lanes
  workgroups: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(1) var<storage, read> weight: array<vec4<Weight>>; // [outCount, weightStride]
@group(0) @binding(2) var<storage, read> bias: array<Bias>; // [stride]
@group(0) @binding(3) var<storage, read> residual: array<Residual>; // [rows, stride]
@group(0) @binding(4) var<storage, read_write> output: array<Output>; // [rows, stride]
@group(0) @binding(5) var<storage, read> normed: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(6) var<storage, read> gateWeight: array<vec4<Weight>>; // as weight
@group(0) @binding(7) var<storage, read> gateBias: array<Bias>; // [stride]
@group(1) @binding(0) var<uniform> parameters: Parameters;

// Writes one result; gate is that of the other weight.
fn write(row: u32, column: u32, sum: f32, gate: f32, factor: f32) {
  if (row >= parameters.rows || column >= parameters.outCount) { return; }
  let global = parameters.firstOut + column;
  let at = row * parameters.stride + global;
  var y = sum;
  if (NORMED) { y *= factor; }
  if (BIAS) { y += f32(bias[global]); }
  if (GATED) {
    var other = gate;
    if (NORMED) { other *= factor; }
    if (BIAS) { other += f32(gateBias[global]); }
    y *= other;
  }
  if (RESIDUAL) { y += f32(residual[at]); }
  output[at] = Output(y);
}

// What NORMED multiplies a row by.
fn factorOf(squares: f32) -> f32 {
  return 1.0 / sqrt(squares / f32(parameters.inDim) + parameters.eps);
}

// Elements of a weight are floats as they are, pairs of bfloat16, or integers with scales. `other`: those of gateWeight.

fn floats(at: u32, other: bool) -> vec4<f32> {
  if (other) { return vec4<f32>(gateWeight[at]); }
  return vec4<f32>(weight[at]);
}

fn words(at: u32, other: bool) -> vec4<u32> {
  if (other) { return vec4<u32>(gateWeight[at]); }
  return vec4<u32>(weight[at]);
}

fn word(at: u32, other: bool) -> u32 {
  if (other) { return u32(gateWeight[at / 4u][at % 4u]); }
  return u32(weight[at / 4u][at % 4u]);
}

// The scale of vector `vector` of the row that begins at word `row`, a bfloat16.
fn scaleOf(row: u32, vector: u32, other: bool) -> f32 {
  let group = 4u * vector / GROUP;
  let pair = word(row + parameters.scalesAt + group / 2u, other);
  return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, group % 2u == 1u));
}

// 4 integers in the low bits of a word, times their scale. Each is put into the mantissa of 2²³, where it stands for
// itself times a power of two, which is divided out together with the scale: nothing is rounded, and no integer is
// converted, which takes a GPU four times as long.
fn scaled4(bits: u32, scale: f32) -> vec4<f32> {
  let masked = vec4<u32>(bits) & vec4<u32>(0xfu, 0xf0u, 0xf00u, 0xf000u);
  let raised = bitcast<vec4<f32>>(masked | vec4<u32>(0x4b000000u)); // 2²³ + (integer + 8) · 16ⁱ
  return (raised - vec4<f32>(8388616.0, 8388736.0, 8390656.0, 8421376.0)) *
    (scale * vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625));
}

fn scaled8(bits: u32, scale: f32) -> vec4<f32> {
  let positive = bits ^ 0x80808080u; // integer + 128
  let masked = vec4<u32>(positive, positive, positive >> 16u, positive >> 16u) & vec4<u32>(0xffu, 0xff00u, 0xffu, 0xff00u);
  let raised = bitcast<vec4<f32>>(masked | vec4<u32>(0x4b000000u));
  return (raised - vec4<f32>(8388736.0, 8421376.0, 8388736.0, 8421376.0)) *
    (scale * vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625));
}

// Vector `vector` of the row of a weight that begins at `row`.
fn weights(row: u32, vector: u32, other: bool) -> vec4<f32> {
  if (BITS == 8u) { return scaled8(word(row + vector, other), scaleOf(row, vector, other)); }
  if (BITS == 4u) {
    let bits = word(row + vector / 2u, other) >> (16u * (vector % 2u));
    return scaled4(bits, scaleOf(row, vector, other));
  }
  if (PACKED) {
    let four = words(row + vector / 2u, other);
    return fromBfloat16s(select(four.xy, four.zw, vector % 2u == 1u));
  }
  return floats(row + vector, other);
}

// ------------------------------------------------------------------------------------------------------ oneRow

override TEAM: u32;    // LANES · RANGES
override COLUMNS: u32; // of a team: 1, 2 or 4
override PAIRS: u32;   // that a thread loads before it multiplies: 1, or 2 where they are few bytes

var<workgroup> partialRow: array<vec4<f32>, 128>;
var<workgroup> partialGate: array<vec4<f32>, 128>;
var<workgroup> partialSquare: array<f32, 128>;

// Vectors 2 · pair and 2 · pair + 1 of the row of a weight that begins at `row`.
fn weightPair(row: u32, pair: u32, other: bool) -> mat2x4<f32> {
  if (PACKED) {
    let four = words(row + pair, other);
    return mat2x4<f32>(fromBfloat16s(four.xy), fromBfloat16s(four.zw));
  }
  return mat2x4<f32>(weights(row, 2u * pair, other), weights(row, 2u * pair + 1u, other));
}

// The sum and 8 products, one after another.
fn addPair(sum: f32, w: mat2x4<f32>, x0: vec4<f32>, x1: vec4<f32>) -> f32 {
  let left = fma(w[0].w, x0.w, fma(w[0].z, x0.z, fma(w[0].y, x0.y, fma(w[0].x, x0.x, sum))));
  return fma(w[1].w, x1.w, fma(w[1].z, x1.z, fma(w[1].y, x1.y, fma(w[1].x, x1.x, left))));
}

// The products of a pair of vectors with COLUMNS rows of the weight. Pairs behind the end count as zeros.
fn addTerms(
  sums: ptr<function, vec4<f32>>,
  gates: ptr<function, vec4<f32>>,
  square: ptr<function, f32>,
  starts: vec4<u32>,
  index: u32,
  end: u32,
) {
  let inside = PAIRS == 1u || index < end;
  let i = select(end - 1u, index, inside);
  let w0 = weightPair(starts.x, i, false);
  var w1 = mat2x4<f32>();
  var w2 = mat2x4<f32>();
  var w3 = mat2x4<f32>();
  if (COLUMNS > 1u) { w1 = weightPair(starts.y, i, false); }
  if (COLUMNS > 2u) {
    w2 = weightPair(starts.z, i, false);
    w3 = weightPair(starts.w, i, false);
  }
  let x0 = select(vec4<f32>(), vec4<f32>(x[2u * i]), inside);
  let x1 = select(vec4<f32>(), vec4<f32>(x[2u * i + 1u]), inside);
  (*sums).x = addPair((*sums).x, w0, x0, x1);
  if (COLUMNS > 1u) { (*sums).y = addPair((*sums).y, w1, x0, x1); }
  if (COLUMNS > 2u) {
    (*sums).z = addPair((*sums).z, w2, x0, x1);
    (*sums).w = addPair((*sums).w, w3, x0, x1);
  }
  if (GATED) {
    (*gates).x = addPair((*gates).x, weightPair(starts.x, i, true), x0, x1);
    if (COLUMNS > 1u) { (*gates).y = addPair((*gates).y, weightPair(starts.y, i, true), x0, x1); }
    if (COLUMNS > 2u) {
      (*gates).z = addPair((*gates).z, weightPair(starts.z, i, true), x0, x1);
      (*gates).w = addPair((*gates).w, weightPair(starts.w, i, true), x0, x1);
    }
  }
  if (NORMED) {
    let y0 = select(vec4<f32>(), vec4<f32>(normed[2u * i]), inside);
    let y1 = select(vec4<f32>(), vec4<f32>(normed[2u * i + 1u]), inside);
    *square = addPair(*square, mat2x4<f32>(y0, y1), y0, y1);
  }
}

@compute @workgroup_size(128)
fn oneRow(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let member = thread % TEAM;
  let column = (id * (128u / TEAM) + thread / TEAM) * COLUMNS;
  let pairs = parameters.inVectors / 2u;
  let last = parameters.outCount - 1u;
  let at0 = min(column, last) * parameters.weightStride;
  let at1 = min(column + 1u, last) * parameters.weightStride;
  let at2 = min(column + 2u, last) * parameters.weightStride;
  let at3 = min(column + 3u, last) * parameters.weightStride;
  let range = member / LANES;
  let end = min((range + 1u) * parameters.rangePairs, pairs);
  var sums = vec4<f32>();
  var gates = vec4<f32>();
  var square = 0.0;
  let starts = vec4<u32>(at0, at1, at2, at3);
  for (var i = range * parameters.rangePairs + member % LANES; i < end; i += PAIRS * LANES) {
    addTerms(&sums, &gates, &square, starts, i, end);
    if (PAIRS > 1u) { addTerms(&sums, &gates, &square, starts, i + LANES, end); }
  }
  partialRow[thread] = sums;
  if (GATED) { partialGate[thread] = gates; }
  if (NORMED) { partialSquare[thread] = square; }
  workgroupBarrier();
  if (RANGES > 1u && member < LANES) {
    for (var i = thread + LANES; i < thread + TEAM; i += LANES) {
      sums += partialRow[i];
      if (GATED) { gates += partialGate[i]; }
      if (NORMED) { square += partialSquare[i]; }
    }
    partialRow[thread] = sums;
    if (GATED) { partialGate[thread] = gates; }
    if (NORMED) { partialSquare[thread] = square; }
  }
  workgroupBarrier();
  if (member >= COLUMNS) { return; }
  let team = thread - member;
  let sum = ((partialRow[team][member] + partialRow[team + 4u][member]) +
    (partialRow[team + 2u][member] + partialRow[team + 6u][member])) +
    ((partialRow[team + 1u][member] + partialRow[team + 5u][member]) +
      (partialRow[team + 3u][member] + partialRow[team + 7u][member]));
  var gate = 0.0;
  if (GATED) {
    gate = ((partialGate[team][member] + partialGate[team + 4u][member]) +
      (partialGate[team + 2u][member] + partialGate[team + 6u][member])) +
      ((partialGate[team + 1u][member] + partialGate[team + 5u][member]) +
        (partialGate[team + 3u][member] + partialGate[team + 7u][member]));
  }
  var factor = 1.0;
  if (NORMED) {
    factor = factorOf(((partialSquare[team] + partialSquare[team + 4u]) +
      (partialSquare[team + 2u] + partialSquare[team + 6u])) +
      ((partialSquare[team + 1u] + partialSquare[team + 5u]) +
        (partialSquare[team + 3u] + partialSquare[team + 7u])));
  }
  write(0u, column + member, sum, gate, factor);
}

// ----------------------------------------------------------------------------------------------------- fewRows

override ROW_GROUPS: u32;    // positions of threads from top to bottom of a tile
override COLUMN_GROUPS: u32; // and from left to right
override TALL: bool;         // 8 rows per thread, 4 of each half of the tile; else 4
override BROAD: bool;        // 8 columns per thread, 4 of each half; else 4. With GATED the right half is that of gateWeight
override APART: bool;        // normed is not x
override POSITIONS: u32;     // ROW_GROUPS · COLUMN_GROUPS
override THREADS: u32;       // LANES · POSITIONS
override STEP: u32;          // pairs per lane that workgroup memory holds together
override BUFFERS: u32;       // with 2, loading overlaps with computing
override UNITS: u32;         // blocks of 4 × 4 elements that a thread loads per step, 5 at most
override GROUPS: u32;        // of 4 rows that a step loads: of x, if APART of normed, of weights
override PITCH: u32;         // GROUPS, made odd: so threads store to different banks
override MEMORY: u32;        // vectors of workgroup memory

// Of each buffer: [4][16 · STEP][PITCH], element e of vector v of 4 rows of each operand. Then partial sums, 2 vectors of
// each thread, and factors of rows.
var<workgroup> memory: array<vec4<f32>, MEMORY>;

struct Squares { upper: vec4<f32>, lower: vec4<f32> }

fn rowVectors() -> u32 { return ROW_GROUPS * select(1u, 2u, TALL); }

// The first group of weights.
fn weightsAt() -> u32 { return rowVectors() * select(1u, 2u, APART); }

// Where the 4 rows of a group begin. Rows outside repeat the last one: what they give is not written.
fn rowsOf(group: u32, row: u32, column: u32) -> vec4<u32> {
  var first = row + group % rowVectors() * 4u;
  var last = parameters.rows - 1u;
  var stride = parameters.inVectors;
  if (group >= weightsAt()) {
    first = group - weightsAt();
    if (GATED && first >= COLUMN_GROUPS) { first -= COLUMN_GROUPS; }
    first = column + 4u * first;
    last = parameters.outCount - 1u;
    stride = parameters.weightStride;
  }
  return min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * stride;
}

// A vector of each row of a group.
fn load(group: u32, rows: vec4<u32>, vector: u32) -> mat4x4<f32> {
  let at = rows + vector;
  if (group < rowVectors()) {
    return mat4x4<f32>(vec4<f32>(x[at.x]), vec4<f32>(x[at.y]), vec4<f32>(x[at.z]), vec4<f32>(x[at.w]));
  }
  if (APART && group < weightsAt()) {
    return mat4x4<f32>(
      vec4<f32>(normed[at.x]),
      vec4<f32>(normed[at.y]),
      vec4<f32>(normed[at.z]),
      vec4<f32>(normed[at.w]),
    );
  }
  let isGate = GATED && group >= weightsAt() + COLUMN_GROUPS;
  return mat4x4<f32>(
    weights(rows.x, vector, isGate),
    weights(rows.y, vector, isGate),
    weights(rows.z, vector, isGate),
    weights(rows.w, vector, isGate),
  );
}

// Stores them element by element. Vectors outside the range count as zeros.
fn store(buffer: u32, group: u32, vector: u32, elements: mat4x4<f32>, inside: bool) {
  let columns = transpose(elements);
  let at = (buffer * 64u * STEP + vector) * PITCH + group;
  let next = 16u * STEP * PITCH;
  memory[at] = select(vec4<f32>(), columns[0], inside);
  memory[at + next] = select(vec4<f32>(), columns[1], inside);
  memory[at + 2u * next] = select(vec4<f32>(), columns[2], inside);
  memory[at + 3u * next] = select(vec4<f32>(), columns[3], inside);
}

// The products of one term.
fn addProducts(sums: ptr<function, Tile>, squares: ptr<function, Squares>, at: u32, row: u32, column: u32) {
  let a0 = memory[at + row];
  let b0 = memory[at + weightsAt() + column];
  var a1 = vec4<f32>();
  var b1 = vec4<f32>();
  if (TALL) { a1 = memory[at + row + ROW_GROUPS]; }
  if (BROAD) { b1 = memory[at + weightsAt() + column + COLUMN_GROUPS]; }
  if (BROAD) {
    (*sums).upper = outerRows((*sums).upper, a0, b0, b1);
    if (TALL) { (*sums).lower = outerRows((*sums).lower, a1, b0, b1); }
  } else {
    (*sums).upper.left = outer((*sums).upper.left, a0, b0);
    if (TALL) { (*sums).lower.left = outer((*sums).lower.left, a1, b0); }
  }
  if (NORMED) {
    if (APART) {
      addUpper(squares, memory[at + rowVectors() + row]);
      if (TALL) { addLower(squares, memory[at + rowVectors() + row + ROW_GROUPS]); }
    } else {
      addUpper(squares, a0);
      if (TALL) { addLower(squares, a1); }
    }
  }
}

fn addUpper(squares: ptr<function, Squares>, a: vec4<f32>) { (*squares).upper = fma(a, a, (*squares).upper); }
fn addLower(squares: ptr<function, Squares>, a: vec4<f32>) { (*squares).lower = fma(a, a, (*squares).lower); }

// The products of one pair of vectors, written out as in tile.wgsl.
fn addPairs(sums: ptr<function, Tile>, squares: ptr<function, Squares>, at: u32, row: u32, column: u32) {
  let next = 16u * STEP * PITCH;
  addProducts(sums, squares, at, row, column);
  addProducts(sums, squares, at + next, row, column);
  addProducts(sums, squares, at + 2u * next, row, column);
  addProducts(sums, squares, at + 3u * next, row, column);
  addProducts(sums, squares, at + PITCH, row, column);
  addProducts(sums, squares, at + next + PITCH, row, column);
  addProducts(sums, squares, at + 2u * next + PITCH, row, column);
  addProducts(sums, squares, at + 3u * next + PITCH, row, column);
}

// The lanes of one position, pairwise.
fn lanesOf(at: u32) -> vec4<f32> {
  let n = POSITIONS;
  return ((memory[at] + memory[at + 4u * n]) + (memory[at + 2u * n] + memory[at + 6u * n])) +
    ((memory[at + n] + memory[at + 5u * n]) + (memory[at + 3u * n] + memory[at + 7u * n]));
}

// Where a tile begins.
struct Place { row: u32, column: u32 }

// Adds up the lanes of one row of each position, the `local`-th of its rows, and writes it.
fn finishRow(left: vec4<f32>, right: vec4<f32>, local: u32, place: Place, thread: u32) {
  workgroupBarrier();
  memory[thread] = left;
  if (BROAD) { memory[THREADS + thread] = right; }
  workgroupBarrier();
  let half = thread / POSITIONS;
  if (half >= select(1u, 2u, BROAD && !GATED)) { return; }
  let position = thread % POSITIONS;
  let sums = lanesOf(half * THREADS + position);
  var gates = vec4<f32>();
  if (GATED) { gates = lanesOf(THREADS + position); }
  let group = position / COLUMN_GROUPS + local / 4u * ROW_GROUPS;
  var factor = 1.0;
  if (NORMED) { factor = memory[2u * THREADS + group][local % 4u]; }
  let row = place.row + 4u * group + local % 4u;
  let column = place.column + 4u * (position % COLUMN_GROUPS + half * COLUMN_GROUPS);
  write(row, column, sums.x, gates.x, factor);
  write(row, column + 1u, sums.y, gates.y, factor);
  write(row, column + 2u, sums.z, gates.z, factor);
  write(row, column + 3u, sums.w, gates.w, factor);
}

fn finishRows(sums: Rows, local: u32, place: Place, thread: u32) {
  finishRow(sums.left[0], sums.right[0], local, place, thread);
  finishRow(sums.left[1].wzyx, sums.right[1].wzyx, local + 1u, place, thread);
  finishRow(sums.left[2], sums.right[2], local + 2u, place, thread);
  finishRow(sums.left[3].wzyx, sums.right[3].wzyx, local + 3u, place, thread);
}

@compute @workgroup_size(THREADS)
fn fewRows(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let width = 4u * COLUMN_GROUPS * select(1u, 2u, BROAD && !GATED);
  let across = (parameters.outCount + width - 1u) / width;
  let place = Place(id / across * 4u * rowVectors(), id % across * width);
  let lane = thread / POSITIONS;
  let row = thread % POSITIONS / COLUMN_GROUPS;
  let column = thread % COLUMN_GROUPS;

  // Of each step, threads of 16 load adjacent vectors of 4 rows.
  let quad = thread % 16u;
  let slot = thread / 16u;
  let slots = THREADS / 16u;
  let units = GROUPS * STEP;
  let u0 = slot;
  let u1 = slot + slots;
  let u2 = slot + 2u * slots;
  let u3 = slot + 3u * slots;
  let u4 = slot + 4u * slots;
  let rows0 = rowsOf(u0 % GROUPS, place.row, place.column);
  let rows1 = rowsOf(u1 % GROUPS, place.row, place.column);
  let rows2 = rowsOf(u2 % GROUPS, place.row, place.column);
  let rows3 = rowsOf(u3 % GROUPS, place.row, place.column);
  let rows4 = rowsOf(u4 % GROUPS, place.row, place.column);
  let v0 = u0 / GROUPS * 16u + quad;
  let v1 = u1 / GROUPS * 16u + quad;
  let v2 = u2 / GROUPS * 16u + quad;
  let v3 = u3 / GROUPS * 16u + quad;
  let v4 = u4 / GROUPS * 16u + quad;

  let inVectors = parameters.inVectors;
  let rangeVectors = 2u * parameters.rangePairs;
  let ranges = (inVectors + rangeVectors - 1u) / rangeVectors;
  let stepVectors = 16u * STEP;
  let rangeSteps = (min(rangeVectors, inVectors) + stepVectors - 1u) / stepVectors;
  let steps = ranges * rangeSteps;

  var sums = Tile();
  var squares = Squares();
  var totals = Tile();
  var totalSquares = Squares();
  var l0 = mat4x4<f32>();
  var l1 = mat4x4<f32>();
  var l2 = mat4x4<f32>();
  var l3 = mat4x4<f32>();
  var l4 = mat4x4<f32>();
  for (var step = 0u; step <= steps; step++) {
    let range = step / rangeSteps;
    let first = range * rangeVectors + step % rangeSteps * stepVectors;
    let end = min((range + 1u) * rangeVectors, inVectors);
    // The loads of this step, while the products of the step before are taken.
    if (step < steps) {
      let last = inVectors - 1u;
      if (u0 < units) { l0 = load(u0 % GROUPS, rows0, min(first + v0, last)); }
      if (UNITS > 1u && u1 < units) { l1 = load(u1 % GROUPS, rows1, min(first + v1, last)); }
      if (UNITS > 2u && u2 < units) { l2 = load(u2 % GROUPS, rows2, min(first + v2, last)); }
      if (UNITS > 3u && u3 < units) { l3 = load(u3 % GROUPS, rows3, min(first + v3, last)); }
      if (UNITS > 4u && u4 < units) { l4 = load(u4 % GROUPS, rows4, min(first + v4, last)); }
    }
    if (step > 0u) {
      let buffer = (step - 1u) % BUFFERS;
      for (var i = 0u; i < STEP; i++) {
        let at = (buffer * 64u * STEP + 16u * i + 2u * lane) * PITCH;
        addPairs(&sums, &squares, at, row, column);
      }
      if (RANGES > 1u && step % rangeSteps == 0u) {
        totals.upper.left += sums.upper.left;
        totals.upper.right += sums.upper.right;
        totals.lower.left += sums.lower.left;
        totals.lower.right += sums.lower.right;
        totalSquares.upper += squares.upper;
        totalSquares.lower += squares.lower;
        sums = Tile();
        squares = Squares();
      }
    }
    if (step < steps) {
      let buffer = step % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      if (u0 < units) { store(buffer, u0 % GROUPS, v0, l0, first + v0 < end); }
      if (UNITS > 1u && u1 < units) { store(buffer, u1 % GROUPS, v1, l1, first + v1 < end); }
      if (UNITS > 2u && u2 < units) { store(buffer, u2 % GROUPS, v2, l2, first + v2 < end); }
      if (UNITS > 3u && u3 < units) { store(buffer, u3 % GROUPS, v3, l3, first + v3 < end); }
      if (UNITS > 4u && u4 < units) { store(buffer, u4 % GROUPS, v4, l4, first + v4 < end); }
      workgroupBarrier();
    }
  }
  if (RANGES > 1u) {
    sums = totals;
    squares = totalSquares;
  }

  if (NORMED) {
    workgroupBarrier();
    memory[thread] = squares.upper;
    memory[THREADS + thread] = squares.lower;
    workgroupBarrier();
    if (thread < rowVectors()) {
      let total = lanesOf(thread / ROW_GROUPS * THREADS + thread % ROW_GROUPS * COLUMN_GROUPS);
      memory[2u * THREADS + thread] =
        vec4<f32>(factorOf(total.x), factorOf(total.y), factorOf(total.z), factorOf(total.w));
    }
  }
  finishRows(sums.upper, 0u, place, thread);
  if (TALL) { finishRows(sums.lower, 4u, place, thread); }
}
