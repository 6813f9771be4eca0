// How long a running guest stands still for a snapshot with memory: Lodge, which freezes the disks in the same moment,
// against QEMU's background-snapshot alone, which saves no disks, and against the same with disks by hand. One guest of
// 1 GiB that writes to its memory all the while, all in turn; pauses by QEMU's own clock, from STOP to RESUME.
// Run: node bench/snapshot.ts [rounds]
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type DiskLayer } from '../src/drivers/driver.ts';
import { QemuGuest } from '../src/drivers/qemu/qemu-guest.ts';
import { createLayer } from '../src/host/image/layer.ts';
import { createVolume } from '../src/host/image/volume.ts';
import { withUserfaultfd } from '../src/host/userfaultfd.ts';
import { defineTiny, driverHost, untilReady } from '../test/support/qemu-guest.ts';
import { eventually } from '../test/support/wait.ts';
import { benchmark, compare, printComparison, type Contender } from './measure.ts';

const rounds = Number(process.argv[2] ?? 9);
const sizeBytes = 64 * 2 ** 20;
/** Between two snapshots the guest gets time to touch its memory again. */
const restMs = 500;

await benchmark(async (scope) => {
  const host = await driverHost(scope);
  const base: DiskLayer = { path: join(host.folder, 'base.qcow2'), format: 'qcow2' };
  await createVolume({ ...base, sizeBytes });
  const disk = {
    name: 'root',
    bus: 'virtio',
    device: 'disk',
    cache: 'writeback',
    isReadOnly: false,
    layers: [base],
  } as const;
  const definition = await defineTiny(host, { memoryMib: 1024 }, { disks: [{ ...disk, layers: [base] }] });
  const driver = host.openDriver();
  const guest = await driver.start(definition);
  if (!(guest instanceof QemuGuest)) throw new Error('the driver gave another guest');
  await untilReady(driver, definition);
  await eventually(() => guest.agent.isAnswering(), { timeoutMs: 60_000, describe: 'the agent answers' });
  const script =
    '(while true; do dd if=/dev/zero of=/tmp/x bs=1M count=300 2>/dev/null; done) >/dev/null 2>&1 & sleep 2';
  const request = { command: ['sh', '-c', script], environment: [], input: null, timeoutMs: 30_000 };
  for await (const event of guest.agent.exec(request)) void event;

  const { qmp } = guest.forkable;
  let stoppedAt = 0;
  let pauseMs = 0;
  qmp.on('STOP', ({ timeMs }) => void (stoppedAt = timeMs));
  qmp.on('RESUME', ({ timeMs }) => void (pauseMs = timeMs - stoppedAt));
  const tops: DiskLayer[] = [base];
  const freshLayer = async (): Promise<DiskLayer> => {
    const layer: DiskLayer = { path: join(host.folder, `layer${tops.length}.qcow2`), format: 'qcow2' };
    await createLayer({ path: layer.path, backing: tops.at(-1)!, sizeBytes });
    tops.push(layer);
    return layer;
  };
  const rest = async (): Promise<number> => {
    await delay(restMs);
    return pauseMs;
  };
  const background = (state: boolean): Promise<unknown> =>
    qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'background-snapshot', state }] });
  const begin = async (): Promise<void> => {
    await rm(join(definition.directory, 'qemu/raw.state'), { force: true });
    await withUserfaultfd(definition.uid, () => background(true));
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
  };
  const end = async (): Promise<void> => {
    for (;;) {
      const { status, 'error-desc': error } = await qmp.execute('query-migrate');
      if (status === 'completed') break;
      if (status === 'failed') throw new Error(error);
      await delay(20);
    }
    await background(false);
  };

  const lodge: Contender = {
    name: 'Lodge, memory and disks of one moment',
    once: async () => {
      const path = join(host.folder, 'lodge.memory');
      const capture = await guest.snapshots.capture([{ disk: 'root', layer: await freshLayer() }], { path });
      if (!capture.isLive) throw new Error(capture.reason);
      await capture.finish();
      return rest();
    },
  };
  const raw: Contender = {
    name: 'QEMU background-snapshot, memory alone',
    once: async () => {
      await begin();
      await qmp.execute('migrate', { uri: 'file:raw.state' });
      await end();
      return rest();
    },
  };
  const byHand: Contender = {
    name: 'QEMU by hand, stop and continue with disks',
    once: async () => {
      const layer = await freshLayer();
      await guest.snapshots.open([{ disk: 'root', layer }]);
      await begin();
      await qmp.execute('stop');
      await guest.snapshots.freeze([{ disk: 'root', layer }]);
      await qmp.execute('migrate', { uri: 'file:raw.state' });
      for (;;) {
        const { ram, status } = await qmp.execute('query-migrate');
        if (status === 'completed' || (ram && ram.normal + ram.duplicate > 0)) break;
      }
      await qmp.execute('cont');
      await end();
      return rest();
    },
  };
  const results = await compare([raw, lodge, byHand], rounds);
  printComparison(`Pause of a running guest of 1 GiB, ${rounds} rounds`, results, raw.name);
  await guest.end();
});
