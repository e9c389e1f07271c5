// [count, rows, columns] to [count, rows, columns] of other sizes: zeros where there is more, cut where there is less.
// One thread per element of the result.

// import folded.wgsl

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
  y[i] = Y(select(X(), x[(index * parameters.rows + row) * parameters.columns + column], inside));
}
