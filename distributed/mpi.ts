/**
 * MPI through Deno's foreign function interface: the few functions that {@linkcode Ranks} is made of. Everything travels
 * as bytes, and nothing here waits: operations are begun, and asked whether they are done.
 *
 * MPICH's handles are integers and Open MPI's are pointers. Both travel as words of the machine, so one list of
 * signatures serves both.
 *
 * @module
 */
import { Courier } from "./courier.ts";
import { RankError } from "./errors.ts";
import { launcherDescriptor, sayFarewell } from "./launcher.ts";

/** A handle of MPI. */
type Handle = bigint;

const HANDLES = { request: "buffer", comm: "usize", type: "usize" } as const;
const { request, comm, type } = HANDLES;

const SYMBOLS = {
  MPI_Init_thread: { parameters: ["pointer", "pointer", "i32", "buffer"], result: "i32" },
  MPI_Finalize: { parameters: [], result: "i32" },
  MPI_Barrier: { parameters: [comm], result: "i32" },
  MPI_Abort: { parameters: [comm, "i32"], result: "i32" },
  MPI_Comm_rank: { parameters: [comm, "buffer"], result: "i32" },
  MPI_Comm_size: { parameters: [comm, "buffer"], result: "i32" },
  MPI_Comm_set_errhandler: { parameters: [comm, "usize"], result: "i32" },
  MPI_Error_string: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  MPI_Get_library_version: { parameters: ["buffer", "buffer"], result: "i32" },
  MPI_Isend: { parameters: ["buffer", "i32", type, "i32", "i32", comm, request], result: "i32" },
  MPI_Irecv: { parameters: ["buffer", "i32", type, "i32", "i32", comm, request], result: "i32" },
  MPI_Ibcast: { parameters: ["buffer", "i32", type, "i32", comm, request], result: "i32" },
  MPI_Iallgather: {
    parameters: ["buffer", "i32", type, "buffer", "i32", type, comm, request],
    result: "i32",
  },
  MPI_Ialltoall: { parameters: ["buffer", "i32", type, "buffer", "i32", type, comm, request], result: "i32" },
  MPI_Test: { parameters: [request, "buffer", "buffer"], result: "i32" },
  MPI_Get_count: { parameters: ["buffer", type, "buffer"], result: "i32" },
} as const;

/** Open MPI's handles are addresses, which it gives for the numbers that Fortran knows them by. */
const OPEN_MPI_SYMBOLS = {
  MPI_Comm_f2c: { parameters: ["i32"], result: "usize" },
  MPI_Type_f2c: { parameters: ["i32"], result: "usize" },
  MPI_Errhandler_f2c: { parameters: ["i32"], result: "usize" },
} as const;

/** Handles of the implementation that was found. */
interface Constants {
  readonly world: Handle;
  readonly byte: Handle;
  readonly errorsReturn: Handle;
}

/** `mpi.h` of MPICH, whose ABI Intel MPI and MVAPICH share. */
const MPICH: Constants = { world: 0x44000000n, byte: 0x4c00010dn, errorsReturn: 0x54000001n };

/** The level of MPI at which several threads may call it, the same number everywhere; a tag that nobody uses. */
const THREAD_MULTIPLE = 3, NO_TAG = 32_767;

/** Longest texts of either implementation, and room for its status. */
const TEXT_BYTES = 8192, STATUS_BYTES = 64;

/** Most bytes of one message: MPI counts in `int`. */
export const MESSAGE_BYTES: number = 2 ** 30;

/** An operation under way. */
export interface Begun {
  /** What it is, for errors. */
  readonly name: string;
  readonly request: BigUint64Array<ArrayBuffer>;
  /** Memory that MPI reads or writes meanwhile: it must not be collected. */
  readonly memory: readonly unknown[];
}

/** An operation that is done. */
export interface Done {
  /** That were received. */
  readonly bytes: number;
}

/** A view of plain memory. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** MPI, initialised. */
export class Mpi {
  readonly rank: number;
  readonly size: number;
  /** The first line of what the library says of itself. */
  readonly version: string;
  readonly #symbols: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];
  readonly #constants: Constants;
  readonly #courier: Courier | undefined;
  readonly #flag = new Int32Array(new ArrayBuffer(128), 0, 1); // large enough never to lie on V8's heap
  readonly #status = new Uint8Array(new ArrayBuffer(STATUS_BYTES + 128), 0, STATUS_BYTES);

