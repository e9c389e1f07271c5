/**
 * The attacks of `attack.ts`, in a worker: clients that mean harm must not slow down those who measure.
 *
 * @module
 */

/** Where and as whom to attack. */
export interface Target {
  readonly url: string;
  readonly key: string;
}

/** An attack, for some seconds at most. Whatever the server answers is fine. */
type Attack = (target: Target, over: AbortSignal) => Promise<void>;

const COMPLETIONS = "/v1/completions";

function wait(over: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (over.aborted) resolve();
    over.addEventListener("abort", () => resolve(), { once: true });
  });
}

async function post({ url, key }: Target, path: string, body: string, over: AbortSignal): Promise<void> {
  try {
    const response = await fetch(url + path, {
      method: "POST",
      headers: { authorization: `Bearer ${key}` },
      body,
      signal: over,
    });
    await response.body?.cancel();
  } catch {
    // ended by the server, or over
  }
}

/** Clients that send their requests again and again, `together` of them. */
const again =
  (together: number, request: (target: Target, over: AbortSignal, i: number) => Promise<void>): Attack =>
  async (target, over) => {
    let i = 0;
    await Promise.all(Array.from({ length: together }, async () => {
      while (!over.aborted) {
        await request(target, over, i++);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }));
  };

const bodies = (path: string, ...made: (() => string)[]): Attack => {
  const texts = made.map((make) => make());
  return again(6, (target, over, i) => post(target, path, texts[i % texts.length], over));
};

const many = (value: string, count: number) => `[${`${value},`.repeat(count - 1)}${value}]`;

/** Connections that send something and then nothing, kept open. */
const connections = (count: number, text: (target: Target) => string): Attack => async (target, over) => {
  const { hostname, port } = new URL(target.url);
  const bytes = new TextEncoder().encode(text(target));
  const open: Deno.Conn[] = [];
  while (open.length < count && !over.aborted) {
    try {
      const connection = await Deno.connect({ hostname, port: Number(port) });
      open.push(connection);
      await connection.write(bytes);
    } catch {
      // refused
    }
  }
  await wait(over);
  for (const connection of open) {
    try {
      connection.close();
    } catch {
      // by the server
    }
  }
};

const head = ({ key }: Target, request: string, ...headers: string[]) =>
  [`${request} HTTP/1.1`, "Host: 127.0.0.1", `Authorization: Bearer ${key}`, ...headers].join("\r\n") +
  "\r\n";

const generate = (body: Record<string, unknown>) => JSON.stringify({ prompt: "Attack: ", ...body });

/** By name; the names are the rows of the table. */
export const ATTACKS: Readonly<Record<string, Attack>> = {
  "nothing": (_, over) => wait(over),
  "1,500 idle connections": connections(1500, () => ""),
  "1,500 half headers": connections(1500, () => "GET / HTTP/1.1\r\nHos"),
  "HEAD and half-read GET of the weights": again(8, async ({ url, key }, over, i) => {
    try {
      const response = await fetch(`${url}/model/model.safetensors`, {
        method: i % 2 === 0 ? "HEAD" : "GET",
        headers: { authorization: `Bearer ${key}` },
        signal: over,
      });
      await response.body?.cancel();
    } catch {
      // over
    }
  }),
  "announced bodies that do not come": connections(
    300,
    (target) => head(target, `POST ${COMPLETIONS}`, "Content-Length: 4000000") + '\r\n{"prompt":"',
  ),
  "bodies in crumbs": again(8, async (target, over, i) => {
    const { hostname, port } = new URL(target.url);
    const piece = i % 2 === 0 ? "1\r\n \r\n" : `28\r\n${" ".repeat(40)}\r\n`;
    const bytes = new TextEncoder().encode(piece.repeat(1000));
    const connection = await Deno.connect({ hostname, port: Number(port) });
    try {
      const start = head(target, `POST ${COMPLETIONS}`, "Transfer-Encoding: chunked") + "\r\n";
      await connection.write(new TextEncoder().encode(start));
      while (!over.aborted) await connection.write(bytes);
    } catch {
      // ended by the server
    }
    try {
      connection.close();
    } catch {
      // by the server
    }
  }),
  "large bodies": bodies(
    COMPLETIONS,
    () => `{"prompt":${many('""', 1_300_000)}}`,
    () => `{"prompt":${many("[1]", 1_000_000)}}`,
    () => `{"prompt":${many("1", 2_000_000).replace(/1\]$/, "-1]")}}`,
    () => `{"prompt":"a","stop":${many("7", 2_000_000)}}`,
    () => `{"prompt":${many("1", 1_000_000)},"max_tokens":0}`,
    () => `{${Array.from({ length: 300_000 }, (_, i) => `"a${i}":1`).join(",")}}`,
    () => `{"prompt":${"[".repeat(2_000_000)}`,
  ),
  "large chats": bodies(
    "/v1/chat/completions",
    () => `{"messages":${many("7", 2_000_000)}}`,
    () => `{"messages":${many("{}", 30_000)}}`,
    () => `{"messages":${many('{"role":"user","content":7}', 4000)}}`,
    () => `{"messages":${many('{"role":"user","content":"Hi"}', 4000)}}`,
  ),
  "/detokenize of many ids": bodies(
    "/detokenize",
    () => `{"tokens":${many("1", 2_000_000)}}`,
    () => `{"tokens":${many("97", 131_072)}}`,
  ),
  "long prompts": bodies(
    "/tokenize",
    () => JSON.stringify({ prompt: "x".repeat(131_072) }),
    () => JSON.stringify({ prompt: "The state of the union. ".repeat(5400) }),
    () => JSON.stringify({ prompt: " \n".repeat(65_536) }),
    () => JSON.stringify({ prompt: "🎉".repeat(65_536) }),
  ),
  "echo with log-probabilities": bodies(
    COMPLETIONS,
    () => generate({ prompt: "x".repeat(8_100), echo: true, logprobs: 1, max_tokens: 0 }),
    () => generate({ prompt: "word ".repeat(150), echo: true, logprobs: 20, max_tokens: 1 }),
  ),
  "64 streams that nobody reads": connections(64, (target) => {
    const body = generate({ max_tokens: 4096, stream: true, logprobs: 20 });
    return head(target, `POST ${COMPLETIONS}`, `Content-Length: ${body.length}`) + `\r\n${body}`;
  }),
  "sessions without end": again(
    16,
    (target, over, i) =>
      post(target, COMPLETIONS, generate({ prompt: [97], max_tokens: 1, session: `${i}` }), over),
  ),
  "one key asks for everything": again(
    200,
    (target, over) => post(target, COMPLETIONS, generate({ max_tokens: 4096, n: 4 }), over),
  ),
  "requests that are cancelled": again(
    32,
    async (target, over) =>
      await post(
        target,
        COMPLETIONS,
        generate({ max_tokens: 500 }),
        AbortSignal.any([over, AbortSignal.timeout(15)]),
      ),
  ),
  "10,000 requests in one connection, none read": connections(
    4,
    (target) => `${head(target, "GET /v1/models")}\r\n`.repeat(10_000),
  ),
};

if ("WorkerGlobalScope" in globalThis) {
  const scope = self as unknown as Worker;
  scope.onmessage = async ({ data }: MessageEvent<{ name: string; target: Target; seconds: number }>) => {
    await ATTACKS[data.name](data.target, AbortSignal.timeout(1000 * data.seconds));
    scope.postMessage("over");
  };
}
