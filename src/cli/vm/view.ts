// How VMs look: the columns of a list and the details of one.
import { bootOrder, describeBootDevice } from '../../api/boot-order.ts';
import type { InheritedField, ProfileChange } from '../../api/vm-inherited.ts';
import type { PendingChange, Vm } from '../../api/vm.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { mountOf, mountPointOf } from '../../api/vm-shared-folder.ts';
import { parsePath, valueAt, type Json } from '../../lib/field-path.ts';
import { formatMib } from '../../lib/quantity.ts';
import { shortValue } from '../apply/diff-text.ts';
import type { Session } from '../connect/session.ts';
import type { FetchPage } from '../list.ts';
import type { Printable } from '../output/print.ts';
import { painted, renderDetails, renderTable, type Column } from '../output/table.ts';
import { ageColumn, ageOf, colorState, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';
import { limitsText } from './nic-limits.ts';
import { publishedText } from './publish.ts';

export const fetchVms: FetchPage<Vm> = (client, query) => client.vm.list({ query });

/** Every address of a VM, those one can connect to first: IPv4, IPv6, then link-local ones. */
export function addressesOf(vm: Vm): string[] {
  const all = [...new Set(vm.status.nics.flatMap((nic) => nic.addresses))].filter(
    (address) => !address.startsWith('127.') && address !== '::1',
  );
  const rank = (address: string): number => (isLinkLocal(address) ? 2 : address.includes(':') ? 1 : 0);
  return all.toSorted((one, other) => rank(one) - rank(other));
}

export function isLinkLocal(address: string): boolean {
  return /^(169\.254\.|fe[89ab][0-9a-f]:)/i.test(address);
}

/** What to type in a guest whose agent doesn't answer. */
function adviceText({ status }: Vm): string | null {
  const { agentAdvice } = status;
  if (agentAdvice === null) return null;
  return [agentAdvice.reason, ...agentAdvice.commands.map(({ system, command }) => `${system}: ${command}`)].join('\n');
}

/** How long the guest has been up, as it said itself. */
function upText(vm: Vm): string {
  const { status } = vm;
  if (!liveVmStates.has(status.state)) return '';
  return status.isUp ? ageOf(status.upAt) || 'yes' : 'not yet';
}

export const vmPrintable: Printable<Vm> = {
  kind: 'Vm',
  name: (vm) => vm.name,
  columns: [
    { header: 'NAME', value: (vm) => vm.name, minWidth: 12 },
    {
      header: 'STATE',
      // The mark: something of its spec is not in effect, see lodge vm show.
      value: (vm) => `${vm.status.state}${vm.status.pendingChanges.length > 0 ? '*' : ''}`,
      color: (text, vm, style) => colorState(text, vm.status.state, style),
    },
    { header: 'UP', value: upText, side: 'right' },
    { header: 'ADDRESS', value: (vm) => (liveVmStates.has(vm.status.state) ? (addressesOf(vm)[0] ?? '') : '') },
    { header: 'CPUS', value: (vm) => String(vm.spec.cpu.count), side: 'right' },
    { header: 'MEMORY', value: (vm) => formatMib(vm.spec.memoryMib), side: 'right' },
    { header: 'IMAGE', value: (vm) => vm.spec.image ?? '', minWidth: 8 },
    ageColumn(),
    { header: 'ACCELERATOR', value: (vm) => vm.status.pinned?.rung ?? '', isWide: true },
    { header: 'NODE', value: (vm) => vm.status.node ?? '', isWide: true },
    { header: 'PID', value: (vm) => String(vm.status.pid ?? ''), isWide: true, side: 'right' },
    { header: 'GUEST', value: (vm) => vm.status.guest?.osName ?? '', isWide: true, minWidth: 8 },
    labelsColumn(),
    idColumn(),
  ],
};

type StatusDisk = Vm['status']['disks'][number];
type StatusNic = Vm['status']['nics'][number];

const nicColumns: readonly Column<StatusNic>[] = [
  { header: 'NETWORK', value: (nic) => nic.network },
  { header: 'MAC', value: (nic) => nic.mac },
  { header: 'ADDRESSES', value: (nic) => nic.addresses.join(' ') },
  { header: 'MODEL', value: (nic) => nic.model },
  { header: 'ON HOST', value: (nic) => nic.hostInterface ?? '' },
];

type StatusDevice = Vm['status']['devices'][number];

const deviceColumns: readonly Column<StatusDevice>[] = [
  { header: 'DEVICE', value: (device) => device.name },
  { header: 'KIND', value: (device) => (device.model === 'none' ? '' : device.kind) },
  { header: 'MODEL', value: (device) => device.model, minWidth: 20 },
  { header: 'OTHER KIND', value: (device) => device.otherKind ?? '', minWidth: 14 },
  { header: 'WHY', value: (device) => device.why, minWidth: 16 },
];

type SharedFolder = Vm['spec']['sharedFolders'][number];

function folderColumns({ status }: Vm): readonly Column<SharedFolder>[] {
  const inGuest = (folder: SharedFolder): string => {
    const device = status.devices.find(({ name }) => name === `shared folder ${folder.name}`);
    if (!device) return '';
    const driver = device.model.includes('9p') ? '9p' : 'virtiofs';
    const { type, options } = mountOf({ driver, access: folder.access });
    return `mount -t ${type} -o ${options} ${folder.name} ${mountPointOf(folder)}`;
  };
  return [
    { header: 'TAG', value: (folder) => folder.name },
    { header: 'FOLDER', value: (folder) => folder.path },
    { header: 'ACCESS', value: (folder) => folder.access },
    { header: 'IN A LINUX GUEST', value: inGuest },
  ];
}

/** The reason for an accelerator goes through the whole ladder; lodge node show has all of it. */
function firstSentence(text: string): string {
  return /^.*?\.(?= |$)/.exec(text)?.[0] ?? text;
}

/** What a running VM has instead of what its spec asks for from the next start on. */
function laterText(now: number | undefined, later: number, format: (value: number) => string): string {
  return now === undefined || now === later ? '' : ` from the next start on; now ${format(now)}`;
}

/** A change that the guest doesn't have yet, in one line. */
export function pendingText({ field, current, wanted, reason, needsRestart }: PendingChange): string {
  // A disk, NIC or USB device that is not there is none; any other field that has no value follows from something else.
  const missing = /^spec\.(disks|nics|usbDevices)\.[^.]+$/.test(field) ? 'none' : 'not set';
  const values = [current, wanted].map((value) => (value === null ? missing : String(value))).join(' → ');
  return `${field.replace(/^spec\./, '')}: ${values}${needsRestart ? ', at the next start' : ''}. ${reason}`;
}

/** What gives a VM a field: "profile web". */
export function sourceText({ kind, name }: Pick<InheritedField, 'kind' | 'name'>): string {
  return `${kind === 'profile' ? 'profile' : 'instance type'} ${name}`;
}

/** Where a field's value comes from, in one line. */
function inheritedText(spec: Vm['spec'], { field, value, isOverridden, ...source }: InheritedField): string {
  const is = (of: unknown): string => (field === 'cloudInit.userData' ? 'given' : shortValue(of as Json));
  if (!isOverridden) return `${field}: ${is(value)}, from ${sourceText(source)}`;
  const own = valueAt(JSON.parse(JSON.stringify(spec)) as Json, parsePath(field));
  return `${field}: ${is(own ?? null)}, its own; ${sourceText(source)} has ${is(value)}`;
}

/** What a profile or type has changed to, in one line. */
export function profileChangeText({ field, current, wanted, from }: ProfileChange): string {
  const source = from === null ? 'no profile sets it any more' : `by ${sourceText(from)}`;
  return `${field}: ${valueText(current)} → ${valueText(wanted)}, ${source}`;
}

function valueText(value: PendingChange['current']): string {
  return value === null ? 'none' : String(value);
}

function secureBootText({ firmware: { secureBoot } }: Vm['spec']): string | null {
  if (!secureBoot?.isEnabled) return null;
  const { keys, ownCertificates } = secureBoot;
  return keys === 'microsoft' ? 'with Microsoft’s keys' : `with own keys, ${ownCertificates.length} certificates`;
}

function smbiosText(smbios: NonNullable<Vm['spec']['smbios']>): string {
  return Object.entries(smbios)
    .map(([name, value]) => `${name}=${Array.isArray(value) ? value.join(' ') : value}`)
    .join(', ');
}

/** Names of the volumes and images that a VM's status names by their ids. */
async function namesOfDisks(vm: Vm, { client }: Session): Promise<ReadonlyMap<string, string>> {
  const query = { project: vm.project };
  const lookups = vm.status.disks.flatMap(({ volume, image }) => [
    ...(volume === null ? [] : [client.volume.get({ params: { volume }, query })]),
    ...(image === null ? [] : [client.image.get({ params: { image }, query })]),
  ]);
  // What is gone by now keeps its id.
  const found = await Promise.allSettled(lookups);
  return new Map(found.flatMap((one) => (one.status === 'fulfilled' ? [[one.value.id, one.value.name] as const] : [])));
}

/** What a running VM takes of the host's memory, and how much of that it has in common with others. */
async function memoryText(vm: Vm, { client }: Session): Promise<string | null> {
  if (!liveVmStates.has(vm.status.state)) return null;
  const { items } = await client.vm.usage();
  const usage = items.find((item) => item.id === vm.id);
  if (!usage || usage.memoryMib === null) return null;
  const whole = formatMib(Math.round(usage.memoryMib));
  if (usage.memorySharedMib === null || usage.memoryPrivateMib === null) return whole;
  return `${whole}: ${formatMib(Math.round(usage.memoryPrivateMib))} its own, ${formatMib(Math.round(usage.memorySharedMib))} shared with other processes`;
}

/** Who is booted from, the first to be tried first; null: its kernel is booted directly. */
function bootOrderText({ spec, status }: Vm): string | null {
  if (status.pinned?.firmware === 'direct') return null;
  const devices = {
    disks: status.disks.map(({ name }) => {
      const { device = 'disk', bootIndex } = spec.disks.find((disk) => disk.name === name) ?? {};
      return { name, device, bootIndex };
    }),
    nics: spec.nics.map((nic, index) => ({ ...nic, mac: status.nics[index]?.mac ?? '' })),
  };
  const order = bootOrder(devices).map((device) => describeBootDevice(device, devices));
  if (order.length === 0) return 'nothing to boot from';
  const once = status.bootedOnceFrom === null ? '' : `; this once from ${status.bootedOnceFrom}`;
  return `${order.join(', ')}${once}`;
}

/** On which CPUs of the node it was put; null: it is down, or may run anywhere and nobody asked for anything else. */
function placementText({ spec, status: { placement } }: Vm): string | null {
  if (!placement) return null;
  const { pinning, affinity, policy } = spec.cpu;
  if (placement.policy === 'shared' && !pinning && affinity === undefined && policy !== 'dedicated') return null;
  const cpus = placement.vcpus.map(({ vcpu, cpus }) => `vCPU ${vcpu} on CPU ${cpus}`).join(', ');
  return `${cpus} (${placement.policy}); why: lodge vm cpus`;
}

/** The rates of its NICs, a line each. */
function limitLines({ spec, status }: Vm): string[] | null {
  const lines = spec.nics.flatMap(({ limits, mac, network }, index) => {
    const own = mac ?? status.nics[index]?.mac;
    return limits
      ? [
          `NIC ${index}, ${network}: ${limitsText(
            limits,
            status.nicLimits.find((one) => one.mac === own),
          )}`,
        ]
      : [];
  });
  return lines.length === 0 ? null : lines;
}

/** Everything about a VM, for people. */
export async function vmDetails(vm: Vm, session: Session): Promise<string[]> {
  const names = await namesOfDisks(vm, session);
  const { spec, status } = vm;
  const { style } = session.terminal;
  const { pinned, guest, lastExit, startedSpec: started } = status;
  const diskColumns: Column<StatusDisk>[] = [
    { header: 'NAME', value: (disk) => disk.name },
    { header: 'SIZE', value: (disk) => (disk.sizeMib === null ? '' : formatMib(disk.sizeMib)), side: 'right' },
    { header: 'VOLUME', value: (disk) => names.get(disk.volume ?? '') ?? disk.volume ?? '' },
    { header: 'IMAGE', value: (disk) => names.get(disk.image ?? '') ?? disk.image ?? '' },
    { header: 'CACHE', value: (disk) => spec.disks.find((one) => one.name === disk.name)?.cache ?? '' },
  ];
  const cpu = [
    `${spec.cpu.count}, model ${spec.cpu.model}`,
    ...spec.cpu.enable.map((feature) => `+${feature}`),
    ...spec.cpu.disable.map((feature) => `-${feature}`),
  ].join(' ');
  const { restartPolicy } = spec;
  return renderDetails(
    [
      ['Name', vm.name],
      ['Project', vm.project],
      ['State', painted(status.state, (text) => colorState(text, status.state, style))],
      ['Reason', status.reason],
      ['Since', momentOf(status.since)],
      ['The console says', status.consolePanic],
      [
        'Warning',
        status.warnings.length === 0 ? null : status.warnings.map(({ message, hint }) => `${message} ${hint}`),
      ],
      [
        'Guest is up',
        status.isUp
          ? `yes, since ${momentOf(status.upAt) ?? ''}`
          : liveVmStates.has(status.state)
            ? 'has not reported it yet'
            : null,
      ],
      ['Works on it', status.taskId === null ? null : `task ${status.taskId}`],
      [
        'Made from',
        status.lineage === null
          ? null
          : `${status.lineage.parentName} by ${status.lineage.kind}, ${momentOf(status.lineage.at) ?? ''}${status.lineage.hasOwnIdentity ? '' : '; it has no identity of its own'}`,
      ],
      ['Memory in use', await memoryText(vm, session)],
      ['Description', spec.description],
      ['Addresses', addressesOf(vm).join(' ')],
      ['NIC limits', limitLines(vm)],
      ['Published ports', status.publishedPorts.length === 0 ? null : status.publishedPorts.map(publishedText)],
      ['Guest', guest === null ? null : [guest.osName, guest.kernel, guest.hostname].filter(Boolean).join(', ')],
      [
        'Guest agent',
        guest === null
          ? null
          : guest.hasAgent
            ? `answers (${guest.agentVersion ?? 'version unknown'})`
            : 'does not answer',
      ],
      ['Agent advice', adviceText(vm)],
      [
        'Clock',
        status.clockStaleSince === null
          ? null
          : `may be wrong since it went on ${momentOf(status.clockStaleSince)}: it has not been set`,
      ],
      ['Runs on', placementText(vm)],
      ['CPUs', `${cpu}${laterText(started?.cpu.count, spec.cpu.count, String)}`],
      ['Memory', `${formatMib(spec.memoryMib)}${laterText(started?.memoryMib, spec.memoryMib, formatMib)}`],
      ['Instance type', spec.instanceType],
      ['Profiles', spec.profiles?.join(', ')],
      ['Of its fields', spec.inherited?.map((one) => inheritedText(spec, one))],
      ['Not taken over yet', status.profileChanges.length === 0 ? null : status.profileChanges.map(profileChangeText)],
      ['Image', spec.image],
      [
        'Hardware',
        pinned === null
          ? (spec.hardware ?? `what ${spec.os ?? 'its operating system'} gets`)
          : `${pinned.hardware.preset}, for ${pinned.hardware.os}`,
      ],
      ['Machine', pinned === null ? spec.machine : `${pinned.machine} (pinned)`],
      ['Firmware', pinned === null ? spec.firmware.type : `${pinned.firmware} (asked for: ${spec.firmware.type})`],
      ['Boot order', bootOrderText(vm)],
      ['Secure Boot', secureBootText(started ?? spec)],
      ['TPM', (started ?? spec).tpm?.isEnabled ? '2.0' : null],
      ['SMBIOS', spec.smbios === undefined ? null : smbiosText(spec.smbios)],
      ['Generation ID', status.generationId],
      [
        'Accelerator',
        pinned === null ? spec.accelerator : `${pinned.rung}: ${firstSentence(pinned.acceleratorReason)}`,
      ],
      ['CPU model', pinned?.cpuModel],
      ['QEMU', pinned === null ? null : `${pinned.qemuVersion}${status.pid === null ? '' : `, process ${status.pid}`}`],
      ['Node', status.node],
      ['Autostart', spec.autostart ? 'yes' : 'no'],
      [
        'Restart policy',
        restartPolicy.mode === 'never'
          ? 'never'
          : `${restartPolicy.mode}, ${status.restarts.count} in a row${status.restarts.nextAt === null ? '' : `, next at ${status.restarts.nextAt}`}`,
      ],
      [
        'Last exit',
        lastExit === null ? null : `${lastExit.cause}, ${momentOf(lastExit.at) ?? ''}: ${lastExit.message}`,
      ],
      ['Labels', labelsText(vm.labels)],
      ['Created', momentOf(vm.createdAt)],
      ['Id', vm.id],
      ['Not in effect yet', status.pendingChanges.length === 0 ? null : status.pendingChanges.map(pendingText)],
      [
        'Devices',
        status.devices.length === 0
          ? null
          : renderTable(deviceColumns, status.devices, {
              width: session.terminal.width === null ? null : session.terminal.width - 2,
              style,
            }),
      ],
      [
        'Shared folders',
        spec.sharedFolders.length === 0
          ? null
          : renderTable(folderColumns(vm), spec.sharedFolders, { width: null, style }),
      ],
      ['Disks', status.disks.length === 0 ? null : renderTable(diskColumns, status.disks, { width: null, style })],
      [
        'Network interfaces',
        status.nics.length === 0 ? null : renderTable(nicColumns, status.nics, { width: null, style }),
      ],
    ],
    session.terminal,
  );
}
