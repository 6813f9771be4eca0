// A guest whose kernel has panicked where the hypervisor does not see it: its console says so, and status shows that.
import assert from 'node:assert/strict';
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertRefused, done, makeVm, sharedFakeLodge } from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const panic = 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)';

test('a kernel panic on the console is shown until the guest begins anew', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  const params = { vm: 'broken' };
  const { id } = await makeVm(daemon, 'broken', { hasAgentChannel: false }, { start: true });
  const log = join(daemon.folder, 'data/vms', id, 'serial.log');
  await appendFile(log, `[    1.0] ${panic}\r\n[    1.1] ---[ end ${panic} ]---\r\n`);
  const status = await eventually(
    async () => {
      const vm = await client.vm.get({ params });
      return vm.status.consolePanic === null ? null : vm.status;
    },
    { timeoutMs: 30_000, describe: 'the panic is shown' },
  );
  assert.equal(status.consolePanic, panic);
  assert.equal(status.state, 'running', 'it is a hint, and not a state');
  await client.vm.reset({ params });
  await eventually(async () => (await client.vm.get({ params })).status.consolePanic === null, {
    describe: 'the panic is of the past',
  });

  const error = await assertRefused(
    daemon,
    (async () => {
      for await (const _ of await client.vm.exec({ params, body: { command: ['true'] } }));
    })(),
    'agent_unavailable',
    'spec.hasAgentChannel',
  );
  assert.match(error.message, /hasAgentChannel is false/);
  assert.match(error.hint, /lodge vm set broken hasAgentChannel=true/);
  await done(daemon, client.vm.forceOff({ params }));
});
