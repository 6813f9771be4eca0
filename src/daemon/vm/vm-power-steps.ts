// The steps that start and end guests. A guest that an interrupted run has started or is ending is taken up where it is.
import { describeDevices } from '../../api/describe-devices.ts';
import { LodgeError } from '../../api/errors.ts';
import { type Vm, type VmExit } from '../../api/vm.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Guest, type GuestMessage } from '../../drivers/driver.ts';
import { requireBootOnce } from './boot-once.ts';
import { defineGuest, vmDirectory } from './definition.ts';
import { provideGenerationId } from './generation-id.ts';
import { alignHardware } from './vm-make-steps.ts';
import { vmSubject } from './vm-records.ts';
import { disconnect, hostTimeoutMs, type VmStep, type VmStepParts } from './vm-step.ts';

const startTimeoutMs = 180_000;
const longestStopMs = 86_400_000;
const pressAgainMs = 10_000;
const saveTimeoutMs = 3_600_000;

/** Connects the NICs and starts the hypervisor process, or takes over one that an interrupted run started. */
export function startGuest(parts: VmStepParts): VmStep {
  const { records, guests, driver } = parts;
  return {
    name: 'start the hypervisor',
    weight: 5,
    timeoutMs: startTimeoutMs,
    run: async ({ input: { id, bootOnce }, taskId, signal, remember, state }) => {
      const isRestoring = state['isRestoring'] === true || records.byId(id).status.state === 'suspended';
      if (isRestoring) await remember({ isRestoring });
      try {
        let guest = await takeOver(parts, records.byId(id), signal);
        if (!guest) {
          const vm = await guests.exclusively(id, () => beginStart(parts, id, taskId, isRestoring));
          const spec = vm.status.startedSpec ?? vm.spec;
          const definition = await defineGuest(parts, { ...vm, spec }, { isRestoring });
          const bootFirst = bootOnce === undefined ? undefined : await requireBootOnce(parts, vm, bootOnce);
          guest = await driver.start(definition, { signal, isRestoring, bootFirst });
        }
        const started = guest;
        await guests.exclusively(id, async () => {
          guests.attach(id, started);
          await noteRunning(parts, id, started, isRestoring, bootOnce ?? null);
        });
      } catch (error) {
        // When it was told to end, what it has begun is undone, or gone on with by the next daemon.
        if (!signal.aborted) await giveUpStart(parts, id, isRestoring, error);
        throw error;
      }
      guests.facts.wake(id);
      const vm = records.byId(id);
      await parts.events.record({
        type: isRestoring ? 'vm.restored' : 'vm.started',
        subject: vmSubject(vm),
        message: `VM ${vm.name} ${isRestoring ? 'continues from its saved memory' : 'was started'}${bootOnce === undefined ? '' : `, once from ${bootOnce}`}.`,
      });
    },
    undo: ({ input: { id }, state }) => giveUpStart(parts, id, state['isRestoring'] === true, null),
  };
}

/** Ends what a start has begun, and records the VM as it is then. Can be repeated. */
async function giveUpStart(parts: VmStepParts, id: string, isRestoring: boolean, error: unknown): Promise<void> {
  const { records, guests, driver } = parts;
  if (!records.collection.get(id)) return;
  await guests.exclusively(id, async () => {
    const guest = guests.get(id);
    if (guest) await guest.end();
    else await driver.endUnknown(id);
    guests.detach(id);
    const vm = records.byId(id);
    if (!liveVmStates.has(vm.status.state)) {
      await disconnect(parts, vm);
      return;
    }
    // Memory that a guest has gone on from is used up: its disks are ahead of it.
    const hasMemory = isRestoring && (await driver.hasSavedState({ id, directory: vmDirectory(parts, id) }));
    const message =
      error instanceof LodgeError ? `Its start failed: ${error.message}` : 'Its last start failed or was cancelled.';
    await guests.finish(vm, 'start-failed', message, hasMemory ? 'suspended' : 'stopped');
  });
}

/** From here on the spec may change without the guest: it is started with the one of this moment. */
async function beginStart(parts: VmStepParts, id: string, taskId: string, isRestoring: boolean): Promise<Vm> {
  if (!isRestoring) await alignHardware(parts, id);
  await provideGenerationId(parts.records, id);
  const vm = parts.records.byId(id);
  const startedSpec = isRestoring ? (vm.status.startedSpec ?? vm.spec) : vm.spec;
  const reason = isRestoring ? 'Its memory is being restored.' : 'Its hypervisor process is being started.';
  const patch = { taskId, startedSpec, ...(isRestoring ? {} : { pendingChanges: [] }) };
  await parts.records.transition(id, 'starting', reason, patch);
  await parts.placements.reserve(id, startedSpec);
  return parts.records.byId(id);
}

