// Forks of a running guest: from the call to copies whose agents answer, one copy and twenty, beside the same steps with
// QEMU alone in the same run; how long the guest stands still, and the memory of a copy.
// Run: node bench/fork.ts [rounds] [image]; image debian-12 needs the built image in the cache.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fstatSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Vm } from '../src/api/vm.ts';
import { followChanges, waitForTask } from '../src/client/follow.ts';
import { deviceStream, readFrozenLayout } from '../src/drivers/qemu/fork/frozen-image.ts';
import { reader } from '../src/drivers/qemu/fork/fork.ts';
import { QmpClient } from '../src/drivers/qemu/qmp/client.ts';
import { MemoryFile } from '../src/host/memory-file.ts';
import { sendDescriptors } from '../src/host/launch/send-descriptors.ts';
import { cacheDir } from '../src/host/image/cache.ts';
import { buildTiny } from '../src/host/image/tiny.ts';
import { readProcessMemory } from '../src/host/process.ts';
import { startDaemon } from '../test/support/daemon.ts';
import { networkNamespace } from '../test/support/namespace.ts';
import { tinyImage } from '../test/support/qemu.ts';
import { temporaryFolder } from '../test/support/temporary.ts';
import { eventually } from '../test/support/wait.ts';
import { benchmark, median } from './measure.ts';

const rounds = Number(process.argv[2] ?? 7);
const image = process.argv[3] ?? 'tiny';
const isTiny = image === 'tiny';
const memoryMib = isTiny ? 256 : 768;
const many = isTiny ? 20 : 5;
const mib = 2 ** 20;
const qemu = 'qemu-system-x86_64';

interface Measured {
  ms: number;
  pauseMs: number;
  privateMib: number;
  pssMib: number;
}

async function memoryOf(pids: readonly number[]): Promise<Pick<Measured, 'privateMib' | 'pssMib'>> {
  const all = await Promise.all(pids.map((pid) => readProcessMemory(pid)));
  const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length / mib;
  return {
    privateMib: mean(all.map((memory) => memory?.privateBytes ?? 0)),
    pssMib: mean(all.map((memory) => memory?.pssBytes ?? 0)),
  };
}

