// output = x weightᵀ + bias + residual for few rows, as in linear.wgsl: bound by reading the weight.
//
//   teams   TEAM threads per ROWS × COLUMNS results, so that even a row alone has many threads
//   tiles   one workgroup per tile of results, 8 threads per 4 × 4 to 8 × 8 of them, so that operands are read less often
//
// NORMED: of each row the product is divided by sqrt(mean(normed²) + eps), which makes x weightᵀ into norm(x) weightᵀ
// where normed is x. GATED: the result is multiplied by that with another weight and bias.
//
// inDim is a multiple of 8: vectors are read in pairs, which are 16 bytes of bfloat16.
//
// Sums have one order, whichever kernel takes them, how large its tiles are, and whatever stores the weight: the same row
// gives the same bits in any company. inDim is cut into RANGES ranges. In each, lane l of 8 adds up the terms of every
// eighth pair of vectors, one after another. The ranges of a lane are added one after another, then the lanes pairwise.
// In teams each lane of each range is a thread; in tiles a thread is a lane, and walks all ranges.

// import folded.wgsl, outer.wgsl, bfloat16.wgsl

override PACKED: bool; // the weight is bfloat16: Weight is u32, two elements to a word
override RANGES: u32;
override BIAS: bool;
override RESIDUAL: bool;
override NORMED: bool;
override GATED: bool;

const LANES = 8u;

struct Parameters {
  rows: u32,
  inVectors: u32,  // inDim / 4
  outCount: u32,   // rows of the weight in this dispatch, from firstOut: columns of the result
  firstOut: u32,
  stride: u32,     // elements of a row of the output: outDim
  rangePairs: u32, // of a range, whole rounds of the lanes
  workgroups: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(1) var<storage, read> weight: array<vec4<Weight>>; // [outCount, inVectors], of PACKED inVectors / 2
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
  return 1.0 / sqrt(squares / f32(4u * parameters.inVectors) + parameters.eps);
}

// ------------------------------------------------------------------------------------------------------- teams

override TEAM: u32;    // LANES · RANGES
override ROWS: u32;    // of a team: 1, 2 or 4
override COLUMNS: u32; // of a team: 1, 2 or 4

var<workgroup> partial: array<vec4<f32>, 128>;
var<workgroup> partialGate: array<vec4<f32>, 128>;
var<workgroup> partialSquare: array<f32, 128>;

fn pairOf(words: vec4<u32>) -> mat2x4<f32> {
  return mat2x4<f32>(fromBfloat16s(words.xy), fromBfloat16s(words.zw));
}

// Vectors 2 · at and 2 · at + 1 of the weight.
fn weightPair(at: u32) -> mat2x4<f32> {
  if (PACKED) { return pairOf(vec4<u32>(weight[at])); }
  return mat2x4<f32>(vec4<f32>(weight[2u * at]), vec4<f32>(weight[2u * at + 1u]));
}

// Those of gateWeight.
fn gatePair(at: u32) -> mat2x4<f32> {
  if (PACKED) { return pairOf(vec4<u32>(gateWeight[at])); }
  return mat2x4<f32>(vec4<f32>(gateWeight[2u * at]), vec4<f32>(gateWeight[2u * at + 1u]));
}

// Those of x and of normed.
fn xPair(at: u32) -> mat2x4<f32> { return mat2x4<f32>(vec4<f32>(x[2u * at]), vec4<f32>(x[2u * at + 1u])); }

fn normedPair(at: u32) -> mat2x4<f32> {
  return mat2x4<f32>(vec4<f32>(normed[2u * at]), vec4<f32>(normed[2u * at + 1u]));
}

// A pair of each column of a weight.
struct Pairs { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32> }

// The sum and 8 products, one after another.
fn addPair(sum: f32, w: mat2x4<f32>, y: mat2x4<f32>) -> f32 {
  let left = fma(w[0].w, y[0].w, fma(w[0].z, y[0].z, fma(w[0].y, y[0].y, fma(w[0].x, y[0].x, sum))));
  return fma(w[1].w, y[1].w, fma(w[1].z, y[1].z, fma(w[1].y, y[1].y, fma(w[1].x, y[1].x, left))));
}

