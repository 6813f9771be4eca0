// Verbs of lodge vm about its devices: disks, NICs, CD-ROMs and the balloon. Each changes the spec, as lodge vm set would,
// and waits until the guest has it.
import type { Command } from 'commander';
import { vmSpec, type VmDiskLimits, type VmSpec } from '../../api/vm-spec.ts';
import { parseBytes, parseMib } from '../../lib/quantity.ts';
import { parseRate } from '../../lib/rate.ts';
import { noun, parsedBy, verb, wholeNumber, withDaemon } from '../command.ts';
import { choicesAt } from '../schema-fields.ts';
import { usageError } from '../usage-error.ts';
import type { ChangeOptions } from '../vm/change.ts';
import type { LimitOptions as NicLimitOptions } from '../vm/nic-limits.ts';

const load = () => import('../vm/change.ts');
const noWait = ['--no-wait', 'do not wait until the guest has it'] as const;
/** More than any disk does a second. */
const maxRate = 1_000_000_000;
const sizeInGib = parsedBy((text: string) => parseMib(text, 'GiB'));
const sizeInMib = parsedBy((text: string) => parseMib(text, 'MiB'));

/** Adds `disk`, `nic`, `cdrom`, `share` and `balloon`. */
export function addDeviceVerbs(vm: Command): void {
  addDiskVerbs(vm);
  addNicVerbs(vm);
  addCdromVerbs(vm);
  addShareVerbs(vm);
  verb(vm, 'balloon <vm> <size>', 'Set what a guest is to make do with; the balloon takes the rest', {
    description:
      'Set what a guest is to make do with (spec.memoryTargetMib): its balloon driver gives the rest back to the node until it is asked for again. "all" lets it have all its memory.',
    examples: [
      ['lodge vm balloon web1 1GiB', 'of 2 GiB'],
      ['lodge vm balloon web1 all', 'everything again'],
    ],
  })
    .option(...noWait)
    .action(
      withDaemon<[name: string, size: string], ChangeOptions>(async (session, options, name, size) => {
        const { changeVm } = await load();
        const target = size === 'all' ? undefined : parseMib(size, 'MiB');
        await changeVm(session, name, options, (spec) => ({ ...spec, memoryTargetMib: target }));
      }),
    );
}

interface DiskOptions extends ChangeOptions {
  size?: number;
  volume?: string;
  image?: string;
  bus?: string;
  readOnly?: boolean;
}

