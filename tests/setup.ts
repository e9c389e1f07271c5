/**
 * What the tests need of the machine: a WebGPU adapter, a browser, nginx, Prometheus, Redis and PostgreSQL, and for
 * `deno task test:runtimes` Firefox and a GPU for Node.js. Both tasks run this first, the latter with the argument
 * `runtimes`. On Debian and Ubuntu it installs what is missing, where it may; elsewhere it says what is skipped. With
 * `CI=true` skipping anything is a failure.
 *
 * @module
 */

/** Whether tests may leave out what the machine lacks. */
export const MAY_LEAVE_OUT: boolean = Deno.env.get("CI") !== "true";

/** The browsers that the browser test can drive, best first; `LEVIN_CHROMIUM` names another. */
const BROWSERS = [
  "/usr/bin/chromium",
  "/usr/bin/google-chrome",
  "/usr/bin/google-chrome-stable",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/** The path of a Chromium-based browser on this machine. */
export function findBrowser(): string | undefined {
  const named = Deno.env.get("LEVIN_CHROMIUM");
  return (named === undefined ? BROWSERS : [named]).find(exists);
}

/** The path of a Firefox on this machine; `LEVIN_FIREFOX` names another. */
export function findFirefox(): string | undefined {
  const named = Deno.env.get("LEVIN_FIREFOX");
  return (named === undefined ? ["/usr/bin/firefox-esr", "/usr/bin/firefox"] : [named]).find(exists);
}

/** The software GPU that Debian's Chromium brings, for Dawn in Node.js: it refuses Mesa's. */
export const SWIFTSHADER: { driver: string; libraries: string } | undefined =
  exists("/usr/lib/chromium/vk_swiftshader_icd.json")
    ? { driver: "/usr/lib/chromium/vk_swiftshader_icd.json", libraries: "/usr/lib/chromium" }
    : undefined;

/** The path of nginx on this machine, if openssl is there too. */
export function findNginx(): string | undefined {
  if (!exists("/usr/bin/openssl")) return undefined;
  return ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/bin/nginx", "/opt/homebrew/bin/nginx"].find(
    exists,
  );
}

/** The path of MPICH's `mpiexec`. */
export function findMpiexec(): string | undefined {
  return ["/usr/bin/mpiexec.hydra", "/usr/local/bin/mpiexec.hydra", "/opt/homebrew/bin/mpiexec.hydra"].find(
    exists,
  );
}

/** The path of Redis on this machine. */
export function findRedis(): string | undefined {
  return ["/usr/bin/redis-server", "/usr/local/bin/redis-server", "/opt/homebrew/bin/redis-server"].find(
    exists,
  );
}

/** The folder of PostgreSQL's programs on this machine, the newest: Debian has them outside the path. */
export function findPostgres(): string | undefined {
  const debian = Array.from({ length: 30 }, (_, n) => `/usr/lib/postgresql/${39 - n}/bin`);
  return [
    ...debian,
    "/usr/local/bin",
    "/opt/homebrew/bin",
  ].find((folder) => exists(`${folder}/initdb`) && exists(`${folder}/postgres`));
}

/** The paths of Prometheus and its promtool on this machine. */
export function findPrometheus(): { prometheus: string; promtool: string } | undefined {
  return ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"]
    .map((folder) => ({ prometheus: `${folder}/prometheus`, promtool: `${folder}/promtool` }))
    .find(({ prometheus, promtool }) => exists(prometheus) && exists(promtool));
}

/**
 * Whether Deno finds a WebGPU adapter, asked in a separate process: one that found no driver never looks again. On Linux
 * it must be Vulkan's: OpenGL, which browsers bring, stores no halves.
 */
async function findAdapter(): Promise<boolean> {
  const { success } = await run(
    Deno.execPath(),
    ["eval", "Deno.exit(await navigator.gpu?.requestAdapter() ? 0 : 1)"],
    Deno.build.os === "linux" ? { DENO_WEBGPU_BACKEND: "vulkan" } : {},
  );
  return success;
}

const BROWSER = {
  what: "a browser",
  without: "no test runs in Chromium",
  present: () => findBrowser() !== undefined,
  package: "chromium",
  elsewhere: "Chromium or Chrome; its path in LEVIN_CHROMIUM where it is in no usual place",
};

