// Gradients of LRPE: with dy = [a, b] and p = positions[b] + t,
// dx = a·cos(θp) + b·sin(θp), dTheta = Σ p · x · (b·cos(θp) − a·sin(θp)).
// A thread takes one element of a head over `step` rows (tokens); the host has what they sum for dTheta added up.

// import folded.wgsl, cosSin.wgsl

const THREADS = 64u;

struct Parameters {
  rows: u32, // of x that are bound
  step: u32,
  firstRow: u32, // (b, t) of the first, as b · seqLen + t
  seqLen: u32,
  heads: u32,
  headDim: u32,
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, heads, headDim]
@group(0) @binding(1) var<storage, read> theta: array<f32>; // [heads, headDim]
@group(0) @binding(2) var<storage, read> positions: array<u32>; // [batch], of the first token
@group(0) @binding(3) var<storage, read> dy: array<f32>; // [rows, heads, 2 · headDim]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>; // [rows, heads, headDim]
@group(0) @binding(5) var<storage, read_write> dTheta: array<f32>; // [ranges of rows, heads, headDim]
@group(1) @binding(0) var<uniform> parameters: Parameters;

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
