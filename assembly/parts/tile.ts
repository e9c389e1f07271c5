// The register tile: the one inner loop under attention and linear. Every matrix product is C = β C + Aᵀ B.
import { TILE_COLUMNS } from "../../core/sizes";
import { loadFour, loadLanes, loadOne, madd, storeLanes } from "./simd";

/** Bytes of one row of a B panel. */
// @ts-ignore: decorator
@inline
export const PANEL_ROW: usize = TILE_COLUMNS * 4;

/** Rounds up to a multiple. */
// @ts-ignore: decorator
@inline
export function roundUp(n: i32, multiple: i32): i32 {
  return ((n + multiple - 1) / multiple) * multiple;
}

/**
 * One tile: C[i][c] = keep·C[i][c] + change·C[i][c] + factors[i] · Σ_k A[k][i] B[k][c] for 5 rows i and 8 columns c, over
 * `inner` ≥ 1 values of k.
 *
 * A is k-major with `aStride` bytes between k, and so is B with `bStride`. B is a panel (8 columns, contiguous), rows of
 * memory, or the A of another product. C has `cStride` bytes between rows. keep is 0 or 1; if change is 0 too, C is
 * written without being read. The factor of C comes in two parts: a decay close to 1 has no accurate f32, but 1 and
 * `change` = decay − 1 have (`decayChange` in core/decay.ts). `factors` is 0 for none.
 *
 * Ten accumulators, two vectors of B, four elements of A and one broadcast element fill 14 of 16 registers; V8 keeps one
 * for itself. Four loads then feed ten multiply-adds. Where engines check bounds by comparison, a load costs four
 * instructions. A sixth row leaves no register to broadcast from, and needs eight loads: see docs/performance.md.
 */
export function tile(
  a: usize,
  aStride: usize,
  b: usize,
  bStride: usize,
  inner: i32,
  c: usize,
  cStride: usize,
  keep: f32,
  change: f32,
  factors: usize,
): void {
  let c00 = f32x4.splat(0), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00;
  let c30 = c00, c31 = c00, c40 = c00, c41 = c00;
  const end = b + <usize> inner * bStride;
  do {
    const b0 = v128.load(b), b1 = v128.load(b, 16), a0123 = v128.load(a);
    let x = v128.shuffle<f32>(a0123, a0123, 0, 0, 0, 0);
    c00 = madd(x, b0, c00);
    c01 = madd(x, b1, c01);
    x = v128.shuffle<f32>(a0123, a0123, 1, 1, 1, 1);
    c10 = madd(x, b0, c10);
    c11 = madd(x, b1, c11);
    x = v128.shuffle<f32>(a0123, a0123, 2, 2, 2, 2);
    c20 = madd(x, b0, c20);
    c21 = madd(x, b1, c21);
    x = v128.shuffle<f32>(a0123, a0123, 3, 3, 3, 3);
    c30 = madd(x, b0, c30);
    c31 = madd(x, b1, c31);
    x = v128.load32_splat(a, 16);
    c40 = madd(x, b0, c40);
    c41 = madd(x, b1, c41);
    a += aStride;
    b += bStride;
  } while (b < end); // over shared memory V8 unrolls this loop, but not one that tests first
  if (factors != 0) {
    let x = v128.load32_splat(factors);
    c00 = f32x4.mul(x, c00);
    c01 = f32x4.mul(x, c01);
    x = v128.load32_splat(factors, 4);
    c10 = f32x4.mul(x, c10);
    c11 = f32x4.mul(x, c11);
    x = v128.load32_splat(factors, 8);
    c20 = f32x4.mul(x, c20);
    c21 = f32x4.mul(x, c21);
    x = v128.load32_splat(factors, 12);
    c30 = f32x4.mul(x, c30);
    c31 = f32x4.mul(x, c31);
    x = v128.load32_splat(factors, 16);
    c40 = f32x4.mul(x, c40);
    c41 = f32x4.mul(x, c41);
  }
  if (keep == 0 && change == 0) {
    storeRow(c, c00, c01);
    storeRow(c + cStride, c10, c11);
    storeRow(c + 2 * cStride, c20, c21);
    storeRow(c + 3 * cStride, c30, c31);
    storeRow(c + 4 * cStride, c40, c41);
  } else if (change == 0) { // and keep is 1
    addRow(c, c00, c01);
    addRow(c + cStride, c10, c11);
    addRow(c + 2 * cStride, c20, c21);
    addRow(c + 3 * cStride, c30, c31);
    addRow(c + 4 * cStride, c40, c41);
  } else {
    const kept = f32x4.splat(keep), changed = f32x4.splat(change);
    changeRow(c, c00, c01, kept, changed);
    changeRow(c + cStride, c10, c11, kept, changed);
    changeRow(c + 2 * cStride, c20, c21, kept, changed);
    changeRow(c + 3 * cStride, c30, c31, kept, changed);
    changeRow(c + 4 * cStride, c40, c41, kept, changed);
  }
}

