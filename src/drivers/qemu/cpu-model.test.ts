import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { cpuArgument, cpuLevels, featuresOfLevel, parseCpuHelp } from './cpu-model.ts';

function argument(cpu: VmSpecInput['cpu'], accelerator: 'kvm' | 'tcg', probedModel: string | null = null): string {
  return cpuArgument(vmSpec.parse({ cpu }).cpu, { accelerator, probedModel });
}

suite('the argument of -cpu', () => {
  test('auto is all that the accelerator has', () => {
    assert.equal(argument({}, 'tcg', 'max'), 'max');
    assert.equal(argument({}, 'kvm', 'host'), 'host');
    assert.equal(argument({}, 'kvm', 'host,-arch-capabilities'), 'host,-arch-capabilities');
    assert.equal(argument({}, 'kvm', 'qemu64'), 'qemu64', 'what the probe guest ran with');
    assert.equal(argument({}, 'kvm'), 'host');
  });

  test('host is the host, as far as it can be', () => {
    const host = { model: 'host' };
    assert.equal(argument(host, 'kvm', 'host,-arch-capabilities'), 'host,-arch-capabilities');
    assert.equal(argument(host, 'kvm', 'qemu64'), 'host');
    assert.equal(argument(host, 'tcg'), 'max', 'emulation knows no host processor');
  });

  test('a model of QEMU’s is passed on with features switched on and off', () => {
    const cpu = { model: 'Skylake-Server', enable: ['aes'], disable: ['hle', 'rtm'] };
    assert.equal(argument(cpu, 'kvm'), 'Skylake-Server,aes=on,hle=off,rtm=off');
  });

  test('a level is a plain processor with the features of all levels up to it', () => {
    assert.equal(
      argument({ model: 'x86-64-v2' }, 'tcg'),
      'qemu64,cx16=on,lahf-lm=on,popcnt=on,pni=on,sse4.1=on,sse4.2=on,ssse3=on',
    );
    const v3 = argument({ model: 'x86-64-v3', disable: ['avx2'] }, 'kvm').split(',');
    for (const feature of ['popcnt', 'avx2', 'abm', 'xsave', 'xsaveopt'])
      assert.ok(v3.includes(`${feature}=on`), feature);
    assert.equal(v3.at(-1), 'avx2=off', 'what is switched off comes last, so it counts');
  });
});

test('the levels build on one another', () => {
  assert.deepEqual(cpuLevels, ['x86-64-v2', 'x86-64-v3', 'x86-64-v4']);
  const [v2, v3, v4] = cpuLevels.map((level) => new Set(featuresOfLevel(level)));
  assert.ok([...v2!].every((feature) => v3!.has(feature)));
  assert.ok([...v3!].every((feature) => v4!.has(feature)));
  assert.deepEqual([v2!.size, v3!.size, v4!.size], [7, 16, 21]);
  assert.equal(featuresOfLevel('x86-64-v5'), null);
  assert.equal(featuresOfLevel('qemu64'), null);
});

suite('what QEMU lists', () => {
  test('of version 10', () => {
    // Recorded from QEMU 10.0.2, shortened.
    const help = `Available CPUs:
  486                   (alias configured by machine type)
  Broadwell-IBRS        (alias of Broadwell-v3)
  host                  processor with all supported host features 
  max                   Enables all features supported by the accelerator in the current host

Recognized CPUID flags:
  3dnow 3dnowext abm avx512f
  cx16 lahf-lm sse4.1
`;
    assert.deepEqual(parseCpuHelp(help), {
      models: ['486', 'Broadwell-IBRS', 'host', 'max'],
      features: ['3dnow', '3dnowext', 'abm', 'avx512f', 'cx16', 'lahf-lm', 'sse4.1'],
    });
  });

  test('of version 8', () => {
    // Recorded from QEMU 8.2.2, shortened.
    const help = `Available CPUs:
x86 486                   (alias configured by machine type)                        
x86 host                  processor with all supported host features                

Recognized CPUID flags:
  3dnow 3dnowext
`;
    assert.deepEqual(parseCpuHelp(help), { models: ['486', 'host'], features: ['3dnow', '3dnowext'] });
  });
});
