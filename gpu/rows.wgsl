// main: output[i] = table[ids[i]] · scale; scatter: output[ids[i]] = table[i]; rows of `dim` elements. The bound rows of
// the side that ids point into begin at `first`; ids outside them belong to another dispatch.

struct Parameters {
  count: u32, // elements to copy
  dim: u32,
  first: u32,
  rows: u32, // bound rows of that side
  scale: f32,
}

@group(0) @binding(0) var<storage, read> table: array<Table>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<Output>;
@group(1) @binding(0) var<uniform> parameters: Parameters;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = (workgroup.x + workgroup.y * workgroups.x) * 256 + thread;
  if (i >= parameters.count) { return; }
  let row = ids[i / parameters.dim] - parameters.first; // wraps above `rows` where the id is below `first`
  if (row < parameters.rows) {
    output[i] = Output(f32(table[row * parameters.dim + i % parameters.dim]) * parameters.scale);
  }
}

@compute @workgroup_size(256)
fn scatter(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = (workgroup.x + workgroup.y * workgroups.x) * 256 + thread;
  if (i >= parameters.count) { return; }
  let row = ids[i / parameters.dim] - parameters.first;
  if (row < parameters.rows) {
    output[row * parameters.dim + i % parameters.dim] = Output(f32(table[i]) * parameters.scale);
  }
}
