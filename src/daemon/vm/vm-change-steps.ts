// The steps that change a VM while it runs. Each computes what is left to do from what the VM has now, as it was written
// down after the last change, so that a step that was broken off goes on where it was.
//
//   make disks ─▶ change devices ─▶ finish (no way back: a disk that has grown stays so)
//
// A change that the guest or the hypervisor refuses is no failure of the task: it stays pending, with that reason, and the
// others go on. What makes the task fail is the host: then everything is taken back.
import { bootOrder } from '../../api/boot-order.ts';
import { LodgeError } from '../../api/errors.ts';
import { describeDevices } from '../../api/describe-devices.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmDisk, type VmSpec } from '../../api/vm-spec.ts';
import { type DeviceChange, type Guest } from '../../drivers/driver.ts';
import { type Log } from '../store/informer.ts';
import { planChanges, withStep, type Configuration, type PlanStep } from './change-plan.ts';
import { guestDisk, guestNic, planHardware } from './definition.ts';
import { effectiveConfiguration, pendingFrom, wantedConfiguration } from './vm-changes.ts';
import { vmSubject } from './vm-records.ts';
import { hostTimeoutMs, type VmStep, type VmStepParts } from './vm-step.ts';

/** A guest has twenty seconds for each device; most take none of them. */
const changeTimeoutMs = 1_800_000;
const disksTimeoutMs = 600_000;

/** What the VM had before the task, for taking it back. */
interface Before {
  spec: VmSpec;
  macs: string[];
  disks: Vm['status']['disks'];
}

/** States in which devices can be changed. */
const changeable: ReadonlySet<Vm['status']['state']> = new Set(['running', 'paused']);

/** Makes the disks that are to be added, or takes the volumes they name. */
export function provideAddedDisks(parts: VmStepParts): VmStep {
  const { records, guests } = parts;
  return {
    name: 'make disks',
    timeoutMs: disksTimeoutMs,
    run: async ({ input: { id }, taskId, remember, state }) => {
      const vm = records.byId(id);
      const guest = guests.get(id);
      const now = effectiveConfiguration(parts, vm);
      if (!guest || !now || !changeable.has(vm.status.state)) return;
      await records.patch(id, { taskId });
      if (state['before'] === undefined)
        await remember({ before: { spec: now.spec, macs: now.nics.map(({ mac }) => mac), disks: vm.status.disks } });
      const wanted = wantedConfiguration(parts, vm);
      const { steps } = planChanges(now, wanted, await guest.devices.report());
      for (const { action } of steps) {
        if (action.kind !== 'attach-disk') continue;
        const disk = wanted.disks.find(({ name }) => name === action.name);
        if (disk) await provideDisk(parts, vm, disk);
      }
    },
    undo: async ({ input: { id }, state }) => {
      const before = state['before'] as Before | undefined;
      const vm = records.collection.get(id);
      if (!before || !vm) return;
      const kept = new Set(before.disks.map(({ volume }) => volume));
      for (const volume of parts.volumes.usedBy(vm)) {
        if (kept.has(volume.id)) continue;
        if (volume.status.isOwnedByVm) await parts.volumes.remove(volume.id);
        else await parts.volumes.release(volume.id);
      }
      await records.patch(id, { disks: before.disks });
    },
  };
}

async function provideDisk(parts: VmStepParts, vm: Vm, disk: VmDisk): Promise<void> {
  const known = { name: disk.name, volume: null, image: null, sizeMib: null };
  if (disk.device === 'cdrom') {
    await noteDisk(parts, vm.id, known);
    return;
  }
  const volume = await parts.volumes.provide(vm, disk);
  const { imageId: image, virtualSizeMib: sizeMib } = volume.status;
  await noteDisk(parts, vm.id, { ...known, volume: volume.id, image, sizeMib });
}

