// The steps that make a VM, bring its hardware in line with its spec, and delete it.
import { mkdir, rm } from 'node:fs/promises';
import { type Vm } from '../../api/vm.ts';
import { type VmDisk } from '../../api/vm-spec.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Volume } from '../../api/volume.ts';
import { describeDevices } from '../../api/describe-devices.ts';
import { imageOf, planHardware, seedPath, vmDirectory } from './definition.ts';
import { effectiveDisks, needsSeed } from './hardware.ts';
import { installsAgent } from './agent-install.ts';
import { removeSeed, writeSeed } from './seed.ts';
import { macsOf } from './vm-changes.ts';
import { vmSubject } from './vm-records.ts';
import { disconnect, hostTimeoutMs, type VmStep, type VmStepParts } from './vm-step.ts';

const disksTimeoutMs = 600_000;

/** Chooses what the VM keeps for life (user, MAC addresses), and makes its folder. */
export function settleIdentity(parts: VmStepParts): VmStep {
  const { records } = parts;
  return {
    name: 'settle identity',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { id }, taskId }) => {
      await mkdir(vmDirectory(parts, id), { recursive: true, mode: 0o711 });
      const vm = records.byId(id);
      await records.patch(id, {
        taskId,
        node: parts.node,
        uid: vm.status.uid ?? parts.uids.take(records.collection.all()),
        ...(await plannedHardware(parts, vm)),
      });
      await parts.networks.membersChanged();
    },
    undo: async ({ input: { id } }) => {
      await rm(vmDirectory(parts, id), { recursive: true, force: true });
      if (records.collection.get(id)) await records.collection.delete(id);
      await parts.networks.membersChanged();
      parts.images.planShowUsers();
    },
  };
}

/** Makes the VM's disks, or takes the volumes it names. */
export function provideDisks(parts: VmStepParts): VmStep {
  return {
    name: 'make disks',
    weight: 3,
    timeoutMs: disksTimeoutMs,
    run: async ({ input: { id }, progress, signal }) => {
      await alignDisks(parts, id, (percent, message) => {
        signal.throwIfAborted();
        progress({ percent, message });
      });
    },
    undo: async ({ input: { id } }) => {
      const vm = parts.records.collection.get(id);
      if (vm) await parts.volumes.surrender(vm);
    },
  };
}

/** Brings disks and NICs in line with a spec that was changed since the last start. What a disk held is kept. */
export function updateHardware(parts: VmStepParts): VmStep {
  return {
    name: 'update hardware',
    timeoutMs: disksTimeoutMs,
    run: async ({ input: { id } }) => {
      // A guest that is restored from its saved memory expects the hardware it was saved with.
      if (parts.records.byId(id).status.state === 'suspended' || parts.guests.get(id)) return;
      await alignHardware(parts, id);
    },
  };
}

/** Writes the first-boot data, where the VM gets any. */
export function writeFirstBootData(parts: VmStepParts): VmStep {
  return {
    name: 'write first-boot data',
    timeoutMs: hostTimeoutMs,
    run: ({ input: { id } }) => alignSeed(parts, id),
    undo: ({ input: { id } }) => removeSeed(seedPath(parts, id)),
  };
}

/** The VM is complete. */
export function markDefined(parts: VmStepParts): VmStep {
  return {
    name: 'finish',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { id } }) => {
      const vm = parts.records.byId(id);
      if (vm.status.state !== 'creating') return;
      await parts.records.transition(id, 'stopped', 'It has been created.');
      await parts.events.record({ type: 'vm.created', subject: vmSubject(vm), message: `VM ${vm.name} was created.` });
    },
  };
}

