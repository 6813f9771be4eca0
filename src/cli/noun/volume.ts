// lodge volume: disks that guests write to.
import type { Command } from 'commander';
import { invalidField } from '../../api/errors.ts';
import type { Volume } from '../../api/volume.ts';
import { formatBytes, formatMib, parseMib } from '../../lib/quantity.ts';
import { collected, noun, objectFormats, parsedBy, verb, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { deleteEach } from '../delete-each.ts';
import { parseLabels } from '../labels.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { followTask } from '../output/follow.ts';
import { printOne, type Printable } from '../output/print.ts';
import { painted, renderDetails } from '../output/table.ts';
import { ageColumn, colorState, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';

export const volumePrintable: Printable<Volume> = {
  kind: 'Volume',
  name: (volume) => volume.name,
  columns: [
    { header: 'NAME', value: (volume) => volume.name, minWidth: 12 },
    {
      header: 'STATE',
      value: (volume) => volume.status.state,
      color: (text, volume, style) => colorState(text, volume.status.state, style),
    },
    { header: 'SIZE', value: (volume) => mibText(volume.status.virtualSizeMib ?? volume.spec.sizeMib), side: 'right' },
    {
      header: 'ALLOCATED',
      value: (volume) => (volume.status.allocatedBytes === null ? '' : formatBytes(volume.status.allocatedBytes)),
      side: 'right',
    },
    { header: 'FORMAT', value: (volume) => volume.spec.format, isWide: true },
    { header: 'IMAGE', value: (volume) => volume.spec.image ?? '', minWidth: 8 },
    { header: 'USED BY', value: (volume) => volume.status.usedBy?.name ?? '', minWidth: 8 },
    { header: 'LIVES WITH VM', value: (volume) => (volume.status.isOwnedByVm ? 'yes' : 'no'), isWide: true },
    ageColumn(),
    { header: 'NODE', value: (volume) => volume.status.node ?? '', isWide: true },
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchVolumes: FetchPage<Volume> = (client, query) => client.volume.list({ query });

function mibText(mib: number | null | undefined): string {
  return mib === null || mib === undefined ? '' : formatMib(mib);
}

function volumeDetails(volume: Volume, session: Session): string[] {
  const { status, spec } = volume;
  const { style } = session.terminal;
  return renderDetails(
    [
      ['Name', volume.name],
      ['Project', volume.project],
      ['State', painted(status.state, (text) => colorState(text, status.state, style))],
      ['Reason', status.reason],
      ['Description', spec.description],
      ['Size', mibText(status.virtualSizeMib ?? spec.sizeMib)],
      ['Takes on node', status.allocatedBytes === null ? null : formatBytes(status.allocatedBytes)],
      ['Format', spec.format],
      ['Image', spec.image],
      ['Used by', status.usedBy?.name ?? 'nothing'],
      ['Lifetime', status.isOwnedByVm ? 'made with its VM and deleted with it' : 'until it is deleted'],
      ['Node', status.node],
      ['Labels', labelsText(volume.labels)],
      ['Created', momentOf(volume.createdAt)],
      ['Id', volume.id],
    ],
    session.terminal,
  );
}

export async function getVolume(session: Session, name: string): Promise<Volume> {
  return withSuggestion(session, name, fetchVolumes, () =>
    session.client.volume.get({ params: { volume: name }, query: { project: session.project } }),
  );
}

interface CreateOptions {
  size?: number;
  image?: string;
  format?: 'qcow2' | 'raw';
  description?: string;
  label?: string[];
  wait: boolean;
}

/** `lodge volume` and its verbs. */
export function volumeNoun(): Command {
  const volume = noun('volume', 'Disks that guests write to');
  const size = parsedBy((text) => parseMib(text, 'GiB'));

  listVerb(volume, {
    kind: 'volume',
    noun: 'volume',
    plural: 'volumes',
    printable: volumePrintable,
    fetch: fetchVolumes,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge volume create data --size 20GiB',
    examples: [
      ['lodge volume list -o wide', 'with format, lifetime and labels'],
      ['lodge volume list --filter !status.usedBy', 'those that nothing uses'],
    ],
  });
  showVerb(volume, {
    noun: 'volume',
    printable: volumePrintable,
    get: getVolume,
    details: volumeDetails,
    examples: [['lodge volume show data', 'its size, what it takes, and what uses it']],
  });

  verb(volume, 'create <name>', 'Create a volume', {
    formats: objectFormats,
    examples: [
      ['lodge volume create data --size 100GiB', 'a blank disk of 100 GiB'],
      ['lodge volume create root2 --image debian-12 --size 40GiB', 'a copy-on-write copy of an image'],
    ],
  })
    .option('--size <size>', 'size, such as 20GiB; a bare number is GiB', size)
    .option('--image <name>', 'image it is a copy-on-write copy of (without it: blank)')
    .option('--format <format>', 'qcow2 or raw', 'qcow2')
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .option('--no-wait', 'do not wait until it is there')
    .action(
      withDaemon<[name: string], CreateOptions>(async (session, options, name) => {
        const task = await session.client.volume.create({
          body: {
            name,
            project: session.project,
            labels: parseLabels(options.label),
            spec: {
              sizeMib: options.size,
              image: options.image,
              format: options.format,
              description: options.description,
            },
          },
        });
        if (!options.wait) {
          session.terminal.line(`Volume ${name} is being made (task ${task.id}).`);
          return;
        }
        await followTask(session, task, `create volume ${name}`);
        const made = await getVolume(session, name);
        await printOne(session, volumePrintable, made, () => [
          `Volume ${name} is made: ${mibText(made.status.virtualSizeMib ?? made.spec.sizeMib)}.`,
        ]);
      }),
    );

  verb(volume, 'resize <volume> <size>', 'Grow a volume', {
    formats: objectFormats,
    description: 'Grow a volume. Volumes can not shrink. A leading "+" adds to the present size.',
    examples: [
      ['lodge volume resize data 200GiB', 'to 200 GiB'],
      ['lodge volume resize data +20GiB', 'by 20 GiB'],
    ],
  }).action(
    withDaemon<[name: string, text: string], object>(async (session, _options, name, text) => {
      const before = await getVolume(session, name);
      const present = before.status.virtualSizeMib ?? before.spec.sizeMib ?? 0;
      let wanted: number;
      try {
        wanted = text.startsWith('+') ? present + parseMib(text.slice(1), 'GiB') : parseMib(text, 'GiB');
      } catch (failure) {
        throw invalidField('size', failure instanceof Error ? failure.message : String(failure));
      }
      const after = await session.client.volume.update({
        params: { volume: name },
        query: { project: session.project },
        body: { revision: before.revision, spec: { ...before.spec, sizeMib: wanted } },
      });
      await printOne(session, volumePrintable, after, () => [
        `Volume ${name} is ${mibText(after.status.virtualSizeMib ?? after.spec.sizeMib)}, was ${formatMib(present)}.`,
      ]);
    }),
  );

  verb(volume, 'delete <volume...>', 'Delete volumes that no VM uses', {
    aliases: ['rm'],
    description: 'Delete volumes that no VM uses, with all that is on them.',
    examples: [['lodge volume delete data --yes', 'without being asked']],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { yes?: boolean }>(async (session, options, names) => {
        const what = names.length === 1 ? `volume ${names[0]}` : `${names.length} volumes`;
        await confirm(session, `Delete ${what} and all data on it?`, options.yes === true);
        return deleteEach(session, 'volume', names, (one) =>
          session.client.volume.delete({ params: { volume: one }, query: { project: session.project } }),
        );
      }),
    );
  return volume;
}
