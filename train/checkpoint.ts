/**
 * Checkpoints: folders `step-<number>` that are ordinary models (`config.json`, `tokenizer.json`, `model.safetensors`)
 * and hold what training needs to continue (`optimizer.safetensors`, `training.json`).
 *
 * A checkpoint is written under a temporary name, flushed to disk and renamed: a `step-` folder is whole at all times.
 * `training.json` holds a SHA-256 of every other file, so that damage is found before it is trained on.
 *
 * @module
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { message, rangeError, show } from "../core/errors.ts";
import { decodeSafetensors, encodeSafetensors, toFloat32 } from "../model/safetensors.ts";
import { byteTokenizer } from "./configs.ts";

/** A tensor by name. */
export interface NamedTensor {
  /** Name in the file. */
  readonly name: string;
  /** Dimensions. */
  readonly shape: readonly number[];
  /** Elements. */
  readonly data: Float32Array;
}

/** What a checkpoint holds. */
export interface TrainingState {
  /** Steps that were taken. */
  readonly step: number;
  /** Every setting that the losses depend on. */
  readonly recipe: Readonly<Record<string, unknown>>;
  /** `config.json`. */
  readonly config: Readonly<Record<string, unknown>>;
  /** {@linkcode Corpus.fingerprint} of the data. */
  readonly data: string;
  /** The parameters, in the published layout. */
  readonly weights: readonly NamedTensor[];
  /** Moments `first.*` and `second.*`, and states `state.*` that the next step carries on. */
  readonly optimizer: readonly NamedTensor[];
}

const FORMAT = 1;
const HIDDEN = /^\.step-\d+\.(partial|old)$/;
const VISIBLE = /^step-(\d+)$/;

/** Path of a step's checkpoint. */
export function checkpointPath(folder: string, step: number): string {
  return `${folder}/step-${String(step).padStart(6, "0")}`;
}

/** Steps of the whole checkpoints in a folder, from first to last; none when the folder does not exist. */
export async function findCheckpoints(folder: string): Promise<number[]> {
  return (await namesIn(folder)).flatMap((name) => VISIBLE.exec(name)?.slice(1).map(Number) ?? []).sort((
    a,
    b,
  ) => a - b);
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return [];
    throw error;
  }
}

/**
 * Writes a checkpoint, then deletes all but the last `keep`.
 *
 * @returns its path
 * @throws {Error} when it cannot be written, for example because the disk is full; the message names the last good one
 */
export async function saveCheckpoint(folder: string, state: TrainingState, keep: number): Promise<string> {
  const target = checkpointPath(folder, state.step);
  const partial = `${folder}/.step-${state.step}.partial`;
  try {
    await mkdir(folder, { recursive: true });
    for (const name of await namesIn(folder)) {
      if (HIDDEN.test(name)) await rm(`${folder}/${name}`, { recursive: true }); // left by a run that was killed
    }
    await mkdir(partial);
    const files: Record<string, Uint8Array> = {
      "config.json": json(state.config),
      "tokenizer.json": json(byteTokenizer()),
      "model.safetensors": encodeSafetensors(state.weights, { format: "pt" }),
      "optimizer.safetensors": encodeSafetensors(state.optimizer),
    };
    const sums: Record<string, string> = {};
    for (const [name, bytes] of Object.entries(files)) sums[name] = await sha256(bytes);
    const { step, recipe, data } = state;
    files["training.json"] = json({ format: FORMAT, step, recipe, data, files: sums });
    for (const [name, bytes] of Object.entries(files)) await writeDurably(`${partial}/${name}`, bytes);
    await rename(partial, target);
  } catch (cause) {
    await rm(partial, { recursive: true, force: true }).catch(() => {}); // the first error is the one that matters
    throw new Error(
      `Cannot save the checkpoint of step ${state.step}: ${(cause as Error).message}; ${await lastGood(
        folder,
      )}`,
      { cause },
    );
  }
  for (const step of (await findCheckpoints(folder)).slice(0, -keep)) {
    // Hidden first: a kill while it is deleted leaves no half checkpoint in sight.
    await rename(checkpointPath(folder, step), `${folder}/.step-${step}.old`);
    await rm(`${folder}/.step-${step}.old`, { recursive: true });
  }
  return target;
}

/** A sentence that names the last good checkpoint of a folder. */
export async function lastGood(folder: string): Promise<string> {
  const last = (await findCheckpoints(folder)).at(-1);
  return last === undefined
    ? "there is no earlier checkpoint"
    : `the last good checkpoint is ${checkpointPath(folder, last)}`;
}

/**
 * Reads the last checkpoint of a folder.
 *
 * @throws {RangeError} when there is none, or it is damaged; then the message names the one before
 */
export async function loadCheckpointState(folder: string): Promise<TrainingState> {
  const steps = await findCheckpoints(folder);
  const last = steps.at(-1);
  if (last === undefined) rangeError("train", "the folder to resume from must hold a checkpoint", folder);
  const path = checkpointPath(folder, last);
  try {
    const training = JSON.parse(new TextDecoder().decode(await readFile(`${path}/training.json`)));
    if (training.format !== FORMAT) throw new RangeError(`format ${show(training.format)} is not ${FORMAT}`);
    const files: Record<string, Uint8Array<ArrayBuffer>> = {};
    for (const name of ["config.json", "model.safetensors", "optimizer.safetensors"]) {
      const bytes = new Uint8Array(await readFile(`${path}/${name}`));
      if (await sha256(bytes) !== training.files[name]) {
        throw new RangeError(`the checksum of ${name} is not the one in training.json`);
      }
      files[name] = bytes;
    }
    return {
      step: training.step,
      recipe: training.recipe,
      data: training.data,
      config: JSON.parse(new TextDecoder().decode(files["config.json"])),
      weights: tensorsOf(files["model.safetensors"], "model.safetensors"),
      optimizer: tensorsOf(files["optimizer.safetensors"], "optimizer.safetensors"),
    };
  } catch (cause) {
    const before = steps.at(-2);
    throw new RangeError(
      `${message("train", "a checkpoint must be whole", path)}: ${(cause as Error).message}${
        before === undefined ? "" : `; delete it to resume from ${checkpointPath(folder, before)}`
      }`,
      { cause },
    );
  }
}

function tensorsOf(file: Uint8Array<ArrayBuffer>, name: string): NamedTensor[] {
  return [...decodeSafetensors(file, name).tensors.values()].map(({ name, shape, dtype, bytes }) => ({
    name,
    shape,
    data: toFloat32(dtype, bytes, name),
  }));
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, undefined, 2)}\n`);
}

async function sha256(bytes: Uint8Array): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)).toHex();
}

/** Writes a file whose bytes are on disk when this returns. */
async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "wx");
  try {
    for (let written = 0; written < bytes.length;) {
      written += (await file.write(bytes, written)).bytesWritten;
    }
    await file.sync();
  } finally {
    await file.close();
  }
}
