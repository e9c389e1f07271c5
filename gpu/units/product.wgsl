// result = left right + bias + residual on matrix units: operands f16, accumulators f32.
//
// The host has scaled each operand by a power of two and padded it with zeros (halves.wgsl): its terms to whole steps, its
// other dimension to whole tiles, so nothing that is loaded lies outside. An operand lies as [row or column, term], or
// term by term, as [term, row or column]. That makes one kernel of x weightᵀ, dy weight and dyᵀ x.
//
// A workgroup computes a tile of results, each of its subgroups a part of the tile, of 4 × 4 matrices at most. Operands lie in
// workgroup memory in strips of 32 × 32, whichever way they came: 32 lines of 4 vectors, and one more vector that keeps lines
// in different banks. A strip is an array, and what is loaded from it begins at a constant place: so the check that Dawn puts
// before each load of a matrix is decided when the kernel is compiled.
//
// Matrices and vectors have names, and what is done with each is written out (`repeat`, see gpu/build.ts): in arrays they lie in
// memory, and products wait for it. That made five sixths of the time.

// import directives.wgsl, ../folded.wgsl

const EDGE = 32u;   // of a strip
const LINE = 5u;    // vectors of a line, the padding too
const STRIP = 160;  // vectors of a strip

override M: u32; // results of one matrix, M × N, of K terms
override N: u32;
override K: u32;
override DOWN: u32;    // parts of a tile: subgroups
override ACROSS: u32;
override ROWS: u32;    // strips of a part, down
override COLUMNS: u32; // and across
override BUFFERS: u32; // of each strip: with 2, a step stores while the one before is computed
override THREADS: u32;
override LEFT_BY_TERMS: bool;  // left lies as [terms, rows], not [rows, terms]
override RIGHT_BY_TERMS: bool; // right lies as [terms, columns], not [columns, terms]

override LEFT_STRIPS = DOWN * ROWS; // of a step
override RIGHT_STRIPS = ACROSS * COLUMNS;
override LEFT_LOADS = LEFT_STRIPS * 128u / THREADS; // vectors that a thread loads, 8 at most: a whole number
override RIGHT_LOADS = RIGHT_STRIPS * 128u / THREADS;
override LEFTS = ROWS * EDGE / M; // matrices of a part, down
override RIGHTS = COLUMNS * EDGE / N;

// What is added to the product; a parameter, as these kernels take a while to compile.
const BIAS = 1u;
const RESIDUAL = 2u;
const RESULT = 4u; // what the result holds

struct Parameters {
  rows: u32,       // of the result
  columns: u32,    // of the result, in vectors of 4
  down: u32,       // tiles
  across: u32,
  band: u32,       // rows of tiles that are walked column by column
  steps: u32,      // of a range of terms, EDGE each
  allSteps: u32,
  leftStride: u32, // of a line as it lies, in vectors of 8
  rightStride: u32,
  workgroups: u32,
  added: u32,      // BIAS, RESIDUAL, RESULT
  leftScales: u32, // 1: each row of left has a factor, 0: all have the first
  rightScales: u32,
}

@group(0) @binding(0) var<storage, read> left: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> right: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> leftExponents: array<i32>; // of the factors that rows of left were scaled by
@group(0) @binding(3) var<storage, read> rightExponents: array<vec4<i32>>; // and columns of right
@group(0) @binding(4) var<storage, read> bias: array<vec4<Bias>>; // [columns]
@group(0) @binding(5) var<storage, read> residual: array<vec4<Residual>>; // [rows, columns]
@group(0) @binding(6) var<storage, read_write> result: array<vec4<Result>>; // [ranges, rows, columns]
@group(1) @binding(0) var<uniform> parameters: Parameters;

// Those of left, of right, and again for the second buffer; at the end one for each subgroup.
override STRIPS = max(BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS), DOWN * ACROSS);
var<workgroup> strips: array<array<vec4<u32>, STRIP>, STRIPS>;

// Where vector `i` of the strips of an operand lies in its first step, 128 vectors to a strip.
fn place(i: u32, first: u32, stride: u32, byTerms: bool) -> u32 {
  let other = i / 128u * EDGE + first;
  let line = i % 128u / 4u;
  return select((other + line) * stride + i % 4u, line * stride + other / 8u + i % 4u, byTerms);
}

// 2 to exponents between −126 and 127. (exp2 is only nearly right.)
fn powers(exponents: vec4<i32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(exponents + vec4<i32>(127)) << vec4<u32>(23u));
}

