// A tile of a matrix product, for linear.wgsl and linearBackward.wgsl: a workgroup keeps operands of INNER terms in its memory,
// each thread 8 × 8 or 8 × 4 results in registers.

// import outer.wgsl

override WIDE: bool;   // tiles of 128 × 128, else of 64 × 64
override THREADS: u32; // 256 of 8 × 8 results, or 128 of 8 × 4
override BUFFERS: u32; // of each kind in workgroup memory: with 2, loading overlaps with computing

const INNER = 16u; // terms of each sum that workgroup memory holds together

var<workgroup> left: array<array<array<vec4<f32>, 32>, INNER>, BUFFERS>;  // [term][row / 4]
var<workgroup> right: array<array<array<vec4<f32>, 32>, INNER>, BUFFERS>; // [term][column / 4]

// 8 × 8 results, or 8 × 4 in the left halves: 4 rows of each half of the tile (see outer.wgsl).
struct Tile { upper: Rows, lower: Rows }

// The products of one term.
fn addTerm(accumulators: ptr<function, Tile>, buffer: u32, i: u32, row: u32, column: u32) {
  let a0 = left[buffer][i][row];
  let a1 = left[buffer][i][row + select(8u, 16u, WIDE)];
  let b0 = right[buffer][i][column];
  if (WIDE) {
    let b1 = right[buffer][i][column + 16u];
    (*accumulators).upper = outerRows((*accumulators).upper, a0, b0, b1);
    (*accumulators).lower = outerRows((*accumulators).lower, a1, b0, b1);
  } else {
    (*accumulators).upper.left = outer((*accumulators).upper.left, a0, b0);
    (*accumulators).lower.left = outer((*accumulators).lower.left, a1, b0);
  }
}

// Those of the INNER terms in a buffer. They are written out: a loop costs half the speed.
fn addTerms(accumulators: ptr<function, Tile>, buffer: u32, row: u32, column: u32) {
  addTerm(accumulators, buffer, 0u, row, column);
  addTerm(accumulators, buffer, 1u, row, column);
  addTerm(accumulators, buffer, 2u, row, column);
  addTerm(accumulators, buffer, 3u, row, column);
  addTerm(accumulators, buffer, 4u, row, column);
  addTerm(accumulators, buffer, 5u, row, column);
  addTerm(accumulators, buffer, 6u, row, column);
  addTerm(accumulators, buffer, 7u, row, column);
  addTerm(accumulators, buffer, 8u, row, column);
  addTerm(accumulators, buffer, 9u, row, column);
  addTerm(accumulators, buffer, 10u, row, column);
  addTerm(accumulators, buffer, 11u, row, column);
  addTerm(accumulators, buffer, 12u, row, column);
  addTerm(accumulators, buffer, 13u, row, column);
  addTerm(accumulators, buffer, 14u, row, column);
  addTerm(accumulators, buffer, 15u, row, column);
}
