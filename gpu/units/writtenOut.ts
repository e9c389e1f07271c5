/**
 * Kernels with their loops written out and their arrays taken apart.
 *
 * WGSL has arrays of matrices and loops over them, but the driver of an H100 keeps such arrays in memory, not in registers.
 * Where shapes are known when a kernel is compiled, the text need not have either: {@linkcode writtenOut} repeats the body
 * of each loop `for (var i = 0u; i < N; i++)` whose N is known, and makes a variable `x_3` of `x[3]` where x is an array that
 * an alias declares.
 *
 * @module
 */
import type { Shader } from "../shader.ts";

/** Repetitions of a loop at most. */
const MOST = 64;

type Names = ReadonlyMap<string, number>;

/** The value of an integer expression of WGSL: sums, products, `max` and names; NaN where a name is not known. */
export function evaluate(text: string, names: Names): number {
  const tokens = text.match(/\d+|[A-Za-z_]\w*|\S/g) ?? [];
  let at = 0;
  const atom = (): number => {
    const token = tokens[at++] ?? "";
    if (/^\d/.test(token)) {
      if (tokens[at] === "u") at++;
      return Number(token);
    }
    if (token === "(") {
      const value = sum();
      return tokens[at++] === ")" ? value : NaN;
    }
    if (token === "max" && tokens[at++] === "(") {
      const first = sum();
      if (tokens[at++] !== ",") return NaN;
      const second = sum();
      return tokens[at++] === ")" ? Math.max(first, second) : NaN;
    }
    return names.get(token) ?? NaN;
  };
  const product = (): number => {
    let value = atom();
    while (/^[*/%]$/.test(tokens[at] ?? "")) {
      const operator = tokens[at++], other = atom();
      value = operator === "*" ? value * other : operator === "%" ? value % other : Math.floor(value / other);
    }
    return value;
  };
  const sum = (): number => {
    let value = product();
    while (/^[-+]$/.test(tokens[at] ?? "")) value += tokens[at++] === "+" ? product() : -product();
    return value;
  };
  const value = sum();
  return at === tokens.length ? value : NaN;
}

/** The text with loops of known length written out. */
function withoutLoops(text: string, names: Names): string {
  const loop = /for \(var (\w+) = 0u; \1 < ([^;]+); \1\+\+\) \{/g;
  let out = "", last = 0;
  for (let match; (match = loop.exec(text)) !== null;) {
    const [head, index, length] = match, count = evaluate(length, names);
    if (!(count <= MOST)) continue;
    const start = match.index + head.length;
    let end = start;
    for (let open = 1; open > 0; end++) open += text[end] === "{" ? 1 : text[end] === "}" ? -1 : 0;
    const body = text.slice(start, end - 1), name = new RegExp(`\\b${index}\\b`, "g");
    out += text.slice(last, match.index);
    for (let i = 0; i < count; i++) out += `{${withoutLoops(body.replace(name, `${i}u`), names)}}\n`;
    loop.lastIndex = last = end;
  }
  return out + text.slice(last);
}

/** A function of the text with the arrays that aliases declare as variables of their own. Their indices are constants by now. */
function withoutArrays(
  text: string,
  arrays: ReadonlyMap<string, { element: string; length: number }>,
  names: Names,
): string {
  const lengths = new Map<string, number>();
  const note = (name: string, length: number) => lengths.set(name, Math.max(lengths.get(name) ?? 0, length));
  const each = (length: number, make: (i: number) => string, between = ", ") =>
    Array.from({ length }, (_, i) => make(i)).join(between);
  text = text.replace(/\b(\w+): ptr<function, (\w+)>/g, (all, name, alias) => {
    const array = arrays.get(alias);
    if (array === undefined) return all;
    note(name, array.length);
    return each(array.length, (i) => `${name}_${i}: ptr<function, ${array.element}>`);
  });
  text = text.replace(/\bvar (\w+): (\w+);/g, (all, name, alias) => {
    const array = arrays.get(alias);
    if (array === undefined) return all;
    note(name, array.length);
    return each(array.length, (i) => `var ${name}_${i}: ${array.element};`, " ");
  });
  for (const [name, length] of lengths) {
    const element = (_: string, index: string) => `${name}_${evaluate(index, names)}`;
    text = text
      .replace(
        new RegExp(`(?<=\\(\\*)${name}\\)\\[([^\\]]+)\\]`, "g"),
        (all, index) => `${element(all, index)})`,
      )
      .replace(new RegExp(`(?<![&\\w.*])${name}\\[([^\\]]+)\\]`, "g"), element)
      .replace(new RegExp(`&${name}\\b(?!\\[)`, "g"), each(length, (i) => `&${name}_${i}`))
      // A pointer that is handed on.
      .replace(new RegExp(`(?<=\\()${name}(?=, )`, "g"), each(length, (i) => `${name}_${i}`));
  }
  return text;
}

const known = new Map<Shader, Map<string, Shader>>();

/** A shader for one set of options, written out. The same object for the same options, as {@linkcode Device.kernel} wants. */
export function writtenOut<S extends Shader>(
  shader: S,
  { types, constants }: {
    readonly types: Readonly<Record<string, string>>;
    readonly constants: Readonly<Record<string, number | boolean>>;
  },
): S {
  const key = JSON.stringify([types, constants]);
  let variants = known.get(shader);
  if (variants === undefined) known.set(shader, variants = new Map());
  let variant = variants.get(key);
  if (variant === undefined) {
    const names = new Map(Object.entries(constants).map(([name, value]) => [name, Number(value)]));
    for (const [, name, text] of shader.code.matchAll(/^override (\w+) = ([^;]+);/gm)) {
      names.set(name, evaluate(text, names));
    }
    const arrays = new Map<string, { element: string; length: number }>();
    for (const [name, type] of Object.entries(types)) {
      const array = /^array<([A-Z]\w*), (\d+)>$/.exec(type);
      if (array !== null) arrays.set(name, { element: array[1], length: Number(array[2]) });
    }
    // Function by function, as a name means another array in each.
    const code = withoutLoops(shader.code, names).split(/(?=^(?:@compute.*\n)?fn )/m)
      .map((part) => withoutArrays(part, arrays, names)).join("");
    variants.set(key, variant = { ...shader, code });
  }
  return variant as S;
}