const TEST_REQUIREMENTS = [
  {
    what: "a WebGPU adapter",
    without: "no test runs on WebGPU",
    present: findAdapter,
    package: "mesa-vulkan-drivers",
    elsewhere: "a GPU driver with Vulkan, Metal or Direct3D 12, or Mesa's software driver (lavapipe)",
  },
  BROWSER,
  {
    what: "nginx",
    without: "the proxy's configuration is not tried",
    present: () => findNginx() !== undefined,
    package: "nginx",
    elsewhere: "nginx, and openssl for its certificate",
  },
  {
    what: "MPI",
    without: "no test runs over several processes",
    present: () => findMpiexec() !== undefined,
    package: "mpich",
    elsewhere: "MPICH",
  },
  {
    what: "Redis",
    without: "sessions in Redis are not tried",
    present: () => findRedis() !== undefined,
    package: "redis-server",
    elsewhere: "redis-server",
  },
  {
    what: "PostgreSQL",
    without: "sessions in PostgreSQL are not tried",
    present: () => findPostgres() !== undefined,
    package: "postgresql",
    elsewhere: "PostgreSQL's initdb and postgres",
  },
  {
    what: "Prometheus",
    without: "metrics, rules and the dashboard are not tried in it",
    present: () => findPrometheus() !== undefined,
    package: "prometheus",
    elsewhere: "Prometheus with promtool",
  },
];

const RUNTIME_REQUIREMENTS = [
  BROWSER,
  {
    what: "Firefox",
    without: "no page is tried in Firefox",
    present: () => findFirefox() !== undefined,
    package: "firefox-esr",
    elsewhere: "Firefox; its path in LEVIN_FIREFOX where it is in no usual place",
  },
  {
    what: "SwiftShader",
    without: "WebGPU is not tried in Node.js",
    present: () => exists("/usr/lib/chromium/vk_swiftshader_icd.json"),
    package: "chromium",
    elsewhere: "it comes with Debian's Chromium",
  },
];

/** What this run asks for. */
const REQUIREMENTS = Deno.args.includes("runtimes") ? RUNTIME_REQUIREMENTS : TEST_REQUIREMENTS;

if (import.meta.main) {
  const absent = await missing();
  if (absent.length > 0) await install(absent.map((requirement) => requirement.package));
  const left = absent.length > 0 ? await missing() : [];
  for (const { what, without, package: name, elsewhere } of left) {
    console.error(
      `\n*** LEFT OUT: ${without}, as this machine lacks ${what}.\n` +
        `*** On Debian and Ubuntu: apt-get install ${name}. Elsewhere: ${elsewhere}.\n`,
    );
  }
  if (left.length > 0 && !MAY_LEAVE_OUT) {
    console.error("*** With CI=true nothing may be skipped.");
    Deno.exit(1);
  }
}

async function missing(): Promise<typeof REQUIREMENTS> {
  const absent = [];
  for (const requirement of REQUIREMENTS) {
    if (!await requirement.present()) absent.push(requirement);
  }
  return absent;
}

/** Installs Debian packages, as root or by sudo where it asks for no password; says so where neither is possible. */
async function install(packages: string[]): Promise<void> {
  if (!exists("/usr/bin/apt-get")) return;
  const root = Deno.uid() === 0;
  if (!root && !(await run("sudo", ["-n", "true"])).success) {
    console.error(`*** Cannot install ${packages.join(", ")}: neither root nor sudo without a password.`);
    return;
  }
  console.error(`Installing ${packages.join(", ")} for the tests ...`);
  const apt = async (...args: string[]) => {
    const command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", ...args];
    const [program, ...rest] = root ? command : ["sudo", "-n", ...command];
    const { success, output } = await run(program, rest);
    if (!success) console.error(output);
  };
  await apt("update");
  // One by one: a package that a distribution lacks must not keep the other away.
  for (const name of packages) await apt("install", "--yes", "--no-install-recommends", name);
}

async function run(
  program: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<{ success: boolean; output: string }> {
  try {
    const { success, stderr } = await new Deno.Command(program, {
      args,
      env,
      stdout: "null",
      stderr: "piped",
    })
      .output();
    return { success, output: new TextDecoder().decode(stderr) };
  } catch (error) {
    return { success: false, output: String(error) };
  }
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}
