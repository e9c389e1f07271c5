import assert from "node:assert/strict";
import { hearSockets, pauses, yieldToEventLoop } from "../core/eventLoop.ts";

/** Connects when it is told to, and says when the connection stands. */
const CLIENT = `
  self.onmessage = async ({ data }) => {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port: data });
    self.postMessage("connected");
    self.onmessage = () => connection.close();
  };`;

/** How often a loop that always works lets the event loop turn until a connection that stands is heard of. */
async function turnsUntilHeard(rest: () => Promise<void>): Promise<number> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const client = new Worker(`data:application/javascript,${encodeURIComponent(CLIENT)}`, { type: "module" });
  let isConnected = false, isHeard = false, turns = 0;
  client.onmessage = () => isConnected = true;
  const heard = listener.accept().then((connection) => {
    isHeard = true;
    connection.close();
  });
  try {
    client.postMessage((listener.addr as Deno.NetAddr).port);
    while (!isHeard) {
      for (const start = performance.now(); performance.now() - start < 5;); // a step of a model
      if (isConnected) turns++;
      await rest();
    }
    await heard;
    return turns;
  } finally {
    client.terminate();
    listener.close();
  }
}

Deno.test("a loop that always works hears of a connection within a few turns, not after sixty", async () => {
  for (const rest of [yieldToEventLoop, hearSockets, pauses(1)]) {
    for (let i = 0; i < 5; i++) {
      const turns = await turnsUntilHeard(rest);
      assert(turns <= 30, `${rest.name}: ${turns} turns`); // 100 ms and a step, however busy the machine is
    }
  }
});
