// The `count` largest logits of each row in descending order, of equal ones the first, and what log Σ exp(logits) is made
// of. `first` takes CHUNK logits per workgroup and leaves the largest of each; `merge` does the same with what is left, until
// one workgroup is enough for a row: it also adds up the sums.

// import folded.wgsl

const CHUNK = 1024u; // elements of a workgroup
const THREADS = 256u;
const LOWEST = -3.4028234663852886e38; // stands for no logit

struct Parameters {
  size: u32,       // logits, or candidates, of a row
  count: u32,
  workgroups: u32, // of all rows
  ofRow: u32,      // workgroups of a row
  parts: u32,      // of merge: workgroups of a row in first, if it is the last pass; else 0
}

@group(0) @binding(0) var<storage, read> logits: array<Logit>; // [rows, size]
@group(0) @binding(1) var<storage, read_write> largest: array<vec2<f32>>; // [rows, ofRow, count]: logit and id
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>; // [rows, ofRow]: max, Σ exp(logit − max), whether one is NaN or +∞
@group(1) @binding(0) var<uniform> parameters: Parameters;

@group(0) @binding(0) var<storage, read> candidates: array<vec2<f32>>; // [rows, size]
@group(0) @binding(2) var<storage, read> allSums: array<vec4<f32>>; // [rows, parts]

var<workgroup> values: array<f32, CHUNK>;
var<workgroup> ids: array<f32, CHUNK>; // below 2^24
var<workgroup> slots: array<u32, THREADS>;
var<workgroup> partial: array<f32, THREADS>;
var<workgroup> faulty: atomic<u32>;

// The slot of the largest of a thread's values.
fn ownLargest(thread: u32) -> u32 {
  var slot = thread;
  for (var i = thread + THREADS; i < CHUNK; i += THREADS) {
    if (values[i] > values[slot]) { slot = i; }
  }
  return slot;
}

// Writes the largest values from `to` on. Among equal ones the slots ascend, and ids with them.
fn pick(thread: u32, to: u32) {
  workgroupBarrier();
  var slot = ownLargest(thread);
  for (var i = 0u; i < parameters.count; i++) {
    workgroupBarrier();
    slots[thread] = slot;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
      workgroupBarrier();
      if (thread < half) {
        let a = slots[thread];
        let b = slots[thread + half];
        if (values[b] > values[a] || (values[b] == values[a] && b < a)) { slots[thread] = b; }
      }
    }
    workgroupBarrier();
    let winner = slots[0];
    if (winner % THREADS == thread) {
      largest[to + i] = vec2<f32>(values[winner], ids[winner]);
      values[winner] = LOWEST;
      slot = ownLargest(thread);
    }
  }
}

// The largest and the sum of what the threads have.
fn maximumOf(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
  partial[thread] = value;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partial[thread] = max(partial[thread], partial[thread + half]); }
  }
  return workgroupUniformLoad(&partial[0]);
}

fn sumOf(value: f32, thread: u32) -> f32 {
  workgroupBarrier();
  partial[thread] = value;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partial[thread] += partial[thread + half]; }
  }
  return workgroupUniformLoad(&partial[0]);
}

@compute @workgroup_size(THREADS)
fn first(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let chunk = id % parameters.ofRow * CHUNK;
  let row = id / parameters.ofRow * parameters.size;
  var maximum = LOWEST;
  for (var i = thread; i < CHUNK; i += THREADS) {
    let at = chunk + i;
    values[i] = LOWEST;
    if (at < parameters.size) {
      let value = f32(logits[row + at]);
      let bits = bitcast<u32>(value);
      if ((bits & 0x7f800000u) == 0x7f800000u && bits != 0xff800000u) { atomicOr(&faulty, 1u); }
      values[i] = value;
      ids[i] = f32(at);
      maximum = max(maximum, value);
    }
  }
  maximum = maximumOf(maximum, thread);
  var sum = 0.0;
  for (var i = thread; i < CHUNK; i += THREADS) {
    if (chunk + i < parameters.size) { sum += exp(values[i] - maximum); }
  }
  sum = sumOf(sum, thread);
  if (thread == 0u) { sums[id] = vec4<f32>(maximum, sum, f32(atomicLoad(&faulty)), 0); }
  pick(thread, id * parameters.count);
}

// The last pass writes max, sum and fault of a row before the largest.
@compute @workgroup_size(THREADS)
fn merge(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let chunk = id % parameters.ofRow * CHUNK;
  let row = id / parameters.ofRow;
  for (var i = thread; i < CHUNK; i += THREADS) {
    let at = chunk + i;
    values[i] = LOWEST;
    if (at < parameters.size) {
      values[i] = candidates[row * parameters.size + at].x;
      ids[i] = candidates[row * parameters.size + at].y;
    }
  }
  var to = id * parameters.count;
  if (parameters.parts > 0u) {
    let firstSum = row * parameters.parts;
    var maximum = LOWEST;
    var fault = 0.0;
    for (var i = thread; i < parameters.parts; i += THREADS) {
      maximum = max(maximum, allSums[firstSum + i].x);
      fault += allSums[firstSum + i].z;
    }
    maximum = maximumOf(maximum, thread);
    fault = sumOf(fault, thread);
    var sum = 0.0;
    for (var i = thread; i < parameters.parts; i += THREADS) {
      sum += allSums[firstSum + i].y * exp(allSums[firstSum + i].x - maximum);
    }
    sum = sumOf(sum, thread);
    to = row * (parameters.count + 2u);
    if (thread == 0u) {
      largest[to] = vec2<f32>(maximum, sum);
      largest[to + 1u] = vec2<f32>(fault, 0);
    }
    to += 2u;
  }
  pick(thread, to);
}
