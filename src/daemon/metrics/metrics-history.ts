// The histories of all VMs and of the node: which file is whose, what is asked of them, and what goes with a VM.
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { invalidField } from '../../api/errors.ts';
import {
  defaultMetricsSteps,
  maxMetricsSteps,
  metricsRetention,
  nodeSeries,
  vmSeries,
  type Metrics,
  type NodeSeries,
  type VmSeries,
} from '../../api/metrics.ts';
import { History, type HistoryLayout, type Summary } from './history.ts';

/** What is asked for; see the query of the routes. */
export interface MetricsRequest {
  from?: string | undefined;
  to?: string | undefined;
  stepS?: number | undefined;
}

const rings = metricsRetention.map(({ stepS, reachS }) => ({ stepS, rows: reachS / stepS }));

function layoutOf(series: Readonly<Record<string, string>>): HistoryLayout {
  const summaryOf = (name: string): Summary => (name.endsWith('Max') ? 'max' : 'mean');
  return { rings, series: Object.fromEntries(Object.keys(series).map((name) => [name, summaryOf(name)])) };
}

const vmLayout = layoutOf(vmSeries);
const nodeLayout = layoutOf(nodeSeries);
const suffix = '.ring';

export class MetricsHistory {
  readonly #folder: string;
  readonly #isKnown: (id: string) => boolean;
  readonly #histories = new Map<string, History>();

  /** `isKnown`: whether there is a VM or node with this id. */
  constructor(folder: string, isKnown: (id: string) => boolean) {
    this.#folder = folder;
    this.#isKnown = isKnown;
  }

  /** Notes a sample of a VM: a value for each of its series, in their order. */
  note(vmId: string, atS: number, values: Float32Array): void {
    this.#of(vmId, vmLayout).note(atS, values);
  }

  noteNode(nodeId: string, atS: number, values: Float32Array): void {
    this.#of(nodeId, nodeLayout).note(atS, values);
  }

  /** Writes what is not written yet, and removes what is kept of subjects that were deleted. */
  async flush(nowS: number): Promise<void> {
    // One after the other: there is time until the next.
    for (const [id, history] of this.#histories) {
      if (this.#isKnown(id)) {
        await history.flush(nowS);
        continue;
      }
      this.#histories.delete(id);
      await history.remove();
    }
  }

  /** Removes what an earlier daemon kept of subjects that do not exist any more. */
  async removeStrays(): Promise<void> {
    for (const name of await readdir(this.#folder).catch(() => [])) {
      if (!this.#isKnown(name.split('.')[0]!)) await rm(join(this.#folder, name), { force: true });
    }
  }

  ofVm(vmId: string, request: MetricsRequest, nowS: number): Promise<Metrics<VmSeries>> {
    return this.#read(vmId, vmLayout, request, nowS);
  }

  ofNode(nodeId: string, request: MetricsRequest, nowS: number): Promise<Metrics<NodeSeries>> {
    return this.#read(nodeId, nodeLayout, request, nowS);
  }

  async #read<Name extends string>(
    id: string,
    layout: HistoryLayout,
    request: MetricsRequest,
    nowS: number,
  ): Promise<Metrics<Name>> {
    const { fromS, toS, stepS } = windowOf(request, nowS);
    const part = await this.#of(id, layout).read(fromS, toS, stepS, nowS);
    const names = Object.keys(layout.series) as Name[];
    return {
      from: new Date(part.fromS * 1000).toISOString(),
      stepS: part.stepS,
      count: part.rows.length,
      series: Object.fromEntries(
        names.map((name, column) => [
          name,
          part.rows.map((row) => {
            const value = row?.[column];
            // Floats of 32 bits hold seven digits; what is behind the third place of a decimal would only be noise.
            return value === undefined || Number.isNaN(value) ? null : Math.round(value * 1000) / 1000;
          }),
        ]),
      ) as Record<Name, (number | null)[]>,
    };
  }

  #of(id: string, layout: HistoryLayout): History {
    let history = this.#histories.get(id);
    if (!history) this.#histories.set(id, (history = new History(join(this.#folder, `${id}${suffix}`), layout)));
    return history;
  }
}

function windowOf(request: MetricsRequest, nowS: number): { fromS: number; toS: number; stepS: number } {
  const toS = request.to === undefined ? nowS : Date.parse(request.to) / 1000;
  const fromS = request.from === undefined ? toS - 3600 : Date.parse(request.from) / 1000;
  if (fromS >= toS) throw invalidField('from', 'is before "to"', request.from ?? new Date(fromS * 1000).toISOString());
  const oldestS = nowS - metricsRetention.at(-1)!.reachS;
  if (fromS < oldestS - 86_400)
    throw invalidField('from', `is at most two years ago: ${new Date(oldestS * 1000).toISOString()}`, request.from);
  const stepS = request.stepS ?? Math.max(1, Math.ceil((toS - fromS) / defaultMetricsSteps));
  const steps = Math.ceil((toS - fromS) / stepS);
  if (steps > maxMetricsSteps) {
    throw invalidField(
      'stepS',
      `is at least ${Math.ceil((toS - fromS) / maxMetricsSteps)} for this time: an answer has at most ${maxMetricsSteps} steps`,
      stepS,
    );
  }
  return { fromS, toS, stepS };
}
