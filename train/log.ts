/**
 * The record of a training run.
 *
 * @module
 */
import { appendFile, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { lastGood } from "./checkpoint.ts";

/**
 * `log.jsonl`, one object per step and evaluation. What a killed run wrote after its last checkpoint is taken away: it
 * will be computed again.
 */
export async function openLog(
  out: string,
  step: number,
): Promise<(lines: readonly object[]) => Promise<void>> {
  const path = `${out}/log.jsonl`;
  const write = async (work: () => Promise<void>) => {
    try {
      await work();
    } catch (cause) {
      throw new Error(`Cannot write ${path}: ${(cause as Error).message}; ${await lastGood(out)}`, { cause });
    }
  };
  await write(async () => {
    await mkdir(out, { recursive: true });
    const text = step === 0 ? "" : await readFile(path, "utf8").catch(() => "");
    const kept = text.split("\n").filter((line) => {
      try {
        return JSON.parse(line).step <= step;
      } catch {
        return false; // the line that the kill cut off
      }
    });
    await writeFile(`${path}.partial`, kept.map((line) => `${line}\n`).join(""));
    await rename(`${path}.partial`, path);
  });
  return async (lines) => {
    if (lines.length === 0) return;
    await write(() => appendFile(path, lines.map((line) => `${JSON.stringify(line)}\n`).join("")));
  };
}
