// lodge vm: virtual machines. Here are the verbs with their options and help; what they do is in vm/, loaded when it is
// asked for.
import { Option, type Command } from 'commander';
import { imageRecipe } from '../../api/image.ts';
import { parseDurationMs, parseDurationS } from '../../lib/duration.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { parseMib } from '../../lib/quantity.ts';
import { collected, noun, objectFormats, parsedBy, verb, wholeNumber, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import { deleteEach } from '../delete-each.ts';
import { listVerb, showVerb, withSuggestion } from '../list.ts';
import { printOne } from '../output/print.ts';
import type { ChangeOptions } from '../vm/change.ts';
import type { CreateOptions } from '../vm/create.ts';
import { choicesAt } from '../schema-fields.ts';
import { selecting, type ManyOptions } from '../vm/many.ts';
import type { Session } from '../connect/session.ts';
import { usageError } from '../usage-error.ts';
import { fetchVms, vmDetails, vmPrintable } from '../vm/view.ts';
import { vmGoals, type VmGoal } from '../vm/wait.ts';
import { addVmExitsVerb, addVmStatsVerb } from './stats.ts';
import { addCpusVerbs } from './vm-cpus.ts';
import { addFirmwareVerb } from './vm-firmware.ts';
import { addCopyVerbs } from './vm-copy.ts';
import { addDeviceVerbs } from './vm-devices.ts';
import { addCaptureVerb, addPortVerbs } from './vm-ports.ts';
import { addPowerVerbs } from './vm-power.ts';
import { addConsoleVerbs, addGuestVerbs } from './vm-inside.ts';

type SetOptions = ChangeOptions & ManyOptions;

/** `lodge vm` and its verbs. */
export function vmNoun(): Command {
  const vm = noun('vm', 'Virtual machines');
  vm.commandsGroup('Look:');
  addLookVerbs(vm);
  vm.commandsGroup('Make and change:');
  addChangeVerbs(vm);
  addRename(vm);
  addCopyVerbs(vm);
  addFirmwareVerb(vm);
  vm.commandsGroup('Devices, also while it runs:');
  addDeviceVerbs(vm);
  addPortVerbs(vm);
  addCaptureVerb(vm);
  vm.commandsGroup('Switch:');
  addPowerVerbs(vm);
  vm.commandsGroup('Consoles:');
  addConsoleVerbs(vm);
  vm.commandsGroup('Inside the guest:');
  addGuestVerbs(vm);
  return vm;
}

function addLookVerbs(vm: Command): void {
  listVerb(vm, {
    kind: 'vm',
    noun: 'VM',
    plural: 'VMs',
    printable: vmPrintable,
    fetch: fetchVms,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge vm create web1 --image debian-12',
    examples: [
      ['lodge vm list', 'all VMs of the project'],
      ['lodge vm list --watch', 'as it changes, until Ctrl-C'],
      ['lodge vm list -l app=web --sort -createdAt', 'those with a label, newest first'],
      ['lodge vm list --filter status.state=running,spec.memoryMib>=1024', 'by their fields'],
      ['lodge vm stop $(lodge vm list -o name -l app=web)', 'names for another command'],
    ],
  });
  showVerb(vm, {
    noun: 'vm',
    label: 'VM',
    printable: vmPrintable,
    get: (session, name) =>
      withSuggestion(session, name, fetchVms, () =>
        session.client.vm.get({ params: { vm: name }, query: { project: session.project } }),
      ),
    details: vmDetails,
    examples: [
      ['lodge vm show web1', 'its state with the reason, hardware, addresses'],
      ['lodge vm show web1 -o yaml > web1.yaml', 'as lodge apply takes it'],
      ['lodge vm show web1 -o json | jq -r .status.pinned.arguments[]', 'the command line of QEMU'],
    ],
  });

  verb(vm, 'usage [vm...]', 'Show what VMs use', {
    formats: objectFormats.filter((format) => format !== 'name'),
    description: 'Show what running VMs use, measured over one second. lodge top shows it live.',
    examples: [['lodge vm usage', 'CPU, memory, disk and network of every running VM']],
  }).action(
    withDaemon<[names: string[]], object>(async (session, _options, names) => {
      const { showUsageOnce } = await import('../top.ts');
      await showUsageOnce(session, names);
    }),
  );

  addVmStatsVerb(vm);
  addVmExitsVerb(vm);
  addCpusVerbs(vm);

  verb(vm, 'wait <vm...>', 'Wait until VMs are as wanted', {
    description: `Wait until VMs are as wanted: ${vmGoals.join(', ')}. up: the guest itself has said so; ssh: an SSH server answers at its address.`,
    examples: [
      ['lodge vm wait web1 --for ssh && lodge vm ssh web1', 'as soon as one can sign in'],
      ['lodge vm wait web1 web2 --for stopped --timeout 2m', 'both are off'],
    ],
  })
    .addOption(new Option('--for <state>', 'what to wait for').choices(vmGoals).default('up'))
    .option('--timeout <duration>', 'longest wait (default: 15m)', parsedBy(parseDurationMs))
    .action(
      withDaemon<[names: string[]], { for: VmGoal; timeout?: number }>(async (session, options, names) => {
        const { defaultGuestTimeoutMs, waitForVms } = await import('../vm/power.ts');
        const { goalText } = await import('../vm/wait.ts');
        const vms = await waitForVms(session, names, options.for, options.timeout ?? defaultGuestTimeoutMs);
        for (const one of vms) session.terminal.line(`VM ${one.name} is ${goalText(options.for)}.`);
      }),
    );

  verb(vm, 'log <vm>', 'Print what the hypervisor process of a VM printed', {
    examples: [['lodge vm log web1', 'why QEMU did not start']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const log = await withSuggestion(session, name, fetchVms, () =>
        session.client.vm.log({ params: { vm: name }, query: { project: session.project } }),
      );
      const text = await log.text();
      if (text === '') session.terminal.note(`QEMU of ${name} has printed nothing.`);
      else session.terminal.raw(text.endsWith('\n') ? text : `${text}\n`);
    }),
  );
}

function addRename(vm: Command): void {
  verb(vm, 'rename <vm> <name>', 'Give a VM another name', {
    formats: objectFormats,
    description:
      'Give a VM another name, also while it runs. Networks resolve the new name at once, and the disks that were made with it are called after it. The running guest’s own host name stays.',
    examples: [['lodge vm rename web1 web-old', 'its disk web1-root is web-old-root then']],
  }).action(
    withDaemon<[vm: string, name: string], object>(async (session, _options, name, next) => {
      const renamed = await withSuggestion(session, name, fetchVms, () =>
        session.client.vm.rename({ params: { vm: name }, query: { project: session.project }, body: { name: next } }),
      );
      await printOne(session, vmPrintable, renamed, () => [`VM ${name} is called ${renamed.name} now.`]);
    }),
  );
}

function addChangeVerbs(vm: Command): void {
  const create = verb(vm, 'create <name>', 'Create a VM, start it, and wait until one can work with it', {
    formats: objectFormats,
    description:
      'Create a VM and start it. It ends when one can work with it: when ssh answers (with an ssh key, on this machine), else when the guest says that it is up, else when it runs; --wait-for says otherwise. A guest of an imported image, of which nobody knows whether it will tell, is waited for two minutes (--timeout), and it is no error when it doesn’t. Without --disk the disk is as large as the image’s.',
    examples: [
      [
        'lodge vm create web1 --image debian-12 --cpus 2 --memory 2GiB --disk 20GiB --ssh-key ~/.ssh/id_ed25519.pub',
        'a server to sign in to',
      ],
      ['lodge vm create test --image tiny', 'the small test guest'],
      ['lodge vm create test --image tiny --warm', 'the same, without booting (after lodge vm prepare tiny)'],
      [
        'lodge vm create db --image debian-12 --memory 4GiB --disk 20GiB --disk name=data,size=200GiB,cache=none',
        'with a second disk',
      ],
      [
        'lodge vm create new --iso ./debian-13-netinst.iso --disk 20GiB --memory 2GiB',
        'to install a system from its ISO, on an empty disk',
      ],
      [
        'lodge vm create win --os windows --disk 64GiB --iso win11 --cdrom virtio-win --firmware uefi --tpm --memory 8GiB',
        'Windows, from images that were imported before',
      ],
      [
        'lodge vm create web2 --image debian-12 --type medium --profile web,monitored',
        'as large as the instance type says, and with what the profiles set',
      ],
      [
        'lodge vm create old --image tiny-pc --hardware emulated',
        'as an unmodified system finds it on a PC, but for its disk',
      ],
      [
        'lodge vm create lab1 --image debian-12 --network network=lab,model=e1000 --no-start',
        'on another network, not started',
      ],
    ],
  });
  const memory = parsedBy((text: string) => parseMib(text, 'MiB'));
  const choice = (flags: string, description: string, choices: readonly string[]) =>
    new Option(flags, description).choices(choices);
  create
    .optionsGroup('Hardware:')
    .option('--image <name>', `image it is made from (lodge image list; built ones: ${imageRecipe.options.join(', ')})`)
    .option('--template <name>', 'template it is made of, NAME or NAME@VERSION (lodge template list)')
    .option('--type <name>', 'instance type, which says vCPUs and memory (lodge instance-type list)')
    .option(
      '--profile <names>',
      'profiles that it has what it is not given from, with commas; the last counts most (lodge profile list)',
      collected,
    )
    .option('--full', 'with --template: copy the disks, rather than read from those of the template')
    .option('--warm', 'go on from a booted guest that was prepared (lodge vm prepare), where one fits; else boot')
    .option('--cpus <count>', 'vCPUs (default: 1)', wholeNumber(1, 1024))
    .option('--memory <size>', 'memory, such as 2GiB; a bare number is MiB (default: 512MiB)', memory)
    .option(
      '--disk <disk>',
      'disk: 20GiB, or name=data,size=20GiB,bus=virtio,cache=writeback, or volume=NAME; a bare number is GiB; the first is the root disk; may be given several times',
      collected,
    )
    .option(
      '--iso <source>',
      'install from this ISO: an image, a file, or an http address, which is imported first; booted as long as the disk is empty',
    )
    .option('--cdrom <image>', 'ISO image in a CD-ROM drive; may be given several times', collected)
    .option(
      '--network <network>',
      'network: NAME, or network=NAME,model=e1000,mac=…,ip=…, or none; may be given several times',
      collected,
    )
    .option(
      '--publish <ports>',
      'port of the node that leads to the first NIC: 8080:80, 53:53/udp, 127.0.0.1:8080:80, 8000-8010; may be given several times',
      collected,
    )
    .option(
      '--share <folder>',
      'folder of the node that the guest can mount: /srv/data, or src=/srv/data,tag=data,ro,driver=9p,mount=/data; may be given several times',
      collected,
    )
    .option(
      '--security-group <names>',
      'security groups of the first NIC, with commas; may be given several times (lodge security-group list)',
      collected,
    )
    .option('--mac <address>', 'MAC address of the first NIC')
    .option('--ip <address>', 'IPv4 address that the network’s DHCP gives to the first NIC')
    .option('--ip6 <address>', 'IPv6 address that the network’s DHCPv6 gives to the first NIC')
    .addOption(
      choice('--os <system>', 'operating system it is to run (default: the image’s)', choicesAt(vmSpec, ['os'])),
    )
    .addOption(
      choice(
        '--hardware <set>',
        'set of devices (default: what the operating system gets)',
        choicesAt(vmSpec, ['hardware']),
      ),
    )
    .addOption(choice('--disk-bus <bus>', 'bus of the disks that name none', choicesAt(vmSpec, ['disks', 0, 'bus'])))
    .addOption(
      choice('--nic-model <model>', 'model of the NICs that name none', choicesAt(vmSpec, ['nics', 0, 'model'])),
    )
    .addOption(choice('--video <model>', 'display adapter', choicesAt(vmSpec, ['video'])))
    .addOption(choice('--usb <controller>', 'USB controller', choicesAt(vmSpec, ['usb'])))
    .addOption(choice('--machine <type>', 'machine type', choicesAt(vmSpec, ['machine'])))
    .addOption(choice('--firmware <type>', 'what boots it', choicesAt(vmSpec, ['firmware', 'type'])))
    .addOption(
      choice(
        '--secure-boot <keys>',
        'only loaders signed for these keys are run',
        choicesAt(vmSpec, ['firmware', 'secureBoot', 'keys']),
      ),
    )
    .option(
      '--secure-boot-certificate <file>',
      'own certificate (PEM) whose signatures count; may be given several times',
      collected,
    )
    .option('--tpm', 'with a TPM 2.0')
    .option('--smbios <fields>', 'what the guest is told of its machine: manufacturer=ACME,product=X1,serial=42')
    .option('--kernel-args <text>', 'added to the kernel command line, for images that boot directly')
    .option('--cpu-model <model>', 'auto, host, max, x86-64-v2, x86-64-v3, x86-64-v4, or one of QEMU’s')
    .option('--dedicated', 'with cores of its own, chosen by Lodge; no other VM runs there')
    .option('--pin <vcpu=cpus>', 'pin a vCPU to CPUs of the node: 0=2; may be given several times', collected)
    .option('--cpu-cap <percent>', 'most processor time, percent of one CPU: 150', wholeNumber(1, 102_400))
    .option('--cpu-weight <weight>', 'share of processor time against others (default: 100)', wholeNumber(1, 10_000))
    .option('--cpu-enable <features>', 'CPU features to switch on, with commas', collected)
    .option('--cpu-disable <features>', 'CPU features to switch off, with commas', collected)
    .addOption(choice('--accelerator <name>', 'auto takes the best of the node', choicesAt(vmSpec, ['accelerator'])))
    .addOption(choice('--display <type>', 'display', choicesAt(vmSpec, ['display'])))
    .addOption(
      choice(
        '--keyboard-layout <layout>',
        'of the guest, for VNC viewers that send characters',
        choicesAt(vmSpec, ['keyboardLayout']),
      ),
    )
    .option('--clipboard', 'share text with VNC viewers; the guest’s memory can not be saved then')
    .addOption(
      choice(
        '--agent <how>',
        'who sees to the guest agent: cloud-init at the first boot',
        choicesAt(vmSpec, ['guestAgent']),
      ),
    )
    .option('--no-agent', 'without the channel for a guest agent')
    .optionsGroup('First boot (cloud-init):')
    .option(
      '--ssh-key <key>',
      'public key that may sign in: a file, or the key itself; may be given several times',
      collected,
    )
    .option('--user <name>', 'user that is made (default: the image’s own)')
    .addOption(
      new Option(
        '--password <password>',
        'password of the user; visible in the process list: prefer the next two',
      ).conflicts(['passwordStdin', 'passwordAsk']),
    )
    .addOption(new Option('--password-stdin', 'read the password from stdin').conflicts('passwordAsk'))
    .option('--password-ask', 'ask for the password')
    .option('--user-data <file>', 'own user-data: #cloud-config or a script')
    .option('--network-config <file>', 'own network-config, version 2')
    .option('--hostname <name>', 'host name (default: the VM’s name)')
    .optionsGroup('Behaviour:')
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .option('--autostart', 'start it when the node comes up')
    .addOption(choice('--restart <policy>', 'when it ends by itself', choicesAt(vmSpec, ['restartPolicy', 'mode'])))
    .option(
      '--stop-timeout <duration>',
      'how long the guest may take to shut down (default: 90s)',
      parsedBy(parseDurationS),
    )
    .optionsGroup('Options:')
    .option('--no-start', 'do not start it')
    .option('--wait', 'wait until one can work with it (this is the default)')
    .option('--no-wait', 'end as soon as the daemon has taken it on')
    .addOption(
      choice(
        '--wait-for <state>',
        'what to wait for',
        vmGoals.filter((goal) => goal !== 'stopped'),
      ),
    )
    .option('--timeout <duration>', 'longest wait for the guest (default: 15m)', parsedBy(parseDurationMs))
    .action(
      withDaemon<[name: string], CreateOptions>(async (session, options, name) => {
        const { createVm } = await import('../vm/create.ts');
        await createVm(session, options, name);
      }),
    );

  selecting(
    verb(vm, 'set [vm] [change...]', 'Change fields of a VM, or of many', {
      usage: '[options] <vm> <change...>',
      formats: objectFormats,
      description:
        'Change fields of a VM’s spec, or its labels: field=value sets, field- removes. What can change while it runs is changed at once, and waited for; the rest takes effect at the next start. With --selector or --all there is no name, and every VM gets the same fields.',
      examples: [
        ['lodge vm set web1 cpu.count=4 memoryMib=4GiB', 'more of both'],
        ['lodge vm set web1 labels.app=web labels.old-', 'a label set, another removed'],
        ['lodge vm set web1 disks.root.cache=none restartPolicy.mode=on-failure', 'a disk by its name'],
        ['lodge vm set web1 instanceType=large profiles=web,monitored', 'another size, and other profiles'],
        ['lodge vm set -l role=web memoryMib=4GiB', 'all with a label'],
        ['lodge vm set web1 \'nics.1={"network":"lab"}\'', 'a second NIC'],
      ],
    }),
  )
    .option('--no-wait', 'do not wait until the guest has it')
    .option('-f, --force', 'take out disks that the guest has mounted, and media that it has locked')
    .action(
      withDaemon<[name: string | undefined, changes: string[]], SetOptions>(async (session, options, first, rest) => {
        if (options.selector !== undefined || options.all === true) return setMany(session, options, first, rest);
        const [name, changes] = namedChange(first, rest);
        const { changeObject } = await import('../set.ts');
        const { changedLines, unchangedLines, untilChanged } = await import('../vm/change.ts');
        const query = { project: session.project };
        const before = await withSuggestion(session, name, fetchVms, () =>
          session.client.vm.get({ params: { vm: name }, query }),
        );
        const changed = await changeObject(session, 'vm', before, changes, (body) =>
          session.client.vm.update({ params: { vm: name }, query: { ...query, force: options.force === true }, body }),
        );
        if (!changed) return;
        if (changed.revision === before.revision) {
          for (const line of unchangedLines(before, changes)) session.terminal.line(line);
          return;
        }
        const after = await untilChanged(session, changed, options.wait);
        await printOne(session, vmPrintable, after, () => changedLines(after));
      }),
    );

  verb(vm, 'edit <vm>', 'Change a VM in an editor', {
    description:
      'Change spec and labels of a VM as YAML in $VISUAL or $EDITOR. What can change while it runs is changed at once; the rest takes effect at the next start. What is not valid opens the editor again; a file that is left as it was, or emptied, changes nothing.',
    examples: [['EDITOR=nano lodge vm edit web1', 'with another editor']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const { editObject } = await import('../edit.ts');
      const { changedLines, untilChanged } = await import('../vm/change.ts');
      const params = { vm: name };
      const query = { project: session.project };
      const changed = await editObject(session, {
        noun: 'vm',
        label: 'VM',
        name,
        read: () => withSuggestion(session, name, fetchVms, () => session.client.vm.get({ params, query })),
        update: (body) => session.client.vm.update({ params, query, body }),
      });
      if (!changed) return;
      for (const line of changedLines(await untilChanged(session, changed, true))) session.terminal.line(line);
    }),
  );

  selecting(
    verb(vm, 'delete [vm...]', 'Delete VMs and the disks made with them', {
      aliases: ['rm'],
      description: 'Delete VMs and the disks made with them. Volumes that were made on their own stay.',
      examples: [
        ['lodge vm delete web1', 'asks first; refused while it runs'],
        ['lodge vm delete web1 web2 --force --yes', 'switched off first, without a question'],
      ],
    }),
  )
    .option('-f, --force', 'switch them off first')
    .option('-y, --yes', 'do not ask')
    .option('--no-wait', 'do not wait until they are gone')
    .action(
      withDaemon<[names: string[]], ManyOptions & { force?: boolean; wait: boolean }>(
        async (session, options, names) => {
          const { actOnMany, isOneNamed } = await import('../vm/many.ts');
          const force = options.force === true;
          if (!isOneNamed(names, options))
            return actOnMany(
              session,
              names,
              options,
              { type: 'delete', force },
              {
                verb: 'delete',
                done: 'is deleted',
                question: 'Delete, with all data on the disks made with them,',
                isAlwaysAsked: true,
              },
            );
          await confirm(
            session,
            `Delete VM ${names[0]} with all data on the disks made with it?`,
            options.yes === true,
          );
          return deleteEach(
            session,
            'VM',
            names,
            (name) =>
              withSuggestion(session, name, fetchVms, () =>
                session.client.vm.delete({ params: { vm: name }, query: { project: session.project, force } }),
              ),
            options.wait,
          );
        },
      ),
    );
}

/** The VM that is changed, and how: both must be there. */
function namedChange(name: string | undefined, changes: readonly string[]): [name: string, changes: readonly string[]] {
  if (name !== undefined && changes.length > 0) return [name, changes];
  throw usageError(name === undefined ? 'no VM is named' : `nothing is said that is to be changed of VM ${name}`, {
    hint: 'Such as lodge vm set web1 cpu.count=4, or lodge vm set -l role=web cpu.count=4',
  });
}

async function setMany(
  session: Session,
  options: SetOptions,
  first: string | undefined,
  rest: readonly string[],
): Promise<number> {
  const words = [...(first === undefined ? [] : [first]), ...rest];
  if (words.length === 0) throw usageError('nothing is said that is to be changed', { hint: 'Give field=value.' });
  const [{ patchOf }, { actOnMany }] = await Promise.all([import('../vm/set-many.ts'), import('../vm/many.ts')]);
  const action = { type: 'update' as const, ...patchOf(words), force: options.force === true };
  return actOnMany(session, [], options, action, { verb: 'change', done: 'is changed' });
}
