// to[targets[run]] += scale · Σ from[rows[i]] over starts[run] <= i < starts[run + 1], rows of `width` elements, in the order
// of i. A workgroup takes 64 columns of one run. The bound rows of `to` begin at `first`; targets outside them belong to
// another dispatch.

// import folded.wgsl

override ADD: bool; // to what `to` holds

const THREADS = 64u;

struct Parameters {
  width: u32,
  first: u32,
  count: u32, // bound rows of `to`
  scale: f32,
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> source: array<f32>; // [rows of dy or sums, width]
@group(0) @binding(1) var<storage, read> rows: array<u32>; // [starts[runs]]: rows of source, run by run
@group(0) @binding(2) var<storage, read> starts: array<u32>; // [runs + 1]: where the rows of each run begin
@group(0) @binding(3) var<storage, read> targets: array<u32>; // [runs]: rows of result
@group(0) @binding(4) var<storage, read_write> result: array<f32>; // [count, width]
@group(1) @binding(0) var<uniform> parameters: Parameters;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let width = parameters.width;
  let groups = (width + THREADS - 1) / THREADS;
  let run = id / groups;
  let column = id % groups * THREADS + thread;
  let row = targets[run] - parameters.first; // wraps to above `count` if the target is below `first`
  if (column >= width || row >= parameters.count) { return; }
  var sum = 0.0;
  for (var i = starts[run]; i < starts[run + 1]; i++) { sum += source[rows[i] * width + column]; }
  let at = row * width + column;
  if (ADD) { result[at] += parameters.scale * sum; } else { result[at] = parameters.scale * sum; }
}
