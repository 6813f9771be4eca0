// Linked clones: from the call to a VM that is complete, beside the one command that makes its disk (`qemu-img create -b`),
// in turns; and fifty asked for at once beside fifty in sequence, of a VM that is off and of one that runs.
// Run: node bench/clone.ts [rounds]
import { join } from 'node:path';
import { waitForTask } from '../src/client/follow.ts';
import { run } from '../src/host/command.ts';
import { startDaemon } from '../test/support/daemon.ts';
import { networkNamespace } from '../test/support/namespace.ts';
import { temporaryFolder } from '../test/support/temporary.ts';
import { eventually } from '../test/support/wait.ts';
import { benchmark, compare, printComparison } from './measure.ts';

const rounds = Number(process.argv[2] ?? 20);
const many = 50;

await benchmark(async (scope) => {
  const folder = await temporaryFolder(scope);
  const namespace = await networkNamespace(scope);
  const daemon = await startDaemon(scope, { driver: 'qemu', namespace });
  const { client } = daemon;
  const source = { type: 'build', recipe: 'tiny' } as const;
  await waitForTask(client, (await client.image.create({ body: { name: 'tiny', spec: { source } } })).id);
  await eventually(
    async () => (await client.network.get({ params: { network: 'default' } })).status.state === 'ready',
    { describe: 'the default network is ready' },
  );
  // Its look at the machine, with guests of its own, is over.
  await eventually(async () => (await client.node.get({ params: { node: 'self' } })).status.state !== 'starting', {
    describe: 'the node has looked at itself',
    timeoutMs: 120_000,
  });
  const spec = { image: 'tiny', memoryMib: 128, disks: [{ name: 'data', sizeMib: 1024 }] };
  await waitForTask(client, (await client.vm.create({ query: { start: false }, body: { name: 'web1', spec } })).id);

  const clone = async (body: { name?: string; count?: number }): Promise<number> => {
    const startedAt = performance.now();
    const task = await client.vm.clone({ params: { vm: 'web1' }, body });
    await waitForTask(client, task.id);
    return performance.now() - startedAt;
  };
  const remove = async (): Promise<void> => {
    const { items } = await client.vm.list({ query: { filter: 'name!=web1', limit: 500 } });
    const tasks = await Promise.all(items.map(({ name }) => client.vm.delete({ params: { vm: name } })));
    for (const { id } of tasks) await waitForTask(client, id);
  };
  const base = join(folder, 'base.qcow2');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', base, '1G']);
  const bare = async (round: number): Promise<number> => {
    const startedAt = performance.now();
    await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', join(folder, `${round}.qcow2`)]);
    return performance.now() - startedAt;
  };

  for (const state of ['off', 'running'] as const) {
    if (state === 'running') {
      await waitForTask(client, (await client.vm.start({ params: { vm: 'web1' } })).id);
      await eventually(async () => (await client.vm.get({ params: { vm: 'web1' } })).status.isUp, {
        describe: 'the guest is up',
        timeoutMs: 120_000,
      });
    }
    const results = await compare(
      [
        { name: 'qemu-img create -b', once: (round) => bare(round + (state === 'off' ? 0 : 1000)) },
        { name: 'linked clone', once: (round) => clone({ name: `one-${round}` }) },
      ],
      rounds,
    );
    printComparison(`A linked clone of a VM that is ${state}, 1 GiB disk`, results, 'qemu-img create -b');
    await remove();

    const startedAt = performance.now();
    const names = Array.from({ length: many }, (_, index) => `copy-${index}`);
    const tasks = await Promise.all(names.map((name) => client.vm.clone({ params: { vm: 'web1' }, body: { name } })));
    // One after the other: a client has not as many connections as there are tasks.
    for (const { id } of tasks) await waitForTask(client, id);
    const atOnceMs = performance.now() - startedAt;
    await remove();
    const sequenceAt = performance.now();
    for (const name of names) await clone({ name });
    const sequenceMs = performance.now() - sequenceAt;
    await remove();
    const oneRequestMs = await clone({ count: many });
    await remove();
    console.log(
      `\n${many} linked clones of a VM that is ${state}: ${atOnceMs.toFixed(0)} ms asked for at once, ${sequenceMs.toFixed(0)} ms in sequence, ${oneRequestMs.toFixed(0)} ms in one request`,
    );
  }
});
