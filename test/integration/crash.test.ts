// The short version of npm run test:crash: whatever the daemon was doing when it was killed, after the restart every task
// is finished or undone and nothing is left over.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runCrashCycles } from '../support/crash/run.ts';

test('a daemon killed at any moment leaves nothing half-done', async (t) => {
  const seed = Number(process.env['LODGE_SEED'] ?? 20_261_123);
  const lines: string[] = [];
  const result = await runCrashCycles(t, { driver: 'fake', cycles: 12, seed, onCycle: (line) => lines.push(line) });
  assert.equal(result.cycles, 12);
  assert.ok(result.operations > 20, lines.join('\n'));
});