fn addPairs(sums: vec4<f32>, w: Pairs, y: mat2x4<f32>) -> vec4<f32> {
  var next = sums;
  next.x = addPair(sums.x, w.a, y);
  if (COLUMNS > 1u) { next.y = addPair(sums.y, w.b, y); }
  if (COLUMNS > 2u) {
    next.z = addPair(sums.z, w.c, y);
    next.w = addPair(sums.w, w.d, y);
  }
  return next;
}

// Adds up what the threads of a team found for one row, and writes it.
fn finishTeam(row: u32, column: u32, rowSums: vec4<f32>, rowGates: vec4<f32>, rowSquare: f32, thread: u32) {
  let member = thread % TEAM;
  var sums = rowSums;
  var gates = rowGates;
  var square = rowSquare;
  workgroupBarrier();
  partial[thread] = sums;
  if (GATED) { partialGate[thread] = gates; }
  if (NORMED) { partialSquare[thread] = square; }
  workgroupBarrier();
  if (RANGES > 1u && member < LANES) {
    for (var i = thread + LANES; i < thread - member + TEAM; i += LANES) {
      sums += partial[i];
      if (GATED) { gates += partialGate[i]; }
      if (NORMED) { square += partialSquare[i]; }
    }
    partial[thread] = sums;
    if (GATED) { partialGate[thread] = gates; }
    if (NORMED) { partialSquare[thread] = square; }
  }
  workgroupBarrier();
  if (member >= COLUMNS) { return; }
  let team = thread - member;
  let sum = ((partial[team][member] + partial[team + 4u][member]) +
    (partial[team + 2u][member] + partial[team + 6u][member])) +
    ((partial[team + 1u][member] + partial[team + 5u][member]) +
      (partial[team + 3u][member] + partial[team + 7u][member]));
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
  write(row, column + member, sum, gate, factor);
}

@compute @workgroup_size(128)
fn teams(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let member = thread % TEAM;
  let width = 128u / TEAM * COLUMNS;
  let across = (parameters.outCount + width - 1u) / width;
  let row = id / across * ROWS;
  let column = id % across * width + thread / TEAM * COLUMNS;
  let pairs = parameters.inVectors / 2u;
  let lastRow = parameters.rows - 1u;
  let x0 = min(row, lastRow) * pairs;
  let x1 = min(row + 1u, lastRow) * pairs;
  let x2 = min(row + 2u, lastRow) * pairs;
  let x3 = min(row + 3u, lastRow) * pairs;
  let last = parameters.outCount - 1u;
  let at0 = min(column, last) * pairs;
  let at1 = min(column + 1u, last) * pairs;
  let at2 = min(column + 2u, last) * pairs;
  let at3 = min(column + 3u, last) * pairs;
  let range = member / LANES;
  let end = min((range + 1u) * parameters.rangePairs, pairs);
  var sums = mat4x4<f32>();
  var gates = mat4x4<f32>();
  var squares = vec4<f32>();
  for (var i = range * parameters.rangePairs + member % LANES; i < end; i += LANES) {
    var w = Pairs();
    w.a = weightPair(at0 + i);
    if (COLUMNS > 1u) { w.b = weightPair(at1 + i); }
    if (COLUMNS > 2u) {
      w.c = weightPair(at2 + i);
      w.d = weightPair(at3 + i);
    }
    let y0 = xPair(x0 + i);
    var y1 = mat2x4<f32>();
    var y2 = mat2x4<f32>();
    var y3 = mat2x4<f32>();
    if (ROWS > 1u) { y1 = xPair(x1 + i); }
    if (ROWS > 2u) {
      y2 = xPair(x2 + i);
      y3 = xPair(x3 + i);
    }
    sums[0] = addPairs(sums[0], w, y0);
    if (ROWS > 1u) { sums[1] = addPairs(sums[1], w, y1); }
    if (ROWS > 2u) {
      sums[2] = addPairs(sums[2], w, y2);
      sums[3] = addPairs(sums[3], w, y3);
    }
    if (GATED) {
      w.a = gatePair(at0 + i);
      if (COLUMNS > 1u) { w.b = gatePair(at1 + i); }
      if (COLUMNS > 2u) {
        w.c = gatePair(at2 + i);
        w.d = gatePair(at3 + i);
      }
      gates[0] = addPairs(gates[0], w, y0);
      if (ROWS > 1u) { gates[1] = addPairs(gates[1], w, y1); }
      if (ROWS > 2u) {
        gates[2] = addPairs(gates[2], w, y2);
        gates[3] = addPairs(gates[3], w, y3);
      }
    }
    if (NORMED) {
      let n0 = normedPair(x0 + i);
      squares.x = addPair(squares.x, n0, n0);
      if (ROWS > 1u) {
        let n1 = normedPair(x1 + i);
        squares.y = addPair(squares.y, n1, n1);
      }
      if (ROWS > 2u) {
        let n2 = normedPair(x2 + i);
        let n3 = normedPair(x3 + i);
        squares.z = addPair(squares.z, n2, n2);
        squares.w = addPair(squares.w, n3, n3);
      }
    }
  }
  finishTeam(row, column, sums[0], gates[0], squares.x, thread);
  if (ROWS > 1u) { finishTeam(row + 1u, column, sums[1], gates[1], squares.y, thread); }
  if (ROWS > 2u) {
    finishTeam(row + 2u, column, sums[2], gates[2], squares.z, thread);
    finishTeam(row + 3u, column, sums[3], gates[3], squares.w, thread);
  }
}

