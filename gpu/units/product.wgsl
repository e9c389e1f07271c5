// result = left right + bias + residual on matrix units: operands f16, accumulators f32.
//
// The host has scaled each operand by a power of two and padded it with zeros (halves.wgsl): its terms to whole steps, its
// other dimension to whole tiles, so nothing that is loaded lies outside. An operand lies as [row or column, term], or
// term by term, as [term, row or column]. That makes one kernel of x weightᵀ, dy weight and dyᵀ x.
//
// A workgroup computes a tile of results, each of its subgroups a part of the tile. Operands lie in workgroup memory in
// strips of 32 × 32, whichever way they came: 32 lines of 4 vectors, and one more vector that keeps lines in different
// banks. A strip is an array, and what is loaded from it begins at a constant place: so the check that Dawn puts before
// each load of a matrix is decided when the kernel is compiled. Bounds of loops are constants for the same reason: else
// Dawn adds a counter that ends them, and they are not unrolled.

// import directives.wgsl, ../folded.wgsl

const EDGE = 32u;   // of a strip
const LINE = 5u;    // vectors of a line, the padding too
const STRIP = 160;  // vectors of a strip

override M: u32;  // results of one matrix, M × N, of K terms
override N: u32;
override K: u32;
override DOWN: u32;    // parts of a tile: subgroups
override ACROSS: u32;
override ROWS: u32;    // strips of a part, down
override COLUMNS: u32; // and across
override DEPTH: u32;   // strips of one step, along the terms
override BUFFERS: u32; // of each strip: with 2, a step loads while the one before is computed
override THREADS: u32;
override LEFT_BY_TERMS: bool;  // left lies as [terms, rows], not [rows, terms]
override RIGHT_BY_TERMS: bool; // right lies as [terms, columns], not [columns, terms]

// What is added to the product; a parameter, as these kernels take a second to compile.
const BIAS = 1u;
const RESIDUAL = 2u;
const RESULT = 4u; // what the result holds

struct Parameters {
  rows: u32,       // of the result
  columns: u32,    // in vectors
  stride: u32,     // of a row of the result, in vectors
  firstColumn: u32, // in vectors
  down: u32,       // tiles
  across: u32,
  band: u32,       // rows of tiles that are walked column by column
  steps: u32,      // of a range of terms, EDGE · DEPTH each
  allSteps: u32,
  leftStride: u32, // of a line as it lies, in vectors of 8
  rightStride: u32,
  workgroups: u32,
  added: u32, // BIAS, RESIDUAL, RESULT
}

@group(0) @binding(0) var<storage, read> left: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> right: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> leftExponent: array<i32>; // [1]: of the factor that left was scaled by
@group(0) @binding(3) var<storage, read> rightExponent: array<i32>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<Bias>>; // [stride]
@group(0) @binding(5) var<storage, read> residual: array<vec4<Residual>>; // [rows, stride]
@group(0) @binding(6) var<storage, read_write> result: array<vec4<Result>>; // [ranges, rows, stride]
@group(1) @binding(0) var<uniform> parameters: Parameters;

override LEFT_STRIPS = DEPTH * DOWN * ROWS; // of a step
override RIGHT_STRIPS = DEPTH * ACROSS * COLUMNS;
override LEFT_LOADS = LEFT_STRIPS * 128u / THREADS; // vectors that a thread loads: a whole number
override RIGHT_LOADS = RIGHT_STRIPS * 128u / THREADS;

// Those of left, of right, and again for the second buffer; at the end one for each subgroup.
override STRIPS = max(BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS), DOWN * ACROSS);
var<workgroup> strips: array<array<vec4<u32>, STRIP>, STRIPS>;

// Where vector `i` of the strips of an operand lies, in the first step: 128 vectors to a strip, strips first along the
// terms.
fn place(i: u32, first: u32, stride: u32, byTerms: bool) -> u32 {
  let strip = i / 128u;
  let line = i % 128u / 4u;
  let other = strip / DEPTH * EDGE + first;
  let term = strip % DEPTH * EDGE;
  if (byTerms) { return (term + line) * stride + other / 8u + i % 4u; }
  return (other + line) * stride + term / 8u + i % 4u;
}

fn store(i: u32, firstStrip: u32, value: vec4<u32>) {
  strips[firstStrip + i / 128u][i % 128u / 4u * LINE + i % 4u] = value;
}

// 2 to an exponent between −126 and 127. (exp2 is only nearly right.)
fn power(exponent: i32) -> f32 { return bitcast<f32>(u32(exponent + 127) << 23u); }

