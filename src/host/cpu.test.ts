// Processors: recorded texts of /proc and the arithmetic on them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { arrangementOf, busyPercent, parseCpuInfo, parseCpuTimes } from './cpu.ts';

test('cpuinfo gives vendor, model and hardware virtualization', () => {
  const intel = `processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz
flags\t\t: fpu vme lm vmx ept
vmx flags\t: vnmi preemption_timer

processor\t: 1
vendor_id\t: GenuineIntel
`;
  const facts = parseCpuInfo(intel);
  assert.equal(facts.vendor, 'GenuineIntel');
  assert.equal(facts.model, 'Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz');
  assert.deepEqual([...facts.flags], ['fpu', 'vme', 'lm', 'vmx', 'ept']);
  assert.equal(facts.virtualization, 'vmx');
  assert.equal(parseCpuInfo('vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm\n').virtualization, 'svm');
  const none = parseCpuInfo('');
  assert.deepEqual([none.vendor, none.model, none.virtualization], ['unknown', 'unknown', 'none']);
});

test('sockets, cores and threads are counted from the topology', () => {
  const processor = (id: number, socket: number, core: number) => ({ id, socket, core, node: socket });
  // Two sockets of two cores of two threads; core numbers repeat in each socket.
  const all = [0, 1, 2, 3, 4, 5, 6, 7].map((id) => processor(id, Math.floor(id / 2) % 2, id % 2));
  assert.deepEqual(arrangementOf(all), { sockets: 2, coresPerSocket: 2, threadsPerCore: 2 });
  assert.deepEqual(arrangementOf([processor(0, 0, 0)]), { sockets: 1, coresPerSocket: 1, threadsPerCore: 1 });
  assert.deepEqual(arrangementOf([]), { sockets: 1, coresPerSocket: 1, threadsPerCore: 1 });
});

test('busy time is what is neither idle nor waiting for disks', () => {
  const before = parseCpuTimes('cpu  100 0 50 800 50 0 0 0 90 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n');
  assert.deepEqual(before, { busy: 150, total: 1000, steal: 0 });
  assert.equal(busyPercent(before, { busy: 200, total: 1200, steal: 0 }), 25);
  assert.equal(busyPercent(before, before), 0);
});
