/**
 * Starts the ranks of a program on this machine: `deno run -A distributed/launch.ts <processes> [--gpus] <program> ...`.
 * It is `mpiexec -n <processes> deno run -A <program> ...`, and says in a sentence how they ended.
 *
 * With `--gpus` each rank sees one GPU: Deno takes the first that there is, whatever CUDA_VISIBLE_DEVICES says. So each
 * rank gets a mount namespace in which the device nodes of the others are empty. It needs Linux, NVIDIA's driver, and
 * root or user namespaces.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { writeError } from "../cli/terminal.ts";

/** Hides from a rank all devices but one, by the number that `mpiexec` gives it on its host, then becomes the program. */
const ONE_DEVICE = `
count=$(ls -d $LEVIN_DEVICES | wc -l); i=0
rank=$MPI_LOCALRANKID; [ -n "$rank" ] || rank=$OMPI_COMM_WORLD_LOCAL_RANK
for device in $LEVIN_DEVICES; do
  [ $i -eq $((rank % count)) ] || mount --bind /dev/null "$device" || exit 1
  i=$((i + 1))
done
exec "$@"`;

/** What `unshare` ends with where there is no such program. */
const NOT_FOUND = 127;

/** What to start. */
export interface Launch {
  /** How many ranks. */
  readonly processes: number;
  /** Whether each rank sees one GPU. */
  readonly gpus: boolean;
  /** Path of the program, and what it is given. */
  readonly program: string;
  readonly args: readonly string[];
  /** Called for each line that ranks write to stdout. Default: they write where this process does. */
  readonly onLine?: (line: string) => void;
}

/** Whether this process is a rank that `mpiexec` started. */
export function isRank(): boolean {
  return ["PMI_RANK", "OMPI_COMM_WORLD_RANK"].some((name) => Deno.env.has(name));
}

/** Starts ranks and waits for their end. @returns the exit status */
export async function launch({ processes, gpus, program, args, onLine }: Launch): Promise<number> {
  const devices = Deno.env.get("LEVIN_DEVICES") ?? "/dev/nvidia[0-9]*";
  const alone = gpus ? ["unshare", "-m", "sh", "-c", ONE_DEVICE, "sh"] : [];
  // Who is not root may mount in a user namespace, one for all ranks: across two of them MPICH's messages do not come.
  const [starter, ...first] = gpus && Deno.uid() !== 0 ? ["unshare", "-r", "mpiexec"] : ["mpiexec"];
  // The binary itself: npx would drop the descriptors by which ranks find one another.
  const command = [...alone, Deno.execPath(), "run", "-A", ...lock(), program, ...args];
  let status: Deno.CommandStatus;
  try {
    const mpiexec = new Deno.Command(starter, {
      args: [...first, "-n", String(processes), ...command],
      env: gpus ? { LEVIN_DEVICES: devices } : {},
      stdout: onLine === undefined ? "inherit" : "piped",
    }).spawn();
    if (onLine !== undefined) {
      let rest = "";
      for await (const text of mpiexec.stdout.pipeThrough(new TextDecoderStream())) {
        const lines = (rest + text).split("\n");
        rest = lines.pop()!;
        lines.forEach(onLine);
      }
    }
    status = await mpiexec.status;
    if (status.code === NOT_FOUND) throw new Deno.errors.NotFound("mpiexec");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    writeError(
      "error: Cannot run ranks as MPI must be installed. On Debian and Ubuntu: apt-get install mpich\n",
    );
    return 1;
  }
  if (status.success || status.code <= 2) return status.code; // what failed has said so
  writeError(
    `error: Cannot run ${program} on ${processes} ranks as one of them ended before its time, and so all did ` +
      `(exit status ${status.code}). A training run continues from its last checkpoint with --resume\n`,
  );
  return status.code;
}

/** The lock that this process runs with is not known to it; programs of this repository use that of development. */
function lock(): string[] {
  const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  return ["--config", path("../deno.json"), `--lock=${path("../deno.lock")}`, "--frozen"];
}

if (import.meta.main) {
  const [count = "", ...rest] = Deno.args, gpus = rest[0] === "--gpus";
  const [program, ...args] = gpus ? rest.slice(1) : rest;
  if (!/^[1-9]\d*$/.test(count) || program === undefined) {
    writeError(
      "Usage: deno run -A distributed/launch.ts <processes> [--gpus] <program.ts> [<argument> ...]\n",
    );
    Deno.exit(2);
  }
  Deno.exit(await launch({ processes: Number(count), gpus, program, args }));
}
