// Layers of the disks of a running guest: frozen in one step, merged in every way while the guest writes, and what is left
// by a driver that died in the middle. What the disks hold is compared by the guest itself and, at the end, from outside.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type DiskLayer, type Guest, type GuestDisk, type LayerMerge } from '../../src/drivers/driver.ts';
import { run } from '../../src/host/command.ts';
import { commitLayer, createLayer, readLayerSize } from '../../src/host/image/layer.ts';
import { createVolume } from '../../src/host/image/volume.ts';
import { defineTiny, driverHost, untilReady } from '../support/qemu-guest.ts';
import { eventually } from '../support/wait.ts';

const mib = 2 ** 20;

function layer(folder: string, name: string): DiskLayer {
  return { path: join(folder, `${name}.qcow2`), format: 'qcow2' };
}

async function inGuest(guest: Guest, script: string): Promise<string> {
  let output = '';
  const request = { command: ['sh', '-c', script], environment: [], input: null, timeoutMs: 60_000 };
  for await (const event of guest.agent.exec(request)) {
    if (event.type === 'stdout' || event.type === 'stderr') output += Buffer.from(event.data, 'base64').toString();
    if (event.type === 'exit') assert.equal(event.code, 0, output);
  }
  return output.trim();
}

/** Fills a MiB of a disk with a letter, past every cache. */
const write = (device: string, atMib: number, letter: string): string =>
  `yes ${letter} | head -c ${mib} | dd of=/dev/${device} bs=1M seek=${atMib} conv=fsync 2>/dev/null`;
/** The letters that the first MiBs of a disk begin with. */
const read = (device: string, count: number): string =>
  `echo 3 > /proc/sys/vm/drop_caches; for i in $(seq 0 ${count - 1}); do dd if=/dev/${device} bs=1M skip=$i count=1 2>/dev/null | head -c 1; done`;

interface Scene {
  guest: Guest;
  folder: string;
  /** Puts a layer of this name on both disks. */
  freeze: (name: string) => Promise<void>;
  chain: (disk: string) => Promise<string[]>;
}

async function start(t: TestContext): Promise<Scene & { adopt: () => Promise<Guest> }> {
  const host = await driverHost(t);
  const { folder } = host;
  const disks: GuestDisk[] = [];
  for (const [name, bus] of [
    ['root', 'virtio'],
    ['data', 'nvme'],
  ] as const) {
    const base = layer(folder, `${name}-base`);
    await createVolume({ ...base, sizeBytes: 32 * mib });
    disks.push({ name, bus, device: 'disk', cache: 'writeback', isReadOnly: false, layers: [base] });
  }
  // tiny knows no NVMe, and needs none here: what QEMU does with the disk is the same.
  const definition = await defineTiny(host, {}, { disks });
  const driver = host.openDriver();
  const guest = await driver.start(definition);
  await untilReady(driver, definition);
  await eventually(() => guest.agent.isAnswering(), { timeoutMs: 60_000, describe: 'the agent answers' });
  const tops = new Map(disks.map((disk) => [disk.name, disk.layers[0]!]));
  const freeze = async (name: string): Promise<void> => {
    const fresh = [];
    for (const disk of ['root', 'data']) {
      const top = layer(folder, `${disk}-${name}`);
      const below = tops.get(disk)!;
      await createLayer({ path: top.path, backing: below, sizeBytes: await readLayerSize(below) });
      tops.set(disk, top);
      fresh.push({ disk, layer: top });
    }
    await guest.snapshots.freeze(fresh);
  };
  const chain = async (disk: string): Promise<string[]> =>
    ((await guest.snapshots.layers()).get(disk) ?? []).map((path) =>
      path.slice(folder.length + disk.length + 2, -'.qcow2'.length),
    );
  const adopt = async (): Promise<Guest> => {
    await driver.close();
    const again = await host.openDriver().adopt({ ...definition, pinned: guest.pinned });
    assert.ok(again);
    return again;
  };
  return { guest, folder, freeze, chain, adopt };
}

/** The merge of two layers of the disk `root`, by their names from the lowest up. */
function mergeOf(folder: string, [below, lower, upper, above]: (string | null)[], into: 'upper' | 'lower'): LayerMerge {
  const named = (name: string | null | undefined): DiskLayer | null => (name ? layer(folder, `root-${name}`) : null);
  return { disk: 'root', upper: named(upper)!, lower: named(lower)!, below: named(below), above: named(above), into };
}

