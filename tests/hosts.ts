/**
 * Hosts for ranks on one machine: network namespaces, one for each rank, on a bridge. Linux only.
 *
 * Everything runs in a process namespace whose first process is the script: when that is killed, nothing is left.
 *
 * @module
 */
import { MAY_LEAVE_OUT } from "./setup.ts";

/** Seconds after which ranks that have not ended are killed, and the test fails. */
const LIMIT = 120;

/** A process as root of namespaces; who is not root needs one of users, too. */
const ALONE = [
  ...["unshare", ...Deno.build.os === "linux" && Deno.uid() !== 0 ? ["--map-root-user"] : []],
  ...["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"],
];

/** Makes this namespace host 10.0.0.1 and a bridge. UCX looks for network devices in sysfs, which must be of the namespace. */
const FIRST = `
mount -t sysfs sysfs /sys
ip link set lo up
ip link add name wire type bridge
ip addr add 10.0.0.1/24 dev wire
ip link set wire up
`;

/**
 * Makes the other hosts, and starts ranks on all. mpiexec reaches a host by a program in place of ssh. Devices are waited
 * for, as UCX takes those that are up when it looks.
 */
const RANKS = `
folder=$0 mpiexec=$1 count=$2; shift 2
mkfifo $folder/ready
hosts=10.0.0.1
for n in $(seq 2 $count); do
  unshare --net --mount sh -c "mount -t sysfs sysfs /sys && echo > $folder/ready && exec sleep infinity" &
  there="nsenter -t $! -n -m"
  read -r _ < $folder/ready
  ip link add name wire$n type veth peer name wire netns $!
  ip link set wire$n master wire up
  $there ip link set lo up
  $there ip addr add 10.0.0.$n/24 dev wire
  $there ip link set wire up
  until $there ip -brief link show dev wire | grep -q " UP "; do sleep 0.01; done
  echo "exec $there sh -c \\"\\$1\\"" > $folder/10.0.0.$n
  hosts=$hosts,10.0.0.$n
done
until ip -brief link show dev wire | grep -q " UP "; do sleep 0.01; done
cat > $folder/reach <<'end'
#!/bin/sh
folder=\${0%/*} host=$2; shift 2
exec sh $folder/$host "$*"
end
chmod +x $folder/reach
UCX_TLS=tcp,self UCX_NET_DEVICES=wire $mpiexec -launcher ssh -launcher-exec $folder/reach -iface wire \\
  -hosts $hosts -n $count "$@"
`;

/** Why this machine has no hosts, in the words of what refuses; undefined where it has them. */
function whyNone(): string | undefined {
  if (Deno.build.os !== "linux") return "network namespaces are Linux's";
  try {
    const [command, ...args] = ALONE;
    const { success, stderr } = new Deno.Command(command, { args: [...args, FIRST] }).outputSync();
    return success ? undefined : new TextDecoder().decode(stderr).trim().replaceAll("\n", "; ");
  } catch (error) {
    return (error as Error).message;
  }
}

/** Why tests on hosts are ignored; undefined where they run. Their names say it. */
export const WITHOUT_HOSTS: string | undefined = MAY_LEAVE_OUT ? whyNone() : undefined;

/** Runs a command as so many ranks, each on its host, to its end. */
export async function runOnHosts(
  mpiexec: string,
  count: number,
  command: readonly string[],
): Promise<{ success: boolean; output: string; errors: string }> {
  const folder = await Deno.makeTempDir();
  try {
    const [first, ...args] = ALONE;
    const given = [...args, FIRST + RANKS, folder, mpiexec, `${count}`, ...command];
    const process = new Deno.Command(first, { args: given, stdout: "piped", stderr: "piped" }).spawn();
    let late = "";
    const limit = setTimeout(() => {
      late = `ranks did not end within ${LIMIT} s, and were killed\n`;
      process.kill("SIGKILL");
    }, 1000 * LIMIT);
    const { success, stdout, stderr } = await process.output();
    clearTimeout(limit);
    const text = new TextDecoder();
    return { success, output: text.decode(stdout), errors: late + text.decode(stderr) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
