// output = x weightᵀ + bias + residual for few rows, as in linear.wgsl: bound by reading the weight.
//
//   teams   TEAM threads per 4 columns of ROWS rows: each reads its part of the weight as it lies, and of each row
//   tiles   one workgroup per tile of results, 8 threads per 4 × 8 of them: operands go through workgroup memory
//
// NORMED: of each row the product is divided by sqrt(mean(normed²) + eps), which makes x weightᵀ into norm(x) weightᵀ
// where normed is x. GATED: the result is multiplied by that with another weight and bias.
//
// Rows of x are multiples of 8 long: vectors are read in pairs, which are 16 bytes of bfloat16.
//
// Sums have one order, whichever kernel takes them, how large its tiles are, and whatever stores the weight: the same row
// gives the same bits in any company. inDim is cut into RANGES ranges. In each, lane l of 8 adds up the terms of every
// eighth pair of vectors, one after another. The ranges of a lane are added one after another, then the lanes pairwise.
// In teams each lane of each range is a thread; in tiles a thread is a lane, and walks all ranges.

// import folded.wgsl, outer.wgsl, bfloat16.wgsl

override PACKED: bool; // the weight is bfloat16: Weight is u32, two elements to a word
override BITS: u32;    // of an element of a quantised weight, 8 or 4: Weight is u32; else 0
override GROUP: u32;   // elements of such a weight that share a scale: 32 or 64
override RANGES: u32;
override BIAS: bool;
override RESIDUAL: bool;
override NORMED: bool;
override APART: bool;  // normed is not x
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

// ------------------------------------------------------------------------------------------------------- teams

override TEAM: u32;     // LANES · RANGES
override ROWS: u32;     // of a team: 1, 2, 4, 8 or 16
override PARTIALS: u32; // vectors of workgroup memory: for each thread one per row, of 4 rows, and with NORMED one more

const TEAM_THREADS = 128u; // of a workgroup

var<workgroup> partial: array<vec4<f32>, PARTIALS>;

// 4 rows: of each the sums of 4 columns, with GATED of 2 and then of gateWeight; and their squares.
struct RowSums { columns: mat4x4<f32>, squares: vec4<f32> }

struct Sums { a: RowSums, b: RowSums, c: RowSums, d: RowSums }

// Columns of a team.
fn width() -> u32 { return select(4u, 2u, GATED); }

// Vectors 2 · pair and 2 · pair + 1 of the row of a weight that begins at `row`.
fn weightPair(row: u32, pair: u32, other: bool) -> mat2x4<f32> {
  if (PACKED) {
    let four = words(row + pair, other);
    return mat2x4<f32>(fromBfloat16s(four.xy), fromBfloat16s(four.zw));
  }
  return mat2x4<f32>(weights(row, 2u * pair, other), weights(row, 2u * pair + 1u, other));
}

// The sum and 4 products, one after another.
fn addProducts4(sum: f32, w: vec4<f32>, y: vec4<f32>) -> f32 {
  return fma(w.w, y.w, fma(w.z, y.z, fma(w.y, y.y, fma(w.x, y.x, sum))));
}

fn addColumns(sums: vec4<f32>, w: mat4x4<f32>, y: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(
    addProducts4(sums.x, w[0], y),
    addProducts4(sums.y, w[1], y),
    addProducts4(sums.z, w[2], y),
    addProducts4(sums.w, w[3], y),
  );
}

// A vector of a row of x, of the last one for rows outside: what they give is not written.
fn xAt(row: u32, vector: u32) -> vec4<f32> {
  return vec4<f32>(x[min(row, parameters.rows - 1u) * parameters.inVectors + vector]);
}

// That of normed; y is that of x.
fn normedAt(row: u32, vector: u32, y: vec4<f32>) -> vec4<f32> {
  if (!APART) { return y; }
  return vec4<f32>(normed[min(row, parameters.rows - 1u) * parameters.inVectors + vector]);
}

// Adds one vector of 4 rows of x times that of 4 columns.
fn addVector(sums: RowSums, w: mat4x4<f32>, row: u32, vector: u32) -> RowSums {
  var next = sums;
  let y0 = xAt(row, vector);
  next.columns[0] = addColumns(sums.columns[0], w, y0);
  if (NORMED) {
    let n0 = normedAt(row, vector, y0);
    next.squares.x = addProducts4(sums.squares.x, n0, n0);
  }
  if (ROWS > 1u) {
    let y1 = xAt(row + 1u, vector);
    next.columns[1] = addColumns(sums.columns[1], w, y1);
    if (NORMED) {
      let n1 = normedAt(row + 1u, vector, y1);
      next.squares.y = addProducts4(sums.squares.y, n1, n1);
    }
  }
  if (ROWS > 2u) {
    let y2 = xAt(row + 2u, vector);
    let y3 = xAt(row + 3u, vector);
    next.columns[2] = addColumns(sums.columns[2], w, y2);
    next.columns[3] = addColumns(sums.columns[3], w, y3);
    if (NORMED) {
      let n2 = normedAt(row + 2u, vector, y2);
      let n3 = normedAt(row + 3u, vector, y3);
      next.squares.z = addProducts4(sums.squares.z, n2, n2);
      next.squares.w = addProducts4(sums.squares.w, n3, n3);
    }
  }
  return next;
}

