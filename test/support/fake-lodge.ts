// A real daemon with the fake driver in a network namespace of its own, and what tests of it have in common: waiting for
// tasks, catching errors, and playing the hypervisor by the guests' files.
import assert from 'node:assert/strict';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, afterEach } from 'node:test';
import { LodgeError, type ErrorCode } from '../../src/api/errors.ts';
import { type Event } from '../../src/api/event.ts';
import { finalTaskStates, type Task } from '../../src/api/task.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { waitForTaskEnd } from '../../src/client/follow.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { type FakeProcess } from '../../src/drivers/fake/fake-guest.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { prepareDaemon, type DaemonOptions, type TestDaemon } from './daemon.ts';
import { networkNamespace, type NetworkNamespace } from './namespace.ts';
import { eventually } from './wait.ts';

const taskTimeoutMs = 60_000;

export interface FakeLodge {
  daemon: TestDaemon;
  namespace: NetworkNamespace;
}

/** Starts it. Answers are checked against the contract. */
export async function startFakeLodge(
  test: Cleanup,
  options: Omit<Partial<DaemonOptions>, 'driver' | 'namespace'> = {},
): Promise<FakeLodge> {
  const lodge = await prepareFakeLodge(test, options);
  await lodge.daemon.start();
  return lodge;
}

/** As {@link startFakeLodge}, but leaves the start to the test. */
export async function prepareFakeLodge(
  test: Cleanup,
  options: Omit<Partial<DaemonOptions>, 'driver' | 'namespace'> = {},
): Promise<FakeLodge> {
  const namespace = await networkNamespace(test);
  const config = { isDevelopment: true, ...options.config };
  const daemon = await prepareDaemon(test, { ...options, driver: 'fake', namespace, config });
  return { daemon, namespace };
}

/**
 * One daemon for all tests of a file that don't kill it: starting one takes longer than most tests. To be called at the
 * top of the file. The answer gives it to a test, and removes what the test made in it when the test ends.
 */
export function sharedFakeLodge(
  options: Omit<Partial<DaemonOptions>, 'driver' | 'namespace'> = {},
): (test: Cleanup) => Promise<FakeLodge> {
  let starting: Promise<FakeLodge> | null = null;
  const undo: (() => unknown)[] = [];
  const file = { after: (work: unknown) => void undo.push(work as () => unknown), passed: true };
  afterEach((test) => {
    if ((test as { passed?: boolean }).passed === false) file.passed = false;
  });
  // Registered here, where it belongs to the file and not to the test that happens to be the first.
  after(async () => {
    for (let next = undo.pop(); next !== undefined; next = undo.pop()) await next();
  });
  return async (test) => {
    starting ??= startFakeLodge(file, options);
    const lodge = await starting;
    atEnd(test, () => removeObjects(lodge.daemon));
    return lodge;
  };
}

/** Deletes every object but the default network. */
export async function removeObjects(daemon: TestDaemon): Promise<void> {
  const { client } = daemon;
  const names = ({ items }: { items: { id: string; name: string }[] }): string[] =>
    items.filter(({ name }) => name !== 'default').map(({ id }) => id);
  const ignore = (error: unknown): undefined => {
    if (!(error instanceof LodgeError) || error.code === 'internal') throw error;
    return undefined;
  };
  // One deletion of a VM at a time: thousands of tasks would push out those that the next test waits for.
  const deletions = new Map<string, string>();
  const isUnderWay = async (task: string): Promise<boolean> => {
    const { items } = await client.task.list({ query: { filter: `id=${task}` } });
    return items.some(({ state }) => !finalTaskStates.has(state));
  };
  const look = async (): Promise<boolean> => {
    const vms = names(await client.vm.list());
    for (const vm of vms) {
      const earlier = deletions.get(vm);
      if (earlier !== undefined && (await isUnderWay(earlier))) continue;
      const task = await client.vm.delete({ params: { vm }, query: { force: true } }).catch(ignore);
      if (task) deletions.set(vm, task.id);
    }
    const volumes = names(await client.volume.list());
    for (const volume of volumes) await client.volume.delete({ params: { volume } }).catch(ignore);
    const images = names(await client.image.list());
    for (const image of images) await client.image.delete({ params: { image } }).catch(ignore);
    const networks = names(await client.network.list());
    for (const network of networks) await client.network.delete({ params: { network } }).catch(ignore);
    return vms.length + volumes.length + images.length + networks.length === 0;
  };
  await eventually(look, { describe: 'everything is deleted', timeoutMs: 90_000 });
}

/** Waits until a task has ended, whichever way. */
export async function endOf(daemon: TestDaemon, task: Task | Promise<Task>): Promise<Task> {
  return waitForTaskEnd(daemon.client, (await task).id, { timeoutMs: taskTimeoutMs });
}

