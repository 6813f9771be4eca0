// The password of a VM's user: taken as it is typed, kept and shown only as a hash.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../../src/host/command.ts';
import { makeVm, sharedFakeLodge } from '../support/fake-lodge.ts';

const lodge = sharedFakeLodge();

/** Whether a hash of crypt(5) with SHA-512 is that of a password. */
async function isHashOf(password: string, hash: string): Promise<boolean> {
  const [, , salt = ''] = hash.split('$');
  const { stdout } = await run(['openssl', 'passwd', '-6', '-salt', salt, '-stdin'], { input: `${password}\n` });
  return stdout.trim() === hash;
}

test('a password is kept as a SHA-512 crypt hash, from creation and from a change, and a hash stays as it is', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  const created = await makeVm(daemon, 'secretive', { cloudInit: { password: 'correct horse' } });
  const first = created.spec.cloudInit?.password ?? '';
  assert.ok(await isHashOf('correct horse', first), first);

  const unchanged = await client.vm.update({ params: { vm: 'secretive' }, body: { spec: created.spec } });
  assert.equal(unchanged.spec.cloudInit?.password, first);

  const changed = await client.vm.update({
    params: { vm: 'secretive' },
    body: { spec: { ...created.spec, cloudInit: { ...created.spec.cloudInit, password: 'battery staple' } } },
  });
  const second = changed.spec.cloudInit?.password ?? '';
  assert.ok(await isHashOf('battery staple', second), second);
});
