// `npm start` and `npm stop` as a newcomer meets them, behind the bootstrap: from nothing to a guest that is up; a second
// run that changes nothing; a daemon that comes and goes while the guest runs on.
import assert from 'node:assert/strict';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { run, type CommandResult } from '../../src/host/command.ts';
import { prepareDaemon } from '../support/daemon.ts';

const tools = join(import.meta.dirname, '../../tools');

test('npm start brings up a guest, again changes nothing, and the guest outlives npm stop', async (t) => {
  const daemon = await prepareDaemon(t, { driver: 'qemu', listen: '127.0.0.1:0' });
  const launcher = join(daemon.folder, 'bin/lodge');
  const call = (tool: 'start' | 'stop', ...args: string[]): Promise<CommandResult> =>
    run([process.execPath, join(tools, `${tool}.ts`), '--config', daemon.configPath, ...args], { timeoutMs: 280_000 });
  const start = (): Promise<CommandResult> => call('start', '--launcher', launcher);

  const first = await start();
  assert.match(first.stdout, /The guest reported that it is up: \d+\.\d s after its start/);
  assert.match(first.stdout, /Lodge is running, and so is its guest hello/);
  assert.match(first.stdout, /In the browser, the API to read: https:\/\/127\.0\.0\.1:\d+\/docs/);
  assert.equal(await readlink(launcher), join(tools, '../bin/lodge'));
  const params = { vm: 'hello' };
  const before = await daemon.client.vm.get({ params });
  assert.equal(before.status.state, 'running');
  assert.equal(before.status.isUp, true);

  const second = await start();
  assert.match(second.stdout, /The daemon runs/);
  assert.match(second.stdout, /hello is up/);
  const after = await daemon.client.vm.get({ params });
  assert.deepEqual([after.id, after.revision, after.status.pid], [before.id, before.revision, before.status.pid]);

  assert.match((await call('stop')).stdout, /The daemon has ended; guests run on/);
  assert.match((await call('stop')).stdout, /No daemon was running/);
  await start();
  const adopted = await daemon.client.vm.get({ params });
  assert.deepEqual([adopted.status.state, adopted.status.pid], ['running', before.status.pid]);
  await call('stop');
});

test('npm start says why a daemon does not start, with the words of its log', async (t) => {
  const daemon = await prepareDaemon(t, { driver: 'qemu', config: { qemu: { uidBase: 'many' } } });
  await assert.rejects(
    run([
      process.execPath,
      join(tools, 'start.ts'),
      '--config',
      daemon.configPath,
      '--launcher',
      join(daemon.folder, 'lodge'),
    ]),
    /qemu\.uidBase/,
  );
});
