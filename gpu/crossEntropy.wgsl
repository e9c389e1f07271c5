// Cross entropy of one row of logits per workgroup: loss = log Σ exp(logits − max) + max − logits[label], and
// dLogits = scale · (exp(logits − max) / Σ − onehot(label)); both 0 where the label is negative.

// import folded.wgsl

override WORKGROUP: u32;

struct Parameters {
  rows: u32,
  vocab: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [rows, vocab]
@group(0) @binding(1) var<storage, read> labels: array<i32>; // [rows]
@group(0) @binding(2) var<storage, read_write> loss: array<f32>; // [rows]
@group(0) @binding(3) var<storage, read_write> dLogits: array<f32>; // [rows, vocab]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> values: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.rows) { return; }
  let vocab = parameters.vocab;
  let first = row * vocab;
  let label = labels[row];

  var largest = logits[first];
  for (var i = thread; i < vocab; i += WORKGROUP) { largest = max(largest, logits[first + i]); }
  values[thread] = largest;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { values[thread] = max(values[thread], values[thread + half]); }
  }
  largest = workgroupUniformLoad(&values[0]);

  var sum = 0.0;
  for (var i = thread; i < vocab; i += WORKGROUP) { sum += exp(logits[first + i] - largest); }
  workgroupBarrier(); // the maximum has been read
  values[thread] = sum;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { values[thread] += values[thread + half]; }
  }
  sum = workgroupUniformLoad(&values[0]);

  let counts = label >= 0;
  let factor = parameters.scale / sum;
  for (var i = thread; i < vocab; i += WORKGROUP) {
    let own = select(0.0, parameters.scale, i32(i) == label);
    dLogits[first + i] = select(0.0, exp(logits[first + i] - largest) * factor - own, counts);
  }
  if (thread == 0) {
    var value = 0.0;
    if (counts) { value = log(sum) + (largest - logits[first + u32(label)]); }
    loss[row] = value;
  }
}