// ------------------------------------------------------------------------------------------------------- tiles

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

// Buffer is array<array<array<vec4<f32>, PITCH>, 16 · STEP>, 4>: element e of vector v of 4 rows of each operand. With
// nested arrays an address is found once for several reads, and what keeps an index in bounds is outside of the loop.
var<workgroup> memory: array<Buffer, BUFFERS>;

// The same memory after the last step: partial sums, 2 vectors of each thread, and factors of rows.
fn keep(at: u32, value: vec4<f32>) {
  let vectors = 16u * STEP * PITCH;
  memory[0][at / vectors][at % vectors / PITCH][at % PITCH] = value;
}

fn kept(at: u32) -> vec4<f32> {
  let vectors = 16u * STEP * PITCH;
  return memory[0][at / vectors][at % vectors / PITCH][at % PITCH];
}

struct Squares { upper: vec4<f32>, lower: vec4<f32> }

fn rowVectors() -> u32 { return ROW_GROUPS * select(1u, 2u, TALL); }

// The first group of weights.
fn weightsAt() -> u32 { return rowVectors() * select(1u, 2u, APART); }

// Vector `at` of a weight.
fn weights(at: u32) -> vec4<f32> {
  if (PACKED) {
    let words = vec4<u32>(weight[at / 2u]);
    return fromBfloat16s(select(words.xy, words.zw, at % 2u == 1u));
  }
  return vec4<f32>(weight[at]);
}

fn gateWeights(at: u32) -> vec4<f32> {
  if (PACKED) {
    let words = vec4<u32>(gateWeight[at / 2u]);
    return fromBfloat16s(select(words.xy, words.zw, at % 2u == 1u));
  }
  return vec4<f32>(gateWeight[at]);
}

// Where the 4 rows of a group begin, in vectors. Rows outside repeat the last one: what they give is not written.
fn rowsOf(group: u32, row: u32, column: u32) -> vec4<u32> {
  var first = row + group % rowVectors() * 4u;
  var last = parameters.rows - 1u;
  if (group >= weightsAt()) {
    first = group - weightsAt();
    if (GATED && first >= COLUMN_GROUPS) { first -= COLUMN_GROUPS; }
    first = column + 4u * first;
    last = parameters.outCount - 1u;
  }
  return min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * parameters.inVectors;
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
  if (GATED && group >= weightsAt() + COLUMN_GROUPS) {
    return mat4x4<f32>(gateWeights(at.x), gateWeights(at.y), gateWeights(at.z), gateWeights(at.w));
  }
  return mat4x4<f32>(weights(at.x), weights(at.y), weights(at.z), weights(at.w));
}

// Stores them element by element. Vectors outside the range count as zeros.
fn store(buffer: u32, group: u32, vector: u32, elements: mat4x4<f32>, inside: bool) {
  let columns = transpose(elements);
  memory[buffer][0][vector][group] = select(vec4<f32>(), columns[0], inside);
  memory[buffer][1][vector][group] = select(vec4<f32>(), columns[1], inside);
  memory[buffer][2][vector][group] = select(vec4<f32>(), columns[2], inside);
  memory[buffer][3][vector][group] = select(vec4<f32>(), columns[3], inside);
}

// Where a thread's operands lie in a tile.
struct Position { row: u32, column: u32 }

