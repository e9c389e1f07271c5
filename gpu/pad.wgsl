// [count, rows, columns] to [count, rows, columns] of other sizes: zeros where there is more, cut where there is less.
// One thread per element of the result.

// import folded.wgsl, bfloat16.wgsl

override PACKED: bool; // x is bfloat16: X is u32, two elements to a word

struct Parameters {
  size: u32, // elements of the result
  rows: u32,
  columns: u32,
  toRows: u32,
  toColumns: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>; // [size / (toRows · toColumns), rows, columns]
@group(0) @binding(1) var<storage, read_write> y: array<Y>; // [size / (toRows · toColumns), toRows, toColumns]
@group(1) @binding(0) var<uniform> parameters: Parameters;

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
