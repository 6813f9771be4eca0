import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { temporaryFolder } from '../../test/support/temporary.ts';
import {
  HugePageError,
  hugePagePlace,
  readHugePagePool,
  requireFreeHugePages,
  shrinkHugePages,
  type HugePagePlace,
} from './huge-pages.ts';

/** A pool that doesn't grow, as that of a machine whose memory is in pieces. */
async function pool(t: TestContext, total: number, free: number): Promise<HugePagePlace> {
  const folder = join(await temporaryFolder(t), 'hugepages-1048576kB');
  mkdirSync(folder);
  writeFileSync(join(folder, 'nr_hugepages'), `${total}\n`);
  writeFileSync(join(folder, 'free_hugepages'), `${free}\n`);
  return { pageBytes: 2 ** 30, folder };
}

function totalOf({ folder }: HugePagePlace): number {
  return Number(readFileSync(join(folder, 'nr_hugepages'), 'utf8'));
}

test('enough free pages are left alone, and a pool that does not grow is put back and told', async (t) => {
  const place = await pool(t, 10, 4);
  requireFreeHugePages(place, 4);
  assert.equal(totalOf(place), 10);
  assert.throws(
    () => requireFreeHugePages(place, 6),
    (error) => error instanceof HugePageError && error.reason === 'fragmented' && error.free === 4,
  );
  assert.equal(totalOf(place), 10);
});

test('only pages that nobody uses are given back, and none of those that were there before', async (t) => {
  assert.equal(shrinkHugePages(await pool(t, 12, 5), 3), 7);
  assert.equal(shrinkHugePages(await pool(t, 12, 12), 3), 3);
  assert.equal(shrinkHugePages(await pool(t, 2, 2), 3), 2);
});

test('a size that the machine does not have has no pool', () => {
  assert.equal(readHugePagePool(hugePagePlace(3 * 2 ** 20, 0, false)), null);
  assert.equal(hugePagePlace(2 ** 21, 1, true).folder, '/sys/devices/system/node/node1/hugepages/hugepages-2048kB');
});
