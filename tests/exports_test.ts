// The seam between TypeScript and AssemblyScript: names and order of kernel arguments, and what does not compile.
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { kernelsIn } from "../wasm/build.ts";
import type { Crew } from "../wasm/crew.ts";
import { IN_ORDER, type Kernel } from "../wasm/exports.ts";
import { wasmKernels } from "../wasm/module.ts";
import { exportsModule, signatures } from "../wasm/signatures.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Exported functions of all files in assembly/ and their argument names, by a pattern: not as the build reads them. */
function declared(): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const { name } of Deno.readDirSync(join(ROOT, "assembly"))) {
    if (!name.endsWith(".ts")) continue;
    const source = Deno.readTextFileSync(join(ROOT, "assembly", name));
    for (const [, kernel, list] of source.matchAll(/^export function (\w+)\(([^)]*)\)/gm)) {
      found.set(kernel, [...list.matchAll(/(\w+):/g)].map(([, parameter]) => parameter));
    }
  }
  return found;
}

Deno.test("exports.ts hands over the arguments that the sources declare, in their order", () => {
  const expected = declared();
  assert(expected.size > 20);
  assert.deepEqual(Object.keys(IN_ORDER).sort(), [...expected.keys()].sort());
  for (const [kernel, names] of expected) {
    // Every argument is its own name's place among those of the source, read through a call that answers any name.
    const call = new Proxy({}, { get: (_, name) => names.indexOf(name as string) });
    const scratch = names.indexOf("scratch");
    let args: number[] = [];
    const take = (...taken: number[]) => {
      args = taken;
    };
    IN_ORDER[kernel as Kernel](take, call as never, scratch);
    assert.deepEqual(args, [...names.keys()], kernel);
  }
});

Deno.test("the compiled modules export the kernels of exports.ts, with as many arguments", () => {
  const expected = declared();
  for (const variant of ["relaxed", "baseline"] as const) {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
    const module = new WebAssembly.Module(wasmKernels(variant));
    const { exports } = new WebAssembly.Instance(module, { env: { memory } });
    for (const [kernel, names] of expected) {
      assert.equal((exports[kernel] as CallableFunction).length, names.length, kernel);
    }
    const others = Object.keys(exports).filter((name) => !expected.has(name)).sort();
    assert.deepEqual(others, ["RELAXED", "memory"]);
  }
});

Deno.test("exports.ts is what the sources give", () => {
  const text = Deno.readTextFileSync(join(ROOT, "wasm", "exports.ts"));
  assert.equal(text, exportsModule(kernelsIn("assembly")), "run `deno task build`");
});