  /**
   * Finds MPI's library and initialises it. A process can do so once.
   *
   * @param library path or name of a library; default: those of the launcher that started the process
   * @throws {RankError} `"unavailable"` when there is none, or it is not the launcher's
   */
  constructor(library?: string) {
    const launcher = launchedBy();
    const names = library === undefined ? LIBRARIES.filter((one) => one.fits(launcher)) : [{ name: library }];
    const found = names.values().map(({ name }) => opened(name)).find((one) => one !== undefined);
    if (found === undefined) {
      throw new RankError(
        "unavailable",
        `Cannot run ranks as MPI's library must be installed: none of ${
          names.map(({ name }) => name).join(", ")
        } can be opened. On Debian and Ubuntu: apt-get install mpich. Elsewhere: MPICH; its path in LEVIN_MPI`,
      );
    }
    const { path } = found;
    this.#symbols = found.library.symbols;
    this.version = this.#text((text, length) => this.#symbols.MPI_Get_library_version(text, length))
      .split("\n")[0].trim();
    this.#constants = MPICH;
    const allowed = this.#number("MPI_Init_thread", (to) => {
      return this.#symbols.MPI_Init_thread(null, null, THREAD_MULTIPLE, to);
    });
    if (this.version.startsWith("Open MPI")) {
      const { symbols } = Deno.dlopen(path, OPEN_MPI_SYMBOLS);
      this.#constants = {
        world: BigInt(symbols.MPI_Comm_f2c(0)),
        byte: BigInt(symbols.MPI_Type_f2c(1)),
        errorsReturn: BigInt(symbols.MPI_Errhandler_f2c(2)),
      };
    }
    const { world, errorsReturn } = this.#constants;
    this.#check("MPI_Comm_set_errhandler", this.#symbols.MPI_Comm_set_errhandler(world, errorsReturn));
    this.rank = this.#number("MPI_Comm_rank", (to) => this.#symbols.MPI_Comm_rank(world, to));
    this.size = this.#number("MPI_Comm_size", (to) => this.#symbols.MPI_Comm_size(world, to));
    if (launcher !== undefined && launcher.size !== this.size) {
      throw new RankError(
        "unavailable",
        `Cannot run ranks as the library must be that of the launcher, which started ${launcher.size} processes: ` +
          `current value is ${this.size} (${path}: ${this.version})`,
      );
    }
    if (this.size > 1 && allowed >= THREAD_MULTIPLE) {
      this.#courier = new Courier({ path, world, rank: this.rank, tag: NO_TAG });
    }
  }

  send(bytes: Bytes, to: number, tag: number): Begun {
    const { world, byte } = this.#constants;
    return this.#begin(
      "MPI_Isend",
      [bytes],
      (request) => this.#symbols.MPI_Isend(bytes, bytes.length, byte, to, tag, world, request),
    );
  }

  receive(bytes: Bytes, from: number, tag: number): Begun {
    const { world, byte } = this.#constants;
    return this.#begin(
      "MPI_Irecv",
      [bytes],
      (request) => this.#symbols.MPI_Irecv(bytes, bytes.length, byte, from, tag, world, request),
    );
  }

  broadcast(bytes: Bytes, root: number): Begun {
    const { world, byte } = this.#constants;
    return this.#begin(
      "MPI_Ibcast",
      [bytes],
      (request) => this.#symbols.MPI_Ibcast(bytes, bytes.length, byte, root, world, request),
    );
  }

  /** `all` holds what each rank gives, one after another. */
  allGather(bytes: Bytes, all: Bytes): Begun {
    const { world, byte } = this.#constants, count = bytes.length;
    return this.#begin(
      "MPI_Iallgather",
      [bytes, all],
      (request) => this.#symbols.MPI_Iallgather(bytes, count, byte, all, count, byte, world, request),
    );
  }

  /** Rank r gets part r of `parts` of every rank: `received` holds them one after another. */
  allToAll(parts: Bytes, received: Bytes): Begun {
    const { world, byte } = this.#constants, count = parts.length / this.size;
    return this.#begin(
      "MPI_Ialltoall",
      [parts, received],
      (request) => this.#symbols.MPI_Ialltoall(parts, count, byte, received, count, byte, world, request),
    );
  }

  /** What came of an operation, if it is done. */
  test({ name, request }: Begun): Done | undefined {
    this.#check(name, this.#symbols.MPI_Test(request, this.#flag, this.#status));
    if (this.#flag[0] === 0) return undefined;
    this.#courier?.done();
    this.#check("MPI_Get_count", this.#symbols.MPI_Get_count(this.#status, this.#constants.byte, this.#flag));
    return { bytes: this.#flag[0] };
  }

  /** Ends MPI in this process: all ranks do so together, when nothing is under way. See `launcher.ts`. */
  finalize(): void {
    this.#courier?.end();
    const descriptor = this.#constants === MPICH ? launcherDescriptor() : undefined;
    if (descriptor === undefined) return this.#check("MPI_Finalize", this.#symbols.MPI_Finalize());
    this.#check("MPI_Barrier", this.#symbols.MPI_Barrier(this.#constants.world));
    sayFarewell(descriptor);
  }

  /** Ends all ranks, once the launcher has read what this one wrote to stderr: it drops what it has not. */
  abort(status: number): void {
    awaitReader();
    this.#symbols.MPI_Abort(this.#constants.world, status);
  }

  #begin(name: string, memory: unknown[], call: (request: BigUint64Array<ArrayBuffer>) => number): Begun {
    const request = new BigUint64Array(new ArrayBuffer(128), 0, 1);
    this.#check(name, call(request));
    this.#courier?.begin();
    return { name, request, memory };
  }

  #number(name: string, call: (to: Int32Array<ArrayBuffer>) => number): number {
    const to = new Int32Array(new ArrayBuffer(128), 0, 1);
    this.#check(name, call(to));
    return to[0];
  }

  #text(call: (text: Bytes, length: Int32Array<ArrayBuffer>) => number): string {
    const text = new Uint8Array(TEXT_BYTES), length = new Int32Array(new ArrayBuffer(128), 0, 1);
    call(text, length);
    return new TextDecoder().decode(text.subarray(0, length[0])).replaceAll("\0", "");
  }

  #check(name: string, status: number): void {
    if (status === 0) return;
    const text = this.#text((text, length) => this.#symbols.MPI_Error_string(status, text, length));
    throw new RankError("failed", `Cannot run ${name}: ${text.replaceAll(/\s+/g, " ").trim()}`);
  }
}

