// What leaving a guest costs, measured by real guests in the accelerators of this machine.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exitOperations } from '../../src/api/node-measurement.ts';
import { measureExits } from '../../src/drivers/qemu/probe/exit-measure.ts';
import { probeLadder } from '../../src/drivers/qemu/probe/probe.ts';
import { readKvm } from '../../src/host/machine.ts';

test('on each rung that runs guests each kind of exit has a cost, or a reason why not', async (t) => {
  const { device } = await readKvm();
  const ladder = await probeLadder();
  const percents: number[] = [];
  const measured = await measureExits(ladder, {
    binary: 'qemu-system-x86_64',
    kvmDevice: device,
    onProgress: (percent) => percents.push(percent),
  });
  assert.deepEqual(
    measured.map(({ rung }) => rung),
    ladder.map(({ rung }) => rung),
  );
  for (const [index, { rung, costs, missing, problem }] of measured.entries()) {
    assert.equal(problem === null, ladder[index]!.isUsable, `${rung}: ${problem}`);
    if (problem !== null) continue;
    const told = [...costs, ...missing].map(({ operation }) => operation);
    assert.deepEqual(told.toSorted(), Object.keys(exitOperations).toSorted(), rung);
    for (const { operation, medianNs, lowNs, highNs, leastNs } of costs) {
      t.diagnostic(`${rung} ${operation}: ${medianNs} ns (${lowNs} to ${highNs})`);
      assert.ok(leastNs > 0 && leastNs <= lowNs && lowNs <= medianNs && medianNs <= highNs, `${rung} ${operation}`);
    }
    for (const { operation, reason } of missing) t.diagnostic(`${rung} ${operation}: ${reason}`);
    // A way through QEMU is longer than none at all, whatever else the machine does.
    const least = (operation: string): number => costs.find((cost) => cost.operation === operation)!.leastNs;
    assert.ok(least('portQemu') > least('none'), rung);
    assert.ok(least('firstTouch') > least('none'), rung);
  }
  const emulation = measured.at(-1)!;
  assert.deepEqual(emulation.missing, [
    { operation: 'hypercall', reason: 'The processor of this rung knows no hypercalls.' },
  ]);
  assert.ok(Math.abs(percents.at(-1)! - 100) < 1e-9);
});

test('measuring can be aborted', async () => {
  const signal = AbortSignal.abort(new Error('enough'));
  const { device } = await readKvm();
  await assert.rejects(
    measureExits(await probeLadder(), { binary: 'qemu-system-x86_64', kvmDevice: device, signal }),
    /enough/,
  );
});
