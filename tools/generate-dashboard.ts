// Writes docs/monitoring/grafana-dashboard.json, the dashboard of Grafana for Lodge: node tools/generate-dashboard.ts. A test
// compares the file with what this would write, and every metric in it and in the alert rules with those that the daemon has.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

interface Panel {
  title: string;
  /** What it tells, for people who wonder. */
  description: string;
  unit: string;
  /** PromQL, each with how its lines are called. */
  queries: readonly (readonly [expression: string, legend: string])[];
  isStacked?: boolean;
}

const own = '{instance=~"$instance"}';
const vms = '{instance=~"$instance",project=~"$project",vm=~"$vm"}';
const perSecond = (metric: string, labels: string): string => `rate(${metric}${labels}[$__rate_interval])`;
const latency = (share: number, operation: string): string =>
  `histogram_quantile(${share}, sum by (le, vm) (rate(lodge_vm_disk_latency_seconds_bucket{instance=~"$instance",project=~"$project",vm=~"$vm",operation="${operation}"}[$__rate_interval])))`;

const rows: readonly { title: string; panels: readonly Panel[] }[] = [
  {
    title: 'Machine',
    panels: [
      {
        title: 'Processors',
        description:
          'Share of all processors. Steal is what the hypervisor below this machine gave to others; 0 on hardware.',
        unit: 'percentunit',
        isStacked: true,
        queries: ['busy', 'steal'].map((mode) => [
          `sum by (node) (rate(lodge_node_cpu_seconds_total{instance=~"$instance",mode="${mode}"}[$__rate_interval])) / sum by (node) (lodge_node_processors${own})`,
          `{{node}} ${mode}`,
        ]),
      },
      {
        title: 'Memory',
        description: 'Used is what new programs can’t have; files in memory give way to them.',
        unit: 'bytes',
        queries: [
          [`lodge_node_memory_total_bytes${own}`, '{{node}} total'],
          [`lodge_node_memory_used_bytes${own}`, '{{node}} used'],
          [`lodge_node_memory_cached_bytes${own}`, '{{node}} files'],
          [`lodge_node_memory_huge_bytes${own}`, '{{node}} huge pages'],
          [`lodge_node_memory_ksm_saved_bytes${own}`, '{{node}} saved by KSM'],
          [`lodge_node_swap_used_bytes${own}`, '{{node}} swap'],
        ],
      },
      {
        title: 'Pressure',
        description: 'Share of time in which something waited for processors, memory or disks (PSI some).',
        unit: 'percentunit',
        queries: [[perSecond('lodge_node_pressure_waiting_seconds_total', own), '{{node}} {{resource}}']],
      },
      {
        title: 'VMs by state',
        description: 'A VM that crashed is held by its hypervisor until somebody looks.',
        unit: 'short',
        isStacked: true,
        queries: [[`sum by (state) (lodge_vms${own})`, '{{state}}']],
      },
      {
        title: 'Disks and NICs of the machine',
        description: 'What went through its own disks and NICs; sent and written below zero.',
        unit: 'Bps',
        queries: [
          [perSecond('lodge_node_disk_read_bytes_total', own), '{{node}} read'],
          [`-${perSecond('lodge_node_disk_written_bytes_total', own)}`, '{{node}} written'],
          [perSecond('lodge_node_network_receive_bytes_total', own), '{{node}} received'],
          [`-${perSecond('lodge_node_network_transmit_bytes_total', own)}`, '{{node}} sent'],
        ],
      },
      {
        title: 'Storage',
        description: 'Of the file system that has the data.',
        unit: 'bytes',
        queries: [
          [`lodge_node_storage_total_bytes${own}`, '{{node}} size'],
          [`lodge_node_storage_total_bytes${own} - lodge_node_storage_free_bytes${own}`, '{{node}} used'],
        ],
      },
    ],
  },
  {
    title: 'VMs: processors',
    panels: [
      {
        title: 'Processor time',
        description: 'In processors: 2 is two of them busy.',
        unit: 'short',
        queries: [[perSecond('lodge_vm_cpu_seconds_total', vms), '{{vm}}']],
      },
      {
        title: 'Waited for a processor (steal)',
        description: 'vCPUs that could have run and had to wait: the machine has more to do than processors.',
        unit: 'short',
        queries: [[perSecond('lodge_vm_cpu_steal_seconds_total', vms), '{{vm}}']],
      },
      {
        title: 'Exits to KVM',
        description: 'How often guests leave to the hypervisor; what costs guests time is how many they make.',
        unit: 'ops',
        queries: [[perSecond('lodge_vm_exits_total', vms), '{{vm}}']],
      },
      {
        title: 'Exits by kind',
        description: 'Those that KVM counts by kind, of all chosen VMs.',
        unit: 'ops',
        isStacked: true,
        queries: [[`sum by (kind) (${perSecond('lodge_vm_exits_by_kind_total', vms)})`, '{{kind}}']],
      },
      {
        title: 'Polling at halt',
        description:
          'Processor time spent on waiting for work before a vCPU gives its processor away, by whether work came.',
        unit: 'short',
        queries: [[`sum by (vm, result) (${perSecond('lodge_vm_halt_poll_seconds_total', vms)})`, '{{vm}} {{result}}']],
      },
    ],
  },
  {
    title: 'VMs: memory',
    panels: [
      {
        title: 'Memory of the machine that VMs have',
        description: 'With the part of what is shared that falls to each (PSS): these add up.',
        unit: 'bytes',
        isStacked: true,
        queries: [[`lodge_vm_memory_proportional_bytes${vms}`, '{{vm}}']],
      },
      {
        title: 'Used inside',
        description: 'What the guests’ own systems use, as a share of what they were given.',
        unit: 'percentunit',
        queries: [[`lodge_vm_guest_memory_used_bytes${vms} / lodge_vm_memory_configured_bytes${vms}`, '{{vm}}']],
      },
      {
        title: 'Huge pages, merged, balloon, swapped',
        description: 'Of all chosen VMs together.',
        unit: 'bytes',
        queries: [
          [`sum(lodge_vm_memory_huge_bytes${vms})`, 'huge pages'],
          [`sum(lodge_vm_memory_merged_bytes${vms})`, 'merged (KSM)'],
          [`sum(lodge_vm_memory_balloon_bytes${vms})`, 'taken by balloons'],
          [`sum(lodge_vm_memory_swapped_bytes${vms})`, 'swapped out'],
        ],
      },
    ],
  },
  {
    title: 'VMs: disks and network',
    panels: [
      {
        title: 'Disks',
        description: 'Written below zero.',
        unit: 'Bps',
        queries: [
          [perSecond('lodge_vm_disk_read_bytes_total', vms), '{{vm}} read'],
          [`-${perSecond('lodge_vm_disk_written_bytes_total', vms)}`, '{{vm}} written'],
        ],
      },
      {
        title: 'Operations of disks',
        description: 'Reads and writes a second.',
        unit: 'iops',
        queries: [[perSecond('lodge_vm_disk_operations_total', vms), '{{vm}}']],
      },
      ...(['read', 'write', 'flush'] as const).map((operation): Panel => ({
        title: `How long a ${operation} takes`,
        description: 'The time that half of them, and 99 of a hundred, did not exceed.',
        unit: 's',
        queries: [
          [latency(0.5, operation), '{{vm}} half'],
          [latency(0.99, operation), '{{vm}} 99 %'],
        ],
      })),
      {
        title: 'Network',
        description: 'As guests see it; sent below zero. User-mode networks are counted by nobody.',
        unit: 'Bps',
        queries: [
          [perSecond('lodge_vm_network_receive_bytes_total', vms), '{{vm}} received'],
          [`-${perSecond('lodge_vm_network_transmit_bytes_total', vms)}`, '{{vm}} sent'],
        ],
      },
    ],
  },
  {
    title: 'Lodge itself',
    panels: [
      {
        title: 'Requests',
        description: 'Answered by the daemon, by status.',
        unit: 'reqps',
        queries: [[`sum by (status) (${perSecond('lodge_http_request_duration_seconds_count', own)})`, '{{status}}']],
      },
      {
        title: 'Cost of measuring',
        description: 'Processor time of the looks at guests and machine; at most a hundredth of a processor.',
        unit: 'percentunit',
        queries: [[perSecond('lodge_sampler_cpu_seconds_total', own), '{{node}}']],
      },
    ],
  },
];

