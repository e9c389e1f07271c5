// output = x ⊙ y

// import folded.wgsl

@group(0) @binding(0) var<storage, read> x: array<X>; // [count]
@group(0) @binding(1) var<storage, read> y: array<Y>; // [count]
@group(0) @binding(2) var<storage, read_write> output: array<Output>; // [count]
@group(1) @binding(0) var<uniform> count: u32;

const THREADS = 256u;
const EACH = 4u; // elements of a thread: loads that do not wait for each other

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let first = folded(workgroup, workgroups) * THREADS * EACH + thread;
  for (var j = 0u; j < EACH; j++) {
    let i = first + j * THREADS;
    if (i < count) { output[i] = Output(f32(x[i]) * f32(y[i])); }
  }
}
