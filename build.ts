/**
 * Writes all files that are made of kernels: compiled WebAssembly and its arguments, shaders and their bindings.
 *
 * `deno task build` writes; `deno task build --check` fails when a committed file is not what the sources give.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cli, command } from "./cli/mod.ts";
import { shadersModule } from "./gpu/build.ts";
import { kernelFiles } from "./wasm/build.ts";

const ROOT = fileURLToPath(new URL(".", import.meta.url));

if (import.meta.main) {
  await cli(
    command("build", "Writes all files that are made of kernels.")
      .option("--check", "compare with the files that are there instead of writing", false)
      .action(build),
  );
}

async function build({ check }: { check: boolean }): Promise<void> {
  const made = {
    ...await kernelFiles(),
    "gpu/shaders.ts": shadersModule("gpu"),
    "gpu/units/shaders.ts": shadersModule("gpu/units"),
    "bench/baselines/shaders.ts": shadersModule("bench/baselines"),
  };
  for (const [name, text] of Object.entries(made)) {
    const path = join(ROOT, name);
    if (!check) {
      Deno.writeTextFileSync(path, text);
    } else if (Deno.readTextFileSync(path) === text) {
      console.log(`${name} is what its sources give`);
    } else {
      throw new Error(
        `Cannot accept ${name}: it is not what its sources give. Run deno task build and commit the result`,
      );
    }
  }
}
