// Read from gpu/*.wgsl by `deno task build`: do not edit.
// deno-fmt-ignore-file
// deno-lint-ignore-file

// gpu/folded.wgsl
const foldedSource = `fn folded(workgroup: vec3u, workgroups: vec3u) -> u32 {
  return workgroup.x + workgroup.y * workgroups.x;
}
`;

// core/activations.ts
const activationsSource = `const IDENTITY = 0u;
const SILU = 1u;
const ONE_PLUS_ELU = 2u;
const TWO_PLUS_ELU = 3u;
const ELU = 4u;
const RELU = 5u;
const GELU = 6u;
const LEAK = 7u;
const SIGMOID = 8u;
const SINE = 9u;
const EXP = 10u;
`;

// gpu/cosSin.wgsl
const cosSinSource = `const INVERSE_2PI = array<u32, 10>(
  0, 0, 0, 0x28be60db, 0x9391054a, 0x7f09d5f4, 0x7d4d3770, 0x36d8a566, 0x4f10e410, 0x7f9458ea,
);
fn inverse2Pi(at: u32) -> u32 {
  let word = INVERSE_2PI[at / 32];
  let shift = at % 32;
  return select((word << shift) | (INVERSE_2PI[min(at / 32 + 1, 9u)] >> (32 - shift)), word, shift == 0);
}
fn multiplyHigh(a: u32, b: u32) -> u32 {
  let low = (a & 0xffff) * (b & 0xffff);
  let middle = (a >> 16) * (b & 0xffff) + (low >> 16);
  let cross = (a & 0xffff) * (b >> 16) + (middle & 0xffff);
  return (a >> 16) * (b >> 16) + (middle >> 16) + (cross >> 16);
}
fn revolutions(angle: f32, times: u32) -> u32 {
  let bits = bitcast<u32>(angle);
  let exponent = (bits >> 23) & 0xff;
  if (exponent < 55) { return 0; }
  let m = (bits & 0x7fffff) | 0x800000;
  let at = exponent - 54;
  let low = inverse2Pi(at + 64);
  let middle = inverse2Pi(at + 32);
  let high = inverse2Pi(at);
  let carried = m * middle + multiplyHigh(m, low);
  let carry = multiplyHigh(m, middle) + select(0u, 1u, carried < m * middle);
  return (m * high + carry) * times + multiplyHigh(carried, times);
}
fn cosSin(angle: f32, times: u32) -> vec2f {
  let bits = bitcast<u32>(angle);
  if ((bits & 0x7f800000) == 0x7f800000) { return vec2f(bitcast<f32>(bits | 0x7fc00000)); }
  let fraction = revolutions(angle, times);
  let quadrant = (fraction + 0x20000000) >> 30;
  let x = f32(bitcast<i32>(fraction - (quadrant << 30))) * 1.4629180792671596e-9;
  let x2 = x * x;
  let sine = x * (1 + x2 * (-1.0 / 6 + x2 * (1.0 / 120 + x2 * (-1.0 / 5040 + x2 / 362880))));
  let cosine = 1 + x2 * (-1.0 / 2 + x2 * (1.0 / 24 + x2 * (-1.0 / 720 + x2 / 40320)));
  var result = select(vec2f(cosine, sine), vec2f(-sine, cosine), (quadrant & 1) == 1);
  result = select(result, -result, (quadrant & 2) == 2);
  return select(result, vec2f(result.x, -result.y), angle < 0);
}
`;

// gpu/activation.wgsl
const activationSource = `override ACTIVATION: u32;
const THREADS = 64u;
var<workgroup> maxima: array<f32, THREADS>;
fn maximumOver(value: f32, thread: u32) -> f32 {
  maxima[thread] = value;
  for (var half = THREADS / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { maxima[thread] = max(maxima[thread], maxima[thread + half]); }
  }
  return workgroupUniformLoad(&maxima[0]);
}
fn activate(x: f32, maximum: f32) -> f32 {
  switch ACTIVATION {
    case SILU: { return x * sigmoid(x); }
    case ONE_PLUS_ELU: { return 1 + elu(x); }
    case TWO_PLUS_ELU: { return 2 + elu(x); }
    case ELU: { return elu(x); }
    case RELU: { return select(x, 0, x < 0); }
    case GELU: { return gelu(x); }
    case LEAK: { return select(0.01 * x, x, x > 0); }
    case SIGMOID: { return sigmoid(x); }
    case SINE: { return sine(x); }
    case EXP: { return exp(x - maximum); }
    default: { return x; }
  }
}
fn derivative(x: f32, maximum: f32) -> f32 {
  switch ACTIVATION {
    case SILU: { return sigmoid(x) * (1 + x * sigmoid(-x)); }
    case ONE_PLUS_ELU, TWO_PLUS_ELU, ELU: { if (x > 0) { return 1; } return exp(x); }
    case RELU: { return select(0.0, 1.0, x > 0); }
    case GELU: { return normal(x) + x * 0.3989422804014327 * exp(-0.5 * x * x); }
    case LEAK: { return select(0.01, 1.0, x > 0); }
    case SIGMOID: { return sigmoid(x) * sigmoid(-x); }
    case SINE: { return cosSin(x, 1).x; }
    case EXP: { return exp(x - maximum); }
    default: { return 1; }
  }
}
fn sigmoid(x: f32) -> f32 {
  return 1 / (1 + exp(select(-x, 80, x < -80)));
}
fn elu(x: f32) -> f32 {
  if (x > 0) { return x; }
  if (x > -0.25) { return x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6))))); }
  return exp(x) - 1;
}
fn gelu(x: f32) -> f32 {
  if (x < -13) { return 0; }
  return x * normal(x);
}
fn normal(x: f32) -> f32 {
  let z = abs(x) * 0.7071067811865476;
  if (z > 9) { return select(1.0, 0.0, x < 0); }
  let t = 1 / (1 + 0.5 * z);
  let p = -1.265448 + t * (0.998632783 + t * (0.386640412 + t * (0.0346028006 + t * (0.00126758453 +
    t * (-0.0802804288 + t * (-0.696251903 + t * (1.15673376 + t * (-0.680827179 + t * 0.144930214))))))));
  let upper = 0.5 * t * exp(p - z * z);
  return select(1 - upper, upper, x < 0);
}
fn sine(x: f32) -> f32 {
  if (abs(x) < 0.5) {
    let x2 = x * x;
    return x * (1 + x2 * (-1.0 / 6 + x2 * (1.0 / 120 - x2 / 5040)));
  }
  return cosSin(x, 1).y;
}
`;

// gpu/activate.wgsl
const activateSource = `struct Parameters {
  rows: u32,
  width: u32,
}
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read_write> output: array<Output>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let width = parameters.width;
  let first = row * width;
  var maximum = 0.0;
  if (ACTIVATION == EXP) {
    maximum = f32(x[first]);
    for (var i = thread; i < width; i += THREADS) { maximum = max(maximum, f32(x[first + i])); }
    maximum = maximumOver(maximum, thread);
  }
  for (var i = thread; i < width; i += THREADS) {
    output[first + i] = Output(activate(f32(x[first + i]), maximum));
  }
}
`;

// gpu/activateBackward.wgsl
const activateBackwardSource = `struct Parameters {
  rows: u32,
  width: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let width = parameters.width;
  let first = row * width;
  var maximum = 0.0;
  if (ACTIVATION == EXP) {
    maximum = x[first];
    for (var i = thread; i < width; i += THREADS) { maximum = max(maximum, x[first + i]); }
    maximum = maximumOver(maximum, thread);
  }
  for (var i = thread; i < width; i += THREADS) {
    dx[first + i] = dy[first + i] * derivative(x[first + i], maximum);
  }
}
`;

