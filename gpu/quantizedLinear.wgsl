// output = x weightᵀ + bias + residual with a quantised weight, for few rows: TEAM threads read a row of the weight in
// vectors of 16 or 32 elements, side by side, and multiply them with 4 rows of x.

// import folded.wgsl

override BITS: u32;
override GROUP: u32;
override TEAM: u32;
override ONE_ROW: bool;
override BIAS: bool;
override RESIDUAL: bool;

struct Parameters {
  rows: u32,
  inVectors: u32,   // of a row of x, whole groups
  vectors: u32,     // of a row of the weight: integers, and from word scalesAt scales
  scalesAt: u32,
  firstOut: u32,    // of this dispatch
  outCount: u32,    // rows of the weight in this dispatch: columns of the result
  stride: u32,      // elements of a row of the output: outDim
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>; // [outCount, vectors]
@group(0) @binding(2) var<storage, read> bias: array<Bias>; // [stride]
@group(0) @binding(3) var<storage, read> residual: array<Residual>; // [rows, stride]
@group(0) @binding(4) var<storage, read_write> output: array<Output>; // [rows, stride]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> partial: array<vec4<f32>, 128>;

// Products of 4 weights with vector i of 4 rows of x.
fn products(w: vec4<f32>, row: u32, i: u32) -> vec4<f32> {
  let x0 = dot(w, vec4<f32>(x[row * parameters.inVectors + i]));
  if (ONE_ROW) { return vec4<f32>(x0, 0.0, 0.0, 0.0); }
  let last = parameters.rows - 1u; // rows outside repeat the last one: what they give is not written
  return vec4<f32>(
    x0,
    dot(w, vec4<f32>(x[min(row + 1u, last) * parameters.inVectors + i])),
    dot(w, vec4<f32>(x[min(row + 2u, last) * parameters.inVectors + i])),
    dot(w, vec4<f32>(x[min(row + 3u, last) * parameters.inVectors + i])),
  );
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
  for (var i = lane; i < parameters.scalesAt / 4u; i += TEAM) {
    let integers = weight[at + i];
    let group = i * (128u / BITS) / GROUP;
    let scaleWord = parameters.scalesAt + group / 2u;
    let pair = weight[at + scaleWord / 4u][scaleWord % 4u];
    let scale = bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, group % 2u == 1u));
    let step = 8u / BITS; // vectors of x per word
    let first = i * 4u * step;
    sums += scale * (
      word(integers.x, row, first) + word(integers.y, row, first + step) +
      word(integers.z, row, first + 2u * step) + word(integers.w, row, first + 3u * step)
    );
  }
  partial[thread] = sums;
  for (var half = TEAM / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { partial[thread] += partial[thread + half]; }
  }
  workgroupBarrier();
  let r = row + lane;
  if (lane >= 4u || r >= parameters.rows || column >= parameters.outCount) { return; }
  let global = parameters.firstOut + column;
  let to = r * parameters.stride + global;
  var y = partial[thread - lane][lane];
  if (BIAS) { y += f32(bias[global]); }
  if (RESIDUAL) { y += f32(residual[to]); }
  output[to] = Output(y);
}
