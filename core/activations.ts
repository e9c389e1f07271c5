// Numbers of the activations: plain consts, compiled by Deno and by AssemblyScript alike, and handed to WGSL by name.
// `core/ops/splitHeads.ts` gives them the names that config.json uses.

export const IDENTITY = 0;
export const SILU = 1;
export const ONE_PLUS_ELU = 2;
export const TWO_PLUS_ELU = 3;
export const ELU = 4;
export const RELU = 5;
export const GELU = 6;
export const LEAK = 7;
export const SIGMOID = 8;
export const SINE = 9;
export const EXP = 10;
