import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { latencyEdgesUs } from '../../api/vm-latency.ts';
import { type Vm } from '../../api/vm.ts';
import { type GuestDetail } from '../../drivers/measured.ts';
import { dashboardPath, grafanaDashboard } from '../../../tools/generate-dashboard.ts';
import { createMetrics, type HttpMetrics } from '../http/metrics.ts';
import { exposeNode } from './node-exposition.ts';
import { exposeVms, type SeenCounters } from './vm-exposition.ts';

const vm = {
  name: 'web1',
  project: 'shop',
  spec: { cpu: { count: 4 }, memoryMib: 1024 },
  status: { startedSpec: { cpu: { count: 2 }, memoryMib: 512 } },
} as unknown as Vm;

const none = [...latencyEdgesUs.map(() => 0), 0];
const detail: GuestDetail = {
  disks: {
    readBytes: 4096,
    writtenBytes: 0,
    operations: 3,
    operationSeconds: 0.5,
    latency: [
      {
        disk: 'root',
        read: { counts: none.with(0, 2), seconds: 0.00002 },
        write: { counts: none, seconds: 0 },
        flush: { counts: none, seconds: 0 },
      },
      {
        disk: 'data',
        read: { counts: none.with(latencyEdgesUs.length, 1), seconds: 7 },
        write: { counts: none, seconds: 0 },
        flush: { counts: none, seconds: 0 },
      },
    ],
  },
  exits: {
    exits: 1000,
    byKind: { io: 600, halt: 10 },
    haltPolls: { attempts: 10, successes: 4, successSeconds: 0.5, failSeconds: 1.5 },
  },
  stealSeconds: 2,
  inside: { usedMib: 100, cachedMib: 50 },
  balloonMib: 0,
};
const seen: SeenCounters = {
  id: 'id-1',
  counters: { cpuSeconds: 12.5, memoryMib: 300, networkReceivedBytes: 1, networkSentBytes: null },
  detail,
  shares: { pssMib: 200, hugeMib: 128, ksmMib: null, swapMib: 0 },
};

function exposed(guests: readonly SeenCounters[] = [seen]): HttpMetrics {
  const metrics = createMetrics();
  exposeVms(
    metrics.registry,
    () => guests,
    (id) => (id === 'gone' ? null : vm),
  );
  exposeNode(metrics.registry, () => ({
    name: 'host1',
    processors: 8,
    counters: {
      cpu: { busy: 300, total: 1000, steal: 100 },
      memory: { totalMib: 8, usedMib: 4, cachedMib: 2, hugeMib: 0, swapUsedMib: 0, ksmSavedMib: null },
      pressure: { cpu: 1_500_000, memory: null, io: 0 },
      disks: { readBytes: 1, writtenBytes: 2 },
      network: { receivedBytes: 3, sentBytes: 4 },
    },
    storage: null,
    samplerSeconds: 0.25,
  }));
  metrics.gaugeByLabel('lodge_vms', 'VMs by state', 'state', () => ({ running: 1 }));
  return metrics;
}

const lines = async (metrics: HttpMetrics): Promise<string[]> => (await metrics.text()).split('\n');
const labels = 'vm="web1",project="shop",id="id-1"';

test('what was seen of a guest is told with its names, and what is not known has no line', async () => {
  const text = await lines(exposed());
  for (const line of [
    `lodge_vm_cpu_seconds_total{${labels}} 12.5`,
    `lodge_vm_vcpus{${labels}} 2`,
    `lodge_vm_memory_configured_bytes{${labels}} ${512 * 2 ** 20}`,
    `lodge_vm_memory_proportional_bytes{${labels}} ${200 * 2 ** 20}`,
    `lodge_vm_exits_total{${labels}} 1000`,
    `lodge_vm_exits_by_kind_total{${labels},kind="io"} 600`,
    `lodge_vm_halt_polls_total{${labels},result="fail"} 6`,
    `lodge_vm_halt_poll_seconds_total{${labels},result="success"} 0.5`,
    `lodge_vm_memory_balloon_bytes{${labels}} 0`,
    'lodge_node_cpu_seconds_total{node="host1",mode="busy"} 2',
    'lodge_node_cpu_seconds_total{node="host1",mode="steal"} 1',
    'lodge_node_cpu_seconds_total{node="host1",mode="idle"} 7',
    'lodge_node_pressure_waiting_seconds_total{node="host1",resource="cpu"} 1.5',
    'lodge_sampler_cpu_seconds_total{node="host1"} 0.25',
  ])
    assert.ok(text.includes(line), line);
  for (const absent of [
    'lodge_vm_network_transmit_bytes_total{',
    'lodge_vm_memory_merged_bytes{',
    'lodge_node_memory_ksm_saved_bytes{',
    'lodge_node_storage_free_bytes{',
    'resource="memory"',
  ])
    assert.ok(!text.some((line) => line.includes(absent)), absent);
});

