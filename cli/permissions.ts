/**
 * Commands with no more permissions than they need.
 *
 * @module
 */
import { fileURLToPath } from "node:url";

/** What a command needs, besides its own code. */
export interface Needs {
  /** Paths that it reads. */
  readonly read?: readonly (string | undefined)[];
  /** Paths that it writes, and reads again. */
  readonly write?: readonly (string | undefined)[];
  /** Hosts that it asks, or listens at, with their ports. */
  readonly net?: readonly (string | undefined)[];
  /** Variables of the environment. */
  readonly env?: readonly string[];
  /** Whether it loads native libraries, which may do anything. */
  readonly ffi?: boolean;
}

/**
 * A line for a shell that starts the running command with the same options, but for `--permissions`, and what it needs.
 *
 * @param script the address of the module that is the command
 */
export function frugalCommand(
  script: string,
  { read = [], write = [], net = [], env = [], ffi = false }: Needs,
): string {
  const code = fileURLToPath(new URL("..", import.meta.url));
  const flags = Object.entries({ read: [...read, ...write, code], write, net, env }).flatMap(
    ([name, list]) => {
      const given = list.filter((item) => item !== undefined);
      return given.length === 0 ? [] : [`--allow-${name}=${given.join(",")}`];
    },
  );
  if (ffi) flags.push("--allow-ffi");
  const options = Deno.args.filter((argument) => argument !== "--permissions");
  const words = ["deno", "run", "--frozen", "--no-prompt", ...flags, fileURLToPath(script), ...options];
  return words.map((word) => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)
    .join(" ");
}
