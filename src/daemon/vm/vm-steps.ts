// The steps that tasks on VMs are made of. Each can be run again and undone; see task.ts for what that demands.
import { mkdir, rm } from 'node:fs/promises';
import { LodgeError } from '../../api/errors.ts';
import { type Vm, type VmExit } from '../../api/vm.ts';
import { type Driver, type Guest } from '../../drivers/driver.ts';
import { type EventService } from '../event/event-service.ts';
import { type TaskStep } from '../task/task.ts';
import { defineGuest, imageOf, needsSeed, seedPath, vmDirectory, type DefinitionParts } from './definition.ts';
import { assignMacs, effectiveDisks } from './hardware.ts';
import { writeSeed } from './seed.ts';
import { type UidPool } from './uid-pool.ts';
import { type VmGuests } from './vm-guests.ts';
import { vmSubject, type VmRecords } from './vm-records.ts';

export interface VmStepParts extends DefinitionParts {
  records: VmRecords;
  guests: VmGuests;
  driver: Driver;
  events: EventService;
  uids: UidPool;
  node: string;
}

/** What every task on a VM is given. */
export interface VmTaskInput {
  id: string;
}
type Step = TaskStep<VmTaskInput & { timeoutS?: number | undefined }, Record<string, unknown>, unknown>;

const hostTimeoutMs = 60_000;

/** Chooses what the VM keeps for life (user, MAC addresses), and makes its folder. */
export function settleIdentity(parts: VmStepParts): Step {
  const { records } = parts;
  return {
    name: 'settle identity',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { id }, taskId }) => {
      const vm = records.byId(id);
      const inUse = new Set(
        [...records.collection.all()]
          .filter((other) => other.id !== id)
          .flatMap((other) => other.status.nics.map((nic) => nic.mac)),
      );
      const macs = assignMacs(vm.spec.nics, vm.status.nics, inUse);
      await mkdir(vmDirectory(parts, id), { recursive: true, mode: 0o711 });
      const updated = await records.patch(id, {
        taskId,
        node: parts.node,
        uid: vm.status.uid ?? parts.uids.take(records.collection.all()),
        nics: vm.spec.nics.map((nic, index) => ({
          network: nic.network,
          model: nic.model,
          mac: macs[index]!,
          hostInterface: null,
          addresses: [],
        })),
      });
      await parts.networks.setMembers(updated);
    },
    undo: async ({ input: { id } }) => {
      const vm = records.collection.get(id);
      if (vm) await parts.networks.setMembers(vm, true);
      await rm(vmDirectory(parts, id), { recursive: true, force: true });
      if (vm) await records.collection.delete(id);
    },
  };
}

/** Makes the VM's disks, or takes the volumes it names. */
export function provideDisks(parts: VmStepParts): Step {
  return {
    name: 'make disks',
    weight: 3,
    timeoutMs: 600_000,
    run: async ({ input: { id }, progress, signal }) => {
      const vm = parts.records.byId(id);
      const wanted = effectiveDisks(vm.spec, imageOf(parts, vm));
      const disks: Vm['status']['disks'] = [];
      for (const [index, disk] of wanted.entries()) {
        signal.throwIfAborted();
        progress({ percent: (100 * index) / wanted.length, message: disk.name });
        const image = disk.image ? parts.images.require(vm.project, disk.image) : null;
        if (disk.device === 'cdrom')
          disks.push({ name: disk.name, volume: null, image: image?.id ?? null, sizeMib: null });
        else {
          const volume = await parts.volumes.provide(vm, disk);
          disks.push({
            name: disk.name,
            volume: volume.id,
            image: volume.status.imageId,
            sizeMib: volume.status.virtualSizeMib,
          });
        }
      }
      await parts.records.patch(id, { disks });
      await parts.images.showUsers();
    },
    undo: async ({ input: { id } }) => {
      const vm = parts.records.collection.get(id);
      if (vm) await parts.volumes.surrender(vm);
    },
  };
}

