// One step of AdamW ("Decoupled Weight Decay Regularization", algorithm 2), one thread per element:
// g ← g · min(1, maxNorm / sqrt(squares)), m ← β1 m + (1−β1) g, v ← β2 v + (1−β2) g²,
// p ← keep · p − rate · m / (sqrt(v) · correction + eps), with keep = 1 − learningRate · weightDecay,
// rate = learningRate / (1 − β1^t) and correction = 1 / sqrt(1 − β2^t).

// import folded.wgsl

struct Parameters {
  count: u32,
  keep: f32,
  rate: f32,
  beta1: f32,
  rest1: f32, // 1 − β1, rounded once
  beta2: f32,
  rest2: f32,
  correction: f32,
  eps: f32,
  maxNorm: f32,
}

@group(0) @binding(0) var<storage, read> gradient: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> squares: array<f32>; // [1], of the gradients of all parameters
@group(0) @binding(2) var<storage, read_write> parameter: array<f32>; // [count]
@group(0) @binding(3) var<storage, read_write> first: array<f32>; // [count]
@group(0) @binding(4) var<storage, read_write> second: array<f32>; // [count]
@group(1) @binding(0) var<uniform> parameters: Parameters;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.count) { return; }
  let norm = sqrt(squares[0]);
  let clip = select(parameters.maxNorm / norm, 1.0, norm <= parameters.maxNorm); // NaN stays NaN
  let g = clip * gradient[i];
  let m = fma(parameters.beta1, first[i], parameters.rest1 * g);
  let v = fma(parameters.beta2, second[i], parameters.rest2 * g * g);
  first[i] = m;
  second[i] = v;
  parameter[i] = parameters.keep * parameter[i] -
    parameters.rate * (m / fma(sqrt(v), parameters.correction, parameters.eps));
}
