/** The proxy's configuration, `deploy/nginx.conf`, in nginx itself, before a real listener. */
import assert from "node:assert/strict";
import { listen } from "../serve/listen.ts";
import { events, holdSteps, serve } from "./serve_setup.ts";
import { findNginx, MAY_LEAVE_OUT } from "./setup.ts";

const nginx = findNginx();
const configuration = Deno.readTextFileSync(new URL("../deploy/nginx.conf", import.meta.url));

async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stderr } = await new Deno.Command(program, { args, stdout: "null", stderr: "piped" })
    .output();
  const log = new TextDecoder().decode(stderr);
  assert.equal(code, 0, log);
  return log;
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

/** The proxy, with its own certificate and places that the test may use, before a server. */
async function proxy(upstream: string): Promise<AsyncDisposable & { url: string; client: Deno.HttpClient }> {
  const folder = await Deno.makeTempDir();
  await run(
    "openssl",
    ...["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"],
    ...[
      "-addext",
      "subjectAltName=DNS:localhost",
      "-addext",
      "basicConstraints=critical,CA:FALSE",
      "-keyout",
      `${folder}/levin.key`,
      "-out",
      `${folder}/levin.crt`,
    ],
  );
  const port = freePort();
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${folder}/${name};`).join(" ");
  const changes: [string, string][] = [
    [
      "worker_processes auto;",
      `worker_processes 1; daemon off; pid ${folder}/pid; error_log ${folder}/error.log;`,
    ],
    ["http {", `http { access_log off; ${temporary}`],
    ["listen 443 ssl;", `listen 127.0.0.1:${port} ssl;`],
    ["server_name example.com;", "server_name localhost;"],
    ["/etc/ssl/levin.crt", `${folder}/levin.crt`],
    ["/etc/ssl/levin.key", `${folder}/levin.key`],
    ["127.0.0.1:8000", new URL(upstream).host],
  ];
  let text = configuration;
  for (const [from, to] of changes) {
    assert.equal(text.split(from).length, 2, `${from} must be there once`);
    text = text.replace(from, to);
  }
  const file = `${folder}/nginx.conf`;
  await Deno.writeTextFile(file, text);
  await run(nginx!, "-t", "-e", `${folder}/error.log`, "-c", file);
  const process = new Deno.Command(nginx!, { args: ["-e", `${folder}/error.log`, "-c", file] }).spawn();
  const end = async () => {
    process.kill("SIGTERM");
    await process.status;
    await Deno.remove(folder, { recursive: true });
  };
  const client = Deno.createHttpClient({ caCerts: [await Deno.readTextFile(`${folder}/levin.crt`)] });
  const url = `https://localhost:${port}`;
  for (;;) {
    try {
      await (await fetch(`${url}/health`, { client })).body?.cancel();
      break;
    } catch (error) {
      if (/refused/i.test(`${error} ${(error as Error).cause}`)) continue; // it does not listen yet
      client.close();
      await end();
      throw error;
    }
  }
  return {
    url,
    client,
    async [Symbol.asyncDispose]() {
      client.close();
      await end();
    },
  };
}

Deno.test({
  name:
    "nginx before the server: streams come token by token, limits hold, what is not for everybody is shut",
  ignore: nginx === undefined && MAY_LEAVE_OUT,
  async fn() {
    await using server = await serve();
    const steps = holdSteps(server.model);
    const listener = await listen(server.handler, { hostname: "127.0.0.1", port: 0, connections: 64 });
    try {
      await using front = await proxy(listener.url);
      const { client, url } = front;
      const body = { prompt: "hello", max_tokens: 4, temperature: 0, logprobs: 0, stream: true };
      const post = (body: string) => fetch(`${url}/v1/completions`, { client, method: "POST", body });
      const streamed = events(await post(JSON.stringify(body)));
      // The first token is here while the second has not been computed: nothing is kept back.
      assert.equal(JSON.parse((await streamed.next()).value!).choices[0].logprobs.tokens.length, 1);
      steps.allow();
      let last: string | undefined;
      for await (const event of streamed) last = event;
      assert.equal(last, "[DONE]");

      for (const [path, status] of [["/metrics", 403], ["/ready", 403], ["/health", 200], ["/", 200]]) {
        const response = await fetch(`${url}${path}`, { client });
        await response.body?.cancel();
        assert.equal(response.status, status, String(path));
      }
      const large = await post(" ".repeat(5 * 2 ** 20));
      await large.body?.cancel();
      assert.equal(large.status, 413);
      const statuses = await Promise.all(Array.from({ length: 100 }, async () => {
        const response = await fetch(`${url}/health`, { client });
        await response.body?.cancel();
        return response.status;
      }));
      assert(statuses.includes(429) && statuses.includes(200), `${statuses}`);
    } finally {
      await listener.close(100);
    }
  },
});

Deno.test("what the proxy's comments say of the server is so", async () => {
  const { checkLimits } = await import("../serve/limits.ts");
  const { bodyBytes, seconds } = checkLimits();
  assert.equal(bodyBytes, 4 * 2 ** 20);
  assert(configuration.includes("client_max_body_size 4m;"));
  assert(Number(/proxy_read_timeout (\d+)s/.exec(configuration)![1]) > seconds);
});
