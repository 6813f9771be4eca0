// Memory and disks of one moment: a guest that writes to its disk what it has in memory, and looks at each round whether
// the one is still what the other is. It goes on from what was captured, also where QEMU was ready before its disks were.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { type DiskLayer, type FreshLayer, type Guest, type GuestDefinition } from '../../src/drivers/driver.ts';
import { captureMemory, type CaptureMonitor } from '../../src/drivers/qemu/memory-capture.ts';
import { QemuGuest } from '../../src/drivers/qemu/qemu-guest.ts';
import { createLayer } from '../../src/host/image/layer.ts';
import { createVolume } from '../../src/host/image/volume.ts';
import { defineTiny, driverHost, untilReady } from '../support/qemu-guest.ts';
import { eventually } from '../support/wait.ts';

const sizeBytes = 8 * 2 ** 20;

/** Each round: what is on the disk is what was written last, or `/tmp/bad` tells; then the next number goes there. */
const program = `
(i=10000000; printf %-512s $i | dd of=/dev/vda bs=512 count=1 oflag=direct 2>/dev/null
while true; do
  v=$(dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null)
  [ "\${v%% *}" = "$i" ] || echo "memory has $i, the disk \${v%% *}" >> /tmp/bad
  i=$((i+1)); printf %-512s $i | dd of=/dev/vda bs=512 count=1 oflag=direct 2>/dev/null
  echo $i > /tmp/next; mv /tmp/next /tmp/count
done) >/dev/null 2>&1 &`;

async function inGuest(guest: Guest, script: string): Promise<string> {
  const request = { command: ['sh', '-c', script], environment: [], input: null, timeoutMs: 60_000 };
  let output = '';
  for await (const event of guest.agent.exec(request))
    if (event.type === 'stdout' || event.type === 'stderr') output += Buffer.from(event.data, 'base64').toString();
  return output.trim();
}

/** Waits until the guest has counted some rounds further. */
async function untilFurther(guest: Guest): Promise<void> {
  const count = async (): Promise<number> => Number(await inGuest(guest, 'cat /tmp/count 2>/dev/null; true'));
  const before = await count();
  await eventually(async () => (await count()) > before + 5, { timeoutMs: 90_000, describe: 'the guest goes on' });
}

test('what was captured is of one moment, whichever of QEMU and the disks was ready first', async (t) => {
  const host = await driverHost(t);
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
  const definition = await defineTiny(host, {}, { disks: [{ ...disk, layers: [base] }] });
  const driver = host.openDriver();
  let guest = await driver.start(definition);
  const { pinned } = guest;
  await untilReady(driver, definition);
  await eventually(() => guest.agent.isAnswering(), { timeoutMs: 90_000, describe: 'the agent answers' });
  await inGuest(guest, program);
  await untilFurther(guest);

  const line = [base];
  const fresh = async (): Promise<FreshLayer[]> => {
    const layer: DiskLayer = { path: join(host.folder, `layer${line.length}.qcow2`), format: 'qcow2' };
    await createLayer({ path: layer.path, backing: line[0]!, sizeBytes });
    line.unshift(layer);
    return [{ disk: 'root', layer }];
  };
  /** The layers that are frozen, to go on from. */
  const frozen = (): DiskLayer[] => line.slice(1);

  const path = join(host.folder, 'together');
  const capture = await guest.snapshots.capture(await fresh(), { path });
  await capture.finish();
  assert.ok(capture.isLive, capture.reason);
  const together = frozen();
  await untilFurther(guest);

  assert.ok(guest instanceof QemuGuest);
  const { qmp, name, folder } = guest.forkable;
  const hasResumed = Promise.withResolvers<void>();
  const hasStopped = Promise.withResolvers<void>();
  let cancels = 0;
  // The daemon is slow: QEMU has let the guest run again before it hears what comes next.
  const late: CaptureMonitor = {
    client: qmp.client,
    on: (event, listener) => qmp.on(event, listener),
    execute: async (command, ...rest) => {
      if (command === 'stop') await hasResumed.promise;
      if (command === 'migrate_cancel') cancels++;
      const answer = await qmp.execute(command, ...rest);
      if (command === 'stop') hasStopped.resolve();
      return answer;
    },
  };
  const stopListening = qmp.on('RESUME', () => hasResumed.resolve());
  const layers = await fresh();
  const { snapshots } = guest;
  await snapshots.open(layers);
  const latePath = join(host.folder, 'late');
  const freeze = async (): Promise<void> => {
    await hasStopped.promise;
    await snapshots.freeze(layers);
  };
  const second = await captureMemory({ name, uid: definition.uid, qmp: late, folder }, freeze, { path: latePath });
  await second.finish();
  stopListening();
  assert.ok(second.isLive && cancels === 1, 'it was saved again');
  const apart = frozen();
  await untilFurther(guest);
  assert.equal(await inGuest(guest, 'cat /tmp/bad 2>/dev/null; true'), '', 'the guest itself has noticed nothing');
  await guest.end();

  for (const [from, below] of [
    [path, together],
    [latePath, apart],
  ] as const) {
    await driver.useSavedState(definition, from);
    const top: DiskLayer = { path: `${from}.qcow2`, format: 'qcow2' };
    await createLayer({ path: top.path, backing: below[0]!, sizeBytes });
    const again: GuestDefinition = { ...definition, pinned, disks: [{ ...disk, layers: [top, ...below] }] };
    guest = await driver.start(again, { isRestoring: true });
    await eventually(() => guest.agent.isAnswering(), { timeoutMs: 90_000, describe: 'the agent answers' });
    await untilFurther(guest);
    assert.equal(await inGuest(guest, 'cat /tmp/bad 2>/dev/null; true'), '', `memory and disk of ${from} are apart`);
    await guest.end();
  }
});