fn addVectors(sums: ptr<function, Sums>, w: mat4x4<f32>, row: u32, vector: u32) {
  (*sums).a = addVector((*sums).a, w, row, vector);
  if (ROWS > 4u) { (*sums).b = addVector((*sums).b, w, row + 4u, vector); }
  if (ROWS > 8u) {
    (*sums).c = addVector((*sums).c, w, row + 8u, vector);
    (*sums).d = addVector((*sums).d, w, row + 12u, vector);
  }
}

// Adds a pair of vectors. `starts`: of the rows of the weight.
fn addPair(sums: ptr<function, Sums>, starts: vec4<u32>, row: u32, pair: u32) {
  if (ROWS <= 4u) {
    let a = weightPair(starts.x, pair, false);
    let b = weightPair(starts.y, pair, false);
    let c = weightPair(starts.z, pair, GATED);
    let d = weightPair(starts.w, pair, GATED);
    addVectors(sums, mat4x4<f32>(a[0], b[0], c[0], d[0]), row, 2u * pair);
    addVectors(sums, mat4x4<f32>(a[1], b[1], c[1], d[1]), row, 2u * pair + 1u);
  } else { // vector by vector: with whole pairs in registers there would be too few for the sums
    for (var vector = 2u * pair; vector < 2u * pair + 2u; vector++) {
      let w = mat4x4<f32>(
        weights(starts.x, vector, false),
        weights(starts.y, vector, false),
        weights(starts.z, vector, GATED),
        weights(starts.w, vector, GATED),
      );
      addVectors(sums, w, row, vector);
    }
  }
}

fn lanesOfTeam(at: u32) -> vec4<f32> {
  return ((partial[at] + partial[at + 4u]) + (partial[at + 2u] + partial[at + 6u])) +
    ((partial[at + 1u] + partial[at + 5u]) + (partial[at + 3u] + partial[at + 7u]));
}

// Adds up what the threads of each team found for 4 rows, and writes it. `column`: of the workgroup.
fn finishTeams(sums: RowSums, row: u32, column: u32, thread: u32) {
  let rows = min(ROWS, 4u);
  let teams = TEAM_THREADS / TEAM;
  workgroupBarrier();
  partial[thread] = sums.columns[0];
  if (ROWS > 1u) { partial[TEAM_THREADS + thread] = sums.columns[1]; }
  if (ROWS > 2u) {
    partial[2u * TEAM_THREADS + thread] = sums.columns[2];
    partial[3u * TEAM_THREADS + thread] = sums.columns[3];
  }
  if (NORMED) { partial[rows * TEAM_THREADS + thread] = sums.squares; }
  workgroupBarrier();
  if (RANGES > 1u) {
    let jobs = (rows + select(0u, 1u, NORMED)) * teams * LANES;
    for (var job = thread; job < jobs; job += TEAM_THREADS) {
      let at = job / LANES * TEAM + job % LANES; // teams of all rows lie one behind the other
      var sum = partial[at];
      for (var i = 1u; i < RANGES; i++) { sum += partial[at + i * LANES]; }
      partial[at] = sum;
    }
  }
  workgroupBarrier();
  for (var job = thread; job < rows * teams; job += TEAM_THREADS) {
    let local = job / teams;
    let team = job % teams;
    let found = lanesOfTeam(job * TEAM);
    var factor = 1.0;
    if (NORMED) { factor = factorOf(lanesOfTeam((rows * teams + team) * TEAM)[local]); }
    let first = column + team * width();
    write(row + local, first, found.x, found.z, factor);
    write(row + local, first + 1u, found.y, found.w, factor);
    if (!GATED) {
      write(row + local, first + 2u, found.z, 0.0, factor);
      write(row + local, first + 3u, found.w, 0.0, factor);
    }
  }
}

