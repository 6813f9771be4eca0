// lodge snapshot: a VM as it was in one moment, to go back to.
import { Option, type Command } from 'commander';
import type { Snapshot } from '../../api/snapshot.ts';
import { formatBytes } from '../../lib/quantity.ts';
import { collected, listFormats, noun, objectFormats, verb, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { parseLabels } from '../labels.ts';
import { collect, withSuggestion, type ListRequest, type Page } from '../list.ts';
import { followTask } from '../output/follow.ts';
import { printList, printOne, type Printable } from '../output/print.ts';
import { painted, renderDetails } from '../output/table.ts';
import { ageColumn, colorState, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';
import { usageError } from '../usage-error.ts';
import { selecting, type ManyOptions } from '../vm/many.ts';
import { fetchVms } from '../vm/view.ts';

const snapshotPrintable: Printable<Snapshot> = {
  kind: 'Snapshot',
  name: (one) => one.name,
  columns: [
    { header: 'NAME', value: (one) => one.name, minWidth: 12 },
    { header: 'CURRENT', value: (one) => (one.status.isCurrent ? '*' : '') },
    {
      header: 'STATE',
      value: (one) => one.status.state,
      color: (text, one, style) => colorState(text, one.status.state, style),
    },
    { header: 'CONSISTENCY', value: (one) => one.status.consistency ?? '' },
    { header: 'SIZE', value: (one) => sizeText(one), side: 'right' },
    { header: 'DEPTH', value: (one) => String(one.status.depth), side: 'right' },
    { header: 'DESCRIPTION', value: (one) => one.spec.description, isWide: true, minWidth: 12 },
    ageColumn(),
    labelsColumn(),
    idColumn(),
  ],
};

function sizeText({ status }: Snapshot): string {
  return status.sizeBytes === null ? '' : formatBytes(status.sizeBytes);
}

async function snapshotsOf(session: Session, vm: string): Promise<Snapshot[]> {
  const fetch = (query: ListRequest): Promise<Page<Snapshot>> =>
    session.client.snapshot.list({ params: { vm }, query: { ...query, project: session.project } });
  return withSuggestion(session, vm, fetchVms, () => collect(fetch, { sort: 'createdAt' }));
}

function getSnapshot(session: Session, vm: string, snapshot: string): Promise<Snapshot> {
  return session.client.snapshot.get({ params: { vm, snapshot }, query: { project: session.project } });
}

function details(one: Snapshot, session: Session): string[] {
  const { status, spec } = one;
  const { style } = session.terminal;
  return renderDetails(
    [
      ['Name', one.name],
      ['VM', status.vm],
      ['State', painted(status.state, (text) => colorState(text, status.state, style))],
      ['Current', status.isCurrent ? 'yes: the VM goes on from it' : 'no'],
      ['Taken', momentOf(status.takenAt)],
      ['Consistency', status.consistency === null ? null : `${status.consistency}: ${status.consistencyReason}`],
      ['Guest stood still', status.pauseMs === null ? null : `${Math.round(status.pauseMs)} ms`],
      ['Memory', status.memoryBytes === null ? 'not saved' : formatBytes(status.memoryBytes)],
      ...status.disks.map((disk): [string, string] => [
        `Disk ${disk.name}`,
        disk.sizeBytes === null ? '' : formatBytes(disk.sizeBytes),
      ]),
      ['Size', sizeText(one)],
      ['Layers', String(status.depth)],
      ['Warning', status.warning === null ? null : painted(status.warning, (text) => style.yellow(text))],
      ['Description', spec.description],
      ['Labels', labelsText(one.labels)],
      ['Id', one.id],
    ],
    session.terminal,
  );
}

/** The snapshots as a tree, with the place of the VM in it. */
export function treeLines(vm: string, snapshots: readonly Snapshot[]): string[] {
  const lines: string[] = [vm];
  const known = new Set(snapshots.map(({ id }) => id));
  const add = (parentId: string | null, indent: string): void => {
    const children = snapshots.filter(({ status }) =>
      parentId === null ? status.parentId === null || !known.has(status.parentId) : status.parentId === parentId,
    );
    for (const [index, one] of children.entries()) {
      const isLast = index === children.length - 1;
      const notes = [sizeText(one), one.status.memoryBytes === null ? '' : 'with memory', one.spec.description];
      const current = one.status.isCurrent ? '  ◀ the VM goes on from here' : '';
      lines.push(`${indent}${isLast ? '└─ ' : '├─ '}${one.name}  ${notes.filter(Boolean).join(', ')}${current}`);
      add(one.id, `${indent}${isLast ? '   ' : '│  '}`);
    }
  };
  add(null, '');
  return lines;
}

interface CreateOptions extends ManyOptions {
  memory?: boolean;
  quiesce: 'auto' | 'never' | 'required';
  description?: string;
  label?: string[];
  wait: boolean;
}

interface RevertOptions {
  force?: boolean;
  start?: boolean;
  snapshotFirst?: string | true;
  yes?: boolean;
}

/** `lodge snapshot` and its verbs. */
export function snapshotNoun(): Command {
  const snapshot = noun('snapshot', 'VMs as they were in one moment, to go back to');
  addLookVerbs(snapshot);
  addCreate(snapshot);
  addRevert(snapshot);
  addDelete(snapshot);
  return snapshot;
}

function addLookVerbs(snapshot: Command): void {
  verb(snapshot, 'list <vm>', 'List the snapshots of a VM', {
    aliases: ['ls'],
    formats: listFormats,
    examples: [
      ['lodge snapshot list web1', 'with size and depth, oldest first'],
      ['lodge snapshot list web1 --watch', 'as they are taken, merged and deleted'],
    ],
  })
    .option('-w, --watch', 'go on showing it as it changes, until Ctrl-C; not on a terminal, a line a change')
    .action(
      withDaemon<[vm: string], { watch?: boolean }>(async (session, options, vm) => {
        const empty = `VM ${vm} has no snapshots. Take one: lodge snapshot create ${vm} before-upgrade`;
        const read = (): Promise<Snapshot[]> => snapshotsOf(session, vm);
        if (options.watch === true) {
          await read();
          const { watchList } = await import('../watch-list.ts');
          await watchList(session, { kind: 'snapshot', printable: snapshotPrintable, read, empty });
          return;
        }
        await printList(session, snapshotPrintable, await read(), empty);
      }),
    );
  verb(snapshot, 'tree <vm>', 'Show the snapshots of a VM as a tree', {
    examples: [['lodge snapshot tree web1', 'which was taken after which, and where the VM is']],
  }).action(
    withDaemon<[vm: string], object>(async (session, _options, vm) => {
      for (const line of treeLines(vm, await snapshotsOf(session, vm))) session.terminal.line(line);
    }),
  );
  verb(snapshot, 'show <vm> <snapshot>', 'Show a snapshot', {
    formats: objectFormats,
    examples: [['lodge snapshot show web1 before-upgrade', 'its consistency with the reason, size, disks']],
  }).action(
    withDaemon<[vm: string, name: string], object>(async (session, _options, vm, name) => {
      const one = await getSnapshot(session, vm, name);
      await printOne(session, snapshotPrintable, one, () => details(one, session));
    }),
  );
}

function addCreate(snapshot: Command): void {
  selecting(
    verb(snapshot, 'create [vm] [name]', 'Take a snapshot of a VM, or of many', {
      usage: '[options] <vm> <name>',
      formats: objectFormats,
      description:
        'Take a snapshot of all disks of a VM in one moment. The VM goes on. Where an agent answers in the guest, its file systems are frozen meanwhile. With --selector or --all there is only the name of the snapshot, which each of the VMs gets.',
      examples: [
        ['lodge snapshot create web1 before-upgrade', 'its disks'],
        ['lodge snapshot create web1 demo --memory', 'also its memory: it can go on from there'],
        ['lodge snapshot create -l role=web before-upgrade', 'of all VMs with a label'],
      ],
    }),
  )
    .option('--memory', 'save the memory of the running guest too')
    .addOption(
      new Option('--quiesce <how>', 'freeze file systems by the guest’s agent')
        .choices(['auto', 'never', 'required'])
        .default('auto'),
    )
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .option('--no-wait', 'do not wait until it is taken')
    .action(
      withDaemon<[first: string | undefined, second: string | undefined], CreateOptions>(
        async (session, options, vm, name) => {
          if (options.selector !== undefined || options.all === true) return takeMany(session, options, vm, name);
          if (vm === undefined || name === undefined)
            throw usageError('a snapshot needs its VM and a name', {
              hint: 'Such as lodge snapshot create web1 before-upgrade, or lodge snapshot create -l role=web before-upgrade',
            });
          const one = await takeSnapshot(session, vm, name, options);
          if (!one) return;
          await printOne(session, snapshotPrintable, one, () => [
            `Snapshot ${name} of VM ${vm} is taken (${one.status.consistency}): ${one.status.consistencyReason}`,
          ]);
          if (one.status.warning !== null) session.terminal.note(one.status.warning);
        },
      ),
    );
}

/** A snapshot of the same name of each of many VMs. */
async function takeMany(
  session: Session,
  options: CreateOptions,
  name: string | undefined,
  surplus: string | undefined,
): Promise<number> {
  if (name === undefined || surplus !== undefined)
    throw usageError('with --selector or --all, the name of the snapshot is all that is given', {
      hint: 'Such as lodge snapshot create -l role=web before-upgrade',
    });
  if (options.label !== undefined) throw usageError('--label is for the snapshot of one VM');
  const { actOnMany } = await import('../vm/many.ts');
  const { memory, quiesce, description } = options;
  const action = { type: 'snapshot' as const, name, description, withMemory: memory === true, quiesce };
  return actOnMany(session, [], options, action, { verb: 'take a snapshot', done: `has the snapshot ${name}` });
}

async function takeSnapshot(
  session: Session,
  vm: string,
  name: string,
  options: Pick<CreateOptions, 'memory' | 'quiesce' | 'description' | 'label' | 'wait'>,
): Promise<Snapshot | null> {
  const task = await withSuggestion(session, vm, fetchVms, () =>
    session.client.snapshot.create({
      params: { vm },
      query: { project: session.project },
      body: {
        name,
        withMemory: options.memory === true,
        quiesce: options.quiesce,
        labels: parseLabels(options.label),
        spec: { description: options.description ?? '' },
      },
    }),
  );
  if (!options.wait) {
    session.terminal.line(`Snapshot ${name} of VM ${vm} is being taken (task ${task.id}).`);
    return null;
  }
  await followTask(session, task, `take snapshot ${name}`);
  return getSnapshot(session, vm, name);
}

function addRevert(snapshot: Command): void {
  verb(snapshot, 'revert <vm> <snapshot>', 'Make a VM go on from a snapshot', {
    description:
      'Make a VM go on from a snapshot: its disks and its spec are those of then. What was written since is lost, unless --snapshot-first keeps it. With memory the guest runs on from that moment.',
    examples: [
      ['lodge snapshot revert web1 before-upgrade', 'of a VM that is off'],
      ['lodge snapshot revert web1 before-upgrade --force --start', 'also one that runs: it is switched off first'],
      ['lodge snapshot revert web1 clean --snapshot-first after-test', 'what there is now is kept as after-test'],
    ],
  })
    .option('--force', 'switch the VM off first if it runs; discard its saved state')
    .option('--start', 'start it afterwards')
    .option('--snapshot-first [name]', 'take a snapshot of what there is now')
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[vm: string, name: string], RevertOptions>(async (session, options, vm, name) => {
        const target = await getSnapshot(session, vm, name);
        const first = options.snapshotFirst;
        if (first === undefined)
          await confirm(session, `Revert VM ${vm} to ${name}? What was written since is lost.`, options.yes === true);
        else {
          const kept = typeof first === 'string' ? first : `before-${name}`.slice(0, 63).replace(/-+$/, '');
          await takeSnapshot(session, vm, kept, { quiesce: 'auto', wait: true });
          session.terminal.note(`What there was is kept as snapshot ${kept}.`);
        }
        const task = await session.client.snapshot.revert({
          params: { vm, snapshot: target.id },
          query: { project: session.project },
          body: { force: options.force === true, start: options.start === true },
        });
        await followTask(session, task, `revert to ${name}`);
        const { status } = await session.client.vm.get({ params: { vm }, query: { project: session.project } });
        session.terminal.line(`VM ${vm} goes on from snapshot ${name}; it is ${status.state}.`);
      }),
    );
}

function addDelete(snapshot: Command): void {
  verb(snapshot, 'delete <vm> <snapshot>', 'Delete a snapshot', {
    aliases: ['rm'],
    description:
      'Delete a snapshot. The VM, which may run, and the snapshots that were taken after it stay as they are; what it kept apart is merged.',
    examples: [
      ['lodge snapshot delete web1 before-upgrade --yes', 'without being asked'],
      ['lodge snapshot delete web1 base --with-children', 'also all that were taken after it'],
    ],
  })
    .option('--with-children', 'delete also all that were taken after it')
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[vm: string, name: string], { withChildren?: boolean; yes?: boolean }>(
        async (session, options, vm, name) => {
          const one = await getSnapshot(session, vm, name);
          const what = options.withChildren ? `snapshot ${name} and all that were taken after it` : `snapshot ${name}`;
          await confirm(session, `Delete ${what} of VM ${vm}?`, options.yes === true);
          const task = await session.client.snapshot.delete({
            params: { vm, snapshot: one.id },
            query: { project: session.project, withChildren: options.withChildren === true },
          });
          await followTask(session, task, `delete ${what}`);
          session.terminal.line(`Deleted ${what}.`);
        },
      ),
    );
}
