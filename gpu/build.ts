/**
 * Reads the `.wgsl` files of a folder and writes what TypeScript has to know of them into one module: their text, so that
 * every bundler and runtime can load it, and for each entry point the names of its storage bindings, the names, places
 * and types of its uniform parameters, and the overrides and aliases that its module leaves open. `device.ts` types its
 * dispatches by that, so a missing or misspelled name does not compile.
 *
 * In a `.wgsl` file
 *
 * - a line `// import folded.wgsl, ../core/activations.ts` puts the text of other files before its own: WGSL as it is, of
 *   TypeScript the exported integers;
 * - a name with a capital that nothing declares is an alias, which the host declares: `array<X>`;
 * - the uniform of group 1 holds the parameters of a dispatch. The built module has it in group 0, as binding
 *   {@linkcode PARAMETERS_BINDING}: setting a second group takes a tenth of the host's time for a dispatch;
 * - lines between `// repeat i 4` and its `// end` are written out 4 times, with the digits 0 to 3 in place of `$i`: registers
 *   have names, and elements of an array that a loop counts through may lie in memory;
 * - integers declared by `const` are handed to TypeScript, so that no number stands in both.
 *
 * `deno task build` calls {@linkcode shadersModule}.
 *
 * @module
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { PARAMETERS_BINDING } from "./shader.ts";

/** Where the project lies. */
const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Words and alignment in words of the types that a uniform may have. */
const TYPES: Readonly<Record<string, { type: string; words: number }>> = {
  "u32": { type: "u32", words: 1 },
  "i32": { type: "i32", words: 1 },
  "f32": { type: "f32", words: 1 },
  "vec4u": { type: "vec4u", words: 4 },
  "vec4<u32>": { type: "vec4u", words: 4 },
};

/** A `.wgsl` file, or the integers of a `.ts` file, without comments; and what it imports. */
interface Source {
  readonly path: string;
  readonly text: string;
  readonly imports: readonly string[];
}

/** A function of a module. */
interface Function {
  readonly name: string;
  /** Attributes before `fn`. */
  readonly attributes: string;
  /** Parameters, result and body. */
  readonly text: string;
}

/** A variable of a resource group. */
interface Resource {
  readonly name: string;
  readonly group: number;
  readonly binding: number;
  /** `"read"`, `"read_write"`, or `"uniform"`. */
  readonly access: string;
  readonly type: string;
}

/** The module of TypeScript for the `.wgsl` files of a folder, a path from the project's root. */
export function shadersModule(folder: string): string {
  const names = [...Deno.readDirSync(join(ROOT, folder))].map(({ name }) => name)
    .filter((name) => name.endsWith(".wgsl")).sort();
  const sources = new Map<string, Source>(); // imports before what imports them
  const load = (path: string) => {
    if (sources.has(path)) return;
    const source = readSource(path);
    source.imports.forEach(load);
    sources.set(path, source);
  };
  for (const name of names) load(join(folder, name));

  let texts = "", modules = "";
  const variable = (path: string) => `${path.split("/").at(-1)!.split(".")[0]}Source`;
  for (const { path, text } of sources.values()) {
    const bound = text.replaceAll("@group(1) @binding(0)", `@group(0) @binding(${PARAMETERS_BINDING})`);
    const escaped = bound.replaceAll("\\", "\\\\").replaceAll("`", "\\`").replaceAll("${", "\\${");
    texts += `\n// ${path}\nconst ${variable(path)} = \`${escaped}\`;\n`;
  }
  for (const name of names) {
    const path = join(folder, name), parts = partsOf(path, sources);
    const entries = entriesOf(path, parts);
    if (entries.length === 0) continue; // what others import
    const shared = `${variable(path).slice(0, -6)}Module`;
    const all = parts.map(({ text }) => text).join("");
    // Bundlers drop an unused shader only if they know that making it has no effect: spreads and sums might have one.
    modules += `\nconst ${shared} = /* @__PURE__ */ (() => ({\n` +
      `  code: ${parts.map(({ path }) => variable(path)).join(" + ")},\n` +
      `  overrides: ${JSON.stringify(overridesOf(all))},\n` +
      `  aliases: ${JSON.stringify(aliasesOf(all))},\n} as const))();\n`;
    const constants = constantsOf(parts.filter(({ path }) => path.endsWith(".wgsl")));
    modules += `\n/** ${path} */\nexport const ${name.slice(0, -5)} = /* @__PURE__ */ (() => ({\n` +
      `  constants: ${constants},\n`;
    for (const entry of entries) modules += `  ${entry.name}: {\n    ...${shared},\n${entry.text}  },\n`;
    modules += "} as const))();\n";
  }
  return `// Read from ${folder}/*.wgsl by \`deno task build\`: do not edit.\n// deno-fmt-ignore-file\n` +
    `// deno-lint-ignore-file\n${texts}${modules}`;
}

