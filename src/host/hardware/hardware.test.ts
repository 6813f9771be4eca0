import assert from 'node:assert/strict';
import { test } from 'node:test';
import { changed, epyc, recordedMachine, withFlags, without, xeon } from '../../../test/support/recorded-machine.ts';
import { type HardwareFact } from './fact.ts';
import { readHardware, type HardwareFacts } from './hardware.ts';
import { thisMachine } from './source.ts';

const read = (recording: Parameters<typeof recordedMachine>[0]): HardwareFacts =>
  readHardware(recordedMachine(recording), '6.1.0-1-amd64');

function fact(facts: HardwareFacts, name: string): HardwareFact {
  const found = facts.groups.flatMap((group) => group.facts).find((each) => each.name === name);
  assert.ok(found, `there is a fact ${name}`);
  return found;
}

const here = (facts: HardwareFacts, names: string[]): Record<string, boolean | null> =>
  Object.fromEntries(names.map((name) => [name, fact(facts, name).isPresent]));

test('a Xeon’s registers tell what VT-x can do', () => {
  const facts = read(xeon);
  assert.deepEqual(facts.assistance, {
    technology: 'vt-x',
    isPresent: true,
    isUsable: true,
    cause: 'usable',
    reason: 'The processor has VT-x, and KVM uses it.',
    remedy: null,
  });
  assert.equal(facts.signature, 'family 6, model 106, stepping 6');
  assert.equal(fact(facts, 'vmcs-revision').value, '0x4');
  assert.equal(fact(facts, 'vmcs-size').value, '1024 bytes');
  assert.equal(fact(facts, 'preemption-timer-rate').value, '1 tick each 32 TSC ticks');
  assert.deepEqual(
    here(facts, [
      'ept',
      'ept-2mib-pages',
      'ept-1gib-pages',
      'ept-accessed-dirty',
      'ept-5-level',
      'vpid',
      'unrestricted-guest',
      'vmcs-shadowing',
      'posted-interrupts',
      'page-modification-log',
      'tsc-scaling',
      'preemption-timer',
    ]),
    {
      ept: true,
      'ept-2mib-pages': true,
      'ept-1gib-pages': true,
      'ept-accessed-dirty': true,
      'ept-5-level': false,
      vpid: true,
      'unrestricted-guest': true,
      'vmcs-shadowing': true,
      'posted-interrupts': true,
      'page-modification-log': true,
      'tsc-scaling': true,
      'preemption-timer': true,
    },
  );
  assert.equal(fact(facts, 'ept').isUsed, true);
  assert.equal(fact(facts, 'page-modification-log').isUsed, false, 'the module was told not to');
  assert.equal(fact(facts, 'vmcs-shadowing').isUsed, null, 'the module does not say');
  assert.match(fact(facts, 'ept-1gib-pages').source, /MSR 0x48c bit 17/);
  assert.equal(fact(facts, 'nested').isUsed, true);
});

test('where registers can’t be read, the kernel’s line of VMX flags counts, and what it has no word for is unknown', () => {
  const facts = read({ ...xeon, msr: {} });
  assert.equal(facts.assistance.cause, 'usable');
  assert.deepEqual(here(facts, ['ept', 'ept-1gib-pages', 'ept-5-level', 'ept-2mib-pages', 'vmcs-revision']), {
    ept: true,
    'ept-1gib-pages': true,
    'ept-5-level': false,
    'ept-2mib-pages': null,
    'vmcs-revision': null,
  });
  assert.equal(fact(facts, 'ept').source, '/proc/cpuinfo, vmx flags: ept');
});

test('an EPYC’s CPUID tells what AMD-V can do, more than the kernel’s flags', () => {
  const facts = read(epyc);
  assert.equal(facts.assistance.technology, 'amd-v');
  assert.equal(facts.assistance.cause, 'usable');
  assert.equal(fact(facts, 'svm-revision').value, '1');
  assert.equal(fact(facts, 'asids').value, '32768');
  assert.deepEqual(here(facts, ['nested-paging', 'vgif', 'avic', 'x2avic', 'virtual-nmi', 'decode-assists']), {
    'nested-paging': true,
    vgif: true,
    avic: true,
    x2avic: false,
    'virtual-nmi': false,
    'decode-assists': true,
  });
  assert.equal(fact(facts, 'avic').isUsed, false);
  assert.equal(fact(facts, 'nested').isUsed, false);
  assert.deepEqual(here(facts, ['sev', 'sev-es', 'sev-snp']), { sev: true, 'sev-es': true, 'sev-snp': true });
  assert.equal(fact(facts, 'sev').isUsed, true);
  assert.equal(fact(facts, 'sev-snp').isUsed, null);
  assert.equal(fact(facts, 'sev-guests').value, '509, of which SEV-ES and SEV-SNP have 99');

  const byFlags = read({ ...epyc, cpuid: {} });
  assert.deepEqual(here(byFlags, ['nested-paging', 'avic', 'vgif', 'asids']), {
    'nested-paging': true,
    avic: false,
    vgif: true,
    asids: null,
  });
});

