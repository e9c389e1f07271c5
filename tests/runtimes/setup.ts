/**
 * What the tests of this folder stand on: the package, packed and installed, beside the runtimes and bundlers of
 * `npm/package.json`, in `.runtimes/` of the project.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { stop } from "esbuild";
import { OUT, writePackage } from "../../package/build.ts";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Where everything is installed and run. */
export const FOLDER = `${ROOT}.runtimes`;
/** The shipped model. */
export const MODEL = `${ROOT}models/sotu`;

/** What a program printed; throws with its errors when it fails. */
export async function run(
  program: string,
  args: string[],
  { cwd = FOLDER, env = {} }: { cwd?: string; env?: Record<string, string> } = {},
): Promise<string> {
  const command = new Deno.Command(program, {
    args,
    cwd,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
  });
  const { success, stdout, stderr } = await command.output();
  const decoder = new TextDecoder(), printed = decoder.decode(stdout);
  assert(
    success,
    `${program} ${args.join(" ")} failed:\n${printed}${decoder.decode(stderr)}`,
  );
  return printed;
}

/** A file of a package that is installed. */
export const installed = (path: string): string => `${FOLDER}/node_modules/${path}`;

/** Writes the package, packs it, and installs it with the tools; the path of the tarball. */
export async function install(): Promise<string> {
  await writePackage();
  await stop();
  await Deno.mkdir(FOLDER, { recursive: true });
  const [{ filename }] = JSON.parse(
    await run("npm", ["pack", "--json", "--pack-destination", FOLDER], {
      cwd: OUT,
    }),
  );
  for (const name of ["package.json", "package-lock.json"]) {
    await Deno.copyFile(`${HERE}npm/${name}`, `${FOLDER}/${name}`);
  }
  await Deno.remove(`${FOLDER}/programs`, { recursive: true }).catch(() => {});
  await Deno.mkdir(`${FOLDER}/programs`);
  for (const { name } of Deno.readDirSync(`${HERE}programs`)) {
    await Deno.copyFile(
      `${HERE}programs/${name}`,
      `${FOLDER}/programs/${name}`,
    );
  }
  const quiet = ["--no-audit", "--no-fund", "--silent"];
  // No script of a package runs: all tools ship their binaries as packages.
  const before = await Deno.readTextFile(`${FOLDER}/installed-lock.json`).catch(
    () => "",
  );
  const lock = await Deno.readTextFile(`${FOLDER}/package-lock.json`);
  if (before !== lock) {
    await run("npm", ["ci", "--ignore-scripts", ...quiet]);
  }
  await Deno.writeTextFile(`${FOLDER}/installed-lock.json`, lock);
  const tarball = `${FOLDER}/${filename}`;
  // The same version again: npm would keep what it has.
  await Deno.remove(installed("@levin"), { recursive: true }).catch(() => {});
  await run("npm", [
    "install",
    "--no-save",
    "--ignore-scripts",
    "--prefer-offline",
    ...quiet,
    tarball,
  ]);
  return tarball;
}
