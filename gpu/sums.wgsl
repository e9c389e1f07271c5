// y[i] = Σ x[r, i] over rows, or the sum of squares. Each workgroup sums COLUMNS columns over one range of rows, always
// in the same order: 256 / COLUMNS threads share a column, and their sums are added up pairwise.

// import folded.wgsl

override COLUMNS: u32; // a power of 2
override SQUARE: bool;
override ADD: bool; // to what y holds

const THREADS = 256u;

struct Parameters {
  rows: u32,
  width: u32,
  step: u32, // rows of a range
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [ranges, width]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> sums: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let width = parameters.width;
  let groups = (width + COLUMNS - 1) / COLUMNS;
  let range = id / groups;
  let column = id % groups * COLUMNS + thread % COLUMNS;
  let inside = column < width;

  var sum = 0.0;
  if (inside) {
    let end = min((range + 1) * parameters.step, parameters.rows);
    for (var row = range * parameters.step + thread / COLUMNS; row < end; row += THREADS / COLUMNS) {
      let value = x[row * width + column];
      if (SQUARE) { sum = fma(value, value, sum); } else { sum += value; }
    }
  }
  sums[thread] = sum;
  for (var half = THREADS / 2; half >= COLUMNS; half /= 2) {
    workgroupBarrier();
    if (thread < half) { sums[thread] += sums[thread + half]; }
  }
  if (thread < COLUMNS && inside) {
    let at = range * width + column;
    if (ADD) { y[at] += sums[thread]; } else { y[at] = sums[thread]; }
  }
}
