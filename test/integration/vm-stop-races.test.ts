// What a guest tells in the very moment in which its stop begins to listen must not be lost: the stop would wait in vain
// until its time is over, and then say that the guest had to be switched off.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type FakeGuest } from '../../src/drivers/fake/fake-guest.ts';
import { atEnd } from '../support/cleanup.ts';
import { openTaskWorld } from '../support/task-world.ts';

test('a guest that shuts down while it is asked for its state has shut down', async (t) => {
  const world = await openTaskWorld();
  atEnd(t, () => world.close());
  const { driver } = world;
  const start = driver.start.bind(driver);
  let presses = 0;
  driver.start = async (...given) => {
    const guest = (await start(...given)) as FakeGuest;
    const [state, powerDown] = [guest.state.bind(guest), guest.powerDown.bind(guest)];
    guest.powerDown = async () => {
      presses++;
    };
    guest.state = async () => {
      const before = await state();
      // It tells of its end, and the answer to the question comes a moment later.
      await powerDown();
      return before;
    };
    return guest;
  };
  const vm = await world.addVm('web1', { nics: [] });
  await world.run('vm.create', vm);
  await world.run('vm.start', vm);
  await world.run('vm.stop', vm, { timeoutS: 3600 });
  const { status } = world.vms.get(vm.id) ?? {};
  assert.equal(status?.state, 'stopped');
  assert.equal(status?.lastExit?.cause, 'stopped');
  assert.ok(presses <= 1);
});