/** Waits until a task has succeeded. */
export async function done(daemon: TestDaemon, task: Task | Promise<Task>): Promise<Task> {
  const ended = await endOf(daemon, task);
  assert.equal(ended.state, 'succeeded', `${ended.type} ${ended.target.name}: ${ended.error?.message}`);
  return ended;
}

/** The error that a call, or the task it starts, ends with. Fails when it succeeds. */
export async function refusal(daemon: TestDaemon, call: Promise<unknown>): Promise<LodgeError> {
  try {
    const answer = (await call) as Task | undefined;
    if (typeof answer !== 'object' || !('steps' in answer))
      throw new assert.AssertionError({ message: 'it succeeded' });
    const { error, state } = await endOf(daemon, answer);
    assert.equal(state, 'failed');
    assert.ok(error);
    return LodgeError.fromBody({ error });
  } catch (error) {
    if (error instanceof LodgeError) return error;
    throw error;
  }
}

/** Checks that a call is refused with a code, words for people, and for some codes the name of the field. */
export async function assertRefused(
  daemon: TestDaemon,
  call: Promise<unknown>,
  code: ErrorCode,
  field?: string | RegExp,
): Promise<LodgeError> {
  const error = await refusal(daemon, call);
  assert.equal(error.code, code, `${error.code}: ${error.message}`);
  assert.ok(error.message.length > 5 && error.hint.length > 5, `${error.message} ${error.hint}`);
  if (field !== undefined) {
    const fields = error.fields?.map((problem) => problem.field) ?? [];
    const isNamed = fields.some((name) => (typeof field === 'string' ? name === field : field.test(name)));
    assert.ok(isNamed, `names ${fields.join(', ') || 'no field'}: ${error.message}`);
  }
  return error;
}

/** Makes a VM, without NICs unless the spec has some, and gives it as it then is. */
export async function makeVm(
  daemon: TestDaemon,
  name: string,
  spec: VmSpecInput = {},
  options: { start?: boolean; labels?: Record<string, string> } = {},
): Promise<Vm> {
  const body = { name, labels: options.labels ?? {}, spec: { nics: [], ...spec } };
  await done(daemon, daemon.client.vm.create({ body, query: { start: options.start ?? false } }));
  return readVm(daemon, name);
}

export function readVm(daemon: TestDaemon, vm: string): Promise<Vm> {
  return daemon.client.vm.get({ params: { vm } });
}

/** Waits until a VM is in a state, and gives it. */
export function untilState(daemon: TestDaemon, vm: string, state: Vm['status']['state']): Promise<Vm> {
  return eventually(
    async () => {
      const found = await readVm(daemon, vm);
      if (found.status.state !== state) throw new Error(`it is ${found.status.state}: ${found.status.reason}`);
      return found;
    },
    { describe: `VM ${vm} is ${state}`, timeoutMs: 60_000 },
  );
}

/** Waits for a recorded event, and gives it. */
export function untilEvent(
  daemon: TestDaemon,
  type: string,
  isIt: (event: Event) => boolean = () => true,
): Promise<Event> {
  return eventually(
    async () => {
      const { items } = await daemon.client.event.list({ query: { filter: `type=${type}` } });
      return items.find(isIt);
    },
    { describe: `the event ${type}`, timeoutMs: 60_000 },
  );
}

function guestFile(daemon: TestDaemon, id: string): string {
  return join(daemon.folder, 'data/fake-guests', `${id}.json`);
}

/** What the fake hypervisor has of a guest; null: there is none. */
export async function readGuest(daemon: TestDaemon, id: string): Promise<FakeProcess | null> {
  const text = await readFile(guestFile(daemon, id), 'utf8').catch(() => null);
  return text === null ? null : (JSON.parse(text) as FakeProcess);
}

/** Plays the hypervisor: changes a guest, whether a daemon watches or not. */
export async function changeGuest(daemon: TestDaemon, id: string, change: Partial<FakeProcess>): Promise<void> {
  const process = await readGuest(daemon, id);
  assert.ok(process, `there is no guest ${id}`);
  const path = guestFile(daemon, id);
  await writeFile(`${path}.test`, JSON.stringify({ ...process, ...change }));
  await rename(`${path}.test`, path);
}

/** Plays the hypervisor: the guest's process dies. */
export async function killGuest(daemon: TestDaemon, id: string): Promise<void> {
  await rm(guestFile(daemon, id));
}

/** Lets the machine seem to have been started again since the last daemon: it remembers another boot. */
export async function playReboot(daemon: TestDaemon): Promise<void> {
  const store = await SqliteStore.open({ file: join(daemon.folder, 'data/lodge.db') });
  try {
    const { items } = await store.list({ prefix: '/lodge/nodes-status/', limit: 10 });
    for (const { key, value } of items) {
      const status = { ...(JSON.parse(value) as object), bootId: 'an earlier one' };
      await store.transact({ success: [{ put: key, value: JSON.stringify(status) }] });
    }
  } finally {
    await store.close();
  }
}
