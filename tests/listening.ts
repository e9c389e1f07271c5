/**
 * A process that serves: where it listens, and what it prints.
 *
 * @module
 */

/** What a process, started with both outputs piped, says. */
export interface Listening {
  /** The address of its "Listening on" line; rejected with its log when it ends without one. */
  readonly url: Promise<string>;
  /** Settles when all that it prints has been read. */
  readonly done: Promise<unknown>;
  /** What it printed so far. */
  log(): string;
}

/** Reads what a process prints, from its start to its end. */
export function listening(process: Deno.ChildProcess): Listening {
  let log = "";
  const url = Promise.withResolvers<string>();
  const read = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      log += text;
      const address = /Listening on (http:\/\/[\d.:]+)/.exec(log)?.[1];
      if (address !== undefined) url.resolve(address);
    }
  };
  const done = Promise.all([read(process.stdout), read(process.stderr)]);
  process.status.then(() => done).then(() =>
    url.reject(new Error(`The process ended before it listened: ${log}`))
  );
  return { url: url.promise, done, log: () => log };
}