await benchmark(async (scope) => {
  const tiny = await tinyImage();
  await buildTiny({ outDir: join(cacheDir(), 'images/tiny'), cacheDir: cacheDir() });
  const folder = await temporaryFolder(scope);
  const namespace = await networkNamespace(scope);
  const daemon = await startDaemon(scope, { driver: 'qemu', namespace });
  const { client } = daemon;
  const source = isTiny
    ? ({ type: 'build', recipe: 'tiny' } as const)
    : ({ type: 'file', path: join(cacheDir(), `images/${image}/disk.qcow2`) } as const);
  await waitForTask(client, (await client.image.create({ body: { name: image, spec: { source } } })).id);
  await eventually(
    async () => (await client.network.get({ params: { network: 'default' } })).status.state === 'ready',
    { describe: 'the default network is ready' },
  );
  const read = (vm: string): Promise<Vm> => client.vm.get({ params: { vm } });
  const bootedAt = performance.now();
  const spec = { image, memoryMib, ...(isTiny ? {} : { cpu: { count: 2 } }) };
  await waitForTask(client, (await client.vm.create({ query: { start: true }, body: { name: 'web1', spec } })).id);
  await eventually(async () => (await read('web1')).status.isUp, {
    describe: 'the guest is up',
    timeoutMs: 600_000,
    intervalMs: 50,
  });
  console.log(`cold start of ${image} until its agent answers: ${(performance.now() - bootedAt).toFixed(0)} ms`);
  await delay(isTiny ? 3000 : 15_000);

  const byLodge = async (count: number): Promise<Measured> => {
    // Followed by the stream of changes, as clients do: asking again and again would take a processor from the copies.
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), 120_000);
    const changes = followChanges(client, { kinds: ['vm'], signal: stop.signal });
    await changes.next();
    const startedAt = performance.now();
    const task = await client.vm.fork({ params: { vm: 'web1' }, body: { count } });
    const answering = new Map<string, Vm>();
    for await (const { object } of changes) {
      const vm = object as Vm | null;
      if (vm?.status.lineage?.forkId === task.id && vm.status.isUp) answering.set(vm.id, vm);
      if (answering.size === count) break;
    }
    clearTimeout(timer);
    stop.abort();
    const copies = [...answering.values()];
    if (copies.length < count) throw new Error('the copies did not answer');
    const ms = performance.now() - startedAt;
    const memory = await memoryOf(copies.map(({ status }) => status.pid!));
    await waitForTask(client, task.id, { timeoutMs: 300_000 });
    const events = (await client.event.list({ query: { limit: 200 } })).items;
    const pauseMs = Number(events.find(({ details }) => details?.['forkId'] === task.id)?.details?.['pauseMs']);
    await Promise.all(
      copies.map(async ({ name }) =>
        waitForTask(client, (await client.vm.delete({ params: { vm: name }, query: { force: true } })).id),
      ),
    );
    return { ms, pauseMs, ...memory };
  };

  /** From the call to a new VM whose agent answers: booted, or from the memory of one that was prepared. */
  const created = async (warm: boolean): Promise<number> => {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), 600_000);
    const changes = followChanges(client, { kinds: ['vm'], signal: stop.signal });
    await changes.next();
    const startedAt = performance.now();
    const task = await client.vm.create({ query: { start: true, warm }, body: { name: 'new', spec } });
    let made: Vm | null = null;
    for await (const { object } of changes) {
      const vm = object as Vm | null;
      if (vm?.name === 'new' && vm.status.isUp) made = vm;
      if (made) break;
    }
    const ms = performance.now() - startedAt;
    clearTimeout(timer);
    stop.abort();
    await waitForTask(client, task.id, { timeoutMs: 300_000 });
    if (!made || (made.status.lineage?.kind === 'warm') !== warm)
      throw new Error('the VM did not come up as asked for');
    await waitForTask(client, (await client.vm.delete({ params: { vm: 'new' }, query: { force: true } })).id);
    return ms;
  };
  const prepareTask = await client.template.prepare({ body: { spec } });
  await waitForTask(client, prepareTask.id, { timeoutMs: 1_800_000 });
  const starts = { cold: [] as number[], warm: [] as number[] };
  for (let round = 0; round < (isTiny ? rounds : Math.min(rounds, 3)); round++) {
    starts.warm.push(await created(true));
    starts.cold.push(await created(false));
  }
  console.log(
    `Creation of ${image} until its agent answers, medians of ${starts.warm.length}: warm ${median(starts.warm).toFixed(0)} ms, cold ${median(starts.cold).toFixed(0)} ms`,
  );

  const results = new Map<string, Measured[]>();
  const note = async (name: string, measure: () => Promise<Measured>): Promise<void> => {
    results.set(name, [...(results.get(name) ?? []), await measure()]);
    await delay(300);
  };
  const bare = isTiny ? await startBare(scope, folder, tiny) : null;
  for (let round = 0; round < rounds; round++) {
    await note('Lodge, one copy', () => byLodge(1));
    if (bare) await note('QEMU by hand, one copy', () => bare.fork(1));
  }
  for (let round = 0; round < Math.ceil(rounds / 2); round++) {
    await note(`Lodge, ${many} copies`, () => byLodge(many));
    if (bare) await note(`QEMU by hand, ${many} copies`, () => bare.fork(many));
  }
  console.log(`Fork of ${image}, ${memoryMib} MiB, to copies whose agents answer; medians of ${rounds} rounds`);
  for (const [name, all] of results) {
    const of = (pick: (one: Measured) => number): string => median(all.map(pick)).toFixed(1);
    const spread = `${Math.min(...all.map(({ ms }) => ms)).toFixed(0)}–${Math.max(...all.map(({ ms }) => ms)).toFixed(0)}`;
    console.log(
      `${name.padEnd(30)} ${of(({ ms }) => ms)} ms (${spread}), pause ${of(({ pauseMs }) => pauseMs)} ms, a copy has ${of(({ privateMib }) => privateMib)} MiB of its own, ${of(({ pssMib }) => pssMib)} MiB proportional`,
    );
  }
  for (const count of ['one copy', `${many} copies`]) {
    const [ours, theirs] = [results.get(`Lodge, ${count}`), results.get(`QEMU by hand, ${count}`)];
    if (!ours || !theirs) continue;
    const ratio = median(ours.map(({ ms }) => ms)) / median(theirs.map(({ ms }) => ms));
    console.log(`${count}: ${ratio.toFixed(2)} × QEMU by hand`);
  }
});

