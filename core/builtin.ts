/**
 * Modules that some hosts have built in and others lack.
 *
 * @module
 */

/**
 * A module of Node's, which Deno and Bun have as well; `undefined` in browsers and edge isolates. It is asked of the host
 * at run time, as bundlers for browsers refuse an `import` of it.
 *
 * @param name with its prefix, such as `"node:fs/promises"`
 */
export function builtin(name: string): unknown {
  const { process } = globalThis as { process?: { getBuiltinModule?(name: string): unknown } };
  return process?.getBuiltinModule?.(name);
}
