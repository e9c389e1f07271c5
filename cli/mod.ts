/**
 * What all commands share: how options are read, how errors are told, how a command ends.
 *
 * | exit status | |
 * |---|---|
 * | 0 | done |
 * | 1 | something failed: one line on stderr says what; a defect of Levin shows its stack |
 * | 2 | the command line is wrong: one line on stderr says how, and names the nearest option |
 * | 130 | Ctrl-C |
 * | 141 | whoever read the output has gone, as `head` does; nothing is said |
 *
 * @module
 */
import { Command, CommanderError } from "@commander-js/extra-typings";
import { BackendError } from "../core/errors.ts";
import { write, writeError } from "./terminal.ts";

export { backendOption, integer, items, location, number, path, several, text, threads } from "./values.ts";
export { pipedText, StatusLine, write } from "./terminal.ts";

/** The command line is wrong: its message is told in one line, and the command exits with 2. */
export class UsageError extends Error {}

/** The person pressed Ctrl-C. */
class Interrupted extends Error {}

const INTERRUPTED = 130, READER_GONE = 141;

/**
 * A command of `deno.json`, to be given options and an action, and run by {@linkcode cli}.
 *
 * @param task its name there
 * @param summary what it does, in a sentence
 */
export function command(task: string, summary: string): Command {
  return new Command(`deno task ${task}`)
    .description(summary)
    .helpOption("-h, --help", "print this help")
    .exitOverride()
    .configureOutput({
      writeOut: write,
      outputError: () => {}, // cli() tells it
      getOutHelpWidth: () => 110,
      // Help has no colours. Commander would ask the environment, which needs a permission.
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    });
}

/** Runs a command to its end. Whatever ends it early ends the process, with the status that the module's table gives. */
export async function cli(
  command: { parseAsync(args: readonly string[], options: { from: "user" }): Promise<unknown> },
  args: readonly string[] = Deno.args,
): Promise<void> {
  try {
    await command.parseAsync(args, { from: "user" });
  } catch (error) {
    Deno.exit(tell(error));
  }
}

/**
 * A signal that Ctrl-C aborts; a second Ctrl-C ends the process immediately. A command that has put away its work then
 * calls `throwIfAborted()`, so that the process exits with 130.
 */
export function interruption(): AbortSignal {
  const controller = new AbortController();
  Deno.addSignalListener("SIGINT", () => {
    if (controller.signal.aborted) Deno.exit(INTERRUPTED);
    controller.abort(new Interrupted());
  });
  return controller.signal;
}

/** Says what went wrong, in one line where a person can mend it; returns the exit status. */
function tell(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0; // --help
    // "error: unknown option '--modle'\n(Did you mean --model?)"
    const [line, suggestion = "(--help lists all options)"] = error.message.split("\n");
    writeError(`${line} ${suggestion}\n`);
    return 2;
  }
  if (error instanceof Interrupted) return INTERRUPTED;
  if (error instanceof Deno.errors.BrokenPipe || codeOf(error) === "EPIPE") return READER_GONE;
  if (error instanceof UsageError) {
    writeError(`error: ${error.message} (--help lists all options)\n`);
    return 2;
  }
  if (isPlain(error)) writeError(`error: ${error.message.replaceAll(/\s*\n\s*/g, " ")}\n`);
  else writeError(`${Deno.inspect(error, { colors: Deno.stderr.isTerminal() && !Deno.noColor })}\n`);
  return 1;
}

/**
 * Whether an error is of the library's grammar, of a backend, of the operating system or of the network: then its message
 * says all. Everything else is a defect, whose stack is worth reporting.
 */
function isPlain(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  return error instanceof BackendError || /^Cannot /.test(error.message) || codeOf(error) !== undefined ||
    Object.values(Deno.errors).some((type) => error instanceof type) ||
    error instanceof TypeError && /^error sending request/.test(error.message); // of fetch
}

function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === "string" ? code : undefined;
}
