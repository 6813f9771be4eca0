import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type VmExits } from '../../api/vm-exits.ts';
import { plainStyle } from '../output/style.ts';
import { exitsLines } from './exits.ts';

const seen: VmExits = {
  at: '2026-11-23T09:00:00.000Z',
  accelerator: 'kvm',
  watchedS: 5.001,
  counters: [
    { name: 'exits', meaning: 'All exits to KVM', total: 120_000, perS: 2400 },
    { name: 'io_exits', meaning: 'The guest used an I/O port', total: 0, perS: 0 },
  ],
  trace: {
    events: 12_000,
    seen: 9000,
    reasons: [{ event: 'kvm_exit', reason: 'HLT', meaning: 'A vCPU has nothing to do', count: 9000, perS: 2400 }],
  },
  steal: { seconds: 1.25, percent: 3.14 },
  dirtyMibPerS: 12,
  missing: [{ what: 'reasons', reason: 'tracefs is not mounted' }],
};
const plain = { style: plainStyle, width: null, isWhole: false };

test('counters and reasons are told with rates and meanings, and what is not known with its reason', () => {
  const text = exitsLines(seen, plain).join('\n');
  assert.match(text, /^exits +2,400\/s +120,000 +All exits to KVM$/m);
  assert.doesNotMatch(text, /io_exits/);
  assert.match(text, /Why, by 12,000 trace events in 5\.0 s/);
  assert.match(text, /The last 9,000 of them were looked at/);
  assert.match(text, /^kvm_exit +HLT +2,400\/s +A vCPU has nothing to do$/m);
  assert.match(text, /3\.1 % of one processor now, 1\.3 s since the start/);
  assert.match(text, /changes about 12 MiB\/s of its memory/);
  assert.match(text, /^No reasons: tracefs is not mounted$/m);
  assert.match(exitsLines(seen, { ...plain, isWhole: true }).join('\n'), /io_exits/);
});

test('an emulated guest is told as one', () => {
  const text = exitsLines({ ...seen, accelerator: 'tcg', counters: [], trace: null, steal: null }, plain).join('\n');
  assert.match(text, /emulated and leaves to nobody/);
  assert.match(text, /^Nothing\.$/m);
});
