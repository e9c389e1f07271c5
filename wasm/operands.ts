/**
 * Tensors and tables as the kernels see them: byte offsets into linear memory.
 *
 * @module
 */
import type { LightningBackwardCall, LightningCall, Sequence } from "../core/backend.ts";
import { decayChange, decayPowers } from "../core/decay.ts";
import type { Tensor } from "../core/tensor.ts";
import { BLOCK } from "../core/tile.ts";

/** Where a tensor's elements begin in linear memory. */
export function pointer(tensor: Tensor): number {
  return tensor.storage as number;
}

/** The same, 0 for none. */
export function optionalPointer(tensor: Tensor | undefined): number {
  return tensor === undefined ? 0 : pointer(tensor);
}

/** The next multiple. */
export function roundUp(n: number, multiple: number): number {
  return Math.ceil(n / multiple) * multiple;
}

/** Elements of a decay table. */
export const TABLE: number = 5 * BLOCK + 3;
export const TABLE_BYTES: number = 4 * TABLE;

/** The decay table of one head, as `assembly/lightning.ts` reads it. */
export function decayTable(slope: number): Float32Array {
  const table = new Float32Array(TABLE);
  const powers = decayPowers(slope, BLOCK + 1);
  table.set(powers, BLOCK);
  table.set(powers.reverse(), 2 * BLOCK + 1);
  for (let tokens = 0; tokens <= BLOCK; tokens++) table[4 * BLOCK + 2 + tokens] = decayChange(slope, tokens);
  return table;
}

/** Where one head's rows of a sequence begin, and bytes between them; `role` says whose heads and size they have. */
export function headRows(
  { shape }: LightningCall | LightningBackwardCall,
  role: "q" | "k" | "v",
  tensor: Tensor,
  { batch, start }: Sequence,
  head: number,
): [offset: number, stride: number] {
  const { layout, seqLen, heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const dim = role === "v" ? valueDim : headDim;
  const count = { q: queryHeads, k: keyHeads, v: heads }[role];
  const own = Math.floor(head * count / heads);
  return layout === "bhnd"
    ? [pointer(tensor) + 4 * dim * ((batch * count + own) * seqLen + start), 4 * dim]
    : [pointer(tensor) + 4 * dim * ((batch * seqLen + start) * count + own), 4 * dim * count];
}