@compute @workgroup_size(THREADS)
fn multiply(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let tiles = parameters.down * parameters.across;
  let range = id / tiles;
  let tile = id % tiles;
  // Bands keep what workgroups at work together read within the second level of cache.
  let bandTop = tile / (parameters.band * parameters.across) * parameters.band;
  let bandRows = min(parameters.band, parameters.down - bandTop);
  let inBand = tile - bandTop * parameters.across;
  let firstRow = (bandTop + inBand % bandRows) * DOWN * ROWS * EDGE;
  let firstColumn = inBand / bandRows * ACROSS * COLUMNS * EDGE;
  let partDown = subgroup / ACROSS;
  let partAcross = subgroup % ACROSS;

  let firstStep = range * parameters.steps;
  let steps = min(parameters.steps, parameters.allSteps - firstStep);
  let leftStep = select(EDGE / 8u, EDGE * parameters.leftStride, LEFT_BY_TERMS) * DEPTH;
  let rightStep = select(EDGE / 8u, EDGE * parameters.rightStride, RIGHT_BY_TERMS) * DEPTH;

  var accumulators: Accumulators;
  var leftVectors: LeftVectors;
  var rightVectors: RightVectors;
  for (var j = 0u; j < LEFT_LOADS; j++) {
    let at = place(j * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS);
    leftVectors[j] = left[at + firstStep * leftStep];
  }
  for (var j = 0u; j < RIGHT_LOADS; j++) {
    let at = place(j * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS);
    rightVectors[j] = right[at + firstStep * rightStep];
  }

  for (var step = 0u; step < steps; step++) {
    let buffer = step % BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS);
    if (BUFFERS == 1u && step > 0u) { workgroupBarrier(); }
    for (var j = 0u; j < LEFT_LOADS; j++) { store(j * THREADS + thread, buffer, leftVectors[j]); }
    for (var j = 0u; j < RIGHT_LOADS; j++) { store(j * THREADS + thread, buffer + LEFT_STRIPS, rightVectors[j]); }
    workgroupBarrier();
    // The loads of the next step, while this one is computed. The last step loads again what it has.
    let next = firstStep + min(step + 1u, steps - 1u);
    for (var j = 0u; j < LEFT_LOADS; j++) {
      let at = place(j * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS);
      leftVectors[j] = left[at + next * leftStep];
    }
    for (var j = 0u; j < RIGHT_LOADS; j++) {
      let at = place(j * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS);
      rightVectors[j] = right[at + next * rightStep];
    }

    for (var k = 0u; k < EDGE * DEPTH / K; k++) {
      let depth = k * K / EDGE;
      let within = k * K % EDGE;
      var a: Lefts;
      for (var i = 0u; i < ROWS * EDGE / M; i++) {
        let strip = &strips[buffer + (partDown * ROWS + i * M / EDGE) * DEPTH + depth];
        let other = i * M % EDGE;
        if (LEFT_BY_TERMS) {
          a[i] = subgroupMatrixLoad<Left, col_major>(strip, within * LINE + other / 8u, LINE);
        } else {
          a[i] = subgroupMatrixLoad<Left, row_major>(strip, other * LINE + within / 8u, LINE);
        }
      }
      for (var j = 0u; j < COLUMNS * EDGE / N; j++) {
        let at = LEFT_STRIPS + (partAcross * COLUMNS + j * N / EDGE) * DEPTH + depth;
        let strip = &strips[buffer + at];
        let other = j * N % EDGE;
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, within * LINE + other / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, other * LINE + within / 8u, LINE);
        }
        for (var i = 0u; i < ROWS * EDGE / M; i++) {
          let at = j * (ROWS * EDGE / M) + i;
          accumulators[at] = subgroupMatrixMultiplyAccumulate(a[i], b, accumulators[at]);
        }
      }
    }
  }

  // Matrices go through workgroup memory, M rows of 32 results of each subgroup at a time, 9 vectors to a row.
  let leftFactor = power(-leftExponent[0]); // one after the other: together they may lie outside of f32
  let rightFactor = power(-rightExponent[0]);
  let first = range * parameters.rows * parameters.stride;
  for (var i = 0u; i < ROWS * EDGE / M; i++) {
    for (var column = 0u; column < COLUMNS; column++) {
      workgroupBarrier();
      for (var j = 0u; j < EDGE / N; j++) {
        let at = (column * (EDGE / N) + j) * (ROWS * EDGE / M) + i;
        subgroupMatrixStore<row_major>(&strips[subgroup], j * N / 4u, accumulators[at], 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) { // a whole number
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + i * M + line;
        let across = (firstColumn + (part % ACROSS * COLUMNS + column) * EDGE) / 4u + vector;
        if (row >= parameters.rows || across >= parameters.columns) { continue; }
        let global = parameters.firstColumn + across;
        let to = row * parameters.stride + global;
        var y = bitcast<vec4<f32>>(strips[part][line * 9u + vector]) * leftFactor * rightFactor;
        if ((parameters.added & BIAS) != 0u) { y += vec4<f32>(bias[global]); }
        if ((parameters.added & RESIDUAL) != 0u) { y += vec4<f32>(residual[to]); }
        if ((parameters.added & RESULT) != 0u) { y += vec4<f32>(result[first + to]); }
        result[first + to] = vec4<Result>(y);
      }
    }
  }
}
