import assert from 'node:assert/strict';
import { test } from 'node:test';
import { patchOf } from './set-many.ts';

test('changes for many VMs are a merge patch with the values that the schema makes of them', () => {
  assert.deepEqual(patchOf(['cpu.count=4', 'memoryMib=2GiB', 'labels.tier=front', 'labels.old-', 'autostart=true']), {
    labels: { tier: 'front', old: null },
    spec: { cpu: { count: 4 }, memoryMib: 2048, autostart: true },
  });
  assert.deepEqual(patchOf(['restartPolicy.mode=always', 'image-']), {
    labels: {},
    spec: { restartPolicy: { mode: 'always' }, image: null },
  });
});

test('what differs from VM to VM, or is no field, is refused', () => {
  assert.throws(() => patchOf(['disks.root.cache=none']), /list/);
  assert.throws(() => patchOf(['nics.0.network=lab']), /list/);
  assert.throws(() => patchOf(['cpu.cuont=4']), /not valid/);
});
