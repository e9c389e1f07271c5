/**
 * `deno task train:ranks <processes>`: `deno task train` on several processes. What is wrong on the command line is told
 * once; then the command starts itself as ranks.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { cli, integer, interruption, oneOf, UsageError } from "../cli/mod.ts";
import { runTraining, trainingCommand } from "../train/main.ts";
import { isRank, launch } from "./launch.ts";
import { inRanks } from "./ranks.ts";
import { trainingRanks } from "./training.ts";

if (import.meta.main) {
  await cli(
    trainingCommand("train:ranks", "Trains a model on text, byte by byte, with several processes.")
      .argument("<processes>", "how many", integer(1))
      .optionsGroup("Processes:")
      .option("--gpus", "each process sees one GPU, its own")
      .option(
        "--split <what>",
        '"batch": each process has its own --batch sequences; "sequence": a part of each of them',
        oneOf({ batch: "batch", sequence: "sequence" } as const),
        "batch" as "batch" | "sequence",
      )
      .action(async (processes, { permissions: _, gpus = false, split, ...options }) => {
        if (!isRank()) {
          const program = fileURLToPath(import.meta.url);
          Deno.exit(await launch({ processes, gpus, program, args: Deno.args }));
        }
        const stop = interruption("SIGTERM");
        const { finished } = await inRanks((ranks) => {
          if (ranks.size !== processes) {
            throw new UsageError(`mpiexec started ${ranks.size} processes, not ${processes}`);
          }
          return runTraining(options, stop, undefined, (backend) => trainingRanks(ranks, backend, split));
        });
        if (!finished) stop.throwIfAborted();
      }),
  );
}