/** Brings disks and NICs in line with a spec that was changed since the last start. What a disk held is kept. */
export function updateHardware(parts: VmStepParts): Step {
  const { records } = parts;
  return {
    name: 'update hardware',
    timeoutMs: 600_000,
    run: async ({ input: { id } }) => {
      const vm = records.byId(id);
      // A guest that is restored from its saved memory expects the hardware it was saved with.
      if (vm.status.state === 'suspended' || parts.guests.get(id)) return;
      const inUse = new Set(
        [...records.collection.all()]
          .filter((other) => other.id !== id)
          .flatMap((other) => other.status.nics.map((nic) => nic.mac)),
      );
      const macs = assignMacs(vm.spec.nics, vm.status.nics, inUse);
      const wanted = effectiveDisks(vm.spec, imageOf(parts, vm)).filter((disk) => disk.device === 'disk');
      const disks: Vm['status']['disks'] = [];
      for (const disk of wanted) {
        const before = vm.status.disks.find((candidate) => candidate.name === disk.name);
        const isSame =
          before?.volume &&
          parts.volumes.get(before.volume) &&
          (!disk.volume || parts.volumes.require(vm.project, disk.volume).id === before.volume);
        const volume =
          isSame && before.volume ? parts.volumes.get(before.volume)! : await parts.volumes.provide(vm, disk);
        disks.push({
          name: disk.name,
          volume: volume.id,
          image: volume.status.imageId,
          sizeMib: volume.status.virtualSizeMib,
        });
      }
      const gone = vm.status.disks.filter((disk) => disk.volume && !disks.some((kept) => kept.volume === disk.volume));
      for (const disk of gone) if (disk.volume) await parts.volumes.release(disk.volume);
      const updated = await records.patch(id, {
        disks,
        nics: vm.spec.nics.map((nic, index) => ({
          network: nic.network,
          model: nic.model,
          mac: macs[index]!,
          hostInterface: null,
          addresses: vm.status.nics[index]?.addresses ?? [],
        })),
      });
      await parts.networks.setMembers(updated);
      if (needsSeed(vm, imageOf(parts, vm))) await writeSeed(updated, seedPath(parts, id));
    },
  };
}

/** Writes the first-boot data, where the VM gets any. */
export function writeFirstBootData(parts: VmStepParts): Step {
  return {
    name: 'write first-boot data',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { id } }) => {
      const vm = parts.records.byId(id);
      if (needsSeed(vm, imageOf(parts, vm))) await writeSeed(vm, seedPath(parts, id));
    },
    undo: ({ input: { id } }) => rm(seedPath(parts, id), { force: true }),
  };
}

