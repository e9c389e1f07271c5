/**
 * A process that serves: where it listens, and what it prints; and a host that keeps its clients waiting.
 *
 * @module
 */

/** What a process, started with both outputs piped, says. */
export interface Listening {
  /** The address of its "Listening on" line; rejected with its log when it ends without one. */
  readonly url: Promise<string>;
  /** Resolves when it has printed a text; rejected with its log when it ends without it. */
  line(text: string): Promise<void>;
  /** Settles when all that it prints has been read. */
  readonly done: Promise<unknown>;
  /** What it printed so far. */
  log(): string;
}

/** Reads what a process prints, from its start to its end. */
export function listening(process: Deno.ChildProcess): Listening {
  let log = "";
  const waiting = new Set<() => void>();
  /** Waits until the log gives something. */
  const found = <T>(look: () => T | undefined) => {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const check = () => {
      const value = look();
      if (value === undefined) return;
      waiting.delete(check);
      resolve(value);
    };
    waiting.add(check);
    check();
    ended.then(() => reject(new Error(log)));
    return promise;
  };
  const read = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      log += text;
      for (const check of waiting) check();
    }
  };
  const done = Promise.all([read(process.stdout), read(process.stderr)]);
  const ended = process.status.then(() => done);
  const url = found(() => /Listening on (http:\/\/[\d.:]+)/.exec(log)?.[1]).catch((error: Error) => {
    throw new Error(`The process ended before it listened: ${error.message}`);
  });
  url.catch(() => {}); // whoever waits for it gets the error
  return {
    url,
    line: (text) => found(() => log.includes(text) || undefined).then(() => {}),
    done,
    log: () => log,
  };
}

/** A host that takes requests and never answers. */
export interface SilentHost extends AsyncDisposable {
  /** Its address. */
  readonly url: string;
  /** Resolves with the first request; rejected when the process that is to send it ends without one. */
  asked(by: Deno.ChildProcess): Promise<void>;
}

/** Starts it. */
export function silentHost(): SilentHost {
  const asked = Promise.withResolvers<void>(), stop = new AbortController();
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", signal: stop.signal, onListen() {} }, () => {
    asked.resolve();
    return new Promise<never>(() => {});
  });
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    asked: (by) =>
      Promise.race([
        asked.promise,
        by.status.then(({ code }) => {
          throw new Error(`The process ended with ${code} before it asked for anything`);
        }),
      ]),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await server.finished;
    },
  };
}