function addDiskVerbs(vm: Command): void {
  const disk = noun('disk', 'Disks of a VM');
  vm.addCommand(disk);
  verb(disk, 'add <vm> <disk>', 'Add a disk, also while the VM runs', {
    examples: [
      ['lodge vm disk add web1 data --size 20GiB', 'a new disk'],
      ['lodge vm disk add web1 data --volume backups', 'an existing volume'],
    ],
  })
    .option('--size <size>', 'size of a new disk: 20GiB', sizeInGib)
    .option('--volume <name>', 'an existing volume')
    .option('--image <name>', 'image that a new disk is a copy of')
    .option('--bus <bus>', `one of ${choicesAt(vmSpec, ['disks', 0, 'bus']).join(', ')}`)
    .option('--read-only', 'the guest can not write to it')
    .option(...noWait)
    .action(
      withDaemon<[name: string, disk: string], DiskOptions>(async (session, options, name, diskName) => {
        const { changeVm } = await load();
        await changeVm(session, name, options, (spec) => {
          if (spec.disks.some((one) => one.name === diskName))
            throw usageError(`VM ${name} has a disk ${diskName} already`);
          const added = {
            name: diskName,
            sizeMib: options.size,
            volume: options.volume,
            image: options.image,
            bus: options.bus as VmSpec['disks'][number]['bus'],
            isReadOnly: options.readOnly === true,
            device: 'disk' as const,
            cache: 'writeback' as const,
          };
          return { ...spec, disks: [...spec.disks, added] };
        });
      }),
    );
  verb(disk, 'remove <vm> <disk>', 'Take a disk out, also while the VM runs', {
    aliases: ['rm'],
    description:
      'Take a disk out, also while the VM runs. What is on it stays: it is a volume of its own then. Refused while the guest says that it is mounted.',
    examples: [['lodge vm disk remove web1 data', 'the volume web1-data stays']],
  })
    .option('-f, --force', 'also when the guest has it mounted')
    .option(...noWait)
    .action(
      withDaemon<[name: string, disk: string], ChangeOptions>(async (session, options, name, diskName) => {
        const { changeVm, diskIndex } = await load();
        await changeVm(session, name, options, (spec) => {
          const index = diskIndex(spec, name, diskName);
          return { ...spec, disks: spec.disks.toSpliced(index, 1) };
        });
      }),
    );
  verb(disk, 'resize <vm> <disk> <size>', 'Make a disk larger, also while the VM runs', {
    description:
      'Make a disk larger, also while the VM runs. The guest sees the size at once; its partitions and file systems are its own to grow.',
    examples: [['lodge vm disk resize web1 data 40GiB', 'never smaller']],
  })
    .option(...noWait)
    .action(
      withDaemon<[name: string, disk: string, size: string], ChangeOptions>(
        async (session, options, name, diskName, size) => {
          const { changeVm, diskIndex } = await load();
          const sizeMib = parseMib(size, 'GiB');
          await changeVm(session, name, options, (spec) => {
            const index = diskIndex(spec, name, diskName);
            const { volume } = spec.disks[index]!;
            if (volume !== undefined)
              throw usageError(`disk ${diskName} of VM ${name} is the volume ${volume}`, {
                hint: `Resize that, while the VM is off: lodge volume set ${volume} sizeMib=${sizeMib}`,
              });
            return { ...spec, disks: spec.disks.with(index, { ...spec.disks[index]!, sizeMib }) };
          });
        },
      ),
    );
  verb(disk, 'limit <vm> <disk>', 'Limit what a disk may do, also while the VM runs', {
    description: 'Limit what a disk may do, also while the VM runs. Without an option, it has no limit any more.',
    examples: [
      ['lodge vm disk limit web1 data --iops 500 --bandwidth 50MiB', 'operations and bytes a second'],
      ['lodge vm disk limit web1 data', 'no limit'],
    ],
  })
    .option('--iops <number>', 'operations a second', wholeNumber(1, maxRate))
    .option('--read-iops <number>', 'read operations a second', wholeNumber(1, maxRate))
    .option('--write-iops <number>', 'write operations a second', wholeNumber(1, maxRate))
    .option('--bandwidth <size>', 'read and written a second: 50MiB', sizeInMib)
    .option('--read-bandwidth <size>', 'read a second', sizeInMib)
    .option('--write-bandwidth <size>', 'written a second', sizeInMib)
    .option(...noWait)
    .action(
      withDaemon<[name: string, disk: string], ChangeOptions & LimitOptions>(
        async (session, options, name, diskName) => {
          const { changeVm, diskIndex } = await load();
          await changeVm(session, name, options, (spec) => {
            const index = diskIndex(spec, name, diskName);
            const limits = limitsFrom(options);
            return { ...spec, disks: spec.disks.with(index, { ...spec.disks[index]!, limits }) };
          });
        },
      ),
    );
}

function addShareVerbs(vm: Command): void {
  const share = noun('share', 'Folders of the node that a VM can mount');
  vm.addCommand(share);
  verb(share, 'add <vm> <folder>', 'Share a folder of the node, from the next start on', {
    description:
      'Share a folder of the node with a VM, from its next start on. The folder is one that the node’s configuration allows (sharedFolders.allowedRoots). lodge vm show prints how the guest mounts it.',
    examples: [
      ['lodge vm share add web1 src=/srv/data,tag=data,ro', 'to be read only'],
      ['lodge vm share add web1 /var/lib/lodge/shared/data', 'its tag is data'],
    ],
  })
    .option(...noWait)
    .action(
      withDaemon<[name: string, folder: string], ChangeOptions>(async (session, options, name, folder) => {
        const [{ changeVm }, { parseShare }] = await Promise.all([load(), import('../vm/create-spec.ts')]);
        const added = parseShare(folder);
        await changeVm(session, name, options, (spec) => {
          if (spec.sharedFolders.some((one) => one.name === added.name))
            throw usageError(`VM ${name} has a shared folder ${added.name} already`, {
              hint: 'Give it another name: tag=NAME.',
            });
          return { ...spec, sharedFolders: [...spec.sharedFolders, { access: 'read-write', ...added }] };
        });
      }),
    );
  verb(share, 'remove <vm> <tag>', 'Share a folder no longer, from the next start on', {
    aliases: ['rm'],
    description: 'Share a folder no longer, from the next start on. What is in it stays.',
    examples: [['lodge vm share remove web1 data', 'by its tag']],
  })
    .option(...noWait)
    .action(
      withDaemon<[name: string, tag: string], ChangeOptions>(async (session, options, name, tag) => {
        const { changeVm } = await load();
        await changeVm(session, name, options, (spec) => {
          const sharedFolders = spec.sharedFolders.filter((one) => one.name !== tag);
          if (sharedFolders.length === spec.sharedFolders.length)
            throw usageError(`VM ${name} has no shared folder ${tag}`, {
              hint:
                spec.sharedFolders.length === 0
                  ? 'It has none.'
                  : `It has ${spec.sharedFolders.map((one) => one.name).join(', ')}.`,
            });
          return { ...spec, sharedFolders };
        });
      }),
    );
}

