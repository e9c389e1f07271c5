// Block sizes: plain consts, compiled by Deno and by AssemblyScript alike (no imports, no types beyond literals).

/** Tokens of one block of the WASM kernels: whole rows of register tiles. */
export const BLOCK = 25;

/** Rows of one register tile: 5 rows of 2 vectors keep 10 sums in the 16 vector registers of x86-64. */
export const TILE_ROWS = 5;

/** Columns of one register tile: 2 vectors of 4 lanes. */
export const TILE_COLUMNS = 8;

/**
 * Up to this many rows, such as one decode step of many sessions, packing the weight of linear costs more than it gives.
 * On every backend each of them is summed as a row alone is: a session in a batch gets the bits that it gets alone.
 */
export const FEW_ROWS = 64;
