// Booting from another device once, over the API with played guests: what is meant by a word, and what is refused.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertRefused, done, makeVm, readGuest, readVm, sharedFakeLodge } from '../support/fake-lodge.ts';

const lodge = sharedFakeLodge();
const params = { vm: 'web1' };

test('a VM is booted once from what is asked for, and says so as long as it runs', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  const disks = [
    { name: 'root', sizeMib: 4 },
    { name: 'data', sizeMib: 4 },
    { name: 'setup', device: 'cdrom' as const },
  ];
  await client.network.create({ body: { name: 'lab', spec: { mode: 'user' } } });
  const vm = await makeVm(daemon, 'web1', { disks, nics: [{ network: 'lab' }], firmware: { type: 'bios' } });
  const mac = vm.status.nics[0]?.mac;
  await assertRefused(daemon, client.vm.start({ params, body: { bootOnce: 'floppy' } }), 'invalid_request', 'bootOnce');

  for (const [word, device] of [
    ['cdrom', { disk: 'setup' }],
    ['data', { disk: 'data' }],
    ['disk', { disk: 'root' }],
    ['network', { mac }],
  ] as const) {
    await done(daemon, client.vm.start({ params, body: { bootOnce: word } }));
    assert.deepEqual((await readGuest(daemon, vm.id))?.bootedFirst, device);
    assert.equal((await readVm(daemon, 'web1')).status.bootedOnceFrom, word);
    await done(daemon, client.vm.forceOff({ params }));
    assert.equal((await readVm(daemon, 'web1')).status.bootedOnceFrom, null);
  }
  const events = await client.event.list({ query: { filter: 'type=vm.started' } });
  assert.ok(events.items.some(({ message }) => message === 'VM web1 was started, once from cdrom.'));

  await done(daemon, client.vm.start({ params }));
  assert.equal((await readGuest(daemon, vm.id))?.bootedFirst, undefined);
  await done(daemon, client.vm.restart({ params, body: { timeoutS: 0, bootOnce: 'setup' } }));
  assert.deepEqual((await readGuest(daemon, vm.id))?.bootedFirst, { disk: 'setup' });

  await done(daemon, client.vm.suspend({ params }));
  const refused = client.vm.start({ params, body: { bootOnce: 'cdrom' } });
  await assertRefused(daemon, refused, 'wrong_state');
});
