// Splits a row [query | key | value | gate] of x, each of `hidden` elements, and activates query and key. One workgroup
// per head of one part of one row.

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

@group(0) @binding(0) var<storage, read> x: array<X>; // [rows, parts, heads, headDim]
@group(0) @binding(1) var<storage, read_write> q: array<Output>; // [rows, heads, headDim]
@group(0) @binding(2) var<storage, read_write> k: array<Output>; // [rows, heads, headDim]
@group(0) @binding(3) var<storage, read_write> v: array<Output>; // [rows, heads, headDim]
@group(0) @binding(4) var<storage, read_write> u: array<Output>; // [rows, heads, headDim]
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
  let source = index * headDim; // rows, parts and heads lie in this order
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
