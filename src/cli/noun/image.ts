// lodge image: what disks and VMs are made from.
import type { Command } from 'commander';
import type * as z from 'zod';
import { imageRecipe, importFormat, type Image, type ImageSpec } from '../../api/image.ts';
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
import { usageError } from '../usage-error.ts';

export const imagePrintable: Printable<Image> = {
  kind: 'Image',
  name: (image) => image.name,
  columns: [
    { header: 'NAME', value: (image) => image.name, minWidth: 12 },
    {
      header: 'STATE',
      value: (image) => image.status.state,
      color: (text, image, style) => colorState(text, image.status.state, style),
    },
    { header: 'KIND', value: (image) => image.status.kind ?? '' },
    { header: 'BOOTS BY', value: (image) => image.status.firmware.join(',') },
    {
      header: 'DISK SIZE',
      value: (image) => (image.status.virtualSizeMib === null ? '' : formatMib(image.status.virtualSizeMib)),
      side: 'right',
    },
    {
      header: 'ON NODE',
      value: (image) => (image.status.sizeBytes === null ? '' : formatBytes(image.status.sizeBytes)),
      side: 'right',
    },
    { header: 'USED BY', value: (image) => usersText(image.status.usedBy), minWidth: 8 },
    ageColumn(),
    { header: 'SOURCE', value: (image) => sourceText(image.spec), isWide: true, minWidth: 12 },
    { header: 'VERSION', value: (image) => image.status.version ?? '', isWide: true },
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchImages: FetchPage<Image> = (client, query) => client.image.list({ query });

function usersText(names: readonly string[]): string {
  return names.length > 3 ? `${names.slice(0, 2).join(',')} and ${names.length - 2} more` : names.join(',');
}

function sourceText(spec: ImageSpec): string {
  const { source } = spec;
  switch (source.type) {
    case 'build':
      return `built here: ${source.recipe}`;
    case 'url':
      return source.url;
    case 'file':
      return `file ${source.path}`;
    case 'upload':
      return 'uploaded';
  }
}

function imageDetails(image: Image, session: Session): string[] {
  const { status, spec } = image;
  const { style } = session.terminal;
  const state = painted(status.state, (text) => colorState(text, status.state, style));
  return renderDetails(
    [
      ['Name', image.name],
      ['Project', image.project],
      ['State', state],
      ['Reason', status.reason],
      ['Description', spec.description],
      ['Source', sourceText(spec)],
      ['Version', status.version],
      ['Kind', status.kind],
      ['Boots by', status.firmware.join(', ')],
      ['Operating system', spec.os],
      ['Disk size', status.virtualSizeMib === null ? null : formatMib(status.virtualSizeMib)],
      [
        'Takes on node',
        status.sizeBytes === null
          ? null
          : `${formatBytes(status.sizeBytes)}${status.format === null ? '' : ` (${status.format})`}`,
      ],
      ['Needs memory', status.minMemoryMib > 0 ? `at least ${formatMib(status.minMemoryMib)}` : null],
      ['Guest agent', status.hasAgent ? 'installed' : 'not known to be installed'],
      ['cloud-init', status.hasCloudInit ? 'installed' : 'not known to be installed'],
      ['Checksum', status.checksum],
      ['Used by', status.usedBy.join(', ') || 'nothing'],
      ['Labels', labelsText(image.labels)],
      ['Created', momentOf(image.createdAt)],
      ['Id', image.id],
    ],
    session.terminal,
  );
}

export interface CreateOptions {
  name?: string;
  label?: string[];
  checksum?: string;
  description?: string;
  format?: string;
  os?: ImageSpec['os'];
  minMemory?: number;
  upload?: boolean;
  wait: boolean;
}

export async function getImage(session: Session, name: string): Promise<Image> {
  return withSuggestion(session, name, fetchImages, () =>
    session.client.image.get({ params: { image: name }, query: { project: session.project } }),
  );
}

/**
 * Brings an image in: an address by the node, a file of the node's machine by the node too, any other from here. `done`: how
 * that is told; empty: not at all.
 */
export async function importImage(
  session: Session,
  name: string,
  source: string,
  options: CreateOptions,
  done = 'imported',
): Promise<void> {
  if (/^https?:\/\//i.test(source)) {
    await createImage(
      session,
      name,
      { type: 'url', url: source, checksum: options.checksum, format: formatOf(options.format) },
      options,
      done,
    );
  } else if (source.startsWith('/') && session.isLocal && options.upload !== true) {
    await createImage(
      session,
      name,
      { type: 'file', path: source, checksum: options.checksum, format: formatOf(options.format) },
      options,
      done,
    );
  } else {
    const { openUpload } = await import('../upload.ts');
    await using upload = await openUpload(source);
    await createImage(
      session,
      name,
      { type: 'upload', checksum: options.checksum, format: formatOf(options.format) },
      { ...options, wait: true },
      '',
    );
    await upload.send(session, name);
  }
}

/** `lodge image` and its verbs. */
export function imageNoun(): Command {
  const image = noun('image', 'Images that disks and VMs are made from');

  listVerb(image, {
    kind: 'image',
    noun: 'image',
    plural: 'images',
    printable: imagePrintable,
    fetch: fetchImages,
    projectOf: (one) => one.project,
    empty: 'Build one: lodge image build debian-12',
    examples: [
      ['lodge image list', 'all images'],
      ['lodge image list --filter status.state!=ready', 'those that are not ready'],
    ],
  });
  showVerb(image, {
    noun: 'image',
    printable: imagePrintable,
    get: getImage,
    details: imageDetails,
    examples: [
      ['lodge image show debian-12', 'how it boots, where it comes from, what uses it'],
      ['lodge image show debian-12 -o yaml', 'as lodge apply takes it'],
    ],
  });

  verb(image, 'build <recipe>', 'Build an image on the node from the distribution’s packages', {
    formats: objectFormats,
    description: `Build an image on the node from the distribution’s packages. Recipes: ${imageRecipe.options.join(', ')}.`,
    examples: [
      ['lodge image build debian-12', 'a Debian 12 with cloud-init, guest agent and ssh'],
      ['lodge image build tiny --name test --no-wait', 'the small test guest under another name, without waiting'],
    ],
  })
    .option('--name <name>', 'name of the image (default: the recipe’s)')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .option('--no-wait', 'do not wait until it is built')
    .action(
      withDaemon<[recipe: string], CreateOptions>(async (session, options, recipe) => {
        const known = imageRecipe.safeParse(recipe);
        if (!known.success) {
          throw usageError(`there is no recipe ${JSON.stringify(recipe.slice(0, 60))}`, {
            hint: `Recipes: ${imageRecipe.options.join(', ')}. Other images are brought in with lodge image import.`,
          });
        }
        await createImage(session, options.name ?? recipe, { type: 'build', recipe: known.data }, options, 'built');
      }),
    );

  verb(image, 'import <name> <source>', 'Import an image from an address or a file', {
    formats: objectFormats,
    description:
      'Import an image: qcow2, raw, vmdk, vdi, vhdx, vpc or ISO, also compressed with gzip, xz or zstd. An http(s) address is downloaded by the node. An absolute path is copied by the node when the daemon is on this machine; any other file is uploaded from here.',
    examples: [
      [
        'lodge image import alpine https://example.org/alpine.qcow2 --checksum sha256:9f86…',
        'from an address, checked',
      ],
      ['lodge image import win11 ./win11.iso --os windows', 'a file of this machine'],
    ],
  })
    .option('--checksum <checksum>', 'sha256:… or sha512:… of the source; refused when it differs')
    .option('--format <format>', 'what the source is, where its content does not tell: raw')
    .option('--os <kind>', 'operating system in it: linux, windows, bsd or other', 'linux')
    .option(
      '--min-memory <size>',
      'memory that a VM of it needs at least',
      parsedBy((text) => parseMib(text, 'MiB')),
    )
    .option('--description <text>', 'what it is')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .option('--upload', 'send the file from here, also where the node could read it itself')
    .option('--no-wait', 'do not wait until it is imported; an upload is always waited for')
    .action(
      withDaemon<[name: string, source: string], CreateOptions>(async (session, options, name, source) => {
        await importImage(session, name, source, options);
      }),
    );

  verb(image, 'upload <image> <file>', 'Send the content of an image whose upload did not come to its end', {
    examples: [['lodge image upload win11 ./win11.iso', 'try again after a broken connection']],
  }).action(
    withDaemon<[name: string, file: string], object>(async (session, _options, name, file) => {
      const { openUpload } = await import('../upload.ts');
      await using upload = await openUpload(file);
      await upload.send(session, name);
    }),
  );

  verb(image, 'delete <image...>', 'Delete images that nothing uses', {
    aliases: ['rm'],
    examples: [['lodge image delete old-debian --yes', 'without being asked']],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { yes?: boolean }>(async (session, options, names) => {
        await confirm(
          session,
          `Delete ${names.length === 1 ? `image ${names[0]}` : `${names.length} images`}?`,
          options.yes === true,
        );
        return deleteEach(session, 'image', names, (one) =>
          session.client.image.delete({ params: { image: one }, query: { project: session.project } }),
        );
      }),
    );
  return image;
}

/** Checks the name of a format. */
function formatOf(text: string | undefined): z.output<typeof importFormat> | undefined {
  if (text === undefined) return undefined;
  const known = importFormat.safeParse(text);
  if (!known.success) throw usageError(`--format: ${text} is none of ${importFormat.options.join(', ')}`);
  return known.data;
}

async function createImage(
  session: Session,
  name: string,
  source: ImageSpec['source'],
  options: CreateOptions,
  done: string,
): Promise<void> {
  const task = await session.client.image.create({
    body: {
      name,
      project: session.project,
      labels: parseLabels(options.label),
      spec: { source, os: options.os, minMemoryMib: options.minMemory, description: options.description },
    },
  });
  if (!options.wait) {
    session.terminal.line(`Image ${name} is being made (task ${task.id}).`);
    session.terminal.note(`Follow it: lodge task wait ${task.id}`);
    return;
  }
  const word = { build: 'build', url: 'import', file: 'import', upload: 'prepare' }[source.type];
  await followTask(session, task, `${word} image ${name}`);
  if (done === '') return;
  const made = await getImage(session, name);
  await printOne(session, imagePrintable, made, () => [`Image ${name} is ${done}: ${made.status.state}.`]);
}
