/**
 * The house keeps its shape: which room may import which, no circles, and one name for one thing. ARCHITECTURE.md says
 * why; the graph is what `deno info` finds, with dynamic imports, and imports of types told apart.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../", import.meta.url);

/**
 * What each room may import beside itself; `"npm"` is any package. Files at the root are a room, `""`. What no room of
 * the library imports may import everything: `bench`, `tests`.
 */
const ALLOWED: Record<string, readonly string[]> = {
  core: [],
  assembly: ["core"],
  gpu: ["core"],
  wasm: ["core", "npm"],
  "": ["core", "gpu", "wasm"],
  model: ["", "core", "npm"],
  cli: ["core", "model", "npm"],
  train: ["", "cli", "core", "model", "npm"],
  serve: ["", "cli", "core", "model", "npm"],
  distributed: ["", "cli", "core", "model", "train", "npm"],
  examples: ["", "cli", "model", "serve", "wasm", "npm"],
};

/**
 * What `bench` may import of `tests`: the oracle, measures of errors, stores, how to wait for a server and to find a
 * browser.
 */
const SHARED_BY_TESTS = /^tests\/(numbers|reference\w*|listening|edge_function|setup|store_servers)\.ts$/;

/** One import, of a file by its path or of a package by its specifier. */
interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
  /** By `import()`. */
  readonly dynamic: boolean;
}

/** All TypeScript files of a folder and its folders, by their paths from the root. */
function* sourcesIn(folder: string, extensions: readonly string[] = [".ts"]): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(new URL(folder, ROOT))) {
    if (isDirectory) yield* sourcesIn(`${folder}${name}/`, extensions);
    else if (extensions.some((extension) => name.endsWith(extension))) yield `${folder}${name}`;
  }
}

/** The room of a file; `build.ts` is a command and not of the library. */
const roomOf = (path: string) =>
  path.includes("/") ? path.slice(0, path.indexOf("/")) : path === "build.ts" ? "build" : "";

/** Whether a file is AssemblyScript, whose imports have no extensions. */
const isAssembly = (path: string) =>
  path.startsWith("assembly/") || path.startsWith("bench/baselines/assembly/");

/** The files that Deno reaches from some files, and their imports, as it resolves them. */
async function denoGraph(entries: readonly string[]): Promise<{ reached: string[]; imports: Import[] }> {
  const all = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(all, entries.map((entry) => `import "${new URL(entry, ROOT)}";\n`).join(""));
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", "--no-lock", "--config", fileURLToPath(new URL("deno.json", ROOT)), all],
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as {
      modules: {
        specifier: string;
        error?: string;
        dependencies?: {
          code?: { specifier?: string };
          type?: { specifier?: string };
          isDynamic?: boolean;
        }[];
      }[];
    };
    const pathOf = (specifier: string) =>
      specifier.startsWith(ROOT.href) ? decodeURIComponent(specifier.slice(ROOT.href.length)) : specifier;
    const own = modules.filter(({ specifier }) => specifier.startsWith(ROOT.href));
    for (const { specifier, error } of own) assert.equal(error, undefined, specifier);
    return {
      reached: own.map(({ specifier }) => pathOf(specifier)),
      imports: own.flatMap(({ specifier, dependencies = [] }) =>
        dependencies.map(({ code, type, isDynamic = false }) => ({
          from: pathOf(specifier),
          to: pathOf((code ?? type)!.specifier!),
          typeOnly: code === undefined,
          dynamic: isDynamic,
        }))
      ),
    };
  } finally {
    await Deno.remove(all);
  }
}

