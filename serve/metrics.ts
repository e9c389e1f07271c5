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

  /** A counter at zero. */
  constructor(name: string, help: string) {
    super(name, help, "counter");
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
  readonly #counts: number[];
  #sum = 0;
  #count = 0;

  /** @param bounds upper ends of the buckets, increasing */
  constructor(name: string, help: string, bounds: readonly number[]) {
    super(name, help, "histogram");
    this.#bounds = bounds;
    this.#counts = bounds.map(() => 0);
  }

  /** Counts a value. */
  observe(value: number): void {
    this.#sum += value;
    this.#count++;
    this.#bounds.forEach((bound, i) => this.#counts[i] += Number(value <= bound));
  }

  protected override *samples(): Iterable<string> {
    for (const [i, bound] of this.#bounds.entries()) {
      yield `${this.name}_bucket{le="${bound}"} ${this.#counts[i]}`;
    }
    yield `${this.name}_bucket{le="+Inf"} ${this.#count}`;
    yield `${this.name}_sum ${this.#sum}`;
    yield `${this.name}_count ${this.#count}`;
  }
}

function show(labels: Labels): string {
  const escape = (value: string | number) =>
    String(value).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** What a server counts. */
export class Metrics {
  readonly requests: Counter = new Counter("levin_requests_total", "Responses by route and status.");
  readonly promptTokens: Counter = new Counter(
    "levin_prompt_tokens_total",
    "Tokens of prompts that were read.",
  );
  readonly completionTokens: Counter = new Counter(
    "levin_completion_tokens_total",
    "Tokens that were generated.",
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
    "From the arrival of a request to the first token of each answer.",
    SECONDS,
  );
  readonly perToken: Histogram = new Histogram(
    "levin_time_per_token_seconds",
    "Between two tokens of an answer.",
    SECONDS,
  );
  readonly #gauges: Gauge[] = [];

  /** Adds a number that is read when the metrics are. */
  gauge(name: string, help: string, read: () => number): void {
    this.#gauges.push(new Gauge(name, help, read));
  }

  /** All of it as text. */
  render(): string {
    const { requests, promptTokens, completionTokens, prefixHits, prefixTokens } = this;
    return [
      ...[requests, promptTokens, completionTokens, prefixHits, prefixTokens],
      ...[this.sessionWrites, this.quarantined, this.evicted],
      ...[this.batchSize, this.firstToken, this.perToken],
      ...this.#gauges,
    ].map((metric) => metric.render()).join("");
  }
}
