// The stream of changes: each change of each object once, in order, resumed where a client left off, also over a restart
// of the daemon; and the record of what happened.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Change } from '../../src/api/event.ts';
import { followChanges } from '../../src/client/follow.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { type TestDaemon } from '../support/daemon.ts';
import {
  assertRefused,
  changeGuest,
  done,
  makeVm,
  sharedFakeLodge,
  startFakeLodge,
  untilEvent,
} from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();

/** Collects changes until one is as wanted. */
async function collect(
  daemon: TestDaemon,
  query: { since?: number; kinds?: string },
  isLast: (change: Change) => boolean,
): Promise<Change[]> {
  const abort = new AbortController();
  const deadline = AbortSignal.any([abort.signal, AbortSignal.timeout(20_000)]);
  const changes: Change[] = [];
  try {
    for await (const change of await daemon.client.event.stream({ query }, { signal: deadline })) {
      changes.push(change);
      if (isLast(change)) return changes;
    }
  } finally {
    abort.abort();
  }
  throw new Error('the stream ended');
}

const shown = ({ type, kind, object }: Change): string => {
  const { status, name } = (object ?? {}) as { status?: { state: string }; name?: string };
  return `${type} ${kind} ${name ?? '-'} ${status?.state ?? '-'}`;
};

suite('the stream', () => {
  test('resumes after a revision with every change since, each once and in order', async (t) => {
    const { daemon } = await lodge(t);
    const { revision: since } = await daemon.client.vm.list();
    const vm = await makeVm(daemon, 'web1', {}, { start: true });
    const all = await collect(daemon, { since, kinds: 'vm' }, ({ type }) => type === 'synced');
    const changes = all.filter(({ kind }) => kind === 'vm');
    assert.equal(changes[0]?.type, 'created');
    assert.ok(changes.length >= 4 && changes.every(({ id }) => id === vm.id));
    const revisions = changes.map(({ revision }) => revision);
    assert.deepEqual(
      revisions,
      [...new Set(revisions)].toSorted((left, right) => left - right),
    );

    // From the middle: exactly what came after it.
    const middle = changes[2]!;
    await done(
      daemon,
      daemon.client.vm
        .pause({ params: { vm: 'web1' } })
        .then(() => daemon.client.vm.forceOff({ params: { vm: 'web1' } })),
    );
    const rest = await collect(daemon, { since: middle.revision, kinds: 'vm' }, ({ type }) => type === 'synced');
    const later = rest.filter(({ kind }) => kind === 'vm').map(({ revision }) => revision);
    assert.deepEqual(later.slice(0, revisions.length - 3), revisions.slice(3));
    assert.ok(later.length > revisions.length - 3);

    // Of what is gone by now, only that it is gone.
    await done(daemon, daemon.client.vm.delete({ params: { vm: 'web1' } }));
    const gone = await collect(daemon, { since, kinds: 'vm' }, ({ type }) => type === 'synced');
    assert.deepEqual(
      gone.map(({ type, id }) => [type, id]),
      [
        ['deleted', vm.id],
        ['synced', null],
      ],
    );
  });

  test('shows only the kinds that were asked for', async (t) => {
    const { daemon } = await lodge(t);
    const { revision: since } = await daemon.client.vm.list();
    await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 1 }] });
    const kinds = async (text: string): Promise<Set<string | null>> => {
      const changes = await collect(daemon, { since, kinds: text }, ({ type }) => type === 'synced');
      return new Set(changes.filter(({ type }) => type !== 'synced').map(({ kind }) => kind));
    };
    assert.deepEqual(await kinds('volume'), new Set(['volume']));
    assert.deepEqual(await kinds('task,event'), new Set(['task', 'event']));
    await assertRefused(
      daemon,
      collect(daemon, { kinds: 'vm,planet' }, () => true),
      'invalid_request',
      'query.kinds',
    );
  });

  test('shows each change to everyone who follows, as it happens', async (t) => {
    const { daemon } = await lodge(t);
    const { revision: since } = await daemon.client.vm.list();
    const isLast = ({ type, kind }: Change): boolean => type === 'deleted' && kind === 'vm';
    const followers = [1, 2, 3].map(() => collect(daemon, { since, kinds: 'vm' }, isLast));
    await makeVm(daemon, 'web1');
    await done(daemon, daemon.client.vm.delete({ params: { vm: 'web1' } }));
    const seen = (await Promise.all(followers)).map((changes) =>
      changes.filter(({ type }) => type !== 'synced').map((change) => `${change.revision} ${change.type}`),
    );
    assert.deepEqual(seen[1], seen[0]);
    assert.deepEqual(seen[2], seen[0]);
  });

  test('from a revision that is kept no more, or was never reached, is refused', async (t) => {
    const { daemon } = await startFakeLodge(t);
    await makeVm(daemon, 'web1');
    const { revision } = await daemon.client.vm.list();
    await daemon.stop();
    const store = await SqliteStore.open({ file: join(daemon.folder, 'data/lodge.db') });
    await store.compact(revision);
    await store.close();
    await daemon.start();
    const old = collect(daemon, { since: 1 }, () => true);
    const error = await assertRefused(daemon, old, 'revision_gone');
    assert.match(error.hint, /list/i);
    const { revision: now } = await daemon.client.vm.list();
    const changes = await collect(daemon, { since: now }, ({ type }) => type === 'synced');
    assert.equal(changes.at(-1)?.type, 'synced');
  });

  test('is followed over a kill and restart of the daemon without losing or repeating a change', async (t) => {
    const { daemon } = await startFakeLodge(t);
    const { revision: since } = await daemon.client.vm.list();
    const abort = new AbortController();
    const breaks: string[] = [];
    const seen: Change[] = [];
    const following = (async () => {
      const signal = AbortSignal.any([abort.signal, AbortSignal.timeout(40_000)]);
      const options = { since, kinds: ['vm'] as const, signal, onBreak: (error: Error) => breaks.push(error.message) };
      // A client of its own: the test's is renewed with the daemon.
      for await (const change of followChanges(daemon.connection.client, options)) {
        if (change.type !== 'synced') seen.push(change);
        if (change.type === 'deleted') return;
      }
    })();
    await makeVm(daemon, 'web1', {}, { start: true });
    const { id } = await daemon.client.vm.get({ params: { vm: 'web1' } });
    await daemon.kill();
    await changeGuest(daemon, id, { state: 'paused' });
    await daemon.start();
    await eventually(() => seen.some((change) => shown(change) === 'updated vm web1 paused'));
    await done(daemon, daemon.client.vm.delete({ params: { vm: 'web1' }, query: { force: true } }));
    await following;
    abort.abort();
    assert.ok(breaks.length > 0, 'the connection broke');
    const revisions = seen.map(({ revision }) => revision);
    assert.deepEqual(
      revisions,
      [...new Set(revisions)].toSorted((left, right) => left - right),
    );
    const states = seen.map(shown);
    for (const wanted of ['created vm web1 creating', 'updated vm web1 running', 'updated vm web1 paused'])
      assert.ok(states.includes(wanted), `${wanted} is not among\n${states.join('\n')}`);
    assert.equal(states.at(-1), 'deleted vm - -');
  });
});

test('what happened is recorded with subject, severity and words, newest first, and stays over a restart', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const vm = await makeVm(daemon, 'web1', {}, { start: true });
  await daemon.client.vm.pause({ params: { vm: 'web1' } });
  await daemon.client.vm.resume({ params: { vm: 'web1' } });
  await daemon.client.vm.reset({ params: { vm: 'web1' } });
  await untilEvent(daemon, 'vm.reset');
  await done(daemon, daemon.client.vm.stop({ params: { vm: 'web1' }, body: {} }));
  const types = async (): Promise<string[]> =>
    (await daemon.client.event.list({ query: { filter: 'subject.name=web1' } })).items.map(({ type }) => type);
  const wanted = ['vm.stopped', 'vm.reset', 'vm.resumed', 'vm.paused', 'vm.started', 'vm.created'];
  assert.deepEqual(await types(), wanted);
  await daemon.restart('kill');
  assert.deepEqual(await types(), wanted);
  const { items } = await daemon.client.event.list({ query: { filter: 'type=vm.stopped' } });
  assert.deepEqual(items[0]?.subject, { kind: 'vm', id: vm.id, name: 'web1', project: 'default' });
  assert.ok(items[0].message.includes('web1'));
});
