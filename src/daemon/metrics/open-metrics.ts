// Everything that counts, put together: the daemon's own instruments, the look at guests and machine each second, and what is
// kept of it.
import { type Vm } from '../../api/vm.ts';
import { MachineMeter } from '../../host/machine-counters.ts';
import { createMetrics, type HttpMetrics } from '../http/metrics.ts';
import { type NodeService } from '../node/node-service.ts';
import { type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { type VmGuests } from '../vm/vm-guests.ts';
import { MetricsHistory } from './metrics-history.ts';
import { MetricsSampler } from './metrics-sampler.ts';
import { exposeNode } from './node-exposition.ts';
import { exposeVms } from './vm-exposition.ts';

export interface MetricsParts {
  /** Where the history is kept. */
  directory: string;
  vms: Collection<Vm>;
  guests: VmGuests;
  nodes: NodeService;
  /** Revision of the store. */
  revision: () => Promise<number>;
  log: Log;
}

/** The sampler has to be started, when it is known which VMs there are. */
export function openMetrics({ directory, vms, guests, nodes, revision, log }: MetricsParts): {
  metrics: HttpMetrics;
  history: MetricsHistory;
  sampler: MetricsSampler;
} {
  const metrics = createMetrics();
  const history = new MetricsHistory(directory, (id) => id === nodes.self.id || vms.get(id) !== null);
  const meter = new MachineMeter();
  const sampler = new MetricsSampler({
    guests: () => guests.all(),
    nodeId: () => nodes.self.id,
    readNode: () => meter.read(),
    storageUsedMib: () => nodes.usedStorageMib(),
    history,
    log,
    now: () => Date.now(),
  });
  exposeVms(
    metrics.registry,
    () => sampler.latest(),
    (id) => vms.get(id),
  );
  exposeNode(metrics.registry, () => {
    const { name, processors, storage } = nodes.outline();
    return { name, processors, storage, counters: sampler.latestOfNode(), samplerSeconds: sampler.costSeconds };
  });
  metrics.gaugeByLabel('lodge_vms', 'VMs by state', 'state', () => {
    const counts: Record<string, number> = {};
    for (const vm of vms.all()) counts[vm.status.state] = (counts[vm.status.state] ?? 0) + 1;
    return counts;
  });
  metrics.gauge('lodge_store_revision', 'Revision of the store', revision);
  return { metrics, history, sampler };
}
