/** Connections: floods, slow clients, and a host without descriptors. */
import assert from "node:assert/strict";
import { Server } from "node:http";
import { fileURLToPath } from "node:url";
import { listen, type Listener, type ListenOptions } from "../serve/listen.ts";
import { monotonicClock, until } from "./serve_setup.ts";

/** A listener that is closed at the end. */
async function listening(
  fetch: (request: Request) => Promise<Response>,
  options: Partial<ListenOptions> = {},
): Promise<Listener & AsyncDisposable> {
  const listener = await listen(fetch, { hostname: "127.0.0.1", port: 0, connections: 8, ...options });
  return { ...listener, [Symbol.asyncDispose]: () => listener.close(0) };
}

async function connection({ url }: Listener, text = ""): Promise<Deno.Conn> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(new URL(url).port) });
  await connection.write(new TextEncoder().encode(text));
  return connection;
}

/** All that a connection gives until the other side ends it. */
async function rest(connection: Deno.Conn): Promise<string> {
  try {
    return await new Response(connection.readable).text();
  } catch (error) {
    return (error as Error).name; // such as ConnectionReset
  }
}

const ok = () => Promise.resolve(new Response("ok"));

async function ask({ url }: Listener): Promise<string> {
  const response = await fetch(url, { headers: { connection: "close" } });
  return await response.text();
}

Deno.test("idle connections beyond the limit give way to clients that ask", async () => {
  await using listener = await listening(ok);
  const idle: Deno.Conn[] = [];
  for (let i = 0; i < 50; i++) {
    idle.push(await connection(listener, i % 2 === 0 ? "" : "GET / HTTP/1.1\r\nHos"));
    if (i % 10 === 9) assert.equal(await ask(listener), "ok");
    assert(listener.connections() <= 8);
  }
  // The first were given up, the last are kept.
  assert.notEqual(await rest(idle[0]), undefined);
  for (const connection of idle.slice(1)) connection.close();
});

Deno.test("a connection serves one request after another, also where a body was not wanted", async () => {
  await using listener = await listening((request) =>
    Promise.resolve(new Response(request.method, { status: request.method === "POST" ? 413 : 200 }))
  );
  const kept = await connection(listener);
  const reader = kept.readable.pipeThrough(new TextDecoderStream()).getReader();
  const writer = kept.writable.getWriter();
  const asked = `${"x".repeat(100_000)}`;
  for (let i = 0; i < 20; i++) {
    const request = i % 2 === 0
      ? "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
      : `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${asked.length}\r\n\r\n${asked}`;
    const written = writer.write(new TextEncoder().encode(request));
    let text = "";
    while (!text.endsWith("0\r\n\r\n")) text += (await reader.read()).value;
    assert.match(text, i % 2 === 0 ? /^HTTP\/1\.1 200/ : /^HTTP\/1\.1 413/);
    await written;
  }
  assert.equal(listener.connections(), 1);
  await writer.close();
  await reader.cancel();
});

