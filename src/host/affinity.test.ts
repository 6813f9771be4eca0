import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseThread, readThreads } from './affinity.ts';

test('a thread is read also where its name has spaces and parentheses', () => {
  const fields = Array.from({ length: 50 }, (_, index) => String(index + 3));
  fields[0] = 'S';
  const thread = parseThread(7, 'Name:\tCPU 0/TCG\nCpus_allowed_list:\t0-3,8\n', `7 (CPU (0)/TCG) ${fields.join(' ')}`);
  assert.deepEqual(thread, {
    threadId: 7,
    name: 'CPU (0)/TCG',
    allowed: [0, 1, 2, 3, 8],
    lastProcessor: 39,
    cpuSeconds: (14 + 15) / 100,
  });
});

test('the threads of this process are read, and a process that is gone has none', () => {
  const threads = readThreads(process.pid);
  assert.ok(threads.some(({ threadId }) => threadId === process.pid));
  assert.ok(threads.every(({ allowed }) => allowed.length > 0));
  assert.deepEqual(readThreads(2 ** 22 + 1), []);
});
