import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ExitCost, type NodeMeasurement } from '../../api/node-measurement.ts';
import { plainStyle } from '../output/style.ts';
import { changeText, measurementLines } from './node-measure.ts';

function cost(operation: ExitCost['operation'], medianNs: number, spread = 0.1): ExitCost {
  return {
    operation,
    medianNs,
    lowNs: medianNs * (1 - spread),
    highNs: medianNs * (1 + spread),
    leastNs: medianNs / 2,
    samples: 96,
  };
}

const measurement: NodeMeasurement = {
  at: '2026-11-23T09:00:00.000Z',
  taskId: 'task-1',
  kernel: '6.18.1',
  hypervisor: 'qemu 10.0.2',
  processor: 'Some Processor',
  loadAverage: 0.25,
  rungs: [
    {
      rung: 'kvm',
      cpuModel: 'host',
      costs: [cost('none', 1), cost('cpuid', 1200)],
      missing: [{ operation: 'hypercall', reason: 'The guest did not come back from it: it was ended.' }],
      problem: null,
    },
    { rung: 'kvm-pvm', cpuModel: null, costs: [], missing: [], problem: 'Not needed: the processor has it.' },
    { rung: 'tcg', cpuModel: 'max', costs: [cost('cpuid', 14)], missing: [], problem: null },
  ],
};
const plain = { style: plainStyle, width: null, isExplained: false };

test('each rung has its table, with the names of the exits, and what could not be measured with the reason', () => {
  const text = measurementLines(measurement, null, plain).join('\n');
  assert.match(text, /^CPUID +1\.2 µs +−10 % \+10 % +10 CPUID +0x72 VMEXIT_CPUID$/m);
  assert.match(text, /^hypercall +not measured +- +18 VMCALL +0x81 VMEXIT_VMMCALL$/m);
  assert.match(text, /^hypercall: The guest did not come back/m);
  assert.match(text, /Not needed: the processor has it/);
  assert.match(text, /^CPUID +14 ns +−10 % \+10 %$/m);
  assert.match(text, /kernel 6\.18\.1, qemu 10\.0\.2; load average 0\.3\.$/);
  assert.doesNotMatch(text, /interpreted/);
  assert.doesNotMatch(text, /CHANGE/);
});

test('a rung that interprets its guests is told as one', () => {
  const slow: NodeMeasurement = {
    ...measurement,
    rungs: [{ rung: 'kvm-pvm', cpuModel: 'host', costs: [cost('none', 2100)], missing: [], problem: null }],
  };
  assert.match(measurementLines(slow, null, plain).join('\n'), /takes 2\.1 µs: kernel code of guests is interpreted/);
});

test('a difference counts where the samples are apart', () => {
  assert.equal(changeText(cost('cpuid', 1000), cost('cpuid', 1100)), 'as before');
  assert.equal(changeText(cost('cpuid', 1000), cost('cpuid', 1500)), '+50 %');
  assert.equal(changeText(cost('cpuid', 1500), cost('cpuid', 750)), '−50 %');
  assert.equal(changeText(undefined, cost('cpuid', 750)), 'new');
  const before = {
    ...measurement,
    kernel: '6.12.0',
    rungs: [{ ...measurement.rungs[2]!, costs: [cost('cpuid', 28)] }],
  };
  const text = measurementLines(measurement, before, plain).join('\n');
  assert.match(text, /^CPUID +14 ns +−10 % \+10 % +−50 %$/m);
  assert.match(text, /Compared with .*kernel 6\.12\.0/);
});

test('with the explanation each kind is said in a sentence', () => {
  const text = measurementLines(measurement, null, { ...plain, isExplained: true }).join('\n');
  assert.match(text, /^first touch of memory: Write to a page that nobody has used yet/m);
});