/** The same guest and the same steps, as somebody who knows QEMU would script them. */
async function startBare(
  scope: Parameters<Parameters<typeof benchmark>[0]>[0],
  folder: string,
  image: Awaited<ReturnType<typeof tinyImage>>,
): Promise<{ fork: (count: number) => Promise<Measured> }> {
  const start = (name: string, machine: string, more: readonly string[]): ChildProcess => {
    const socket = (kind: string): string => `path=${join(folder, `${name}.${kind}`)},server=on,wait=off`;
    const child = spawn(
      qemu,
      [
        ...[
          '-nodefaults',
          '-no-user-config',
          '-S',
          '-display',
          'none',
          '-machine',
          machine,
          '-accel',
          'tcg,thread=multi',
        ],
        ...['-cpu', 'max', '-smp', '1', '-m', `size=${memoryMib}M`],
        ...['-chardev', `socket,id=qmp0,${socket('qmp')}`, '-mon', 'chardev=qmp0,mode=control'],
        ...['-chardev', `socket,id=qmp1,${socket('fds')}`, '-mon', 'chardev=qmp1,mode=control'],
        ...['-serial', `file:${join(folder, `${name}.log`)}`],
        ...['-kernel', image.kernelPath, '-initrd', image.initramfsPath, '-append', image.manifest.commandLine!],
        ...['-netdev', 'user,id=n0', '-device', 'pcie-pci-bridge,id=bridge0'],
        ...['-device', 'virtio-net-pci,id=nic0,netdev=n0,romfile=,bus=bridge0,addr=1'],
        // Each process has a generation ID of its own, which wakes the guest of a copy as it does with Lodge.
        ...['-device', 'vmgenid,guid=auto', '-device', 'pvpanic-pci'],
        ...['-device', 'virtio-rng-pci', '-device', 'virtio-balloon-pci,free-page-reporting=on'],
        ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=a0,${socket('agent')}`],
        ...['-device', 'virtserialport,chardev=a0,name=org.qemu.guest_agent.0', ...more],
      ],
      { stdio: 'ignore' },
    );
    scope.after(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGKILL');
      await once(child, 'exit');
    });
    return child;
  };
  const connect = async (name: string): Promise<QmpClient> => {
    for (;;) {
      const client = await QmpClient.connect(join(folder, `${name}.qmp`)).catch(() => null);
      if (client) return client;
      await delay(1);
    }
  };
  const untilAnswers = async (name: string): Promise<void> => {
    const socket = createConnection(join(folder, `${name}.agent`));
    const id = Math.floor(Math.random() * 1e9);
    let text = '';
    const answered = new Promise<void>((resolve) =>
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1');
        if (text.includes(String(id))) resolve();
      }),
    );
    const ask = JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } });
    socket.write(Buffer.concat([Buffer.from([0xff]), Buffer.from(`${ask}\n`)]));
    await answered;
    socket.destroy();
  };
  start('parent', 'q35,vmport=off', []);
  const parent = await connect('parent');
  await parent.execute('cont');
  await untilAnswers('parent');
  await delay(3000);
  let made = 0;
  const capabilities = (['mapped-ram', 'multifd', 'pause-before-switchover', 'events'] as const).map((capability) => ({
    capability,
    state: true,
  }));
  const fork = async (count: number): Promise<Measured> => {
    const startedAt = performance.now();
    const [memory] = (await MemoryFile.create(1)) as [MemoryFile];
    const statePath = join(folder, `state-${made}`);
    writeFileSync(statePath, '');
    const mapped = `memory-backend-file,id=pc.ram,size=${memoryMib}M,mem-path=${memory.path},offset=${mib},share=off,readonly=on,rom=off`;
    const names = Array.from({ length: count }, () => `copy-${made++}`);
    const children = names.map((name) =>
      start(name, 'q35,vmport=off,memory-backend=pc.ram', ['-object', mapped, '-incoming', 'defer']),
    );
    const [set] = (await sendDescriptors({
      socketPath: join(folder, 'parent.fds'),
      commands: [{ execute: 'add-fd', descriptor: { path: memory.path, mode: 'wo' } }],
    })) as [{ 'fdset-id': number }];
    await parent.execute('migrate-set-capabilities', { capabilities });
    await parent.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40, 'downtime-limit': 50 });
    const status = (wanted: string): Promise<unknown> =>
      parent.waitForEvent('MIGRATION', ({ data }) => data.status === wanted, 60_000);
    const [stopped, done, pausedAt] = [
      status('pre-switchover'),
      status('completed'),
      parent.waitForEvent('STOP', () => true, 60_000).then(({ timeMs }) => timeMs),
    ];
    await parent.execute('migrate', { uri: `file:/dev/fdset/${set['fdset-id']}` });
    await stopped;
    await parent.execute('migrate-continue', { state: 'pre-switchover' });
    await done;
    const resumed = parent.waitForEvent('RESUME', () => true, 60_000).then(({ timeMs }) => timeMs);
    while (
      !(await parent.execute('cont').then(
        () => true,
        () => false,
      ))
    );
    const pauseMs = (await resumed) - (await pausedAt);
    await parent.execute('remove-fd', { 'fdset-id': set['fdset-id'] });
    const readAt = reader(memory.descriptor);
    const size = fstatSync(memory.descriptor).size;
    const stream = [...deviceStream(readFrozenLayout(readAt), readAt, size, { mapped: new Set(['pc.ram']) })];
    const file = await open(statePath, 'w');
    await file.writeFile(stream);
    await file.close();
    await Promise.all(
      names.map(async (name) => {
        const copy = await connect(name);
        await copy.execute('migrate-incoming', { uri: `file:${statePath}` });
        while ((await copy.execute('query-status')).status === 'inmigrate') await delay(1);
        await copy.execute('cont');
        await untilAnswers(name);
        copy.close();
      }),
    );
    const ms = performance.now() - startedAt;
    const usage = await memoryOf(children.map((child) => child.pid!));
    for (const child of children) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    memory.close();
    return { ms, pauseMs, ...usage };
  };
  return { fork };
}
