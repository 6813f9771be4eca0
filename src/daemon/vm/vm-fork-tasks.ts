// Forking a VM, as a task: objects for the copies, then all of them at once from one moment of the guest, then an own
// identity for each.
//
// Half a fork is none: until all copies run, a failure, a cancellation and the daemon's death undo it. After that there is
// no way back; what is left then is done by the next daemon.
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { uuidv7 } from 'uuidv7';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { networkSpec } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest, type GuestDefinition } from '../../drivers/driver.ts';
import { defineTask, type StepProgress, type TaskStep, type TaskType } from '../task/task.ts';
import { defineGuest, imageOf, seedPath, vmDirectory } from './definition.ts';
import { forkDisks } from './fork-disks.ts';
import { specOfCopy, statusOfCopy } from './fork-copies.ts';
import { newGenerationId } from './generation-id.ts';
import { assignMacs, needsSeed } from './hardware.ts';
import { giveIdentity } from './identity.ts';
import { removeSeed } from './seed.ts';
import { initialVmStatus, vmSubject } from './vm-records.ts';
import { disconnect, hostTimeoutMs, type VmStepParts } from './vm-step.ts';

const input = z.strictObject({
  id: z.string(),
  copies: z.array(z.strictObject({ id: z.string(), name: z.string() })).min(1),
  isIsolated: z.boolean(),
});
export type ForkInput = z.input<typeof input>;
type ForkStep = TaskStep<z.output<typeof input>, Record<string, unknown>, unknown>;

const forkTimeoutMs = 300_000;
const identityTimeoutMs = 600_000;
/** How long an agent that was there in the original may take to answer in a copy. */
const agentMs = 20_000;
/** How long those that answer wait for the others before they are given an identity. */
const firstAnswersMs = 5000;
/** Guests that are given an identity at a time: each works for it. */
const identitiesAtOnce = 4;

export function forkTask(parts: VmStepParts): TaskType<ForkInput> {
  return defineTask({
    type: 'vm.fork',
    input,
    // What was made of a broken fork is of no use: memory and disks would be of different moments.
    onCrash: 'undo',
    steps: [makeObjects(parts), makeCopies(parts), giveIdentities(parts)],
  });
}

/** Objects, users, addresses and folders of the copies. */
function makeObjects(parts: VmStepParts): ForkStep {
  const { records } = parts;
  return {
    name: 'prepare the copies',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { id, copies, isIsolated }, taskId }) => {
      const original = await records.patch(id, { taskId });
      const started = startedSpec(original);
      const networks = isIsolated ? await isolatedNetworks(parts, original, taskId) : null;
      const sizes = new Map(original.status.disks.map((disk) => [disk.name, disk.sizeMib ?? 0]));
      const spec = specOfCopy(started, { networks, sizes });
      const at = new Date().toISOString();
      const inUse = new Set([...records.collection.all()].flatMap((vm) => vm.status.nics.map((nic) => nic.mac)));
      const lineage = {
        kind: 'fork' as const,
        parentId: original.id,
        parentName: original.name,
        forkId: taskId,
        at,
        hasOwnIdentity: false,
      };
      await Promise.all(copies.map((copy) => mkdir(vmDirectory(parts, copy.id), { recursive: true, mode: 0o711 })));
      const made = copies.map(async (copy) => {
        if (records.collection.get(copy.id)) return;
        const uid = parts.uids.take(records.collection.all());
        const macs = assignMacs(spec.nics, [], inUse);
        for (const mac of macs) inUse.add(mac);
        const generationId = newGenerationId();
        const own = { spec, node: parts.node, uid, macs, taskId, lineage, generationId };
        const { project, labels } = original;
        const copied = { what: `VM ${original.name}`, status: original.status };
        const status = statusOfCopy(copied, initialVmStatus(at), own);
        await records.collection.create({ ...copy, project, labels, spec, status });
      });
      // Together, as the store writes down together what it is given together; all are over before anything is undone.
      await Promise.allSettled(made);
      await Promise.all(made);
    },
    undo: async ({ input: { id, copies, isIsolated }, taskId }) => {
      for (const copy of copies) await removeCopy(parts, copy.id);
      await parts.networks.membersChanged();
      const original = records.collection.get(id);
      if (isIsolated && original) await removeIsolatedNetworks(parts, original, taskId);
      parts.images.planShowUsers();
    },
  };
}

