// What a test has to undo, undone in reverse order when it ends, each part also when another one failed. node:test's
// own `after` calls in the order of registration and stops at the first that throws, which would leave things behind.
import { type TestContext } from 'node:test';

/** What of a test's context is used: something that calls back when the test is over. */
export type Cleanup = Pick<TestContext, 'after'>;

const stacks = new WeakMap<Cleanup, (() => unknown)[]>();

/** Calls `undo` when the test ends, before everything that was registered earlier. */
export function atEnd(test: Cleanup, undo: () => unknown): void {
  let stack = stacks.get(test);
  if (stack === undefined) {
    const own: (() => unknown)[] = [];
    stack = own;
    stacks.set(test, own);
    test.after(() => runAll(own));
  }
  stack.push(undo);
}

async function runAll(stack: (() => unknown)[]): Promise<void> {
  const failures: unknown[] = [];
  for (let undo = stack.pop(); undo !== undefined; undo = stack.pop()) {
    try {
      await undo();
    } catch (failure) {
      failures.push(failure);
    }
  }
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) {
    const reasons = failures.map((failure) => (failure instanceof Error ? failure.message : String(failure)));
    throw new AggregateError(failures, `the test could not clean up: ${reasons.join('; ')}`);
  }
}
