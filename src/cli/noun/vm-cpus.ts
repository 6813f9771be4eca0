// lodge vm cpus and lodge vm pin: on which CPUs of the node a VM runs, and changing that.
import type { Command } from 'commander';
import type { VmCpus } from '../../api/vm-placement.ts';
import type { VmSpec } from '../../api/vm-spec.ts';
import { wrapToWidth } from '../../lib/terminal-text.ts';
import { documentFormats, verb, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { printDocument } from '../output/print.ts';
import { renderTable, type Column } from '../output/table.ts';
import { usageError } from '../usage-error.ts';
import { changeVm } from '../vm/change.ts';
import { fetchVms } from '../vm/view.ts';
import { parsePins } from '../vm/pins.ts';

type Thread = VmCpus['threads'][number];
type Limit = VmCpus['limits'][number];

const defaultWidth = 100;

const threadColumns: readonly Column<Thread>[] = [
  { header: 'THREAD', value: ({ kind, number }) => (kind === 'emulator' ? 'qemu' : `${kind} ${number}`) },
  { header: 'CPUS', value: ({ allowedCpus }) => allowedCpus },
  {
    header: 'AS GIVEN',
    value: ({ isAsWanted, wantedCpus }) => (isAsWanted ? 'yes' : `no: ${wantedCpus}`),
    color: (text, { isAsWanted }, style) => (isAsWanted ? style.green(text) : style.yellow(text)),
  },
  { header: 'RAN LAST ON', value: ({ lastCpu }) => (lastCpu === null ? '' : String(lastCpu)), side: 'right' },
  {
    header: 'CPU TIME',
    value: ({ cpuSeconds }) => (cpuSeconds === null ? '' : `${cpuSeconds.toFixed(1)} s`),
    side: 'right',
  },
  { header: 'NAME', value: ({ name }) => name },
  { header: 'ID', value: ({ threadId }) => String(threadId), side: 'right', isWide: true },
];

const limitColumns: readonly Column<Limit>[] = [
  { header: 'LIMIT', value: ({ limit }) => limit },
  { header: 'ASKED FOR', value: ({ wanted }) => wanted ?? 'nothing' },
  { header: 'FILE SAYS', value: ({ observed }) => observed ?? '' },
  { header: 'FILE', value: ({ file, reason }) => file ?? reason ?? '', minWidth: 20 },
];

function cpuLines(name: string, { placement, threads, limits, pressure }: VmCpus, session: Session): string[] {
  const { style, width } = session.terminal;
  const lines: string[] = [];
  const wrap = (text: string): string[] =>
    wrapToWidth(text, Math.max(20, (width ?? defaultWidth) - 2)).map((line) => `  ${line}`);
  if (!placement) return [`VM ${name} is not up: it is given CPUs when it starts.`];
  const own = placement.exclusiveCpus === '' ? '' : `, CPUs ${placement.exclusiveCpus} its own`;
  lines.push(style.bold(`${placement.policy}${own}`), ...placement.reasons.flatMap(wrap));
  for (const shortage of placement.shortages) lines.push(...wrap(`It lacks: ${shortage}`).map(style.yellow));
  lines.push('', ...renderTable(threadColumns, threads, { width, style }));
  lines.push('', ...renderTable(limitColumns, limits, { width, style }));
  const known = pressure.filter(({ reason }) => reason === null);
  const why = pressure.find(({ reason }) => reason !== null)?.reason;
  if (known.length > 0)
    lines.push(
      '',
      `Waited in the last 10 s: ${known.map(({ resource, somePercent, fullPercent }) => `${resource} ${somePercent} % (all threads ${fullPercent} %)`).join(', ')}`,
    );
  else if (why) lines.push('', ...wrapToWidth(`How long it waited (PSI) is not known: ${why}.`, width ?? defaultWidth));
  return lines;
}

interface PinOptions {
  dedicated?: boolean;
  shared?: boolean;
  affinity?: string;
  none?: boolean;
}

/** The CPU fields with what the options ask for. */
function pinned(cpu: VmSpec['cpu'], pins: readonly string[], options: PinOptions): VmSpec['cpu'] {
  const { policy, pinning, affinity, ...rest } = cpu;
  const wanted = parsePins(pins);
  const kept = options.none === true ? [] : (pinning ?? []);
  const merged = [...kept.filter(({ vcpu }) => !wanted.some((pin) => pin.vcpu === vcpu)), ...wanted];
  const policyNow = options.dedicated === true ? 'dedicated' : options.shared === true ? undefined : policy;
  const affinityNow = options.affinity ?? (options.none === true ? undefined : affinity);
  return {
    ...rest,
    ...(policyNow === undefined ? {} : { policy: policyNow }),
    ...(merged.length === 0 ? {} : { pinning: merged.toSorted((a, b) => a.vcpu - b.vcpu) }),
    ...(affinityNow === undefined ? {} : { affinity: affinityNow }),
  };
}

/** Adds the verbs cpus and pin. */
export function addCpusVerbs(vm: Command): void {
  verb(vm, 'cpus <vm>', 'Show on which CPUs of the node a VM runs, why, and what limits it', {
    description:
      'Show what was decided with the reasons, each thread of the VM with the CPUs that the kernel lets it run on, and the limits that are in effect, as the control group’s files say.',
    formats: documentFormats,
    examples: [
      ['lodge vm cpus web1', 'vCPUs, I/O threads and QEMU’s own threads'],
      ["lodge vm cpus web1 -o json | jq -r '.threads[] | [.kind, .number, .allowedCpus] | @tsv'", 'for a script'],
    ],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const request = { params: { vm: name }, query: { project: session.project } };
      const cpus = await withSuggestion(session, name, fetchVms, () => session.client.vm.cpus(request));
      await printDocument(session, cpus, () => cpuLines(name, cpus, session));
    }),
  );

  verb(vm, 'pin <vm> [pins...]', 'Say on which CPUs of the node a VM runs', {
    description:
      'Pin vCPUs to CPUs of the node (VCPU=CPUS), or give the VM cores of its own. It takes effect at once, also while the VM runs. lodge node topology shows the CPUs, lodge vm cpus what came of it.',
    examples: [
      ['lodge vm pin web1 0=2 1=3', 'vCPU 0 on CPU 2, vCPU 1 on CPU 3'],
      ['lodge vm pin web1 --affinity 2-3,6-7', 'all vCPUs somewhere on these CPUs'],
      ['lodge vm pin web1 --dedicated', 'cores of its own, chosen by Lodge'],
      ['lodge vm pin web1 --none --shared', 'anywhere again'],
    ],
  })
    .option('--dedicated', 'give it cores of its own; no other VM runs there')
    .option('--shared', 'let it share cores with other VMs')
    .option('--affinity <cpus>', 'CPUs for vCPUs without a pin: 2-3,6')
    .option('--none', 'forget what it was pinned to before')
    .action(
      withDaemon<[name: string, pins: string[]], PinOptions>(async (session, options, name, pins) => {
        if (options.dedicated === true && options.shared === true)
          throw usageError('--dedicated and --shared exclude each other');
        if (pins.length === 0 && Object.keys(options).every((key) => !isPinOption(key)))
          throw usageError('there is nothing to change', {
            hint: `Try: lodge vm pin ${name} 0=2, or lodge vm pin ${name} --dedicated`,
          });
        await changeVm(session, name, { wait: true }, (spec) => ({ ...spec, cpu: pinned(spec.cpu, pins, options) }));
        session.terminal.note(`See what came of it: lodge vm cpus ${name}`);
      }),
    );
}

function isPinOption(key: string): boolean {
  return ['dedicated', 'shared', 'affinity', 'none'].includes(key);
}
