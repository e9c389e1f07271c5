/**
 * The types of `shaders.ts`, which `gpu/build.ts` reads from WGSL: they hold a dispatch to the names of its kernel.
 *
 * @module
 */
import type { Window } from "./store.ts";

/** The number of the binding that parameters have, above those of storage. */
export const PARAMETERS_BINDING = 15;

/** One entry point of a module of WGSL. */
export interface Shader {
  /** The module's text. */
  readonly code: string;
  /** The function to run. */
  readonly entryPoint: string;
  /** Threads of a workgroup; undefined where an override says it. */
  readonly threads: number | undefined;
  /** Pipeline-overridable constants of the module. */
  readonly overrides: readonly string[];
  /** Names of the module that only the host declares: types, and lengths of arrays inside of arrays. */
  readonly aliases: readonly string[];
  /** Storage bindings of group 0 that the entry point uses: number, and what WGSL lets it do. */
  readonly bindings: Readonly<Record<string, readonly [binding: number, access: "read" | "read_write"]>>;
  /** Parameters, the uniform: place in words, and type. */
  readonly parameters: Readonly<Record<string, readonly [word: number, type: ParameterType]>>;
}

/** Types of parameters. */
export type ParameterType = "u32" | "i32" | "f32" | "vec4u";

/**
 * How a kernel uses a binding: `"read"` is `var<storage, read>`; `"write"` and `"update"` are
 * `var<storage, read_write>`, where `"write"` sets every element of the window and `"update"` reads it or sets a part.
 */
export type Access = "read" | "write" | "update";

type Writable<S extends Shader> = {
  [Name in keyof S["bindings"]]: S["bindings"][Name][1] extends "read" ? never : Name;
}[keyof S["bindings"]];

/** What a kernel is compiled with; aliases and constants are asked for only if the module has some. */
export type KernelOptions<S extends Shader> =
  & { readonly access: Readonly<Record<Writable<S>, "write" | "update">> }
  & (S["aliases"] extends readonly [] ? unknown
    : { readonly types: Readonly<Record<S["aliases"][number], string>> })
  & (S["overrides"] extends readonly [] ? unknown
    : { readonly constants: Readonly<Record<S["overrides"][number], number | boolean>> });

/** A window for each binding. */
export type Windows<S extends Shader> = { readonly [Name in keyof S["bindings"]]: Window };

/** A value for each parameter, converted as WGSL declares it. */
export type Values<S extends Shader> = {
  readonly [Name in keyof S["parameters"]]: S["parameters"][Name][1] extends "vec4u"
    ? readonly [number, number, number, number]
    : number;
};