async function noteDisk(parts: VmStepParts, id: string, disk: Vm['status']['disks'][number]): Promise<void> {
  const { disks } = parts.records.byId(id).status;
  await parts.records.patch(id, { disks: [...disks.filter(({ name }) => name !== disk.name), disk] });
}

/** Adds, takes out and changes devices, one after the other. */
export function changeDevices(parts: VmStepParts): VmStep {
  const { records } = parts;
  return {
    name: 'change devices',
    weight: 5,
    timeoutMs: changeTimeoutMs,
    run: async ({ input: { id, isForced }, signal, progress, remember, log }) => {
      const refused = await bring(parts, id, () => wantedConfiguration(parts, records.byId(id)), {
        signal,
        isForced: isForced ?? false,
        log,
        progress: (percent, message) => progress({ percent, message }),
      });
      await remember({ refused });
    },
    undo: async ({ input: { id }, state, signal, log }) => {
      const before = state['before'] as Before | undefined;
      const vm = records.collection.get(id);
      if (!before || !vm) return;
      const target = configurationOf(parts, vm, before);
      await bring(parts, id, () => target, { signal, isForced: true, log, progress: () => {} });
    },
  };
}

function configurationOf(parts: VmStepParts, vm: Vm, before: Before): Configuration {
  const nics = before.spec.nics.map((nic, index) => ({ nic, mac: before.macs[index] ?? '' }));
  const whole = wantedConfiguration(parts, { ...vm, spec: before.spec });
  return { ...whole, nics };
}

interface Way {
  signal: AbortSignal;
  isForced: boolean;
  log: Log;
  progress: (percent: number, message: string) => void;
}

/** Brings a guest to a configuration as far as it goes. Answers with what was refused, by field. */
async function bring(
  parts: VmStepParts,
  id: string,
  wantedNow: () => Configuration,
  way: Way,
): Promise<Record<string, string>> {
  const refused: Record<string, string> = {};
  const guest = parts.guests.get(id);
  const before = parts.records.byId(id);
  const started = effectiveConfiguration(parts, before);
  if (!guest || !started || !changeable.has(before.status.state)) return refused;
  const wanted = wantedNow();
  const { steps } = planChanges(started, wanted, await guest.devices.report());
  for (const [index, step] of steps.entries()) {
    // What has grown stays so: that is left to the last step.
    if (step.action.kind === 'resize-disk' || isMoot(step, refused)) continue;
    way.signal.throwIfAborted();
    way.progress((100 * index) / steps.length, step.field);
    await makeStep(parts, id, guest, { step, wanted, refused, way });
  }
  await parts.networks.membersChanged();
  return refused;
}

/** Whether a step needs an earlier one that was refused: a NIC is put in again only where it was taken out. */
function isMoot({ field, action }: PlanStep, refused: Readonly<Record<string, string>>): boolean {
  return action.kind.startsWith('attach-') && refused[field] !== undefined;
}

async function makeStep(
  parts: VmStepParts,
  id: string,
  guest: Guest,
  { step, wanted, refused, way }: { step: PlanStep; wanted: Configuration; refused: Record<string, string>; way: Way },
): Promise<void> {
  const { action } = step;
  const added = action.kind === 'attach-disk' ? wanted.disks.find(({ name }) => name === action.name) : undefined;
  // The guest had no room for it when disks were made, and has now.
  const isMissing = added && !parts.records.byId(id).status.disks.some(({ name }) => name === added.name);
  if (isMissing) await provideDisk(parts, parts.records.byId(id), added);
  const vm = parts.records.byId(id);
  const now = effectiveConfiguration(parts, vm);
  if (!now) return;
  try {
    await guest.devices.change(await deviceChange(parts, vm, { step, now, wanted, isForced: way.isForced }), {
      signal: way.signal,
    });
  } catch (error) {
    if (way.signal.aborted || !(error instanceof LodgeError)) throw error;
    way.log.warn({ err: error, vm: vm.name, field: step.field }, 'a change could not be made while the VM runs');
    refused[step.field] = `${error.message} ${error.hint ?? ''}`.trim();
    if (step.action.kind === 'attach-nic') await parts.networks.disconnect(id, [step.action.mac]);
    // Memory moves block by block: what has moved has moved.
    if (step.action.kind === 'memory') await noteMemory(parts, id, guest);
    return;
  }
  await note(parts, id, guest, withStep(now, wanted, step));
  if (step.action.kind === 'detach-nic') await parts.networks.disconnect(id, [step.action.mac]);
}

