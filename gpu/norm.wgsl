// One workgroup norms one row of `width` elements:
// SRMSNorm   x / sqrt(mean(x²) + eps)
// RMSNorm    x / sqrt(mean(x²) + eps) · weight
// LayerNorm  (x − mean(x)) / sqrt(mean((x − mean(x))²) + eps) · weight + bias
// and multiplies it by the gate, if it is given. Sums are taken in a fixed order: the same row, the same bits.

// import folded.wgsl

override WORKGROUP: u32;
override AFFINE: bool;
override CENTRED: bool;
override GATED: bool;

struct Parameters {
  rows: u32,
  width: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<X>; // [rows, width]
@group(0) @binding(1) var<storage, read> weight: array<Weight>; // [width]
@group(0) @binding(2) var<storage, read> bias: array<Bias>; // [width]
@group(0) @binding(3) var<storage, read> gate: array<Gate>; // [rows, width]
@group(0) @binding(4) var<storage, read_write> output: array<Output>; // [rows, width]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> sums: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let width = parameters.width;
  let first = row * width;

  var mean = 0.0;
  if (CENTRED) {
    var sum = 0.0;
    for (var i = thread; i < width; i += WORKGROUP) { sum += f32(x[first + i]); }
    mean = total(sum, thread) / f32(width);
  }
  var square = 0.0;
  for (var i = thread; i < width; i += WORKGROUP) {
    let centered = f32(x[first + i]) - mean;
    square += centered * centered;
  }
  let factor = 1.0 / sqrt(total(square, thread) / f32(width) + parameters.eps);

  for (var i = thread; i < width; i += WORKGROUP) {
    var value = (f32(x[first + i]) - mean) * factor;
    if (AFFINE) { value *= f32(weight[i]); }
    if (CENTRED) { value += f32(bias[i]); }
    if (GATED) { value *= f32(gate[first + i]); }
    output[first + i] = Output(value);
  }
}

// The sum over the threads of the workgroup, pairwise.
fn total(value: f32, thread: u32) -> f32 {
  workgroupBarrier(); // the sums of the call before have been read
  sums[thread] = value;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { sums[thread] += sums[thread + half]; }
  }
  return workgroupUniformLoad(&sums[0]);
}
