/** The container and the manifest: linted, checked against Kubernetes' own schemas, and run as far as goes without Docker. */
import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { DockerfileParser } from "dockerfile-ast";
import { validate } from "dockerfile-utils";
import { Deployment, type IDeployment } from "kubernetes-models/apps/v1";
import { PodDisruptionBudget } from "kubernetes-models/policy/v1";
import { PersistentVolumeClaim, Service } from "kubernetes-models/v1";
import { parseAllDocuments } from "yaml";
import { listening } from "./listening.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const dockerfile = Deno.readTextFileSync(`${ROOT}deploy/Dockerfile`);
const instructions = DockerfileParser.parse(dockerfile).getInstructions();

/** The last instruction of a kind. */
function last(keyword: string) {
  return instructions.findLast((instruction) => instruction.getKeyword() === keyword)!;
}

/** The command of an instruction, as its JSON gives it. */
function words(keyword: string): string[] {
  const text = last(keyword).getTextContent().replaceAll("\\\n", " ");
  return JSON.parse(text.slice(text.indexOf("[")));
}

// deno-lint-ignore no-explicit-any -- what the schemas are to check
const manifests: any[] = parseAllDocuments(Deno.readTextFileSync(`${ROOT}deploy/kubernetes.yaml`))
  .map((document) => {
    assert.deepEqual([...document.errors, ...document.warnings], []);
    return document.toJS();
  })
  .filter((manifest) => manifest !== null);

async function deno(args: string[], cwd?: string) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd }).output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

Deno.test("the Dockerfile has no fault, and takes the Deno that runs the tests", () => {
  assert.deepEqual(validate(dockerfile), []);
  const from = instructions.filter((instruction) => instruction.getKeyword() === "FROM");
  assert.equal(from[0].getArgumentsContent(), `denoland/deno:bin-${Deno.version.deno} AS deno`);
  assert.match(from.at(-1)!.getArgumentsContent()!, /^debian:\w+-slim$/);
});

Deno.test("what the Dockerfile builds and starts answers its own health check, until SIGTERM", async () => {
  const folder = await Deno.makeTempDir();
  try {
    // The build's folder holds what Dockerfile.dockerignore lets in.
    const copied = Deno.readTextFileSync(`${ROOT}deploy/Dockerfile.dockerignore`).split("\n")
      .filter((line) => line.startsWith("!")).map((line) => line.slice(1));
    await Deno.mkdir(`${folder}/build`);
    for (const name of copied) {
      const exists = await Deno.stat(ROOT + name).then(() => true, () => false);
      if (exists) await cp(ROOT + name, `${folder}/build/${name}`, { recursive: true });
    }
    const build = instructions.find((instruction) => instruction.getKeyword() === "RUN")!;
    const [program, ...args] = build.getArgumentsContent()!.split(" ");
    assert.equal(program, "deno");
    const built = await deno(args, `${folder}/build`);
    assert.equal(built.code, 0, built.text);

    await Deno.mkdir(`${folder}/sessions`);
    const places: Record<string, string> = {
      "/app/main.js": `${folder}/build/app/main.js`,
      "/models/sotu": `${ROOT}models/sotu`,
      "--allow-write=/sessions": `--allow-write=${folder}/sessions`,
    };
    const [started, ...options] = words("ENTRYPOINT").map((word) => places[word] ?? word);
    assert.equal(started, "deno");
    const process = new Deno.Command(Deno.execPath(), {
      args: [...options, "--port", "0", "--storage", `${folder}/sessions`, "--threads", "2"],
      cwd: folder,
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const server = listening(process);
    const { hostname, port } = new URL(await server.url);
    assert.equal(hostname, "0.0.0.0");
    await server.line("parameters on wasm");

    const [tool, ...check] = words("HEALTHCHECK").map((word) => word.replace(":8000/", `:${port}/`));
    assert.equal(tool, "deno");
    assert(check.at(-1)!.includes(port));
    const healthy = await deno(check, folder);
    assert.equal(healthy.code, 0, healthy.text);
    const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ prompt: "The state", max_tokens: 4, session: "mine" }),
    });
    assert.equal((await response.json()).usage?.completion_tokens, 4);
    process.kill("SIGTERM");
    assert.equal((await process.status).code, 0, server.log());
    await server.done;
    assert.equal((await deno(check, folder)).code, 1);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the manifests are of Kubernetes' schemas, to the last field", async () => {
  const kinds = { PersistentVolumeClaim, Deployment, Service, PodDisruptionBudget };
  assert.deepEqual(manifests.map(({ kind }) => kind), Object.keys(kinds));
  for (const manifest of manifests) new kinds[manifest.kind as keyof typeof kinds](manifest).validate();
  // The schemas pass over fields that there are not; types do not.
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    const check = async (texts: string[]) => {
      const module = texts.map((text, i) => {
        const { apiVersion, kind } = manifests[i];
        return `import type { I${kind} } from "kubernetes-models/${apiVersion}";\n` +
          `export const manifest${i}: I${kind} = ${text};\n`;
      });
      await Deno.writeTextFile(file, module.join(""));
      const lock = `--lock=${ROOT}deno.lock`;
      return await deno(["check", "--config", `${ROOT}deno.json`, lock, "--frozen", file]);
    };
    const texts = manifests.map((manifest) => JSON.stringify(manifest));
    const sound = await check(texts);
    assert.equal(sound.code, 0, sound.text);
    const typo = await check(texts.map((text) => text.replace("readinessProbe", "readinesProbe")));
    assert.match(typo.text, /readinesProbe/);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("manifest and Dockerfile fit together", () => {
  const { spec } = (manifests.find(({ kind }) => kind === "Deployment") as IDeployment).spec!.template;
  const [container] = spec!.containers, service = manifests.find(({ kind }) => kind === "Service");
  const { runAsUser, runAsGroup, runAsNonRoot, fsGroup } = spec!.securityContext!;
  assert.equal(last("USER").getArgumentsContent(), `${runAsUser}:${runAsGroup}`);
  assert.equal(fsGroup, runAsGroup);
  assert(runAsNonRoot);
  const entry = words("ENTRYPOINT"), port = entry[entry.indexOf("--port") + 1];
  assert.equal(last("EXPOSE").getArgumentsContent(), port);
  assert.equal(String(container.ports![0].containerPort), port);
  assert.equal(service.spec.ports[0].targetPort, container.ports![0].name);
  // The folder of sessions may be written to, and lies on the volume.
  const args = container.args!, sessions = args[args.indexOf("--storage") + 1];
  assert(entry.includes(`--allow-write=${sessions}`));
  assert(container.volumeMounts!.some(({ mountPath }) => mountPath === sessions));
  // Time enough to be taken out of the service, to end the answers, and to send last events.
  const wait = container.lifecycle!.preStop!.sleep!.seconds,
    drain = Number(args[args.indexOf("--drain") + 1]);
  assert(spec!.terminationGracePeriodSeconds! >= wait + drain + 5);
});

Deno.test("what JSR would publish has no warning", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["publish", "--dry-run", "--allow-dirty", "--no-check"],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  const said = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
  assert.equal(code, 0, said);
  assert.match(said, /Simulating publish/);
  assert.doesNotMatch(said, /warning\[/);
});
