// From what a guest has and what its spec asks for to the changes that can be made while it runs, and those that can't,
// each with the reason. Pure: what the guest could do is an argument, as its hypervisor told it.
//
//   effective spec ─┐
//   wanted spec ────┼─▶ planChanges ─▶ steps (made one after the other; withStep moves the effective spec along)
//   device report ──┘              └─▶ pending (they wait for the next start)
//
// The effective spec of a VM is that of its last start with every step made since. Both specs name every drive, those
// too that come from the image.
import { isDeepStrictEqual } from 'node:util';
import { type PendingChange } from '../../api/vm.ts';
import { type VmDisk, type VmNic, type VmSpec } from '../../api/vm-spec.ts';
import { type DeviceReport } from '../../drivers/driver.ts';

type Field = Pick<PendingChange, 'field' | 'current' | 'wanted'>;

/** A NIC with the address by which it is the same one. */
export interface AddressedNic {
  nic: VmNic;
  mac: string;
}

/** What a VM has or is to have. */
export interface Configuration {
  spec: VmSpec;
  /** All drives, those too that the spec doesn't name. */
  disks: readonly VmDisk[];
  nics: readonly AddressedNic[];
}

export type PlanAction =
  | { kind: 'vcpus'; count: number }
  | { kind: 'memory'; sizeMib: number }
  | { kind: 'balloon'; targetMib: number | null }
  | { kind: 'attach-disk'; name: string }
  | { kind: 'detach-disk'; name: string }
  | { kind: 'resize-disk'; name: string; sizeMib: number }
  | { kind: 'limits'; name: string }
  | { kind: 'medium'; name: string }
  | { kind: 'attach-nic'; mac: string }
  | { kind: 'detach-nic'; mac: string }
  | { kind: 'link'; mac: string; isConnected: boolean }
  | { kind: 'boot-order' }
  | { kind: 'attach-usb'; name: string }
  | { kind: 'detach-usb'; name: string };

/** A change that can be made while the guest runs. */
export type PlanStep = Field & { action: PlanAction };

export interface ChangePlan {
  steps: PlanStep[];
  pending: PendingChange[];
}

/** Fields of the spec that say how Lodge treats the VM, and count at once. */
const countAtOnce = new Set<keyof VmSpec>([
  'description',
  'autostart',
  'restartPolicy',
  'stopTimeoutS',
  'hasClockSync',
  'instanceType',
  'profiles',
  'inherited',
  'guestAgent',
  'onShortage',
  'resources',
]);
/** Fields of `cpu` that the placement of a VM that is up follows by itself. */
const placedAtOnce = new Set<keyof VmSpec['cpu']>([
  'policy',
  'pinning',
  'affinity',
  'emulatorAffinity',
  'ioThreadAffinity',
  'weight',
  'capPercent',
]);
/** Fields with their own part of the plan. */
const planned = new Set<keyof VmSpec>(['cpu', 'memoryMib', 'memoryTargetMib', 'disks', 'nics', 'usbDevices']);
/** Why a field without a part of the plan waits. */
const whyAtStart: Partial<Record<keyof VmSpec, string>> = {
  cloudInit: 'A guest reads its first-boot data when it boots.',
  sharedFolders: 'A shared folder comes with a device, and for virtio-fs with memory, that the VM is started with.',
};
const builtAtStart = 'The VM is built with it when it starts.';

/** Steps in the order in which they are to be made: first what makes room, then what takes it. */
export function planChanges(now: Configuration, wanted: Configuration, report: DeviceReport): ChangePlan {
  const plan: ChangePlan = { steps: [], pending: [] };
  planNics(now, wanted, report, plan);
  planDisks(now, wanted, report, plan);
  planUsb(now, wanted, report, plan);
  const [removals, others] = partition(plan.steps, ({ action }) => action.kind.startsWith('detach-'));
  plan.steps = removals;
  planVcpus(now.spec, wanted.spec, report, plan);
  planMemory(now.spec, wanted.spec, report, plan);
  plan.steps.push(...others);
  planBootOrder(now, wanted, plan);
  planRest(now.spec, wanted.spec, plan);
  return plan;
}