// @ts-ignore: decorator
@inline
function storeRow(c: usize, c0: v128, c1: v128): void {
  v128.store(c, c0);
  v128.store(c, c1, 16);
}

// @ts-ignore: decorator
@inline
function addRow(c: usize, c0: v128, c1: v128): void {
  v128.store(c, f32x4.add(v128.load(c), c0));
  v128.store(c, f32x4.add(v128.load(c, 16), c1), 16);
}

// @ts-ignore: decorator
@inline
function changeRow(c: usize, c0: v128, c1: v128, kept: v128, changed: v128): void {
  const before0 = v128.load(c), before1 = v128.load(c, 16);
  v128.store(c, madd(before0, kept, madd(before0, changed, c0)));
  v128.store(c, madd(before1, kept, madd(before1, changed, c1)), 16);
}

/**
 * Transposes rows into k-major order: target[k][r] = source[r][k] · scale · (factors ? factors[r] : 1) for r < rows,
 * k < columns, and zero for rows ≤ r < paddedRows (a multiple of 4). Strides in bytes. T is how the source is stored: f32,
 * or u16 for bfloat16.
 */
export function packTransposed<T>(
  source: usize,
  sourceStride: usize,
  rows: i32,
  columns: i32,
  target: usize,
  targetStride: usize,
  paddedRows: i32,
  factors: usize,
  scale: f32,
): void {
  for (let r = 0; r < paddedRows; r += 4) {
    const left = rows - r;
    let factor = f32x4.splat(scale);
    if (factors != 0) factor = f32x4.mul(factor, loadLanes(factors + (<usize> r << 2), left));
    const s0 = source + <usize> r * sourceStride, s1 = s0 + sourceStride;
    const s2 = s1 + sourceStride, s3 = s2 + sourceStride;
    let to = target + (<usize> r << 2);
    let k = 0;
    if (left >= 4) {
      for (; k + 4 <= columns; k += 4) {
        const at = <usize> k * sizeof<T>();
        const x0 = loadFour<T>(s0 + at), x1 = loadFour<T>(s1 + at), x2 = loadFour<T>(s2 + at), x3 = loadFour<T>(s3 + at);
        const lo01 = v128.shuffle<f32>(x0, x1, 0, 4, 1, 5), hi01 = v128.shuffle<f32>(x0, x1, 2, 6, 3, 7);
        const lo23 = v128.shuffle<f32>(x2, x3, 0, 4, 1, 5), hi23 = v128.shuffle<f32>(x2, x3, 2, 6, 3, 7);
        v128.store(to, f32x4.mul(factor, v128.shuffle<f32>(lo01, lo23, 0, 1, 4, 5)));
        v128.store(to + targetStride, f32x4.mul(factor, v128.shuffle<f32>(lo01, lo23, 2, 3, 6, 7)));
        v128.store(to + 2 * targetStride, f32x4.mul(factor, v128.shuffle<f32>(hi01, hi23, 0, 1, 4, 5)));
        v128.store(to + 3 * targetStride, f32x4.mul(factor, v128.shuffle<f32>(hi01, hi23, 2, 3, 6, 7)));
        to += 4 * targetStride;
      }
    }
    // At the edges column by column: lanes beyond the rows are zero.
    for (; k < columns; k++) {
      const at = <usize> k * sizeof<T>();
      let x = f32x4.splat(0);
      if (left > 0) x = f32x4.replace_lane(x, 0, loadOne<T>(s0 + at));
      if (left > 1) x = f32x4.replace_lane(x, 1, loadOne<T>(s1 + at));
      if (left > 2) x = f32x4.replace_lane(x, 2, loadOne<T>(s2 + at));
      if (left > 3) x = f32x4.replace_lane(x, 3, loadOne<T>(s3 + at));
      v128.store(to, f32x4.mul(factor, x));
      to += targetStride;
    }
  }
}