/** The imports of an AssemblyScript file. */
function assemblyImports(from: string): Import[] {
  const text = Deno.readTextFileSync(new URL(from, ROOT));
  return [...text.matchAll(/^(?:import|export)\b[^"';]*?\bfrom\s*"([^"]+)"/gm)].map(([, specifier]) => ({
    from,
    to: new URL(`${specifier}.ts`, new URL(from, ROOT)).href.slice(ROOT.href.length),
    typeOnly: false,
    dynamic: false,
  }));
}

const folders = [...Object.keys(ALLOWED), "bench", "tests"].filter((room) => room !== "");
const rootFiles = [...Deno.readDirSync(ROOT)].map(({ name }) => name).filter((name) => name.endsWith(".ts"));
const files = [...rootFiles, ...folders.flatMap((folder) => [...sourcesIn(`${folder}/`)])];
const graph = await denoGraph(files.filter((file) => !isAssembly(file)));
const imports = [
  ...graph.imports,
  ...files.filter(isAssembly).flatMap(assemblyImports),
];

/** Whether an import leads to a file of ours: not to a package, nor to what the runtime has. */
const isFile = ({ to }: Import) => !to.includes(":");
const isPackage = ({ to, typeOnly }: Import) => !typeOnly && to.includes(":") && !to.startsWith("node:");

/** All that a file reaches by imports of values, itself too; with `atStart` what loads together with it. */
function reached(entry: string, { atStart = false } = {}): Set<string> {
  const found = new Set([entry]);
  for (const path of found) {
    for (const { from, to, typeOnly, dynamic } of imports) {
      if (from === path && !typeOnly && !(atStart && dynamic)) found.add(to);
    }
  }
  return found;
}

/** A circle of imports, as a path that ends where it begins; undefined where there is none. */
function circle(edges: readonly Import[]): string[] | undefined {
  const targets = Map.groupBy(edges, ({ from }) => from);
  const done = new Set<string>(), path: string[] = [];
  const visit = (file: string): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return undefined;
    path.push(file);
    for (const { to } of targets.get(file) ?? []) {
      const found = visit(to);
      if (found !== undefined) return found;
    }
    path.pop();
    done.add(file);
    return undefined;
  };
  for (const file of targets.keys()) {
    const found = visit(file);
    if (found !== undefined) return found;
  }
  return undefined;
}

Deno.test("the graph of imports holds all files, and tells types, values and packages apart", () => {
  assert(files.length > 100);
  assert.deepEqual(files.filter((file) => !isAssembly(file) && !graph.reached.includes(file)), []);
  const has = (wanted: Import) => imports.some((one) => JSON.stringify(one) === JSON.stringify(wanted));
  assert(has({ from: "tests/structure_test.ts", to: "node:assert/strict", typeOnly: false, dynamic: false }));
  assert(imports.some(({ from, to }) => from.startsWith("assembly/") && to.startsWith("assembly/")));
  assert(
    imports.some(({ from, to, typeOnly }) => from.startsWith("gpu/") && to.startsWith("core/") && typeOnly),
  );
  const whole = [...reached("mod.ts")]; // by dynamic imports
  for (const room of ["gpu", "wasm"]) assert(whole.some((path) => roomOf(path) === room), room);
  const cut = (from: string, to: string): Import => ({ from, to, typeOnly: false, dynamic: false });
  assert.deepEqual(circle([cut("a", "b"), cut("b", "c"), cut("c", "b")]), ["b", "c", "b"]);
  assert.equal(circle([cut("a", "b"), cut("a", "c"), cut("b", "c")]), undefined);
});

Deno.test("every room imports only what its place in the house allows", () => {
  const wrong = imports.filter((one) => {
    const room = roomOf(one.from), allowed = ALLOWED[room];
    if (room === "bench") return one.to.startsWith("tests/") && !SHARED_BY_TESTS.test(one.to);
    if (allowed === undefined) return false;
    if (isFile(one)) return roomOf(one.to) !== room && !allowed.includes(roomOf(one.to));
    return isPackage(one) && !allowed.includes("npm");
  });
  assert.deepEqual(wrong.map(({ from, to }) => `${from} imports ${to}`), []);
});

Deno.test("no circle of files, but pairs of which one imports the other's types only", () => {
  const values = imports.filter((one) => isFile(one) && !one.typeOnly);
  assert.equal(circle(values)?.join(" → "), undefined);
  const pairs = new Set(imports.map(({ from, to }) => `${to} ${from}`));
  const rest = imports.filter((one) => isFile(one) && !(one.typeOnly && pairs.has(`${one.from} ${one.to}`)));
  assert.equal(circle(rest)?.join(" → "), undefined);
});

Deno.test("the attention library has no run-time dependency", () => {
  const { exports } = JSON.parse(Deno.readTextFileSync(new URL("deno.json", ROOT)));
  for (const name of [".", "./ops", "./gradients", "./backend", "./wasm", "./webgpu"]) {
    assert(name in exports, `deno.json must export ${name}`);
    const outside = [...reached(exports[name].slice(2))].filter((to) => to.includes(":"));
    assert.deepEqual(outside, [], `what ${name} reaches outside`);
  }
});

Deno.test("a program for one backend loads nothing of the other", () => {
  const { exports } = JSON.parse(Deno.readTextFileSync(new URL("deno.json", ROOT)));
  for (const [name, other] of [["./wasm", "gpu"], ["./webgpu", "wasm"]]) {
    assert(name in exports, `deno.json must export ${name}`);
    const foreign = [...reached(exports[name].slice(2))].filter((path) => roomOf(path) === other);
    assert.deepEqual(foreign, [], `what ${name} reaches of ${other}/`);
  }
});

Deno.test("a model and a server load the kernels of no backend but the one that they are given", () => {
  const { exports } = JSON.parse(Deno.readTextFileSync(new URL("deno.json", ROOT)));
  const kernels = (path: string) => /^(gpu|wasm)\//.test(path) || path === "serve/page/assets.ts";
  for (const name of ["./tnl/bare", "./serve/bare"]) {
    assert.deepEqual([...reached(exports[name].slice(2))].filter(kernels), [], `what ${name} reaches`);
  }
  for (const name of ["./tnl", "./serve"]) assert([...reached(exports[name].slice(2))].some(kernels), name);
});

Deno.test("the first run fetches what the library uses, and nothing that only development needs", () => {
  // What a room outside development imports of packages; their subpaths belong to them.
  const used = new Set(
    imports.filter((one) =>
      // No literal names the drivers of stores but for their types: see `serve/stores/packages.ts`.
      isPackage({ ...one, typeOnly: one.typeOnly && one.from !== "serve/stores/packages.ts" }) &&
      ["cli", "model", "serve", "examples"].includes(roomOf(one.from))
    )
      .map(({ to }) => to.replace(/^(npm:)\/?((?:@[^/]+\/)?[^/]+).*/, "$1$2")),
  );
  used.add(JSON.parse(Deno.readTextFileSync(new URL("imports.json", ROOT))).imports["@webgpu/types"]);
  const { specifiers, npm } = JSON.parse(Deno.readTextFileSync(new URL("deno.run.lock", ROOT)));
  const advice = "after a change of imports.json: `deno task lock`";
  assert.deepEqual(Object.keys(specifiers).sort(), [...used].sort(), advice);
  assert(Object.keys(npm).length <= 75, advice);
});

Deno.test("the library loads a backend when it is wanted, not before", () => {
  const early = [...reached("mod.ts", { atStart: true })].filter((path) => /^(gpu|wasm)\//.test(path));
  assert.deepEqual(early, [], "what mod.ts loads at its start");
});

/**
 * Words that the glossary of ARCHITECTURE.md replaces, where code or a comment says them, and the files that are read.
 * Each pattern is precise enough that whatever it meets is wrong.
 */
const FORBIDDEN: readonly { word: RegExp; say: string; in: RegExp }[] = [
  {
    word: /(?<!re)\bturned\b/,
    say: "reversed, transposed or rotated",
    in: /^(core|gpu|wasm|assembly|bench)\//,
  },
  { word: /\bZ_t\b|Ŝ/, say: "dS", in: /./ },
  { word: /\bouts\b/, say: "out or outDim", in: /./ },
  { word: /\bdepth\s*[:,)=]/i, say: "inner", in: /^(core|gpu|wasm|assembly|bench)\// },
];

const texts = folders.flatMap((folder) => [...sourcesIn(`${folder}/`, [".ts", ".wgsl"])]).concat(rootFiles)
  .filter((file) => !/(^|\/)(kernels|shaders|assets|structure_test)\.ts$/.test(file))
  .map((file) => ({ file, lines: Deno.readTextFileSync(new URL(file, ROOT)).split("\n") }));

Deno.test("code and comments use the glossary's words", () => {
  const found = texts.flatMap(({ file, lines }) =>
    lines.flatMap((line, index) =>
      FORBIDDEN.filter((one) => one.in.test(file) && one.word.test(line)).map(({ word, say }) =>
        `${file}:${index + 1}: ${word.exec(line)![0]} (say ${say})`
      )
    )
  );
  assert.deepEqual(found, []);
});

Deno.test("a constant of the library's TypeScript has one value, wherever it is declared", () => {
  const declared = /\bconst ([A-Z][A-Z0-9_]+)\b[^=]*= *(\d[^;]*)/;
  const constants = texts.filter(({ file }) => /^(core|gpu|wasm|assembly)\/.*\.ts$/.test(file)).flatMap(
    ({ file, lines }) =>
      lines.flatMap((line) => {
        const [, name, value] = declared.exec(line) ?? [];
        return name === undefined ? [] : [{ name, value, file }];
      }),
  );
  assert(constants.length > 10);
  for (const [name, all] of Map.groupBy(constants, (one) => one.name)) {
    const found = all.map(({ file, value }) => `${file}: ${value}`).join(", ");
    assert(new Set(all.map(({ value }) => value)).size === 1, `${name} has several values: ${found}`);
  }
});

/** The anchors of a Markdown page, as GitHub makes them of its headings. */
function anchorsOf(markdown: string): Set<string> {
  const headings = markdown.replaceAll(/^```[^]*?^```/gm, "").matchAll(/^#+ +(.+)$/gm);
  return new Set(
    [...headings].map(([, title]) =>
      title.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, "").trim().replaceAll(" ", "-")
    ),
  );
}

Deno.test("links to pages of the project and to their sections resolve", () => {
  const pages = [...Deno.readDirSync(ROOT)].map(({ name }) => name).filter((name) => name.endsWith(".md"))
    .concat([...sourcesIn("docs/", [".md"])]);
  const broken: string[] = [];
  const check = (file: string, page: URL, anchor: string | undefined) => {
    let text: string;
    try {
      text = Deno.readTextFileSync(page);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      broken.push(`${file}: no page ${page.pathname}`);
      return;
    }
    if (anchor !== undefined && !anchorsOf(text).has(anchor)) broken.push(`${file}: no section #${anchor}`);
  };
  for (const file of pages) {
    const text = Deno.readTextFileSync(new URL(file, ROOT));
    for (const [, path, anchor] of text.matchAll(/\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)/g)) {
      const target = path === "" ? new URL(file, ROOT) : new URL(path, new URL(file, ROOT));
      if (target.pathname.endsWith(".md")) check(file, target, anchor);
      else assert(Deno.statSync(target), `${file}: ${path}`);
    }
  }
  for (const { file, lines } of texts) {
    for (const [, page, anchor] of lines.join("\n").matchAll(/\b(docs\/\w+\.md)(?:#([\w-]+))?/g)) {
      check(file, new URL(page, ROOT), anchor);
    }
  }
  assert.deepEqual(broken, []);
});
