/**
 * The end of a process of MPICH, as its launcher wants to be told.
 *
 * `MPI_Finalize` hangs where messages travel over TCP (MPICH 4.0 on UCX): it waits until the peer of each connection has
 * answered once more, and peers that were quicker answer no more, as they already wait for the launcher. So ranks say
 * farewell by themselves. After a barrier of MPI nobody owes anybody anything, and what `MPI_Finalize` then says to the
 * launcher is two lines of its protocol, PMI 1: "I am at the end", until all are, and "I have ended".
 *
 * @module
 */
import { RankError } from "./errors.ts";

/** The descriptor on which MPICH's launcher listens, if this process has one. */
export function launcherDescriptor(): number | undefined {
  const descriptor = Deno.env.get("PMI_FD");
  return descriptor === undefined ? undefined : Number(descriptor);
}

/**
 * Waits until all processes are at their end, and tells the launcher that this one has ended.
 *
 * @throws {RankError} `"failed"` when the launcher says anything else, or nothing any more
 */
export function sayFarewell(descriptor: number): void {
  const { symbols, close } = libc();
  const say = (command: string, expected: string) => {
    const line = new TextEncoder().encode(`cmd=${command}\n`), answer = new Uint8Array(1024);
    let length = 0;
    if (Number(symbols.write(descriptor, line, BigInt(line.length))) === line.length) {
      while (length < answer.length && answer[length - 1] !== "\n".charCodeAt(0)) {
        const read = Number(
          symbols.read(descriptor, answer.subarray(length), BigInt(answer.length - length)),
        );
        if (read <= 0) break;
        length += read;
      }
    }
    const text = new TextDecoder().decode(answer.subarray(0, length));
    if (!text.startsWith(`cmd=${expected}`)) {
      throw new RankError(
        "failed",
        `Cannot end this rank as the launcher must answer ${expected}: current value is ${
          JSON.stringify(text)
        }`,
      );
    }
  };
  try {
    say("barrier_in", "barrier_out");
    say("finalize", "finalize_ack");
  } finally {
    close();
  }
}

/** Reading and writing a descriptor that Deno did not open. */
function libc() {
  const library = Deno.dlopen(Deno.build.os === "darwin" ? "libSystem.B.dylib" : "libc.so.6", {
    read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  });
  return { symbols: library.symbols, close: () => library.close() };
}