// gpu/adamw.wgsl
const adamwSource = `struct Parameters {
  count: u32,
  keep: f32,
  rate: f32,
  beta1: f32,
  rest1: f32,
  beta2: f32,
  rest2: f32,
  correction: f32,
  eps: f32,
  maxNorm: f32,
}
@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read> squares: array<f32>;
@group(0) @binding(2) var<storage, read_write> parameter: array<f32>;
@group(0) @binding(3) var<storage, read_write> first: array<f32>;
@group(0) @binding(4) var<storage, read_write> second: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.count) { return; }
  let norm = sqrt(squares[0]);
  let clip = select(parameters.maxNorm / norm, 1.0, norm <= parameters.maxNorm);
  let g = clip * gradient[i];
  let m = fma(parameters.beta1, first[i], parameters.rest1 * g);
  let v = fma(parameters.beta2, second[i], parameters.rest2 * g * g);
  first[i] = m;
  second[i] = v;
  parameter[i] = parameters.keep * parameter[i] -
    parameters.rate * (m / fma(sqrt(v), parameters.correction, parameters.eps));
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

// gpu/crossEntropy.wgsl
const crossEntropySource = `override WORKGROUP: u32;
struct Parameters {
  rows: u32,
  vocab: u32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<i32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> dLogits: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
var<workgroup> values: array<f32, WORKGROUP>;
@compute @workgroup_size(WORKGROUP)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let vocab = parameters.vocab;
  let first = row * vocab;
  let label = labels[row];
  var largest = logits[first];
  for (var i = thread; i < vocab; i += WORKGROUP) { largest = max(largest, logits[first + i]); }
  values[thread] = largest;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { values[thread] = max(values[thread], values[thread + half]); }
  }
  largest = workgroupUniformLoad(&values[0]);
  var sum = 0.0;
  for (var i = thread; i < vocab; i += WORKGROUP) { sum += exp(logits[first + i] - largest); }
  workgroupBarrier();
  values[thread] = sum;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { values[thread] += values[thread + half]; }
  }
  sum = workgroupUniformLoad(&values[0]);
  let counts = label >= 0;
  let factor = parameters.scale / sum;
  for (var i = thread; i < vocab; i += WORKGROUP) {
    let own = select(0.0, parameters.scale, i32(i) == label);
    dLogits[first + i] = select(0.0, exp(logits[first + i] - largest) * factor - own, counts);
  }
  if (thread == 0) {
    var value = 0.0;
    if (counts) { value = log(sum) + (largest - logits[first + u32(label)]); }
    loss[row] = value;
  }
}
`;

// gpu/embeddingBackward.wgsl
const embeddingBackwardSource = `override ADD: bool;
const THREADS = 64u;
struct Parameters {
  width: u32,
  first: u32,
  count: u32,
  scale: f32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> result: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let width = parameters.width;
  let groups = (width + THREADS - 1) / THREADS;
  let run = id / groups;
  let column = id % groups * THREADS + thread;
  let row = targets[run] - parameters.first;
  if (column >= width || row >= parameters.count) { return; }
  var sum = 0.0;
  for (var i = starts[run]; i < starts[run + 1]; i++) { sum += source[rows[i] * width + column]; }
  let at = row * width + column;
  if (ADD) { result[at] += parameters.scale * sum; } else { result[at] = parameters.scale * sum; }
}
`;

// gpu/outer.wgsl
const outerSource = `struct Rows { left: mat4x4<f32>, right: mat4x4<f32> }
fn outer(c: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    fma(vec4<f32>(a.x), b, c[0]),
    fma(vec4<f32>(a.y), b.wzyx, c[1]),
    fma(vec4<f32>(a.z), b, c[2]),
    fma(vec4<f32>(a.w), b.wzyx, c[3]),
  );
}
fn outerRows(c: Rows, a: vec4<f32>, left: vec4<f32>, right: vec4<f32>) -> Rows {
  let left0 = fma(vec4<f32>(a.x), left, c.left[0]);
  let right0 = fma(vec4<f32>(a.x), right, c.right[0]);
  let right1 = fma(vec4<f32>(a.y), right.wzyx, c.right[1]);
  let left1 = fma(vec4<f32>(a.y), left.wzyx, c.left[1]);
  let left2 = fma(vec4<f32>(a.z), left, c.left[2]);
  let right2 = fma(vec4<f32>(a.z), right, c.right[2]);
  let right3 = fma(vec4<f32>(a.w), right.wzyx, c.right[3]);
  let left3 = fma(vec4<f32>(a.w), left.wzyx, c.left[3]);
  return Rows(mat4x4<f32>(left0, left1, left2, left3), mat4x4<f32>(right0, right1, right2, right3));
}
`;

// gpu/fewRows.wgsl
const fewRowsSource = `override PACKED: bool;
override BITS: u32;
override GROUP: u32;
override RANGES: u32;
override BIAS: bool;
override RESIDUAL: bool;
override NORMED: bool;
override APART: bool;
override GATED: bool;
const LANES = 8u;
struct Parameters {
  rows: u32,
  inDim: u32,
  inVectors: u32,
  weightStride: u32,
  scalesAt: u32,
  outCount: u32,
  firstOut: u32,
  stride: u32,
  rangePairs: u32,
  workgroups: u32,
  eps: f32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4<X>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<Weight>>;
@group(0) @binding(2) var<storage, read> bias: array<Bias>;
@group(0) @binding(3) var<storage, read> residual: array<Residual>;
@group(0) @binding(4) var<storage, read_write> output: array<Output>;
@group(0) @binding(5) var<storage, read> normed: array<vec4<X>>;
@group(0) @binding(6) var<storage, read> gateWeight: array<vec4<Weight>>;
@group(0) @binding(7) var<storage, read> gateBias: array<Bias>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
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
fn factorOf(squares: f32) -> f32 {
  return 1.0 / sqrt(squares / f32(parameters.inDim) + parameters.eps);
}
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
fn scaleOf(row: u32, vector: u32, other: bool) -> f32 {
  let group = 4u * vector / GROUP;
  let pair = word(row + parameters.scalesAt + group / 2u, other);
  return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, group % 2u == 1u));
}
fn scaled4(bits: u32, scale: f32) -> vec4<f32> {
  let masked = vec4<u32>(bits) & vec4<u32>(0xfu, 0xf0u, 0xf00u, 0xf000u);
  let raised = bitcast<vec4<f32>>(masked | vec4<u32>(0x4b000000u));
  return (raised - vec4<f32>(8388616.0, 8388736.0, 8390656.0, 8421376.0)) *
    (scale * vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625));
}
fn scaled8(bits: u32, scale: f32) -> vec4<f32> {
  let positive = bits ^ 0x80808080u;
  let masked = vec4<u32>(positive, positive, positive >> 16u, positive >> 16u) & vec4<u32>(0xffu, 0xff00u, 0xffu, 0xff00u);
  let raised = bitcast<vec4<f32>>(masked | vec4<u32>(0x4b000000u));
  return (raised - vec4<f32>(8388736.0, 8421376.0, 8388736.0, 8421376.0)) *
    (scale * vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625));
}
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
override TEAM: u32;
override ROWS: u32;
override PARTIALS: u32;
const TEAM_THREADS = 128u;
var<workgroup> partial: array<vec4<f32>, PARTIALS>;
struct RowSums { columns: mat4x4<f32>, squares: vec4<f32> }
struct Sums { a: RowSums, b: RowSums, c: RowSums, d: RowSums }
fn width() -> u32 { return select(4u, 2u, GATED); }
fn weightPair(row: u32, pair: u32, other: bool) -> mat2x4<f32> {
  if (PACKED) {
    let four = words(row + pair, other);
    return mat2x4<f32>(fromBfloat16s(four.xy), fromBfloat16s(four.zw));
  }
  return mat2x4<f32>(weights(row, 2u * pair, other), weights(row, 2u * pair + 1u, other));
}
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
fn xAt(row: u32, vector: u32) -> vec4<f32> {
  return vec4<f32>(x[min(row, parameters.rows - 1u) * parameters.inVectors + vector]);
}
fn normedAt(row: u32, vector: u32, y: vec4<f32>) -> vec4<f32> {
  if (!APART) { return y; }
  return vec4<f32>(normed[min(row, parameters.rows - 1u) * parameters.inVectors + vector]);
}
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
fn addPair(sums: ptr<function, Sums>, starts: vec4<u32>, row: u32, pair: u32) {
  if (ROWS <= 4u) {
    let a = weightPair(starts.x, pair, false);
    let b = weightPair(starts.y, pair, false);
    let c = weightPair(starts.z, pair, GATED);
    let d = weightPair(starts.w, pair, GATED);
    addVectors(sums, mat4x4<f32>(a[0], b[0], c[0], d[0]), row, 2u * pair);
    addVectors(sums, mat4x4<f32>(a[1], b[1], c[1], d[1]), row, 2u * pair + 1u);
  } else {
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
      let at = job / LANES * TEAM + job % LANES;
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
override ROW_GROUPS: u32;
override COLUMN_GROUPS: u32;
override POSITIONS: u32;
override THREADS: u32;
override STEP: u32;
override UNITS: u32;
override GROUPS: u32;
override PITCH: u32;
var<workgroup> memory: array<Vectors, 4>;
fn keep(at: u32, value: vec4<f32>) {
  let vectors = 16u * STEP * PITCH;
  memory[at / vectors][at % vectors / PITCH][at % PITCH] = value;
}
fn kept(at: u32) -> vec4<f32> {
  let vectors = 16u * STEP * PITCH;
  return memory[at / vectors][at % vectors / PITCH][at % PITCH];
}
fn weightsAt() -> u32 { return ROW_GROUPS * select(1u, 2u, APART); }
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
fn store(group: u32, vector: u32, elements: mat4x4<f32>, inside: bool) {
  let columns = transpose(elements);
  memory[0][vector][group] = select(vec4<f32>(), columns[0], inside);
  memory[1][vector][group] = select(vec4<f32>(), columns[1], inside);
  memory[2][vector][group] = select(vec4<f32>(), columns[2], inside);
  memory[3][vector][group] = select(vec4<f32>(), columns[3], inside);
}
struct Position { row: u32, column: u32 }
struct TileSums { products: Rows, squares: vec4<f32> }
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
fn lanesOf(at: u32) -> vec4<f32> {
  let n = POSITIONS;
  return ((kept(at) + kept(at + 4u * n)) + (kept(at + 2u * n) + kept(at + 6u * n))) +
    ((kept(at + n) + kept(at + 5u * n)) + (kept(at + 3u * n) + kept(at + 7u * n)));
}
struct Place { row: u32, column: u32 }
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
`;

// gpu/lightning.wgsl
const lightningSource = `override WIDE_HEAD: bool;
override WIDE_VALUE: bool;
override THREADS: u32;
override HALVES: u32;
override BUFFERS: u32;
override ROUNDS: u32;
override LATER: bool;
override STEEP: bool;
override REVERSE: bool;
const TOKENS = 4u;
const UPDATE_TOKENS = 16u;
const PERIOD = 48u;
struct Shape {
  query: vec4<u32>,
  key: vec4<u32>,
  value: vec4<u32>,
  heads: u32,
  queryGroup: u32,
  keyGroup: u32,
  firstHead: u32,
  headCount: u32,
  headDim: u32,
  valueDim: u32,
  workgroups: u32,
  segments: u32,
  sequences: u32,
  firstRow: u32,
  stateOrigin: u32,
}
@group(0) @binding(15) var<uniform> shape: Shape;
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> decays: array<f32>;
@group(0) @binding(2) var<storage, read_write> scratch: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<S>>;
@group(0) @binding(4) var<storage, read> v: array<vec4<S>>;
@group(0) @binding(5) var<storage, read> q: array<vec4<S>>;
@group(0) @binding(6) var<storage, read_write> output: array<vec4<O>>;
@group(0) @binding(7) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> initialState: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> carriedState: array<vec4<f32>>;
const ZERO = 0u;
const INITIAL = 1u;
const STATE = 2u;
const OUTSIDE = PERIOD;
const QUERY = PERIOD + 1u;
const CHANGE = 2u * QUERY;
const SEGMENT_CHANGE = CHANGE + PERIOD + 1u;
const DECAYS = SEGMENT_CHANGE + 1u;
fn changed(x: vec4<f32>, change: f32) -> vec4<f32> {
  return fma(vec4<f32>(change), x, select(vec4<f32>(), x, change <= 0.0));
}
fn tokenStride(strides: vec4<u32>) -> u32 {
  return u32(i32(strides.z) / 4);
}
fn scratchStart(row: u32, head: u32) -> u32 {
  return (row * shape.headCount + head) * shape.headDim * (shape.valueDim / 4u);
}
fn stateStart(row: u32, head: u32) -> u32 {
  return ((row * shape.heads + head) * shape.headDim * shape.valueDim - shape.stateOrigin) / 4u;
}
fn mirrored(x: mat4x4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(x[0], x[1].wzyx, x[2], x[3].wzyx);
}
fn decayMatrix(x: mat4x4<f32>, change: f32) -> mat4x4<f32> {
  let c = vec4<f32>(change);
  return mat4x4<f32>(fma(c, x[0], x[0]), fma(c, x[1], x[1]), fma(c, x[2], x[2]), fma(c, x[3], x[3]));
}
fn periodChange(head: u32, token: u32, count: u32) -> f32 {
  var tokens = min(select(PERIOD, 1u, STEEP), max(count, token) - token);
  if (REVERSE && token == 0u) { tokens -= min(1u, tokens); }
  return decays[head * DECAYS + CHANGE + tokens];
}
fn tokensLeft(token: u32, end: u32, inside: bool) -> u32 {
  return select(OUTSIDE, select(end - 1u - token, 0u, STEEP), inside && token < end);
}
fn kept(x: vec4<f32>, inside: bool) -> vec4<f32> {
  return select(vec4<f32>(), x, inside);
}
struct Sums { upper: Rows, lower: Rows }
var<workgroup> keyRows: array<array<array<vec4<f32>, 32>, UPDATE_TOKENS>, BUFFERS>;
var<workgroup> valueRows: array<array<array<vec4<f32>, 32>, UPDATE_TOKENS>, BUFFERS>;
fn updateToken(s: ptr<function, Sums>, buffer: u32, j: u32, row: u32, column: u32) {
  let upper = keyRows[buffer][j][row];
  let lower = keyRows[buffer][j][row + select(8u, 16u, WIDE_HEAD)];
  let left = valueRows[buffer][j][column];
  let right = valueRows[buffer][j][column + select(8u, 16u, WIDE_VALUE)];
  (*s).upper = outerRows((*s).upper, upper, left, right);
  (*s).lower = outerRows((*s).lower, lower, left, right);
}
fn storeKey(buffer: u32, i: u32, column: u32, x: vec4<S>, head: u32, token: u32, end: u32) {
  keyRows[buffer][i][column] = kept(decays[head * DECAYS + tokensLeft(token + i, end, true)] * vec4<f32>(x), token + i < end);
}
fn storeValue(buffer: u32, i: u32, column: u32, x: vec4<S>, token: u32, count: u32) {
  valueRows[buffer][i][column] = kept(vec4<f32>(x), token + i < count);
}
fn decaySums(s: ptr<function, Sums>, change: f32) {
  if (change <= 0.0) {
    (*s).upper.left = decayMatrix((*s).upper.left, change);
    (*s).upper.right = decayMatrix((*s).upper.right, change);
    (*s).lower.left = decayMatrix((*s).lower.left, change);
    (*s).lower.right = decayMatrix((*s).lower.right, change);
  } else {
    (*s).upper.left = (*s).upper.left * change;
    (*s).upper.right = (*s).upper.right * change;
    (*s).lower.left = (*s).lower.left * change;
    (*s).lower.right = (*s).lower.right * change;
  }
}
fn writeSums(start: u32, row: u32, column: u32, x: mat4x4<f32>) {
  let vectors = shape.valueDim / 4u;
  if (row >= shape.headDim || column >= vectors) { return; }
  let at = start + row * vectors + column;
  scratch[at] = x[0];
  scratch[at + vectors] = x[1];
  scratch[at + 2u * vectors] = x[2];
  scratch[at + 3u * vectors] = x[3];
}
@compute @workgroup_size(THREADS)
fn updateState(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  var id = folded(workgroup, workgroups);
  if (id >= shape.workgroups) { return; }
  let keyVectors = select(16u, 32u, WIDE_HEAD);
  let valueVectors = select(16u, 32u, WIDE_VALUE);
  let keyTiles = (shape.headDim / 4u + keyVectors - 1u) / keyVectors;
  let valueTiles = (shape.valueDim / 4u + valueVectors - 1u) / valueVectors;
  let keyTile = id % keyTiles * keyVectors;
  id /= keyTiles;
  let valueTile = id % valueTiles * valueVectors;
  id /= valueTiles;
  let localHead = id % shape.headCount;
  let head = shape.firstHead + localHead;
  let segmentIndex = id / shape.headCount;
  let segment = table[segmentIndex];
  let count = segment.y;
  let keyStep = THREADS / keyVectors;
  let keyToken = thread / keyVectors;
  let keyColumn = thread % keyVectors;
  let keyInside = keyTile + keyColumn < shape.headDim / 4u;
  let keyStride = tokenStride(shape.key);
  var keyAt = (segment.z * shape.key.x + head / shape.keyGroup * shape.key.y + segment.x * shape.key.z - shape.key.w) / 4u
    + keyTile + keyColumn + keyToken * keyStride;
  let valueStep = THREADS / valueVectors;
  let valueToken = thread / valueVectors;
  let valueColumn = thread % valueVectors;
  let valueInside = valueTile + valueColumn < shape.valueDim / 4u;
  let valueStride = tokenStride(shape.value);
  var valueAt = (segment.z * shape.value.x + head * shape.value.y + segment.x * shape.value.z - shape.value.w) / 4u
    + valueTile + valueColumn + valueToken * valueStride;
  let row = thread / 32u / (valueVectors / 16u) * 4u + thread % 32u / 8u;
  let column = thread / 32u % (valueVectors / 16u) * 8u + thread % 8u;
  var s = Sums();
  var k0 = k[keyAt];
  var k1 = k[keyAt + 8u * keyStride];
  var k2 = vec4<S>();
  var k3 = vec4<S>();
  if (keyStep == 4u) {
    k2 = k[keyAt + 4u * keyStride];
    k3 = k[keyAt + 12u * keyStride];
  }
  var v0 = v[valueAt];
  var v1 = v[valueAt + 8u * valueStride];
  var v2 = vec4<S>();
  var v3 = vec4<S>();
  if (valueStep == 4u) {
    v2 = v[valueAt + 4u * valueStride];
    v3 = v[valueAt + 12u * valueStride];
  }
  for (var start = 0u; start < count; start += PERIOD) {
    if (!STEEP) { decaySums(&s, periodChange(head, start, count)); }
    let end = min(start + PERIOD, count);
    for (var token = start; token < end; token += UPDATE_TOKENS) {
      let buffer = token / UPDATE_TOKENS % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      storeKey(buffer, keyToken, keyColumn, k0, head, token, select(0u, end, keyInside));
      storeKey(buffer, keyToken + 8u, keyColumn, k1, head, token, select(0u, end, keyInside));
      if (keyStep == 4u) {
        storeKey(buffer, keyToken + 4u, keyColumn, k2, head, token, select(0u, end, keyInside));
        storeKey(buffer, keyToken + 12u, keyColumn, k3, head, token, select(0u, end, keyInside));
      }
      storeValue(buffer, valueToken, valueColumn, v0, token, select(0u, count, valueInside));
      storeValue(buffer, valueToken + 8u, valueColumn, v1, token, select(0u, count, valueInside));
      if (valueStep == 4u) {
        storeValue(buffer, valueToken + 4u, valueColumn, v2, token, select(0u, count, valueInside));
        storeValue(buffer, valueToken + 12u, valueColumn, v3, token, select(0u, count, valueInside));
      }
      workgroupBarrier();
      keyAt += UPDATE_TOKENS * keyStride;
      valueAt += UPDATE_TOKENS * valueStride;
      k0 = k[keyAt];
      k1 = k[keyAt + 8u * keyStride];
      if (keyStep == 4u) {
        k2 = k[keyAt + 4u * keyStride];
        k3 = k[keyAt + 12u * keyStride];
      }
      v0 = v[valueAt];
      v1 = v[valueAt + 8u * valueStride];
      if (valueStep == 4u) {
        v2 = v[valueAt + 4u * valueStride];
        v3 = v[valueAt + 12u * valueStride];
      }
      if (STEEP) {
        for (var j = 0u; j < UPDATE_TOKENS; j++) {
          decaySums(&s, periodChange(head, token + j, count));
          updateToken(&s, buffer, j, row, column);
        }
      } else {
        updateToken(&s, buffer, 0u, row, column);
        updateToken(&s, buffer, 1u, row, column);
        updateToken(&s, buffer, 2u, row, column);
        updateToken(&s, buffer, 3u, row, column);
        updateToken(&s, buffer, 4u, row, column);
        updateToken(&s, buffer, 5u, row, column);
        updateToken(&s, buffer, 6u, row, column);
        updateToken(&s, buffer, 7u, row, column);
        updateToken(&s, buffer, 8u, row, column);
        updateToken(&s, buffer, 9u, row, column);
        updateToken(&s, buffer, 10u, row, column);
        updateToken(&s, buffer, 11u, row, column);
        updateToken(&s, buffer, 12u, row, column);
        updateToken(&s, buffer, 13u, row, column);
        updateToken(&s, buffer, 14u, row, column);
        updateToken(&s, buffer, 15u, row, column);
      }
    }
  }
  if (REVERSE && count > 0u) { decaySums(&s, decays[head * DECAYS + CHANGE + 1u]); }
  let start = scratchStart(segmentIndex, localHead);
  let lower = row + keyVectors / 2u;
  let right = column + valueVectors / 2u;
  writeSums(start, 4u * (keyTile + row), valueTile + column, mirrored(s.upper.left));
  writeSums(start, 4u * (keyTile + row), valueTile + right, mirrored(s.upper.right));
  writeSums(start, 4u * (keyTile + lower), valueTile + column, mirrored(s.lower.left));
  writeSums(start, 4u * (keyTile + lower), valueTile + right, mirrored(s.lower.right));
}
@compute @workgroup_size(64)
fn carryState(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let vectors = shape.headDim * (shape.valueDim / 4u);
  let id = folded(workgroup, workgroups) * 64u + thread;
  let element = id % vectors;
  let localHead = id / vectors % shape.headCount;
  let index = id / vectors / shape.headCount;
  if (index >= shape.sequences) { return; }
  let head = shape.firstHead + localHead;
  let sequence = table[shape.segments + index];
  let stateAt = stateStart(sequence.z, head) + element;
  var carried = vec4<f32>();
  if (sequence.w == INITIAL) { carried = initialState[stateAt]; }
  if (sequence.w == STATE) { carried = carriedState[stateAt]; }
  var at = scratchStart(sequence.x, localHead) + element;
  let step = shape.headCount * vectors;
  let change = decays[head * DECAYS + SEGMENT_CHANGE];
  var next = scratch[at];
  for (var i = 0u; i < sequence.y; i++) {
    let sum = next;
    next = scratch[at + step];
    scratch[at] = carried;
    carried = changed(carried, change) + sum;
    at += step;
  }
  scratch[scratchStart(shape.segments - shape.sequences + index, localHead) + element] = carried;
}
struct State {
  s0: mat4x4<f32>, s1: mat4x4<f32>, s2: mat4x4<f32>, s3: mat4x4<f32>,
  s4: mat4x4<f32>, s5: mat4x4<f32>, s6: mat4x4<f32>, s7: mat4x4<f32>,
}
fn readRows(start: u32, row: u32, column: u32) -> mat4x4<f32> {
  let vectors = shape.valueDim / 4u;
  if (row >= shape.headDim || column >= vectors) { return mat4x4<f32>(); }
  let at = start + row * vectors + column;
  return mirrored(mat4x4<f32>(scratch[at], scratch[at + vectors], scratch[at + 2u * vectors], scratch[at + 3u * vectors]));
}
fn readState(start: u32, row: u32, column: u32) -> State {
  var s = State();
  s.s0 = readRows(start, row, column);
  s.s1 = readRows(start, row + 4u, column);
  s.s2 = readRows(start, row + 8u, column);
  s.s3 = readRows(start, row + 12u, column);
  if (WIDE_HEAD) {
    s.s4 = readRows(start, row + 16u, column);
    s.s5 = readRows(start, row + 20u, column);
    s.s6 = readRows(start, row + 24u, column);
    s.s7 = readRows(start, row + 28u, column);
  }
  return s;
}
fn writeRows(start: u32, row: u32, column: u32, x: mat4x4<f32>) {
  let vectors = shape.valueDim / 4u;
  if (row >= shape.headDim || column >= vectors) { return; }
  let at = start + row * vectors + column;
  state[at] = x[0];
  state[at + vectors] = x[1];
  state[at + 2u * vectors] = x[2];
  state[at + 3u * vectors] = x[3];
}
fn decayState(s: ptr<function, State>, change: f32) {
  if (change <= 0.0) {
    (*s).s0 = decayMatrix((*s).s0, change);
    (*s).s1 = decayMatrix((*s).s1, change);
    (*s).s2 = decayMatrix((*s).s2, change);
    (*s).s3 = decayMatrix((*s).s3, change);
    if (WIDE_HEAD) {
      (*s).s4 = decayMatrix((*s).s4, change);
      (*s).s5 = decayMatrix((*s).s5, change);
      (*s).s6 = decayMatrix((*s).s6, change);
      (*s).s7 = decayMatrix((*s).s7, change);
    }
  } else {
    (*s).s0 = (*s).s0 * change;
    (*s).s1 = (*s).s1 * change;
    (*s).s2 = (*s).s2 * change;
    (*s).s3 = (*s).s3 * change;
    if (WIDE_HEAD) {
      (*s).s4 = (*s).s4 * change;
      (*s).s5 = (*s).s5 * change;
      (*s).s6 = (*s).s6 * change;
      (*s).s7 = (*s).s7 * change;
    }
  }
}
fn product(sum: vec4<f32>, a: vec4<f32>, c: mat4x4<f32>) -> vec4<f32> {
  return fma(
    vec4<f32>(a.w),
    c[3].wzyx,
    fma(vec4<f32>(a.z), c[2], fma(vec4<f32>(a.y), c[1].wzyx, fma(vec4<f32>(a.x), c[0], sum))),
  );
}
var<workgroup> keys: array<array<array<array<vec4<f32>, 8>, 4>, TOKENS>, 2>;
var<workgroup> queries: array<array<array<array<vec4<f32>, 8>, 4>, TOKENS>, 2>;
var<workgroup> values: array<array<array<array<vec4<f32>, 16>, TOKENS>, 2>, HALVES>;
var<workgroup> partials: array<array<array<PartialRow, 4>, TOKENS>, ROUNDS>;
fn attendToken(s: ptr<function, State>, buffer: u32, i: u32, group: u32, column: u32) -> vec4<f32> {
  let value = values[column / 16u][buffer][i][column % 16u];
  (*s).s0 = outer((*s).s0, keys[buffer][i][group][0], value);
  (*s).s1 = outer((*s).s1, keys[buffer][i][group][1], value);
  (*s).s2 = outer((*s).s2, keys[buffer][i][group][2], value);
  (*s).s3 = outer((*s).s3, keys[buffer][i][group][3], value);
  if (WIDE_HEAD) {
    (*s).s4 = outer((*s).s4, keys[buffer][i][group][4], value);
    (*s).s5 = outer((*s).s5, keys[buffer][i][group][5], value);
    (*s).s6 = outer((*s).s6, keys[buffer][i][group][6], value);
    (*s).s7 = outer((*s).s7, keys[buffer][i][group][7], value);
  }
  var sum = vec4<f32>();
  sum = product(sum, queries[buffer][i][group][0], (*s).s0);
  sum = product(sum, queries[buffer][i][group][1], (*s).s1);
  sum = product(sum, queries[buffer][i][group][2], (*s).s2);
  sum = product(sum, queries[buffer][i][group][3], (*s).s3);
  if (WIDE_HEAD) {
    sum = product(sum, queries[buffer][i][group][4], (*s).s4);
    sum = product(sum, queries[buffer][i][group][5], (*s).s5);
    sum = product(sum, queries[buffer][i][group][6], (*s).s6);
    sum = product(sum, queries[buffer][i][group][7], (*s).s7);
  }
  return sum;
}
fn writeOutput(round: u32, i: u32, column: u32, at: u32) {
  var sum = (partials[round][i][0][column] + partials[round][i][1][column])
    + (partials[round][i][2][column] + partials[round][i][3][column]);
  if (LATER) { sum += vec4<f32>(output[at]); }
  output[at] = vec4<O>(sum);
}
@compute @workgroup_size(THREADS)
fn attend(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  var id = folded(workgroup, workgroups);
  if (id >= shape.workgroups) { return; }
  let keyVectors = select(16u, 32u, WIDE_HEAD);
  let valueVectors = select(16u, 32u, WIDE_VALUE);
  let valueTiles = (shape.valueDim / 4u + valueVectors - 1u) / valueVectors;
  let valueTile = id % valueTiles * valueVectors;
  id /= valueTiles;
  let localHead = id % shape.headCount;
  let head = shape.firstHead + localHead;
  let segmentIndex = id / shape.headCount;
  let segment = table[segmentIndex];
  let count = segment.y;
  let keyToken = thread / keyVectors;
  let keyColumn = thread % keyVectors;
  let loads = THREADS <= TOKENS * keyVectors || keyToken < TOKENS;
  let both = THREADS / keyVectors < TOKENS;
  let keyGroup = keyColumn / (keyVectors / 4u);
  let keyPlace = keyColumn % (keyVectors / 4u);
  let keyInside = shape.firstRow / 4u + keyColumn < shape.headDim / 4u;
  let row = min(shape.firstRow + 4u * keyColumn, shape.headDim - 4u);
  let queryStride = tokenStride(shape.query);
  let keyStride = tokenStride(shape.key);
  let queryAt = (segment.z * shape.query.x + head / shape.queryGroup * shape.query.y + segment.x * shape.query.z
    - shape.query.w + row) / 4u;
  let keyAt = (segment.z * shape.key.x + head / shape.keyGroup * shape.key.y + segment.x * shape.key.z
    - shape.key.w + row) / 4u;
  let group = thread / valueVectors;
  let column = thread % valueVectors;
  let valueInside = valueTile + column < shape.valueDim / 4u;
  let valueStride = tokenStride(shape.value);
  let valueAt = (segment.z * shape.value.x + head * shape.value.y + segment.x * shape.value.z - shape.value.w) / 4u
    + min(valueTile + column, shape.valueDim / 4u - 1u);
  let firstRow = shape.firstRow + group * select(16u, 32u, WIDE_HEAD);
  var s = readState(scratchStart(segmentIndex, localHead), firstRow, valueTile + column);
  let last = count - 1u;
  var q0 = vec4<S>();
  var k0 = vec4<S>();
  var q1 = vec4<S>();
  var k1 = vec4<S>();
  if (loads) {
    q0 = q[queryAt + min(keyToken, last) * queryStride];
    k0 = k[keyAt + min(keyToken, last) * keyStride];
  }
  if (both) {
    q1 = q[queryAt + min(keyToken + 2u, last) * queryStride];
    k1 = k[keyAt + min(keyToken + 2u, last) * keyStride];
  }
  var v0 = v[valueAt + min(group, last) * valueStride];
  for (var start = 0u; start < count; start += PERIOD) {
    if (!STEEP) { decayState(&s, periodChange(head, start, count)); }
    let end = min(start + PERIOD, count);
    for (var token = start; token < end; token += TOKENS) {
      let buffer = token / TOKENS % 2u;
      if (loads) {
        let factors = head * DECAYS + tokensLeft(token + keyToken, end, keyInside);
        queries[buffer][keyToken][keyGroup][keyPlace] = decays[factors + QUERY] * vec4<f32>(q0);
        keys[buffer][keyToken][keyGroup][keyPlace] = decays[factors] * vec4<f32>(k0);
      }
      if (both) {
        let factors = head * DECAYS + tokensLeft(token + keyToken + 2u, end, keyInside);
        queries[buffer][keyToken + 2u][keyGroup][keyPlace] = decays[factors + QUERY] * vec4<f32>(q1);
        keys[buffer][keyToken + 2u][keyGroup][keyPlace] = decays[factors] * vec4<f32>(k1);
      }
      values[column / 16u][buffer][group][column % 16u] = vec4<f32>(v0);
      workgroupBarrier();
      let next = token + TOKENS;
      if (loads) {
        let t = min(next + keyToken, last);
        q0 = q[queryAt + t * queryStride];
        k0 = k[keyAt + t * keyStride];
      }
      if (both) {
        let t = min(next + keyToken + 2u, last);
        q1 = q[queryAt + t * queryStride];
        k1 = k[keyAt + t * keyStride];
      }
      v0 = v[valueAt + min(next + group, last) * valueStride];
      let written = valueAt + (token + group - TOKENS) * valueStride;
      if (ROUNDS == 1u) {
        if (token > 0u && valueInside) { writeOutput(0u, group, column, written); }
        workgroupBarrier();
      }
      if (STEEP) { decayState(&s, periodChange(head, token, count)); }
      let o0 = attendToken(&s, buffer, 0u, group, column);
      if (STEEP) { decayState(&s, periodChange(head, token + 1u, count)); }
      let o1 = attendToken(&s, buffer, 1u, group, column);
      if (STEEP) { decayState(&s, periodChange(head, token + 2u, count)); }
      let o2 = attendToken(&s, buffer, 2u, group, column);
      if (STEEP) { decayState(&s, periodChange(head, token + 3u, count)); }
      let o3 = attendToken(&s, buffer, 3u, group, column);
      if (ROUNDS == 2u && token > 0u && valueInside) { writeOutput(1u - buffer, group, column, written); }
      let round = buffer % ROUNDS;
      partials[round][0][group][column] = o0;
      partials[round][1][group][column] = o1;
      partials[round][2][group][column] = o2;
      partials[round][3][group][column] = o3;
    }
  }
  workgroupBarrier();
  let rest = last / TOKENS * TOKENS + group;
  if (valueInside && rest < count) {
    writeOutput(last / TOKENS % ROUNDS, group, column, valueAt + rest * valueStride);
  }
  if (segmentIndex < shape.segments - shape.sequences) { return; }
  if (REVERSE && count > 0u) { decayState(&s, decays[head * DECAYS + CHANGE + 1u]); }
  let start = stateStart(table[segmentIndex + shape.sequences].z, head);
  writeRows(start, firstRow, valueTile + column, mirrored(s.s0));
  writeRows(start, firstRow + 4u, valueTile + column, mirrored(s.s1));
  writeRows(start, firstRow + 8u, valueTile + column, mirrored(s.s2));
  writeRows(start, firstRow + 12u, valueTile + column, mirrored(s.s3));
  if (WIDE_HEAD) {
    writeRows(start, firstRow + 16u, valueTile + column, mirrored(s.s4));
    writeRows(start, firstRow + 20u, valueTile + column, mirrored(s.s5));
    writeRows(start, firstRow + 24u, valueTile + column, mirrored(s.s6));
    writeRows(start, firstRow + 28u, valueTile + column, mirrored(s.s7));
  }
}
struct StepShape {
  heads: u32,
  queryHeads: u32,
  keyHeads: u32,
  queryGroup: u32,
  keyGroup: u32,
  headDim: u32,
  valueDim: u32,
  workgroups: u32,
  rowTable: u32,
  scale: f32,
}
@group(0) @binding(2) var<storage, read_write> states: array<vec4<f32>>;
@group(0) @binding(15) var<uniform> stepShape: StepShape;
var<workgroup> partial: array<array<vec4<f32>, 16>, 16>;
@compute @workgroup_size(256)
fn step(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= stepShape.workgroups) { return; }
  let vectors = stepShape.valueDim / 4u;
  let tiles = (vectors + 15u) / 16u;
  let index = id / tiles;
  let batch = index / stepShape.heads;
  let head = index % stepShape.heads;
  let column = id % tiles * 16u + thread % 16u;
  let queryAt = (batch * stepShape.queryHeads + head / stepShape.queryGroup) * (stepShape.headDim / 4u);
  let keyAt = (batch * stepShape.keyHeads + head / stepShape.keyGroup) * (stepShape.headDim / 4u);
  let stateRow = select(batch, table[min(batch, arrayLength(&table) - 1u)].x, stepShape.rowTable != 0u);
  let stateAt = (stateRow * stepShape.heads + head) * stepShape.headDim;
  let change = decays[head];
  let keep = select(0.0, 1.0, change <= 0.0);
  var sum = vec4<f32>();
  if (column < vectors) {
    let value = vec4<f32>(v[index * vectors + column]);
    for (var row = thread / 16u; row < stepShape.headDim; row += 16u) {
      let at = (stateAt + row) * vectors + column;
      let old = states[at];
      let update = fma(vec4<f32>(f32(k[keyAt + row / 4u][row % 4u])), value, change * old);
      let next = fma(vec4<f32>(keep), old, update);
      states[at] = next;
      sum = fma(vec4<f32>(f32(q[queryAt + row / 4u][row % 4u])), next, sum);
    }
  }
  partial[thread / 16u][thread % 16u] = sum;
  for (var half = 8u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread / 16u < half) { partial[thread / 16u][thread % 16u] += partial[thread / 16u + half][thread % 16u]; }
  }
  if (thread < 16u && column < vectors) {
    output[index * vectors + column] = vec4<O>(stepShape.scale * partial[0][thread]);
  }
}
`;

// gpu/lightningBackward.wgsl
const lightningBackwardSource = `struct Heads {
  size: u32,
  group: u32,
  width: u32,
  add: u32,
}
@group(0) @binding(15) var<uniform> heads: Heads;
@group(0) @binding(0) var<storage, read> sharedHeads: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> copies: array<vec4f>;
@group(0) @binding(0) var<storage, read_write> sums: array<vec4f>;
@group(0) @binding(1) var<storage, read> terms: array<vec4f>;
@compute @workgroup_size(64)
fn repeatHeads(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 64 + thread;
  if (i >= heads.size) { return; }
  let at = i / heads.width * heads.group * heads.width + i % heads.width;
  for (var head = 0u; head < heads.group; head++) { copies[at + head * heads.width] = sharedHeads[i]; }
}
@compute @workgroup_size(64)
fn sumHeads(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 64 + thread;
  if (i >= heads.size) { return; }
  let at = i / heads.width * heads.group * heads.width + i % heads.width;
  var sum = vec4f();
  if (heads.add != 0) { sum = sums[i]; }
  for (var head = 0u; head < heads.group; head++) { sum += terms[at + head * heads.width]; }
  sums[i] = sum;
}
struct States {
  size: u32,
  headDim: u32,
  valueDim: u32,
  toHeadDim: u32,
  toValueDim: u32,
}
@group(0) @binding(15) var<uniform> sizes: States;
@group(0) @binding(0) var<storage, read> states: array<f32>;
@group(0) @binding(1) var<storage, read_write> transposed: array<f32>;
@compute @workgroup_size(64)
fn transposeStates(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 64 + thread;
  if (i >= sizes.size) { return; }
  let row = i % sizes.toHeadDim;
  let column = i / sizes.toHeadDim % sizes.toValueDim;
  let index = i / sizes.toHeadDim / sizes.toValueDim;
  let inside = row < sizes.headDim && column < sizes.valueDim;
  transposed[i] = select(0.0, states[(index * sizes.headDim + row) * sizes.valueDim + column], inside);
}
`;

// gpu/tile.wgsl
const tileSource = `override WIDE: bool;
override THREADS: u32;
override BUFFERS: u32;
const INNER = 16u;
var<workgroup> left: array<array<array<vec4<f32>, 32>, INNER>, BUFFERS>;
var<workgroup> right: array<array<array<vec4<f32>, 32>, INNER>, BUFFERS>;
struct Tile { upper: Rows, lower: Rows }
fn addTerm(accumulators: ptr<function, Tile>, buffer: u32, i: u32, row: u32, column: u32) {
  let a0 = left[buffer][i][row];
  let a1 = left[buffer][i][row + select(8u, 16u, WIDE)];
  let b0 = right[buffer][i][column];
  if (WIDE) {
    let b1 = right[buffer][i][column + 16u];
    (*accumulators).upper = outerRows((*accumulators).upper, a0, b0, b1);
    (*accumulators).lower = outerRows((*accumulators).lower, a1, b0, b1);
  } else {
    (*accumulators).upper.left = outer((*accumulators).upper.left, a0, b0);
    (*accumulators).lower.left = outer((*accumulators).lower.left, a1, b0);
  }
}
fn addTerms(accumulators: ptr<function, Tile>, buffer: u32, row: u32, column: u32) {
  addTerm(accumulators, buffer, 0u, row, column);
  addTerm(accumulators, buffer, 1u, row, column);
  addTerm(accumulators, buffer, 2u, row, column);
  addTerm(accumulators, buffer, 3u, row, column);
  addTerm(accumulators, buffer, 4u, row, column);
  addTerm(accumulators, buffer, 5u, row, column);
  addTerm(accumulators, buffer, 6u, row, column);
  addTerm(accumulators, buffer, 7u, row, column);
  addTerm(accumulators, buffer, 8u, row, column);
  addTerm(accumulators, buffer, 9u, row, column);
  addTerm(accumulators, buffer, 10u, row, column);
  addTerm(accumulators, buffer, 11u, row, column);
  addTerm(accumulators, buffer, 12u, row, column);
  addTerm(accumulators, buffer, 13u, row, column);
  addTerm(accumulators, buffer, 14u, row, column);
  addTerm(accumulators, buffer, 15u, row, column);
}
`;

// gpu/linear.wgsl
const linearSource = `override PACKED: bool;
override BIAS: bool;
override RESIDUAL: bool;
struct Parameters {
  rows: u32,
  inVectors: u32,
  outCount: u32,
  firstOut: u32,
  stride: u32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4<X>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<Weight>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
fn weights(at: u32) -> vec4<f32> {
  if (PACKED) {
    let words = vec4<u32>(weight[at / 2u]);
    return fromBfloat16s(select(words.xy, words.zw, at % 2u == 1u));
  }
  return vec4<f32>(weight[at]);
}
@group(0) @binding(2) var<storage, read> bias: array<vec4<Bias>>;
@group(0) @binding(3) var<storage, read> residual: array<vec4<Residual>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<Output>>;
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
  let row = thread / 64u * 4u + thread % 32u / 8u;
  let column = thread / 32u % 2u * 8u + thread % 8u;
  let quad = thread % 4u;
  let group = thread / 4u % (THREADS / 8u);
  let inVectors = parameters.inVectors;
  let forLeft = thread < THREADS / 2u;
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
      addTerms(&accumulators, buffer, row, column);
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
`;

// gpu/linearBackward.wgsl
const linearBackwardSource = `override RESIDUAL: bool;
override ADD: bool;
const EDGE = 128u;
struct Parameters {
  rows: u32,
  step: u32,
  dyStride: u32,
  xStride: u32,
  firstOut: u32,
  outCount: u32,
  inDim: u32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dWeight: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
fn write(at: u32, value: f32) {
  if (ADD) { dWeight[at] += value; } else { dWeight[at] = value; }
}
fn writeRow(first: u32, out: u32, column: u32, sum: vec4<f32>) {
  let skipped = parameters.firstOut % 4u;
  if (out < skipped || out >= skipped + parameters.outCount) { return; }
  let at = first + (out - skipped) * parameters.inDim + column;
  if (column < parameters.inDim) { write(at, sum.x); }
  if (column + 1u < parameters.inDim) { write(at + 1u, sum.y); }
  if (column + 2u < parameters.inDim) { write(at + 2u, sum.z); }
  if (column + 3u < parameters.inDim) { write(at + 3u, sum.w); }
}
fn writeTile(first: u32, out: u32, column: u32, accumulators: mat4x4<f32>) {
  writeRow(first, out, column, accumulators[0]);
  writeRow(first, out + 1u, column, accumulators[1].wzyx);
  writeRow(first, out + 2u, column, accumulators[2]);
  writeRow(first, out + 3u, column, accumulators[3].wzyx);
}
@compute @workgroup_size(256)
fn weights(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let across = (parameters.inDim + EDGE - 1u) / EDGE;
  let down = (parameters.firstOut % 4u + parameters.outCount + EDGE - 1u) / EDGE;
  let range = id / (across * down);
  let firstOut = id / across % down * EDGE;
  let firstColumn = id % across * EDGE;
  let row = thread / 64u * 4u + thread % 32u / 8u;
  let column = thread / 32u % 2u * 8u + thread % 8u;
  let group = thread % 32u;
  let term = thread / 32u;
  let dyColumn = min((parameters.firstOut / 4u) + firstOut / 4u + group, parameters.dyStride - 1u);
  let xColumn = min(firstColumn / 4u + group, parameters.xStride - 1u);
  let start = range * parameters.step;
  let end = min(start + parameters.step, parameters.rows);
  let last = end - 1u;
  var accumulators = Tile();
  var a0 = vec4<f32>(); var a1 = vec4<f32>(); var b0 = vec4<f32>(); var b1 = vec4<f32>();
  for (var i = start; i < end + INNER; i += INNER) {
    if (i < end) {
      let r0 = min(i + term, last);
      let r1 = min(i + term + 8u, last);
      a0 = dy[r0 * parameters.dyStride + dyColumn];
      a1 = dy[r1 * parameters.dyStride + dyColumn];
      b0 = x[r0 * parameters.xStride + xColumn];
      b1 = x[r1 * parameters.xStride + xColumn];
    }
    if (i > start) {
      let buffer = ((i - start) / INNER - 1u) % BUFFERS;
      addTerms(&accumulators, buffer, row, column);
    }
    if (i < end) {
      let buffer = (i - start) / INNER % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      let inside0 = i + term < end;
      let inside1 = i + term + 8u < end;
      left[buffer][term][group] = select(vec4<f32>(), a0, inside0);
      left[buffer][term + 8u][group] = select(vec4<f32>(), a1, inside1);
      right[buffer][term][group] = select(vec4<f32>(), b0, inside0);
      right[buffer][term + 8u][group] = select(vec4<f32>(), b1, inside1);
      workgroupBarrier();
    }
  }
  let first = range * parameters.outCount * parameters.inDim;
  let out = firstOut + 4u * row;
  let inColumn = firstColumn + 4u * column;
  writeTile(first, out, inColumn, accumulators.upper.left);
  writeTile(first, out, inColumn + 64u, accumulators.upper.right);
  writeTile(first, out + 64u, inColumn, accumulators.lower.left);
  writeTile(first, out + 64u, inColumn + 64u, accumulators.lower.right);
}
struct Sizes {
  rows: u32,
  terms: u32,
  firstTerm: u32,
  outVectors: u32,
  inVectors: u32,
  workgroups: u32,
}
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<f32>>;
@group(0) @binding(15) var<uniform> sizes: Sizes;
fn writeInputRow(row: u32, column: u32, sum: vec4<f32>) {
  if (row >= sizes.rows || column >= sizes.inVectors) { return; }
  let at = row * sizes.inVectors + column;
  var d = sum;
  if (RESIDUAL) { d += residual[at]; }
  if (ADD) { d += dx[at]; }
  dx[at] = d;
}
fn writeInputTile(row: u32, column: u32, accumulators: mat4x4<f32>) {
  writeInputRow(row, column, accumulators[0]);
  writeInputRow(row + 1u, column, accumulators[1].wzyx);
  writeInputRow(row + 2u, column, accumulators[2]);
  writeInputRow(row + 3u, column, accumulators[3].wzyx);
}
@compute @workgroup_size(THREADS)
fn input(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= sizes.workgroups) { return; }
  let edge = select(64u, 128u, WIDE);
  let inVectors = sizes.inVectors;
  let tiles = (4u * inVectors + edge - 1u) / edge;
  let firstRow = id / tiles * edge;
  let firstColumn = id % tiles * edge / 4u;
  let row = thread / 64u * 4u + thread % 32u / 8u;
  let column = thread / 32u % 2u * 8u + thread % 8u;
  let forLeft = thread < THREADS / 2u;
  let other = thread % (THREADS / 2u);
  let quad = select(other / (edge / 4u), other % 4u, forLeft);
  let group = select(other % (edge / 4u), other / 4u, forLeft);
  let lastRow = sizes.rows - 1u;
  let dyColumn = sizes.firstTerm / 4u + quad;
  let at0 = min(firstRow + 4u * group, lastRow) * sizes.outVectors + dyColumn;
  let at1 = min(firstRow + 4u * group + 1u, lastRow) * sizes.outVectors + dyColumn;
  let at2 = min(firstRow + 4u * group + 2u, lastRow) * sizes.outVectors + dyColumn;
  let at3 = min(firstRow + 4u * group + 3u, lastRow) * sizes.outVectors + dyColumn;
  let weightColumn = min(firstColumn + group, inVectors - 1u);
  let lastTerm = sizes.terms - 1u;
  let vectors = (sizes.terms + 3u) / 4u;
  var accumulators = Tile();
  var l0 = vec4<f32>();
  var l1 = vec4<f32>();
  var l2 = vec4<f32>();
  var l3 = vec4<f32>();
  for (var i = 0u; i < vectors + INNER / 4u; i += INNER / 4u) {
    if (i < vectors) {
      if (forLeft) {
        l0 = dy[at0 + i];
        l1 = dy[at1 + i];
        l2 = dy[at2 + i];
        l3 = dy[at3 + i];
      } else {
        let term = 4u * (i + quad);
        l0 = weight[min(term, lastTerm) * inVectors + weightColumn];
        l1 = weight[min(term + 1u, lastTerm) * inVectors + weightColumn];
        l2 = weight[min(term + 2u, lastTerm) * inVectors + weightColumn];
        l3 = weight[min(term + 3u, lastTerm) * inVectors + weightColumn];
      }
    }
    if (i > 0u) {
      let buffer = (i / (INNER / 4u) - 1u) % BUFFERS;
      addTerms(&accumulators, buffer, row, column);
    }
    if (i < vectors) {
      let buffer = i / (INNER / 4u) % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      let inside = i + quad < vectors;
      l0 = select(vec4<f32>(), l0, inside);
      l1 = select(vec4<f32>(), l1, inside);
      l2 = select(vec4<f32>(), l2, inside);
      l3 = select(vec4<f32>(), l3, inside);
      if (forLeft) {
        let columns = transpose(mat4x4<f32>(l0, l1, l2, l3));
        left[buffer][4u * quad][group] = columns[0];
        left[buffer][4u * quad + 1u][group] = columns[1];
        left[buffer][4u * quad + 2u][group] = columns[2];
        left[buffer][4u * quad + 3u][group] = columns[3];
      } else {
        right[buffer][4u * quad][group] = l0;
        right[buffer][4u * quad + 1u][group] = l1;
        right[buffer][4u * quad + 2u][group] = l2;
        right[buffer][4u * quad + 3u][group] = l3;
      }
      workgroupBarrier();
    }
  }
  let outRow = firstRow + 4u * row;
  let outColumn = firstColumn + column;
  writeInputTile(outRow, outColumn, accumulators.upper.left);
  writeInputTile(outRow + edge / 2u, outColumn, accumulators.lower.left);
  if (WIDE) {
    writeInputTile(outRow, outColumn + 16u, accumulators.upper.right);
    writeInputTile(outRow + edge / 2u, outColumn + 16u, accumulators.lower.right);
  }
}
`;

// gpu/lrpe.wgsl
const lrpeSource = `struct Parameters {
  count: u32,
  firstRow: u32,
  seqLen: u32,
  heads: u32,
  headDim: u32,
}
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> theta: array<Theta>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read_write> output: array<Output>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.count) { return; }
  let hidden = parameters.heads * parameters.headDim;
  let row = parameters.firstRow + i / hidden;
  let position = positions[row / parameters.seqLen] + row % parameters.seqLen;
  let encoded = f32(x[i]) * cosSin(f32(theta[i % hidden]), position);
  let first = i / parameters.headDim * 2 * parameters.headDim + i % parameters.headDim;
  output[first] = Output(encoded.x);
  output[first + parameters.headDim] = Output(encoded.y);
}
`;

// gpu/lrpeBackward.wgsl
const lrpeBackwardSource = `const THREADS = 64u;
struct Parameters {
  rows: u32,
  step: u32,
  firstRow: u32,
  seqLen: u32,
  heads: u32,
  headDim: u32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> theta: array<f32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> dTheta: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let headDim = parameters.headDim;
  let hidden = parameters.heads * headDim;
  let groups = (hidden + THREADS - 1) / THREADS;
  let range = id / groups;
  let i = id % groups * THREADS + thread;
  if (i >= hidden) { return; }
  let angle = theta[i];
  let end = min((range + 1) * parameters.step, parameters.rows);
  var sum = 0.0;
  for (var row = range * parameters.step; row < end; row++) {
    let global = parameters.firstRow + row;
    let position = positions[global / parameters.seqLen] + global % parameters.seqLen;
    let rotation = cosSin(angle, position);
    let at = row * 2 * hidden + i / headDim * 2 * headDim + i % headDim;
    let a = dy[at];
    let b = dy[at + headDim];
    dx[row * hidden + i] = a * rotation.x + b * rotation.y;
    sum += f32(position) * x[row * hidden + i] * (b * rotation.x - a * rotation.y);
  }
  dTheta[range * hidden + i] = sum;
}
`;

// gpu/mixerStep.wgsl
const mixerStepSource = `override HEAD: u32;
override KEYS: u32;
struct Parameters {
  workgroups: u32,
  heads: u32,
  rowTable: u32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> decays: array<f32>;
@group(0) @binding(2) var<storage, read> theta: array<f32>;
@group(0) @binding(3) var<storage, read> tokens: array<vec2u>;
@group(0) @binding(4) var<storage, read_write> states: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> attended: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> gated: array<vec4<f32>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
var<workgroup> queries: array<f32, KEYS>;
var<workgroup> keys: array<f32, KEYS>;
var<workgroup> partial: array<array<vec4<f32>, 16>, 16>;
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let heads = parameters.heads;
  let vectors = HEAD / 4u;
  let tiles = (vectors + 15u) / 16u;
  let index = id / tiles;
  let row = index / heads;
  let head = index % heads;
  let queryAt = (row * 4u * heads + head) * vectors;
  let keyAt = queryAt + heads * vectors;
  for (var i = thread; i < HEAD; i += 256u) {
    let query = activate(x[queryAt + i / 4u][i % 4u], 0);
    let key = activate(x[keyAt + i / 4u][i % 4u], 0);
    if (KEYS > HEAD) {
      let encoded = cosSin(theta[head * HEAD + i], tokens[row].x);
      queries[i] = query * encoded.x;
      queries[i + HEAD] = query * encoded.y;
      keys[i] = key * encoded.x;
      keys[i + HEAD] = key * encoded.y;
    } else {
      queries[i] = query;
      keys[i] = key;
    }
  }
  workgroupBarrier();
  let column = id % tiles * 16u + thread % 16u;
  var stateRow = row;
  if (parameters.rowTable != 0u) { stateRow = tokens[row].y; }
  let stateAt = (stateRow * heads + head) * KEYS;
  let change = decays[head];
  let keep = select(0.0, 1.0, change <= 0.0);
  var sum = vec4<f32>();
  if (column < vectors) {
    let value = x[keyAt + heads * vectors + column];
    for (var i = thread / 16u; i < KEYS; i += 16u) {
      let at = (stateAt + i) * vectors + column;
      let old = states[at];
      let update = fma(vec4<f32>(keys[i]), value, change * old);
      let next = fma(vec4<f32>(keep), old, update);
      states[at] = next;
      sum = fma(vec4<f32>(queries[i]), next, sum);
    }
  }
  partial[thread / 16u][thread % 16u] = sum;
  for (var half = 8u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread / 16u < half) { partial[thread / 16u][thread % 16u] += partial[thread / 16u + half][thread % 16u]; }
  }
  if (thread < 16u && column < vectors) {
    let o = partial[0][thread];
    attended[index * vectors + column] = o;
    gated[index * vectors + column] = o * x[keyAt + 2u * heads * vectors + column];
  }
}
`;

// gpu/multiply.wgsl
const multiplySource = `@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> y: array<Y>;
@group(0) @binding(2) var<storage, read_write> output: array<Output>;
@group(0) @binding(15) var<uniform> count: u32;
const THREADS = 256u;
const EACH = 4u;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let first = folded(workgroup, workgroups) * THREADS * EACH + thread;
  for (var j = 0u; j < EACH; j++) {
    let i = first + j * THREADS;
    if (i < count) { output[i] = Output(f32(x[i]) * f32(y[i])); }
  }
}
`;

// gpu/norm.wgsl
const normSource = `override WORKGROUP: u32;
override AFFINE: bool;
override CENTRED: bool;
override GATED: bool;
struct Parameters {
  rows: u32,
  width: u32,
  eps: f32,
}
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> weight: array<Weight>;
@group(0) @binding(2) var<storage, read> bias: array<Bias>;
@group(0) @binding(3) var<storage, read> gate: array<Gate>;
@group(0) @binding(4) var<storage, read_write> output: array<Output>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
var<workgroup> sums: array<f32, WORKGROUP>;
@compute @workgroup_size(WORKGROUP)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let width = parameters.width;
  let first = row * width;
  var mean = 0.0;
  if (CENTRED) {
    var sum = 0.0;
    for (var i = thread; i < width; i += WORKGROUP) { sum += f32(x[first + i]); }
    mean = total(sum, thread) / f32(width);
  }
  var square = 0.0;
  for (var i = thread; i < width; i += WORKGROUP) {
    let centered = f32(x[first + i]) - mean;
    square += centered * centered;
  }
  let factor = 1.0 / sqrt(total(square, thread) / f32(width) + parameters.eps);
  for (var i = thread; i < width; i += WORKGROUP) {
    var value = (f32(x[first + i]) - mean) * factor;
    if (AFFINE) { value *= f32(weight[i]); }
    if (CENTRED) { value += f32(bias[i]); }
    if (GATED) { value *= f32(gate[first + i]); }
    output[first + i] = Output(value);
  }
}
fn total(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
  sums[thread] = value;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { sums[thread] += sums[thread + half]; }
  }
  return workgroupUniformLoad(&sums[0]);
}
`;

// gpu/normBackward.wgsl
const normBackwardSource = `override WORKGROUP: u32;
override AFFINE: bool;
override CENTRED: bool;
override GATED: bool;
override RESIDUAL: bool;
struct Parameters {
  rows: u32,
  width: u32,
  eps: f32,
  step: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
var<workgroup> sums: array<f32, WORKGROUP>;
fn gated(at: u32) -> f32 {
  var d = dy[at];
  if (GATED) { d *= gate[at]; }
  return d;
}
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;
@group(0) @binding(7) var<storage, read_write> dGate: array<f32>;
@compute @workgroup_size(WORKGROUP)
fn input(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let width = parameters.width;
  let first = row * width;
  let mean = meanOf(first, thread);
  let r = factorOf(first, mean, thread);
  var sumG = 0.0;
  var sumGn = 0.0;
  for (var i = thread; i < width; i += WORKGROUP) {
    var g = gated(first + i);
    if (AFFINE) { g *= weight[i]; }
    sumG += g;
    sumGn += g * (x[first + i] - mean) * r;
  }
  let meanGn = total(sumGn, thread) / f32(width);
  var meanG = 0.0;
  if (CENTRED) { meanG = total(sumG, thread) / f32(width); }
  for (var i = thread; i < width; i += WORKGROUP) {
    let n = (x[first + i] - mean) * r;
    var g = gated(first + i);
    var y = n;
    if (AFFINE) {
      g *= weight[i];
      y = n * weight[i];
    }
    if (CENTRED) { y += bias[i]; }
    if (GATED) { dGate[first + i] = dy[first + i] * y; }
    var d = r * (g - meanG - n * meanGn);
    if (RESIDUAL) { d += residual[first + i]; }
    dx[first + i] = d;
  }
}
@group(0) @binding(3) var<storage, read_write> dWeight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dBias: array<f32>;
@compute @workgroup_size(WORKGROUP)
fn affine(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  let begin = id * parameters.step;
  let end = min(begin + parameters.step, parameters.rows);
  for (var row = begin; row < end; row++) {
    let first = row * parameters.width;
    let mean = meanOf(first, thread);
    let r = factorOf(first, mean, thread);
    for (var i = thread; i < parameters.width; i += WORKGROUP) {
      let d = gated(first + i);
      let term = d * (x[first + i] - mean) * r;
      let at = id * parameters.width + i;
      if (row == begin) {
        dWeight[at] = term;
        dBias[at] = d;
      } else {
        dWeight[at] += term;
        dBias[at] += d;
      }
    }
  }
}
fn meanOf(first: u32, thread: u32) -> f32 {
  if (!CENTRED) { return 0; }
  var sum = 0.0;
  for (var i = thread; i < parameters.width; i += WORKGROUP) { sum += x[first + i]; }
  return total(sum, thread) / f32(parameters.width);
}
fn factorOf(first: u32, mean: f32, thread: u32) -> f32 {
  var square = 0.0;
  for (var i = thread; i < parameters.width; i += WORKGROUP) {
    let centered = x[first + i] - mean;
    square += centered * centered;
  }
  return 1 / sqrt(total(square, thread) / f32(parameters.width) + parameters.eps);
}
fn total(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
  sums[thread] = value;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { sums[thread] += sums[thread + half]; }
  }
  return workgroupUniformLoad(&sums[0]);
}
`;

// gpu/pad.wgsl
const padSource = `override PACKED: bool;
struct Parameters {
  size: u32,
  rows: u32,
  columns: u32,
  toRows: u32,
  toColumns: u32,
}
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read_write> y: array<Y>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
fn element(i: u32) -> f32 {
  if (PACKED) { return fromBfloat16(u32(x[i / 2u]), i % 2u == 1u); }
  return f32(x[i]);
}
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.size) { return; }
  let column = i % parameters.toColumns;
  let row = i / parameters.toColumns % parameters.toRows;
  let index = i / parameters.toColumns / parameters.toRows;
  let inside = row < parameters.rows && column < parameters.columns;
  y[i] = Y(select(0, element((index * parameters.rows + row) * parameters.columns + column), inside));
}
`;

// gpu/quantizedRows.wgsl
const quantizedRowsSource = `override BITS: u32;
override GROUP: u32;
override BY_ID: bool;
struct Parameters {
  size: u32,
  inDim: u32,
  words: u32,
  scalesAt: u32,
  first: u32,
  rows: u32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<Output>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256u + thread;
  if (i >= parameters.size) { return; }
  var row = i / parameters.inDim;
  if (BY_ID) { row = ids[row] - parameters.first; }
  if (row >= parameters.rows) { return; }
  let column = i % parameters.inDim;
  let words = row * parameters.words;
  let bit = column * BITS % 32u;
  let bits = table[words + column * BITS / 32u];
  let integer = select(i32((bits >> bit) & 15u) - 8, i32(bits << (24u - min(bit, 24u))) >> 24u, BITS == 8u);
  let group = column / GROUP;
  let pair = table[words + parameters.scalesAt + group / 2u];
  let scale = bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, group % 2u == 1u));
  output[i] = Output(f32(integer) * (scale * parameters.scale));
}
`;

// gpu/rows.wgsl
const rowsSource = `override PACKED: bool;
struct Parameters {
  count: u32,
  width: u32,
  first: u32,
  rows: u32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> table: array<Table>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<Output>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
fn element(i: u32) -> f32 {
  if (PACKED) { return fromBfloat16(u32(table[i / 2u]), i % 2u == 1u); }
  return f32(table[i]);
}
@compute @workgroup_size(256)
fn gather(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.count) { return; }
  let row = ids[i / parameters.width] - parameters.first;
  if (row < parameters.rows) {
    output[i] = Output(element(row * parameters.width + i % parameters.width) * parameters.scale);
  }
}
@compute @workgroup_size(256)
fn scatter(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.count) { return; }
  let row = ids[i / parameters.width] - parameters.first;
  if (row < parameters.rows) {
    output[row * parameters.width + i % parameters.width] = Output(f32(table[i]) * parameters.scale);
  }
}
`;

// gpu/splitHeads.wgsl
const splitHeadsSource = `const QUERY = 0u;
const KEY = 1u;
const VALUE = 2u;
struct Parameters {
  workgroups: u32,
  parts: u32,
  heads: u32,
  headDim: u32,
}
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read_write> q: array<Output>;
@group(0) @binding(2) var<storage, read_write> k: array<Output>;
@group(0) @binding(3) var<storage, read_write> v: array<Output>;
@group(0) @binding(4) var<storage, read_write> u: array<Output>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = folded(workgroup, workgroups);
  if (index >= parameters.workgroups) { return; }
  let headDim = parameters.headDim;
  let head = index % parameters.heads;
  let part = index / parameters.heads % parameters.parts;
  let row = index / parameters.heads / parameters.parts;
  let source = index * headDim;
  let destination = (row * parameters.heads + head) * headDim;
  var maximum = 0.0;
  if (ACTIVATION == EXP) {
    maximum = f32(x[source]);
    for (var i = thread; i < headDim; i += THREADS) { maximum = max(maximum, f32(x[source + i])); }
    maximum = maximumOver(maximum, thread);
  }
  for (var i = thread; i < headDim; i += THREADS) {
    let value = f32(x[source + i]);
    switch part {
      case QUERY: { q[destination + i] = Output(activate(value, maximum)); }
      case KEY: { k[destination + i] = Output(activate(value, maximum)); }
      case VALUE: { v[destination + i] = Output(value); }
      default: { u[destination + i] = Output(value); }
    }
  }
}
`;

// gpu/splitHeadsBackward.wgsl
const splitHeadsBackwardSource = `const QUERY = 0u;
const KEY = 1u;
const VALUE = 2u;
struct Parameters {
  workgroups: u32,
  parts: u32,
  heads: u32,
  headDim: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dq: array<f32>;
@group(0) @binding(2) var<storage, read> dk: array<f32>;
@group(0) @binding(3) var<storage, read> dv: array<f32>;
@group(0) @binding(4) var<storage, read> du: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = folded(workgroup, workgroups);
  if (index >= parameters.workgroups) { return; }
  let headDim = parameters.headDim;
  let head = index % parameters.heads;
  let part = index / parameters.heads % parameters.parts;
  let row = index / parameters.heads / parameters.parts;
  let joint = index * headDim;
  let split = (row * parameters.heads + head) * headDim;
  var maximum = 0.0;
  if (ACTIVATION == EXP) {
    maximum = x[joint];
    for (var i = thread; i < headDim; i += THREADS) { maximum = max(maximum, x[joint + i]); }
    maximum = maximumOver(maximum, thread);
  }
  for (var i = thread; i < headDim; i += THREADS) {
    var d: f32;
    switch part {
      case QUERY: { d = dq[split + i] * derivative(x[joint + i], maximum); }
      case KEY: { d = dk[split + i] * derivative(x[joint + i], maximum); }
      case VALUE: { d = dv[split + i]; }
      default: { d = du[split + i]; }
    }
    dx[joint + i] = d;
  }
}
`;

// gpu/sums.wgsl
const sumsSource = `override COLUMNS: u32;
override SQUARE: bool;
override ADD: bool;
const THREADS = 256u;
struct Parameters {
  rows: u32,
  width: u32,
  step: u32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
var<workgroup> sums: array<f32, THREADS>;
@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let width = parameters.width;
  let groups = (width + COLUMNS - 1) / COLUMNS;
  let range = id / groups;
  let column = id % groups * COLUMNS + thread % COLUMNS;
  let inside = column < width;
  var sum = 0.0;
  if (inside) {
    let end = min((range + 1) * parameters.step, parameters.rows);
    let first = range * parameters.step + thread / COLUMNS;
    if (COLUMNS == THREADS) {
      var four = vec4f();
      for (var row = first; row < end; row += 4) {
        let at = row * width + column;
        let last = end - row - 1;
        let values = vec4f(
          x[at],
          x[at + min(1, last) * width],
          x[at + min(2, last) * width],
          x[at + min(3, last) * width],
        );
        four += select(vec4f(), values, vec4u(0, 1, 2, 3) <= vec4u(last));
      }
      sum = (four.x + four.z) + (four.y + four.w);
    } else {
      for (var row = first; row < end; row += THREADS / COLUMNS) {
        let value = x[row * width + column];
        if (SQUARE) { sum = fma(value, value, sum); } else { sum += value; }
      }
    }
  }
  sums[thread] = sum;
  for (var half = THREADS / 2; half >= COLUMNS; half /= 2) {
    workgroupBarrier();
    if (thread < half) { sums[thread] += sums[thread + half]; }
  }
  if (thread < COLUMNS && inside) {
    let at = range * width + column;
    if (ADD) { y[at] += sums[thread]; } else { y[at] = sums[thread]; }
  }
}
`;

// gpu/topLogits.wgsl
const topLogitsSource = `const CHUNK = 1024u;
const THREADS = 256u;
const LOWEST = -3.4028234663852886e38;
struct Parameters {
  size: u32,
  count: u32,
  workgroups: u32,
  ofRow: u32,
  parts: u32,
}
@group(0) @binding(0) var<storage, read> logits: array<Logit>;
@group(0) @binding(1) var<storage, read_write> largest: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
@group(0) @binding(0) var<storage, read> candidates: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> allSums: array<vec4<f32>>;
var<workgroup> values: array<f32, CHUNK>;
var<workgroup> ids: array<f32, CHUNK>;
var<workgroup> slots: array<u32, THREADS>;
var<workgroup> partial: array<f32, THREADS>;
var<workgroup> faulty: atomic<u32>;
fn ownLargest(thread: u32) -> u32 {
  var slot = thread;
  for (var i = thread + THREADS; i < CHUNK; i += THREADS) {
    if (values[i] > values[slot]) { slot = i; }
  }
  return slot;
}
fn pick(thread: u32, to: u32) {
  workgroupBarrier();
  var slot = ownLargest(thread);
  for (var i = 0u; i < parameters.count; i++) {
    workgroupBarrier();
    slots[thread] = slot;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
      workgroupBarrier();
      if (thread < half) {
        let a = slots[thread];
        let b = slots[thread + half];
        if (values[b] > values[a] || (values[b] == values[a] && b < a)) { slots[thread] = b; }
      }
    }
    workgroupBarrier();
    let winner = slots[0];
    if (winner % THREADS == thread) {
      largest[to + i] = vec2<f32>(values[winner], ids[winner]);
      values[winner] = LOWEST;
      slot = ownLargest(thread);
    }
  }
}
fn maximumOf(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
  partial[thread] = value;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partial[thread] = max(partial[thread], partial[thread + half]); }
  }
  return workgroupUniformLoad(&partial[0]);
}
fn sumOf(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
  partial[thread] = value;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partial[thread] += partial[thread + half]; }
  }
  return workgroupUniformLoad(&partial[0]);
}
@compute @workgroup_size(THREADS)
fn first(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let chunk = id % parameters.ofRow * CHUNK;
  let row = id / parameters.ofRow * parameters.size;
  var maximum = LOWEST;
  for (var i = thread; i < CHUNK; i += THREADS) {
    let at = chunk + i;
    values[i] = LOWEST;
    if (at < parameters.size) {
      let value = f32(logits[row + at]);
      let bits = bitcast<u32>(value);
      if ((bits & 0x7f800000u) == 0x7f800000u && bits != 0xff800000u) { atomicOr(&faulty, 1u); }
      values[i] = value;
      ids[i] = f32(at);
      maximum = max(maximum, value);
    }
  }
  maximum = maximumOf(maximum, thread);
  var sum = 0.0;
  for (var i = thread; i < CHUNK; i += THREADS) {
    if (chunk + i < parameters.size) { sum += exp(values[i] - maximum); }
  }
  sum = sumOf(sum, thread);
  if (thread == 0u) { sums[id] = vec4<f32>(maximum, sum, f32(atomicLoad(&faulty)), 0); }
  pick(thread, id * parameters.count);
}
@compute @workgroup_size(THREADS)
fn merge(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let chunk = id % parameters.ofRow * CHUNK;
  let row = id / parameters.ofRow;
  for (var i = thread; i < CHUNK; i += THREADS) {
    let at = chunk + i;
    values[i] = LOWEST;
    if (at < parameters.size) {
      values[i] = candidates[row * parameters.size + at].x;
      ids[i] = candidates[row * parameters.size + at].y;
    }
  }
  var to = id * parameters.count;
  if (parameters.parts > 0u) {
    let firstSum = row * parameters.parts;
    var maximum = LOWEST;
    var fault = 0.0;
    for (var i = thread; i < parameters.parts; i += THREADS) {
      maximum = max(maximum, allSums[firstSum + i].x);
      fault += allSums[firstSum + i].z;
    }
    maximum = maximumOf(maximum, thread);
    fault = sumOf(fault, thread);
    var sum = 0.0;
    for (var i = thread; i < parameters.parts; i += THREADS) {
      sum += allSums[firstSum + i].y * exp(allSums[firstSum + i].x - maximum);
    }
    sum = sumOf(sum, thread);
    to = row * (parameters.count + 2u);
    if (thread == 0u) {
      largest[to] = vec2<f32>(maximum, sum);
      largest[to + 1u] = vec2<f32>(fault, 0);
    }
    to += 2u;
  }
  pick(thread, to);
}
`;

const activateModule = /* @__PURE__ */ (() => ({
  code: foldedSource + activationsSource + cosSinSource + activationSource + activateSource,
  overrides: ["ACTIVATION"],
  aliases: ["Output","X"],
} as const))();

/** gpu/activate.wgsl */
export const activate = /* @__PURE__ */ (() => ({
  constants: { THREADS: 64 },
  main: {
    ...activateModule,
    entryPoint: "main",
    threads: 64,
    bindings: {
      x: [0, "read"],
      output: [1, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      width: [1, "u32"],
    },
  },
} as const))();

const activateBackwardModule = /* @__PURE__ */ (() => ({
  code: foldedSource + activationsSource + cosSinSource + activationSource + activateBackwardSource,
  overrides: ["ACTIVATION"],
  aliases: [],
} as const))();

/** gpu/activateBackward.wgsl */
export const activateBackward = /* @__PURE__ */ (() => ({
  constants: { THREADS: 64 },
  main: {
    ...activateBackwardModule,
    entryPoint: "main",
    threads: 64,
    bindings: {
      x: [0, "read"],
      dy: [1, "read"],
      dx: [2, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      width: [1, "u32"],
    },
  },
} as const))();

const adamwModule = /* @__PURE__ */ (() => ({
  code: foldedSource + adamwSource,
  overrides: [],
  aliases: [],
} as const))();

/** gpu/adamw.wgsl */
export const adamw = /* @__PURE__ */ (() => ({
  constants: {},
  main: {
    ...adamwModule,
    entryPoint: "main",
    threads: 256,
    bindings: {
      gradient: [0, "read"],
      squares: [1, "read"],
      parameter: [2, "read_write"],
      first: [3, "read_write"],
      second: [4, "read_write"],
    },
    parameters: {
      count: [0, "u32"],
      keep: [1, "f32"],
      rate: [2, "f32"],
      beta1: [3, "f32"],
      rest1: [4, "f32"],
      beta2: [5, "f32"],
      rest2: [6, "f32"],
      correction: [7, "f32"],
      eps: [8, "f32"],
      maxNorm: [9, "f32"],
    },
  },
} as const))();

const crossEntropyModule = /* @__PURE__ */ (() => ({
  code: foldedSource + crossEntropySource,
  overrides: ["WORKGROUP"],
  aliases: [],
} as const))();

/** gpu/crossEntropy.wgsl */
export const crossEntropy = /* @__PURE__ */ (() => ({
  constants: {},
  main: {
    ...crossEntropyModule,
    entryPoint: "main",
    threads: undefined,
    bindings: {
      logits: [0, "read"],
      labels: [1, "read"],
      loss: [2, "read_write"],
      dLogits: [3, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      vocab: [1, "u32"],
      scale: [2, "f32"],
    },
  },
} as const))();

const embeddingBackwardModule = /* @__PURE__ */ (() => ({
  code: foldedSource + embeddingBackwardSource,
  overrides: ["ADD"],
  aliases: [],
} as const))();

/** gpu/embeddingBackward.wgsl */
export const embeddingBackward = /* @__PURE__ */ (() => ({
  constants: { THREADS: 64 },
  main: {
    ...embeddingBackwardModule,
    entryPoint: "main",
    threads: 64,
    bindings: {
      source: [0, "read"],
      rows: [1, "read"],
      starts: [2, "read"],
      targets: [3, "read"],
      result: [4, "read_write"],
    },
    parameters: {
      width: [0, "u32"],
      first: [1, "u32"],
      count: [2, "u32"],
      scale: [3, "f32"],
      workgroups: [4, "u32"],
    },
  },
} as const))();

const fewRowsModule = /* @__PURE__ */ (() => ({
  code: foldedSource + bfloat16Source + outerSource + fewRowsSource,
  overrides: ["PACKED","BITS","GROUP","RANGES","BIAS","RESIDUAL","NORMED","APART","GATED","TEAM","ROWS","PARTIALS","ROW_GROUPS","COLUMN_GROUPS","POSITIONS","THREADS","STEP","UNITS","GROUPS","PITCH"],
  aliases: ["Bias","Output","Residual","Vectors","Weight","X"],
} as const))();

/** gpu/fewRows.wgsl */
export const fewRows = /* @__PURE__ */ (() => ({
  constants: { LANES: 8, TEAM_THREADS: 128 },
  teams: {
    ...fewRowsModule,
    entryPoint: "teams",
    threads: 128,
    bindings: {
      x: [0, "read"],
      weight: [1, "read"],
      bias: [2, "read"],
      residual: [3, "read"],
      output: [4, "read_write"],
      normed: [5, "read"],
      gateWeight: [6, "read"],
      gateBias: [7, "read"],
    },
    parameters: {
      rows: [0, "u32"],
      inDim: [1, "u32"],
      inVectors: [2, "u32"],
      weightStride: [3, "u32"],
      scalesAt: [4, "u32"],
      outCount: [5, "u32"],
      firstOut: [6, "u32"],
      stride: [7, "u32"],
      rangePairs: [8, "u32"],
      workgroups: [9, "u32"],
      eps: [10, "f32"],
    },
  },
  tiles: {
    ...fewRowsModule,
    entryPoint: "tiles",
    threads: undefined,
    bindings: {
      x: [0, "read"],
      weight: [1, "read"],
      bias: [2, "read"],
      residual: [3, "read"],
      output: [4, "read_write"],
      normed: [5, "read"],
      gateWeight: [6, "read"],
      gateBias: [7, "read"],
    },
    parameters: {
      rows: [0, "u32"],
      inDim: [1, "u32"],
      inVectors: [2, "u32"],
      weightStride: [3, "u32"],
      scalesAt: [4, "u32"],
      outCount: [5, "u32"],
      firstOut: [6, "u32"],
      stride: [7, "u32"],
      rangePairs: [8, "u32"],
      workgroups: [9, "u32"],
      eps: [10, "f32"],
    },
  },
} as const))();

const lightningModule = /* @__PURE__ */ (() => ({
  code: foldedSource + outerSource + lightningSource,
  overrides: ["WIDE_HEAD","WIDE_VALUE","THREADS","HALVES","BUFFERS","ROUNDS","LATER","STEEP","REVERSE"],
  aliases: ["O","PartialRow","S"],
} as const))();

/** gpu/lightning.wgsl */
export const lightning = /* @__PURE__ */ (() => ({
  constants: { TOKENS: 4, UPDATE_TOKENS: 16, PERIOD: 48, ZERO: 0, INITIAL: 1, STATE: 2 },
  updateState: {
    ...lightningModule,
    entryPoint: "updateState",
    threads: undefined,
    bindings: {
      table: [0, "read"],
      decays: [1, "read"],
      scratch: [2, "read_write"],
      k: [3, "read"],
      v: [4, "read"],
    },
    parameters: {
      query: [0, "vec4u"],
      key: [4, "vec4u"],
      value: [8, "vec4u"],
      heads: [12, "u32"],
      queryGroup: [13, "u32"],
      keyGroup: [14, "u32"],
      firstHead: [15, "u32"],
      headCount: [16, "u32"],
      headDim: [17, "u32"],
      valueDim: [18, "u32"],
      workgroups: [19, "u32"],
      segments: [20, "u32"],
      sequences: [21, "u32"],
      firstRow: [22, "u32"],
      stateOrigin: [23, "u32"],
    },
  },
  carryState: {
    ...lightningModule,
    entryPoint: "carryState",
    threads: 64,
    bindings: {
      table: [0, "read"],
      decays: [1, "read"],
      scratch: [2, "read_write"],
      initialState: [3, "read"],
      carriedState: [4, "read"],
    },
    parameters: {
      query: [0, "vec4u"],
      key: [4, "vec4u"],
      value: [8, "vec4u"],
      heads: [12, "u32"],
      queryGroup: [13, "u32"],
      keyGroup: [14, "u32"],
      firstHead: [15, "u32"],
      headCount: [16, "u32"],
      headDim: [17, "u32"],
      valueDim: [18, "u32"],
      workgroups: [19, "u32"],
      segments: [20, "u32"],
      sequences: [21, "u32"],
      firstRow: [22, "u32"],
      stateOrigin: [23, "u32"],
    },
  },
  attend: {
    ...lightningModule,
    entryPoint: "attend",
    threads: undefined,
    bindings: {
      table: [0, "read"],
      decays: [1, "read"],
      scratch: [2, "read_write"],
      k: [3, "read"],
      v: [4, "read"],
      q: [5, "read"],
      output: [6, "read_write"],
      state: [7, "read_write"],
    },
    parameters: {
      query: [0, "vec4u"],
      key: [4, "vec4u"],
      value: [8, "vec4u"],
      heads: [12, "u32"],
      queryGroup: [13, "u32"],
      keyGroup: [14, "u32"],
      firstHead: [15, "u32"],
      headCount: [16, "u32"],
      headDim: [17, "u32"],
      valueDim: [18, "u32"],
      workgroups: [19, "u32"],
      segments: [20, "u32"],
      sequences: [21, "u32"],
      firstRow: [22, "u32"],
      stateOrigin: [23, "u32"],
    },
  },
  step: {
    ...lightningModule,
    entryPoint: "step",
    threads: 256,
    bindings: {
      table: [0, "read"],
      decays: [1, "read"],
      states: [2, "read_write"],
      k: [3, "read"],
      v: [4, "read"],
      q: [5, "read"],
      output: [6, "read_write"],
    },
    parameters: {
      heads: [0, "u32"],
      queryHeads: [1, "u32"],
      keyHeads: [2, "u32"],
      queryGroup: [3, "u32"],
      keyGroup: [4, "u32"],
      headDim: [5, "u32"],
      valueDim: [6, "u32"],
      workgroups: [7, "u32"],
      rowTable: [8, "u32"],
      scale: [9, "f32"],
    },
  },
} as const))();

const lightningBackwardModule = /* @__PURE__ */ (() => ({
  code: foldedSource + lightningBackwardSource,
  overrides: [],
  aliases: [],
} as const))();

/** gpu/lightningBackward.wgsl */
export const lightningBackward = /* @__PURE__ */ (() => ({
  constants: {},
  repeatHeads: {
    ...lightningBackwardModule,
    entryPoint: "repeatHeads",
    threads: 64,
    bindings: {
      sharedHeads: [0, "read"],
      copies: [1, "read_write"],
    },
    parameters: {
      size: [0, "u32"],
      group: [1, "u32"],
      width: [2, "u32"],
      add: [3, "u32"],
    },
  },
  sumHeads: {
    ...lightningBackwardModule,
    entryPoint: "sumHeads",
    threads: 64,
    bindings: {
      sums: [0, "read_write"],
      terms: [1, "read"],
    },
    parameters: {
      size: [0, "u32"],
      group: [1, "u32"],
      width: [2, "u32"],
      add: [3, "u32"],
    },
  },
  transposeStates: {
    ...lightningBackwardModule,
    entryPoint: "transposeStates",
    threads: 64,
    bindings: {
      states: [0, "read"],
      transposed: [1, "read_write"],
    },
    parameters: {
      size: [0, "u32"],
      headDim: [1, "u32"],
      valueDim: [2, "u32"],
      toHeadDim: [3, "u32"],
      toValueDim: [4, "u32"],
    },
  },
} as const))();

const linearModule = /* @__PURE__ */ (() => ({
  code: foldedSource + bfloat16Source + outerSource + tileSource + linearSource,
  overrides: ["WIDE","THREADS","BUFFERS","PACKED","BIAS","RESIDUAL"],
  aliases: ["Bias","Output","Residual","Weight","X"],
} as const))();

/** gpu/linear.wgsl */
export const linear = /* @__PURE__ */ (() => ({
  constants: { INNER: 16 },
  tiled: {
    ...linearModule,
    entryPoint: "tiled",
    threads: undefined,
    bindings: {
      x: [0, "read"],
      weight: [1, "read"],
      bias: [2, "read"],
      residual: [3, "read"],
      output: [4, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      inVectors: [1, "u32"],
      outCount: [2, "u32"],
      firstOut: [3, "u32"],
      stride: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
} as const))();

const linearBackwardModule = /* @__PURE__ */ (() => ({
  code: foldedSource + outerSource + tileSource + linearBackwardSource,
  overrides: ["WIDE","THREADS","BUFFERS","RESIDUAL","ADD"],
  aliases: [],
} as const))();

/** gpu/linearBackward.wgsl */
export const linearBackward = /* @__PURE__ */ (() => ({
  constants: { INNER: 16, EDGE: 128 },
  weights: {
    ...linearBackwardModule,
    entryPoint: "weights",
    threads: 256,
    bindings: {
      dy: [0, "read"],
      x: [1, "read"],
      dWeight: [2, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      step: [1, "u32"],
      dyStride: [2, "u32"],
      xStride: [3, "u32"],
      firstOut: [4, "u32"],
      outCount: [5, "u32"],
      inDim: [6, "u32"],
      workgroups: [7, "u32"],
    },
  },
  input: {
    ...linearBackwardModule,
    entryPoint: "input",
    threads: undefined,
    bindings: {
      dy: [0, "read"],
      weight: [1, "read"],
      residual: [2, "read"],
      dx: [3, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      terms: [1, "u32"],
      firstTerm: [2, "u32"],
      outVectors: [3, "u32"],
      inVectors: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
} as const))();

const lrpeModule = /* @__PURE__ */ (() => ({
  code: foldedSource + cosSinSource + lrpeSource,
  overrides: [],
  aliases: ["Output","Theta","X"],
} as const))();

/** gpu/lrpe.wgsl */
export const lrpe = /* @__PURE__ */ (() => ({
  constants: {},
  main: {
    ...lrpeModule,
    entryPoint: "main",
    threads: 256,
    bindings: {
      x: [0, "read"],
      theta: [1, "read"],
      positions: [2, "read"],
      output: [3, "read_write"],
    },
    parameters: {
      count: [0, "u32"],
      firstRow: [1, "u32"],
      seqLen: [2, "u32"],
      heads: [3, "u32"],
      headDim: [4, "u32"],
    },
  },
} as const))();

const lrpeBackwardModule = /* @__PURE__ */ (() => ({
  code: foldedSource + cosSinSource + lrpeBackwardSource,
  overrides: [],
  aliases: [],
} as const))();

/** gpu/lrpeBackward.wgsl */
export const lrpeBackward = /* @__PURE__ */ (() => ({
  constants: { THREADS: 64 },
  main: {
    ...lrpeBackwardModule,
    entryPoint: "main",
    threads: 64,
    bindings: {
      x: [0, "read"],
      theta: [1, "read"],
      positions: [2, "read"],
      dy: [3, "read"],
      dx: [4, "read_write"],
      dTheta: [5, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      step: [1, "u32"],
      firstRow: [2, "u32"],
      seqLen: [3, "u32"],
      heads: [4, "u32"],
      headDim: [5, "u32"],
      workgroups: [6, "u32"],
    },
  },
} as const))();

const mixerStepModule = /* @__PURE__ */ (() => ({
  code: foldedSource + activationsSource + cosSinSource + activationSource + mixerStepSource,
  overrides: ["ACTIVATION","HEAD","KEYS"],
  aliases: [],
} as const))();

/** gpu/mixerStep.wgsl */
export const mixerStep = /* @__PURE__ */ (() => ({
  constants: { THREADS: 64 },
  main: {
    ...mixerStepModule,
    entryPoint: "main",
    threads: 256,
    bindings: {
      x: [0, "read"],
      decays: [1, "read"],
      theta: [2, "read"],
      tokens: [3, "read"],
      states: [4, "read_write"],
      attended: [5, "read_write"],
      gated: [6, "read_write"],
    },
    parameters: {
      workgroups: [0, "u32"],
      heads: [1, "u32"],
      rowTable: [2, "u32"],
    },
  },
} as const))();

const multiplyModule = /* @__PURE__ */ (() => ({
  code: foldedSource + multiplySource,
  overrides: [],
  aliases: ["Output","X","Y"],
} as const))();

/** gpu/multiply.wgsl */
export const multiply = /* @__PURE__ */ (() => ({
  constants: { THREADS: 256, EACH: 4 },
  main: {
    ...multiplyModule,
    entryPoint: "main",
    threads: 256,
    bindings: {
      x: [0, "read"],
      y: [1, "read"],
      output: [2, "read_write"],
    },
    parameters: {
      count: [0, "u32"],
    },
  },
} as const))();

const normModule = /* @__PURE__ */ (() => ({
  code: foldedSource + normSource,
  overrides: ["WORKGROUP","AFFINE","CENTRED","GATED"],
  aliases: ["Bias","Gate","Output","Weight","X"],
} as const))();

/** gpu/norm.wgsl */
export const norm = /* @__PURE__ */ (() => ({
  constants: {},
  main: {
    ...normModule,
    entryPoint: "main",
    threads: undefined,
    bindings: {
      x: [0, "read"],
      weight: [1, "read"],
      bias: [2, "read"],
      gate: [3, "read"],
      output: [4, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      width: [1, "u32"],
      eps: [2, "f32"],
    },
  },
} as const))();

const normBackwardModule = /* @__PURE__ */ (() => ({
  code: foldedSource + normBackwardSource,
  overrides: ["WORKGROUP","AFFINE","CENTRED","GATED","RESIDUAL"],
  aliases: [],
} as const))();

/** gpu/normBackward.wgsl */
export const normBackward = /* @__PURE__ */ (() => ({
  constants: {},
  input: {
    ...normBackwardModule,
    entryPoint: "input",
    threads: undefined,
    bindings: {
      x: [0, "read"],
      dy: [1, "read"],
      gate: [2, "read"],
      weight: [3, "read"],
      bias: [4, "read"],
      residual: [5, "read"],
      dx: [6, "read_write"],
      dGate: [7, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      width: [1, "u32"],
      eps: [2, "f32"],
      step: [3, "u32"],
    },
  },
  affine: {
    ...normBackwardModule,
    entryPoint: "affine",
    threads: undefined,
    bindings: {
      x: [0, "read"],
      dy: [1, "read"],
      gate: [2, "read"],
      dWeight: [3, "read_write"],
      dBias: [4, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      width: [1, "u32"],
      eps: [2, "f32"],
      step: [3, "u32"],
    },
  },
} as const))();

const padModule = /* @__PURE__ */ (() => ({
  code: foldedSource + bfloat16Source + padSource,
  overrides: ["PACKED"],
  aliases: ["X","Y"],
} as const))();

/** gpu/pad.wgsl */
export const pad = /* @__PURE__ */ (() => ({
  constants: {},
  main: {
    ...padModule,
    entryPoint: "main",
    threads: 256,
    bindings: {
      x: [0, "read"],
      y: [1, "read_write"],
    },
    parameters: {
      size: [0, "u32"],
      rows: [1, "u32"],
      columns: [2, "u32"],
      toRows: [3, "u32"],
      toColumns: [4, "u32"],
    },
  },
} as const))();

const quantizedRowsModule = /* @__PURE__ */ (() => ({
  code: foldedSource + quantizedRowsSource,
  overrides: ["BITS","GROUP","BY_ID"],
  aliases: ["Output"],
} as const))();

/** gpu/quantizedRows.wgsl */
export const quantizedRows = /* @__PURE__ */ (() => ({
  constants: {},
  main: {
    ...quantizedRowsModule,
    entryPoint: "main",
    threads: 256,
    bindings: {
      table: [0, "read"],
      ids: [1, "read"],
      output: [2, "read_write"],
    },
    parameters: {
      size: [0, "u32"],
      inDim: [1, "u32"],
      words: [2, "u32"],
      scalesAt: [3, "u32"],
      first: [4, "u32"],
      rows: [5, "u32"],
      scale: [6, "f32"],
    },
  },
} as const))();

const rowsModule = /* @__PURE__ */ (() => ({
  code: foldedSource + bfloat16Source + rowsSource,
  overrides: ["PACKED"],
  aliases: ["Output","Table"],
} as const))();

/** gpu/rows.wgsl */
export const rows = /* @__PURE__ */ (() => ({
  constants: {},
  gather: {
    ...rowsModule,
    entryPoint: "gather",
    threads: 256,
    bindings: {
      table: [0, "read"],
      ids: [1, "read"],
      output: [2, "read_write"],
    },
    parameters: {
      count: [0, "u32"],
      width: [1, "u32"],
      first: [2, "u32"],
      rows: [3, "u32"],
      scale: [4, "f32"],
    },
  },
  scatter: {
    ...rowsModule,
    entryPoint: "scatter",
    threads: 256,
    bindings: {
      table: [0, "read"],
      ids: [1, "read"],
      output: [2, "read_write"],
    },
    parameters: {
      count: [0, "u32"],
      width: [1, "u32"],
      first: [2, "u32"],
      rows: [3, "u32"],
      scale: [4, "f32"],
    },
  },
} as const))();

const splitHeadsModule = /* @__PURE__ */ (() => ({
  code: foldedSource + activationsSource + cosSinSource + activationSource + splitHeadsSource,
  overrides: ["ACTIVATION"],
  aliases: ["Output","X"],
} as const))();

/** gpu/splitHeads.wgsl */
export const splitHeads = /* @__PURE__ */ (() => ({
  constants: { THREADS: 64, QUERY: 0, KEY: 1, VALUE: 2 },
  main: {
    ...splitHeadsModule,
    entryPoint: "main",
    threads: 64,
    bindings: {
      x: [0, "read"],
      q: [1, "read_write"],
      k: [2, "read_write"],
      v: [3, "read_write"],
      u: [4, "read_write"],
    },
    parameters: {
      workgroups: [0, "u32"],
      parts: [1, "u32"],
      heads: [2, "u32"],
      headDim: [3, "u32"],
    },
  },
} as const))();

const splitHeadsBackwardModule = /* @__PURE__ */ (() => ({
  code: foldedSource + activationsSource + cosSinSource + activationSource + splitHeadsBackwardSource,
  overrides: ["ACTIVATION"],
  aliases: [],
} as const))();

/** gpu/splitHeadsBackward.wgsl */
export const splitHeadsBackward = /* @__PURE__ */ (() => ({
  constants: { THREADS: 64, QUERY: 0, KEY: 1, VALUE: 2 },
  main: {
    ...splitHeadsBackwardModule,
    entryPoint: "main",
    threads: 64,
    bindings: {
      x: [0, "read"],
      dq: [1, "read"],
      dk: [2, "read"],
      dv: [3, "read"],
      du: [4, "read"],
      dx: [5, "read_write"],
    },
    parameters: {
      workgroups: [0, "u32"],
      parts: [1, "u32"],
      heads: [2, "u32"],
      headDim: [3, "u32"],
    },
  },
} as const))();

const sumsModule = /* @__PURE__ */ (() => ({
  code: foldedSource + sumsSource,
  overrides: ["COLUMNS","SQUARE","ADD"],
  aliases: [],
} as const))();

/** gpu/sums.wgsl */
export const sums = /* @__PURE__ */ (() => ({
  constants: { THREADS: 256 },
  main: {
    ...sumsModule,
    entryPoint: "main",
    threads: 256,
    bindings: {
      x: [0, "read"],
      y: [1, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      width: [1, "u32"],
      step: [2, "u32"],
      workgroups: [3, "u32"],
    },
  },
} as const))();

const topLogitsModule = /* @__PURE__ */ (() => ({
  code: foldedSource + topLogitsSource,
  overrides: [],
  aliases: ["Logit"],
} as const))();

/** gpu/topLogits.wgsl */
export const topLogits = /* @__PURE__ */ (() => ({
  constants: { CHUNK: 1024, THREADS: 256 },
  first: {
    ...topLogitsModule,
    entryPoint: "first",
    threads: 256,
    bindings: {
      logits: [0, "read"],
      largest: [1, "read_write"],
      sums: [2, "read_write"],
    },
    parameters: {
      size: [0, "u32"],
      count: [1, "u32"],
      workgroups: [2, "u32"],
      ofRow: [3, "u32"],
      parts: [4, "u32"],
    },
  },
  merge: {
    ...topLogitsModule,
    entryPoint: "merge",
    threads: 256,
    bindings: {
      candidates: [0, "read"],
      largest: [1, "read_write"],
      allSums: [2, "read"],
    },
    parameters: {
      size: [0, "u32"],
      count: [1, "u32"],
      workgroups: [2, "u32"],
      ofRow: [3, "u32"],
      parts: [4, "u32"],
    },
  },
} as const))();
