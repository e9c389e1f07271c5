// Gradient of splitHeads: rows [dq ⊙ activation'(query) | dk ⊙ activation'(key) | dv | du]. One workgroup per head of one
// part of one row.

// import folded.wgsl, activation.wgsl

const QUERY = 0u;
const KEY = 1u;
const VALUE = 2u;

struct Parameters {
  workgroups: u32, // rows · parts · heads
  parts: u32, // 4, or 3 without a gate
  heads: u32,
  headDim: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, parts, heads, headDim]
@group(0) @binding(1) var<storage, read> dq: array<f32>; // [rows, heads, headDim]
@group(0) @binding(2) var<storage, read> dk: array<f32>; // [rows, heads, headDim]
@group(0) @binding(3) var<storage, read> dv: array<f32>; // [rows, heads, headDim]
@group(0) @binding(4) var<storage, read> du: array<f32>; // [rows, heads, headDim]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>; // [rows, parts, heads, headDim]
@group(1) @binding(0) var<uniform> parameters: Parameters;

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
  let joint = index * headDim; // rows, parts and heads lie in this order
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
