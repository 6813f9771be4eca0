// A group of real guests: each is started when those before it are ready, by what their kernels and programs say.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Task } from '../../src/api/task.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const timeoutMs = 120_000;

test('a group of guests starts when ports are open and commands succeed in them, and stops the other way round', async (t) => {
  const host = await qemuDaemon(t);
  const { client } = host;
  const small = { memoryMib: 128, display: 'none' } as const;
  for (const name of ['db1', 'app1', 'web1']) await host.create(name, small, false);
  const readyTimeoutS = 300;
  const members = [
    { vm: 'db1', ready: { type: 'port' as const, port: 5432 }, readyTimeoutS },
    { vm: 'app1', ready: { type: 'command' as const, command: ['test', '-e', '/tmp/ready'] }, readyTimeoutS },
    { vm: 'web1', ready: { type: 'agent' as const }, readyTimeoutS },
  ];
  await client.group.create({ body: { name: 'shop', spec: { members } } });
  const params = { group: 'shop' };
  const { id } = await client.group.start({ params });
  const untilSaid = (name: string, isIt: RegExp): Promise<Task> =>
    eventually(
      async () => {
        const task = await client.task.get({ params: { task: id } });
        const item = task.items.find((one) => one.name === name);
        if (!isIt.test(item?.message ?? '')) throw new Error(`${name} is ${item?.state}: ${item?.message}`);
        return task;
      },
      { timeoutMs, describe: `member ${name} says ${isIt}` },
    );

  await host.untilUp('db1');
  await untilSaid('db1', /not ready/);
  assert.equal((await host.vm('app1')).status.state, 'stopped');
  await host.exec('db1', ['sh', '-c', 'nc -l -p 5432 >/dev/null 2>&1 </dev/null &']);
  await untilSaid('db1', /is ready/);
  await host.untilUp('app1');
  await untilSaid('app1', /not ready/);
  assert.equal((await host.vm('web1')).status.state, 'stopped');
  await host.exec('app1', ['touch', '/tmp/ready']);
  const started = await host.done(client.task.get({ params: { task: id } }));
  assert.deepEqual(
    started.items.map(({ name, state }) => `${name} ${state}`),
    ['db1 done', 'app1 done', 'web1 done'],
  );
  assert.equal((await host.vm('web1')).status.state, 'running');
  assert.equal((await client.group.get({ params })).status.state, 'running');

  await host.done(client.group.stop({ params }));
  const ends: string[] = [];
  for (const name of ['web1', 'app1', 'db1']) {
    const { lastExit } = (await host.vm(name)).status;
    assert.equal(lastExit?.cause, 'stopped', `${name}: ${lastExit?.message}`);
    ends.push(lastExit.at);
  }
  assert.deepEqual(ends, ends.toSorted());
  assert.equal((await client.group.get({ params })).status.state, 'stopped');
});
