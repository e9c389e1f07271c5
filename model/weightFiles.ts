/**
 * The files of a checkpoint's weights: one, or shards that an index names; safetensors, or PyTorch's own.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";
import { absent, openRequired, readAll, type Source } from "./source.ts";
import { openSafetensors } from "./safetensors.ts";
import type { WeightFile } from "./stored.ts";

const OPERATION = "TransNormerLLM.load";

/** Names that weights go by, the preferred ones first; each may also be the beginning of an index's name. */
export const SINGLES: readonly string[] = ["model.safetensors", "pytorch_model.bin"];

/** The index of the shards that stand for a single file. */
export function indexOf(single: string): string {
  return `${single}.index.json`;
}

/** The files of a checkpoint's weights. */
export interface WeightFiles {
  /** Their names, in order of first mention. */
  readonly files: readonly string[];
  /** Names of all tensors, where an index says so beforehand. */
  readonly names: ReadonlySet<string> | undefined;
  /** Bytes of all tensors, where an index says so beforehand. */
  readonly totalBytes: number | undefined;
  /** Opens one of the files; the caller closes it. */
  open(file: string): Promise<WeightFile>;
}

/**
 * Finds a checkpoint's weights.
 *
 * @throws {RangeError} when there are none, or their index is damaged
 */
export async function findWeights(source: Source): Promise<WeightFiles> {
  for (const single of SINGLES) {
    let found = await source.open(single);
    if (found !== undefined) {
      const open = async (file: string) => {
        const reader = found ?? await openRequired(source, file);
        found = undefined;
        return await openReader(reader, file);
      };
      return { files: [single], names: undefined, totalBytes: undefined, open };
    }
    const index = await readIndex(source, single);
    if (index === undefined) continue;
    const open = async (file: string) => {
      const reader = await source.open(file) ??
        rangeError(OPERATION, "every shard of the index must exist", file, source.instead(file));
      return await openReader(reader, file);
    };
    return { ...index, open };
  }
  return absent(source, SINGLES.flatMap((single) => [single, indexOf(single)]));
}

/** A file of weights, by its name's ending. What reads PyTorch's files is loaded when there is one. */
async function openReader(
  reader: Parameters<typeof openSafetensors>[0],
  file: string,
): Promise<WeightFile> {
  if (!file.endsWith(".bin")) return await openSafetensors(reader, file);
  const { openTorch } = await import("./torch.ts");
  return await openTorch(reader, file);
}

/** The shards that stand for a single file, if there is an index of them. */
async function readIndex(source: Source, single: string): Promise<Omit<WeightFiles, "open"> | undefined> {
  const file = indexOf(single), ending = single.slice(single.indexOf("."));
  const index = await readJson(source, file, "optional") as
    | { weight_map?: unknown; metadata?: { total_size?: unknown } }
    | undefined;
  if (index === undefined) return undefined;
  const map = index?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    rangeError(OPERATION, "weight_map must map names of tensors to files", map, file);
  }
  for (const shard of Object.values(map)) {
    if (typeof shard !== "string" || !/^[\w-][\w.-]*$/.test(shard) || !shard.endsWith(ending)) {
      rangeError(OPERATION, `weight_map must name ${ending} files beside it`, shard, file);
    }
  }
  const total = index?.metadata?.total_size;
  return {
    files: [...new Set<string>(Object.values(map))],
    names: new Set(Object.keys(map)),
    totalBytes: Number.isSafeInteger(total) ? total as number : undefined,
  };
}

/** A JSON file of a checkpoint. */
export async function readJson(source: Source, name: string, optional?: "optional"): Promise<unknown> {
  const reader = optional ? await source.open(name) : await openRequired(source, name);
  if (reader === undefined) return undefined;
  const bytes = await readAll(reader, name);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    rangeError(OPERATION, `${name} must be JSON in UTF-8`, (error as Error).message);
  }
}