function noteRunning(
  parts: VmStepParts,
  id: string,
  guest: Guest,
  isRestoring: boolean,
  bootedOnceFrom: string | null,
): Promise<Vm> {
  const { status, project, spec } = parts.records.byId(id);
  // Its clock shows the time of its saving, however long ago that is.
  const isStale = isRestoring && spec.hasClockSync;
  return parts.records.transition(
    id,
    'running',
    isRestoring ? 'It continues from its saved memory.' : 'Its vCPUs run.',
    {
      pinned: guest.pinned,
      devices: describeDevices(guest.pinned.hardware, guest.pinned),
      pid: guest.pid,
      bootedOnceFrom,
      startedAt: status.startedAt ?? new Date().toISOString(),
      restarts: { ...status.restarts, nextAt: null },
      clockStaleSince: isStale ? new Date().toISOString() : null,
      nics: status.nics.map((nic) => ({
        ...nic,
        hostInterface: parts.networks.hostInterface(project, nic.network, id, nic.mac),
      })),
    },
  );
}

/** The guest that an interrupted start left, if it runs. One whose vCPUs never ran is ended: how far it had come is not known. */
async function takeOver(parts: VmStepParts, vm: Vm, signal: AbortSignal): Promise<Guest | null> {
  const { driver, guests } = parts;
  let guest = await guests.arrived(vm.id);
  if (!guest && !liveVmStates.has(vm.status.state)) return null;
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
export function askToShutDown(parts: VmStepParts): VmStep {
  const { records, guests } = parts;
  return {
    name: 'ask the guest to shut down',
    weight: 5,
    timeoutMs: longestStopMs + hostTimeoutMs,
    run: async ({ input: { id, timeoutS }, taskId, signal, log, remember, state }) => {
      if (!liveVmStates.has(records.byId(id).status.state)) return;
      const guest = await reach(parts, records.byId(id));
      if (!guest) return;
      const before = state['before'] ?? records.byId(id).status.state;
      await remember({ before });
      const isUp = await guests.exclusively(id, async () => {
        // It may have ended by itself a moment ago.
        if (!liveVmStates.has(records.byId(id).status.state)) return false;
        await records.transition(id, 'stopping', 'The guest was asked to shut down.', { taskId });
        return true;
      });
      if (!isUp) return;
      const timeoutMs = (timeoutS ?? records.byId(id).spec.stopTimeoutS) * 1000;
      if (before === 'crashed' || timeoutMs === 0) {
        await remember({ didShutDown: false });
        return;
      }
      // Stopped vCPUs can't see a power button.
      if (before === 'paused') await guest.resume();
      const isOver = (message: GuestMessage): boolean =>
        message.type === 'ended' || (message.type === 'state' && message.state === 'shutdown');
      const ask = async (): Promise<GuestMessage | null> => {
        // One that has shut down already tells nothing any more, whatever it is asked.
        if ((await guest.state().catch(() => null)) === 'shutdown') return { type: 'state', state: 'shutdown' };
        await guest
          .powerDown()
          .catch((error: unknown) => log.warn({ err: error, vmId: id }, 'the power button could not be pressed'));
        return null;
      };
      // A guest that is still booting does not hear it, and one that shuts down already doesn't mind.
      const heard = await guests.waitFor(id, isOver, { timeoutMs, signal, ask, askAgainMs: pressAgainMs });
      if (heard?.type === 'ended' && heard.cause !== 'stopped')
        await remember({ diedOf: { cause: heard.cause, message: heard.message } });
      // One that was ended meanwhile was switched off by somebody else.
      await remember({ didShutDown: heard?.type === 'state' });
    },
    undo: async ({ input: { id }, state }) => {
      const guest = guests.get(id);
      if (!guest || records.collection.get(id)?.status.state !== 'stopping') return;
      if (state['before'] === 'paused') await guest.pause().catch(() => {});
      const now = await guest.state().catch(() => null);
      if (now === null || now === 'shutdown') return;
      await guests.exclusively(id, () =>
        records.transition(id, now, `It was to be stopped from ${String(state['before'])}; that was cancelled.`),
      );
    },
  };
}

/** The guest of a VM that is up; null when its process is gone. One that exists but doesn't answer can't be asked anything. */
async function reach(parts: VmStepParts, vm: Vm): Promise<Guest | null> {
  const guest = await parts.guests.arrived(vm.id);
  if (guest) return guest;
  return (await parts.driver.discover()).has(vm.id) ? parts.guests.require(vm) : null;
}

/** Ends the hypervisor process if it is still there, and records how the VM ended. */
export function endGuest(parts: VmStepParts, cause: Extract<VmExit['cause'], 'stopped' | 'forced-off'>): VmStep {
  const { records, guests, driver } = parts;
  return {
    name: 'end the hypervisor',
    timeoutMs: hostTimeoutMs,
    isPivot: true,
    run: async ({ input: { id }, taskId, state }) => {
      const now = records.collection.get(id)?.status.state;
      if (now === 'suspended') {
        await driver.forget({ id, directory: vmDirectory(parts, id) }, 'state');
        await guests.exclusively(id, () =>
          records.transition(id, 'stopped', 'Its saved memory was discarded.', {
            taskId,
            startedSpec: null,
            pendingChanges: [],
          }),
        );
        return;
      }
      if (now === undefined || !liveVmStates.has(now)) return;
      await guests.exclusively(id, async () => {
        if (!liveVmStates.has(records.byId(id).status.state)) return;
        await records.transition(id, 'stopping', 'It is being switched off.', { taskId });
        const guest = guests.get(id);
        if (guest) await guest.end();
        else await driver.endUnknown(id);
        const end = howItEnded(cause, state);
        await guests.finish(records.byId(id), end.cause, end.message);
        const vm = records.byId(id);
        await parts.events.record({
          type: `vm.${end.cause}`,
          subject: vmSubject(vm),
          severity: end.isBad ? 'warning' : 'info',
          message: `VM ${vm.name}: ${end.message}`,
        });
      });
    },
  };
}

/** What is said of a VM's end, from what askToShutDown has remembered. */
export function howItEnded(
  asked: Extract<VmExit['cause'], 'stopped' | 'forced-off'>,
  remembered: Readonly<Record<string, unknown>>,
): { cause: VmExit['cause']; message: string; isBad: boolean } {
  const died = remembered['diedOf'] as Pick<VmExit, 'cause' | 'message'> | undefined;
  if (asked === 'forced-off') return { cause: 'forced-off', message: 'It was switched off.', isBad: false };
  if (died) return { ...died, isBad: true };
  if (remembered['didShutDown'] === false) {
    const wasCrashed = remembered['before'] === 'crashed';
    const message = wasCrashed
      ? 'It had crashed, and was switched off.'
      : 'The guest did not shut down in time and was switched off.';
    return { cause: 'forced-off', message, isBad: !wasCrashed };
  }
  return { cause: 'stopped', message: 'The guest shut down when it was asked to.', isBad: false };
}

/** Saves memory to disk and ends the hypervisor process. */
export function suspendGuest(parts: VmStepParts): VmStep {
  const { records, guests, driver } = parts;
  return {
    name: 'save memory',
    timeoutMs: saveTimeoutMs,
    isPivot: true,
    run: async ({ input: { id }, taskId, signal, progress, remember, state }) => {
      const before = records.byId(id);
      if (before.status.state === 'suspended') return;
      const guest = await reach(parts, before);
      // Only memory that was saved completely counts: its guest ended, or was to be ended, after that.
      if (!guest && state['wasSaved'] !== true)
        throw new LodgeError('hypervisor_failed', `VM ${before.name} ended while its memory was being saved.`);
      if (state['wasSaved'] === true) {
        // Also when its process is gone: what the process had on the host may not be.
        await (guest ? guest.end() : driver.endUnknown(id));
      } else {
        await remember({ before: state['before'] ?? before.status.state });
        await guests.exclusively(id, () =>
          records.transition(id, 'suspending', 'Its memory is being saved.', { taskId }),
        );
        await guest?.suspend({
          signal,
          onProgress: (bytesDone, bytesTotal) => progress({ bytesDone, bytesTotal }),
          onSaved: () => remember({ wasSaved: true }),
        });
      }
      await guests.exclusively(id, () =>
        guests.finish(records.byId(id), 'suspended', 'Its memory is saved on disk.', 'suspended'),
      );
      await parts.events.record({
        type: 'vm.suspended',
        subject: vmSubject(before),
        message: `VM ${before.name} was suspended to disk.`,
      });
    },
    undo: async ({ input: { id }, state }) => {
      const guest = guests.get(id);
      if (!guest || records.collection.get(id)?.status.state !== 'suspending') return;
      await driver.forget({ id, directory: vmDirectory(parts, id) }, 'state');
      if (state['before'] === 'running') await guest.resume().catch(() => {});
      const now = await guest.state();
      if (now === 'shutdown') return;
      await guests.exclusively(id, () =>
        records.transition(id, now, 'Saving its memory failed or was cancelled; it runs on.'),
      );
    },
  };
}