/** What waits for the next start while the guest can't be asked what it could change. */
export function planWithoutGuest(now: Configuration, wanted: Configuration, reason: string): PendingChange[] {
  const nothing: DeviceReport = {
    vcpus: { now: now.spec.cpu.count, least: now.spec.cpu.count, most: now.spec.cpu.count, reason },
    memory: {
      nowMib: now.spec.memoryMib,
      leastMib: now.spec.memoryMib,
      mostMib: now.spec.memoryMib,
      stepMib: 1,
      reason,
    },
    balloon: { nowMib: null, reason },
    disks: now.disks.map(({ name }) => ({ name, sizeMib: null, fixedBy: reason })),
    nics: now.nics.map(({ mac }) => ({ mac, fixedBy: reason })),
    usbDevices: [],
    room: { diskBuses: [], nicModels: [], hasUsb: false, slots: 0, reason },
  };
  const { steps, pending } = planChanges(now, wanted, nothing);
  return [...steps.map(({ field, current, wanted: to }) => later({ field, current, wanted: to }, reason)), ...pending];
}

/** The effective configuration after a step was made. Null for NICs and disks that were not there. */
export function withStep(now: Configuration, wanted: Configuration, { action }: PlanStep): Configuration {
  const { spec } = now;
  const disk = (name: string): VmDisk | undefined => wanted.disks.find((one) => one.name === name);
  const changeDisk = (name: string, change: (one: VmDisk) => VmDisk): Configuration =>
    withDisks(
      now,
      now.disks.map((one) => (one.name === name ? change(one) : one)),
    );
  switch (action.kind) {
    case 'vcpus':
      return { ...now, spec: { ...spec, cpu: { ...spec.cpu, count: action.count } } };
    case 'memory':
      return { ...now, spec: { ...spec, memoryMib: action.sizeMib } };
    case 'balloon':
      return { ...now, spec: withOptional(spec, 'memoryTargetMib', action.targetMib ?? undefined) };
    case 'attach-disk': {
      const added = disk(action.name);
      return added ? withDisks(now, [...now.disks.filter(({ name }) => name !== action.name), added]) : now;
    }
    case 'detach-disk':
      return withDisks(
        now,
        now.disks.filter(({ name }) => name !== action.name),
      );
    case 'resize-disk':
      return changeDisk(action.name, (one) => ({ ...one, sizeMib: action.sizeMib }));
    case 'limits':
      return changeDisk(action.name, (one) => withOptional(one, 'limits', disk(action.name)?.limits));
    case 'medium':
      return changeDisk(action.name, (one) => withOptional(one, 'image', disk(action.name)?.image));
    case 'attach-nic': {
      const added = wanted.nics.find(({ mac }) => mac === action.mac);
      return added ? withNics(now, [...now.nics.filter(({ mac }) => mac !== action.mac), added]) : now;
    }
    case 'detach-nic':
      return withNics(
        now,
        now.nics.filter(({ mac }) => mac !== action.mac),
      );
    case 'link':
      return withNics(
        now,
        now.nics.map((one) =>
          one.mac === action.mac ? { ...one, nic: { ...one.nic, isConnected: action.isConnected } } : one,
        ),
      );
    case 'boot-order':
      return withBootOrder(now, wanted);
    case 'attach-usb': {
      const added = wanted.spec.usbDevices.find(({ name }) => name === action.name);
      return added ? { ...now, spec: { ...spec, usbDevices: [...spec.usbDevices, added] } } : now;
    }
    case 'detach-usb':
      return {
        ...now,
        spec: { ...spec, usbDevices: spec.usbDevices.filter(({ name }) => name !== action.name) },
      };
  }
}

function planVcpus(now: VmSpec, wanted: VmSpec, { vcpus }: DeviceReport, plan: ChangePlan): void {
  const field: Field = { field: 'spec.cpu.count', current: now.cpu.count, wanted: wanted.cpu.count };
  if (now.cpu.count !== wanted.cpu.count) {
    if (wanted.cpu.count >= vcpus.least && wanted.cpu.count <= vcpus.most)
      plan.steps.push({ ...field, action: { kind: 'vcpus', count: wanted.cpu.count } });
    else plan.pending.push(later(field, vcpus.reason));
  }
  for (const name of keysOf(now.cpu, wanted.cpu)) {
    if (name === 'count' || placedAtOnce.has(name) || isDeepStrictEqual(now.cpu[name], wanted.cpu[name])) continue;
    plan.pending.push(
      later(
        { field: `spec.cpu.${name}`, current: shown(now.cpu[name]), wanted: shown(wanted.cpu[name]) },
        builtAtStart,
      ),
    );
  }
}