interface LimitOptions {
  iops?: number;
  readIops?: number;
  writeIops?: number;
  bandwidth?: number;
  readBandwidth?: number;
  writeBandwidth?: number;
}

function limitsFrom(options: LimitOptions): VmDiskLimits | undefined {
  const bytes = (sizeMib: number | undefined): number | undefined =>
    sizeMib === undefined ? undefined : sizeMib * 2 ** 20;
  const given = Object.entries({
    iops: options.iops,
    readIops: options.readIops,
    writeIops: options.writeIops,
    bytesPerSecond: bytes(options.bandwidth),
    readBytesPerSecond: bytes(options.readBandwidth),
    writeBytesPerSecond: bytes(options.writeBandwidth),
  }).filter(([, value]) => value !== undefined);
  return given.length === 0 ? undefined : (Object.fromEntries(given) as VmDiskLimits);
}

function addNicVerbs(vm: Command): void {
  const nic = noun('nic', 'Network interfaces of a VM');
  vm.addCommand(nic);
  verb(nic, 'add <vm> [network]', 'Add a NIC, also while the VM runs', {
    examples: [['lodge vm nic add web1 lab', 'on the network lab']],
  })
    .option('--model <model>', `one of ${choicesAt(vmSpec, ['nics', 0, 'model']).join(', ')}`)
    .option('--mac <address>', 'its address (default: one that Lodge makes)')
    .option('--ip <address>', 'reserved for it in the network’s DHCP')
    .option('--ip6 <address>', 'reserved for it in the network’s DHCPv6')
    .option(...noWait)
    .action(
      withDaemon<[name: string, network: string | undefined], ChangeOptions & Record<string, string | undefined>>(
        async (session, options, name, network) => {
          const { changeVm, keptNics } = await load();
          await changeVm(session, name, options, (spec, before) => {
            const added = {
              network: network ?? 'default',
              model: options['model'] as VmSpec['nics'][number]['model'],
              mac: options['mac']?.toLowerCase(),
              ipv4Address: options['ip'],
              ipv6Address: options['ip6'],
              isConnected: true,
            };
            return { ...spec, nics: [...keptNics(before), added] };
          });
        },
      ),
    );
  const change = (
    usage: string,
    summary: string,
    example: [string, string],
    to: (nics: VmSpec['nics'], index: number) => VmSpec['nics'],
  ): void => {
    verb(nic, usage, summary, { examples: [example], aliases: usage.startsWith('remove') ? ['rm'] : [] })
      .option(...noWait)
      .action(
        withDaemon<[name: string, nic: string], ChangeOptions>(async (session, options, name, given) => {
          const { changeVm, keptNics, nicIndex } = await load();
          await changeVm(session, name, options, (spec, before) => ({
            ...spec,
            nics: to(keptNics(before), nicIndex(before, given)),
          }));
        }),
      );
  };
  const connected =
    (isConnected: boolean) =>
    (nics: VmSpec['nics'], index: number): VmSpec['nics'] =>
      nics.with(index, { ...nics[index]!, isConnected });
  change(
    'remove <vm> <nic>',
    'Take a NIC out, also while the VM runs',
    ['lodge vm nic remove web1 1', 'by its number, address or network'],
    (nics, index) => nics.toSpliced(index, 1),
  );
  change(
    'connect <vm> <nic>',
    'Plug in the cable of a NIC',
    ['lodge vm nic connect web1 0', 'its link is up'],
    connected(true),
  );
  change(
    'disconnect <vm> <nic>',
    'Pull out the cable of a NIC; the NIC stays',
    ['lodge vm nic disconnect web1 0', 'its link is down'],
    connected(false),
  );
  addLimitVerb(nic);
}

const rate = parsedBy(parseRate);