/** Transposes rows, times `scale`, into panels of 8 rows: [rows/8][columns][8]. T as for `packTransposed`. */
export function packTransposedPanels<T>(
  source: usize,
  sourceStride: usize,
  rows: i32,
  columns: i32,
  target: usize,
  scale: f32,
): void {
  for (let r = 0; r < rows; r += TILE_COLUMNS) {
    packTransposed<T>(source + <usize> r * sourceStride, sourceStride, min(TILE_COLUMNS, rows - r), columns,
      target + <usize> (r * columns) * 4, PANEL_ROW, TILE_COLUMNS, 0, scale);
  }
}

/** Copies rows, times `scale`, into panels of 8 columns, [columns/8][panelRows][8], zeros beyond the last column. */
export function packPanels(
  source: usize,
  sourceStride: usize,
  rows: i32,
  columns: i32,
  target: usize,
  panelRows: i32,
  scale: f32,
): void {
  const panel = <usize> panelRows * PANEL_ROW, factor = f32x4.splat(scale);
  for (let r = 0; r < rows; r++) {
    let to = target + <usize> r * PANEL_ROW;
    let from = source + <usize> r * sourceStride;
    let c = 0;
    for (; c + TILE_COLUMNS <= columns; c += TILE_COLUMNS) {
      v128.store(to, f32x4.mul(factor, v128.load(from)));
      v128.store(to, f32x4.mul(factor, v128.load(from, 16)), 16);
      from += PANEL_ROW;
      to += panel;
    }
    if (c < columns) {
      v128.store(to, f32x4.mul(factor, loadLanes(from, columns - c)));
      v128.store(to, f32x4.mul(factor, loadLanes(from + 16, columns - c - 4)), 16);
    }
  }
}

/** The same with `scale · factors[r]` as the factor of row r. */
export function packScaledPanels(
  source: usize,
  sourceStride: usize,
  rows: i32,
  columns: i32,
  target: usize,
  panelRows: i32,
  factors: usize,
  scale: f32,
): void {
  for (let r = 0; r < rows; r++) {
    packPanels(source, sourceStride, 1, columns, target, panelRows, scale * load<f32>(factors + (<usize> r << 2)));
    source += sourceStride;
    target += PANEL_ROW;
  }
}

/** Copies rows of panels to rows of memory, or adds them there. Writes no byte beyond `columns`. */
export function unpackPanels(
  source: usize,
  panelRows: i32,
  rows: i32,
  columns: i32,
  target: usize,
  targetStride: usize,
  accumulate: bool,
): void {
  const panel = <usize> panelRows * PANEL_ROW;
  for (let r = 0; r < rows; r++) {
    let from = source + <usize> r * PANEL_ROW;
    let to = target + <usize> r * targetStride;
    let c = 0;
    for (; c + TILE_COLUMNS <= columns; c += TILE_COLUMNS) {
      let x0 = v128.load(from), x1 = v128.load(from, 16);
      if (accumulate) {
        x0 = f32x4.add(x0, v128.load(to));
        x1 = f32x4.add(x1, v128.load(to, 16));
      }
      v128.store(to, x0);
      v128.store(to, x1, 16);
      from += panel;
      to += PANEL_ROW;
    }
    for (; c < columns; c += 4) {
      const count = columns - c;
      let x = v128.load(from);
      if (accumulate) x = f32x4.add(x, loadLanes(to, count));
      storeLanes(to, x, count);
      from += 16;
      to += 16;
    }
  }
}