/** All copies from one moment of the guest, running with their links down. */
function makeCopies(parts: VmStepParts): ForkStep {
  const { records, guests, driver } = parts;
  return {
    name: 'make running copies',
    weight: 5,
    timeoutMs: forkTimeoutMs,
    isPivot: true,
    run: async ({ input: { id, copies }, taskId, signal, state, remember }) => {
      const isDone = ({ id: copyId }: { id: string }): boolean =>
        records.collection.get(copyId)?.status.state === 'running' && guests.get(copyId) !== null;
      if (copies.every(isDone)) return;
      if (state['hasBegun'] === true) {
        // Those that an interrupted run has made are of another moment.
        for (const copy of copies) await endCopy(parts, copy.id);
        await parts.volumes.layers.release({ kind: 'fork', id: taskId });
      }
      await remember({ hasBegun: true });
      const original = records.byId(id);
      const guest = guests.require(original);
      const image = imageOf(parts, original);
      const disks = forkDisks(parts.volumes, original, guest, `${taskId}/${uuidv7()}`, {
        kind: 'fork',
        id: taskId,
      });
      const define = async (copyId: string): Promise<GuestDefinition> => {
        const own = await disks.provide(records.byId(copyId));
        const vm = await records.patch(copyId, { disks: inOrder(original, own) });
        if (needsSeed(startedSpec(original), image)) await copySeed(parts, id, copyId);
        const definition = await defineGuest(parts, vm, { isRestoring: true });
        return { ...definition, nics: definition.nics.map((nic) => ({ ...nic, isConnected: false })) };
      };
      let outcome;
      try {
        outcome = await driver.fork(guest, {
          spec: startedSpec(original),
          signal,
          copies: copies.map((copy) => () => define(copy.id)),
          onStopped: () => disks.freeze(),
          onCopy: async (copy) => {
            await guests.exclusively(copy.id, async () => {
              guests.attach(copy.id, copy);
              await noteRunning(parts, `VM ${original.name} was`, copy);
            });
            guests.facts.wake(copy.id);
          },
        });
      } finally {
        await disks.abandon();
      }
      // The copies themselves need the layers now.
      await parts.volumes.layers.release({ kind: 'fork', id: taskId });
      parts.images.planShowUsers();
      const names = copies.map(({ name }) => name).join(', ');
      await parts.events.record({
        type: 'vm.forked',
        subject: vmSubject(original),
        message: `VM ${original.name} was forked: ${names}. It stood still for ${outcome.pauseMs.toFixed(0)} ms.`,
        details: { forkId: taskId, pauseMs: outcome.pauseMs, sharedMib: Math.round(outcome.frozenMib) },
      });
    },
    undo: async ({ input: { copies }, taskId }) => {
      for (const copy of copies) await endCopy(parts, copy.id);
      await parts.volumes.layers.release({ kind: 'fork', id: taskId });
    },
  };
}

/** Identity and network of each copy. A guest without an agent that helps keeps its cables pulled out, and this is said. */
function giveIdentities(parts: VmStepParts): ForkStep {
  const { records } = parts;
  return {
    name: 'give each its own identity',
    weight: 3,
    timeoutMs: identityTimeoutMs,
    run: async ({ input: { id, copies }, signal, progress }) => {
      const macs = records.collection.get(id)?.status.nics.map(({ mac }) => mac) ?? [];
      await settleCopies(parts, copies, macs, { signal, progress });
    },
  };
}

/** Gives each copy its identity and its network. `macs`: of the NICs of the guest that they were copied from. */
export async function settleCopies(
  parts: VmStepParts,
  copies: readonly { id: string; name: string }[],
  macs: readonly string[],
  { signal, progress }: { signal: AbortSignal; progress: (step: StepProgress) => void },
): Promise<void> {
  await parts.networks.membersChanged();
  await untilMostAnswer(parts, copies, signal);
  const left = copies.entries();
  let done = 0;
  const work = async (): Promise<void> => {
    for (const [, copy] of left) {
      signal.throwIfAborted();
      await settleCopy(parts, macs, copy.id, signal);
      done++;
      progress({ percent: (100 * done) / copies.length, message: copy.name });
    }
  };
  await Promise.all(Array.from({ length: Math.min(identitiesAtOnce, copies.length) }, work));
}

/** Guests that work for their identity take the processors from those that have not even gone on: all answer first. */
async function untilMostAnswer(
  { guests }: VmStepParts,
  copies: readonly { id: string }[],
  signal: AbortSignal,
): Promise<void> {
  const options = { timeoutMs: firstAnswersMs, signal };
  const ask = async ({ id }: { id: string }): Promise<unknown> =>
    guests
      .get(id)
      ?.agent.isAnswering(options)
      .catch(() => false);
  await Promise.all(copies.map(ask));
}

async function settleCopy(
  parts: VmStepParts,
  before: readonly string[],
  id: string,
  signal: AbortSignal,
): Promise<void> {
  const { records, guests, events } = parts;
  const vm = records.collection.get(id);
  const guest = guests.get(id);
  // One that was deleted, switched off or settled meanwhile.
  if (!vm?.status.lineage || vm.status.lineage.hasOwnIdentity || vm.status.state !== 'running' || !guest) {
    if (vm) await finishCopy(parts, id);
    return;
  }
  const { lineage } = vm.status;
  try {
    if (!vm.spec.hasAgentChannel || !(await guest.agent.isAnswering({ timeoutMs: agentMs, signal })))
      throw new LodgeError('agent_unavailable', 'No guest agent answers in it.');
    await giveIdentity(
      guest,
      {
        hostname: vm.name,
        macs: vm.status.nics.flatMap((nic, index) => {
          const mac = before[index];
          return mac ? [{ before: mac, now: nic.mac }] : [];
        }),
      },
      { signal },
    );
    for (const [index, nic] of vm.spec.nics.entries()) if (nic.isConnected) await guest.setLink(index, true);
    await records.patch(id, { lineage: { ...lineage, hasOwnIdentity: true }, reason: 'Its vCPUs run.' });
  } catch (error) {
    if (signal.aborted) throw error;
    const why = error instanceof LodgeError ? error.message : 'It could not be asked.';
    await pullOutCables(parts, id, why);
    await events.record({
      type: 'vm.identity-missing',
      severity: 'warning',
      subject: vmSubject(vm),
      message: `VM ${vm.name} is a copy of ${lineage.parentName} and was not given an identity of its own: ${why} Its NICs stay disconnected.`,
    });
  }
  await finishCopy(parts, id);
}

