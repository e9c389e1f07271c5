// output = activation(x). One workgroup per row.

// import folded.wgsl, activation.wgsl

struct Parameters {
  rows: u32,
  width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>; // [rows, width]
@group(0) @binding(1) var<storage, read_write> output: array<Output>; // [rows, width]
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
    maximum = f32(x[first]);
    for (var i = thread; i < width; i += THREADS) { maximum = max(maximum, f32(x[first + i])); }
    maximum = maximumOver(maximum, thread);
  }
  for (var i = thread; i < width; i += THREADS) {
    output[first + i] = Output(activate(f32(x[first + i]), maximum));
  }
}
