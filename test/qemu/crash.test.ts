// The short version of npm run test:crash -- --driver qemu: real processes, control groups and links this time.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runCrashCycles } from '../support/crash/run.ts';

test('a daemon killed at any moment leaves no process, group, link or file of its guests', async (t) => {
  const seed = Number(process.env['LODGE_SEED'] ?? 20_261_124);
  const lines: string[] = [];
  const result = await runCrashCycles(t, { driver: 'qemu', cycles: 4, seed, onCycle: (line) => lines.push(line) });
  assert.equal(result.cycles, 4);
  assert.ok(result.operations > 8, lines.join('\n'));
});