Deno.test("sources that the build does not understand fail it", () => {
  const kernel = "export function f(x: usize): void {}\n";
  const refused: [string, RegExp][] = [
    ["", /must export a kernel/],
    ["function f(x: usize): void {}", /must export a kernel/],
    [kernel + "export const SIZE = 4;", /kernels alone/],
    [kernel + "export class A {}", /kernels alone/],
    [kernel + "export const enum A { b }", /kernels alone/],
    [kernel + "function g(): void {}\nexport { g };", /kernels alone/],
    [kernel + 'export * from "./parts/simd";', /kernels alone/],
    ["export function f<T>(x: usize): void {}", /f must not be generic/],
    [
      "export function f(x: v128): void {}",
      /f's x must be of usize, i32, f32, f64, bool: it is of v128 type/,
    ],
    ["export function f(x: i64): void {}", /f's x must be/],
    ["export function f(x: usize): v128 { return f32x4.splat(0); }", /f's result must be/],
    ["export function f(x: () => void): void {}", /f's x must be/],
    ["export function f(x: usize = 1): void {}", /f's x must be neither optional nor rest/],
    ["export function f(x?: usize): void {}", /f's x must be neither optional nor rest/],
    ["export function f(scratch: usize, x: usize): void {}", /f's scratch must be its last argument/],
    ["export function f(x: usize void {}", /syntax must be right/],
  ];
  for (const [source, message] of refused) {
    assert.throws(() => signatures("assembly/f.ts", source), { message }, source);
  }
});

/** Never called: what must not compile. An expectation that is not met is an error of the type check. */
export function doesNotCompile(crew: Crew): void {
  const scratch = { offset: 0, bytes: 0 };
  crew.run("multiply", [{ x: 1, y: 2, output: 3, count: 4 }], { work: 4 });
  // @ts-expect-error: positions
  crew.run("multiply", [[1, 2, 3, 4]], { work: 4 });
  // @ts-expect-error: positions in place of the object
  crew.call("sumSquares", 1, 2, 3);
  // @ts-expect-error: a misspelt name
  crew.run("multiply", [{ x: 1, y: 2, out: 3, count: 4 }], { work: 4 });
  // @ts-expect-error: a missing argument
  crew.run("multiply", [{ x: 1, y: 2, output: 3 }], { work: 4 });
  // @ts-expect-error: another kernel's arguments
  crew.run("multiply", [{ source: 1, target: 2, width: 3, scale: 4 }], { work: 4 });
  // @ts-expect-error: a kernel that does not exist
  crew.run("multiplied", [], { work: 4 });
  // @ts-expect-error: no work space
  crew.run("linear", [], { work: 4 });
  crew.run("linear", [], { work: 4, scratch });
  // @ts-expect-error: work space is the crew's, also in a single call
  crew.call("linear", {});
  // @ts-expect-error: what returns a size is called, not run
  crew.run("linearScratch", [], { work: 4 });
  // @ts-expect-error: this returns nothing
  crew.call("sumSquares", { x: 1, count: 2, total: 3 }).toFixed();
  crew.call("linearScratch", { rows: 1, inDim: 2, outDim: 3 }).toFixed();
}

Deno.test("a renamed kernel parameter fails the type check, reordered ones do not", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const room of ["wasm", "core", "core/ops"]) {
      await Deno.mkdir(join(folder, room), { recursive: true });
      for (const { name } of Deno.readDirSync(join(ROOT, room))) {
        if (name.endsWith(".ts")) await Deno.copyFile(join(ROOT, room, name), join(folder, room, name));
      }
    }
    await Deno.writeTextFile(
      join(folder, "deno.json"),
      '{ "compilerOptions": { "lib": ["deno.window", "esnext.disposable"] } }',
    );
    const file = "assembly/norm.ts", source = Deno.readTextFileSync(join(ROOT, file));
    const others = kernelsIn("assembly").filter((kernel) => kernel.file !== file);
    const check = async (changed: string) => {
      assert.notEqual(changed, source);
      const text = exportsModule([...others, ...signatures(file, changed)]);
      await Deno.writeTextFile(join(folder, "wasm", "exports.ts"), text);
      const { success, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["check", "--quiet", "wasm/mod.ts"],
        cwd: folder,
        env: { NO_COLOR: "1" },
      }).output();
      return { success, errors: new TextDecoder().decode(stderr) };
    };
    const reordered = await check(
      source.replaceAll("gate: usize, output: usize", "output: usize, gate: usize"),
    );
    assert(reordered.success, reordered.errors);
    const renamed = await check(source.replaceAll(/\bgate\b/g, "factor"));
    assert(!renamed.success);
    assert.match(renamed.errors, /'factor' is missing|'gate' does not exist/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the build works in a folder whose name holds a space and a percent sign", async () => {
  const parent = await Deno.makeTempDir(), folder = join(parent, "a b%20c");
  const copied = [
    "wasm",
    "assembly",
    "assembly/parts",
    "core",
    "bench/baselines",
    "bench/baselines/assembly",
  ];
  try {
    for (const room of copied) {
      await Deno.mkdir(join(folder, room), { recursive: true });
      for (const { name } of Deno.readDirSync(join(ROOT, room))) {
        if (name.endsWith(".ts")) await Deno.copyFile(join(ROOT, room, name), join(folder, room, name));
      }
    }
    for (const name of ["deno.json", "imports.json", "deno.lock"]) {
      await Deno.copyFile(join(ROOT, name), join(folder, name));
    }
    await Deno.writeTextFile(
      join(folder, "wasm", "small.ts"),
      `import { compile, kernelsIn } from "./build.ts";
      const room = "bench/baselines/assembly";
      console.log((await compile(room, kernelsIn(room), ["simd"])).toHex());`,
    );
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--allow-read", "--allow-env", "wasm/small.ts"],
      cwd: folder,
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    const kernels = await Deno.readTextFile(join(ROOT, "bench/baselines/kernels.ts"));
    assert(
      kernels.includes(`"${new TextDecoder().decode(stdout).trim()}"`),
      "it does not compile to the same",
    );
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
});