/** The VM is complete. */
export function markDefined(parts: VmStepParts): Step {
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

/** Connects the NICs and starts the hypervisor process, or takes over one that an interrupted run started. */
export function startGuest(parts: VmStepParts): Step {
  const { records, guests, driver } = parts;
  return {
    name: 'start the hypervisor',
    weight: 5,
    timeoutMs: 180_000,
    run: async ({ input: { id }, taskId, signal, remember, state }) => {
      const before = records.byId(id);
      const isRestoring =
        state['isRestoring'] === undefined ? before.status.state === 'suspended' : state['isRestoring'] === true;
      await remember({ isRestoring, before: state['before'] ?? before.status.state });
      let guest = await takeOver(parts, before, signal);
      await records.transition(
        id,
        'starting',
        isRestoring ? 'Its memory is being restored.' : 'Its hypervisor process is being started.',
        { taskId },
      );
      if (!guest) {
        const definition = await defineGuest(parts, records.byId(id));
        guest = await driver.start(definition, { signal, isRestoring });
        await records.patch(id, {
          pinned: guest.pinned,
          nics: records.byId(id).status.nics.map((nic, index) => {
            const attachment = definition.nics[index]?.attachment;
            return { ...nic, hostInterface: attachment?.kind === 'tap' ? attachment.hostInterface : null };
          }),
        });
      }
      await guests.exclusively(id, async () => {
        guests.attach(id, guest);
        const vm = records.byId(id);
        await records.transition(
          id,
          'running',
          isRestoring ? 'It continues from its saved memory.' : 'Its vCPUs run.',
          {
            pid: guest.pid,
            startedAt: vm.status.startedAt ?? new Date().toISOString(),
            startedSpec: vm.spec,
            pendingChanges: [],
          },
        );
      });
      await parts.events.record({
        type: isRestoring ? 'vm.restored' : 'vm.started',
        subject: vmSubject(before),
        message: `VM ${before.name} ${isRestoring ? 'continues from its saved memory' : 'was started'}.`,
      });
    },
    undo: async ({ input: { id }, state }) => {
      const vm = records.collection.get(id);
      if (!vm) return;
      const guest = guests.get(id);
      if (guest) await guest.end();
      else await driver.endUnknown(id);
      const to = state['before'] === 'suspended' ? 'suspended' : 'stopped';
      if (!['starting', 'running', 'paused', 'crashed', 'stopping'].includes(vm.status.state)) {
        guests.detach(id);
        await disconnect(parts, vm);
        return;
      }
      await guests.exclusively(
        id,
        async () =>
          void (await guests.finish(records.byId(id), 'start-failed', 'Its last start failed or was cancelled.', to)),
      );
    },
  };
}

/** The guest that an interrupted start left, if it runs. One whose vCPUs never ran is ended: how far it had come is not known. */
async function takeOver(parts: VmStepParts, vm: Vm, signal: AbortSignal): Promise<Guest | null> {
  const { driver, guests } = parts;
  let guest = guests.get(vm.id);
  if (!guest && vm.status.state !== 'starting') return null;
  if (!guest && vm.status.pinned && (await driver.discover()).has(vm.id)) {
    guest = await driver.adopt(
      { id: vm.id, name: vm.name, directory: vmDirectory(parts, vm.id), pinned: vm.status.pinned },
      { signal },
    );
  }
  if (guest && (await guest.state()) === 'running') return guest;
  if (guest) await guest.end();
  else await driver.endUnknown(vm.id);
  guests.detach(vm.id);
  return null;
}

/** Asks the guest to shut down, and waits until it did or the time is over. */
export function askToShutDown(parts: VmStepParts): Step {
  const { records, guests } = parts;
  return {
    name: 'ask the guest to shut down',
    weight: 5,
    timeoutMs: 86_400_000 + hostTimeoutMs,
    run: async ({ input: { id, timeoutS }, taskId, signal, log, remember, state }) => {
      const vm = records.byId(id);
      const guest = guests.get(id);
      if (!guest) return;
      const from = vm.status.state;
      await remember({ before: state['before'] ?? from });
      await guests.exclusively(id, () =>
        records.transition(id, 'stopping', 'The guest was asked to shut down.', { taskId }),
      );
      if (from === 'crashed') return;
      // Stopped vCPUs can't see a power button.
      if (from === 'paused') await guest.resume();
      const timeoutMs = (timeoutS ?? vm.spec.stopTimeoutS) * 1000;
      const isOver = (message: { type: string; state?: string }): boolean =>
        message.type === 'ended' || (message.type === 'state' && message.state === 'shutdown');
      if ((await guest.state().catch(() => 'shutdown')) === 'shutdown' || timeoutMs === 0) return;
      const heard = await guests.waitFor(id, isOver, timeoutMs, signal, () =>
        guest
          .powerDown()
          .catch((error: unknown) => log.warn({ err: error, vmId: id }, 'the power button could not be pressed')),
      );
      await remember({ didShutDown: heard !== null });
    },
    undo: async ({ input: { id }, state }) => {
      const vm = records.collection.get(id);
      const guest = guests.get(id);
      if (!vm || !guest || vm.status.state !== 'stopping') return;
      const now = await guest.state().catch(() => null);
      if (now === 'running' || now === 'paused' || now === 'crashed') {
        await guests.exclusively(id, () =>
          records.transition(id, now, `It was to be stopped from ${String(state['before'])}; that was cancelled.`),
        );
      }
    },
  };
}

/** Ends the hypervisor process if it is still there, and records how the VM ended. */
export function endGuest(parts: VmStepParts, cause: Extract<VmExit['cause'], 'stopped' | 'forced-off'>): Step {
  const { records, guests, driver } = parts;
  return {
    name: 'end the hypervisor',
    timeoutMs: hostTimeoutMs,
    isPivot: true,
    run: async ({ input: { id }, taskId, state }) => {
      const vm = records.byId(id);
      if (vm.status.state === 'stopped') return;
      if (vm.status.state === 'suspended') {
        await driver.forget({ id, directory: vmDirectory(parts, id) }, 'state');
        await records.transition(id, 'stopped', 'Its saved memory was discarded.');
        return;
      }
      await guests.exclusively(id, async () => {
        if (records.byId(id).status.state !== 'stopping')
          await records.transition(id, 'stopping', 'It is being switched off.', { taskId });
        const guest = guests.get(id);
        if (guest) await guest.end();
        else await driver.endUnknown(id);
        const wasForced = cause === 'forced-off' || state['didShutDown'] === false;
        const message =
          cause === 'forced-off'
            ? 'It was switched off.'
            : wasForced
              ? 'The guest did not shut down in time and was switched off.'
              : 'The guest shut down when it was asked to.';
        await guests.finish(records.byId(id), wasForced ? 'forced-off' : 'stopped', message);
        await parts.events.record({
          type: wasForced ? 'vm.forced-off' : 'vm.stopped',
          subject: vmSubject(vm),
          severity: wasForced && cause === 'stopped' ? 'warning' : 'info',
          message: `VM ${vm.name}: ${message}`,
        });
      });
    },
  };
}

/** Saves memory to disk and ends the hypervisor process. */
export function suspendGuest(parts: VmStepParts): Step {
  const { records, guests } = parts;
  return {
    name: 'save memory',
    timeoutMs: 3_600_000,
    run: async ({ input: { id }, taskId, signal, progress, remember, state }) => {
      const vm = records.byId(id);
      if (vm.status.state === 'suspended') return;
      const guest = guests.get(id);
      if (!guest) {
        // The process ended after an earlier run had saved everything, or died before; only a complete file counts.
        if (state['isSaving'] === true && state['wasSaved'] === true) {
          await guests.finish(vm, 'suspended', 'Its memory is saved on disk.', 'suspended');
          return;
        }
        throw new LodgeError('hypervisor_failed', `VM ${vm.name} ended while its memory was being saved.`);
      }
      await remember({ isSaving: true });
      await guests.exclusively(id, () =>
        records.transition(id, 'suspending', 'Its memory is being saved.', { taskId }),
      );
      await guest.suspend({ signal, onProgress: (bytesDone, bytesTotal) => progress({ bytesDone, bytesTotal }) });
      await remember({ wasSaved: true });
      await guests.exclusively(
        id,
        async () =>
          void (await guests.finish(records.byId(id), 'suspended', 'Its memory is saved on disk.', 'suspended')),
      );
      await parts.events.record({
        type: 'vm.suspended',
        subject: vmSubject(vm),
        message: `VM ${vm.name} was suspended to disk.`,
      });
    },
    undo: async ({ input: { id } }) => {
      const vm = records.collection.get(id);
      const guest = guests.get(id);
      if (vm?.status.state !== 'suspending' || !guest) return;
      await guest.resume().catch(() => {});
      const now = await guest.state();
      if (now !== 'shutdown')
        await guests.exclusively(id, () =>
          records.transition(id, now, 'Saving its memory failed or was cancelled; it runs on.'),
        );
    },
  };
}

/** Deletes everything a VM has. There is no way back. */
export function deleteEverything(parts: VmStepParts): Step {
  const { records, driver } = parts;
  return {
    name: 'delete',
    timeoutMs: 600_000,
    isPivot: true,
    run: async ({ input: { id }, taskId }) => {
      const vm = records.collection.get(id);
      if (!vm) return;
      if (vm.status.state !== 'deleting') await records.transition(id, 'deleting', 'It is being deleted.', { taskId });
      await disconnect(parts, vm);
      await driver.forget({ id, directory: vmDirectory(parts, id) }, 'everything');
      await parts.volumes.surrender(vm);
      await parts.networks.setMembers(vm, true);
      await records.collection.delete(id);
      await parts.images.showUsers();
      await parts.events.record({ type: 'vm.deleted', subject: vmSubject(vm), message: `VM ${vm.name} was deleted.` });
    },
  };
}

/** Takes away the VM's taps, as many as it can have. */
export function disconnect(parts: Pick<VmStepParts, 'networks'>, vm: Vm): Promise<void> {
  return parts.networks.disconnect(vm.id, Math.max(vm.spec.nics.length, vm.status.nics.length));
}