@compute @workgroup_size(TEAM_THREADS)
fn teams(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let columns = TEAM_THREADS / TEAM * width();
  let across = (parameters.outCount + columns - 1u) / columns;
  let row = id / across * ROWS;
  let firstColumn = id % across * columns;
  let column = firstColumn + thread / TEAM * width();
  let offsets = select(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(0u, 1u, 0u, 1u), GATED);
  let starts = min(column + offsets, vec4<u32>(parameters.outCount - 1u)) * parameters.weightStride;
  let member = thread % TEAM;
  let range = member / LANES;
  let end = min((range + 1u) * parameters.rangePairs, parameters.inVectors / 2u);
  var sums = Sums();
  for (var i = range * parameters.rangePairs + member % LANES; i < end; i += LANES) {
    addPair(&sums, starts, row, i);
  }
  finishTeams(sums.a, row, firstColumn, thread);
  if (ROWS > 4u) { finishTeams(sums.b, row + 4u, firstColumn, thread); }
  if (ROWS > 8u) {
    finishTeams(sums.c, row + 8u, firstColumn, thread);
    finishTeams(sums.d, row + 12u, firstColumn, thread);
  }
}

// ------------------------------------------------------------------------------------------------------- tiles

override ROW_GROUPS: u32;    // positions of threads from top to bottom of a tile
override COLUMN_GROUPS: u32; // and from left to right
override POSITIONS: u32;     // ROW_GROUPS · COLUMN_GROUPS
override THREADS: u32;       // LANES · POSITIONS
override STEP: u32;          // pairs per lane that workgroup memory holds together
override UNITS: u32;         // blocks of 4 × 4 elements that a thread loads per step, 3 at most
override GROUPS: u32;        // of 4 rows that a step loads: of x, if APART of normed, of weights
override PITCH: u32;         // GROUPS, made odd: so threads store to different banks

// A thread has 4 rows and 8 columns, 4 of each half of the tile. With GATED the right half is that of gateWeight.
//
// Vectors is array<array<vec4<f32>, PITCH>, 16 · STEP>: vectors of 4 rows of each operand, here by their elements. With nested
// arrays an address is found once for several reads, and what keeps an index in bounds is outside of the loop.
var<workgroup> memory: array<Vectors, 4>;

// The same memory after the last step: partial sums, 2 vectors of each thread, and factors of rows.
fn keep(at: u32, value: vec4<f32>) {
  let vectors = 16u * STEP * PITCH;
  memory[at / vectors][at % vectors / PITCH][at % PITCH] = value;
}

fn kept(at: u32) -> vec4<f32> {
  let vectors = 16u * STEP * PITCH;
  return memory[at / vectors][at % vectors / PITCH][at % PITCH];
}

// The first group of weights.
fn weightsAt() -> u32 { return ROW_GROUPS * select(1u, 2u, APART); }

