/**
 * What a command reads and writes.
 *
 * @module
 */

const encoder = new TextEncoder();

/** Puts text on stdout, all of it before it returns. Throws `BrokenPipe` when nobody reads it any more. */
export function write(text: string): void {
  writeAll(Deno.stdout, text);
}

/** Puts text on stderr; that nobody reads it is no error. */
export function writeError(text: string): void {
  try {
    writeAll(Deno.stderr, text);
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

function writeAll(target: { writeSync(bytes: Uint8Array): number }, text: string): void {
  for (let bytes = encoder.encode(text); bytes.length > 0;) bytes = bytes.subarray(target.writeSync(bytes));
}

/** The text that is piped into the command, without the line's end that `echo` puts after it. */
export async function pipedText(): Promise<string> {
  return (await new Response(Deno.stdin.readable).text()).replace(/\r?\n$/, "");
}

/** A line that redraws itself on a terminal. Elsewhere only the notes are written. */
export class StatusLine {
  readonly #write: (text: string) => void;
  readonly #isTerminal: boolean;
  #line = "";

  /** @param write puts text out @param isTerminal whether that is a terminal, on which a line can be drawn over */
  constructor(
    write: (text: string) => void = writeError,
    isTerminal: boolean = Deno.stderr.isTerminal(),
  ) {
    this.#write = write;
    this.#isTerminal = isTerminal;
  }

  /** Redraws the line. */
  draw(line: string): void {
    if (!this.#isTerminal || line === this.#line) return;
    this.#line = line;
    this.#write(`\r\x1b[K${line}`);
  }

  /** A line that stays, above the other. */
  note(text: string): void {
    this.#write(this.#isTerminal ? `\r\x1b[K${text}\n${this.#line}` : `${text}\n`);
  }

  /** Ends the line. */
  end(): void {
    if (this.#line !== "") this.#write("\n");
    this.#line = "";
  }
}

/** Shows files of a model as they come from the hub, on a line of the terminal that ends with each of them. */
export function downloadLine(
  status: StatusLine = new StatusLine(),
): (progress: { file: string; bytes: number; totalBytes: number }) => void {
  return ({ file, bytes, totalBytes }) => {
    const percent = totalBytes === 0 ? 100 : Math.floor(100 * bytes / totalBytes);
    status.draw(`${String(percent).padStart(3)} % of ${(totalBytes / 1e6).toFixed(1)} MB  ${file}`);
    if (bytes === totalBytes) status.end();
  };
}
