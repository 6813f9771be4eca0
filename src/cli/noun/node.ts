// lodge node: the machines that run VMs.
import type { Command } from 'commander';
import type { Node } from '../../api/node.ts';
import { formatMib } from '../../lib/quantity.ts';
import { noun, objectFormats, verb, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { followTask, untilInterrupted } from '../output/follow.ts';
import { printOne, type Printable } from '../output/print.ts';
import { ProgressBoard } from '../output/progress.ts';
import { plainStyle } from '../output/style.ts';
import { painted, renderDetails, renderTable, type Column, type Detail } from '../output/table.ts';
import { changeObject } from '../set.ts';
import { ageOf, colorState, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';
import { addNodeHardwareVerbs } from './node-hardware.ts';
import { addNodeMeasureVerb } from './node-measure.ts';
import { addNodeTopologyVerb } from './node-topology.ts';
import { addNodeStatsVerb } from './stats.ts';

type Rung = Node['status']['accelerators'][number];

export const nodePrintable: Printable<Node> = {
  kind: 'Node',
  name: (node) => node.name,
  columns: [
    { header: 'NAME', value: (node) => node.name, minWidth: 8 },
    {
      header: 'STATE',
      value: (node) => node.status.state,
      color: (text, node, style) => colorState(text, node.status.state, style),
    },
    { header: 'ACCELERATOR', value: (node) => node.status.accelerator?.rung ?? 'not probed' },
    { header: 'CPUS', value: (node) => String(node.status.cpu.count), side: 'right' },
    {
      header: 'CPU',
      value: (node) => `${node.status.load.cpuPercent.toFixed(0)} %`,
      side: 'right',
    },
    {
      header: 'MEMORY FREE',
      value: (node) => `${formatMib(node.status.memory.availableMib)} of ${formatMib(node.status.memory.totalMib)}`,
      side: 'right',
    },
    {
      header: 'STORAGE FREE',
      value: (node) => `${formatMib(node.status.storage.freeMib)} of ${formatMib(node.status.storage.totalMib)}`,
      side: 'right',
    },
    {
      header: 'RUNNING',
      value: (node) => `${node.status.guests.running} of ${node.status.guests.defined}`,
      side: 'right',
    },
    { header: 'UP', value: (node) => ageOf(node.status.startedAt), side: 'right' },
    {
      header: 'DRIVER',
      value: (node) => `${node.status.driver.name} ${node.status.driver.version ?? ''}`.trim(),
      isWide: true,
    },
    { header: 'VERSION', value: (node) => node.status.lodgeVersion, isWide: true },
    { header: 'KERNEL', value: (node) => node.status.kernel, isWide: true },
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchNodes: FetchPage<Node> = (client, query) => {
  // Nodes belong to no project.
  const { project: _project, ...rest } = query;
  return client.node.list({ query: rest });
};

/** What each rung of the ladder is, in words. */
const rungNames: Readonly<Record<Rung['rung'], string>> = {
  kvm: 'KVM with VT-x or AMD-V',
  'kvm-pvm': 'KVM without them (PVM)',
  tcg: 'emulation (TCG)',
};

const rungColumns: readonly Column<Rung>[] = [
  { header: 'RUNG', value: (rung) => rung.rung },
  { header: 'WHAT IT IS', value: (rung) => rungNames[rung.rung] },
  {
    header: 'PROBE GUEST',
    value: (rung) => (rung.isUsable ? 'ran' : 'did not run'),
    color: (text, rung, style) => (rung.isUsable ? style.green(text) : style.dim(text)),
  },
  { header: 'FOR GUESTS', value: (rung) => (rung.isForOrdinaryGuests ? 'yes' : 'no') },
  { header: 'START', value: (rung) => (rung.startMs === null ? '' : `${rung.startMs.toFixed(0)} ms`), side: 'right' },
  { header: 'CPU MODEL', value: (rung) => rung.cpuModel ?? '' },
];

/** What was seen of each rung, broken to the terminal. */
function reasonLines(rungs: readonly Rung[], session: Session): string[] {
  const { width } = session.terminal;
  const details = rungs.map((rung): Detail => [rung.rung, rung.reason]);
  return renderDetails(details, { style: plainStyle, width: width === null ? null : width - 2 });
}

/** A cost in the unit that reads best. */
function formatNanoseconds(value: number): string {
  if (value < 1000) return `${value.toFixed(value < 10 ? 1 : 0)} ns`;
  if (value < 1_000_000) return `${(value / 1000).toFixed(1)} µs`;
  return `${(value / 1_000_000).toFixed(1)} ms`;
}

/** Measured costs, an operation a line, a rung a column. */
function costLines(rungs: readonly Rung[], session: Session): string[] {
  const measured = rungs.filter((rung) => Object.keys(rung.costs).length > 0);
  const operations = [...new Set(measured.flatMap((rung) => Object.keys(rung.costs)))];
  const columns: Column<string>[] = [
    { header: 'OPERATION', value: (operation) => operation.replace(/([a-z])([A-Z])/g, '$1 $2').toLowerCase() },
    ...measured.map((rung): Column<string> => ({
      header: rung.rung.toUpperCase(),
      value: (operation) => {
        const cost = rung.costs[operation];
        return cost === undefined ? '' : formatNanoseconds(cost);
      },
      side: 'right',
    })),
  ];
  return operations.length === 0
    ? []
    : renderTable(columns, operations, { width: null, style: session.terminal.style });
}

function nodeDetails(node: Node, session: Session): string[] {
  const { status } = node;
  const { style, width } = session.terminal;
  const inner = width === null ? null : width - 2;
  const capabilities = Object.entries(status.driver.capabilities);
  const { accelerator, cpu, memory, storage, cgroup } = status;
  return renderDetails(
    [
      ['Name', node.name],
      ['State', painted(status.state, (text) => colorState(text, status.state, style))],
      ['Problems', status.problems.join('\n')],
      ['Takes guests', node.spec.acceptsGuests ? 'yes' : 'no (maintenance)'],
      ['Guests', `${status.guests.running} running, ${status.guests.defined} defined`],
      [
        'Accelerator',
        accelerator === null
          ? 'not probed yet'
          : `${accelerator.rung === accelerator.chosen ? accelerator.rung : `${accelerator.chosen} (${accelerator.rung})`}: ${rungNames[accelerator.rung]}; why, see below`,
      ],
      [
        'CPU',
        `${cpu.model}, ${cpu.count} CPUs (${cpu.sockets} × ${cpu.coresPerSocket} × ${cpu.threadsPerCore}), ${cpu.virtualization === 'none' ? 'without VT-x or AMD-V' : cpu.virtualization}`,
      ],
      [
        'Load',
        `${status.load.cpuPercent.toFixed(0)} % of the machine, load average ${status.load.loadAverage.toFixed(2)}`,
      ],
      [
        'Memory',
        `${formatMib(memory.availableMib)} free of ${formatMib(memory.totalMib)}, ${formatMib(memory.guestsMib)} given to guests`,
      ],
      ['Storage', `${formatMib(storage.freeMib)} free of ${formatMib(storage.totalMib)} at ${storage.path}`],
      [
        'Control groups',
        `${cgroup.version}${cgroup.controllers.length > 0 ? ` (${cgroup.controllers.join(', ')})` : ''}: ${cgroup.reason}`,
      ],
      ['Operating system', `${status.operatingSystem}, kernel ${status.kernel}`],
      [
        'Hypervisor',
        `${status.driver.name} ${status.driver.version ?? ''} ${status.driver.isReady ? 'ready' : `not ready: ${status.driver.reason}`}`,
      ],
      ['Machine types', status.driver.machines.join(', ')],
      ['Lodge', `${status.lodgeVersion}, daemon started ${momentOf(status.startedAt) ?? ''}`],
      ['Labels', labelsText(node.labels)],
      [
        'Accelerator ladder',
        status.accelerators.length === 0
          ? null
          : renderTable(rungColumns, status.accelerators, { width: inner, style }),
      ],
      ['What was seen of each', reasonLines(status.accelerators, session)],
      ['Measured cost of operations in a guest', costLines(status.accelerators, session)],
      [
        'What this hypervisor can do',
        capabilities.length === 0
          ? null
          : renderTable(
              [
                { header: 'CAPABILITY', value: ([name]: [string, { isSupported: boolean; reason: string }]) => name },
                {
                  header: 'HERE',
                  value: ([, one]) => (one.isSupported ? 'yes' : 'no'),
                  color: (text, [, one], paint) => (one.isSupported ? paint.green(text) : paint.yellow(text)),
                },
                { header: 'WHY', value: ([, one]) => one.reason, minWidth: 20 },
              ],
              capabilities,
              { width: inner, style },
            ),
      ],
    ],
    session.terminal,
  );
}

export async function getNode(session: Session, name: string): Promise<Node> {
  return withSuggestion(session, name, fetchNodes, () => session.client.node.get({ params: { node: name } }));
}

/** `lodge node` and its verbs. */
export function nodeNoun(): Command {
  const node = noun('node', 'Machines that run VMs');

  listVerb(node, {
    kind: 'node',
    noun: 'node',
    plural: 'nodes',
    printable: nodePrintable,
    fetch: fetchNodes,
    isAcrossProjects: true,
    empty: '',
    examples: [['lodge node list', 'all nodes with what is free on them']],
  });
  showVerb(node, {
    noun: 'node',
    argument: '[node]',
    defaultName: 'self',
    printable: nodePrintable,
    get: getNode,
    details: nodeDetails,
    examples: [
      ['lodge node show', 'the node that answers: its accelerator ladder with reasons and costs'],
      ['lodge node show self -o json', 'everything, for a script'],
    ],
  });

  verb(node, 'probe [node]', 'Run the probe guests again and choose the accelerator anew', {
    formats: objectFormats,
    examples: [['lodge node probe', 'after a change of the kernel or of the BIOS settings']],
  }).action(
    withDaemon<[name: string | undefined], object>(async (session, _options, name) => {
      const board = new ProgressBoard(session.terminal);
      board.update(board.add(`probe node ${name ?? 'self'}`), {
        waitingFor: 'running a probe guest in each accelerator',
      });
      let probed: Node;
      try {
        probed = await untilInterrupted(session, (signal) =>
          session.client.node.probe({ params: { node: name ?? 'self' } }, { signal, timeoutMs: 300_000 }),
        );
      } finally {
        board.close();
      }
      await printOne(session, nodePrintable, probed, () => [
        ...renderTable(rungColumns, probed.status.accelerators, {
          width: session.terminal.width,
          style: session.terminal.style,
        }),
        '',
        ...reasonLines(probed.status.accelerators, session),
        '',
        probed.status.accelerator === null
          ? 'No accelerator can run guests.'
          : `Guests run in ${probed.status.accelerator.rung}: ${probed.status.accelerator.reason}`,
      ]);
    }),
  );

  addNodeHardwareVerbs(node);
  addNodeTopologyVerb(node);
  addNodeMeasureVerb(node);
  addNodeStatsVerb(node);

  verb(node, 'set <node> <change...>', 'Change fields of a node', {
    formats: objectFormats,
    examples: [
      ['lodge node set self acceptsGuests=false', 'start no VM here; what runs stays'],
      ['lodge node set self labels.rack=a3', 'a label'],
    ],
  }).action(
    withDaemon<[name: string, changes: string[]], object>(async (session, _options, name, changes) => {
      const after = await changeObject(session, 'node', await getNode(session, name), changes, (body) =>
        session.client.node.update({ params: { node: name }, body }),
      );
      if (after) await printOne(session, nodePrintable, after, () => [`Node ${after.name} is changed.`]);
    }),
  );

  verb(node, 'stop-guests [node]', 'Shut down every guest of a node, all at once', {
    description:
      'Ask every guest of a node to shut down, each with its own deadline, and wait until all are down. For the shutdown of the machine: docs/lodge-guests.service calls it.',
    examples: [['lodge node stop-guests self', 'before the machine is switched off']],
  })
    .option('--no-wait', 'do not wait until they are down')
    .action(
      withDaemon<[name: string | undefined], { wait: boolean }>(async (session, options, name) => {
        const task = await session.client.node.stopGuests({ params: { node: name ?? 'self' } });
        if (options.wait) await followTask(session, task, `stop the guests of node ${name ?? 'self'}`);
        else session.terminal.line(`Task ${task.id} shuts the guests down.`);
      }),
    );
  return node;
}
