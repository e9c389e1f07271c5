// dx = dy ⊙ activation'(x). One workgroup per row.

// import folded.wgsl, activation.wgsl

struct Parameters {
  rows: u32,
  width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, width]
@group(0) @binding(1) var<storage, read> dy: array<f32>; // [rows, width]
@group(0) @binding(2) var<storage, read_write> dx: array<f32>; // [rows, width]
@group(1) @binding(0) var<uniform> parameters: Parameters;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let width = parameters.width;
  let first = row * width;

  var maximum = 0.0;
  if (ACTIVATION == EXP) {
    maximum = x[first];
    for (var i = thread; i < width; i += THREADS) { maximum = max(maximum, x[first + i]); }
    maximum = maximumOver(maximum, thread);
  }
  for (var i = thread; i < width; i += THREADS) {
    dx[first + i] = dy[first + i] * derivative(x[first + i], maximum);
  }
}
