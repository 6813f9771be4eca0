// npm run test:crash: cycles of random operations with a SIGKILL of the daemon at a random moment in each, and a look at
// everything after the restart.
//
//   npm run test:crash -- [--cycles 200] [--driver fake|qemu] [--seed N] [--only createVm,cloneVm,…]
//
// It prints its seed; the same seed does the same operations again. Needs root.
import { parseArgs } from 'node:util';
import { operationNames } from './support/crash/operations.ts';
import { runCrashCycles } from './support/crash/run.ts';

const { values } = parseArgs({
  options: {
    cycles: { type: 'string', default: '200' },
    driver: { type: 'string', default: 'fake' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    only: { type: 'string' },
  },
});
const [cycles, seed] = [Number(values.cycles), Number(values.seed)];
const { driver } = values;
const only = values.only?.split(',');
const isKnown = only?.every((name) => operationNames.includes(name)) ?? true;
if ((driver !== 'fake' && driver !== 'qemu') || !(cycles > 0) || !Number.isInteger(seed) || !isKnown) {
  console.error('usage: npm run test:crash -- [--cycles 200] [--driver fake|qemu] [--seed N] [--only NAME,NAME]');
  console.error(`  --only: of ${operationNames.join(', ')}`);
  process.exit(2);
}

const undo: (() => unknown)[] = [];
// What is registered is undone once, however the run ends.
const cleanUp = async (): Promise<void> => {
  for (let next = undo.pop(); next !== undefined; next = undo.pop()) await next();
};
let isInterrupted = false;
process.once('SIGINT', () => {
  isInterrupted = true;
  void cleanUp().finally(() => process.exit(130));
});

console.log(`${cycles} cycles with the ${driver} driver, seed ${seed}`);
const began = performance.now();
try {
  const test = { after: (work: () => unknown) => void undo.push(work) } as Parameters<typeof runCrashCycles>[0];
  const result = await runCrashCycles(test, { driver, cycles, seed, only, onCycle: (line) => console.log(line) });
  const minutes = ((performance.now() - began) / 60_000).toFixed(1);
  console.log(
    `${result.cycles} cycles in ${minutes} min: ${result.operations} operations (${result.answered} answered), ` +
      `${result.interrupted} tasks interrupted, ${result.doubleKills} restarts killed as well; nothing was left over.`,
  );
} catch (error) {
  if (!isInterrupted) console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  await cleanUp();
}
