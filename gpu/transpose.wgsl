// y = xᵀ, a tile of 32 × 32 per workgroup, transposed in workgroup memory so that reads and writes run along rows.

// import folded.wgsl

const EDGE = 32u;
const THREADS = 256u;

struct Parameters {
  rows: u32,    // of x that are bound
  columns: u32, // of x, in all
  firstRow: u32,
  firstColumn: u32, // of y's bound rows
  count: u32,       // bound rows of y
  stride: u32,      // of y: rows of x, in all
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, columns]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [count, stride]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> tile: array<array<f32, EDGE + 1>, EDGE>; // one more: columns then lie in different banks

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let tiles = (parameters.count + EDGE - 1) / EDGE;
  let row = id / tiles * EDGE;
  let column = id % tiles * EDGE;
  let across = thread % EDGE;

  for (var i = thread / EDGE; i < EDGE; i += THREADS / EDGE) {
    if (row + i < parameters.rows && column + across < parameters.count) {
      tile[i][across] = x[(row + i) * parameters.columns + parameters.firstColumn + column + across];
    }
  }
  workgroupBarrier();
  for (var i = thread / EDGE; i < EDGE; i += THREADS / EDGE) {
    if (row + across < parameters.rows && column + i < parameters.count) {
      y[(column + i) * parameters.stride + parameters.firstRow + row + across] = tile[across][i];
    }
  }
}
