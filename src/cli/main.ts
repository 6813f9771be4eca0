// The command line `lodge`: started by bin/lodge. Answers --version at once, keeps compiled code between runs so that
// the next one starts faster, and leaves the rest to program.ts.
import { readFileSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { userInfo } from 'node:os';
import { join } from 'node:path';

const words = process.argv.slice(2);

// `lodge vm list | head -1` closes our output early: that is not an error.
process.stdout.on('error', (failure: NodeJS.ErrnoException) => {
  if (failure.code === 'EPIPE') process.exit(process.exitCode ?? 0);
  throw failure;
});

if (words.length === 1 && (words[0] === '--version' || words[0] === '-V')) {
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  process.stdout.write(`lodge ${manifest.version}\n`);
} else {
  // A folder that only this user can write: with Node's default in /tmp, or the HOME that sudo may keep, root would run
  // what somebody else has put there.
  enableCompileCache(join(userInfo().homedir, '.cache', 'lodge', 'code'));
  const { runProgram } = await import('./program.ts');
  await runProgram(words);
  // Kept-alive connections and timers must not hold the prompt back; output to files and pipes is written by now.
  process.exit();
}
