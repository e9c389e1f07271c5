// With n = (x − mean) · r, r = 1 / sqrt(mean((x − mean)²) + eps) and y = (n · weight + bias) · gate, for each row:
//
//   input    dx = r (g − mean(g) − n · mean(g · n)) + residual, g = dy · gate · weight; dGate = dy · (n · weight + bias)
//   affine   dWeight = Σ_rows dy · gate · n, dBias = Σ_rows dy · gate, per workgroup: the host has them added up
//
// SRMSNorm has weight 1; it and RMSNorm have bias 0, no mean, and no mean(g). Sums are taken in a fixed order: the same rows, the same bits.

// import folded.wgsl

override WORKGROUP: u32;
override AFFINE: bool;
override CENTRED: bool;
override GATED: bool;
override RESIDUAL: bool;

struct Parameters {
  rows: u32,
  width: u32,
  eps: f32,
  step: u32, // of `affine`: rows per workgroup
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, width]
@group(0) @binding(1) var<storage, read> dy: array<f32>; // [rows, width]
@group(0) @binding(2) var<storage, read> gate: array<f32>; // [rows, width]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> sums: array<f32, WORKGROUP>;

// dy · gate of an element: the gradient of n · weight + bias.
fn gated(at: u32) -> f32 {
  var d = dy[at];
  if (GATED) { d *= gate[at]; }
  return d;
}

// ------------------------------------------------------------------------------------------------------- input

@group(0) @binding(3) var<storage, read> weight: array<f32>; // [width]
@group(0) @binding(4) var<storage, read> bias: array<f32>; // [width]
@group(0) @binding(5) var<storage, read> residual: array<f32>; // [rows, width]
@group(0) @binding(6) var<storage, read_write> dx: array<f32>; // [rows, width]
@group(0) @binding(7) var<storage, read_write> dGate: array<f32>; // [rows, width]

@compute @workgroup_size(WORKGROUP)
fn input(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let width = parameters.width;
  let first = row * width;
  let mean = meanOf(first, thread);
  let r = factorOf(first, mean, thread);

  var sumG = 0.0;
  var sumGn = 0.0;
  for (var i = thread; i < width; i += WORKGROUP) {
    var g = gated(first + i);
    if (AFFINE) { g *= weight[i]; }
    sumG += g;
    sumGn += g * (x[first + i] - mean) * r;
  }
  let meanGn = total(sumGn, thread) / f32(width);
  var meanG = 0.0;
  if (CENTRED) { meanG = total(sumG, thread) / f32(width); }

  for (var i = thread; i < width; i += WORKGROUP) {
    let n = (x[first + i] - mean) * r;
    var g = gated(first + i);
    var y = n;
    if (AFFINE) {
      g *= weight[i];
      y = n * weight[i];
    }
    if (CENTRED) { y += bias[i]; }
    if (GATED) { dGate[first + i] = dy[first + i] * y; }
    var d = r * (g - meanG - n * meanGn);
    if (RESIDUAL) { d += residual[first + i]; }
    dx[first + i] = d;
  }
}

// ------------------------------------------------------------------------------------------------------ affine

@group(0) @binding(3) var<storage, read_write> dWeight: array<f32>; // [workgroups, width]
@group(0) @binding(4) var<storage, read_write> dBias: array<f32>; // [workgroups, width]

@compute @workgroup_size(WORKGROUP)
fn affine(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  let begin = id * parameters.step;
  let end = min(begin + parameters.step, parameters.rows);
  for (var row = begin; row < end; row++) {
    let first = row * parameters.width;
    let mean = meanOf(first, thread);
    let r = factorOf(first, mean, thread);
    for (var i = thread; i < parameters.width; i += WORKGROUP) {
      let d = gated(first + i);
      let term = d * (x[first + i] - mean) * r;
      let at = id * parameters.width + i; // this thread's own, in every row
      if (row == begin) {
        dWeight[at] = term;
        dBias[at] = d;
      } else {
        dWeight[at] += term;
        dBias[at] += d;
      }
    }
  }
}

// ----------------------------------------------------------------------------------------------- of the forward

fn meanOf(first: u32, thread: u32) -> f32 {
  if (!CENTRED) { return 0; }
  var sum = 0.0;
  for (var i = thread; i < parameters.width; i += WORKGROUP) { sum += x[first + i]; }
  return total(sum, thread) / f32(parameters.width);
}

// r.
fn factorOf(first: u32, mean: f32, thread: u32) -> f32 {
  var square = 0.0;
  for (var i = thread; i < parameters.width; i += WORKGROUP) {
    let centered = x[first + i] - mean;
    square += centered * centered;
  }
  return 1 / sqrt(total(square, thread) / f32(parameters.width) + parameters.eps);
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
