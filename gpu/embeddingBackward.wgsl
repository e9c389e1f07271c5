// to[targets[run]] += scale · Σ from[rows[i]] over starts[run] <= i < starts[run + 1], rows of `dim` elements, in the order
// of i. A workgroup takes 64 columns of one run. The bound rows of `to` begin at `first`; targets outside them belong to
// another dispatch.

override ADD: bool; // to what `to` holds

const THREADS = 64u;

struct Parameters {
  dim: u32,
  first: u32,
  count: u32, // bound rows of `to`
  scale: f32,
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> result: array<f32>;
@group(1) @binding(0) var<uniform> parameters: Parameters;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = workgroup.x + workgroup.y * workgroups.x;
  if (id >= parameters.workgroups) { return; }
  let dim = parameters.dim;
  let groups = (dim + THREADS - 1) / THREADS;
  let run = id / groups;
  let column = id % groups * THREADS + thread;
  let row = targets[run] - parameters.first; // wraps above `count` where the target is below `first`
  if (column >= dim || row >= parameters.count) { return; }
  var sum = 0.0;
  for (var i = starts[run]; i < starts[run + 1]; i++) { sum += source[rows[i] * dim + column]; }
  let at = row * dim + column;
  if (ADD) { result[at] += parameters.scale * sum; } else { result[at] = parameters.scale * sum; }
}