function planMemory(now: VmSpec, wanted: VmSpec, { memory, balloon }: DeviceReport, plan: ChangePlan): void {
  const size: Field = { field: 'spec.memoryMib', current: now.memoryMib, wanted: wanted.memoryMib };
  const isWithin = wanted.memoryMib >= memory.leastMib && wanted.memoryMib <= memory.mostMib;
  const isStep = (wanted.memoryMib - memory.leastMib) % memory.stepMib === 0;
  let memoryMib = now.memoryMib;
  if (now.memoryMib !== wanted.memoryMib) {
    if (isWithin && isStep) {
      memoryMib = wanted.memoryMib;
      plan.steps.push({ ...size, action: { kind: 'memory', sizeMib: wanted.memoryMib } });
    } else if (isWithin)
      plan.pending.push(later(size, `While it runs, memory changes by multiples of ${memory.stepMib} MiB.`));
    else plan.pending.push(later(size, memory.reason));
  }
  const target: Field = {
    field: 'spec.memoryTargetMib',
    current: now.memoryTargetMib ?? null,
    wanted: wanted.memoryTargetMib ?? null,
  };
  if (now.memoryTargetMib === wanted.memoryTargetMib) return;
  if (balloon.nowMib === null) plan.pending.push(later(target, balloon.reason));
  else if (wanted.memoryTargetMib !== undefined && wanted.memoryTargetMib > memoryMib)
    plan.pending.push(later(target, `The guest has ${memoryMib} MiB now.`));
  else plan.steps.push({ ...target, action: { kind: 'balloon', targetMib: wanted.memoryTargetMib ?? null } });
}

function planDisks(now: Configuration, wanted: Configuration, report: DeviceReport, plan: ChangePlan): void {
  const fixedBy = new Map(report.disks.map((disk) => [disk.name, disk.fixedBy]));
  const have = new Map(now.disks.map((disk) => [disk.name, disk]));
  const want = new Map(wanted.disks.map((disk) => [disk.name, disk]));
  for (const before of now.disks) {
    if (want.has(before.name)) continue;
    const field: Field = { field: `spec.disks.${before.name}`, current: describeDisk(before), wanted: null };
    const why = fixedBy.get(before.name);
    if (why) plan.pending.push(later(field, why));
    else plan.steps.push({ ...field, action: { kind: 'detach-disk', name: before.name } });
  }
  for (const after of wanted.disks) {
    const before = have.get(after.name);
    if (before) {
      planDisk(before, after, plan);
      continue;
    }
    const field: Field = { field: `spec.disks.${after.name}`, current: null, wanted: describeDisk(after) };
    const why = noRoomForDisk(after, report, plan);
    if (why) plan.pending.push(later(field, why));
    else plan.steps.push({ ...field, action: { kind: 'attach-disk', name: after.name } });
  }
}

/** A disk that stays one. */
function planDisk(before: VmDisk, after: VmDisk, plan: ChangePlan): void {
  const field = (name: keyof VmDisk): Field => ({
    field: `spec.disks.${after.name}.${name}`,
    current: shown(before[name]),
    wanted: shown(after[name]),
  });
  for (const name of keysOf(before, after)) {
    // The boot order is one thing of all disks and NICs.
    if (name === 'bootIndex' || isDeepStrictEqual(before[name], after[name])) continue;
    const { name: disk, sizeMib } = after;
    if (name === 'limits') plan.steps.push({ ...field(name), action: { kind: 'limits', name: disk } });
    else if (name === 'image' && after.device === 'cdrom' && before.device === 'cdrom')
      plan.steps.push({ ...field(name), action: { kind: 'medium', name: disk } });
    else if (name === 'sizeMib' && sizeMib !== undefined && after.device === 'disk' && before.device === 'disk')
      plan.steps.push({ ...field(name), action: { kind: 'resize-disk', name: disk, sizeMib } });
    else if (name === 'sizeMib' && sizeMib === undefined) continue;
    else
      plan.pending.push(
        later(field(name), 'It belongs to the drive itself: take the disk out and put it in again, or restart.'),
      );
  }
}

