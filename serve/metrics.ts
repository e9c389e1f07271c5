/**
 * Counters, gauges and histograms in Prometheus' text format, version 0.0.4.
 *
 * @module
 */

type Labels = Readonly<Record<string, string | number>>;

/** One metric with its samples by labels. */
abstract class Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";

  constructor(name: string, help: string, type: "counter" | "gauge" | "histogram") {
    this.name = name;
    this.help = help;
    this.type = type;
  }

  protected abstract samples(): Iterable<string>;

  /** The metric as text. */
  render(): string {
    return `# HELP ${this.name} ${this.help}\n# TYPE ${this.name} ${this.type}\n${
      [...this.samples()].join("\n")
    }\n`;
  }
}

/** A number that never falls. */
export class Counter extends Metric {
  readonly #values = new Map<string, number>();

  /** A counter at zero. @param series labels of what is there before anything is counted */
  constructor(name: string, help: string, series: readonly Labels[] = []) {
    super(name, help, "counter");
    for (const labels of series) this.add(0, labels);
  }

  /** Counts. */
  add(amount = 1, labels: Labels = {}): void {
    const key = show(labels);
    this.#values.set(key, (this.#values.get(key) ?? 0) + amount);
  }

  protected override *samples(): Iterable<string> {
    if (this.#values.size === 0) yield `${this.name} 0`;
    for (const [labels, value] of this.#values) yield `${this.name}${labels} ${value}`;
  }
}

/** A number that is read when the metrics are. */
export class Gauge extends Metric {
  readonly #read: () => number;

  /** @param read the number now */
  constructor(name: string, help: string, read: () => number) {
    super(name, help, "gauge");
    this.#read = read;
  }

  protected override *samples(): Iterable<string> {
    yield `${this.name} ${this.#read()}`;
  }
}

/** Counts of values up to each of several bounds. */
export class Histogram extends Metric {
  readonly #bounds: readonly number[];
  readonly #series = new Map<string, { labels: Labels; counts: number[]; sum: number; count: number }>();

  /** @param bounds upper ends of the buckets, increasing @param series labels of what is there before the first value */
  constructor(name: string, help: string, bounds: readonly number[], series: readonly Labels[] = [{}]) {
    super(name, help, "histogram");
    this.#bounds = bounds;
    for (const labels of series) this.#seriesOf(labels);
  }

  /** Counts a value. */
  observe(value: number, labels: Labels = {}): void {
    const series = this.#seriesOf(labels);
    series.sum += value;
    series.count++;
    this.#bounds.forEach((bound, i) => series.counts[i] += Number(value <= bound));
  }

  #seriesOf(labels: Labels) {
    const key = show(labels);
    let series = this.#series.get(key);
    if (series === undefined) {
      series = { labels, counts: this.#bounds.map(() => 0), sum: 0, count: 0 };
      this.#series.set(key, series);
    }
    return series;
  }

  protected override *samples(): Iterable<string> {
    for (const [key, { labels, counts, sum, count }] of this.#series) {
      for (const [i, bound] of this.#bounds.entries()) {
        yield `${this.name}_bucket${show({ ...labels, le: bound })} ${counts[i]}`;
      }
      yield `${this.name}_bucket${show({ ...labels, le: "+Inf" })} ${count}`;
      yield `${this.name}_sum${key} ${sum}`;
      yield `${this.name}_count${key} ${count}`;
    }
  }
}

function show(labels: Labels): string {
  const escape = (value: string | number) =>
    String(value).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/**
 * Lengths of context by which times and costs are told apart, with their largest numbers of tokens: what a token costs must
 * not depend on them.
 */
const CONTEXTS = { "1K": 2 ** 10, "8K": 2 ** 13, "64K": 2 ** 16, "512K": 2 ** 19, more: Infinity };

/** Labels of a sequence that holds so many tokens, those of earlier turns too. */
export function contextOf(tokens: number): { context: string } {
  return { context: Object.entries(CONTEXTS).find(([, most]) => tokens <= most)![0] };
}

const BY_CONTEXT = Object.keys(CONTEXTS).map((context) => ({ context }));

/** Whether tokens of prompts are read or tokens of answers are written. */
type Work = "read" | "write";

/** What a server counts. */
export class Metrics {
  readonly requests: Counter = new Counter("levin_requests_total", "Responses by route and status.");
  readonly promptTokens: Counter = new Counter(
    "levin_prompt_tokens_total",
    "Tokens of prompts that were read, by the length of context after them.",
    BY_CONTEXT,
  );
  readonly completionTokens: Counter = new Counter(
    "levin_completion_tokens_total",
    "Tokens that were generated, by the length of context before them.",
    BY_CONTEXT,
  );
  readonly #computing: Counter = new Counter(
    "levin_compute_seconds_total",
    "Seconds of computing: of reading prompts, and of steps that write, shared by the answers in them.",
    BY_CONTEXT.flatMap((labels) => [{ work: "read", ...labels }, { work: "write", ...labels }]),
  );
  readonly prefixHits: Counter = new Counter(
    "levin_prefix_hits_total",
    "Prompts whose beginning was known from earlier ones.",
  );
  readonly prefixTokens: Counter = new Counter(
    "levin_prefix_tokens_total",
    "Tokens of prompts that were known and not read again.",
  );
  readonly sessionWrites: Counter = new Counter(
    "levin_session_writes_total",
    "Sessions written to the store.",
  );
  readonly quarantined: Counter = new Counter(
    "levin_quarantined_total",
    "Damaged records that were put away from the store of sessions.",
  );
  readonly evicted: Counter = new Counter(
    "levin_sessions_evicted_total",
    "Sessions that were removed to make room for others.",
  );
  readonly batchSize: Histogram = new Histogram(
    "levin_batch_size",
    "Answers in one decode step.",
    [1, 2, 4, 8, 16, 32, 64, 128],
  );
  readonly firstToken: Histogram = new Histogram(
    "levin_time_to_first_token_seconds",
    "From the arrival of a request to the first token of each answer, by the length of context before it.",
    SECONDS,
    BY_CONTEXT,
  );
  readonly perToken: Histogram = new Histogram(
    "levin_time_per_token_seconds",
    "Between two tokens of an answer, by the length of context before the second.",
    SECONDS,
    BY_CONTEXT,
  );
  readonly #gauges: Gauge[] = [];
  /** When the device had done all that was measured so far, on the clock of `performance.now()`. */
  #free = 0;

  /**
   * Counts the seconds that the device computes for sequences, shared equally. Devices compute in order: what was enqueued
   * before another's end begins with that.
   *
   * @param start when it was enqueued, on the clock of `performance.now()`
   * @param end settles when it is done, or has failed: then it is not counted
   * @param contexts how many tokens each of the sequences holds
   */
  async compute(
    work: Work,
    start: number,
    end: Promise<unknown>,
    contexts: readonly number[],
  ): Promise<void> {
    try {
      await end;
    } catch {
      return; // whoever reads the result tells it
    }
    const now = performance.now(), share = (now - Math.max(start, this.#free)) / 1000 / contexts.length;
    this.#free = now;
    for (const tokens of contexts) this.#computing.add(share, { work, ...contextOf(tokens) });
  }

  /** Adds a number that is read when the metrics are. */
  gauge(name: string, help: string, read: () => number): void {
    this.#gauges.push(new Gauge(name, help, read));
  }

  /** All of it as text. */
  render(): string {
    const { requests, promptTokens, completionTokens, prefixHits, prefixTokens } = this;
    return [
      ...[requests, promptTokens, completionTokens, this.#computing, prefixHits, prefixTokens],
      ...[this.sessionWrites, this.quarantined, this.evicted],
      ...[this.batchSize, this.firstToken, this.perToken],
      ...this.#gauges,
    ].map((metric) => metric.render()).join("");
  }
}