/** A step of the plan as the driver makes it: names looked up, NICs connected on the host. */
async function deviceChange(
  parts: VmStepParts,
  vm: Vm,
  { step, now, wanted, isForced }: { step: PlanStep; now: Configuration; wanted: Configuration; isForced: boolean },
): Promise<DeviceChange> {
  const { action } = step;
  const diskOf = (name: string) => {
    const disk = wanted.disks.find((one) => one.name === name);
    if (!disk) throw new LodgeError('internal', `Disk ${name} of VM ${vm.name} is not in its spec.`);
    return disk;
  };
  const next = { ...vm, spec: withStep(now, wanted, step).spec };
  switch (action.kind) {
    case 'vcpus':
    case 'memory':
    case 'detach-disk':
    case 'detach-nic':
    case 'resize-disk':
    case 'link':
    case 'detach-usb':
      return action;
    case 'balloon':
      return { kind: 'balloon', targetMib: action.targetMib ?? now.spec.memoryMib };
    case 'limits':
      return { kind: 'limits', name: action.name, limits: diskOf(action.name).limits ?? null };
    case 'attach-disk':
    case 'medium': {
      const { hardware } = await planHardware(parts, next);
      const bus = hardware.disks.find(({ name }) => name === action.name)?.model ?? 'virtio';
      const disk = await guestDisk(parts, vm, diskOf(action.name), bus);
      return action.kind === 'medium' ? { kind: 'medium', disk, isForced } : { kind: 'attach-disk', disk };
    }
    case 'attach-nic': {
      const index = wanted.nics.findIndex(({ mac }) => mac === action.mac);
      const nic = wanted.nics[index]?.nic;
      const { hardware } = await planHardware(parts, next);
      const device = hardware.nics.at(-1);
      const { uid } = vm.status;
      if (!nic || !device || uid === null)
        throw new LodgeError('internal', `NIC ${action.mac} of VM ${vm.name} is not in its spec.`);
      const its = { mac: action.mac, field: `spec.nics.${index}`, device, uid };
      return { kind: 'attach-nic', nic: await guestNic(parts, vm, nic, its) };
    }
    case 'boot-order':
      return {
        kind: 'boot-order',
        order: bootOrder({ disks: wanted.disks, nics: wanted.nics.map(({ mac, nic }) => ({ ...nic, mac })) }),
      };
    case 'attach-usb': {
      const device = wanted.spec.usbDevices.find(({ name }) => name === action.name);
      if (!device) throw new LodgeError('internal', `USB device ${action.name} of VM ${vm.name} is not in its spec.`);
      return { kind: 'attach-usb', device };
    }
  }
}