function planNics(now: Configuration, wanted: Configuration, report: DeviceReport, plan: ChangePlan): void {
  const fixedBy = new Map(report.nics.map((nic) => [nic.mac, nic.fixedBy]));
  const want = new Map(wanted.nics.map((one) => [one.mac, one]));
  for (const [index, before] of now.nics.entries()) {
    const after = want.get(before.mac);
    const isSame = after !== undefined && isSameNic(before.nic, after.nic);
    if (isSame) {
      const { isConnected } = after.nic;
      if (before.nic.isConnected !== isConnected)
        plan.steps.push({
          field: `${nicField(wanted, before.mac)}.isConnected`,
          current: before.nic.isConnected,
          wanted: isConnected,
          action: { kind: 'link', mac: before.mac, isConnected },
        });
      continue;
    }
    const field: Field = {
      field: after ? nicField(wanted, before.mac) : `spec.nics.${index}`,
      current: describeNic(before),
      wanted: after ? describeNic(after) : null,
    };
    const why = fixedBy.get(before.mac) ?? (after && noRoomForNic(after.nic, report, null));
    if (why) {
      plan.pending.push(later(field, why));
      continue;
    }
    plan.steps.push({ ...field, action: { kind: 'detach-nic', mac: before.mac } });
    if (after) plan.steps.push({ ...field, action: { kind: 'attach-nic', mac: before.mac } });
  }
  const have = new Set(now.nics.map(({ mac }) => mac));
  for (const after of wanted.nics) {
    if (have.has(after.mac)) continue;
    const field: Field = { field: nicField(wanted, after.mac), current: null, wanted: describeNic(after) };
    const why = noRoomForNic(after.nic, report, plan);
    if (why) plan.pending.push(later(field, why));
    else plan.steps.push({ ...field, action: { kind: 'attach-nic', mac: after.mac } });
  }
}

/** What of a NIC counts at once, or has a step of its own. */
const changesInPlace = new Set<string>([
  'isConnected',
  'bootIndex',
  'mac',
  'forwards',
  'limits',
  'securityGroups',
  'hasAntiSpoofing',
  'allowedAddresses',
] satisfies (keyof VmNic)[]);

/** Whether both are one NIC, apart from its link, its place in the boot order, and what the host does for it. */
function isSameNic(before: VmNic, after: VmNic): boolean {
  const constant = (nic: VmNic): object =>
    Object.fromEntries(Object.entries(nic).filter(([name, value]) => value !== undefined && !changesInPlace.has(name)));
  return isDeepStrictEqual(constant(before), constant(after));
}

function nicField(wanted: Configuration, mac: string): string {
  return `spec.nics.${wanted.nics.findIndex((one) => one.mac === mac)}`;
}

function planUsb(now: Configuration, wanted: Configuration, report: DeviceReport, plan: ChangePlan): void {
  const have = new Map(now.spec.usbDevices.map((device) => [device.name, device]));
  const want = new Map(wanted.spec.usbDevices.map((device) => [device.name, device]));
  const why = report.room.hasUsb ? null : 'It has no USB controller, and gets one at its next start.';
  for (const before of now.spec.usbDevices) {
    const after = want.get(before.name);
    if (after?.type === before.type) continue;
    const field: Field = { field: `spec.usbDevices.${before.name}`, current: before.type, wanted: after?.type ?? null };
    if (why) plan.pending.push(later(field, why));
    else plan.steps.push({ ...field, action: { kind: 'detach-usb', name: before.name } });
  }
  for (const after of wanted.spec.usbDevices) {
    const before = have.get(after.name);
    if (before?.type === after.type) continue;
    const field: Field = { field: `spec.usbDevices.${after.name}`, current: before?.type ?? null, wanted: after.type };
    if (!why) plan.steps.push({ ...field, action: { kind: 'attach-usb', name: after.name } });
    else if (!before) plan.pending.push(later(field, why));
  }
}

function planBootOrder(now: Configuration, wanted: Configuration, plan: ChangePlan): void {
  const ranks = (of: Configuration): Map<string, number> =>
    new Map([
      ...of.disks.flatMap(({ name, bootIndex }) => (bootIndex === undefined ? [] : [[name, bootIndex] as const])),
      ...of.nics.flatMap(({ mac, nic }) => (nic.bootIndex === undefined ? [] : [[mac, nic.bootIndex] as const])),
    ]);
  const [before, after] = [ranks(now), ranks(wanted)];
  if (isDeepStrictEqual(before, after)) return;
  const field: Field = { field: 'spec.bootOrder', current: describeRanks(before), wanted: describeRanks(after) };
  // NICs boot by code that QEMU gives those that are in the order when it starts.
  const newcomer = now.nics.find(({ mac }) => !before.has(mac) && after.has(mac));
  if (newcomer)
    plan.pending.push(later(field, 'A NIC that was not in the boot order gets what it boots by at the next start.'));
  else plan.steps.push({ ...field, action: { kind: 'boot-order' } });
}

