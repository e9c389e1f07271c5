/**
 * Values of options: each function makes a parser, which refuses a value before the command does anything.
 *
 * @module
 */
import { InvalidArgumentError, Option } from "@commander-js/extra-typings";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { looksLikeId } from "../model/hub/id.ts";

/** A number that fits; `expectation` says in words which do. */
export function number(
  expectation = "",
  fits: (value: number) => boolean = () => true,
): (text: string) => number {
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (Number.isFinite(value) && fits(value)) return value;
    throw new InvalidArgumentError(`It must be a number${expectation === "" ? "" : ` ${expectation}`}.`);
  };
}

/** A whole number from `least` to `most`. */
export function integer(least: number, most: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
    const limits = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
    throw new InvalidArgumentError(`It must be a whole number ${limits}.`);
  };
}

/** A number of tokens of at least 1, such as `500`, `8K` (8,192) or `1M`. */
export function tokens(text: string): number {
  const [, digits, unit = ""] = /^([1-9]\d*)([KM]?)$/i.exec(text) ?? [];
  const value = Number(digits) * { "": 1, K: 2 ** 10, M: 2 ** 20 }[unit.toUpperCase() as "" | "K" | "M"];
  if (Number.isSafeInteger(value)) return value;
  throw new InvalidArgumentError("It must be a number of tokens, such as 500, 8K or 1M.");
}

/** A share in percent, such as `1%` or `+0.5%`, of at least 0: the share itself. */
export function percent(text: string): number {
  const value = Number(/^\+?(\d+(?:\.\d+)?) ?%$/.exec(text)?.[1]);
  if (Number.isFinite(value)) return value / 100;
  throw new InvalidArgumentError("It must be a percentage of at least 0%, such as 1%.");
}

/** Text that is not empty. */
export function text(value: string): string {
  if (value === "") throw new InvalidArgumentError("It must not be empty.");
  return value;
}

/** One of a few values, by their names. */
export function oneOf<T>(values: Readonly<Record<string, T>>): (text: string) => T {
  return (text) => {
    if (Object.hasOwn(values, text)) return values[text];
    throw new InvalidArgumentError(`It must be one of ${Object.keys(values).join(", ")}.`);
  };
}

/** Several values with commas between them, such as token ids. */
export function items<T>(parse: (text: string) => T): (text: string) => T[] {
  return (text) => text.split(",").map(parse);
}

/** An option that may be given several times: its values in their order. */
export function several<T>(parse: (text: string) => T): (text: string, previous: T[] | undefined) => T[] {
  return (text, previous = []) => [...previous, parse(text)];
}

/** A path, or the path that a `file:` URL names; made absolute from where the person stands. */
export function path(value: string): string {
  return /^file:/i.test(value) ? fileURLToPath(value) : resolve(whereThePersonStands(), text(value));
}

/**
 * A model: a URL or `hf:owner/name` as it is; a path, made absolute from where the person stands; or `owner/name`, if no
 * folder has that path, as `hf:owner/name`.
 */
export function location(value: string): string {
  if (/^[a-z][a-z0-9+.-]+:/i.test(value)) return value;
  const absolute = path(value);
  return looksLikeId(value) && !existsSync(absolute) ? `hf:${value}` : absolute;
}

/** Threads of the WASM backend: a count, or as many as there are cores. */
export function threads(value: string): number | "auto" {
  return value === "auto" ? value : integer(1)(value);
}

/** `--backend`. */
export function backendOption(choice: "auto" | "webgpu" | "wasm" = "auto") {
  return new Option("--backend <name>", "where to compute").choices(["auto", "webgpu", "wasm"])
    .default(choice);
}

/** `--precision`. */
export function precisionOption() {
  return new Option("--precision <type>", "of products; f16: on matrix units, in Dawn, with --allow-ffi")
    .choices(["f32", "f16"]).default("f32" as const);
}

/** `--weights` of commands that load a model. */
export function weightsOption() {
  return new Option("--weights <type>", "how the backend stores matrices; auto: as they are, where it can")
    .choices(["auto", "f32", "bf16", "f16", "int8", "int4"]).default("auto" as const);
}

/** `--group`, of integers. */
export function groupOption() {
  return new Option("--group <32|64>", "of int8 and int4: integers that share a scale")
    .argParser(oneOf({ 32: 32, 64: 64 } as const)).default(32 as const);
}

/** `--permissions`, whose answer `frugalCommand` gives. */
export function permissionsOption() {
  return new Option(
    "--permissions",
    "only print a command that starts it like this, with no more permissions than needed",
  );
}

/**
 * The folder that relative paths begin from. `deno task` runs everything in the folder of `deno.json` and says in
 * `INIT_CWD` where it was started; without the permission to read that, its own folder counts.
 */
function whereThePersonStands(): string {
  const folder = Deno.cwd(), name = "INIT_CWD";
  const isTask = import.meta.url.startsWith("file:") &&
    folder === resolve(fileURLToPath(new URL("..", import.meta.url)));
  if (!isTask || Deno.permissions.querySync({ name: "env", variable: name }).state !== "granted") {
    return folder;
  }
  return Deno.env.get(name) ?? folder;
}
