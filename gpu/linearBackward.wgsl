// dWeight += dyᵀ x; dy [rows, outDim], x [rows, inDim], dWeight [outDim, inDim].
//
// A workgroup takes a tile of 128 × 128 of dWeight and a range of rows; each thread 8 × 8 of the tile. dWeight is small
// and rows are many: ranges give the GPU enough workgroups, and their products are added up afterwards. Rows of dy and
// of x are read as they lie, in vectors (the host pads outDim and inDim to multiples of 4). Accumulators are matrices by
// name and steps are written out, as in linear.wgsl.

// import folded.wgsl, outer.wgsl

override BUFFERS: u32; // of each kind in workgroup memory: with 2, loading overlaps with computing
override ADD: bool;    // to dWeight; otherwise each range writes its own product

const INNER = 16u; // rows that workgroup memory holds together
const EDGE = 128u;

struct Parameters {
  rows: u32,
  step: u32,     // rows of a range
  dyStride: u32, // outDim in vectors, padded
  xStride: u32,  // inDim in vectors, padded
  firstOut: u32, // of the bound rows of dWeight
  outCount: u32, // bound rows of dWeight
  inDim: u32,
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>; // [rows, dyStride]
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows, xStride]
@group(0) @binding(2) var<storage, read_write> dWeight: array<f32>; // [ranges, outCount, inDim]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> left: array<array<array<vec4<f32>, 32>, INNER>, BUFFERS>;  // [row][out / 4]
var<workgroup> right: array<array<array<vec4<f32>, 32>, INNER>, BUFFERS>; // [row][in / 4]

// 8 × 8 results: 4 rows of each half of the tile (see outer.wgsl).
struct Tile { upper: Rows, lower: Rows }

fn addRow(accumulators: ptr<function, Tile>, buffer: u32, i: u32, row: u32, column: u32) {
  let a0 = left[buffer][i][row];
  let a1 = left[buffer][i][row + 16u];
  let b0 = right[buffer][i][column];
  let b1 = right[buffer][i][column + 16u];
  (*accumulators).upper = outerRows((*accumulators).upper, a0, b0, b1);
  (*accumulators).lower = outerRows((*accumulators).lower, a1, b0, b1);
}

fn write(at: u32, value: f32) {
  if (ADD) { dWeight[at] += value; } else { dWeight[at] = value; }
}

// `first`: the range's product in dWeight; outDim counts from firstOut, rounded down to a vector.
fn writeRow(first: u32, out: u32, column: u32, sum: vec4<f32>) {
  let skipped = parameters.firstOut % 4u;
  if (out < skipped || out >= skipped + parameters.outCount) { return; }
  let at = first + (out - skipped) * parameters.inDim + column;
  if (column < parameters.inDim) { write(at, sum.x); }
  if (column + 1u < parameters.inDim) { write(at + 1u, sum.y); }
  if (column + 2u < parameters.inDim) { write(at + 2u, sum.z); }
  if (column + 3u < parameters.inDim) { write(at + 3u, sum.w); }
}

fn writeTile(first: u32, out: u32, column: u32, accumulators: mat4x4<f32>) {
  writeRow(first, out, column, accumulators[0]);
  writeRow(first, out + 1u, column, accumulators[1].wzyx);
  writeRow(first, out + 2u, column, accumulators[2]);
  writeRow(first, out + 3u, column, accumulators[3].wzyx);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let across = (parameters.inDim + EDGE - 1u) / EDGE;
  let down = (parameters.firstOut % 4u + parameters.outCount + EDGE - 1u) / EDGE;
  let range = id / (across * down);
  let firstOut = id / across % down * EDGE;
  let firstColumn = id % across * EDGE;
  // Warps of 4 rows and 8 columns of threads: workgroup memory serves 128 different bytes per cycle.
  let row = thread / 64u * 4u + thread % 32u / 8u;
  let column = thread / 32u % 2u * 8u + thread % 8u;

  // A thread loads one vector of dy and one of x from 2 rows. Columns outside repeat the last: they are not written.
  let group = thread % 32u;
  let term = thread / 32u;
  let dyColumn = min((parameters.firstOut / 4u) + firstOut / 4u + group, parameters.dyStride - 1u);
  let xColumn = min(firstColumn / 4u + group, parameters.xStride - 1u);
  let start = range * parameters.step;
  let end = min(start + parameters.step, parameters.rows);
  let last = end - 1u;

  var accumulators = Tile();
  var a0 = vec4<f32>(); var a1 = vec4<f32>(); var b0 = vec4<f32>(); var b1 = vec4<f32>();
  for (var i = start; i < end + INNER; i += INNER) {
    // The loads of this step, while the accumulators of the step before are taken: nothing here may wait for what comes.
    if (i < end) {
      let r0 = min(i + term, last);
      let r1 = min(i + term + 8u, last);
      a0 = dy[r0 * parameters.dyStride + dyColumn];
      a1 = dy[r1 * parameters.dyStride + dyColumn];
      b0 = x[r0 * parameters.xStride + xColumn];
      b1 = x[r1 * parameters.xStride + xColumn];
    }
    if (i > start) {
      let buffer = ((i - start) / INNER - 1u) % BUFFERS;
      addRow(&accumulators, buffer, 0u, row, column);
      addRow(&accumulators, buffer, 1u, row, column);
      addRow(&accumulators, buffer, 2u, row, column);
      addRow(&accumulators, buffer, 3u, row, column);
      addRow(&accumulators, buffer, 4u, row, column);
      addRow(&accumulators, buffer, 5u, row, column);
      addRow(&accumulators, buffer, 6u, row, column);
      addRow(&accumulators, buffer, 7u, row, column);
      addRow(&accumulators, buffer, 8u, row, column);
      addRow(&accumulators, buffer, 9u, row, column);
      addRow(&accumulators, buffer, 10u, row, column);
      addRow(&accumulators, buffer, 11u, row, column);
      addRow(&accumulators, buffer, 12u, row, column);
      addRow(&accumulators, buffer, 13u, row, column);
      addRow(&accumulators, buffer, 14u, row, column);
      addRow(&accumulators, buffer, 15u, row, column);
    }
    if (i < end) {
      let buffer = (i - start) / INNER % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      // Rows outside count as zeros.
      let inside0 = i + term < end;
      let inside1 = i + term + 8u < end;
      left[buffer][term][group] = select(vec4<f32>(), a0, inside0);
      left[buffer][term + 8u][group] = select(vec4<f32>(), a1, inside1);
      right[buffer][term][group] = select(vec4<f32>(), b0, inside0);
      right[buffer][term + 8u][group] = select(vec4<f32>(), b1, inside1);
      workgroupBarrier();
    }
  }

  let first = range * parameters.outCount * parameters.inDim;
  let out = firstOut + 4u * row;
  let inColumn = firstColumn + 4u * column;
  writeTile(first, out, inColumn, accumulators.upper.left);
  writeTile(first, out, inColumn + 64u, accumulators.upper.right);
  writeTile(first, out + 64u, inColumn, accumulators.lower.left);
  writeTile(first, out + 64u, inColumn + 64u, accumulators.lower.right);
}