test('the IOMMU is what firmware offers and what the kernel does with it', () => {
  const intel = read(xeon);
  assert.equal(fact(intel, 'iommu').title, 'Intel VT-d');
  assert.equal(fact(intel, 'iommu').value, '2 units: dmar0, dmar1');
  assert.equal(fact(intel, 'iommu-groups').value, '2');
  assert.equal(fact(intel, 'interrupt-remapping').isUsed, true);
  assert.equal(fact(intel, 'host-address-width').value, '46 bits');

  const amd = read(epyc);
  assert.equal(fact(amd, 'iommu').title, 'AMD-Vi');
  assert.equal(fact(amd, 'iommu').isPresent, true);
  assert.equal(fact(amd, 'iommu').isUsed, false);
  assert.equal(fact(amd, 'interrupt-remapping').isUsed, false);
});

test('devices with SR-IOV are listed with what they are bound to', () => {
  assert.deepEqual(read(xeon).sriovDevices, [
    {
      address: '0000:3b:00.0',
      id: '8086:1592',
      driver: 'ice',
      links: ['ens1f0'],
      functionsMax: 64,
      functions: 4,
      iommuGroup: 1,
      numaNode: 0,
    },
  ]);
});

const noKvm = { problems: { '/dev/kvm': 'ENOENT' } };
const noModules = without(xeon, '/sys/module');
for (const [what, recording, cause, words] of [
  [
    'firmware has locked VT-x off: the kernel took its flag away, CPUID still shows it',
    changed(
      withFlags(noModules, (flags) => flags.filter((flag) => flag !== 'vmx')),
      { msr: { 0x3a: 1n }, ...noKvm },
    ),
    'switched-off-by-firmware',
    /firmware has switched it off and locked it/,
  ],
  [
    'firmware has locked AMD-V off',
    changed(
      withFlags(without(epyc, '/sys/module'), (flags) => flags.filter((flag) => flag !== 'svm')),
      {
        msr: { 0xc001_0114: 0b1_1000n },
        ...noKvm,
      },
    ),
    'switched-off-by-firmware',
    /AMD-V, but firmware has switched it off and locked it/,
  ],
  [
    'the processor has none',
    changed(
      withFlags(noModules, (flags) => flags.filter((flag) => flag !== 'vmx')),
      { cpuid: { 1: { ecx: 0 } }, ...noKvm },
    ),
    'not-in-processor',
    /does not have VT-x/,
  ],
  [
    'a VM that is not given it',
    changed(
      withFlags({ ...noModules, msr: {} }, (flags) => [...flags.filter((flag) => flag !== 'vmx'), 'hypervisor']),
      { cpuid: { 1: { ecx: 0 } }, ...noKvm },
    ),
    'not-passed-to-this-vm',
    /itself a VM/,
  ],
  [
    'the module is not loaded',
    changed(noModules, { files: { '/lib/modules/6.1.0-1-amd64/modules.dep': '' }, ...noKvm }),
    'module-not-loaded',
    /kvm_intel is not loaded/,
  ],
  ['the kernel has no module', changed(noModules, noKvm), 'no-module', /has no module kvm_intel/],
  ['a container without the device', changed(xeon, noKvm), 'no-device', /\/dev\/kvm is not there/],
  [
    'no permission',
    changed(xeon, { problems: { '/dev/kvm': 'EACCES' } }),
    'no-permission',
    /can't be opened \(EACCES\)/,
  ],
] as const) {
  test(`why there is no hardware assistance: ${what}`, () => {
    const { assistance } = read(recording);
    assert.equal(assistance.cause, cause, assistance.reason);
    assert.equal(assistance.isUsable, false);
    assert.match(assistance.reason, words);
    assert.equal(assistance.remedy === null, cause === 'not-in-processor');
  });
}

test('a processor of neither maker has neither', () => {
  const text = String(xeon.files!['/proc/cpuinfo']).replace('GenuineIntel', 'CentaurHauls');
  const { assistance, groups } = read(changed(xeon, { files: { '/proc/cpuinfo': text } }));
  assert.equal(assistance.technology, null);
  assert.deepEqual(
    groups.map(({ name }) => name),
    ['kvm', 'iommu', 'mitigations'],
  );
});

test('a machine that tells nothing is all unknown, and no error', () => {
  const facts = read({});
  assert.equal(facts.vendor, 'unknown');
  assert.equal(facts.assistance.isUsable, false);
  assert.deepEqual(facts.sriovDevices, []);
});

test('this machine can be read, and agrees with the kernel', () => {
  const facts = readHardware();
  const source = thisMachine();
  const flags = /^flags\s*: (.*)$/m.exec(source.text('/proc/cpuinfo')!)![1]!.split(' ');
  assert.equal(facts.isVirtualMachine, flags.includes('hypervisor'));
  if (facts.assistance.isUsable) assert.ok(flags.includes('vmx') || flags.includes('svm'));
  const vendor = source.cpuid(0);
  if (vendor) {
    const words = Buffer.alloc(12);
    [vendor.ebx, vendor.edx, vendor.ecx].forEach((word, index) => words.writeUInt32LE(word, index * 4));
    assert.equal(words.toString('latin1'), facts.vendor);
  }
  assert.equal(source.cpuid(0x7fff_ffff), null, 'a leaf that no processor has');
  assert.equal(source.text('/sys/nothing'), null);
  assert.deepEqual(source.list('/sys/nothing'), []);
  assert.equal(source.openProblem('/dev/null'), null);
  assert.equal(source.openProblem('/dev/nothing'), 'ENOENT');
});
