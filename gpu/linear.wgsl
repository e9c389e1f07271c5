// output = x weightᵀ + bias + residual; x [rows, inDim], weight [outDim, inDim], bias [outDim], residual and output
// [rows, outDim].
//
// For many rows: one workgroup per tile of 128 × 128 (WIDE) or 64 × 64 results, bound by arithmetic. Few rows have kernels
// of their own, in fewRows.wgsl.
//
// inDim and outDim are multiples of 4 (the host pads what is not). Accumulators are matrices by name, and the steps through
// workgroup memory are written out: arrays and loops there cost half the speed.
//
// Sums have one order whatever stores the weight: the same values give the same bits.

// import folded.wgsl, tile.wgsl, bfloat16.wgsl

override PACKED: bool; // the weight is bfloat16: Weight is u32, two elements to a word
override BIAS: bool;
override RESIDUAL: bool;

struct Parameters {
  rows: u32,
  inVectors: u32, // inDim / 4
  outCount: u32,  // rows of the weight in this dispatch, from firstOut: columns of the result
  firstOut: u32,
  stride: u32,    // elements of a row of the output: outDim, padded
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<X>>; // [rows, inVectors]
@group(0) @binding(1) var<storage, read> weight: array<vec4<Weight>>; // [outCount, inVectors], of PACKED inVectors / 2
@group(1) @binding(0) var<uniform> parameters: Parameters;

// Vector `at` of the weight.
fn weights(at: u32) -> vec4<f32> {
  if (PACKED) {
    let words = vec4<u32>(weight[at / 2u]);
    return fromBfloat16s(select(words.xy, words.zw, at % 2u == 1u));
  }
  return vec4<f32>(weight[at]);
}

@group(0) @binding(2) var<storage, read> bias: array<vec4<Bias>>; // [stride / 4]
@group(0) @binding(3) var<storage, read> residual: array<vec4<Residual>>; // [rows, stride / 4]
@group(0) @binding(4) var<storage, read_write> output: array<vec4<Output>>; // [rows, stride / 4]

fn writeRow(row: u32, column: u32, sum: vec4<f32>) {
  if (row >= parameters.rows || column >= (parameters.outCount + 3u) / 4u) { return; }
  let global = parameters.firstOut / 4u + column;
  let at = row * (parameters.stride / 4u) + global;
  var y = sum;
  if (BIAS) { y += vec4<f32>(bias[global]); }
  if (RESIDUAL) { y += vec4<f32>(residual[at]); }
  output[at] = vec4<Output>(y);
}

fn writeTile(row: u32, column: u32, accumulators: mat4x4<f32>) {
  writeRow(row, column, accumulators[0]);
  writeRow(row + 1u, column, accumulators[1].wzyx);
  writeRow(row + 2u, column, accumulators[2]);
  writeRow(row + 3u, column, accumulators[3].wzyx);
}

@compute @workgroup_size(THREADS)
fn tiled(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let edge = select(64u, 128u, WIDE);
  let tiles = (parameters.outCount + edge - 1u) / edge;
  let firstRow = id / tiles * edge;
  let firstColumn = id % tiles * edge;
  // Warps of 4 rows and 8 columns of threads: workgroup memory serves 128 different bytes per cycle.
  let row = thread / 64u * 4u + thread % 32u / 8u;
  let column = thread / 32u % 2u * 8u + thread % 8u;

  // Half of the threads load x, half the weight: 4 elements of 4 rows, transposed in registers.
  let quad = thread % 4u;
  let group = thread / 4u % (THREADS / 8u);
  let inVectors = parameters.inVectors;
  let forLeft = thread < THREADS / 2u;
  // Rows outside repeat the last one: what they give is not written.
  let last = select(parameters.outCount, parameters.rows, forLeft) - 1u;
  let first = select(firstColumn, firstRow, forLeft) + 4u * group;
  let at0 = min(first, last) * inVectors + quad;
  let at1 = min(first + 1u, last) * inVectors + quad;
  let at2 = min(first + 2u, last) * inVectors + quad;
  let at3 = min(first + 3u, last) * inVectors + quad;

  var accumulators = Tile();
  var l0 = vec4<f32>();
  var l1 = vec4<f32>();
  var l2 = vec4<f32>();
  var l3 = vec4<f32>();
  for (var i = 0u; i < inVectors + INNER / 4u; i += INNER / 4u) {
    // The loads of this step, while the accumulators of the step before are taken. (Loading after the barrier instead costs a
    // quarter of the speed.)
    if (i < inVectors) {
      if (forLeft) {
        l0 = vec4<f32>(x[at0 + i]);
        l1 = vec4<f32>(x[at1 + i]);
        l2 = vec4<f32>(x[at2 + i]);
        l3 = vec4<f32>(x[at3 + i]);
      } else {
        l0 = weights(at0 + i);
        l1 = weights(at1 + i);
        l2 = weights(at2 + i);
        l3 = weights(at3 + i);
      }
    }
    if (i > 0u) {
      let buffer = (i / (INNER / 4u) - 1u) % BUFFERS;
      addTerms(&accumulators, buffer, row, column);
    }
    if (i < inVectors) {
      let buffer = i / (INNER / 4u) % BUFFERS;
      if (BUFFERS == 1u) { workgroupBarrier(); }
      let columns = transpose(mat4x4<f32>(l0, l1, l2, l3));
      let inside = i + quad < inVectors;
      let c0 = select(vec4<f32>(), columns[0], inside);
      let c1 = select(vec4<f32>(), columns[1], inside);
      let c2 = select(vec4<f32>(), columns[2], inside);
      let c3 = select(vec4<f32>(), columns[3], inside);
      if (forLeft) {
        left[buffer][4u * quad][group] = c0;
        left[buffer][4u * quad + 1u][group] = c1;
        left[buffer][4u * quad + 2u][group] = c2;
        left[buffer][4u * quad + 3u][group] = c3;
      } else {
        right[buffer][4u * quad][group] = c0;
        right[buffer][4u * quad + 1u][group] = c1;
        right[buffer][4u * quad + 2u][group] = c2;
        right[buffer][4u * quad + 3u][group] = c3;
      }
      workgroupBarrier();
    }
  }

  let outRow = firstRow + 4u * row;
  let outColumn = firstColumn / 4u + column;
  writeTile(outRow, outColumn, accumulators.upper.left);
  writeTile(outRow + edge / 2u, outColumn, accumulators.lower.left);
  if (WIDE) {
    writeTile(outRow, outColumn + 16u, accumulators.upper.right);
    writeTile(outRow + edge / 2u, outColumn + 16u, accumulators.lower.right);
  }
}