/** Writes down what the VM has now: its effective spec, its NICs and devices, and where they sit. */
async function note(parts: VmStepParts, id: string, guest: Guest, next: Configuration): Promise<void> {
  const vm = parts.records.byId(id);
  const planned = (await planHardware(parts, { ...vm, spec: next.spec })).hardware;
  const { networks } = parts;
  await parts.records.collection.setStatus(id, (status) => {
    const queues = new Map(status.nics.map(({ mac }, index) => [mac, status.pinned?.hardware.nics[index]?.queues]));
    const hardware: VmHardware = {
      ...planned,
      // A NIC has the queues that it was made with, however many vCPUs there are by now.
      nics: planned.nics.map((nic, index) => ({
        ...nic,
        queues: queues.get(next.nics[index]?.mac ?? '') ?? nic.queues,
      })),
    };
    const pinned = status.pinned && { ...status.pinned, hotplug: guest.pinned.hotplug, hardware };
    const nics = next.nics.map(({ nic, mac }, index) => {
      const known = status.nics.find((one) => one.mac === mac);
      return {
        network: nic.network,
        model: hardware.nics[index]?.model ?? known?.model ?? 'virtio',
        mac,
        hostInterface: networks.hostInterface(vm.project, nic.network, id, mac),
        addresses: known?.network === nic.network ? known.addresses : [],
      };
    });
    const devices = pinned ? describeDevices(pinned.hardware, pinned) : status.devices;
    return { ...status, startedSpec: next.spec, nics, pinned, devices };
  });
}

async function noteMemory(parts: VmStepParts, id: string, guest: Guest): Promise<void> {
  const { memory } = await guest.devices.report();
  await parts.records.collection.setStatus(id, (status) =>
    status.startedSpec ? { ...status, startedSpec: { ...status.startedSpec, memoryMib: memory.nowMib } } : status,
  );
}

/** Grows disks, frees those that are no longer the VM's, and says what is left pending. */
export function finishChange(parts: VmStepParts): VmStep {
  const { records, guests, events } = parts;
  return {
    name: 'finish',
    timeoutMs: hostTimeoutMs,
    isPivot: true,
    run: async ({ input: { id }, signal, state, log }) => {
      const guest = guests.get(id);
      const before = records.byId(id);
      const now = effectiveConfiguration(parts, before);
      if (!guest || !now || !changeable.has(before.status.state)) return;
      const refused = { ...(state['refused'] as Record<string, string> | undefined) };
      const wanted = wantedConfiguration(parts, before);
      const { steps } = planChanges(now, wanted, await guest.devices.report());
      for (const step of steps) {
        if (step.action.kind !== 'resize-disk') continue;
        const { name, sizeMib } = step.action;
        await makeStep(parts, id, guest, {
          step,
          wanted,
          refused,
          way: { signal, isForced: false, log, progress: () => {} },
        });
        const volume = records.byId(id).status.disks.find((disk) => disk.name === name)?.volume;
        if (refused[step.field] === undefined && volume) await parts.volumes.noteGrown(volume, sizeMib);
      }
      await freeDisks(parts, id);
      const vm = records.byId(id);
      const pendingChanges = await pendingFrom(parts, vm, guest, refused);
      await records.patch(id, { pendingChanges });
      const done = state['before'] !== undefined && pendingChanges.length === 0;
      await events.record({
        type: 'vm.changed',
        subject: vmSubject(vm),
        severity: Object.keys(refused).length > 0 ? 'warning' : 'info',
        message: done
          ? `VM ${vm.name} was changed while it ran.`
          : `VM ${vm.name} was changed while it ran; not in effect yet: ${pendingChanges.map(({ field }) => field).join(', ')}.`,
      });
      parts.images.planShowUsers();
    },
  };
}

/** Disks that the VM has no longer are free; those it has are as large as their volumes. */
async function freeDisks(parts: VmStepParts, id: string): Promise<void> {
  const { records, volumes } = parts;
  const vm = records.byId(id);
  const names = new Set(effectiveConfiguration(parts, vm)?.disks.map(({ name }) => name));
  const disks = vm.status.disks
    .filter(({ name }) => names.has(name))
    .map((disk) => {
      const volume = disk.volume ? volumes.get(disk.volume) : null;
      return volume ? { ...disk, sizeMib: volume.status.virtualSizeMib } : disk;
    });
  await records.patch(id, { disks });
  const kept = new Set(disks.map(({ volume }) => volume));
  for (const volume of volumes.usedBy(vm)) if (!kept.has(volume.id)) await volumes.release(volume.id);
}
