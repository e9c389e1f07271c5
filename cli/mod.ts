/**
 * What all commands share: how options are read, how errors are told, how a command ends.
 *
 * | exit status | |
 * |---|---|
 * | 0 | done; also a server that SIGTERM has asked to stop |
 * | 1 | something failed: one line on stderr says what; a defect of Levin shows its stack |
 * | 2 | the command line is wrong: one line on stderr says how, and names the nearest option |
 * | 130 | Ctrl-C |
 * | 141 | whoever read the output has gone, as `head` does; nothing is said |
 * | 143 | SIGTERM, a second time |
 *
 * @module
 */
import { Command, CommanderError, type CommandUnknownOpts } from "@commander-js/extra-typings";
import { BackendError } from "../core/errors.ts";
import { keepsProcess } from "./dawn.ts";
import { write, writeError } from "./terminal.ts";

export {
  backendOption,
  groupOption,
  integer,
  items,
  location,
  number,
  oneOf,
  path,
  percent,
  permissionsOption,
  precisionOption,
  several,
  text,
  threads,
  tokens,
  weightsOption,
} from "./values.ts";
export { precisionOptions } from "./dawn.ts";
export { frugalCommand, type Needs } from "./permissions.ts";
export { downloadLine, pipedText, StatusLine, write } from "./terminal.ts";

/** The command line is wrong: its message is told in one line, and the command exits with 2. */
export class UsageError extends Error {}

/** What the command was to find out is not so: its message is told in one line, and the command exits with 1. */
export class Failure extends Error {}

/** The process was told to stop, and the command has put its work away. */
class Stopped extends Error {
  readonly signal: Stop;

  constructor(signal: Stop) {
    super(`stopped by ${signal}`);
    this.signal = signal;
  }
}

/** Signals that ask a process to stop: Ctrl-C, and what hosts send before they take a server away. */
type Stop = "SIGINT" | "SIGTERM";

const READER_GONE = 141;

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
  command: CommandUnknownOpts,
  args: readonly string[] = Deno.args,
): Promise<void> {
  try {
    checkNames(command, args);
    await command.parseAsync(args, { from: "user" });
    if (keepsProcess()) Deno.exit();
  } catch (error) {
    Deno.exit(tell(error));
  }
}

/**
 * A signal that Ctrl-C aborts, or what else asks the process to stop; the second time the process ends immediately. A
 * command that has put its work away then calls `throwIfAborted()`, so that the process exits as the table says.
 */
export function interruption(...signals: Stop[]): AbortSignal {
  const controller = new AbortController();
  for (const signal of new Set<Stop>(["SIGINT", ...signals])) {
    if (signal === "SIGTERM" && Deno.build.os === "windows") continue; // which does not know it
    Deno.addSignalListener(signal, () => {
      if (controller.signal.aborted) Deno.exit(signal === "SIGINT" ? 130 : 143);
      controller.abort(new Stopped(signal));
    });
  }
  return controller.signal;
}

/**
 * Looks for options that there are not, and suggests the nearest. Commander itself would first miss those that must be
 * given: of `--modle x` it would say that `--model` is missing.
 */
function checkNames({ options }: CommandUnknownOpts, args: readonly string[]): void {
  const names = new Command().argument("[any...]").option("-h, --help").helpOption(false)
    .exitOverride().configureOutput({ outputError: () => {} });
  for (const { flags } of options) names.option(flags);
  names.parse(args, { from: "user" });
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
  if (error instanceof Stopped) return error.signal === "SIGINT" ? 130 : 0;
  if (error instanceof Deno.errors.BrokenPipe || codeOf(error) === "EPIPE") return READER_GONE;
  if (error instanceof UsageError) {
    writeError(`error: ${error.message} (--help lists all options)\n`);
    return 2;
  }
  if (error instanceof Failure || isPlain(error)) {
    writeError(`error: ${error.message.replaceAll(/\s*\n\s*/g, " ")}\n`);
  } else writeError(`${Deno.inspect(error, { colors: Deno.stderr.isTerminal() && !Deno.noColor })}\n`);
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
  // The operating system's, such as EACCES; not ERR_INVALID_ARG_TYPE, which is a defect.
  return typeof code === "string" && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}