function readSource(path: string): Source {
  const file = Deno.readTextFileSync(join(ROOT, path));
  if (path.endsWith(".ts")) {
    const integers = [...file.matchAll(/^export const (\w+) = (\d+);/gm)];
    return {
      path,
      text: integers.map(([, name, value]) => `const ${name} = ${value}u;\n`).join(""),
      imports: [],
    };
  }
  const imports = [...file.matchAll(/^\/\/ import (.*)$/gm)].flatMap(([, list]) => list.split(", "))
    .map((name) => join(dirname(path), name));
  const lines = repeated(path, file.split("\n")).map((line) => line.replace(/\s*\/\/.*$/, "")).filter((
    line,
  ) => line !== "");
  return { path, text: lines.join("\n") + "\n", imports };
}

/** Lines with what is between `// repeat` and `// end` written out. */
function repeated(path: string, lines: readonly string[]): string[] {
  const written: string[] = [];
  for (let i = 0; i < lines.length; i++) {
    const start = /^\s*\/\/ repeat (\w+) (\d)$/.exec(lines[i]);
    if (start === null) {
      written.push(lines[i]);
      continue;
    }
    const first = i + 1;
    for (let open = 1; open > 0;) {
      i++;
      if (i === lines.length) throw new Error(`${path}: line ${first} must have an end`);
      if (/^\s*\/\/ repeat /.test(lines[i])) open++;
      if (/^\s*\/\/ end$/.test(lines[i])) open--;
    }
    const [, name, count] = start, body = lines.slice(first, i);
    for (let n = 0; n < Number(count); n++) {
      // A digit may follow, or the letter of a type: $i0 and $iu.
      written.push(...repeated(path, body.map((line) => line.replaceAll(`$${name}`, String(n)))));
    }
  }
  return written;
}

/** All that a file's module is made of, in the order of its text. */
function partsOf(path: string, sources: ReadonlyMap<string, Source>): Source[] {
  const wanted = new Set([path]);
  for (const part of wanted) sources.get(part)!.imports.forEach((name) => wanted.add(name));
  return [...sources.values()].filter((source) => wanted.has(source.path));
}

/** Overrides that wait for a value; the others are expressions of them. */
const overridesOf = (text: string) =>
  [...text.matchAll(/^override (\w+)(?=[^=\n]*;)/gm)].map(([, name]) => name);

/** Names with a capital that nothing declares. */
function aliasesOf(text: string): string[] {
  const declared = new Set(
    [...text.matchAll(/\b(?:const|override|struct|alias) (\w+)/g)].map(([, name]) => name),
  );
  const used = new Set([...text.matchAll(/\b[A-Z]\w*/g)].map(([name]) => name));
  return [...used].filter((name) => !declared.has(name)).sort();
}

/** Integers that the module declares. */
function constantsOf(parts: readonly Source[]): string {
  const text = parts.map(({ text }) => text).join("");
  const found = [...text.matchAll(/^const (\w+) = (\d+)u?;/gm)].map(([, name, value]) => `${name}: ${value}`);
  return found.length === 0 ? "{}" : `{ ${found.join(", ")} }`;
}

/** The functions of a module. */
function functionsOf(text: string): Function[] {
  return [...text.matchAll(/^((?:@\w+(?:\([^)]*\))?\s+)*)fn (\w+)\(/gm)].map((match) => {
    let at = text.indexOf("{", match.index), open = 0;
    do {
      if (text[at] === "{") open++;
      if (text[at] === "}") open--;
      at++;
    } while (open > 0);
    return { name: match[2], attributes: match[1], text: text.slice(match.index + match[1].length, at) };
  });
}

