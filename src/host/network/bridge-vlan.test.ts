import assert from 'node:assert/strict';
import { test } from 'node:test';
import { vlanIds, vlanLines } from './bridge-vlan.ts';

test('a port in one VLAN has its frames without a tag, a trunk has all but its native one with theirs', () => {
  assert.deepEqual(vlanLines('tap0', { access: 100 }), ['vlan add dev tap0 vid 100 pvid untagged']);
  assert.deepEqual(vlanLines('tap0', { trunk: [10, 20] }), ['vlan add dev tap0 vid 10', 'vlan add dev tap0 vid 20']);
  assert.deepEqual(vlanLines('tap0', { trunk: [10, 20], native: 20 }), [
    'vlan add dev tap0 vid 10',
    'vlan add dev tap0 vid 20 pvid untagged',
  ]);
  assert.deepEqual(vlanIds({ trunk: [10], native: 5 }), [10, 5]);
});
