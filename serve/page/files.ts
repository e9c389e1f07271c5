/**
 * The model's files: what it says of itself, and what those load who run it in the page.
 *
 * @module
 */
import { Hono } from "hono";
import { z } from "zod";
import { TOKENIZER_FILES } from "../../model/tokenizer/files.ts";
import { openSource, readAll, type Source } from "../../model/source.ts";
import type { ByteReader } from "../../model/safetensors.ts";
import { indexOf, SINGLES } from "../../model/weightFiles.ts";
import { ApiError } from "../errors.ts";

/** Files that a model is loaded from, apart from shards of its weights. */
const FILES: ReadonlySet<string> = new Set([
  "config.json",
  "generation_config.json",
  ...TOKENIZER_FILES,
  ...SINGLES,
  ...SINGLES.map(indexOf),
]);

const introduction = z.object({
  about: z.string().min(1).max(1000).optional(),
  examples: z.array(z.string().min(1).max(1000)).max(3).optional(),
});

/** What a model's folder tells people of the model. */
export type Introduction = z.output<typeof introduction>;

/**
 * `introduction.json` of a checkpoint, `{}` if there is none: `about`, one sentence on what the model is, and `examples`,
 * up to three prompts that suit it.
 *
 * @throws {Error} when there is one that cannot be read or holds something else
 */
export async function readIntroduction(checkpoint: string | URL): Promise<Introduction> {
  const file = await openSource(checkpoint, {}).open("introduction.json");
  return file === undefined ? {} : introduction.parse(
    JSON.parse(new TextDecoder().decode(await readAll(file, "introduction.json", 2 ** 20))),
  );
}

/** Files that are sent together: each takes a file descriptor. */
const TOGETHER = 24;

/** The files that a model is loaded from, as they are, and no others of the checkpoint. */
export function modelFiles(checkpoint: string | URL): Hono {
  const source = openSource(checkpoint, {});
  let others: Promise<ReadonlySet<unknown>> | undefined;
  let sending = 0;
  return new Hono().get("/:name", async (c) => {
    const name = c.req.param("name");
    if (sending >= TOGETHER) {
      throw new ApiError(503, "Too many files are being sent: try again later", {
        code: "too_many_files",
        retryAfter: 1,
      });
    }
    sending++;
    let file: ByteReader | undefined;
    try {
      const named = FILES.has(name) ? undefined : await (others ??= shards(source));
      if (named?.size === 0) others = undefined; // an index may still come
      const isOfModel = named === undefined || named.has(name);
      file = isOfModel ? await source.open(name) : undefined;
      if (file === undefined) {
        throw new ApiError(404, "The checkpoint has no such file", { code: "not_found" });
      }
    } catch (error) {
      if (!(error instanceof ApiError)) others = undefined;
      sending--;
      throw error;
    }
    return c.body(stream(file, () => sending--), 200, {
      "content-type": "application/octet-stream",
      ...(file.size === undefined ? {} : { "content-length": String(file.size) }),
    });
  });
}

/** The files that indexes of the weights name. */
async function shards(source: Source): Promise<ReadonlySet<unknown>> {
  const files = new Set<unknown>();
  for (const single of SINGLES) {
    const name = indexOf(single), index = await source.open(name);
    if (index === undefined) continue;
    const { weight_map: map } = JSON.parse(new TextDecoder().decode(await readAll(index, name)));
    for (const file of Object.values(map ?? {})) files.add(file);
  }
  return files;
}

/** A file in pieces, none of which is read before somebody asks for it. It is closed at its end, however that comes. */
function stream(file: ByteReader, onEnd: () => void): ReadableStream<Uint8Array> {
  const end = async () => {
    onEnd();
    await file.close();
  };
  return new ReadableStream({
    async pull(controller) {
      const piece = new Uint8Array(2 ** 16);
      let filled: number;
      try {
        filled = await file.read(piece);
      } catch (error) {
        await end();
        throw error;
      }
      if (filled > 0) controller.enqueue(piece.subarray(0, filled));
      if (filled === piece.length) return;
      await end();
      controller.close();
    },
    cancel: end,
  }, { highWaterMark: 0 });
}
