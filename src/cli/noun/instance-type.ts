// lodge instance-type: named sizes of VMs.
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import type { InstanceType } from '../../api/instance-type.ts';
import { formatMib, parseMib } from '../../lib/quantity.ts';
import { collected, noun, objectFormats, parsedBy, verb, wholeNumber, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { parseLabels } from '../labels.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { printOne, type Printable } from '../output/print.ts';
import { renderDetails } from '../output/table.ts';
import { ageColumn, idColumn, labelsColumn, labelsText, momentOf, sizeText } from '../view.ts';
import { addSourceVerbs } from './source-verbs.ts';

export const instanceTypePrintable: Printable<InstanceType> = {
  kind: 'InstanceType',
  name: (type) => type.name,
  columns: [
    { header: 'NAME', value: (type) => type.name, minWidth: 12 },
    { header: 'CPUS', value: (type) => String(type.spec.cpu.count), side: 'right' },
    { header: 'MEMORY', value: (type) => formatMib(type.spec.memoryMib), side: 'right' },
    { header: 'PROJECT', value: (type) => type.project },
    { header: 'VMS', value: (type) => String(type.status.usedBy.length), side: 'right' },
    { header: 'OUTDATED', value: (type) => String(type.status.outdated.length), side: 'right' },
    ageColumn(),
    { header: 'DESCRIPTION', value: (type) => type.spec.description, isWide: true, minWidth: 12 },
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchInstanceTypes: FetchPage<InstanceType> = (client, query) => client.instanceType.list({ query });

function getInstanceType(session: Session, name: string): Promise<InstanceType> {
  return withSuggestion(session, name, fetchInstanceTypes, () =>
    session.client.instanceType.get({ params: { instanceType: name }, query: { project: session.project } }),
  );
}

function details(type: InstanceType, session: Session): string[] {
  const { status, spec } = type;
  const { sockets, coresPerSocket, threadsPerCore, maxCount } = spec.cpu;
  const topology = [
    ...(sockets === undefined ? [] : [`${sockets} sockets`]),
    ...(coresPerSocket === undefined ? [] : [`${coresPerSocket} cores each`]),
    ...(threadsPerCore === undefined ? [] : [`${threadsPerCore} threads a core`]),
  ];
  return renderDetails(
    [
      ['Name', type.name],
      ['Project', `${type.project}${type.project === 'default' ? ', for VMs of every project' : ''}`],
      ['Description', spec.description],
      ['Size', sizeText(spec)],
      ['Topology', topology.join(', ')],
      ['Most vCPUs', maxCount === undefined ? null : String(maxCount)],
      ['Most memory', spec.maxMemoryMib === undefined ? null : formatMib(spec.maxMemoryMib)],
      ['Used by', status.usedBy.join(', ') || 'no VM'],
      [
        'Not taken over by',
        status.outdated.length === 0
          ? null
          : `${status.outdated.join(', ')} (lodge instance-type apply ${type.name} --dry-run)`,
      ],
      ['Labels', labelsText(type.labels)],
      ['Created', momentOf(type.createdAt)],
      ['Id', type.id],
    ],
    session.terminal,
  );
}

interface CreateOptions {
  cpus: number;
  memory: number;
  maxCpus?: number;
  maxMemory?: number;
  description?: string;
  label?: string[];
}

/** `lodge instance-type` and its verbs. */
export function instanceTypeNoun(): Command {
  const type = noun('instance-type', 'Instance types: named sizes of VMs');
  listVerb(type, {
    kind: 'instance-type',
    noun: 'instance type',
    plural: 'instance types',
    printable: instanceTypePrintable,
    fetch: fetchInstanceTypes,
    // Those of the project default are there for all.
    isAcrossProjects: true,
    empty: 'Make one: lodge instance-type create db --cpus 4 --memory 16GiB',
    examples: [
      ['lodge instance-type list', 'all that VMs can be'],
      ['lodge vm create web1 --image debian-12 --type medium', 'a VM of one'],
    ],
  });
  showVerb(type, {
    noun: 'instance-type',
    label: 'instance type',
    printable: instanceTypePrintable,
    get: getInstanceType,
    details,
    examples: [['lodge instance-type show small', 'its size, and the VMs that are of it']],
  });
  const memory = parsedBy((text: string) => parseMib(text, 'MiB'));
  verb(type, 'create <name>', 'Create an instance type', {
    formats: objectFormats,
    description:
      'Create an instance type. One of the project default can be used in every project; another hides it in its own.',
    examples: [
      ['lodge instance-type create db --cpus 4 --memory 16GiB', 'for VMs with much memory'],
      [
        'lodge instance-type create elastic --cpus 2 --memory 4GiB --max-cpus 8 --max-memory 32GiB',
        'with room to grow',
      ],
    ],
  })
    .requiredOption('--cpus <count>', 'vCPUs', wholeNumber(1, 1024))
    .requiredOption('--memory <size>', 'memory, such as 2GiB; a bare number is MiB', memory)
    .option('--max-cpus <count>', 'most vCPUs without a restart', wholeNumber(1, 1024))
    .option('--max-memory <size>', 'most memory without a restart', memory)
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .action(
      withDaemon<[name: string], CreateOptions>(async (session, options, name) => {
        const { cpus, memory: memoryMib, maxCpus, maxMemory, description } = options;
        const made = await session.client.instanceType.create({
          body: {
            name,
            project: session.project,
            labels: parseLabels(options.label),
            spec: { description, cpu: { count: cpus, maxCount: maxCpus }, memoryMib, maxMemoryMib: maxMemory },
          },
          idempotencyKey: randomUUID(),
        });
        await printOne(session, instanceTypePrintable, made, () => [
          `Instance type ${name} is made: ${sizeText(made.spec)}.`,
        ]);
      }),
    );
  addSourceVerbs(type, {
    word: 'instance-type',
    noun: 'instanceType',
    label: 'instance type',
    printable: instanceTypePrintable,
    get: getInstanceType,
    update: (client, name, project, body) =>
      client.instanceType.update({ params: { instanceType: name }, query: { project }, body }),
    delete: (client, name, query) => client.instanceType.delete({ params: { instanceType: name }, query }),
    apply: (client, name, project, body) =>
      client.instanceType.apply({ params: { instanceType: name }, query: { project }, body }),
    isNamedBy: (vm, name) => vm.spec.instanceType === name,
    setExamples: [['lodge instance-type set db cpu.count=8 memoryMib=32GiB', 'another size']],
  });
  return type;
}
