// Read from gpu/units/*.wgsl by `deno task build`: do not edit.
// deno-fmt-ignore-file
// deno-lint-ignore-file

// gpu/units/directives.wgsl
const directivesSource = `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
`;

// gpu/folded.wgsl
const foldedSource = `fn folded(workgroup: vec3u, workgroups: vec3u) -> u32 {
  return workgroup.x + workgroup.y * workgroups.x;
}
`;

// gpu/bfloat16.wgsl
const bfloat16Source = `fn fromBfloat16s(words: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}
fn fromBfloat16(word: u32, second: bool) -> f32 {
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, second));
}
`;

// gpu/units/halves.wgsl
const halvesSource = `override PACKED: bool;
const PARTS = 256u;
const VECTORS = 8u;
struct Parameters {
  rows: u32,
  vectors: u32,
  size: u32,
  padded: u32,
  parts: u32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4<X>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
var<workgroup> partial: array<u32, PARTS>;
fn vectorOf(at: u32) -> mat2x4<f32> {
  if (PACKED) {
    let words = vec4<u32>(x[at]);
    return mat2x4<f32>(fromBfloat16s(words.xy), fromBfloat16s(words.zw));
  }
  return mat2x4<f32>(vec4<f32>(x[2u * at]), vec4<f32>(x[2u * at + 1u]));
}
const INFINITE = 0x7f800000u;
fn gather(thread: u32, value: u32) {
  partial[thread] = value;
  for (var half = PARTS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partial[thread] = max(partial[thread], partial[thread + half]); }
  }
  workgroupBarrier();
}
fn finite(elements: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(elements) & vec4<u32>(0x7fffffffu);
  return select(vec4<u32>(), bits, bits < vec4<u32>(INFINITE));
}
@group(0) @binding(1) var<storage, read_write> found: array<u32>;
@compute @workgroup_size(256)
fn largest(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  var most = vec4<u32>();
  let stride = parameters.parts * PARTS;
  for (var i = workgroup.x * PARTS + thread; i < parameters.size; i += 4u * stride) {
    for (var n = 0u; n < 4u; n++) {
      let elements = vectorOf(min(i + n * stride, parameters.size - 1u));
      most = max(most, max(finite(elements[0]), finite(elements[1])));
    }
  }
  gather(thread, max(max(most.x, most.y), max(most.z, most.w)));
  if (thread == 0u) { found[workgroup.x] = partial[0]; }
}
@group(0) @binding(1) var<storage, read> known: array<u32>;
@group(0) @binding(2) var<storage, read_write> halves: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> exponents: array<i32>;
fn pair(elements: vec2<f32>, scale: f32) -> u32 {
  let packed = pack2x16float(elements * scale);
  let bits = bitcast<vec2<u32>>(elements);
  let size = bits & vec2<u32>(0x7fffffffu);
  let special = ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u)) |
    select(vec2<u32>(0x7c00u), vec2<u32>(0x7e00u), size > vec2<u32>(INFINITE));
  let words = select(vec2<u32>(packed & 0xffffu, packed >> 16u), special, size >= vec2<u32>(INFINITE));
  return words.x | (words.y << 16u);
}
fn rounded(at: u32, exponent: i32) -> vec4<u32> {
  let scale = bitcast<f32>(u32(exponent + 127) << 23u);
  let elements = vectorOf(at);
  return vec4<u32>(
    pair(elements[0].xy, scale),
    pair(elements[0].zw, scale),
    pair(elements[1].xy, scale),
    pair(elements[1].zw, scale),
  );
}
fn exponentFor(largest: u32) -> i32 { return clamp(14 - (i32(largest >> 23u) - 127), -110, 110); }
@compute @workgroup_size(256)
fn round(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  gather(thread, select(0u, known[thread], thread < parameters.parts));
  let exponent = exponentFor(partial[0]);
  if (id == 0u && thread < 4u) { exponents[thread] = exponent; }
  for (var n = 0u; n < VECTORS; n++) {
    let i = (id * VECTORS + n) * PARTS + thread;
    if (i >= parameters.size) { return; }
    let row = i / parameters.padded;
    let at = i % parameters.padded;
    var words = vec4<u32>();
    if (row < parameters.rows && at < parameters.vectors) {
      words = rounded(row * parameters.vectors + at, exponent);
    }
    halves[i] = words;
  }
}
@compute @workgroup_size(256)
fn roundRows(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.workgroups) { return; }
  let first = row * parameters.vectors;
  let count = select(0u, parameters.vectors, row < parameters.rows);
  var most = vec4<u32>();
  for (var i = thread; i < count; i += PARTS) {
    let elements = vectorOf(first + i);
    most = max(most, max(finite(elements[0]), finite(elements[1])));
  }
  gather(thread, max(max(most.x, most.y), max(most.z, most.w)));
  let exponent = exponentFor(partial[0]);
  if (thread == 0u) { exponents[row] = exponent; }
  for (var i = thread; i < parameters.padded; i += PARTS) {
    var words = vec4<u32>();
    if (i < count) { words = rounded(first + i, exponent); }
    halves[row * parameters.padded + i] = words;
  }
}
`;