function withBootOrder(now: Configuration, wanted: Configuration): Configuration {
  const disks = new Map(wanted.disks.map((disk) => [disk.name, disk.bootIndex]));
  const nics = new Map(wanted.nics.map(({ mac, nic }) => [mac, nic.bootIndex]));
  const moved = withDisks(
    now,
    now.disks.map((disk) => withOptional(disk, 'bootIndex', disks.get(disk.name))),
  );
  return withNics(
    moved,
    moved.nics.map(({ mac, nic }) => ({ mac, nic: withOptional(nic, 'bootIndex', nics.get(mac)) })),
  );
}

/** Everything else waits, unless it counts at once. */
function planRest(now: VmSpec, wanted: VmSpec, plan: ChangePlan): void {
  for (const name of keysOf(now, wanted)) {
    if (countAtOnce.has(name) || planned.has(name) || isDeepStrictEqual(now[name], wanted[name])) continue;
    // First-boot data may hold secrets.
    const value = (spec: VmSpec): PendingChange['current'] =>
      name === 'cloudInit' ? (spec.cloudInit ? 'given' : null) : shown(spec[name]);
    plan.pending.push(
      later({ field: `spec.${name}`, current: value(now), wanted: value(wanted) }, whyAtStart[name] ?? builtAtStart),
    );
  }
}

function noRoomForDisk(disk: VmDisk, { room }: DeviceReport, plan: ChangePlan): string | null {
  if (disk.bus === undefined ? room.diskBuses.length === 0 : !room.diskBuses.includes(disk.bus)) return room.reason;
  return takesSlot(disk.bus) && slotsTaken(plan) >= room.slots ? noSlots(room.slots) : null;
}

function noRoomForNic({ model }: VmNic, { room }: DeviceReport, plan: ChangePlan | null): string | null {
  if (model === undefined ? room.nicModels.length === 0 : !room.nicModels.includes(model)) return room.reason;
  return plan && slotsTaken(plan) >= room.slots ? noSlots(room.slots) : null;
}

function takesSlot(bus: VmDisk['bus']): boolean {
  return bus === undefined || bus === 'virtio' || bus === 'nvme';
}

/** Slots that the steps planned so far take, less those they free. */
function slotsTaken({ steps }: ChangePlan): number {
  const count = (kinds: readonly string[]): number => steps.filter(({ action }) => kinds.includes(action.kind)).length;
  return count(['attach-disk', 'attach-nic']) - count(['detach-disk', 'detach-nic']);
}

function noSlots(slots: number): string {
  return slots === 0
    ? 'All places for devices that are added while it runs are taken.'
    : `There is room for ${slots} more disks and NICs while it runs.`;
}

function later(field: Field, reason: string): PendingChange {
  return { ...field, reason, needsRestart: true };
}

function withDisks(now: Configuration, disks: readonly VmDisk[]): Configuration {
  return { ...now, disks, spec: { ...now.spec, disks: [...disks] } };
}

function withNics(now: Configuration, nics: readonly AddressedNic[]): Configuration {
  return { ...now, nics, spec: { ...now.spec, nics: nics.map(({ nic }) => nic) } };
}

/** A copy with the field set, or without it. */
function withOptional<T extends object, Key extends keyof T>(object: T, key: Key, value: T[Key] | undefined): T {
  const { [key]: _before, ...rest } = object;
  return (value === undefined ? rest : { ...rest, [key]: value }) as T;
}

function keysOf<T extends object>(one: T, other: T): (keyof T & string)[] {
  return [...new Set([...Object.keys(one), ...Object.keys(other)])] as (keyof T & string)[];
}

function partition<T>(items: readonly T[], isFirst: (item: T) => boolean): [T[], T[]] {
  return [items.filter((item) => isFirst(item)), items.filter((item) => !isFirst(item))];
}

/** A value as a pending change shows it: texts and numbers as they are, the rest as JSON. */
function shown(value: unknown): PendingChange['current'] {
  if (value === undefined || value === null) return null;
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value;
  return JSON.stringify(value);
}

function describeDisk({ device, bus, volume, image, sizeMib }: VmDisk): string {
  const parts = [device, volume ?? image, sizeMib === undefined ? null : `${sizeMib} MiB`, bus && `on ${bus}`];
  return parts.filter(Boolean).join(', ');
}

function describeNic({ nic, mac }: AddressedNic): string {
  return [`network ${nic.network}`, nic.model, mac].filter(Boolean).join(', ');
}

function describeRanks(ranks: ReadonlyMap<string, number>): string | null {
  if (ranks.size === 0) return null;
  return [...ranks]
    .toSorted(([, one], [, other]) => one - other)
    .map(([name]) => name)
    .join(', ');
}
