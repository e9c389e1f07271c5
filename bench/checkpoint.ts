/**
 * `deno task bench:checkpoint <385M|1B|3B|7B> --out <folder>`: a checkpoint of a published size with random weights in BF16,
 * to measure what does not depend on what a model has learnt.
 *
 * @module
 */
import { cli, command, interruption, path, StatusLine } from "../cli/mod.ts";
import { Argument } from "@commander-js/extra-typings";
import { PUBLISHED, type PublishedName, writeCheckpoint } from "./measure/checkpoints.ts";

await cli(
  command("bench:checkpoint", "A checkpoint of a published size, with random weights in BF16.")
    .addArgument(new Argument("<size>").choices(Object.keys(PUBLISHED) as PublishedName[]))
    .requiredOption("--out <folder>", "where it goes", path)
    .action(async (size, { out }) => {
      const stop = interruption(), status = new StatusLine();
      try {
        await writeCheckpoint(out, PUBLISHED[size], (bytes, totalBytes) => {
          stop.throwIfAborted();
          status.draw(`${(100 * bytes / totalBytes).toFixed(0)} % of ${(totalBytes / 1e9).toFixed(2)} GB`);
        });
      } finally {
        status.end();
      }
    }),
);