// gpu/units/product.wgsl
const productSource = `const EDGE = 32u;
const LINE = 5u;
const STRIP = 160;
override M: u32;
override N: u32;
override K: u32;
override DOWN: u32;
override ACROSS: u32;
override ROWS: u32;
override COLUMNS: u32;
override BUFFERS: u32;
override THREADS: u32;
override LEFT_BY_TERMS: bool;
override RIGHT_BY_TERMS: bool;
override LEFT_STRIPS = DOWN * ROWS;
override RIGHT_STRIPS = ACROSS * COLUMNS;
override LEFT_LOADS = LEFT_STRIPS * 128u / THREADS;
override RIGHT_LOADS = RIGHT_STRIPS * 128u / THREADS;
override LEFTS = ROWS * EDGE / M;
override RIGHTS = COLUMNS * EDGE / N;
const BIAS = 1u;
const RESIDUAL = 2u;
const RESULT = 4u;
struct Parameters {
  rows: u32,
  columns: u32,
  down: u32,
  across: u32,
  band: u32,
  steps: u32,
  allSteps: u32,
  leftStride: u32,
  rightStride: u32,
  workgroups: u32,
  added: u32,
  leftScales: u32,
  rightScales: u32,
}
@group(0) @binding(0) var<storage, read> left: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> right: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> leftExponents: array<i32>;
@group(0) @binding(3) var<storage, read> rightExponents: array<vec4<i32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<Bias>>;
@group(0) @binding(5) var<storage, read> residual: array<vec4<Residual>>;
@group(0) @binding(6) var<storage, read_write> result: array<vec4<Result>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
override STRIPS = max(BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS), DOWN * ACROSS);
var<workgroup> strips: array<array<vec4<u32>, STRIP>, STRIPS>;
fn place(i: u32, first: u32, stride: u32, byTerms: bool) -> u32 {
  let other = i / 128u * EDGE + first;
  let line = i % 128u / 4u;
  return select((other + line) * stride + i % 4u, line * stride + other / 8u + i % 4u, byTerms);
}
fn powers(exponents: vec4<i32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(exponents + vec4<i32>(127)) << vec4<u32>(23u));
}
fn write(first: u32, row: u32, column: u32, product: vec4<f32>) {
  let at = row * parameters.columns + column;
  let leftFactor = powers(vec4<i32>(-leftExponents[row * parameters.leftScales]));
  let rightFactor = powers(-rightExponents[column * parameters.rightScales]);
  var y = product * leftFactor * rightFactor;
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
  let bandTop = tile / (parameters.band * parameters.across) * parameters.band;
  let bandRows = min(parameters.band, parameters.down - bandTop);
  let inBand = tile - bandTop * parameters.across;
  let firstRow = (bandTop + inBand % bandRows) * DOWN * ROWS * EDGE;
  let firstColumn = inBand / bandRows * ACROSS * COLUMNS * EDGE;
  let leftStrip = subgroup / ACROSS * ROWS;
  let rightStrip = LEFT_STRIPS + subgroup % ACROSS * COLUMNS;
  let firstStep = range * parameters.steps;
  let steps = min(parameters.steps, parameters.allSteps - firstStep);
  let leftStep = select(EDGE / 8u, EDGE * parameters.leftStride, LEFT_BY_TERMS);
  let rightStep = select(EDGE / 8u, EDGE * parameters.rightStride, RIGHT_BY_TERMS);
  let toStrip = thread / 128u;
  let toLine = thread % 128u / 4u * LINE + thread % 4u;
  let leftAt0 = place(0u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt0 = place(0u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left0: vec4<u32>;
  var right0: vec4<u32>;
  if (0u < LEFT_LOADS) { left0 = left[leftAt0]; }
  if (0u < RIGHT_LOADS) { right0 = right[rightAt0]; }
  let leftAt1 = place(1u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt1 = place(1u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left1: vec4<u32>;
  var right1: vec4<u32>;
  if (1u < LEFT_LOADS) { left1 = left[leftAt1]; }
  if (1u < RIGHT_LOADS) { right1 = right[rightAt1]; }
  let leftAt2 = place(2u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt2 = place(2u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left2: vec4<u32>;
  var right2: vec4<u32>;
  if (2u < LEFT_LOADS) { left2 = left[leftAt2]; }
  if (2u < RIGHT_LOADS) { right2 = right[rightAt2]; }
  let leftAt3 = place(3u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt3 = place(3u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left3: vec4<u32>;
  var right3: vec4<u32>;
  if (3u < LEFT_LOADS) { left3 = left[leftAt3]; }
  if (3u < RIGHT_LOADS) { right3 = right[rightAt3]; }
  let leftAt4 = place(4u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt4 = place(4u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left4: vec4<u32>;
  var right4: vec4<u32>;
  if (4u < LEFT_LOADS) { left4 = left[leftAt4]; }
  if (4u < RIGHT_LOADS) { right4 = right[rightAt4]; }
  let leftAt5 = place(5u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt5 = place(5u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left5: vec4<u32>;
  var right5: vec4<u32>;
  if (5u < LEFT_LOADS) { left5 = left[leftAt5]; }
  if (5u < RIGHT_LOADS) { right5 = right[rightAt5]; }
  let leftAt6 = place(6u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt6 = place(6u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left6: vec4<u32>;
  var right6: vec4<u32>;
  if (6u < LEFT_LOADS) { left6 = left[leftAt6]; }
  if (6u < RIGHT_LOADS) { right6 = right[rightAt6]; }
  let leftAt7 = place(7u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt7 = place(7u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left7: vec4<u32>;
  var right7: vec4<u32>;
  if (7u < LEFT_LOADS) { left7 = left[leftAt7]; }
  if (7u < RIGHT_LOADS) { right7 = right[rightAt7]; }
  var sum00: Accumulator;
  var sum01: Accumulator;
  var sum02: Accumulator;
  var sum03: Accumulator;
  var sum10: Accumulator;
  var sum11: Accumulator;
  var sum12: Accumulator;
  var sum13: Accumulator;
  var sum20: Accumulator;
  var sum21: Accumulator;
  var sum22: Accumulator;
  var sum23: Accumulator;
  var sum30: Accumulator;
  var sum31: Accumulator;
  var sum32: Accumulator;
  var sum33: Accumulator;
  for (var step = 0u; step < steps; step++) {
    let buffer = step % BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS);
    if (BUFFERS == 1u && step > 0u) { workgroupBarrier(); }
    if (0u < LEFT_LOADS) { strips[buffer + 0u * THREADS / 128u + toStrip][0u * THREADS % 128u / 4u * LINE + toLine] = left0; }
    if (0u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 0u * THREADS / 128u + toStrip][0u * THREADS % 128u / 4u * LINE + toLine] = right0; }
    if (1u < LEFT_LOADS) { strips[buffer + 1u * THREADS / 128u + toStrip][1u * THREADS % 128u / 4u * LINE + toLine] = left1; }
    if (1u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 1u * THREADS / 128u + toStrip][1u * THREADS % 128u / 4u * LINE + toLine] = right1; }
    if (2u < LEFT_LOADS) { strips[buffer + 2u * THREADS / 128u + toStrip][2u * THREADS % 128u / 4u * LINE + toLine] = left2; }
    if (2u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 2u * THREADS / 128u + toStrip][2u * THREADS % 128u / 4u * LINE + toLine] = right2; }
    if (3u < LEFT_LOADS) { strips[buffer + 3u * THREADS / 128u + toStrip][3u * THREADS % 128u / 4u * LINE + toLine] = left3; }
    if (3u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 3u * THREADS / 128u + toStrip][3u * THREADS % 128u / 4u * LINE + toLine] = right3; }
    if (4u < LEFT_LOADS) { strips[buffer + 4u * THREADS / 128u + toStrip][4u * THREADS % 128u / 4u * LINE + toLine] = left4; }
    if (4u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 4u * THREADS / 128u + toStrip][4u * THREADS % 128u / 4u * LINE + toLine] = right4; }
    if (5u < LEFT_LOADS) { strips[buffer + 5u * THREADS / 128u + toStrip][5u * THREADS % 128u / 4u * LINE + toLine] = left5; }
    if (5u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 5u * THREADS / 128u + toStrip][5u * THREADS % 128u / 4u * LINE + toLine] = right5; }
    if (6u < LEFT_LOADS) { strips[buffer + 6u * THREADS / 128u + toStrip][6u * THREADS % 128u / 4u * LINE + toLine] = left6; }
    if (6u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 6u * THREADS / 128u + toStrip][6u * THREADS % 128u / 4u * LINE + toLine] = right6; }
    if (7u < LEFT_LOADS) { strips[buffer + 7u * THREADS / 128u + toStrip][7u * THREADS % 128u / 4u * LINE + toLine] = left7; }
    if (7u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 7u * THREADS / 128u + toStrip][7u * THREADS % 128u / 4u * LINE + toLine] = right7; }
    workgroupBarrier();
    let next = min(step + 1u, steps - 1u);
    if (0u < LEFT_LOADS) { left0 = left[leftAt0 + next * leftStep]; }
    if (0u < RIGHT_LOADS) { right0 = right[rightAt0 + next * rightStep]; }
    if (1u < LEFT_LOADS) { left1 = left[leftAt1 + next * leftStep]; }
    if (1u < RIGHT_LOADS) { right1 = right[rightAt1 + next * rightStep]; }
    if (2u < LEFT_LOADS) { left2 = left[leftAt2 + next * leftStep]; }
    if (2u < RIGHT_LOADS) { right2 = right[rightAt2 + next * rightStep]; }
    if (3u < LEFT_LOADS) { left3 = left[leftAt3 + next * leftStep]; }
    if (3u < RIGHT_LOADS) { right3 = right[rightAt3 + next * rightStep]; }
    if (4u < LEFT_LOADS) { left4 = left[leftAt4 + next * leftStep]; }
    if (4u < RIGHT_LOADS) { right4 = right[rightAt4 + next * rightStep]; }
    if (5u < LEFT_LOADS) { left5 = left[leftAt5 + next * leftStep]; }
    if (5u < RIGHT_LOADS) { right5 = right[rightAt5 + next * rightStep]; }
    if (6u < LEFT_LOADS) { left6 = left[leftAt6 + next * leftStep]; }
    if (6u < RIGHT_LOADS) { right6 = right[rightAt6 + next * rightStep]; }
    if (7u < LEFT_LOADS) { left7 = left[leftAt7 + next * leftStep]; }
    if (7u < RIGHT_LOADS) { right7 = right[rightAt7 + next * rightStep]; }
    for (var half = 0u; half < EDGE / (2u * K); half++) {
      let term0 = (2u * half + 0u) * K;
      var a00: Left;
      if (0u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 0u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a00 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 0u * M % EDGE / 8u, LINE);
        } else {
          a00 = subgroupMatrixLoad<Left, row_major>(strip, 0u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      var a01: Left;
      if (1u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 1u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a01 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 1u * M % EDGE / 8u, LINE);
        } else {
          a01 = subgroupMatrixLoad<Left, row_major>(strip, 1u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      var a02: Left;
      if (2u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 2u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a02 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 2u * M % EDGE / 8u, LINE);
        } else {
          a02 = subgroupMatrixLoad<Left, row_major>(strip, 2u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      var a03: Left;
      if (3u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 3u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a03 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 3u * M % EDGE / 8u, LINE);
        } else {
          a03 = subgroupMatrixLoad<Left, row_major>(strip, 3u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      if (0u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 0u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 0u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 0u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum00 = subgroupMatrixMultiplyAccumulate(a00, b, sum00); }
        if (1u < LEFTS) { sum10 = subgroupMatrixMultiplyAccumulate(a01, b, sum10); }
        if (2u < LEFTS) { sum20 = subgroupMatrixMultiplyAccumulate(a02, b, sum20); }
        if (3u < LEFTS) { sum30 = subgroupMatrixMultiplyAccumulate(a03, b, sum30); }
      }
      if (1u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 1u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 1u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 1u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum01 = subgroupMatrixMultiplyAccumulate(a00, b, sum01); }
        if (1u < LEFTS) { sum11 = subgroupMatrixMultiplyAccumulate(a01, b, sum11); }
        if (2u < LEFTS) { sum21 = subgroupMatrixMultiplyAccumulate(a02, b, sum21); }
        if (3u < LEFTS) { sum31 = subgroupMatrixMultiplyAccumulate(a03, b, sum31); }
      }
      if (2u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 2u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 2u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 2u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum02 = subgroupMatrixMultiplyAccumulate(a00, b, sum02); }
        if (1u < LEFTS) { sum12 = subgroupMatrixMultiplyAccumulate(a01, b, sum12); }
        if (2u < LEFTS) { sum22 = subgroupMatrixMultiplyAccumulate(a02, b, sum22); }
        if (3u < LEFTS) { sum32 = subgroupMatrixMultiplyAccumulate(a03, b, sum32); }
      }
      if (3u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 3u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 3u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 3u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum03 = subgroupMatrixMultiplyAccumulate(a00, b, sum03); }
        if (1u < LEFTS) { sum13 = subgroupMatrixMultiplyAccumulate(a01, b, sum13); }
        if (2u < LEFTS) { sum23 = subgroupMatrixMultiplyAccumulate(a02, b, sum23); }
        if (3u < LEFTS) { sum33 = subgroupMatrixMultiplyAccumulate(a03, b, sum33); }
      }
      let term1 = (2u * half + 1u) * K;
      var a10: Left;
      if (0u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 0u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a10 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 0u * M % EDGE / 8u, LINE);
        } else {
          a10 = subgroupMatrixLoad<Left, row_major>(strip, 0u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      var a11: Left;
      if (1u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 1u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a11 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 1u * M % EDGE / 8u, LINE);
        } else {
          a11 = subgroupMatrixLoad<Left, row_major>(strip, 1u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      var a12: Left;
      if (2u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 2u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a12 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 2u * M % EDGE / 8u, LINE);
        } else {
          a12 = subgroupMatrixLoad<Left, row_major>(strip, 2u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      var a13: Left;
      if (3u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 3u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a13 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 3u * M % EDGE / 8u, LINE);
        } else {
          a13 = subgroupMatrixLoad<Left, row_major>(strip, 3u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      if (0u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 0u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 0u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 0u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum00 = subgroupMatrixMultiplyAccumulate(a10, b, sum00); }
        if (1u < LEFTS) { sum10 = subgroupMatrixMultiplyAccumulate(a11, b, sum10); }
        if (2u < LEFTS) { sum20 = subgroupMatrixMultiplyAccumulate(a12, b, sum20); }
        if (3u < LEFTS) { sum30 = subgroupMatrixMultiplyAccumulate(a13, b, sum30); }
      }
      if (1u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 1u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 1u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 1u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum01 = subgroupMatrixMultiplyAccumulate(a10, b, sum01); }
        if (1u < LEFTS) { sum11 = subgroupMatrixMultiplyAccumulate(a11, b, sum11); }
        if (2u < LEFTS) { sum21 = subgroupMatrixMultiplyAccumulate(a12, b, sum21); }
        if (3u < LEFTS) { sum31 = subgroupMatrixMultiplyAccumulate(a13, b, sum31); }
      }
      if (2u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 2u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 2u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 2u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum02 = subgroupMatrixMultiplyAccumulate(a10, b, sum02); }
        if (1u < LEFTS) { sum12 = subgroupMatrixMultiplyAccumulate(a11, b, sum12); }
        if (2u < LEFTS) { sum22 = subgroupMatrixMultiplyAccumulate(a12, b, sum22); }
        if (3u < LEFTS) { sum32 = subgroupMatrixMultiplyAccumulate(a13, b, sum32); }
      }
      if (3u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 3u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 3u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 3u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum03 = subgroupMatrixMultiplyAccumulate(a10, b, sum03); }
        if (1u < LEFTS) { sum13 = subgroupMatrixMultiplyAccumulate(a11, b, sum13); }
        if (2u < LEFTS) { sum23 = subgroupMatrixMultiplyAccumulate(a12, b, sum23); }
        if (3u < LEFTS) { sum33 = subgroupMatrixMultiplyAccumulate(a13, b, sum33); }
      }
    }
  }
  let first = range * parameters.rows * parameters.columns;
  if (0u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum00, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum01, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum02, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum03, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 0u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum00, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum01, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum02, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum03, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 0u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
  if (1u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum10, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum11, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum12, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum13, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 1u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum10, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum11, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum12, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum13, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 1u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
  if (2u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum20, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum21, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum22, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum23, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 2u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum20, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum21, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum22, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum23, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 2u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
  if (3u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum30, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum31, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum32, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum33, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 3u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum30, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum31, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum32, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum33, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 3u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
}
`;

