/**
 * `deno task export <checkpoint> <folder>`: a checkpoint as a model to ship, its weights as halves and without the
 * optimiser's state.
 *
 * @module
 */
import { mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { cli, command, path } from "../cli/mod.ts";
import { rangeError } from "../core/errors.ts";
import { toHalf } from "../core/half.ts";
import { decodeSafetensors, encodeSafetensors, toFloat32 } from "../model/safetensors.ts";

/**
 * Writes the model under a temporary name, then renames it.
 *
 * @param checkpoint a folder that `deno task train` wrote
 * @param folder where the model goes; it must not exist
 * @throws {RangeError} when the folder exists, a file of the checkpoint is missing or damaged, or a weight is too large
 * for a half
 */
export async function exportModel(checkpoint: string, folder: string): Promise<void> {
  if (await stat(folder).then(() => true, () => false)) {
    rangeError("exportModel", "the folder to export to must not exist", folder);
  }
  const read = async (name: string) => {
    try {
      return new Uint8Array(await readFile(`${checkpoint}/${name}`));
    } catch {
      return rangeError("exportModel", `the checkpoint to export must hold ${name}`, checkpoint);
    }
  };
  const { tensors, metadata } = decodeSafetensors(await read("model.safetensors"), "model.safetensors");
  const halves = [...tensors.values()].map(({ name, shape, dtype, bytes }) => {
    const values = toFloat32(dtype, bytes, name), data = toHalf(values);
    values.forEach((value, i) => {
      // Infinity and NaN have all five bits of the exponent set.
      if ((data[i] & 0x7c00) === 0x7c00) {
        rangeError("exportModel", "weights must fit into a half", value, name);
      }
    });
    return { name, shape, data };
  });
  const partial = `${folder}.partial`;
  await mkdir(partial, { recursive: true });
  for (const name of ["config.json", "tokenizer.json"]) {
    await writeFile(`${partial}/${name}`, await read(name));
  }
  await writeFile(`${partial}/model.safetensors`, encodeSafetensors(halves, metadata));
  await rename(partial, folder);
}

if (import.meta.main) {
  await cli(
    command(
      "export",
      "A checkpoint as a model to ship, its weights as halves and without the optimiser's state.",
    )
      .argument("<checkpoint>", "a folder that deno task train wrote", path)
      .argument("<folder>", "where the model goes; it must not exist", path)
      .action(exportModel),
  );
}
