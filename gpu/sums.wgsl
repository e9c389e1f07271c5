// y[i] = Σ x[r, i] over rows, or the sum of squares. Each workgroup sums COLUMNS columns over one range of rows, always
// in the same order: 256 / COLUMNS threads share a column, and their sums are added up pairwise. With 256 columns each has a
// thread to itself; SQUARE is not for that.

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
    let first = range * parameters.step + thread / COLUMNS;
    if (COLUMNS == THREADS) {
      // In the order of four threads that share a column: the same bits.
      var four = vec4f();
      for (var row = first; row < end; row += 4) {
        let at = row * width + column;
        let last = end - row - 1;
        let values = vec4f(
          x[at],
          x[at + min(1, last) * width],
          x[at + min(2, last) * width],
          x[at + min(3, last) * width],
        );
        four += select(vec4f(), values, vec4u(0, 1, 2, 3) <= vec4u(last));
      }
      sum = (four.x + four.z) + (four.y + four.w);
    } else {
      for (var row = first; row < end; row += THREADS / COLUMNS) {
        let value = x[row * width + column];
        if (SQUARE) { sum = fma(value, value, sum); } else { sum += value; }
      }
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
