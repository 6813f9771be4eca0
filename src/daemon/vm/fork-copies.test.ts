import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../../api/errors.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { namesOfCopies, privateMibOfCopy, requireMemoryForCopies, specOfCopy, whyNotForkable } from './fork-copies.ts';

const taken = (...names: string[]) => ({ isTaken: (name: string) => names.includes(name) });

test('copies are numbered by the first free numbers, and a single one is called as it was told', () => {
  assert.deepEqual(namesOfCopies('web1', { count: 3, isWhole: false, ...taken('web1-2') }), [
    'web1-1',
    'web1-3',
    'web1-4',
  ]);
  assert.deepEqual(namesOfCopies('test', { count: 1, isWhole: true, ...taken() }), ['test']);
  assert.deepEqual(namesOfCopies('test', { count: 2, isWhole: true, ...taken('test') }), ['test-1', 'test-2']);
  assert.throws(() => namesOfCopies('test', { count: 1, isWhole: true, ...taken('test') }), { code: 'name_taken' });
  const [long] = namesOfCopies('x'.repeat(63), { count: 1, isWhole: false, ...taken() });
  assert.equal(long?.length, 63);
});

test('a copy asks for what its original was started with, but for what only one can have', () => {
  const started = vmSpec.parse({
    autostart: true,
    memoryMib: 256,
    disks: [
      { name: 'root', image: 'debian-12' },
      { name: 'data', volume: 'shared' },
    ],
    nics: [{ network: 'lab', mac: '52:54:00:00:00:01', ipv4Address: '10.0.0.5', model: 'e1000' }],
    cloudInit: { user: 'ann', hostname: 'web1' },
  });
  const spec = vmSpec.parse(specOfCopy(started, { networks: null, sizes: new Map([['data', 10]]) }));
  assert.equal(spec.autostart, false);
  assert.equal(spec.memoryMib, 256);
  assert.deepEqual(
    spec.disks.map(({ name, image, volume, sizeMib }) => ({ name, image, volume, sizeMib })),
    [
      { name: 'root', image: 'debian-12', volume: undefined, sizeMib: undefined },
      { name: 'data', image: undefined, volume: undefined, sizeMib: 10 },
    ],
  );
  assert.deepEqual(spec.nics, [{ network: 'lab', model: 'e1000', isConnected: true }]);
  assert.equal(spec.cloudInit?.user, 'ann');
  assert.equal(spec.cloudInit?.hostname, undefined);
  assert.equal(specOfCopy(started, { networks: ['own'], sizes: new Map() }).nics[0]?.network, 'own');
});

test('copies that there is no memory for are refused with the numbers, and with how many there is room for', () => {
  const vm = { name: 'web1' };
  const numbers = { frozenMib: 100, availableMib: 100 + 3 * privateMibOfCopy, node: 'here' };
  requireMemoryForCopies(vm, { count: 3, ...numbers });
  assert.throws(
    () => requireMemoryForCopies(vm, { count: 4, ...numbers }),
    (error: unknown) =>
      error instanceof LodgeError &&
      error.code === 'insufficient_resources' &&
      error.message.includes('4 copies') &&
      error.message.includes(String(100 + 4 * privateMibOfCopy)) &&
      error.hint.includes('at most 3 copies'),
  );
});

test('a VM with a TPM can not be forked', () => {
  assert.match(
    whyNotForkable({ spec: vmSpec.parse({ firmware: { type: 'uefi' }, tpm: { isEnabled: true } }), pinned: null }) ??
      '',
    /TPM/,
  );
  const disks = [{ name: 'data', volume: 'shared', isReadOnly: true }];
  assert.equal(whyNotForkable({ spec: vmSpec.parse({ disks }), pinned: null }), null);
});

test('a VM whose memory was changed while it ran is refused until it was restarted', () => {
  const spec = vmSpec.parse({ cpu: { count: 2 }, memoryMib: 512 });
  const why = (baseMemoryMib: number): string | null =>
    whyNotForkable({ spec, pinned: { hotplug: { baseMemoryMib } } });
  assert.match(why(256) ?? '', /after a restart/);
  assert.equal(why(512), null);
});
