import assert from 'node:assert/strict';
import { test } from 'node:test';
import { interfaceOptions } from './cpu-interface.ts';

test('a processor without an interface hides its hypervisor', () => {
  assert.equal(interfaceOptions('none', 'kvm', true), ',hypervisor=off,kvm=off');
  assert.equal(interfaceOptions('none', 'tcg', false), ',hypervisor=off,tcg-cpuid=off');
});

test('KVM’s interface has what Linux uses', () => {
  const options = interfaceOptions('kvm', 'kvm', false);
  for (const feature of ['kvmclock', 'kvm-pv-eoi', 'kvm-pv-unhalt', 'kvm-pv-tlb-flush', 'kvm-pv-ipi'])
    assert.match(options, new RegExp(`,${feature}=on(,|$)`));
});

test('Hyper-V’s interface is asked only of a KVM that knows it', () => {
  const options = interfaceOptions('hyper-v', 'kvm', true);
  for (const feature of ['hv-relaxed=on', 'hv-vapic=on', 'hv-time=on', 'hv-stimer=on', 'hv-spinlocks=0x1fff'])
    assert.ok(options.split(',').includes(feature), feature);
  // QEMU refuses a feature before those it depends on.
  assert.ok(options.indexOf('hv-vpindex') < options.indexOf('hv-synic'));
  assert.equal(interfaceOptions('hyper-v', 'kvm', false), '');
  for (const model of ['kvm', 'hyper-v'] as const) assert.equal(interfaceOptions(model, 'tcg', false), '');
});
