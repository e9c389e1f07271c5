// Block sizes: plain consts, compiled by Deno and by AssemblyScript alike (no imports, no types beyond literals).

/** Tokens of one block of the WASM kernels. A multiple of both tile edges, so that inner tiles are never ragged. */
export const BLOCK = 24;

/** Rows of one register tile: 6 rows of 2 vectors keep 12 sums in the 16 vector registers of x86-64. */
export const TILE_ROWS = 6;

/** Columns of one register tile: 2 vectors of 4 lanes. */
export const TILE_COLUMNS = 8;

/**
 * Up to this many rows, such as one decode step of many sessions, packing the weight of linear costs more than it gives.
 * On every backend each of them is summed as a row alone is: a session in a batch gets the bits that it gets alone.
 */
export const FEW_ROWS = 64;
