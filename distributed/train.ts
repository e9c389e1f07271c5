/**
 * `deno task train:ranks`: `deno task train` on several processes.
 *
 * @module
 */
import { cli, interruption, oneOf } from "../cli/mod.ts";
import { runTraining, trainingCommand } from "../train/main.ts";
import { inRanks } from "./ranks.ts";
import { trainingRanks } from "./training.ts";

if (import.meta.main) {
  await cli(
    trainingCommand(
      "train:ranks <processes>",
      "Trains a model on text, byte by byte, with several processes.",
    )
      .optionsGroup("Processes:")
      .option(
        "--split <what>",
        '"batch": each process has --batch sequences of its own; "sequence": a part of each of them',
        oneOf({ batch: "batch", sequence: "sequence" } as const),
        "batch" as "batch" | "sequence",
      )
      .action(async ({ permissions: _, split, ...options }) => {
        const stop = interruption("SIGTERM");
        const { finished } = await inRanks((ranks) =>
          runTraining(options, stop, undefined, (backend) => trainingRanks(ranks, backend, split))
        );
        if (!finished) stop.throwIfAborted();
      }),
  );
}
