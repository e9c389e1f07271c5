// Accumulators of outer products in registers, for lightning.wgsl, tile.wgsl and fewRows.wgsl.
//
// On an H100 a product is slower if it reads three registers than if one of them is also an operand of the product
// before (docs/performance.md). So rows are walked to and fro: 4 × 4 accumulators have their odd rows mirrored, and the last
// column of one row comes next to the first of the next row.

// 4 rows, odd ones mirrored, and 4 columns of each half of a tile.
struct Rows { left: mat4x4<f32>, right: mat4x4<f32> }

// c + a bᵀ, row by row; c is mirrored.
fn outer(c: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    fma(vec4<f32>(a.x), b, c[0]),
    fma(vec4<f32>(a.y), b.wzyx, c[1]),
    fma(vec4<f32>(a.z), b, c[2]),
    fma(vec4<f32>(a.w), b.wzyx, c[3]),
  );
}

// c + a bᵀ, b = (left, right).
fn outerRows(c: Rows, a: vec4<f32>, left: vec4<f32>, right: vec4<f32>) -> Rows {
  let left0 = fma(vec4<f32>(a.x), left, c.left[0]);
  let right0 = fma(vec4<f32>(a.x), right, c.right[0]);
  let right1 = fma(vec4<f32>(a.y), right.wzyx, c.right[1]);
  let left1 = fma(vec4<f32>(a.y), left.wzyx, c.left[1]);
  let left2 = fma(vec4<f32>(a.z), left, c.left[2]);
  let right2 = fma(vec4<f32>(a.z), right, c.right[2]);
  let right3 = fma(vec4<f32>(a.w), right.wzyx, c.right[3]);
  let left3 = fma(vec4<f32>(a.w), left.wzyx, c.left[3]);
  return Rows(mat4x4<f32>(left0, left1, left2, left3), mat4x4<f32>(right0, right1, right2, right3));
}
