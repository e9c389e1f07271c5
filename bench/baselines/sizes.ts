// Block sizes of the baselines: plain consts, compiled by AssemblyScript and imported by their tests.

/** Q, queries per block: many, so that a block of keys is packed seldom. A multiple of 5 and 8. */
export const QUERIES = 200;

/** K, keys per block: keys and a panel of queries together stay in L1. A multiple of 5 and 8. */
export const KEYS = 40;