// The products of one term: element e of a vector.
fn addProducts(
  sums: ptr<function, Tile>,
  squares: ptr<function, Squares>,
  buffer: u32,
  e: u32,
  vector: u32,
  position: Position,
) {
  let row = position.row;
  let column = weightsAt() + position.column;
  let a0 = memory[buffer][e][vector][row];
  let b0 = memory[buffer][e][vector][column];
  var a1 = vec4<f32>();
  var b1 = vec4<f32>();
  if (TALL) { a1 = memory[buffer][e][vector][row + ROW_GROUPS]; }
  if (BROAD) {
    b1 = memory[buffer][e][vector][column + COLUMN_GROUPS];
    (*sums).upper = outerRows((*sums).upper, a0, b0, b1);
    if (TALL) { (*sums).lower = outerRows((*sums).lower, a1, b0, b1); }
  } else {
    (*sums).upper.left = outer((*sums).upper.left, a0, b0);
    if (TALL) { (*sums).lower.left = outer((*sums).lower.left, a1, b0); }
  }
  if (NORMED) {
    var y0 = a0;
    var y1 = a1;
    if (APART) {
      y0 = memory[buffer][e][vector][rowVectors() + row];
      if (TALL) { y1 = memory[buffer][e][vector][rowVectors() + row + ROW_GROUPS]; }
    }
    (*squares).upper = fma(y0, y0, (*squares).upper);
    if (TALL) { (*squares).lower = fma(y1, y1, (*squares).lower); }
  }
}

// The products of a pair of vectors, written out as in tile.wgsl.
fn addTerms(
  sums: ptr<function, Tile>,
  squares: ptr<function, Squares>,
  buffer: u32,
  vector: u32,
  position: Position,
) {
  addProducts(sums, squares, buffer, 0u, vector, position);
  addProducts(sums, squares, buffer, 1u, vector, position);
  addProducts(sums, squares, buffer, 2u, vector, position);
  addProducts(sums, squares, buffer, 3u, vector, position);
  addProducts(sums, squares, buffer, 0u, vector + 1u, position);
  addProducts(sums, squares, buffer, 1u, vector + 1u, position);
  addProducts(sums, squares, buffer, 2u, vector + 1u, position);
  addProducts(sums, squares, buffer, 3u, vector + 1u, position);
}

// The lanes of one position, pairwise.
fn lanesOf(at: u32) -> vec4<f32> {
  let n = POSITIONS;
  return ((kept(at) + kept(at + 4u * n)) + (kept(at + 2u * n) + kept(at + 6u * n))) +
    ((kept(at + n) + kept(at + 5u * n)) + (kept(at + 3u * n) + kept(at + 7u * n)));
}

// Where a tile begins.
struct Place { row: u32, column: u32 }

// Adds up the lanes of one row of each position, the `local`-th of its rows, and writes it.
fn finishRow(left: vec4<f32>, right: vec4<f32>, local: u32, place: Place, thread: u32) {
  workgroupBarrier();
  keep(thread, left);
  if (BROAD) { keep(THREADS + thread, right); }
  workgroupBarrier();
  let half = thread / POSITIONS;
  if (half >= select(1u, 2u, BROAD && !GATED)) { return; }
  let position = thread % POSITIONS;
  let sums = lanesOf(half * THREADS + position);
  var gates = vec4<f32>();
  if (GATED) { gates = lanesOf(THREADS + position); }
  let group = position / COLUMN_GROUPS + local / 4u * ROW_GROUPS;
  var factor = 1.0;
  if (NORMED) { factor = kept(2u * THREADS + group)[local % 4u]; }
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
fn tiles(
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
  let position = Position(thread % POSITIONS / COLUMN_GROUPS, thread % COLUMN_GROUPS);

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
        addTerms(&sums, &squares, buffer, 16u * i + 2u * lane, position);
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
    keep(thread, squares.upper);
    keep(THREADS + thread, squares.lower);
    workgroupBarrier();
    if (thread < rowVectors()) {
      let total = lanesOf(thread / ROW_GROUPS * THREADS + thread % ROW_GROUPS * COLUMN_GROUPS);
      let factors = vec4<f32>(factorOf(total.x), factorOf(total.y), factorOf(total.z), factorOf(total.w));
      keep(2u * THREADS + thread, factors);
    }
  }
  finishRows(sums.upper, 0u, place, thread);
  if (TALL) { finishRows(sums.lower, 4u, place, thread); }
}
