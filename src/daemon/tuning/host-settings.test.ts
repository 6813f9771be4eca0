import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type HostSetting } from '../../api/vm-memory.ts';
import { temporaryFolder } from '../../../test/support/temporary.ts';
import { HostSettings } from './host-settings.ts';

function settings(noted: HostSetting[]): { host: HostSettings; noted: () => HostSetting[] } {
  let kept = noted;
  const host = new HostSettings({
    hasRealGuests: () => true,
    read: () => kept,
    write: async (next) => {
      kept = next;
    },
  });
  return { host, noted: () => kept };
}

test('memory that is no whole number of pages, and sizes that there are not, are refused for good', async () => {
  const { host, noted } = settings([]);
  const odd = await host.provideHugePages('1GiB', { memoryMib: 1536, promisedMib: 0 }, [0], true);
  assert.match(odd!.message, /1536 MiB are no whole number of pages of 1GiB/);
  assert.ok(odd!.isLasting);
  const nowhere = await host.provideHugePages('2MiB', { memoryMib: 128, promisedMib: 0 }, [1022], true);
  assert.match(nowhere!.message, /has no huge pages of 2MiB/);
  assert.deepEqual(noted(), []);
});

test('a pool is given back down to what it was, and forgotten when it is there', async (t) => {
  const folder = join(await temporaryFolder(t), 'hugepages-2048kB');
  mkdirSync(folder);
  const path = join(folder, 'nr_hugepages');
  const fill = (total: number, free: number): void => {
    writeFileSync(path, String(total));
    writeFileSync(join(folder, 'free_hugepages'), String(free));
  };
  const setting = { path, original: '4', current: '64', reason: 'Huge pages were reserved for VMs.' };
  const other = { path: '/sys/kernel/mm/ksm/run', original: '0', current: '1', reason: 'KSM' };
  const { host, noted } = settings([setting, other]);
  fill(64, 20);
  await host.release();
  assert.equal(Number(readFileSync(path, 'utf8')), 44);
  assert.deepEqual(noted(), [{ ...setting, current: '44' }, other]);
  fill(44, 44);
  await host.release();
  assert.equal(Number(readFileSync(path, 'utf8')), 4);
  assert.deepEqual(noted(), [other]);
});
