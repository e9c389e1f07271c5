// What the machine can do at best: the two ceilings that every measurement is held to.
import { TILE_ROWS } from "../../../core/sizes";
import { PANEL_ROW, tile } from "../../../assembly/parts/tile";

/** The register tile alone, on operands that stay in L1: A [inner][5], B [inner][8], C [5][8]. */
export function microKernel(a: usize, b: usize, c: usize, inner: i32, repeats: i32): void {
  for (let i = 0; i < repeats; i++) tile(a, TILE_ROWS * 4, b, PANEL_ROW, inner, c, PANEL_ROW, 0, 0, 0);
}

/** Reads `bytes` bytes, a multiple of 128, once and in order; the sum keeps the loads alive. */
export function readAll(source: usize, bytes: usize): i32 {
  let s0 = i32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
  for (const end = source + bytes; source < end; source += 128) {
    s0 = v128.xor(s0, v128.xor(v128.load(source), v128.load(source, 64)));
    s1 = v128.xor(s1, v128.xor(v128.load(source, 16), v128.load(source, 80)));
    s2 = v128.xor(s2, v128.xor(v128.load(source, 32), v128.load(source, 96)));
    s3 = v128.xor(s3, v128.xor(v128.load(source, 48), v128.load(source, 112)));
  }
  return i32x4.extract_lane(v128.xor(v128.xor(s0, s1), v128.xor(s2, s3)), 0);
}
