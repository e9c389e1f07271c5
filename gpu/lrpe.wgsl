// LRPE: output[b, t, h] = [x·cos(θ_h·p), x·sin(θ_h·p)], p = positions[b] + t. One thread per element of x.

// import folded.wgsl, cosSin.wgsl

struct Parameters {
  count: u32, // elements of x that are bound
  firstRow: u32, // (b, t) of the first, as b · seqLen + t
  seqLen: u32,
  heads: u32,
  headDim: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>; // [rows, heads, headDim], count elements
@group(0) @binding(1) var<storage, read> theta: array<Theta>; // [heads, headDim]
@group(0) @binding(2) var<storage, read> positions: array<u32>; // [batch], of the first token
@group(0) @binding(3) var<storage, read_write> output: array<Output>; // [rows, heads, 2 · headDim]
@group(1) @binding(0) var<uniform> parameters: Parameters;

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
