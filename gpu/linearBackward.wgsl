// dWeight += dyᵀ x; dy [rows, out], x [rows, in], dWeight [out, in].
//
// A workgroup takes a tile of 128 × 128 of dWeight and a range of rows; each thread 8 × 8 of the tile. dWeight is small
// and rows are many: ranges give the GPU enough workgroups, and their products are added up afterwards. Rows of dy and
// of x are read as they lie, in vectors (the host pads `out` and `in` to multiples of 4). Accumulators are matrices by
// name and steps are written out, as in linear.wgsl.

override BUFFERS: u32; // of each kind in workgroup memory: with 2, loading overlaps with computing
override ADD: bool;    // to dWeight; otherwise each range writes a product of its own

const DEPTH = 16u; // rows that workgroup memory holds at once
const EDGE = 128u;

struct Parameters {
  rows: u32,
  step: u32,     // rows of a range
  dyStride: u32, // `out` in vectors, padded
  xStride: u32,  // `in` in vectors, padded
  firstOut: u32, // of the bound rows of dWeight
  outs: u32,     // bound rows of dWeight
  inner: u32,    // `in`
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dWeight: array<f32>; // [ranges, outs, inner]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> left: array<array<array<vec4<f32>, 32>, DEPTH>, BUFFERS>;  // [row][out / 4]
var<workgroup> right: array<array<array<vec4<f32>, 32>, DEPTH>, BUFFERS>; // [row][in / 4]

// c + a bᵀ, row by row: the sums of 4 × 4 elements in registers.
fn outer(c: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    fma(vec4<f32>(a.x), b, c[0]),
    fma(vec4<f32>(a.y), b, c[1]),
    fma(vec4<f32>(a.z), b, c[2]),
    fma(vec4<f32>(a.w), b, c[3]),
  );
}

struct Tile { c00: mat4x4<f32>, c01: mat4x4<f32>, c10: mat4x4<f32>, c11: mat4x4<f32> }

fn addRow(sums: ptr<function, Tile>, buffer: u32, i: u32, row: u32, column: u32) {
  let a0 = left[buffer][i][row];
  let a1 = left[buffer][i][row + 16u];
  let b0 = right[buffer][i][column];
  let b1 = right[buffer][i][column + 16u];
  (*sums).c00 = outer((*sums).c00, a0, b0);
  (*sums).c01 = outer((*sums).c01, a0, b1);
  (*sums).c10 = outer((*sums).c10, a1, b0);
  (*sums).c11 = outer((*sums).c11, a1, b1);
}

fn write(at: u32, value: f32) {
  if (ADD) { dWeight[at] += value; } else { dWeight[at] = value; }
}

// `first`: the range's product in dWeight; `out` counts from firstOut, rounded down to a vector.
fn writeRow(first: u32, out: u32, column: u32, sum: vec4<f32>) {
  let skipped = parameters.firstOut % 4u;
  if (out < skipped || out >= skipped + parameters.outs) { return; }
  let at = first + (out - skipped) * parameters.inner + column;
  if (column < parameters.inner) { write(at, sum.x); }
  if (column + 1u < parameters.inner) { write(at + 1u, sum.y); }
  if (column + 2u < parameters.inner) { write(at + 2u, sum.z); }
  if (column + 3u < parameters.inner) { write(at + 3u, sum.w); }
}

fn writeTile(first: u32, out: u32, column: u32, sums: mat4x4<f32>) {
  writeRow(first, out, column, sums[0]);
  writeRow(first, out + 1u, column, sums[1]);
  writeRow(first, out + 2u, column, sums[2]);
  writeRow(first, out + 3u, column, sums[3]);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = workgroup.x + workgroup.y * workgroups.x;
  if (id >= parameters.workgroups) { return; }
  let across = (parameters.inner + EDGE - 1u) / EDGE;
  let down = (parameters.firstOut % 4u + parameters.outs + EDGE - 1u) / EDGE;
  let range = id / (across * down);
  let firstOut = id / across % down * EDGE;
  let firstColumn = id % across * EDGE;
  let row = thread / 16u;
  let column = thread % 16u;

  // A thread loads one vector of dy and one of x from 2 rows. Columns outside repeat the last: they are not written.
  let group = thread % 32u;
  let depth = thread / 32u;
  let dyColumn = min((parameters.firstOut / 4u) + firstOut / 4u + group, parameters.dyStride - 1u);
  let xColumn = min(firstColumn / 4u + group, parameters.xStride - 1u);
  let start = range * parameters.step;
  let end = min(start + parameters.step, parameters.rows);

  var sums = Tile();
  var a0 = vec4<f32>(); var a1 = vec4<f32>(); var b0 = vec4<f32>(); var b1 = vec4<f32>();
  for (var i = start; i < end + DEPTH; i += DEPTH) {
    // The loads of this step, while the sums of the step before are taken. Rows outside count as zeros.
    if (i < end) {
      let r0 = i + depth;
      let r1 = r0 + 8u;
      let last = end - 1u;
      a0 = select(vec4<f32>(), dy[min(r0, last) * parameters.dyStride + dyColumn], r0 < end);
      a1 = select(vec4<f32>(), dy[min(r1, last) * parameters.dyStride + dyColumn], r1 < end);
      b0 = select(vec4<f32>(), x[min(r0, last) * parameters.xStride + xColumn], r0 < end);
      b1 = select(vec4<f32>(), x[min(r1, last) * parameters.xStride + xColumn], r1 < end);
    }
    if (i > start) {
      let buffer = ((i - start) / DEPTH - 1u) % BUFFERS;
      addRow(&sums, buffer, 0u, row, column);
      addRow(&sums, buffer, 1u, row, column);
      addRow(&sums, buffer, 2u, row, column);
      addRow(&sums, buffer, 3u, row, column);
      addRow(&sums, buffer, 4u, row, column);
      addRow(&sums, buffer, 5u, row, column);
      addRow(&sums, buffer, 6u, row, column);
      addRow(&sums, buffer, 7u, row, column);
      addRow(&sums, buffer, 8u, row, column);
      addRow(&sums, buffer, 9u, row, column);
      addRow(&sums, buffer, 10u, row, column);
      addRow(&sums, buffer, 11u, row, column);
      addRow(&sums, buffer, 12u, row, column);
      addRow(&sums, buffer, 13u, row, column);
      addRow(&sums, buffer, 14u, row, column);
      addRow(&sums, buffer, 15u, row, column);
    }
    if (i < end) {
      let buffer = (i - start) / DEPTH % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      left[buffer][depth][group] = a0;
      left[buffer][depth + 8u][group] = a1;
      right[buffer][depth][group] = b0;
      right[buffer][depth + 8u][group] = b1;
      workgroupBarrier();
    }
  }

  let first = range * parameters.outs * parameters.inner;
  let out = firstOut + 4u * row;
  let inner = firstColumn + 4u * column;
  writeTile(first, out, inner, sums.c00);
  writeTile(first, out, inner + 64u, sums.c01);
  writeTile(first, out + 64u, inner, sums.c10);
  writeTile(first, out + 64u, inner + 64u, sums.c11);
}
