import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parsePlace, planCopies } from './copy.ts';

test('a name and a colon is a VM, everything else is a file here', () => {
  assert.deepEqual(parsePlace('web1:/etc/hosts'), { vm: 'web1', path: '/etc/hosts' });
  assert.deepEqual(parsePlace('./a:b'), { vm: null, path: './a:b' });
  assert.deepEqual(parsePlace('/srv/x'), { vm: null, path: '/srv/x' });
  assert.throws(() => parsePlace('web1:hosts'), { message: /not the path/, hint: /web1:\/root\/hosts/ });
});

test('one side is here, the other in a VM', () => {
  assert.deepEqual(planCopies(['a'], 'web1:/tmp/b'), [
    {
      from: { vm: null, path: 'a' },
      to: { vm: 'web1', path: '/tmp/b' },
      folder: { vm: 'web1', path: '/tmp/b' },
    },
  ]);
  assert.throws(() => planCopies(['a'], 'b'), /one side/);
  assert.throws(() => planCopies(['web1:/a'], 'web2:/b'), /one side/);
});

test('a folder keeps the names; several files need one', () => {
  assert.deepEqual(
    planCopies(['x/a', 'b'], 'web1:/tmp/').map(({ to }) => to.path),
    ['/tmp/a', '/tmp/b'],
  );
  assert.deepEqual(planCopies(['web1:/etc/hosts'], 'out/')[0]?.to, { vm: null, path: 'out/hosts' });
  assert.throws(() => planCopies(['a', 'b'], 'web1:/tmp'), { message: /several files/, hint: /\/tmp\/ / });
});
