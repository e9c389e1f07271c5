// Products of tiles, for attention that visits every pair of tokens: softmax.wgsl and leftProduct.wgsl.
//
// A workgroup owns 64 rows and walks over tiles of 64 columns. `scores` gives a tile of A Bᵀ, in registers; the caller
// makes weights of it and puts them into workgroup memory with `put`; `product` adds weights · C to the sums of its
// rows. A thread holds 8 × 4 elements of a tile: rows 4r ... 4r+3 of each half, columns 4c ... 4c+3. Accumulators are
// matrices by name and steps are written out, as in lightning.wgsl. The including file defines `load`.

override WIDE: bool; // rows of sums are up to 128 elements wide, else 64

const EDGE = 64u;
const THREADS = 128u;
const INNER = 8u; // vectors of a row of A and B that workgroup memory holds together
// Vectors from one row to the next: odd, so that neighbouring rows lie in different banks.
const OPERAND_PITCH = 9u;
const WEIGHT_PITCH = 17u;
const RIGHT = 576u; // where B begins: 64 · OPERAND_PITCH

// A and B, 64 rows of INNER vectors each; then, in their place, the weights.
var<workgroup> tile: array<vec4f, 1152>;
// Rows of C: 32 of 64 elements, or 16 of 128.
var<workgroup> values: array<vec4f, 512>;

// 64 rows of an operand, of which `count` exist. Vectors: the first one, from row to row, in a row.
struct Rows { operand: u32, first: u32, stride: u32, count: u32, width: u32 }

// A thread's rows of both halves, 4 columns each.
struct Tile { upper: mat4x4f, lower: mat4x4f }
// Elements 0 to 63 of rows of sums, and 64 to 127.
struct Sums { near: Tile, far: Tile }

fn vectorOf(rows: Rows, row: u32, column: u32) -> vec4f {
  if (row >= rows.count || column >= rows.width) { return vec4f(); }
  return load(rows.operand, rows.first + row * rows.stride + column);
}

// c + aᵀ b
fn combine(c: vec4f, a: vec4f, b: mat4x4f) -> vec4f {
  return fma(vec4f(a.x), b[0], fma(vec4f(a.y), b[1], fma(vec4f(a.z), b[2], fma(vec4f(a.w), b[3], c))));
}

// c + a b, where rows of a lie in the tile, `pitch` apart.
fn addRows(c: mat4x4f, at: u32, pitch: u32, b: mat4x4f) -> mat4x4f {
  return mat4x4f(
    combine(c[0], tile[at], b),
    combine(c[1], tile[at + pitch], b),
    combine(c[2], tile[at + 2u * pitch], b),
    combine(c[3], tile[at + 3u * pitch], b),
  );
}

fn stage(left: Rows, right: Rows, inner: u32, index: u32) {
  let row = index / INNER;
  let column = index % INNER;
  tile[row * OPERAND_PITCH + column] = vectorOf(left, row, inner + column);
  // Column 4c + j at j · 16 + c: the 16 threads of a row then read neighbours.
  let place = row % 4u * 16u + row / 4u;
  tile[RIGHT + place * OPERAND_PITCH + column] = vectorOf(right, row, inner + column);
}

fn addDots(sums: ptr<function, Tile>, inner: u32, row: u32, column: u32) {
  let at = RIGHT + column * OPERAND_PITCH + inner;
  let b = transpose(mat4x4f(
    tile[at],
    tile[at + 16u * OPERAND_PITCH],
    tile[at + 32u * OPERAND_PITCH],
    tile[at + 48u * OPERAND_PITCH],
  ));
  (*sums).upper = addRows((*sums).upper, row * OPERAND_PITCH + inner, OPERAND_PITCH, b);
  (*sums).lower = addRows((*sums).lower, (row + 32u) * OPERAND_PITCH + inner, OPERAND_PITCH, b);
}

// left · rightᵀ
fn scores(left: Rows, right: Rows, thread: u32) -> Tile {
  let row = 4u * (thread / 16u);
  let column = thread % 16u;
  var sums = Tile();
  for (var inner = 0u; inner < left.width; inner += INNER) {
    workgroupBarrier(); // what lay there has been read
    stage(left, right, inner, thread);
    stage(left, right, inner, thread + THREADS);
    stage(left, right, inner, thread + 2u * THREADS);
    stage(left, right, inner, thread + 3u * THREADS);
    workgroupBarrier();
    addDots(&sums, 0u, row, column);
    addDots(&sums, 1u, row, column);
    addDots(&sums, 2u, row, column);
    addDots(&sums, 3u, row, column);
    addDots(&sums, 4u, row, column);
    addDots(&sums, 5u, row, column);
    addDots(&sums, 6u, row, column);
    addDots(&sums, 7u, row, column);
  }
  return sums;
}

// Lays weights out for `product`.
fn put(weights: Tile, thread: u32) {
  workgroupBarrier(); // what lay there has been read
  let at = 4u * (thread / 16u) * WEIGHT_PITCH + thread % 16u;
  tile[at] = weights.upper[0];
  tile[at + WEIGHT_PITCH] = weights.upper[1];
  tile[at + 2u * WEIGHT_PITCH] = weights.upper[2];
  tile[at + 3u * WEIGHT_PITCH] = weights.upper[3];
  tile[at + 32u * WEIGHT_PITCH] = weights.lower[0];
  tile[at + 33u * WEIGHT_PITCH] = weights.lower[1];
  tile[at + 34u * WEIGHT_PITCH] = weights.lower[2];
  tile[at + 35u * WEIGHT_PITCH] = weights.lower[3];
}

fn valuesAt(at: u32, across: u32) -> mat4x4f {
  return mat4x4f(values[at], values[at + across], values[at + 2u * across], values[at + 3u * across]);
}

// 4 rows of C, from `key` of the chunk that begins with row `first`.
fn addValues(sums: ptr<function, Sums>, first: u32, key: u32, thread: u32) {
  let across = select(16u, 32u, WIDE);
  let at = key * across + thread % 16u;
  let upper = 4u * (thread / 16u) * WEIGHT_PITCH + (first + key) / 4u;
  let lower = upper + 32u * WEIGHT_PITCH;
  let near = valuesAt(at, across);
  (*sums).near.upper = addRows((*sums).near.upper, upper, WEIGHT_PITCH, near);
  (*sums).near.lower = addRows((*sums).near.lower, lower, WEIGHT_PITCH, near);
  if (WIDE) {
    let far = valuesAt(at + 16u, across);
    (*sums).far.upper = addRows((*sums).far.upper, upper, WEIGHT_PITCH, far);
    (*sums).far.lower = addRows((*sums).far.lower, lower, WEIGHT_PITCH, far);
  }
}

// sums + weights · rows
fn product(sums: ptr<function, Sums>, rows: Rows, thread: u32) {
  let across = select(16u, 32u, WIDE);
  let chunk = 512u / across;
  let row = thread / across;
  let column = thread % across;
  let step = THREADS / across;
  for (var first = 0u; first < EDGE; first += chunk) {
    workgroupBarrier(); // the weights are there, and what lay in values has been read
    values[thread] = vectorOf(rows, first + row, column);
    values[thread + THREADS] = vectorOf(rows, first + row + step, column);
    values[thread + 2u * THREADS] = vectorOf(rows, first + row + 2u * step, column);
    values[thread + 3u * THREADS] = vectorOf(rows, first + row + 3u * step, column);
    workgroupBarrier();
    for (var key = 0u; key < chunk; key += 8u) {
      addValues(sums, first, key, thread);
      addValues(sums, first, key + 4u, thread);
    }
  }
}