function resourcesOf(text: string): Resource[] {
  const pattern = /^@group\((\d)\) @binding\((\d+)\) var<(\w+)(?:, (\w+))?> (\w+): (.*);/gm;
  return [...text.matchAll(pattern)].map(([, group, binding, space, access, name, type]) => {
    return { name, group: Number(group), binding: Number(binding), access: access ?? space, type };
  });
}

/** What a function declares: parameters and variables. */
function localsOf({ text }: Function): Set<string> {
  const variables = [...text.matchAll(/\b(?:let|var|const) (\w+)/g)].map(([, name]) => name);
  const parameters = [...text.slice(0, text.indexOf("{")).matchAll(/(\w+): /g)].map(([, name]) => name);
  return new Set([...parameters, ...variables]);
}

/** The entry points of a module, as properties of its object. */
function entriesOf(path: string, parts: readonly Source[]): { name: string; text: string }[] {
  const text = parts.map(({ text }) => text).join("");
  const functions = new Map(functionsOf(text).map((one) => [one.name, one]));
  const isEntry = ({ attributes }: Function) => attributes.includes("@compute");
  const resources = new Map(resourcesOf(text).map((resource) => [resource.name, resource]));

  /** Functions and resources that an entry point uses, itself or through others. A local name hides that of a global. */
  const reached = (entry: Function): Set<string> => {
    const found = new Set([entry.name]);
    for (const name of found) {
      const one = functions.get(name);
      if (one === undefined) continue;
      const locals = localsOf(one);
      for (const [word] of one.text.matchAll(/(?<!\.)\b[A-Za-z_]\w*/g)) {
        const called = functions.get(word);
        const known = resources.has(word) || (called !== undefined && !isEntry(called));
        if (known && !locals.has(word)) found.add(word);
      }
    }
    return found;
  };
  return [...functions.values()].filter(isEntry).map((entry) => {
    const used = [...reached(entry)].flatMap((name) => resources.get(name) ?? [])
      .sort((a, b) => a.binding - b.binding);
    const bindings = used.filter(({ group }) => group === 0);
    bindings.forEach(({ name, binding }, i) => {
      if (i > 0 && binding === bindings[i - 1].binding) {
        throw new Error(
          `${path}: ${entry.name} must not use ${bindings[i - 1].name} and ${name}, which are one binding`,
        );
      }
    });
    const uniforms = used.filter(({ access }) => access === "uniform");
    if (uniforms.length > 1) throw new Error(`${path}: ${entry.name} must have one uniform at most`);
    const threads = threadsOf(entry, text);
    const list = (properties: string[]) => properties.map((property) => `      ${property},\n`).join("");
    return {
      name: entry.name,
      text: `    entryPoint: "${entry.name}",\n    threads: ${threads},\n    bindings: {\n` +
        list(bindings.map(({ name, binding, access }) => `${name}: [${binding}, "${access}"]`)) +
        "    },\n    parameters: {\n" +
        list(uniforms.flatMap((uniform) => parametersOf(path, uniform, text))) + "    },\n",
    };
  });
}

/** Threads of a workgroup, where the text says how many. */
function threadsOf({ attributes }: Function, text: string): string {
  const size = attributes.match(/@workgroup_size\((\w+)\)/)?.[1] ?? "";
  const value = /^\d+$/.test(size) ? size : text.match(new RegExp(`^const ${size} = (\\d+)u?;`, "m"))?.[1];
  return value ?? "undefined";
}

/** Names of the parameters of a uniform, each with its place in words and its type. */
function parametersOf(path: string, { name, type }: Resource, text: string): string[] {
  const fields = text.match(new RegExp(`^struct ${type} \\{([^}]*)\\}`, "m"))?.[1];
  const members = fields === undefined
    ? [[name, type]]
    : [...fields.matchAll(/(\w+): ([^\n]+?),?\s*$/gm)].map(([, name, type]) => [name, type]);
  let word = 0;
  return members.map(([name, type]) => {
    const known = TYPES[type];
    if (known === undefined) {
      throw new Error(`${path}: ${name} must be of ${Object.keys(TYPES)}: it is ${type}`);
    }
    word = Math.ceil(word / known.words) * known.words;
    const place = word;
    word += known.words;
    return `${name}: [${place}, "${known.type}"]`;
  });
}