/** What is so stands in the spec too: who has changed the guest by hand connects it again. */
async function pullOutCables({ records }: VmStepParts, id: string, why: string): Promise<void> {
  const unplug = (spec: Vm['spec']): Vm['spec'] => ({
    ...spec,
    nics: spec.nics.map((nic) => ({ ...nic, isConnected: false })),
  });
  const { spec } = await records.collection.update(id, undefined, (draft) => {
    draft.spec = unplug(draft.spec);
  });
  const reason = `It runs as a copy with its original’s addresses, so its NICs are disconnected. ${why}`;
  await records.patch(id, { startedSpec: spec, reason });
}

/** The task works on the copy no more. */
async function finishCopy({ records, guests }: VmStepParts, id: string): Promise<void> {
  await records.patch(id, { taskId: null });
  await guests.settle(id);
  guests.facts.wake(id);
}

/** `where`: what it goes on from, for people. */
export async function noteRunning(parts: VmStepParts, where: string, guest: Guest): Promise<void> {
  const { records, networks } = parts;
  const { project, status } = records.byId(guest.id);
  await records.transition(guest.id, 'running', `It goes on from where ${where}.`, {
    pinned: guest.pinned,
    pid: guest.pid,
    startedAt: new Date().toISOString(),
    nics: status.nics.map((nic) => ({
      ...nic,
      hostInterface: networks.hostInterface(project, nic.network, guest.id, nic.mac),
    })),
  });
}

/** Disks in the order of the original’s, its CD-ROMs among them. */
function inOrder(original: Vm, own: Vm['status']['disks']): Vm['status']['disks'] {
  return original.status.disks.map((disk) => own.find(({ name }) => name === disk.name) ?? disk);
}

/** Ends what there is of a copy’s guest, with all that only it used. Can be repeated. */
export async function endCopy(parts: VmStepParts, id: string): Promise<void> {
  const { records, guests, driver } = parts;
  const vm = records.collection.get(id);
  const guest = guests.get(id);
  if (guest) await guest.end();
  else await driver.endUnknown(id);
  guests.detach(id);
  if (!vm) return;
  await disconnect(parts, vm);
  await removeSeed(seedPath(parts, id));
  await parts.volumes.surrender(vm);
}

export async function removeCopy(parts: VmStepParts, id: string): Promise<void> {
  await endCopy(parts, id);
  await rm(vmDirectory(parts, id), { recursive: true, force: true });
  if (parts.records.collection.get(id)) await parts.records.collection.delete(id);
}

/** The copy’s guest has the original’s first-boot data before it; that of its own is written at its next start. */
async function copySeed(parts: VmStepParts, from: string, to: string): Promise<void> {
  await copyFile(seedPath(parts, from), seedPath(parts, to));
}

function startedSpec(vm: Vm): Vm['spec'] {
  return vm.status.startedSpec ?? vm.spec;
}

/** Networks for the copies alone, one for each of the original’s, by the place of its NICs. Can be repeated. */
async function isolatedNetworks(parts: VmStepParts, original: Vm, taskId: string): Promise<string[]> {
  const names: string[] = [];
  for (const nic of startedSpec(original).nics) {
    const network = parts.networks.require(original.project, nic.network);
    const name = isolatedName(network.name, taskId);
    names.push(name);
    if (parts.networks.find(original.project, name)) continue;
    const spec = networkSpec.parse({
      description: `For copies of VM ${original.name}, in place of ${network.name}`,
      // Copies that are to be alone reach no more than before, and nothing of what the original's neighbours are.
      mode: network.spec.mode === 'nat' || network.spec.mode === 'user' ? network.spec.mode : 'isolated',
      dhcp: { isEnabled: network.spec.dhcp.isEnabled, leaseTimeS: network.spec.dhcp.leaseTimeS },
      dnsDomain: network.spec.dnsDomain,
      mtu: network.spec.mtu,
    });
    await parts.networks.create({ name, project: original.project, labels: {}, spec });
  }
  return names;
}

async function removeIsolatedNetworks(parts: VmStepParts, original: Vm, taskId: string): Promise<void> {
  for (const nic of startedSpec(original).nics) {
    const network = parts.networks.find(original.project, nic.network);
    const own = network ? parts.networks.find(original.project, isolatedName(network.name, taskId)) : null;
    if (own) await parts.networks.delete(own);
  }
}

function isolatedName(name: string, taskId: string): string {
  return `${name.slice(0, 50)}-fork-${taskId.slice(-6)}`;
}
