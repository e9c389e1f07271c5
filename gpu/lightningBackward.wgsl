// What the gradients of Lightning Attention need in addition to its own kernels: copies of heads that several heads of
// value share, sums over those that share one, and transposed states. One thread per vector of `shared`, or per element.

// import folded.wgsl

// --------------------------------------------------------------------------------------- repeatHeads, sumHeads

struct Heads {
  size: u32,  // vectors of `shared` that are bound
  group: u32, // heads that share one
  width: u32, // vectors of a head
  add: u32,   // 1: add to what `sums` holds
}

@group(1) @binding(0) var<uniform> heads: Heads;
@group(0) @binding(0) var<storage, read> sharedHeads: array<vec4f>; // [size / width, width]
@group(0) @binding(1) var<storage, read_write> copies: array<vec4f>; // [rows, group, width]
@group(0) @binding(0) var<storage, read_write> sums: array<vec4f>; // [size / width, width]
@group(0) @binding(1) var<storage, read> terms: array<vec4f>; // [rows, group, width]

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

// --------------------------------------------------------------------------------------------- transposeStates

struct States {
  size: u32,      // elements of `transposed` that are bound
  headDim: u32,   // of `states`
  valueDim: u32,
  toHeadDim: u32, // of `transposed`: the next multiples of 4
  toValueDim: u32,
}

@group(1) @binding(0) var<uniform> sizes: States;
@group(0) @binding(0) var<storage, read> states: array<f32>; // [count, headDim, valueDim]
@group(0) @binding(1) var<storage, read_write> transposed: array<f32>; // [count, toValueDim, toHeadDim]

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
