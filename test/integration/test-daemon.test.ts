// The daemon as tests use it: it starts in folders of its own, survives being killed and restarted, tells why it did not
// start, and leaves nothing behind.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findLeaks } from '../support/leaks.ts';
import { networkNamespace } from '../support/namespace.ts';
import { prepareDaemon, startDaemon } from '../support/daemon.ts';

test('a killed daemon comes back with what it knew', async (t) => {
  const daemon = await startDaemon(t, { driver: 'fake', listen: '127.0.0.1:0' });
  const { instance, httpsAddress } = await daemon.client.server.get();
  assert.equal(instance, daemon.instance);
  assert.match(httpsAddress ?? '', /^https:\/\/127\.0\.0\.1:\d+$/);
  const body = { name: 'web1', spec: { nics: [] } };
  await daemon.client.vm.create({ body });
  const firstPid = daemon.pid;
  await daemon.restart('kill');
  assert.notEqual(daemon.pid, firstPid);
  assert.equal((await daemon.client.vm.get({ params: { vm: 'web1' } })).name, 'web1');
  assert.equal(await daemon.stop(), 0);
});

test('a daemon in a network namespace makes its default network there', async (t) => {
  const namespace = await networkNamespace(t);
  const daemon = await startDaemon(t, { driver: 'fake', namespace });
  await daemon.client.network.list();
  assert.equal((await daemon.client.server.get()).instance, daemon.instance);
});

test('a daemon that can not start fails the start at once, with its words', async (t) => {
  const daemon = await prepareDaemon(t, { driver: 'fake', config: { dataDir: 7 } });
  await assert.rejects(daemon.start(), /ended with code 1 before it was ready[^]*dataDir/);
});

test('destroying a daemon removes all that bears its name', async (t) => {
  const daemon = await startDaemon(t, { driver: 'fake' });
  await daemon.destroy();
  assert.deepEqual(
    (await findLeaks(daemon.instance, new Set())).filter(({ isMarked }) => isMarked),
    [],
  );
});
