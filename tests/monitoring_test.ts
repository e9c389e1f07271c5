/** What docs/monitoring offers, in Prometheus itself: rules, their own tests, and a loaded server that it scrapes. */
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { listen } from "../serve/listen.ts";
import { serve } from "./serve_setup.ts";
import { findPrometheus, MAY_LEAVE_OUT } from "./setup.ts";

const found = findPrometheus();
const ignore = found === undefined && MAY_LEAVE_OUT;

const FOLDER = new URL("../docs/monitoring/", import.meta.url);
const pathOf = (file: string) => fileURLToPath(new URL(file, FOLDER));
const RULES: { record?: string; alert?: string; expr: string }[] = parse(
  Deno.readTextFileSync(new URL("rules.yml", FOLDER)),
).groups.flatMap((group: { rules: unknown[] }) => group.rules);

interface Panel {
  readonly title: string;
  readonly type: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets: readonly { readonly expr: string }[];
}
const DASHBOARD: { panels: Panel[]; annotations: { list: { expr: string }[] } } = JSON.parse(
  Deno.readTextFileSync(new URL("dashboard.json", FOLDER)),
);
const QUERIES = DASHBOARD.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));

const CONTEXTS = ["1K", "8K", "64K", "512K", "more"];

async function promtool(...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command(found!.promtool, { args }).output();
  const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.equal(code, 0, said);
  assert.match(said, /SUCCESS/);
}

Deno.test({
  name: "promtool: configuration and rules are valid, and alerts fire where they must, and nowhere else",
  ignore,
  async fn() {
    await promtool("check", "config", pathOf("prometheus.yml"));
    await promtool("check", "rules", "--lint=all", "--lint-fatal", pathOf("rules.yml"));
    await promtool("test", "rules", pathOf("../../tests/monitoring.yml"));
  },
});

Deno.test("rules and dashboard ask for what the server counts, in the contexts that it tells apart", async () => {
  await using server = await serve();
  const text = await (await server.send("/metrics")).text();
  const counted = new Set(
    [...text.matchAll(/^# TYPE (\w+) (\w+)$/gm)].flatMap(([, name, type]) =>
      type === "histogram" ? ["_bucket", "_sum", "_count"].map((end) => name + end) : [name]
    ),
  );
  const recorded = new Set(RULES.flatMap(({ record }) => record ?? []));
  const expressions = [...RULES.map(({ expr }) => expr), ...QUERIES];
  for (const expr of expressions) {
    for (const [name] of expr.matchAll(/\blevin[_:][\w:]+/g)) {
      assert(counted.has(name) || recorded.has(name), `${name} of ${expr}`);
    }
    for (const [, contexts] of expr.matchAll(/context=~?"([^"]*)"/g)) {
      for (const context of contexts.split("|")) assert(CONTEXTS.includes(context), `${context} of ${expr}`);
    }
  }
  for (const context of CONTEXTS) assert(text.includes(`{context="${context}"}`), context);
  // All that is counted is shown.
  const shown = expressions.join("\n");
  for (const name of counted) assert(shown.includes(name.replace(/_(bucket|sum|count)$/, "")), name);
});

Deno.test("the dashboard's panels have titles, queries and a place that no other has", () => {
  const places = new Set<string>();
  for (const { title, type, gridPos: { x, y, w, h }, targets } of DASHBOARD.panels) {
    assert(title !== "" && ["timeseries", "bargauge"].includes(type) && targets.length > 0, title);
    assert(x >= 0 && x + w <= 24, title);
    for (let column = x; column < x + w; column++) {
      for (let row = y; row < y + h; row++) {
        assert(!places.has(`${column} ${row}`), `${title} lies over another panel`);
        places.add(`${column} ${row}`);
      }
    }
  }
});

/** A result of Prometheus' API. */
interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [time: number, value: string];
}

/** Prometheus over a server, with the files of docs/monitoring, but that it looks every second. */
class Watch implements AsyncDisposable {
  readonly #url: string;
  readonly #process: Deno.ChildProcess;
  readonly #folder: string;

  private constructor(url: string, process: Deno.ChildProcess, folder: string) {
    this.#url = url;
    this.#process = process;
    this.#folder = folder;
  }