function addLimitVerb(nic: Command): void {
  verb(nic, 'limit <vm> <nic>', 'Limit how much goes through a NIC, also while the VM runs', {
    description:
      'Limit how much goes through a NIC, also while the VM runs: to the guest (inbound) and from it (outbound), in bits (100mbit) or bytes (12MiB/s) a second. Burst, peak, packets and guaranteed are for the directions that are named, else for both.',
    examples: [
      ['lodge vm nic limit web1 0 --inbound 100mbit --outbound 100mbit', 'both directions'],
      ['lodge vm nic limit web1 0 --outbound 10MiB/s --burst 50MiB --peak 50MiB/s', 'fast for a second'],
      ['lodge vm nic limit web1 0 --packets 20000 --priority high', 'packets a second; first served'],
      ['lodge vm nic limit web1 0 --none', 'as much as it can'],
    ],
  })
    .option('--inbound <rate>', 'average to the guest', rate)
    .option('--outbound <rate>', 'average from the guest', rate)
    .option(
      '--burst <size>',
      'what may go at once after a pause',
      parsedBy((text: string) => parseBytes(text, 'B')),
    )
    .option('--peak <rate>', 'rate of a burst', rate)
    .option('--packets <count>', 'packets a second', wholeNumber(10, 100_000_000))
    .option('--guaranteed <rate>', 'what it has of the network’s ceiling in any case', rate)
    .option('--priority <class>', 'who gets first what is left of the ceiling: high, normal or low')
    .option('--none', 'take all rates away')
    .option(...noWait)
    .action(
      withDaemon<[name: string, nic: string], ChangeOptions & NicLimitOptions>(
        async (session, options, name, given) => {
          const [{ changeVm, keptNics, nicIndex }, { withLimits }] = await Promise.all([
            load(),
            import('../vm/nic-limits.ts'),
          ]);
          await changeVm(session, name, options, (spec, before) => ({
            ...spec,
            nics: withLimits(keptNics(before), nicIndex(before, given), options),
          }));
        },
      ),
    );
}

function addCdromVerbs(vm: Command): void {
  const cdrom = noun('cdrom', 'CD-ROM drives of a VM');
  vm.addCommand(cdrom);
  const isCdrom = (disk: VmSpec['disks'][number]): boolean => disk.device === 'cdrom';
  const driveOf = (spec: VmSpec, name: string, drive: string | undefined): number => {
    const all = spec.disks.flatMap((disk, index) => (isCdrom(disk) ? [index] : []));
    const named = drive === undefined ? -1 : spec.disks.findIndex((disk) => disk.name === drive && isCdrom(disk));
    const index = drive === undefined && all.length === 1 ? all[0]! : named;
    if (index !== -1) return index;
    const names = all.map((one) => spec.disks[one]!.name);
    throw usageError(
      `VM ${name} has ${drive === undefined ? `${all.length} CD-ROM drives` : `no CD-ROM drive ${drive}`}`,
      {
        hint:
          names.length > 0
            ? `Name one: ${names.join(', ')}.`
            : 'A drive is added with the VM off: lodge vm set VM \'disks.0={"name":"cdrom","device":"cdrom"}\'',
      },
    );
  };
  const change = (
    usage: string,
    summary: string,
    example: [string, string],
    medium: (words: readonly (string | undefined)[]) => { image: string | undefined; drive: string | undefined },
  ): void => {
    verb(cdrom, usage, summary, { examples: [example] })
      .option('-f, --force', 'also when the guest has locked the tray')
      .option(...noWait)
      .action(
        withDaemon<[name: string, ...words: (string | undefined)[]], ChangeOptions>(
          async (session, options, name, ...words) => {
            const { changeVm } = await load();
            const { image, drive } = medium(words);
            await changeVm(session, name, options, (spec) => {
              const index = driveOf(spec, name, drive);
              return { ...spec, disks: spec.disks.with(index, { ...spec.disks[index]!, image }) };
            });
          },
        ),
      );
  };
  change(
    'insert <vm> <image> [drive]',
    'Put an image into a CD-ROM drive, in place of what is there',
    ['lodge vm cdrom insert web1 debian-iso', 'also while it runs'],
    ([image, drive]) => ({ image, drive }),
  );
  change(
    'eject <vm> [drive]',
    'Take the medium out of a CD-ROM drive',
    ['lodge vm cdrom eject web1', 'the drive stays'],
    ([drive]) => ({ image: undefined, drive }),
  );
}
