/**
 * Levin over several processes, by MPI: sequences and training that are too long or too slow for one. Deno only, on
 * machines with MPICH or Open MPI; nothing else in the library needs it.
 *
 * `mpiexec -n 4 deno run -A program.ts` starts four processes of a program; {@linkcode inRanks} joins them.
 *
 * @module
 */
export { RankError } from "./errors.ts";
export { type Facts, inRanks, type Plain, Ranks } from "./ranks.ts";
export { prefill, type PrefillOptions } from "./prefill.ts";
export { trainingRanks } from "./training.ts";
export type { TrainingRanks } from "../train/train.ts";
export type { Chain } from "../train/backward.ts";
export { sharedAttention, sharedAttentionBackward, type SharedOptions } from "./sequence.ts";
