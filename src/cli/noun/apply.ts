// lodge apply and lodge delete: objects as files describe them.
import { Command } from 'commander';
import { collected, documentFormats, verb, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { ApplyOptions } from '../apply/run.ts';
import { usageError } from '../usage-error.ts';

interface FileOptions {
  file?: string[];
}

/** `lodge apply`. */
export function applyCommand(): Command {
  return verb(new Command('lodge'), 'apply', 'Make objects as files describe them', {
    formats: documentFormats,
    description:
      'Make objects as files describe them: what is missing is created, what differs is changed, what is as it should be is left alone, so that it can be repeated. Files are YAML or JSON with one or several documents of kind AddressSet, SecurityGroup, Network, Image, Volume, Profile, InstanceType, Vm or Template. Everything is checked before anything is changed; then address sets, security groups and networks come first, images, volumes, profiles, instance types, VMs and templates (vm: NAME beside the spec says of what) after them. A file is the whole spec of its object: what it leaves out gets its default (a VM’s: what its profiles and instance type give), except that labels, the size of a volume and the prefix of a network stay. The fields id, revision, createdAt and status of an export are ignored.',
    examples: [
      ['lodge apply -f site.yaml --dry-run', 'show what would change'],
      ['lodge apply -f site.yaml', 'do it; a second run says unchanged'],
      ['lodge vm show web1 -o yaml | lodge apply -f -', 'changes nothing'],
      ['lodge apply -f network.yaml -f vms.yaml --start', 'several files; new VMs are started'],
      ['lodge apply -f site.yaml --dry-run --exit-code || echo differs', 'in a check'],
    ],
  })
    .option('-f, --file <path>', 'file, or - for standard input; may be given several times', collected)
    .option('--dry-run', 'show what would be done, field by field, and do nothing')
    .option('--exit-code', 'with --dry-run: end with 8 when something would be changed')
    .option('--start', 'start the VMs that are created')
    .action(
      withDaemon<[], FileOptions & ApplyOptions>(async (session, options) => {
        const manifests = await manifestsOf(options, session.project);
        if (options.exitCode === true && options.dryRun !== true) {
          throw usageError('--exit-code is for --dry-run', { hint: 'Add --dry-run.' });
        }
        const { applyManifests } = await import('../apply/run.ts');
        return applyManifests(session, manifests, options);
      }),
    );
}

/** `lodge delete`. */
export function deleteCommand(): Command {
  return verb(new Command('lodge'), 'delete', 'Delete the objects that files describe', {
    description:
      'Delete the objects that files describe, templates, groups and VMs first, then instance types, profiles, volumes, images and networks. What is not there any more is fine. Only kind, name and project count.',
    examples: [
      ['lodge delete -f site.yaml', 'asks first'],
      ['lodge delete -f site.yaml --force --yes', 'running VMs are switched off, nobody is asked'],
    ],
  })
    .option('-f, --file <path>', 'file, or - for standard input; may be given several times', collected)
    .option('--force', 'switch running VMs off first')
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[], FileOptions & { force?: boolean; yes?: boolean }>(async (session, options) => {
        const manifests = await manifestsOf(options, session.project);
        const names = manifests.map(({ kind, name }) => `${kind} ${name}`);
        await confirm(session, `Delete ${names.join(', ')} with all data?`, options.yes === true);
        const { deleteManifests } = await import('../apply/run.ts');
        return deleteManifests(session, manifests, options.force === true);
      }),
    );
}

async function manifestsOf(options: FileOptions, project: string) {
  if (options.file === undefined) {
    throw usageError('no file is given', {
      hint: 'Give one or several with -f, or -f - for standard input.',
    });
  }
  const { parseManifests, readSources } = await import('../apply/manifest.ts');
  return parseManifests(await readSources(options.file), project);
}