test('latency is a histogram over all disks, cumulative, of what has happened at all', async () => {
  const text = (await lines(exposed())).filter((line) => line.includes('lodge_vm_disk_latency_seconds'));
  assert.ok(text.includes('# TYPE lodge_vm_disk_latency_seconds histogram'));
  const read = `${labels},operation="read"`;
  assert.equal(text.filter((line) => line.includes('_bucket{')).length, latencyEdgesUs.length + 1);
  assert.ok(text.includes(`lodge_vm_disk_latency_seconds_bucket{${read},le="0.000025"} 2`), text.join('\n'));
  assert.ok(text.includes(`lodge_vm_disk_latency_seconds_bucket{${read},le="5"} 2`));
  assert.ok(text.includes(`lodge_vm_disk_latency_seconds_bucket{${read},le="+Inf"} 3`));
  assert.ok(text.includes(`lodge_vm_disk_latency_seconds_sum{${read}} 7.00002`));
  assert.ok(text.includes(`lodge_vm_disk_latency_seconds_count{${read}} 3`));
});

test('a guest of which little is known yet, and one whose VM is gone, hide no other', async () => {
  const early: SeenCounters = { ...seen, id: 'early', detail: null, shares: null };
  const text = await lines(exposed([early, { ...seen, id: 'gone' }, seen]));
  assert.equal(text.filter((line) => line.startsWith('lodge_vm_cpu_seconds_total{')).length, 2);
  assert.equal(text.filter((line) => line.startsWith('lodge_vm_exits_total{')).length, 1);
});

/** Names of metrics in PromQL; those of Lodge begin so. */
const namesIn = (expression: string): string[] => expression.match(/\blodge_[a-z_]+\b/g) ?? [];

/** Every name that a line of the daemon may begin with, and what is announced of each. */
async function names(): Promise<Set<string>> {
  const metrics = exposed();
  metrics.request('vm.get', 'GET', 200, 1);
  const found = new Set<string>();
  for (const { name, type } of await metrics.registry.getMetricsAsJSON()) {
    found.add(name);
    if (String(type) === 'histogram') for (const part of ['bucket', 'sum', 'count']) found.add(`${name}_${part}`);
  }
  return found;
}

test('the dashboard in docs is what the tool writes, and every metric in it exists', async () => {
  const written: unknown = JSON.parse(await readFile(dashboardPath, 'utf8'));
  assert.deepEqual(written, grafanaDashboard(), 'write it anew: node tools/generate-dashboard.ts');
  const known = await names();
  const used = namesIn(JSON.stringify(written));
  assert.ok(used.length > 40);
  for (const name of used) assert.ok(known.has(name), `the daemon has no metric ${name}`);
  // What the daemon has of guests and machine, the dashboard shows, or an alert watches it.
  const alerts = namesIn(await readFile(alertsPath, 'utf8'));
  const shown = new Set([...used, ...alerts].map((name) => name.replace(/_(bucket|sum|count)$/, '')));
  const hidden = [...known].filter((name) => /^lodge_(vm|node)_/.test(name) && !/_(bucket|sum|count)$/.test(name));
  const kept = new Set([
    'lodge_vm_memory_resident_bytes',
    'lodge_vm_disk_operation_seconds_total',
    'lodge_vm_halt_polls_total',
    'lodge_vm_guest_memory_cached_bytes',
  ]);
  assert.deepEqual(
    hidden.filter((name) => !shown.has(name) && !kept.has(name)),
    [],
  );
});

const alertsPath = join(import.meta.dirname, '../../../docs/monitoring/alerts.yaml');

test('every metric of the alert rules exists, and every rule says what to do', async () => {
  const { groups } = parse(await readFile(alertsPath, 'utf8')) as {
    groups: { rules: { alert: string; expr: string; labels: object; annotations: Record<string, string> }[] }[];
  };
  const rules = groups.flatMap((group) => group.rules);
  assert.ok(rules.length >= 10);
  assert.equal(new Set(rules.map(({ alert }) => alert)).size, rules.length);
  const known = await names();
  for (const { alert, expr, annotations } of rules) {
    const used = namesIn(expr);
    assert.ok(used.length > 0 || expr.startsWith('up{'), alert);
    for (const name of used) assert.ok(known.has(name), `${alert}: the daemon has no metric ${name}`);
    assert.ok(annotations['summary'] && annotations['description'], alert);
  }
});
