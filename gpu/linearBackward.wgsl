// Gradients of y = x weightᵀ; dy [rows, outDim], x [rows, inDim], weight [outDim, inDim].
//
//   weights   dWeight += dyᵀ x
//   input     dx = dy weight + residual
//
// Of `weights`, a workgroup takes a tile of 128 × 128 of dWeight and a range of rows; each thread 8 × 8 of the tile. dWeight is small
// and rows are many: ranges give the GPU enough workgroups, and their products are added up afterwards. Rows of dy and
// of x are read as they lie, in vectors (the host pads outDim and inDim to multiples of 4). Accumulators are matrices by
// name and steps are written out, as in linear.wgsl.

// import folded.wgsl, tile.wgsl

override RESIDUAL: bool;
override ADD: bool;    // to the result; otherwise each range of `weights` writes its own product

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

// ----------------------------------------------------------------------------------------------------- weights

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
fn weights(
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
      addTerms(&accumulators, buffer, row, column);
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

// ------------------------------------------------------------------------------------------------------- input

struct Sizes {
  rows: u32,
  terms: u32,     // bound rows of the weight
  firstTerm: u32, // of them, a multiple of 4
  outVectors: u32, // of a row of dy
  inVectors: u32, // of a row of the weight and of dx
  workgroups: u32,
}

@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>; // [terms, inVectors]
@group(0) @binding(2) var<storage, read> residual: array<vec4<f32>>; // [rows, inVectors]
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<f32>>; // [rows, inVectors]
@group(1) @binding(0) var<uniform> sizes: Sizes;

fn writeInputRow(row: u32, column: u32, sum: vec4<f32>) {
  if (row >= sizes.rows || column >= sizes.inVectors) { return; }
  let at = row * sizes.inVectors + column;
  var d = sum;
  if (RESIDUAL) { d += residual[at]; }
  if (ADD) { d += dx[at]; }
  dx[at] = d;
}

fn writeInputTile(row: u32, column: u32, accumulators: mat4x4<f32>) {
  writeInputRow(row, column, accumulators[0]);
  writeInputRow(row + 1u, column, accumulators[1].wzyx);
  writeInputRow(row + 2u, column, accumulators[2]);
  writeInputRow(row + 3u, column, accumulators[3].wzyx);
}

@compute @workgroup_size(THREADS)
fn input(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= sizes.workgroups) { return; }
  let edge = select(64u, 128u, WIDE);
  let inVectors = sizes.inVectors;
  let tiles = (4u * inVectors + edge - 1u) / edge;
  let firstRow = id / tiles * edge;
  let firstColumn = id % tiles * edge / 4u;
  // Warps of 4 rows and 8 columns of threads: workgroup memory serves 128 different bytes per cycle.
  let row = thread / 64u * 4u + thread % 32u / 8u;
  let column = thread / 32u % 2u * 8u + thread % 8u;

  // Half of the threads load dy, 4 elements of 4 rows, transposed in registers; half 4 rows of the weight as they lie.
  let forLeft = thread < THREADS / 2u;
  let other = thread % (THREADS / 2u);
  let quad = select(other / (edge / 4u), other % 4u, forLeft);
  let group = select(other % (edge / 4u), other / 4u, forLeft);
  // Rows and columns outside repeat the last ones: what they give is not written.
  let lastRow = sizes.rows - 1u;
  let dyColumn = sizes.firstTerm / 4u + quad;
  let at0 = min(firstRow + 4u * group, lastRow) * sizes.outVectors + dyColumn;
  let at1 = min(firstRow + 4u * group + 1u, lastRow) * sizes.outVectors + dyColumn;
  let at2 = min(firstRow + 4u * group + 2u, lastRow) * sizes.outVectors + dyColumn;
  let at3 = min(firstRow + 4u * group + 3u, lastRow) * sizes.outVectors + dyColumn;
  let weightColumn = min(firstColumn + group, inVectors - 1u);
  let lastTerm = sizes.terms - 1u;
  let vectors = (sizes.terms + 3u) / 4u;

  var accumulators = Tile();
  var l0 = vec4<f32>();
  var l1 = vec4<f32>();
  var l2 = vec4<f32>();
  var l3 = vec4<f32>();
  for (var i = 0u; i < vectors + INNER / 4u; i += INNER / 4u) {
    // The loads of this step, while the accumulators of the step before are taken.
    if (i < vectors) {
      if (forLeft) {
        l0 = dy[at0 + i];
        l1 = dy[at1 + i];
        l2 = dy[at2 + i];
        l3 = dy[at3 + i];
      } else {
        let term = 4u * (i + quad);
        l0 = weight[min(term, lastTerm) * inVectors + weightColumn];
        l1 = weight[min(term + 1u, lastTerm) * inVectors + weightColumn];
        l2 = weight[min(term + 2u, lastTerm) * inVectors + weightColumn];
        l3 = weight[min(term + 3u, lastTerm) * inVectors + weightColumn];
      }
    }
    if (i > 0u) {
      let buffer = (i / (INNER / 4u) - 1u) % BUFFERS;
      addTerms(&accumulators, buffer, row, column);
    }
    if (i < vectors) {
      let buffer = i / (INNER / 4u) % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      let inside = i + quad < vectors; // terms outside count as zeros; of the last vector, the host pads dy with them
      l0 = select(vec4<f32>(), l0, inside);
      l1 = select(vec4<f32>(), l1, inside);
      l2 = select(vec4<f32>(), l2, inside);
      l3 = select(vec4<f32>(), l3, inside);
      if (forLeft) {
        let columns = transpose(mat4x4<f32>(l0, l1, l2, l3));
        left[buffer][4u * quad][group] = columns[0];
        left[buffer][4u * quad + 1u][group] = columns[1];
        left[buffer][4u * quad + 2u][group] = columns[2];
        left[buffer][4u * quad + 3u][group] = columns[3];
      } else {
        right[buffer][4u * quad][group] = l0;
        right[buffer][4u * quad + 1u][group] = l1;
        right[buffer][4u * quad + 2u][group] = l2;
        right[buffer][4u * quad + 3u][group] = l3;
      }
      workgroupBarrier();
    }
  }

  let outRow = firstRow + 4u * row;
  let outColumn = firstColumn + column;
  writeInputTile(outRow, outColumn, accumulators.upper.left);
  writeInputTile(outRow + edge / 2u, outColumn, accumulators.lower.left);
  if (WIDE) {
    writeInputTile(outRow, outColumn + 16u, accumulators.upper.right);
    writeInputTile(outRow + edge / 2u, outColumn + 16u, accumulators.lower.right);
  }
}