/** Deletes everything a VM has, also while it is up: then it is switched off first. There is no way back. */
export function deleteEverything(parts: VmStepParts): VmStep {
  const { records, driver, guests } = parts;
  return {
    name: 'delete',
    timeoutMs: disksTimeoutMs,
    isPivot: true,
    run: async ({ input: { id }, taskId }) => {
      // A creation that was cancelled leaves nothing to delete.
      const vm = records.collection.get(id);
      if (!vm) return;
      await guests.exclusively(id, async () => {
        const { state } = records.byId(id).status;
        if (liveVmStates.has(state)) {
          if (state !== 'stopping') await records.transition(id, 'stopping', 'It is being switched off.', { taskId });
          const guest = guests.get(id);
          if (guest) await guest.end();
          else await driver.endUnknown(id);
          await guests.finish(records.byId(id), 'forced-off', 'It was switched off to be deleted.');
        }
        guests.detach(id);
        await records.transition(id, 'deleting', 'It is being deleted.', { taskId });
      });
      await disconnect(parts, vm);
      await driver.forget({ id, directory: vmDirectory(parts, id) }, 'everything');
      await parts.forgetSnapshots(id);
      await parts.volumes.surrender(vm);
      await records.collection.delete(id);
      await parts.networks.membersChanged();
      parts.images.planShowUsers();
      await parts.events.record({ type: 'vm.deleted', subject: vmSubject(vm), message: `VM ${vm.name} was deleted.` });
    },
  };
}

/** Makes disks, NICs and first-boot data those of the spec. Does nothing where they are already. */
export async function alignHardware(parts: VmStepParts, id: string): Promise<void> {
  const { records } = parts;
  await alignDisks(parts, id);
  await records.patch(id, await plannedHardware(parts, records.byId(id)));
  await parts.networks.membersChanged();
  await alignSeed(parts, id);
}

async function alignDisks(
  parts: VmStepParts,
  id: string,
  report: (percent: number, disk: string) => void = () => {},
): Promise<void> {
  const vm = parts.records.byId(id);
  const wanted = effectiveDisks(vm.spec, imageOf(parts, vm));
  const disks: Vm['status']['disks'] = [];
  for (const [index, disk] of wanted.entries()) {
    report((100 * index) / wanted.length, disk.name);
    if (disk.device === 'cdrom') {
      const image = disk.image ? parts.images.require(vm.project, disk.image) : null;
      disks.push({ name: disk.name, volume: null, image: image?.id ?? null, sizeMib: null });
      continue;
    }
    const volume = await volumeOf(parts, vm, disk);
    disks.push({
      name: disk.name,
      volume: volume.id,
      image: volume.status.imageId,
      sizeMib: volume.status.virtualSizeMib,
    });
  }
  await parts.records.patch(id, { disks });
  // By what the volumes themselves say, so that one which an interrupted run has taken is not forgotten.
  const kept = new Set(disks.map((disk) => disk.volume));
  for (const volume of parts.volumes.usedBy(vm)) if (!kept.has(volume.id)) await parts.volumes.release(volume.id);
  parts.images.planShowUsers();
}

/** The volume of a disk: the one it has had, grown if the spec wants it larger, or a new one. */
async function volumeOf(parts: VmStepParts, vm: Vm, disk: VmDisk): Promise<Volume> {
  const beforeId = vm.status.disks.find((candidate) => candidate.name === disk.name)?.volume;
  const before = beforeId ? parts.volumes.get(beforeId) : null;
  const isSame =
    before?.status.state === 'ready' &&
    before.status.usedBy?.id === vm.id &&
    (disk.volume ? parts.volumes.require(vm.project, disk.volume).id === before.id : before.status.isOwnedByVm);
  const volume = isSame ? before : await parts.volumes.provide(vm, disk);
  return disk.volume || disk.sizeMib === undefined ? volume : parts.volumes.growTo(volume, disk.sizeMib);
}

/** What is known of the devices before the VM is started: which they will be, and the addresses that NICs keep. */
async function plannedHardware(parts: VmStepParts, vm: Vm): Promise<Pick<Vm['status'], 'nics' | 'devices'>> {
  const { hardware, accelerator } = await planHardware(parts, vm);
  const macs = macsOf(parts.records, vm, vm.spec.nics);
  return {
    devices: describeDevices(hardware, { accelerator, cpuFeatures: null }),
    nics: vm.spec.nics.map((nic, index) => ({
      network: nic.network,
      model: hardware.nics[index]!.model,
      mac: macs[index]!,
      hostInterface: null,
      addresses: [],
    })),
  };
}

async function alignSeed(parts: VmStepParts, id: string): Promise<void> {
  const vm = parts.records.byId(id);
  const path = seedPath(parts, id);
  const image = imageOf(parts, vm);
  if (!needsSeed(vm.spec, image)) return removeSeed(path);
  const { hardware } = await planHardware(parts, vm);
  await writeSeed(vm, path, { isAgentInstalled: installsAgent(vm.spec, image), hardware });
}
