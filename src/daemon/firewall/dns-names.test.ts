import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DnsNames, type Resolved } from './dns-names.ts';

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function makeNames(answers: Record<string, Resolved[] | null>) {
  const world = { now: 1000, wanted: new Set(Object.keys(answers)), asked: [] as string[], changes: 0, answers };
  const names = new DnsNames({
    wanted: () => world.wanted,
    onChange: () => (world.changes += 1),
    now: () => world.now,
    resolve: async (name) => {
      world.asked.push(name);
      const found = world.answers[name];
      if (!found) throw new Error('no answer');
      return found;
    },
  });
  const look = async (): Promise<void> => {
    names.look();
    await settled();
  };
  return { names, world, look };
}

test('a name is looked up again when its time to live has passed, and no sooner than after half a minute', async () => {
  const { world, look, names } = makeNames({ 'a.test': [{ address: '192.0.2.1', ttl: 5 }] });
  await look();
  assert.deepEqual(names.addresses.get('a.test'), ['192.0.2.1']);
  world.now += 29_999;
  await look();
  assert.equal(world.asked.length, 1);
  world.now += 1;
  await look();
  assert.equal(world.asked.length, 2);
  assert.equal(world.changes, 1, 'the same addresses are no change');
});

test('a name that can not be looked up keeps the addresses that it had', async () => {
  const { world, look, names } = makeNames({ 'a.test': [{ address: '2001:DB8:0::1', ttl: 86_400 }] });
  await look();
  world.answers['a.test'] = null;
  world.now += 3_600_000;
  await look();
  assert.equal(world.asked.length, 2, 'an hour is the longest');
  assert.deepEqual(names.addresses.get('a.test'), ['2001:db8::1']);
  world.answers['a.test'] = [{ address: '192.0.2.9', ttl: 60 }];
  world.now += 30_000;
  await look();
  assert.deepEqual(names.addresses.get('a.test'), ['192.0.2.9']);
  assert.equal(world.changes, 2);
});

test('a name that no rule names any more is forgotten', async () => {
  const { world, look, names } = makeNames({ 'a.test': [{ address: '192.0.2.1', ttl: 60 }] });
  await look();
  world.wanted = new Set();
  await look();
  assert.equal(names.addresses.size, 0);
});

test('a name has at most 64 addresses', async () => {
  const many = Array.from({ length: 200 }, (_, index) => ({ address: `192.0.2.${index}`, ttl: 60 }));
  const { look, names } = makeNames({ 'a.test': many });
  await look();
  assert.equal(names.addresses.get('a.test')?.length, 64);
});
