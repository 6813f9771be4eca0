// The verbs of lodge vm that make VMs from a VM: clones and forks, and the tree that comes of it.
import { Option, type Command } from 'commander';
import { maxClones } from '../../api/vm-clone.ts';
import { maxCopies } from '../../api/vm-fork.ts';
import { collected, objectFormats, parsedBy, verb, wholeNumber, withDaemon } from '../command.ts';
import type { CloneOptions } from '../vm/clone.ts';
import { parseMib } from '../../lib/quantity.ts';
import type { ForkOptions } from '../vm/fork.ts';
import type { PrepareOptions } from '../vm/prepare.ts';

function mebibytes(text: string): number {
  return parseMib(text, 'MiB');
}

/** Adds them. */
export function addCopyVerbs(vm: Command): void {
  verb(vm, 'clone <vm> [name]', 'Make new VMs with the disks of a VM', {
    formats: objectFormats,
    description:
      'Make new VMs with the disks of a VM as they are now; it may run, and goes on. Linked clones (the default) are there at once and keep only what they write themselves; --full copies the disks. Each clone gets addresses of its own; its host name, machine id and ssh host keys change at its first boot.',
    examples: [
      ['lodge vm clone web1 web2', 'a linked clone, not started'],
      ['lodge vm clone web1 web2 --full', 'with disks that need nothing of those of web1'],
      ['lodge vm clone web1 --count 20 --start', 'web1-1 to web1-20, all of the same moment, started'],
      ['lodge vm clone web1 web2 --tpm new', 'with a TPM that shares no key with that of web1'],
    ],
  })
    .option('--linked', 'read from the original’s disks what was not written since (this is the default)')
    .option('--full', 'copy the disks')
    .option('-n, --count <number>', 'how many, all or none (default: 1)', wholeNumber(1, maxClones))
    .option('--snapshot <name>', 'of a snapshot of the VM, rather than of what it is now')
    .addOption(
      new Option(
        '--tpm <what>',
        'of a VM with a TPM: copy it, so that what is sealed in it opens (this is the default), or give each a new one',
      ).choices(['copy', 'new']),
    )
    .option('--start', 'start them when they are made')
    .option('--no-wait', 'end as soon as the daemon has taken it on')
    .action(
      withDaemon<[vm: string, name?: string], CloneOptions>(async (session, options, one, name) => {
        const { cloneVm } = await import('../vm/clone.ts');
        await cloneVm(session, options, one, name);
      }),
    );

  verb(vm, 'fork <vm>', 'Make running copies of a running VM', {
    formats: objectFormats,
    description:
      'Make running copies of a running VM: they go on from where it is, and share its memory and disks until they write to them. Each gets a host name, addresses and keys of its own before it is connected; for that a guest agent has to answer. It ends when all copies have them.',
    examples: [
      ['lodge vm fork web1', 'one copy, web1-1'],
      ['lodge vm fork web1 --count 20', 'web1-1 to web1-20, all from the same moment'],
      ['lodge vm fork web1 --name test --isolated', 'one called test, on a network of its own'],
      ['lodge vm delete --force $(lodge vm fork web1 --count 5 -o name)', 'and away with them'],
    ],
  })
    .option('--count <count>', 'how many (default: 1)', wholeNumber(1, maxCopies))
    .option('--name <name>', 'name of a single copy, or what the numbers follow (default: the VM’s name)')
    .option('--isolated', 'on new networks of their own, apart from those of the VM')
    .option('--no-wait', 'end as soon as the daemon has taken it on')
    .action(
      withDaemon<[name: string], ForkOptions>(async (session, options, name) => {
        const { forkVm } = await import('../vm/fork.ts');
        await forkVm(session, options, name);
      }),
    );

  verb(vm, 'prepare <source>', 'Keep a booted guest of an image or a template, for VMs to start from', {
    description:
      'Boot a VM of an image (or of a template, NAME or NAME@VERSION), save its memory and disks when its agent answers, and delete it. What was saved is a version of a template (lodge template list); lodge vm create --warm goes on from it instead of booting, for VMs with the same hardware. It stays across restarts of the machine; after an upgrade of QEMU it is prepared anew. Preparing again replaces it.',
    examples: [
      ['lodge vm prepare debian-12 --cpus 2 --memory 2GiB', 'from an image'],
      ['lodge vm create web1 --image debian-12 --cpus 2 --memory 2GiB --warm', 'and a VM that starts from it'],
      ['lodge vm prepare base', 'from the newest version of a template'],
      ['lodge template versions debian-12', 'what is kept'],
    ],
  })
    .option('--name <name>', 'template that keeps it (default: the image’s name)')
    .option('--from-image', 'the source is an image, though a template has that name too')
    .option('--type <name>', 'instance type, which says vCPUs and memory (lodge instance-type list)')
    .option(
      '--profile <names>',
      'profiles that it has what it is not given from, with commas; the last counts most (lodge profile list)',
      collected,
    )
    .option('--cpus <count>', 'vCPUs (default: 1)', wholeNumber(1, 1024))
    .option('--memory <size>', 'memory, such as 2GiB; a bare number is MiB (default: 512MiB)', parsedBy(mebibytes))
    .option('--network <network>', 'network, as in lodge vm create; may be given several times', collected)
    .option('--kernel-args <text>', 'added to the kernel command line, for images that boot directly')
    .option('--no-wait', 'end as soon as the daemon has taken it on')
    .action(
      withDaemon<[source: string], PrepareOptions>(async (session, options, source) => {
        const { prepareVm } = await import('../vm/prepare.ts');
        await prepareVm(session, options, source);
      }),
    );

  verb(vm, 'tree [vm]', 'Show which VM was made from which', {
    formats: objectFormats.filter((format) => format !== 'name'),
    examples: [
      ['lodge vm tree', 'all VMs with a family'],
      ['lodge vm tree web1-3', 'the family of one'],
    ],
  }).action(
    withDaemon<[name: string | undefined], object>(async (session, _options, name) => {
      const { showTree } = await import('../vm/fork.ts');
      await showTree(session, name);
    }),
  );
}
