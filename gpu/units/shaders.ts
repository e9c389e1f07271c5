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
@group(0) @binding(1) var<storage, read_write> found: array<u32>;
@compute @workgroup_size(256)
fn largest(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  var most = vec4<u32>();
  for (var i = workgroup.x * PARTS + thread; i < parameters.size; i += parameters.parts * PARTS) {
    let elements = vectorOf(i);
    let first = bitcast<vec4<u32>>(elements[0]) & vec4<u32>(0x7fffffffu);
    let second = bitcast<vec4<u32>>(elements[1]) & vec4<u32>(0x7fffffffu);
    most = max(most, select(vec4<u32>(), first, first < vec4<u32>(INFINITE)));
    most = max(most, select(vec4<u32>(), second, second < vec4<u32>(INFINITE)));
  }
  gather(thread, max(max(most.x, most.y), max(most.z, most.w)));
  if (thread == 0u) { found[workgroup.x] = partial[0]; }
}
@group(0) @binding(1) var<storage, read> known: array<u32>;
@group(0) @binding(2) var<storage, read_write> halves: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> exponent: array<i32>;
fn pair(elements: vec2<f32>, scale: f32) -> u32 {
  let packed = pack2x16float(elements * scale);
  let bits = bitcast<vec2<u32>>(elements);
  let size = bits & vec2<u32>(0x7fffffffu);
  let special = ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u)) |
    select(vec2<u32>(0x7c00u), vec2<u32>(0x7e00u), size > vec2<u32>(INFINITE));
  let words = select(vec2<u32>(packed & 0xffffu, packed >> 16u), special, size >= vec2<u32>(INFINITE));
  return words.x | (words.y << 16u);
}
@compute @workgroup_size(256)
fn round(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  gather(thread, select(0u, known[thread], thread < parameters.parts));
  let power = clamp(14 - (i32(partial[0] >> 23u) - 127), -110, 110);
  let scale = bitcast<f32>(u32(power + 127) << 23u);
  if (id == 0u && thread == 0u) { exponent[0] = power; }
  for (var i = id * 8u * PARTS + thread; i < min((id + 1u) * 8u * PARTS, parameters.size); i += PARTS) {
    let row = i / parameters.padded;
    let at = i % parameters.padded;
    var words = vec4<u32>();
    if (row < parameters.rows && at < parameters.vectors) {
      let elements = vectorOf(row * parameters.vectors + at);
      words = vec4<u32>(
        pair(elements[0].xy, scale),
        pair(elements[0].zw, scale),
        pair(elements[1].xy, scale),
        pair(elements[1].zw, scale),
      );
    }
    halves[i] = words;
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
override DEPTH: u32;
override BUFFERS: u32;
override THREADS: u32;
override LEFT_BY_TERMS: bool;
override RIGHT_BY_TERMS: bool;
const BIAS = 1u;
const RESIDUAL = 2u;
const RESULT = 4u;
struct Parameters {
  rows: u32,
  columns: u32,
  stride: u32,
  firstColumn: u32,
  down: u32,
  across: u32,
  band: u32,
  steps: u32,
  allSteps: u32,
  leftStride: u32,
  rightStride: u32,
  workgroups: u32,
  added: u32,
}
@group(0) @binding(0) var<storage, read> left: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> right: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> leftExponent: array<i32>;
@group(0) @binding(3) var<storage, read> rightExponent: array<i32>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<Bias>>;
@group(0) @binding(5) var<storage, read> residual: array<vec4<Residual>>;
@group(0) @binding(6) var<storage, read_write> result: array<vec4<Result>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
override STRIPS = max(BUFFERS * DEPTH * (DOWN * ROWS + ACROSS * COLUMNS), DOWN * ACROSS);
var<workgroup> strips: array<array<vec4<u32>, STRIP>, STRIPS>;
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
  let bandTop = tile / (parameters.band * parameters.across) * parameters.band;
  let bandRows = min(parameters.band, parameters.down - bandTop);
  let inBand = tile - bandTop * parameters.across;
  let firstRow = (bandTop + inBand % bandRows) * DOWN * ROWS * EDGE;
  let firstColumn = inBand / bandRows * ACROSS * COLUMNS * EDGE;
  let partDown = subgroup / ACROSS;
  let partAcross = subgroup % ACROSS;
  let leftStrips = DEPTH * DOWN * ROWS;
  let rightStrips = DEPTH * ACROSS * COLUMNS;
  let leftLoads = leftStrips * 128u / THREADS;
  let rightLoads = rightStrips * 128u / THREADS;
  let firstStep = range * parameters.steps;
  let steps = min(parameters.steps, parameters.allSteps - firstStep);
  let leftStep = select(EDGE / 8u, EDGE * parameters.leftStride, LEFT_BY_TERMS) * DEPTH;
  let rightStep = select(EDGE / 8u, EDGE * parameters.rightStride, RIGHT_BY_TERMS) * DEPTH;
  var accumulators: Accumulators;
  var leftVectors: LeftVectors;
  var rightVectors: RightVectors;
  for (var j = 0u; j < leftLoads; j++) {
    let at = place(j * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS);
    leftVectors[j] = left[at + firstStep * leftStep];
  }
  for (var j = 0u; j < rightLoads; j++) {
    let at = place(j * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS);
    rightVectors[j] = right[at + firstStep * rightStep];
  }
  for (var step = 0u; step < steps; step++) {
    let buffer = step % BUFFERS * (leftStrips + rightStrips);
    if (BUFFERS == 1u && step > 0u) { workgroupBarrier(); }
    for (var j = 0u; j < leftLoads; j++) { store(j * THREADS + thread, buffer, leftVectors[j]); }
    for (var j = 0u; j < rightLoads; j++) { store(j * THREADS + thread, buffer + leftStrips, rightVectors[j]); }
    workgroupBarrier();
    let next = firstStep + min(step + 1u, steps - 1u);
    for (var j = 0u; j < leftLoads; j++) {
      let at = place(j * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS);
      leftVectors[j] = left[at + next * leftStep];
    }
    for (var j = 0u; j < rightLoads; j++) {
      let at = place(j * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS);
      rightVectors[j] = right[at + next * rightStep];
    }
    for (var term = 0u; term < EDGE * DEPTH; term += K) {
      let depth = term / EDGE;
      let within = term % EDGE;
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
        let at = leftStrips + (partAcross * COLUMNS + j * N / EDGE) * DEPTH + depth;
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
  let leftFactor = power(-leftExponent[0]);
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
      for (var at = thread; at < DOWN * ACROSS * M * EDGE / 4u; at += THREADS) {
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
`;

const halvesModule = /* @__PURE__ */ (() => ({
  code: directivesSource + foldedSource + bfloat16Source + halvesSource,
  overrides: ["PACKED"],
  aliases: ["X"],
} as const))();

/** gpu/units/halves.wgsl */
export const halves = /* @__PURE__ */ (() => ({
  constants: { PARTS: 256 },
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
      exponent: [3, "read_write"],
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
  overrides: ["M","N","K","DOWN","ACROSS","ROWS","COLUMNS","DEPTH","BUFFERS","THREADS","LEFT_BY_TERMS","RIGHT_BY_TERMS"],
  aliases: ["Accumulators","Bias","Left","LeftVectors","Lefts","Residual","Result","Right","RightVectors"],
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
      leftExponent: [2, "read"],
      rightExponent: [3, "read"],
      bias: [4, "read"],
      residual: [5, "read"],
      result: [6, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      columns: [1, "u32"],
      stride: [2, "u32"],
      firstColumn: [3, "u32"],
      down: [4, "u32"],
      across: [5, "u32"],
      band: [6, "u32"],
      steps: [7, "u32"],
      allSteps: [8, "u32"],
      leftStride: [9, "u32"],
      rightStride: [10, "u32"],
      workgroups: [11, "u32"],
      added: [12, "u32"],
    },
  },
} as const))();
