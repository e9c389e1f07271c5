/**
 * Training over ranks, as `train()` asks for it.
 *
 * @module
 */
import type { Backend } from "../core/tensor.ts";
import type { TrainingRanks } from "../train/train.ts";
import { VERSION } from "./facts.ts";
import type { Ranks } from "./ranks.ts";
import { StateChain } from "./sequence.ts";

/**
 * What `train({ ranks })` takes.
 *
 * @param split `"batch"`: each rank learns from its own sequences; `"sequence"`: from a part of every sequence
 * @throws {RankError} `"different"` on every rank, when they run different versions of the library
 */
export async function trainingRanks(
  ranks: Ranks,
  backend: Backend,
  split: "batch" | "sequence",
): Promise<TrainingRanks> {
  await ranks.agree("train", { version: VERSION, split });
  const { rank, size } = ranks;
  return {
    rank,
    size,
    allReduce: (data) => ranks.allReduce(data),
    agree: (operation, facts) => ranks.agree(operation, facts),
    together: (operation, work) => ranks.together(operation, work),
    ...split === "sequence" && { chain: new StateChain(ranks, backend) },
  };
}