test('disks are frozen in one step and layers merged while the guest writes, and nothing is lost', async (t) => {
  const { guest, folder, freeze, chain, adopt } = await start(t);
  assert.deepEqual([await chain('root'), await chain('data')], [['base'], ['base']]);
  await inGuest(guest, `${write('vda', 0, 'a')}; ${write('vda', 1, 'a')}`);
  for (const [index, name] of ['one', 'two', 'three', 'four'].entries()) {
    const startedAt = performance.now();
    await freeze(name);
    t.diagnostic(`freezing two disks took ${Math.round(performance.now() - startedAt)} ms, with making their files`);
    await inGuest(guest, write('vda', index + 1, 'bcde'[index]!));
  }
  assert.deepEqual(await chain('root'), ['four', 'three', 'two', 'one', 'base']);
  assert.deepEqual(await chain('data'), ['four', 'three', 'two', 'one', 'base']);
  const wanted = 'abcde';
  assert.equal(await inGuest(guest, read('vda', 5)), wanted);

  // The guest writes all the while; what it wrote last must be there in the end.
  await inGuest(
    guest,
    `(i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); printf '%08d' $i | dd of=/dev/vda bs=1M seek=20 conv=fsync,notrunc 2>/dev/null; echo $i > /tmp/last; done; touch /tmp/done) >/dev/null 2>&1 &`,
  );
  const progress: number[] = [];
  const merge = (names: (string | null)[], into: 'upper' | 'lower'): Promise<void> =>
    guest.snapshots.merge(mergeOf(folder, names, into), { onProgress: (done) => progress.push(done) });

  await merge(['base', 'one', 'two', 'three'], 'lower');
  assert.deepEqual(await chain('root'), ['four', 'three', 'one', 'base'], 'committed in the middle');
  await merge(['base', 'one', 'three', 'four'], 'upper');
  assert.deepEqual(await chain('root'), ['four', 'three', 'base'], 'streamed in the middle');
  assert.equal(await inGuest(guest, read('vda', 5)), wanted);

  const cancelling = new AbortController();
  cancelling.abort();
  await assert.rejects(guest.snapshots.merge(mergeOf(folder, ['base', 'three', 'four', null], 'lower'), cancelling), {
    code: 'cancelled',
  });
  const refused = guest.snapshots.merge(mergeOf(folder, ['base', 'three', 'four', null], 'lower'), {
    onSwitch: () => Promise.reject(new Error('it could not be written down')),
  });
  await assert.rejects(refused, /could not be written down/);
  assert.deepEqual(await chain('root'), ['four', 'three', 'base'], 'a switch that is not written down is not made');

  let chainAtSwitch: string[] = [];
  await guest.snapshots.merge(mergeOf(folder, ['base', 'three', 'four', null], 'lower'), {
    onSwitch: async () => {
      chainAtSwitch = await chain('root');
    },
  });
  assert.deepEqual(chainAtSwitch, ['four', 'three', 'base'], 'it is written down before it is so');
  assert.deepEqual(await chain('root'), ['three', 'base'], 'committed at the top');
  await merge([null, 'base', 'three', null], 'upper');
  assert.deepEqual(await chain('root'), ['three'], 'streamed into the top');
  assert.ok(progress.length > 0);
  assert.equal(await inGuest(guest, read('vda', 5)), wanted);

  const last = await inGuest(
    guest,
    'touch /tmp/stop; while [ ! -e /tmp/done ]; do sleep 0.1; done; printf "%08d" $(cat /tmp/last)',
  );
  assert.ok(Number(last) > 3, `the guest went on writing (${last})`);

  // A second daemon finds the same, and cleans up what the first has left: opened, and never used.
  await createLayer({
    path: layer(folder, 'root-five').path,
    backing: layer(folder, 'root-three'),
    sizeBytes: 32 * mib,
  });
  await guest.snapshots.open([{ disk: 'root', layer: layer(folder, 'root-five') }]);
  const again = await adopt();
  const open = await again.snapshots.layers();
  assert.deepEqual(open.get('root'), [layer(folder, 'root-three').path]);
  await again.snapshots.settle(open);
  assert.deepEqual(await again.snapshots.layers(), open);
  await again.snapshots.freeze([{ disk: 'root', layer: layer(folder, 'root-five') }]);
  await inGuest(again, write('vda', 6, 'g'));
  await again.end();

  const five = layer(folder, 'root-five');
  await commitLayer([five, layer(folder, 'root-three')]);
  const raw = join(folder, 'raw');
  await run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', layer(folder, 'root-three').path, raw]);
  const { stdout } = await run(['dd', `if=${raw}`, 'bs=1M', 'skip=20', 'count=1', 'status=none']);
  assert.equal(stdout.slice(0, 8), last);
  assert.equal((await run(['dd', `if=${raw}`, 'bs=1M', 'skip=6', 'count=1', 'status=none'])).stdout[0], 'g');
});

test('a merge that a driver has left under way is finished where its record says so, and taken back otherwise', async (t) => {
  const { guest, folder, freeze, adopt } = await start(t);
  await inGuest(guest, write('vda', 0, 'a'));
  await freeze('one');
  await inGuest(guest, write('vda', 1, 'b'));
  const never = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  const merging = guest.snapshots
    .merge(mergeOf(folder, [null, 'base', 'one', null], 'lower'), {
      onSwitch: () => {
        reached.resolve();
        return never.promise;
      },
    })
    .catch(() => {});
  await reached.promise;
  const again = await adopt();
  const open = new Map(await again.snapshots.layers());
  const path = (name: string): string => layer(folder, `root-${name}`).path;
  assert.deepEqual(open.get('root'), [path('one'), path('base')], 'it waits for the word of whoever keeps the record');
  await again.snapshots.settle(open);
  assert.deepEqual(
    (await again.snapshots.layers()).get('root'),
    [path('one'), path('base')],
    'not written down: not done',
  );

  const second = again.snapshots
    .merge(mergeOf(folder, [null, 'base', 'one', null], 'lower'), { onSwitch: () => never.promise })
    .catch(() => {});
  const host = again;
  await eventually(
    async () => {
      await host.snapshots.settle(new Map([...open, ['root', [path('base')]]]));
      return (await host.snapshots.layers()).get('root')?.length === 1;
    },
    { timeoutMs: 30_000, describe: 'the merge is finished' },
  );
  assert.deepEqual((await again.snapshots.layers()).get('root'), [path('base')], 'written down: done');
  assert.equal(await inGuest(again, read('vda', 2)), 'ab');
  never.reject(new Error('the first driver is gone'));
  await Promise.all([merging, second]);
  await again.end();
});
