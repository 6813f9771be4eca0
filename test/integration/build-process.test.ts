// Programs that build images end with whoever asked for the build, however that ended.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { findProcesses } from '../../src/host/process.ts';
import { atEnd } from '../support/cleanup.ts';
import { eventually } from '../support/wait.ts';

const mark = 'LODGE_TEST_BUILD';
const root = join(import.meta.dirname, '../..');

test('when the daemon is killed, a build and all that it has started end with it', async (t) => {
  const file = (path: string): string => JSON.stringify(pathToFileURL(join(root, path)).href);
  const value = `build-${process.pid}`;
  // As mmdebstrap does it: a program that starts others, one of them in a session of its own.
  const script = `
    import { run } from ${file('src/host/command.ts')};
    import { asBuildProcess } from ${file('src/host/image/build-process.ts')};
    await run(asBuildProcess(['sh', '-c', 'setsid sleep 600 & sleep 600; true']), { timeoutMs: 600_000 });`;
  const { NODE_TEST_CONTEXT: _context, ...env } = process.env;
  const asker = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: 'inherit',
    env: { ...env, [mark]: value },
  });
  atEnd(t, () => asker.kill('SIGKILL'));
  const sleepers = async (): Promise<number> => {
    const found = await findProcesses({ environmentVariable: mark, matchesArguments: ([name]) => name === 'sleep' });
    return found.filter((one) => one.mark === value).length;
  };
  await eventually(async () => (await sleepers()) === 2, { describe: 'the build runs', timeoutMs: 60_000 });
  const gone = once(asker, 'exit');
  asker.kill('SIGKILL');
  await gone;
  await eventually(async () => (await sleepers()) === 0, { describe: 'the build has ended', timeoutMs: 30_000 });
  assert.equal(await sleepers(), 0);
});