  static async start(target: string): Promise<Watch> {
    const folder = await Deno.makeTempDir({ prefix: "levin-prometheus-" });
    let config = await Deno.readTextFile(new URL("prometheus.yml", FOLDER));
    for (
      const [from, to] of [["127.0.0.1:8000", new URL(target).host], [
        "- rules.yml",
        `- ${pathOf("rules.yml")}`,
      ]]
    ) {
      assert.equal(config.split(from).length, 2, `${from} must be there once`);
      config = config.replace(from, to);
    }
    await Deno.writeTextFile(`${folder}/prometheus.yml`, config.replaceAll("15s", "1s"));
    const port = freePort();
    const process = new Deno.Command(found!.prometheus, {
      args: [
        `--config.file=${folder}/prometheus.yml`,
        `--storage.tsdb.path=${folder}/data`,
        `--web.listen-address=127.0.0.1:${port}`,
        "--log.level=error",
      ],
    }).spawn();
    const watch = new Watch(`http://127.0.0.1:${port}`, process, folder);
    let hasEnded = false;
    process.status.then(() => hasEnded = true);
    await until(async () => {
      if (hasEnded) throw new Error("Prometheus has ended");
      try {
        const response = await fetch(`${watch.#url}/-/ready`);
        await response.body?.cancel();
        return response.ok;
      } catch {
        return false; // it does not listen yet
      }
    });
    return watch;
  }

  /** What an address of its API gives. */
  // deno-lint-ignore no-explicit-any -- of many shapes, which the test looks at
  async get(path: string): Promise<any> {
    const response = await fetch(`${this.#url}/api/v1/${path}`);
    const answer = await response.json();
    assert.equal(answer.status, "success", JSON.stringify(answer));
    return answer.data;
  }

  async query(expression: string): Promise<Sample[]> {
    return (await this.get(`query?query=${encodeURIComponent(expression)}`)).result;
  }

  /** The sum of what a query gives; undefined where it gives nothing. */
  async sum(expression: string): Promise<number | undefined> {
    const [sample] = await this.query(`sum(${expression})`);
    return sample === undefined ? undefined : Number(sample.value[1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.status;
    await Deno.remove(this.#folder, { recursive: true });
  }
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

/** Resolves when a condition holds; another process decides when, so that asking may pause. */
async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!await condition()) await setTimeout(50);
}

Deno.test({
  name: "Prometheus scrapes a loaded server: rules and dashboard give numbers, and nobody is called",
  ignore,
  async fn() {
    await using server = await serve();
    const listener = await listen(server.handler, { hostname: "127.0.0.1", port: 0, connections: 64 });
    try {
      await using watch = await Watch.start(listener.url);
      const written = (context: string) => watch.sum(`levin_completion_tokens_total{context="${context}"}`);
      await until(async () => await written("1K") === 0); // seen before the load, so that growth is seen

      // Several clients at a time, with new prompts of three lengths, and a session that grows.
      const ask = async (body: Record<string, unknown>) => {
        const response = await fetch(`${listener.url}/v1/completions`, {
          method: "POST",
          body: JSON.stringify({ temperature: 0, max_tokens: 50, ...body }),
        });
        assert.equal(response.status, 200, await response.text());
      };
      const prompts = [20, 2000, 20000].map((length) => "x".repeat(length));
      await Promise.all(prompts.flatMap((prompt) => [1, 2, 3, 4].map(() => ask({ prompt }))));
      for (const prompt of prompts) await ask({ prompt, session: "mine" });
      const counts = { "1K": 5 * 50, "8K": 5 * 50, "64K": 5 * 50 };
      for (const [context, count] of Object.entries(counts)) {
        await until(async () => await written(context) === count);
      }

      // Every rule is computed without an error, and every context of the load has its numbers.
      const medians = async () => {
        const samples = await watch.query("levin:time_per_token_seconds:median10m > 0");
        return samples.map(({ metric }) => metric.context).sort();
      };
      await until(async () => (await medians()).length === 3);
      assert.deepEqual(await medians(), ["1K", "64K", "8K"]);
      const { groups: [{ rules }] } = await watch.get("rules");
      assert.equal(rules.length, RULES.length);
      for (const { name, health, lastError } of rules) assert.equal(health, "ok", `${name}: ${lastError}`);
      const growth = RULES.find(({ alert }) => alert === "LevinTimePerTokenGrowsWithLength")!.expr;
      assert.equal(growth.split("> 3 *").length, 2);
      const compared = growth.replace("> 3 *", "> 0 *"); // both of its sides are there
      await until(async () => (await watch.query(compared)).length === 1);
      assert.deepEqual(await watch.query('ALERTS{alertstate="firing"}'), []);

      for (const query of [...QUERIES, ...DASHBOARD.annotations.list.map(({ expr }) => expr)]) {
        const filled = query.replaceAll("$__rate_interval", "1m").replaceAll("$instance", ".*");
        assert(!filled.includes("$"), query);
        if (filled.startsWith("ALERTS")) {
          await watch.query(filled);
          continue;
        }
        // What a request counted first has a rate when Prometheus has looked twice.
        let samples: Sample[] = [];
        await until(async () => (samples = await watch.query(filled)).length > 0);
        assert(samples.some(({ value }) => Number.isFinite(Number(value[1]))), `${query} gives no number`);
      }
      const label = await watch.get(`label/instance/values?match[]=${encodeURIComponent('up{job="levin"}')}`);
      assert.deepEqual(label, [new URL(listener.url).host]);
    } finally {
      await listener.close(100);
    }
  },
});
