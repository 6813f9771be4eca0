// What every driver that can fork must keep of the promises about it in driver.ts.
import assert from 'node:assert/strict';
import { chmod, readdir, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { LodgeError } from '../api/errors.ts';
import { failure, Messages, type Check } from './conformance-subject.ts';
import { type ForkRequest, type Guest, type GuestDefinition, type SavedMemory } from './driver.ts';

/** Adds the tests; `check` makes one of a title and what it does. */
export function forkConformance(check: Check): void {
  check('copies of a running guest run on from where it was, and so does the guest', async (subject) => {
    const { guest, definition } = await subject.start();
    await subject.given.untilUp(guest);
    const write = async (to: Guest, text: string): Promise<void> =>
      to.agent.writeFile(
        '/tmp/note',
        (async function* () {
          yield Buffer.from(text);
        })(),
      );
    const read = async (from: Guest): Promise<string> => {
      const chunks: Uint8Array[] = [];
      for await (const chunk of from.agent.readFile('/tmp/note')) chunks.push(chunk);
      return Buffer.concat(chunks).toString();
    };
    await write(guest, 'before');
    const messages = new Messages(guest);
    const copies = [await subject.defineCopy(guest, definition), await subject.defineCopy(guest, definition)];
    const order: string[] = [];
    const outcome = await subject.driver.fork(guest, {
      ...wanted(...copies),
      onStopped: async () => void order.push('stopped'),
      onCopy: async (copy) => void order.push(copy.id),
    });
    assert.ok(outcome.pauseMs >= 0 && outcome.frozenMib > 0);
    assert.equal(order[0], 'stopped', 'no copy runs before the disks are frozen');
    assert.deepEqual(order.slice(1).toSorted(), copies.map(({ id }) => id).toSorted());
    assert.deepEqual(
      outcome.copies.map(({ id }) => id),
      copies.map(({ id }) => id),
    );
    assert.equal(await guest.state(), 'running');
    assert.deepEqual(messages.all, [], 'that it stood still for a moment is not told');
    const everybody = [guest, ...outcome.copies];
    assert.deepEqual((await subject.driver.discover()).size, 3);
    for (const one of everybody) assert.equal(await read(one), 'before');
    for (const [index, one] of everybody.entries()) await write(one, `after ${index}`);
    for (const [index, one] of everybody.entries()) assert.equal(await read(one), `after ${index}`);

    await subject.driver.close();
    subject.replaceDriver();
    const [copy] = outcome.copies;
    const adopted = await subject.adopt(copy!, copies[0]!);
    assert.equal(await adopted.state(), 'running');
    await adopted.end();
    assert.deepEqual(await subject.given.traces(copies[0]!), []);
    assert.equal(await (await subject.adopt(guest, definition)).state(), 'running');
  });

  check('a copy can be copied again', async (subject) => {
    const { guest, definition } = await subject.start();
    await subject.given.untilUp(guest);
    const child = await subject.defineCopy(guest, definition);
    const { copies } = await subject.driver.fork(guest, wanted(child));
    await guest.end();
    const grandchild = await subject.defineCopy(copies[0]!, child);
    const later = await subject.driver.fork(copies[0]!, wanted(grandchild));
    await copies[0]!.end();
    assert.equal(await later.copies[0]!.state(), 'running');
    assert.ok(await later.copies[0]!.agent.isAnswering());
  });

  check('a fork that fails, or is cancelled, leaves no copy, and the guest runs on', async (subject) => {
    const { guest, definition } = await subject.start();
    const copy = (): Promise<GuestDefinition> => subject.defineCopy(guest, definition);
    const [one, other, third, fourth] = [await copy(), await copy(), await copy(), await copy()];
    const noRoom = (): Promise<never> =>
      Promise.reject(new LodgeError('storage_full', 'There is no room for a layer.'));
    const fails: [string, GuestDefinition[], Partial<ForkRequest>][] = [
      ['cancelled', [one], { signal: AbortSignal.abort() }],
      ['its disks', [other], { onStopped: noRoom }],
      ['its definition', [one], { copies: [noRoom] }],
      ['a copy', [third, fourth], { onCopy: ({ id }) => (id === fourth.id ? noRoom() : Promise.resolve()) }],
    ];
    for (const [what, copies, change] of fails) {
      const call = subject.driver.fork(guest, { ...wanted(...copies), ...change });
      await failure(call, ['cancelled', 'storage_full'], what);
      for (const each of copies) assert.deepEqual(await subject.given.traces(each), [], what);
      assert.deepEqual([...(await subject.driver.discover())], [definition.id], what);
      assert.equal(await guest.state(), 'running', what);
    }
    const { copies } = await subject.driver.fork(guest, wanted(await copy()));
    assert.equal(await copies[0]!.state(), 'running', 'and the next one succeeds');
  });
}

/** Adds the tests of memory that is saved for many guests. */
export function savedMemoryConformance(check: Check): void {
  check('guests go on from saved memory, also when the guest and its driver are gone', async (subject) => {
    const { guest, definition } = await subject.start();
    await subject.given.untilUp(guest);
    const messages = new Messages(guest);
    const directory = join(definition.directory, '..', `saved-${definition.id}`);
    let stops = 0;
    const { memory, pauseMs } = await subject.driver.saveForMany(guest, {
      spec: definition.spec,
      directory,
      onStopped: async () => void stops++,
    });
    try {
      assert.ok(pauseMs >= 0);
      assert.equal(stops, 1);
      assert.equal(await guest.state(), 'running');
      assert.deepEqual(messages.all, [], 'that it stood still for a moment is not told');
      const later = [await subject.defineCopy(guest, definition), await subject.defineCopy(guest, definition)];
      await guest.end();
      await subject.driver.close();
      subject.replaceDriver();
      // As the daemon keeps it.
      const kept = JSON.parse(JSON.stringify(memory)) as SavedMemory;
      assert.equal(await subject.driver.whyNotUsable(kept), null);
      for (const each of later) {
        const copy = await subject.driver.start(each, { from: kept });
        assert.equal(await copy.state(), 'running');
        assert.ok(await copy.agent.isAnswering({ timeoutMs: 60_000 }));
      }
      assert.equal((await subject.driver.discover()).size, 2);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });

  check('saved memory that was damaged, or is gone, starts no guest', async (subject) => {
    const { guest, definition } = await subject.start();
    await subject.given.untilUp(guest);
    const directory = join(definition.directory, '..', `saved-${definition.id}`);
    const { memory } = await subject.driver.saveForMany(guest, { spec: definition.spec, directory });
    try {
      const copy = await subject.defineCopy(guest, definition);
      const fails = async (what: string): Promise<void> => {
        await failure(subject.driver.start(copy, { from: memory }), ['image_invalid'], what);
        assert.deepEqual(await subject.given.traces(copy), [], what);
        assert.deepEqual([...(await subject.driver.discover())], [definition.id], what);
      };
      for (const file of await readdir(directory)) {
        const path = join(directory, file);
        await chmod(path, 0o600);
        await truncate(path, (await stat(path)).size - 1);
        await fails(`${file}, cut short`);
        await rm(path);
        await fails(`${file}, gone`);
        await subject.driver.saveForMany(guest, { spec: definition.spec, directory });
      }
      const stale = { ...memory, state: { ...memory.state, qemuVersion: '0.1', version: '0.1' } };
      assert.match((await subject.driver.whyNotUsable(stale)) ?? '', /0\.1/);
      await failure(subject.driver.start(copy, { from: stale }), ['unsupported'], 'of another version');
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });

  check('memory whose saving fails, or is cancelled, leaves no files, and the guest runs on', async (subject) => {
    const { guest, definition } = await subject.start();
    await subject.given.untilUp(guest);
    const directory = join(definition.directory, '..', `saved-${definition.id}`);
    const request = { spec: definition.spec, directory };
    await failure(
      subject.driver.saveForMany(guest, { ...request, signal: AbortSignal.abort() }),
      ['cancelled'],
      'cancelled',
    );
    await failure(
      subject.driver.saveForMany(guest, {
        ...request,
        onStopped: () => Promise.reject(new LodgeError('storage_full', 'There is no room for a layer.')),
      }),
      ['storage_full'],
      'its disks',
    );
    await assert.rejects(stat(directory), { code: 'ENOENT' });
    assert.equal(await guest.state(), 'running');
  });
}

function wanted(...copies: GuestDefinition[]): ForkRequest {
  return { spec: copies[0]!.spec, copies: copies.map((copy) => () => Promise.resolve(copy)) };
}