// Where the 4 rows of a group begin. Rows outside repeat the last one: what they give is not written.
fn rowsOf(group: u32, row: u32, column: u32) -> vec4<u32> {
  var first = row + group % ROW_GROUPS * 4u;
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
  if (group < ROW_GROUPS) {
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
fn store(group: u32, vector: u32, elements: mat4x4<f32>, inside: bool) {
  let columns = transpose(elements);
  memory[0][vector][group] = select(vec4<f32>(), columns[0], inside);
  memory[1][vector][group] = select(vec4<f32>(), columns[1], inside);
  memory[2][vector][group] = select(vec4<f32>(), columns[2], inside);
  memory[3][vector][group] = select(vec4<f32>(), columns[3], inside);
}

// Where a thread's operands lie in a tile.
struct Position { row: u32, column: u32 }

// The sums of a thread, and the squares of its rows.
struct TileSums { products: Rows, squares: vec4<f32> }

// The products of one term: element e of a vector.
fn addProducts(sums: ptr<function, TileSums>, e: u32, vector: u32, position: Position) {
  let row = position.row;
  let column = weightsAt() + position.column;
  let y = memory[e][vector][row];
  let left = memory[e][vector][column];
  let right = memory[e][vector][column + COLUMN_GROUPS];
  (*sums).products = outerRows((*sums).products, y, left, right);
  if (NORMED) {
    var other = y;
    if (APART) { other = memory[e][vector][ROW_GROUPS + row]; }
    (*sums).squares = fma(other, other, (*sums).squares);
  }
}

// The products of a pair of vectors, written out as in tile.wgsl.
fn addTerms(sums: ptr<function, TileSums>, vector: u32, position: Position) {
  addProducts(sums, 0u, vector, position);
  addProducts(sums, 1u, vector, position);
  addProducts(sums, 2u, vector, position);
  addProducts(sums, 3u, vector, position);
  addProducts(sums, 0u, vector + 1u, position);
  addProducts(sums, 1u, vector + 1u, position);
  addProducts(sums, 2u, vector + 1u, position);
  addProducts(sums, 3u, vector + 1u, position);
}

// The lanes of one position, pairwise.
fn lanesOf(at: u32) -> vec4<f32> {
  let n = POSITIONS;
  return ((kept(at) + kept(at + 4u * n)) + (kept(at + 2u * n) + kept(at + 6u * n))) +
    ((kept(at + n) + kept(at + 5u * n)) + (kept(at + 3u * n) + kept(at + 7u * n)));
}

// Where a tile begins.
struct Place { row: u32, column: u32 }

// Adds up the lanes of one of the 4 rows of each position, and writes it.
fn finishRow(left: vec4<f32>, right: vec4<f32>, local: u32, place: Place, thread: u32) {
  workgroupBarrier();
  keep(thread, left);
  keep(THREADS + thread, right);
  workgroupBarrier();
  let half = thread / POSITIONS;
  if (half >= select(2u, 1u, GATED)) { return; }
  let position = thread % POSITIONS;
  let sums = lanesOf(half * THREADS + position);
  var gates = vec4<f32>();
  if (GATED) { gates = lanesOf(THREADS + position); }
  let group = position / COLUMN_GROUPS;
  var factor = 1.0;
  if (NORMED) { factor = kept(2u * THREADS + group)[local]; }
  let row = place.row + 4u * group + local;
  let column = place.column + 4u * (position % COLUMN_GROUPS + half * COLUMN_GROUPS);
  write(row, column, sums.x, gates.x, factor);
  write(row, column + 1u, sums.y, gates.y, factor);
  write(row, column + 2u, sums.z, gates.z, factor);
  write(row, column + 3u, sums.w, gates.w, factor);
}

@compute @workgroup_size(THREADS)
fn tiles(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let columns = COLUMN_GROUPS * select(8u, 4u, GATED);
  let across = (parameters.outCount + columns - 1u) / columns;
  let place = Place(id / across * 4u * ROW_GROUPS, id % across * columns);
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
  let rows0 = rowsOf(u0 % GROUPS, place.row, place.column);
  let rows1 = rowsOf(u1 % GROUPS, place.row, place.column);
  let rows2 = rowsOf(u2 % GROUPS, place.row, place.column);
  let v0 = u0 / GROUPS * 16u + quad;
  let v1 = u1 / GROUPS * 16u + quad;
  let v2 = u2 / GROUPS * 16u + quad;

  let inVectors = parameters.inVectors;
  let rangeVectors = 2u * parameters.rangePairs;
  let ranges = (inVectors + rangeVectors - 1u) / rangeVectors;
  let stepVectors = 16u * STEP;
  let rangeSteps = (min(rangeVectors, inVectors) + stepVectors - 1u) / stepVectors;
  let steps = ranges * rangeSteps;

  var sums = TileSums();
  var totals = TileSums();
  var l0 = mat4x4<f32>();
  var l1 = mat4x4<f32>();
  var l2 = mat4x4<f32>();
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
    }
    if (step > 0u) {
      for (var i = 0u; i < STEP; i++) { addTerms(&sums, 16u * i + 2u * lane, position); }
      if (step % rangeSteps == 0u) {
        totals.products.left += sums.products.left;
        totals.products.right += sums.products.right;
        totals.squares += sums.squares;
        sums = TileSums();
      }
    }
    if (step < steps) {
      workgroupBarrier();
      if (u0 < units) { store(u0 % GROUPS, v0, l0, first + v0 < end); }
      if (UNITS > 1u && u1 < units) { store(u1 % GROUPS, v1, l1, first + v1 < end); }
      if (UNITS > 2u && u2 < units) { store(u2 % GROUPS, v2, l2, first + v2 < end); }
      workgroupBarrier();
    }
  }
  if (NORMED) {
    workgroupBarrier();
    keep(thread, totals.squares);
    workgroupBarrier();
    if (thread < ROW_GROUPS) {
      let total = lanesOf(thread * COLUMN_GROUPS);
      let factors = vec4<f32>(factorOf(total.x), factorOf(total.y), factorOf(total.z), factorOf(total.w));
      keep(2u * THREADS + thread, factors);
    }
  }
  let found = totals.products;
  finishRow(found.left[0], found.right[0], 0u, place, thread);
  finishRow(found.left[1].wzyx, found.right[1].wzyx, 1u, place, thread);
  finishRow(found.left[2], found.right[2], 2u, place, thread);
  finishRow(found.left[3].wzyx, found.right[3].wzyx, 3u, place, thread);
}
