// Numbers that something else keeps, as instruments of prom-client: they are read when somebody asks for the metrics.
import { Counter, Gauge, Histogram, type MetricValueWithName, type Registry } from 'prom-client';

export type Labels = Readonly<Record<string, string>>;

/** One line of a metric. */
export interface Sample {
  labels: Labels;
  value: number;
}

export interface Instrument {
  type: 'counter' | 'gauge';
  name: string;
  help: string;
  labelNames: readonly string[];
  /** Must not take long. */
  read: () => readonly Sample[];
}

export function expose(registry: Registry, { type, name, help, labelNames, read }: Instrument): void {
  const common = { name, help, labelNames: [...labelNames], registers: [registry] };
  if (type === 'counter') {
    const counter: Counter = new Counter({
      ...common,
      collect: () => {
        counter.reset();
        for (const { labels, value } of read()) counter.inc(labels, value);
      },
    });
    return;
  }
  const gauge: Gauge = new Gauge({
    ...common,
    collect: () => {
      gauge.reset();
      for (const { labels, value } of read()) gauge.set(labels, value);
    },
  });
}

export interface HistogramInstrument {
  name: string;
  help: string;
  labelNames: readonly string[];
  /** Upper edges of the classes, ascending. */
  edges: readonly number[];
  /** `counts`: how many lie in each class, and at last above all of them. */
  read: () => readonly { labels: Labels; counts: readonly number[]; seconds: number }[];
}

/** prom-client's own histograms want each observation; this one is given what was counted elsewhere. */
class CountedHistogram extends Histogram {
  readonly #instrument: HistogramInstrument;

  constructor(registry: Registry, instrument: HistogramInstrument) {
    const { name, help, labelNames, edges } = instrument;
    super({ name, help, labelNames: [...labelNames], buckets: [...edges], registers: [registry] });
    this.#instrument = instrument;
  }

  /** What the registry asks, and `get` too. */
  async getForPromString(): Promise<object> {
    const { name, help, edges, read } = this.#instrument;
    const values: (MetricValueWithName<string> & { sharedLabels: object })[] = [];
    for (const { labels, counts, seconds } of read()) {
      let below = 0;
      for (const [index, count] of counts.entries()) {
        below += count;
        const le = index < edges.length ? edges[index]! : '+Inf';
        values.push({ metricName: `${name}_bucket`, labels: { ...labels, le }, sharedLabels: {}, value: below });
      }
      values.push({ metricName: `${name}_sum`, labels, sharedLabels: {}, value: seconds });
      values.push({ metricName: `${name}_count`, labels, sharedLabels: {}, value: below });
    }
    return { name, help, type: 'histogram', aggregator: 'sum', values };
  }
}

export function exposeHistogram(registry: Registry, instrument: HistogramInstrument): void {
  registry.registerMetric(new CountedHistogram(registry, instrument));
}