Deno.test("of requests that come together a few are taken; the others are not even parsed", async () => {
  const { emit } = Server.prototype;
  let parsed = 0, taken = 0;
  Server.prototype.emit = function (this: Server, ...args: unknown[]) {
    if (args[0] === "request") parsed++;
    return Reflect.apply(emit, this, args);
  };
  try {
    const gate = Promise.withResolvers<void>();
    await using listener = await listening(async () => {
      taken++;
      await gate.promise;
      return new Response("ok");
    });
    const greedy = await connection(listener);
    const sent = new TextEncoder().encode("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10_000));
    void greedy.write(sent).catch(() => {}); // it is cut off
    await until(() => parsed > 8 && listener.connections() === 0);
    assert.deepEqual([taken, parsed < 200], [8, true], `${taken} taken, ${parsed} parsed`);
    gate.resolve();
    greedy.close();
    assert.equal(await ask(listener), "ok");
  } finally {
    Server.prototype.emit = emit;
  }
});

Deno.test("when all clients wait for answers, others are refused with 503, and served when one has its answer", async () => {
  const gate = Promise.withResolvers<void>();
  let asked = 0;
  await using listener = await listening(async () => {
    asked++;
    await gate.promise;
    return new Response("ok");
  }, { connections: 3 });
  const waiting = Array.from({ length: 3 }, () => ask(listener));
  await until(() => asked === 3);
  const response = await fetch(listener.url);
  assert.deepEqual([response.status, response.headers.get("retry-after")], [503, "1"]);
  assert.equal((await response.json()).error.code, "too_many_connections");
  gate.resolve();
  assert.deepEqual(await Promise.all(waiting), ["ok", "ok", "ok"]);
  assert.equal(await ask(listener), "ok");
});

Deno.test("headers and bodies that do not come are not waited for", async () => {
  await using listener = await listening(async (request) => new Response(await request.text()), {
    patience: { headers: 200, body: 400, interval: 50 },
  });
  const begun = await Promise.all([
    connection(listener),
    connection(listener, "GET / HTTP/1.1\r\nHost: a\r\n"),
    connection(listener, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\nabc"),
    connection(listener, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
  ]);
  for (const end of await Promise.all(begun.map(rest))) assert.match(end, /^$|^Connection/);
  await until(() => listener.connections() === 0);
});

Deno.test("a body in crumbs ends its connection, one in small pieces is read", async () => {
  let read = 0;
  const ends: boolean[] = [];
  await using listener = await listening(async (request) => {
    try {
      for await (const piece of request.body!) read += piece.length;
      ends.push(true);
    } catch {
      ends.push(false);
    }
    return new Response("ok");
  });
  const head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
  const send = async (piece: string, count: number) => {
    read = 0;
    const client = await connection(listener, head);
    const chunk = `${piece.length.toString(16)}\r\n${piece}\r\n`;
    const sent = new TextEncoder().encode(`${chunk.repeat(count)}0\r\n\r\n`);
    const writing = client.write(sent).catch(() => {}); // it may be cut off
    const answer = await rest(client);
    await writing;
    return answer;
  };
  assert.match(await send("x".repeat(40), 5000), /^HTTP\/1\.1 200/);
  assert.deepEqual([read, ends], [200_000, [true]]);
  assert.match(await send("x", 1000), /^HTTP\/1\.1 200/);
  assert.equal(read, 1000);
  assert.match(await send("x", 9000), /^$|^Connection/);
  await until(() => ends.length === 3);
  assert(!ends[2] && read < 3000, `${read}`);
});

Deno.test("a client that reads nothing of its answer is given up, and the answer ends", async () => {
  const cancelled = Promise.withResolvers<void>();
  let made = 0;
  await using listener = await listening(() =>
    Promise.resolve(
      new Response(
        new ReadableStream({
          pull(controller) {
            made += 2 ** 16;
            controller.enqueue(new Uint8Array(2 ** 16));
          },
          cancel: () => cancelled.resolve(),
        }),
      ),
    ), { patience: { reading: 200, interval: 50 } });
  const mute = await connection(listener, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  await cancelled.promise;
  assert(made < 2 ** 25, `${made} bytes were made for nobody`);
  await until(() => listener.connections() === 0);
  mute.close();
});

Deno.test("an answer that takes longer than all patience is waited for, and its reader gets all of it", async () => {
  using time = monotonicClock();
  const gate = Promise.withResolvers<void>(), asked = Promise.withResolvers<void>();
  const bytes = 2 ** 22;
  await using listener = await listening(async () => {
    asked.resolve();
    await gate.promise;
    return new Response(new Uint8Array(bytes));
  }, { patience: { interval: 20 } });
  const idle = await connection(listener);
  const reader = await connection(listener, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  await asked.promise;
  time.forward(1000);
  assert.match(await rest(idle), /^$|^Connection/); // the listener has looked at both
  gate.resolve();
  let read = 0;
  const buffer = new Uint8Array(2 ** 16);
  for (let n; (n = await reader.read(buffer)) !== null; read += n);
  assert(read > bytes, `${read}`);
  reader.close();
});

/** Runs a server under a limit of descriptors; it prints what `program` logs. */
async function limited(descriptors: number, program: string): Promise<string> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(
      `${folder}/main.ts`,
      `import { affordable, listen } from ${
        JSON.stringify(import.meta.resolve("../serve/listen.ts"))
      };\n${program}`,
    );
    const config = fileURLToPath(new URL("../deno.json", import.meta.url));
    const run = `"$0" run -A --no-check --no-lock --config "${config}" "${folder}/main.ts"`;
    const { stdout, stderr } = await new Deno.Command("sh", {
      args: ["-c", `ulimit -n ${descriptors}; exec ${run}`, Deno.execPath()],
      env: { NO_COLOR: "1" },
    }).output();
    return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("the process has descriptors for the connections that it takes", async () => {
  const log = await limited(300, "console.log(affordable(1024), affordable(10));");
  const [most, few] = log.trim().split(" ").map(Number);
  assert(most > 50 && most < 140, log);
  assert.equal(few, 10);
});

Deno.test("when descriptors ran out, the port takes connections again once there are some", async () => {
  const log = await limited(
    200,
    `
    const ok = () => Promise.resolve(new Response("ok"));
    const listener = await listen(ok, {
      hostname: "127.0.0.1",
      port: 0,
      connections: 64,
      patience: { interval: 200 },
    });
    await (await fetch(listener.url)).text(); // what the client itself needs descriptors for
    Deno.addSignalListener("SIGUSR1", () => {});
    // All descriptors but one, which a client takes: its connection cannot be accepted.
    const files = [];
    try {
      for (;;) files.push(Deno.openSync("/dev/null"));
    } catch (error) {
      console.log(error.message);
    }
    files.pop().close();
    const port = Number(new URL(listener.url).port);
    const client = await Deno.connect({ hostname: "127.0.0.1", port });
    await new Promise((resolve) => setTimeout(resolve, 500));
    for (const file of files) file.close();
    client.close();
    for (let answered = false; !answered;) {
      try {
        const response = await fetch(listener.url, { signal: AbortSignal.timeout(500) });
        console.log(await response.text());
        answered = true;
      } catch {
        console.log("not yet");
      }
    }
    Deno.exit();
    `,
  );
  assert.match(log, /^Too many open files.*\n(not yet\n)*ok\n$/, log);
});
