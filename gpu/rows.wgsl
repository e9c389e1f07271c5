// gather: output[i] = table[ids[i]] · scale; scatter: output[ids[i]] = table[i]; rows of `width` elements. The bound rows of
// the side that ids point into begin at `first`; ids outside them belong to another dispatch.

// import folded.wgsl, bfloat16.wgsl

override PACKED: bool; // the table of gather is bfloat16: Table is u32, two elements to a word

struct Parameters {
  count: u32, // elements to copy
  width: u32,
  first: u32,
  rows: u32,  // bound rows of that side
  scale: f32,
}

@group(0) @binding(0) var<storage, read> table: array<Table>; // [rows, width]; of scatter [count / width, width]
@group(0) @binding(1) var<storage, read> ids: array<u32>; // [count / width]
@group(0) @binding(2) var<storage, read_write> output: array<Output>; // [count / width, width]; of scatter [rows, width]
@group(1) @binding(0) var<uniform> parameters: Parameters;

fn element(i: u32) -> f32 {
  if (PACKED) { return fromBfloat16(u32(table[i / 2u]), i % 2u == 1u); }
  return f32(table[i]);
}

@compute @workgroup_size(256)
fn gather(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.count) { return; }
  let row = ids[i / parameters.width] - parameters.first; // wraps to above `rows` if the id is below `first`
  if (row < parameters.rows) {
    output[i] = Output(element(row * parameters.width + i % parameters.width) * parameters.scale);
  }
}

@compute @workgroup_size(256)
fn scatter(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256 + thread;
  if (i >= parameters.count) { return; }
  let row = ids[i / parameters.width] - parameters.first;
  if (row < parameters.rows) {
    output[row * parameters.width + i % parameters.width] = Output(f32(table[i]) * parameters.scale);
  }
}
