// output = x weightᵀ + bias + residual with a quantised weight, for few rows: TEAM threads read a row of the weight in
// vectors of 16 or 32 elements, side by side, and multiply them with 4 rows of x.
//
// NORMED and GATED are those of linear.wgsl, for any few rows: each row's factor is found on the way.

// import folded.wgsl

override BITS: u32;
override GROUP: u32;
override TEAM: u32;
override ONE_ROW: bool;
override BIAS: bool;
override RESIDUAL: bool;
override NORMED: bool;
override GATED: bool;

struct Parameters {
  rows: u32,
  inVectors: u32,   // of a row of x, whole groups
  vectors: u32,     // of a row of the weight: integers, and from word scalesAt scales
  scalesAt: u32,
  firstOut: u32,    // of this dispatch
  outCount: u32,    // rows of the weight in this dispatch: columns of the result
  stride: u32,      // elements of a row of the output: outDim
  workgroups: u32,
  inDim: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>; // [outCount, vectors]
@group(0) @binding(2) var<storage, read> bias: array<Bias>; // [stride]
@group(0) @binding(3) var<storage, read> residual: array<Residual>; // [rows, stride]
@group(0) @binding(4) var<storage, read_write> output: array<Output>; // [rows, stride]
@group(0) @binding(5) var<storage, read> normed: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(6) var<storage, read> gateWeight: array<vec4<u32>>; // as weight
@group(0) @binding(7) var<storage, read> gateBias: array<Bias>; // [stride]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> partial: array<vec4<f32>, 128>; // of 4 rows
var<workgroup> partialGate: array<vec4<f32>, 128>;
var<workgroup> partialSquares: array<vec4<f32>, 128>;

// The row of x that stands for row `row`: rows outside repeat the last one, and what they give is not written.
fn rowAt(row: u32) -> u32 {
  return min(row, parameters.rows - 1u) * parameters.inVectors;
}

// Products of 4 weights with vector i of 4 rows of x.
fn products(w: vec4<f32>, row: u32, i: u32) -> vec4<f32> {
  let x0 = dot(w, vec4<f32>(x[rowAt(row) + i]));
  if (ONE_ROW) { return vec4<f32>(x0, 0.0, 0.0, 0.0); }
  return vec4<f32>(
    x0,
    dot(w, vec4<f32>(x[rowAt(row + 1u) + i])),
    dot(w, vec4<f32>(x[rowAt(row + 2u) + i])),
    dot(w, vec4<f32>(x[rowAt(row + 3u) + i])),
  );
}

// The sum of the squares of vector i of a row of normed.
fn square(row: u32, i: u32) -> f32 {
  let y = vec4<f32>(normed[rowAt(row) + i]);
  return dot(y, y);
}

// Those of 4 rows.
fn squares(row: u32, i: u32) -> vec4<f32> {
  if (ONE_ROW) { return vec4<f32>(square(row, i), 0.0, 0.0, 0.0); }
  return vec4<f32>(square(row, i), square(row + 1u, i), square(row + 2u, i), square(row + 3u, i));
}

// The products of one word of the weight, its 4 or 8 elements from vector i of x on.
fn word(bits: u32, row: u32, i: u32) -> vec4<f32> {
  if (BITS == 8u) {
    return products(vec4<f32>(vec4<i32>(vec4<u32>(bits) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u)), row, i);
  }
  let low = vec4<f32>((vec4<u32>(bits) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)) - 8.0;
  let high = vec4<f32>((vec4<u32>(bits) >> vec4<u32>(16u, 20u, 24u, 28u)) & vec4<u32>(15u)) - 8.0;
  return products(low, row, i) + products(high, row, i + 1u);
}

// The products of one vector of a weight, its 16 or 32 elements from vector `first` of x on.
fn vector(integers: vec4<u32>, row: u32, first: u32) -> vec4<f32> {
  let step = 8u / BITS; // vectors of x per word
  return word(integers.x, row, first) + word(integers.y, row, first + step) +
    word(integers.z, row, first + 2u * step) + word(integers.w, row, first + 3u * step);
}

// The scale among words of which `pair` is that of its group.
fn scaleOf(words: vec4<u32>, scaleWord: u32, group: u32) -> f32 {
  let pair = words[scaleWord % 4u];
  return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, group % 2u == 1u));
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let teams = 128u / TEAM;
  let blocks = (parameters.outCount + teams - 1u) / teams;
  let row = id / blocks * 4u;
  let lane = thread % TEAM;
  let column = id % blocks * teams + thread / TEAM;
  let at = min(column, parameters.outCount - 1u) * parameters.vectors;
  var sums = vec4<f32>();
  var gates = vec4<f32>();
  var squareSums = vec4<f32>();
  for (var i = lane; i < parameters.scalesAt / 4u; i += TEAM) {
    let group = i * (128u / BITS) / GROUP;
    let scaleWord = parameters.scalesAt + group / 2u;
    let first = i * (32u / BITS); // vector of x
    let scale = scaleOf(weight[at + scaleWord / 4u], scaleWord, group);
    sums += scale * vector(weight[at + i], row, first);
    if (GATED) {
      let gateScale = scaleOf(gateWeight[at + scaleWord / 4u], scaleWord, group);
      gates += gateScale * vector(gateWeight[at + i], row, first);
    }
    if (NORMED) {
      for (var j = 0u; j < 32u / BITS; j++) { squareSums += squares(row, first + j); }
    }
  }
  partial[thread] = sums;
  if (GATED) { partialGate[thread] = gates; }
  if (NORMED) { partialSquares[thread] = squareSums; }
  for (var half = TEAM / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      partial[thread] += partial[thread + half];
      if (GATED) { partialGate[thread] += partialGate[thread + half]; }
      if (NORMED) { partialSquares[thread] += partialSquares[thread + half]; }
    }
  }
  workgroupBarrier();
  let r = row + lane;
  if (lane >= 4u || r >= parameters.rows || column >= parameters.outCount) { return; }
  let global = parameters.firstOut + column;
  let to = r * parameters.stride + global;
  var factor = 1.0;
  if (NORMED) {
    factor = 1.0 / sqrt(partialSquares[thread - lane][lane] / f32(parameters.inDim) + parameters.eps);
  }
  var y = partial[thread - lane][lane] * factor;
  if (BIAS) { y += f32(bias[global]); }
  if (GATED) {
    var gate = partialGate[thread - lane][lane] * factor;
    if (BIAS) { gate += f32(gateBias[global]); }
    y *= gate;
  }
  if (RESIDUAL) { y += f32(residual[to]); }
  output[to] = Output(y);
}