/** Keeps a library in memory to the end of the process: Deno closes its libraries first, and Open MPI ends after that. */
function pin(path: string): void {
  if (Deno.build.os !== "linux") return;
  const { symbols } = Deno.dlopen("libc.so.6", {
    dlopen: { parameters: ["buffer", "i32"], result: "pointer" },
  });
  const RTLD_NOW = 0x2, RTLD_NODELETE = 0x1000;
  symbols.dlopen(new TextEncoder().encode(`${path}\0`), RTLD_NOW | RTLD_NODELETE);
}

/** Waits until somebody has read what stands in the pipe that is stderr, for a second at most. */
function awaitReader(): void {
  if (Deno.build.os !== "linux" || Deno.stderr.isTerminal()) return;
  const { symbols } = Deno.dlopen("libc.so.6", {
    ioctl: { parameters: ["i32", "usize", "buffer"], result: "i32" },
  });
  const FIONREAD = 0x541bn,
    STDERR = 2,
    unread = new Int32Array(32),
    nobody = new Int32Array(new SharedArrayBuffer(4));
  for (let i = 0; i < 1000 && symbols.ioctl(STDERR, FIONREAD, unread) === 0 && unread[0] > 0; i++) {
    Atomics.wait(nobody, 0, 0, 1);
  }
}

/** What started this process, as far as its environment says. */
function launchedBy(): { kind: "mpich" | "openmpi"; size: number } | undefined {
  const variables = [["mpich", "PMI_SIZE"], ["openmpi", "OMPI_COMM_WORLD_SIZE"]] as const;
  for (const [kind, name] of variables) {
    const size = Deno.env.get(name);
    if (size !== undefined) return { kind, size: Number(size) };
  }
  return undefined;
}

const of = (kind: "mpich" | "openmpi") => (launcher: ReturnType<typeof launchedBy>) =>
  launcher === undefined || launcher.kind === kind;

/** Names of the libraries, each with the launchers whose ranks it can join. */
const LIBRARIES: readonly { name: string; fits: (launcher: ReturnType<typeof launchedBy>) => boolean }[] =
  Deno.build.os === "darwin"
    ? [{ name: "libmpi.12.dylib", fits: of("mpich") }, { name: "libmpi.40.dylib", fits: of("openmpi") }]
    : [
      { name: "libmpich.so.12", fits: of("mpich") },
      { name: "libmpi.so.12", fits: of("mpich") },
      { name: "libmpi.so.40", fits: of("openmpi") },
    ];

/** A library, if it is there. */
function opened(path: string) {
  try {
    const library = Deno.dlopen(path, SYMBOLS);
    pin(path);
    return { path, library };
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return undefined;
  }
}