const halvesModule = /* @__PURE__ */ (() => ({
  code: directivesSource + foldedSource + bfloat16Source + halvesSource,
  overrides: ["PACKED"],
  aliases: ["X"],
} as const))();

/** gpu/units/halves.wgsl */
export const halves = /* @__PURE__ */ (() => ({
  constants: { PARTS: 256, VECTORS: 8 },
  largest: {
    ...halvesModule,
    entryPoint: "largest",
    threads: 256,
    bindings: {
      x: [0, "read"],
      found: [1, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      vectors: [1, "u32"],
      size: [2, "u32"],
      padded: [3, "u32"],
      parts: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
  round: {
    ...halvesModule,
    entryPoint: "round",
    threads: 256,
    bindings: {
      x: [0, "read"],
      known: [1, "read"],
      halves: [2, "read_write"],
      exponents: [3, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      vectors: [1, "u32"],
      size: [2, "u32"],
      padded: [3, "u32"],
      parts: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
  roundRows: {
    ...halvesModule,
    entryPoint: "roundRows",
    threads: 256,
    bindings: {
      x: [0, "read"],
      halves: [2, "read_write"],
      exponents: [3, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      vectors: [1, "u32"],
      size: [2, "u32"],
      padded: [3, "u32"],
      parts: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
} as const))();

const productModule = /* @__PURE__ */ (() => ({
  code: directivesSource + foldedSource + productSource,
  overrides: ["M","N","K","DOWN","ACROSS","ROWS","COLUMNS","BUFFERS","THREADS","LEFT_BY_TERMS","RIGHT_BY_TERMS"],
  aliases: ["Accumulator","Bias","Left","Residual","Result","Right"],
} as const))();

/** gpu/units/product.wgsl */
export const product = /* @__PURE__ */ (() => ({
  constants: { EDGE: 32, LINE: 5, STRIP: 160, BIAS: 1, RESIDUAL: 2, RESULT: 4 },
  multiply: {
    ...productModule,
    entryPoint: "multiply",
    threads: undefined,
    bindings: {
      left: [0, "read"],
      right: [1, "read"],
      leftExponents: [2, "read"],
      rightExponents: [3, "read"],
      bias: [4, "read"],
      residual: [5, "read"],
      result: [6, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      columns: [1, "u32"],
      down: [2, "u32"],
      across: [3, "u32"],
      band: [4, "u32"],
      steps: [5, "u32"],
      allSteps: [6, "u32"],
      leftStride: [7, "u32"],
      rightStride: [8, "u32"],
      workgroups: [9, "u32"],
      added: [10, "u32"],
      leftScales: [11, "u32"],
      rightScales: [12, "u32"],
    },
  },
} as const))();
