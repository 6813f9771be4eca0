// What the daemon measures of itself, in the Prometheus text format: requests, event loop, memory, and whatever other
// parts register. One registry a daemon, not prom-client's global one, so that several daemons fit into one process.
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

export interface HttpMetrics {
  /** Other parts make their own instruments with `registers: [metrics.registry]`. */
  readonly registry: Registry;
  /** Notes one answered request. `route` is its id, or `none` where no route matched. */
  request(route: string, method: string, status: number, durationMs: number): void;
  /** Registers a number that is read when somebody asks for the metrics. `read` must not take long; when it throws, the metric is left out. */
  gauge(name: string, help: string, read: () => number | Promise<number>): void;
  /** Registers numbers by one label: `read` gives the value for each of the label's values. */
  gaugeByLabel(
    name: string,
    help: string,
    label: string,
    read: () => Readonly<Record<string, number>> | Promise<Readonly<Record<string, number>>>,
  ): void;
  readonly contentType: string;
  /** All metrics as text. */
  text(): Promise<string>;
  /** Lets go of what is watched. */
  close(): void;
}

/** Event loop delay is sampled this often, in milliseconds; more often would cost idle time for nothing. */
const eventLoopSampleMs = 100;

/** The instruments of one daemon. Names begin with `lodge_`; those of the process are as prom-client has them. */
export function createMetrics(): HttpMetrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: eventLoopSampleMs });
  const requests = new Histogram({
    name: 'lodge_http_request_duration_seconds',
    help: 'Time from the head of a request to the end of its answer',
    labelNames: ['route', 'method', 'status'] as const,
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60],
    registers: [registry],
  });

  return {
    registry,
    request: (route, method, status, durationMs) => {
      requests.observe({ route, method, status: String(status) }, durationMs / 1000);
    },
    gauge: (name, help, read) => {
      const gauge: Gauge = new Gauge({
        name,
        help,
        registers: [registry],
        collect: async () => {
          await readSafely(
            read,
            (value) => gauge.set(value),
            () => gauge.reset(),
          );
        },
      });
    },
    gaugeByLabel: (name, help, label, read) => {
      const gauge: Gauge = new Gauge({
        name,
        help,
        labelNames: [label],
        registers: [registry],
        collect: async () => {
          gauge.reset();
          await readSafely(
            read,
            (values) => {
              for (const [key, value] of Object.entries(values)) gauge.set({ [label]: key }, value);
            },
            () => undefined,
          );
        },
      });
    },
    contentType: registry.contentType,
    text: () => registry.metrics(),
    close: () => registry.clear(),
  };
}

/** One metric that can not be read must not hide the others. */
async function readSafely<T>(read: () => T | Promise<T>, take: (value: T) => void, clear: () => void): Promise<void> {
  try {
    take(await read());
  } catch {
    clear();
  }
}