// Writes a vector of the result, whose range begins at `first`.
fn write(first: u32, row: u32, column: u32, product: vec4<f32>) {
  let at = row * parameters.columns + column;
  let leftFactor = powers(vec4<i32>(-leftExponents[row * parameters.leftScales]));
  let rightFactor = powers(-rightExponents[column * parameters.rightScales]);
  var y = product * leftFactor * rightFactor; // one after the other: together they may lie outside of f32
  if ((parameters.added & BIAS) != 0u) { y += vec4<f32>(bias[column]); }
  if ((parameters.added & RESIDUAL) != 0u) { y += vec4<f32>(residual[at]); }
  if ((parameters.added & RESULT) != 0u) { y += vec4<f32>(result[first + at]); }
  result[first + at] = vec4<Result>(y);
}

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
  let leftStrip = subgroup / ACROSS * ROWS; // the first of this part
  let rightStrip = LEFT_STRIPS + subgroup % ACROSS * COLUMNS;

  let firstStep = range * parameters.steps;
  let steps = min(parameters.steps, parameters.allSteps - firstStep);
  let leftStep = select(EDGE / 8u, EDGE * parameters.leftStride, LEFT_BY_TERMS);
  let rightStep = select(EDGE / 8u, EDGE * parameters.rightStride, RIGHT_BY_TERMS);

  // The strip and the place in it where this thread stores its first vector; the next is THREADS vectors on.
  let toStrip = thread / 128u;
  let toLine = thread % 128u / 4u * LINE + thread % 4u;
  // repeat n 8
  let leftAt$n = place($nu * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt$n = place($nu * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left$n: vec4<u32>;
  var right$n: vec4<u32>;
  if ($nu < LEFT_LOADS) { left$n = left[leftAt$n]; }
  if ($nu < RIGHT_LOADS) { right$n = right[rightAt$n]; }
  // end
  // repeat i 4
  // repeat j 4
  var sum$i$j: Accumulator;
  // end
  // end

  for (var step = 0u; step < steps; step++) {
    let buffer = step % BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS);
    if (BUFFERS == 1u && step > 0u) { workgroupBarrier(); }
    // repeat n 8
    if ($nu < LEFT_LOADS) { strips[buffer + $nu * THREADS / 128u + toStrip][$nu * THREADS % 128u / 4u * LINE + toLine] = left$n; }
    if ($nu < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + $nu * THREADS / 128u + toStrip][$nu * THREADS % 128u / 4u * LINE + toLine] = right$n; }
    // end
    workgroupBarrier();
    // The loads of the next step, while this one is computed. The last step loads again what it has.
    let next = min(step + 1u, steps - 1u);
    // repeat n 8
    if ($nu < LEFT_LOADS) { left$n = left[leftAt$n + next * leftStep]; }
    if ($nu < RIGHT_LOADS) { right$n = right[rightAt$n + next * rightStep]; }
    // end

    for (var half = 0u; half < EDGE / (2u * K); half++) { // once for matrices of 16 terms
      // repeat k 2
      let term$k = (2u * half + $ku) * K;
      // repeat i 4
      var a$k$i: Left;
      if ($iu < LEFTS) {
        let strip = &strips[buffer + leftStrip + $iu * M / EDGE];
        if (LEFT_BY_TERMS) {
          a$k$i = subgroupMatrixLoad<Left, col_major>(strip, term$k * LINE + $iu * M % EDGE / 8u, LINE);
        } else {
          a$k$i = subgroupMatrixLoad<Left, row_major>(strip, $iu * M % EDGE * LINE + term$k / 8u, LINE);
        }
      }
      // end
      // repeat j 4
      if ($ju < RIGHTS) {
        let strip = &strips[buffer + rightStrip + $ju * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term$k * LINE + $ju * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, $ju * N % EDGE * LINE + term$k / 8u, LINE);
        }
        // repeat i 4
        if ($iu < LEFTS) { sum$i$j = subgroupMatrixMultiplyAccumulate(a$k$i, b, sum$i$j); }
        // end
      }
      // end
      // end
    }
  }

  // Matrices go through workgroup memory, M rows of 32 results of each subgroup at a time, 9 vectors to a row.
  let first = range * parameters.rows * parameters.columns;
  // repeat i 4
  if ($iu < LEFTS) {
    // repeat c 2
    if ($cu < COLUMNS) {
      workgroupBarrier();
      // repeat j 4
      if ($ju < RIGHTS && $ju * N / EDGE == $cu) {
        subgroupMatrixStore<row_major>(&strips[subgroup], $ju * N % EDGE / 4u, sum$i$j, 9u);
      }
      // end
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) { // a whole number
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + $iu * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + $cu) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    // end
  }
  // end
}
