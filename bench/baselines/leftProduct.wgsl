// Linear attention by the left product, the first method of Lightning Attention: every pair of tokens, tile by tile.
//   output = scale · (A Bᵀ ⊙ M) C,   M[i][j] = λ^(i−j) for j ≤ i, else 0;   with TRANSPOSED, Mᵀ in its place
// O  = (Q Kᵀ ⊙ M) V      dQ = (dO Vᵀ ⊙ M) K
// dV = (K Qᵀ ⊙ Mᵀ) dO    dK = (V dOᵀ ⊙ Mᵀ) Q

// import ../../gpu/folded.wgsl, tile.wgsl

override TRANSPOSED: bool;

struct Parameters {
  seqLen: u32,
  heads: u32,
  inner: u32, // vectors of a row of A and B
  outer: u32, // vectors of a row of C and the output
  workgroups: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4f>; // [batch, seqLen, heads, inner]
@group(0) @binding(1) var<storage, read> b: array<vec4f>; // [batch, seqLen, heads, inner]
@group(0) @binding(2) var<storage, read> c: array<vec4f>; // [batch, seqLen, heads, outer]
@group(0) @binding(3) var<storage, read> slopes: array<f32>; // [heads]
@group(0) @binding(4) var<storage, read_write> output: array<vec4f>; // [batch, seqLen, heads, outer]
@group(1) @binding(0) var<uniform> parameters: Parameters;

const A = 0u;
const B = 1u;
const C = 2u;

fn load(operand: u32, at: u32) -> vec4f {
  switch operand {
    case A: { return a[at]; }
    case B: { return b[at]; }
    default: { return c[at]; }
  }
}

// 64 tokens of an operand, from token `first` of a batch element.
fn tokens(operand: u32, width: u32, batch: u32, head: u32, first: u32) -> Rows {
  let row = (batch * parameters.seqLen + first) * parameters.heads + head;
  return Rows(operand, row * width, parameters.heads * width, parameters.seqLen - first, width);
}

// λ^distance, where the distance is no step into the future.
fn masked(scores: vec4f, row: u32, columns: vec4u, slope: f32) -> vec4f {
  let distance = select(vec4i(i32(row)) - vec4i(columns), vec4i(columns) - vec4i(i32(row)), TRANSPOSED);
  return select(vec4f(), scores * exp(-slope * vec4f(distance)), distance >= vec4i());
}

fn maskedRows(scores: mat4x4f, row: u32, columns: vec4u, slope: f32) -> mat4x4f {
  return mat4x4f(
    masked(scores[0], row, columns, slope),
    masked(scores[1], row + 1u, columns, slope),
    masked(scores[2], row + 2u, columns, slope),
    masked(scores[3], row + 3u, columns, slope),
  );
}

fn write(batch: u32, head: u32, token: u32, column: u32, sum: vec4f) {
  if (token >= parameters.seqLen || column >= parameters.outer) { return; }
  let row = (batch * parameters.seqLen + token) * parameters.heads + head;
  output[row * parameters.outer + column] = parameters.scale * sum;
}

fn writeRows(batch: u32, head: u32, first: u32, column: u32, sums: mat4x4f) {
  write(batch, head, first, column, sums[0]);
  write(batch, head, first + 1u, column, sums[1]);
  write(batch, head, first + 2u, column, sums[2]);
  write(batch, head, first + 3u, column, sums[3]);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  // Tiles with the longest walk come first, so that none is left alone at the end.
  let tiles = (parameters.seqLen + EDGE - 1u) / EDGE;
  let sequences = parameters.workgroups / tiles;
  let order = id / sequences;
  let rowTile = select(tiles - 1u - order, order, TRANSPOSED);
  let head = id % sequences % parameters.heads;
  let batch = id % sequences / parameters.heads;
  let row = rowTile * EDGE + 4u * (thread / 16u);
  let left = tokens(A, parameters.inner, batch, head, rowTile * EDGE);
  let slope = slopes[head];

  var sums = Sums();
  let begin = select(0u, rowTile, TRANSPOSED);
  let end = select(rowTile + 1u, tiles, TRANSPOSED);
  for (var columnTile = begin; columnTile < end; columnTile++) {
    let first = columnTile * EDGE;
    let columns = first + 4u * (thread % 16u) + vec4u(0u, 1u, 2u, 3u);
    let dots = scores(left, tokens(B, parameters.inner, batch, head, first), thread);
    put(Tile(maskedRows(dots.upper, row, columns, slope), maskedRows(dots.lower, row + 32u, columns, slope)), thread);
    product(&sums, tokens(C, parameters.outer, batch, head, first), thread);
  }
  let column = thread % 16u;
  writeRows(batch, head, row, column, sums.near.upper);
  writeRows(batch, head, row + 32u, column, sums.near.lower);
  if (WIDE) {
    writeRows(batch, head, row, column + 16u, sums.far.upper);
    writeRows(batch, head, row + 32u, column + 16u, sums.far.lower);
  }
}
