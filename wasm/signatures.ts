/**
 * What the kernels are called with, read from their sources: asc's own parser finds every exported function, and
 * `deno task build` makes `exports.ts` of them.
 *
 * @module
 */
import * as asc from "assemblyscript";

/** An exported function of a kernel file. */
export interface Signature {
  /** Its name. */
  readonly name: string;
  /** Its file, from the root of the project. */
  readonly file: string;
  /** Names of its arguments in order, without `scratch`. */
  readonly parameters: readonly string[];
  /** Whether its last argument is `scratch`, which the crew adds. */
  readonly scratch: boolean;
  /** Whether it returns a number. */
  readonly returns: boolean;
}

/** Types that JavaScript passes as a number. */
const NUMBERS = ["usize", "i32", "f32", "f64", "bool"];

/** A flag of declarations. The package declares it as a constant enum, which Deno does not inline. */
const EXPORT = (asc as unknown as { CommonFlags: { Export: number } }).CommonFlags.Export;

/**
 * The exported functions of a kernel file, in order.
 *
 * @throws {Error} on whatever else the file exports, and on parameters that are no plain numbers
 */
export function signatures(file: string, source: string): Signature[] {
  const refuse = (what: string): never => {
    throw new Error(`Cannot read the kernels of ${file} as ${what}`);
  };
  const program = asc.newProgram(asc.newOptions());
  asc.parse(program, source, file, true);
  for (let error = asc.nextDiagnostic(program); error; error = asc.nextDiagnostic(program)) {
    refuse(`its syntax must be right: ${asc.formatDiagnostic(error)}`);
  }
  const parsed = program.sources.find((one) => one.normalizedPath === file) ?? refuse("asc lost the file");
  const found: Signature[] = [];
  for (const statement of parsed.statements) {
    if (statement instanceof asc.FunctionDeclaration) {
      if (statement.is(EXPORT)) found.push(signature(file, statement, refuse));
    } else if (
      statement instanceof asc.ExportStatement || statement instanceof asc.ExportDefaultStatement ||
      statement instanceof asc.DeclarationStatement && statement.is(EXPORT) ||
      statement instanceof asc.VariableStatement && statement.declarations.some((one) => one.is(EXPORT))
    ) {
      refuse("it must export kernels alone, each where it is declared; what files share belongs in parts/");
    }
  }
  if (found.length === 0) refuse("it must export a kernel; what files share belongs in parts/");
  return found;
}

function signature(
  file: string,
  { name: { text: name }, typeParameters, signature: { parameters, returnType } }: asc.FunctionDeclaration,
  refuse: (what: string) => never,
): Signature {
  const typeOf = (node: asc.TypeNode, of: string, known: readonly string[]): string => {
    const type = node instanceof asc.NamedTypeNode && !node.isNullable
      ? node.name.identifier.text
      : "another";
    return known.includes(type)
      ? type
      : refuse(`${name}'s ${of} must be of ${known.join(", ")}: it is of ${type} type`);
  };
  if (typeParameters !== null) refuse(`${name} must not be generic`);
  const names: string[] = [];
  for (const { name: { text }, type, initializer, parameterKind } of parameters) {
    typeOf(type, text, NUMBERS);
    if (initializer !== null || parameterKind !== 0) {
      refuse(`${name}'s ${text} must be neither optional nor rest`);
    }
    names.push(text);
  }
  const returns = typeOf(returnType, "result", [...NUMBERS, "void"]) !== "void";
  const at = names.indexOf("scratch");
  if (at >= 0 && at !== names.length - 1) refuse(`${name}'s scratch must be its last argument`);
  return { name, file, parameters: at < 0 ? names : names.slice(0, -1), scratch: at >= 0, returns };
}

/** The text of `exports.ts`. */
export function exportsModule(kernels: readonly Signature[]): string {
  const union = (chosen: readonly Signature[]) =>
    wrapped("", chosen.map(({ name }) => `| "${name}"`), "", "");
  return `// Made from assembly/ by \`deno task build\`: do not edit.

/**
 * What the kernels are called with, by name. Pointers are byte offsets into linear memory; 0 stands for none.
 *
 * @module
 */

/** Arguments of each kernel, without its work space. */
export interface KernelCalls {
${
    kernels.map(({ name, file, parameters }) =>
      `  /** See \`${file}\`. */\n` +
      wrapped(`  ${name}: {`, parameters.map((parameter) => `${parameter}: number`), "};", ";")
    ).join("\n")
  }
}

/** Names of the kernels. */
export type Kernel = keyof KernelCalls;

/** Kernels that return a number; all others return nothing. */
export type Sizing =
${union(kernels.filter(({ returns }) => returns))};

/** Kernels that take work space. */
export type WithScratch =
${union(kernels.filter(({ scratch }) => scratch))};

/** Takes the arguments of a kernel in order: the kernel itself, or what passes them on. */
export type Take = (...args: number[]) => number | void;

/** Hands the arguments of each kernel over in order, work space last. Nothing else knows their positions. */
export const IN_ORDER: { readonly [K in Kernel]: (take: Take, c: KernelCalls[K], scratch: number) => number | void } = {
${
    kernels.map(({ name, parameters, scratch }) =>
      wrapped(
        `  ${name}: (take, c${scratch ? ", scratch" : ""}) => take(`,
        [...parameters.map((parameter) => `c.${parameter}`), ...scratch ? ["scratch"] : []],
        "),",
        ",",
      )
    ).join("\n")
  }
};
`;
}

/** `head`, items and `tail` on one line if they fit, else the items on indented lines between them. */
function wrapped(head: string, items: readonly string[], tail: string, separator: string): string {
  const space = head.endsWith("{") ? " " : "";
  const line = head + space + items.join(`${separator} `) + space + tail;
  if (line.length <= WIDTH) return head === "" ? `  ${line}` : line;
  const lines = [`    ${items[0]}`];
  for (const item of items.slice(1)) {
    const last = lines.length - 1, longer = `${lines[last]}${separator} ${item}`;
    if (longer.length < WIDTH) lines[last] = longer;
    else {
      lines[last] += separator;
      lines.push(`    ${item}`);
    }
  }
  return [...head === "" ? [] : [head], ...lines, ...tail === "" ? [] : [`  ${tail}`]].join("\n");
}

const WIDTH = 110;
