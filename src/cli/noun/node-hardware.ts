// lodge node hardware and lodge node check: what the machine can do for guests, and whether it is fit to run them.
import type { Command } from 'commander';
import type { NodeCheck, NodeHardware } from '../../api/node-hardware.ts';
import { wrapToWidth } from '../../lib/terminal-text.ts';
import { documentFormats, verb, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { exitCodes } from '../exit-code.ts';
import { AlreadyPrinted } from '../output/print-error.ts';
import { printDocument } from '../output/print.ts';
import type { Style } from '../output/style.ts';
import { renderTable, type Column } from '../output/table.ts';

type Group = NodeHardware['groups'][number];
type Fact = Group['facts'][number];

/** Where explanations wrap when the output is no terminal. */
const defaultWidth = 100;

function yesOrNo(value: boolean | null): string {
  return value === null ? 'unknown' : value ? 'yes' : 'no';
}

const abilityColumns: readonly Column<Fact>[] = [
  { header: 'ABILITY', value: ({ title }) => title },
  {
    header: 'HERE',
    value: ({ isPresent }) => yesOrNo(isPresent),
    color: (text, { isPresent }, style) =>
      isPresent ? style.green(text) : isPresent === null ? style.dim(text) : style.yellow(text),
  },
  { header: 'USED', value: ({ isUsed }) => (isUsed === null ? '' : yesOrNo(isUsed)) },
  { header: 'VALUE', value: ({ value }) => value ?? '', minWidth: 10 },
];

const weaknessColumns: readonly Column<Fact>[] = [
  { header: 'WEAKNESS', value: ({ title }) => title },
  {
    header: 'WHAT THE KERNEL DOES',
    value: ({ value }) => value ?? '',
    color: (text, { value }, style) => (value?.startsWith('Vulnerable') ? style.yellow(text) : text),
    minWidth: 20,
  },
];

function indented(text: string, width: number, by: string): string[] {
  return wrapToWidth(text, Math.max(20, width - by.length)).map((line) => `${by}${line}`);
}

function groupLines(group: Group, session: Session, isExplaining: boolean): string[] {
  const { style } = session.terminal;
  const width = session.terminal.width ?? defaultWidth;
  const isWeaknesses = group.name === 'mitigations';
  const shown = isWeaknesses ? group.facts.filter(({ isPresent }) => isPresent !== false) : group.facts;
  const spared = group.facts.length - shown.length;
  const columns = isWeaknesses ? weaknessColumns : abilityColumns;
  const lines = ['', style.bold(group.title)];
  if (isExplaining) lines.push(...indented(group.explanation, width, '  '), '');
  if (shown.length > 0) {
    const table = renderTable(columns, shown, { width: session.terminal.width === null ? null : width - 2, style });
    const [header = '', ...rows] = table;
    lines.push(`  ${header}`);
    rows.forEach((row, index) => {
      lines.push(`  ${row}`);
      if (!isExplaining) return;
      const fact = shown[index]!;
      lines.push(
        ...indented(fact.explanation, width, '      '),
        ...indented(fact.source, width, '      ').map(style.dim),
      );
    });
  }
  if (spared > 0) lines.push(`  ${spared} known ${spared === 1 ? 'weakness does' : 'weaknesses do'} not affect it.`);
  return lines;
}

function hardwareLines(hardware: NodeHardware, session: Session, isExplaining: boolean): string[] {
  const { style } = session.terminal;
  const width = session.terminal.width ?? defaultWidth;
  const { assistance, sriovDevices } = hardware;
  const technology = assistance.technology === 'vt-x' ? 'VT-x' : assistance.technology === 'amd-v' ? 'AMD-V' : 'none';
  const about = [hardware.signature, hardware.microcode === null ? null : `microcode ${hardware.microcode}`];
  const lines = [
    style.bold(`${hardware.model} (${hardware.vendor})`),
    ...about.filter((one) => one !== null).map((one) => `  ${one}`),
    ...(hardware.isVirtualMachine ? ['  This machine is itself a virtual machine.'] : []),
    '',
    `${style.bold('Hardware assistance')}: ${technology}, ${assistance.isUsable ? style.green('usable') : style.yellow('not usable')}`,
    ...indented(assistance.reason, width, '  '),
    ...(assistance.remedy === null ? [] : indented(`What to do: ${assistance.remedy}`, width, '  ')),
    ...hardware.groups.flatMap((group) => groupLines(group, session, isExplaining)),
  ];
  lines.push('', style.bold('Devices with SR-IOV'));
  if (sriovDevices.length === 0) lines.push('  none');
  else {
    const columns: Column<(typeof sriovDevices)[number]>[] = [
      { header: 'ADDRESS', value: ({ address }) => address },
      { header: 'DEVICE', value: ({ id }) => id },
      { header: 'LINKS', value: ({ links }) => links.join(', ') },
      { header: 'DRIVER', value: ({ driver }) => driver ?? '' },
      { header: 'FUNCTIONS', value: (one) => `${one.functions} of ${one.functionsMax}`, side: 'right' },
      {
        header: 'IOMMU GROUP',
        value: ({ iommuGroup }) => (iommuGroup === null ? '' : String(iommuGroup)),
        side: 'right',
      },
      { header: 'NUMA NODE', value: ({ numaNode }) => (numaNode === null ? '' : String(numaNode)), side: 'right' },
    ];
    lines.push(...renderTable(columns, sriovDevices, { width: null, style }).map((line) => `  ${line}`));
  }
  if (!isExplaining)
    lines.push('', style.dim('--explain tells what each of these does for a guest, and where it was read.'));
  return lines;
}

const paints: Readonly<Record<NodeCheck['result'], (text: string, style: Style) => string>> = {
  pass: (text, style) => style.green(text),
  note: (text, style) => style.dim(text),
  warn: (text, style) => style.yellow(text),
  fail: (text, style) => style.red(text),
};

function checkLines(checks: readonly NodeCheck[], session: Session): string[] {
  const { style } = session.terminal;
  const width = session.terminal.width ?? defaultWidth;
  const lines = checks.flatMap(({ title, result, reason, remedy }) => [
    `${paints[result](result, style)}  ${style.bold(title)}`,
    ...indented(reason, width, '      '),
    ...(remedy === null || result === 'pass' ? [] : indented(`→ ${remedy}`, width, '      ')),
  ]);
  const count = (result: NodeCheck['result']): number => checks.filter((check) => check.result === result).length;
  lines.push('', `${count('pass')} passed, ${count('note')} noted, ${count('warn')} warned, ${count('fail')} failed`);
  return lines;
}

/** The verbs of `lodge node` that look at the machine. */
export function addNodeHardwareVerbs(node: Command): void {
  verb(node, 'hardware [node]', 'Show what the machine can do for guests: VT-x or AMD-V, IOMMU, weaknesses', {
    formats: documentFormats,
    examples: [
      ['lodge node hardware', 'what is there, and whether the kernel uses it'],
      ['lodge node hardware --explain', 'with what each does for a guest, and the register it was read from'],
    ],
  })
    .option('--explain', 'say what each ability does for a guest, and where it was read')
    .action(
      withDaemon<[name: string | undefined], { explain?: boolean }>(async (session, options, name) => {
        const hardware = await session.client.node.hardware({ params: { node: name ?? 'self' } });
        await printDocument(session, hardware, () => hardwareLines(hardware, session, options.explain === true));
      }),
    );

  verb(node, 'check [node]', 'Check whether a machine is fit to run guests, and say what to do', {
    description:
      'Look at everything that guests need of a machine, and say of each whether it is as it should be, and if not, why and which command changes it. Nothing is changed. The exit code is 1 when a check failed; warnings and notes leave it at 0.',
    formats: documentFormats,
    examples: [
      ['lodge node check', 'the node that answers'],
      ['lodge node check -o json | jq \'.checks[] | select(.result != "pass")\'', 'what is not as it should be'],
    ],
  }).action(
    withDaemon<[name: string | undefined], object>(async (session, _options, name) => {
      const checks = await session.client.node.check({ params: { node: name ?? 'self' } });
      await printDocument(session, checks, () => checkLines(checks.checks, session));
      if (checks.result === 'fail') throw new AlreadyPrinted(exitCodes.failed.code);
    }),
  );
}
