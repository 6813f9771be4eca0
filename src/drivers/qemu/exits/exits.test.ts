import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseJit } from './exits.ts';
import { reasonMeaning } from './meanings.ts';

test('the numbers of “info jit” are read by their names, whatever stands beside them', () => {
  const text = `Accelerator settings:
one-insn-per-tb: off

Translation buffer state:
gen code size       1488371/1073736704
TB count            2661
TB avg target size  12 max=299 bytes
Statistics:
TB flush count      0
TB invalidate count 179
TLB full flushes    0
TLB partial flushes 295
TLB elided flushes  7865
[TCG profiler not compiled]
`;
  assert.deepEqual(Object.fromEntries(parseJit(text)), {
    'gen code size': 1_488_371,
    'TB count': 2661,
    'TB flush count': 0,
    'TB invalidate count': 179,
    'TLB full flushes': 0,
    'TLB partial flushes': 295,
    'TLB elided flushes': 7865,
  });
  assert.equal(parseJit('nothing of the kind').size, 0);
});

test('a reason is explained by its own name, and one that is not known by its event', () => {
  assert.match(reasonMeaning('kvm_exit', 'EPT_VIOLATION'), /second-level paging/);
  assert.equal(reasonMeaning('kvm_pio', 'write 0x80'), 'Which I/O port was used');
  assert.equal(reasonMeaning('kvm_exit', 'SOMETHING_NEW'), 'An exit');
});