const source = { type: 'prometheus', uid: '$datasource' };
/** Grafana's grid has 24 columns. */
const [columns, perRow, panelHeight] = [24, 3, 8];

/** The dashboard, in the form that Grafana imports: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/ */
export function grafanaDashboard(): object {
  const panels: object[] = [];
  let y = 0;
  let id = 1;
  for (const row of rows) {
    panels.push({
      id: id++,
      type: 'row',
      title: row.title,
      collapsed: false,
      gridPos: { x: 0, y, w: columns, h: 1 },
      panels: [],
    });
    y++;
    for (const [index, panel] of row.panels.entries()) {
      const w = columns / perRow;
      panels.push({
        id: id++,
        type: 'timeseries',
        title: panel.title,
        description: panel.description,
        datasource: source,
        gridPos: { x: (index % perRow) * w, y: y + Math.floor(index / perRow) * panelHeight, w, h: panelHeight },
        fieldConfig: {
          defaults: {
            unit: panel.unit,
            custom: {
              lineWidth: 1,
              fillOpacity: panel.isStacked ? 30 : 5,
              showPoints: 'never',
              stacking: { mode: panel.isStacked ? 'normal' : 'none', group: 'A' },
            },
          },
          overrides: [],
        },
        options: { legend: { displayMode: 'list', placement: 'bottom' }, tooltip: { mode: 'multi', sort: 'desc' } },
        targets: panel.queries.map(([expr, legendFormat], query) => ({
          refId: String.fromCharCode(65 + query),
          datasource: source,
          editorMode: 'code',
          expr,
          legendFormat,
          range: true,
        })),
      });
    }
    y += Math.ceil(row.panels.length / perRow) * panelHeight;
  }
  const choice = (name: string, label: string, metric: string): object => ({
    name,
    label,
    type: 'query',
    datasource: source,
    query: { query: `label_values(${metric}, ${name})`, refId: name },
    refresh: 2,
    includeAll: true,
    multi: true,
    allValue: '.*',
    current: { selected: true, text: ['All'], value: ['$__all'] },
    sort: 1,
  });
  return {
    title: 'Lodge',
    uid: 'lodge',
    tags: ['lodge'],
    editable: true,
    schemaVersion: 39,
    version: 1,
    refresh: '30s',
    timezone: '',
    time: { from: 'now-1h', to: 'now' },
    templating: {
      list: [
        { name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus', current: {}, hide: 0 },
        choice('instance', 'Node', 'lodge_node_processors'),
        choice('project', 'Project', 'lodge_vm_cpu_seconds_total'),
        choice('vm', 'VM', 'lodge_vm_cpu_seconds_total'),
      ],
    },
    annotations: { list: [] },
    panels,
  };
}

/** Where it is kept. */
export const dashboardPath = join(import.meta.dirname, '../docs/monitoring/grafana-dashboard.json');

if (import.meta.main) await writeFile(dashboardPath, `${JSON.stringify(grafanaDashboard(), null, 2)}\n`);
