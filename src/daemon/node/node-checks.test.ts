import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type NodeCheck } from '../../api/node-hardware.ts';
import { type Node } from '../../api/node.ts';
import { readHardware } from '../../host/hardware/hardware.ts';
import { changed, epyc, recordedMachine, withFlags, without, xeon } from '../../../test/support/recorded-machine.ts';
import { checkNode } from './node-checks.ts';

const node: Node = {
  id: '01930000-0000-7000-8000-000000000000',
  name: 'host1',
  project: 'default',
  labels: {},
  revision: 1,
  createdAt: '2026-11-01T00:00:00.000Z',
  spec: { acceptsGuests: true },
  status: {
    state: 'ready',
    problems: [],
    hostname: 'host1',
    kernel: '6.1.0-1-amd64',
    operatingSystem: 'Debian GNU/Linux 12',
    lodgeVersion: '0.1.0',
    bootId: 'boot',
    startedAt: '2026-11-01T00:00:00.000Z',
    cpu: {
      model: 'a',
      vendor: 'b',
      count: 4,
      sockets: 1,
      coresPerSocket: 4,
      threadsPerCore: 1,
      virtualization: 'vmx',
    },
    memory: { totalMib: 65_536, availableMib: 60_000, guestsMib: 0 },
    storage: { path: '/var/lib/lodge', totalMib: 1_000_000, freeMib: 500_000 },
    cgroup: { version: 'v2', controllers: ['cpu', 'memory', 'pids', 'io'], reason: 'All controllers work.' },
    accelerators: [],
    accelerator: { chosen: 'kvm', rung: 'kvm', reason: 'A probe guest ran in KVM.' },
    driver: {
      name: 'qemu',
      version: '10.0.2',
      isReady: true,
      reason: 'QEMU 10.0.2 answers.',
      capabilities: { uefi: { isSupported: true, reason: 'OVMF' }, tpm: { isSupported: false, reason: 'No swtpm.' } },
      machines: [],
      cpuModels: [],
    },
    guests: { defined: 0, running: 0 },
    load: { cpuPercent: 0, loadAverage: 0 },
  },
};

function check(
  recording: Parameters<typeof recordedMachine>[0],
  given: {
    status?: Partial<Node['status']>;
    fileSystem?: string | null;
    spec?: Node['spec'];
    guestVcpus?: number;
  } = {},
): { result: string; of: (name: string) => NodeCheck } {
  const source = recordedMachine(recording);
  const { result, checks } = checkNode({
    node: { ...node, spec: given.spec ?? node.spec, status: { ...node.status, ...given.status } },
    hardware: readHardware(source, '6.1.0-1-amd64'),
    source,
    ...(given.guestVcpus === undefined ? {} : { guestVcpus: given.guestVcpus }),
    dataFileSystem: given.fileSystem === undefined ? 'ext4' : given.fileSystem,
  });
  return {
    result,
    of: (name) => {
      const found = checks.find((each) => each.name === name);
      assert.ok(found, `there is a check ${name}`);
      return found;
    },
  };
}

test('a machine with everything passes, but for what is really missing', () => {
  const { of, result } = check(xeon);
  for (const name of [
    'hypervisor',
    'accelerator',
    'hardware-assistance',
    'second-level-paging',
    'nested',
    'uefi',
    'tap',
    'vhost-net',
    'iommu',
    'interrupt-remapping',
    'cgroups',
    'pressure',
    'clock',
    'storage',
    'file-system',
  ])
    assert.equal(of(name).result, 'pass', name);
  assert.equal(of('tpm').result, 'warn');
  assert.equal(result, 'warn');
});

test('weaknesses through which guests reach each other are named, with where they were switched on', () => {
  const open = check(epyc).of('mitigations');
  assert.equal(open.result, 'warn');
  assert.match(open.reason, /retbleed \(Vulnerable\)/);
  assert.match(open.remedy!, /says mitigations=off: take it out/);
  const bySmt = check(xeon).of('smt');
  assert.equal(bySmt.result, 'warn');
  assert.match(bySmt.reason, /mmio stale data/);
});

test('an IOMMU that firmware has and the kernel does not use is told with the kernel’s parameter', () => {
  const amd = check(epyc).of('iommu');
  assert.equal(amd.result, 'note');
  assert.match(amd.remedy!, /Add iommu=pt to the kernel’s command line/);
  const off = check(without(xeon, '/sys/kernel/iommu_groups', '/sys/class/iommu')).of('iommu');
  assert.match(off.remedy!, /intel_iommu=on/);
});

test('second-level paging that the module was told not to use is a warning with the command', () => {
  const found = check(changed(xeon, { files: { '/sys/module/kvm_intel/parameters/ept': 'N' } })).of(
    'second-level-paging',
  );
  assert.equal(found.result, 'warn');
  assert.match(found.remedy!, /modprobe kvm_intel ept=1/);
});

test('a VM without nested virtualization is warned, with what to switch on outside', () => {
  const guest = withFlags({ ...without(xeon, '/sys/module'), msr: {} }, (flags) => [
    ...flags.filter((flag) => flag !== 'vmx'),
    'hypervisor',
  ]);
  const { of } = check(changed(guest, { cpuid: { 1: { ecx: 0 } }, problems: { '/dev/kvm': 'ENOENT' } }), {
    status: { accelerator: { chosen: 'tcg', rung: 'tcg', reason: 'x' } },
  });
  assert.equal(of('hardware-assistance').result, 'warn');
  assert.match(of('hardware-assistance').remedy!, /nested=1/);
  assert.equal(of('accelerator').result, 'warn');
});

test('what keeps guests from running fails', () => {
  const { of, result } = check(changed(xeon, { problems: { '/dev/net/tun': 'ENOENT' } }), {
    status: {
      accelerator: null,
      driver: { ...node.status.driver, isReady: false, reason: 'QEMU is not installed.' },
      storage: { path: '/var/lib/lodge', totalMib: 1000, freeMib: 10 },
    },
  });
  assert.equal(result, 'fail');
  for (const name of ['hypervisor', 'accelerator', 'tap', 'storage']) {
    assert.equal(of(name).result, 'fail', name);
    assert.notEqual(of(name).remedy, null, name);
  }
});

for (const [fileSystem, result] of [
  ['tmpfs', 'warn'],
  ['nfs4', 'warn'],
  ['btrfs', 'pass'],
] as const) {
  test(`data on ${fileSystem}: ${result}`, () => {
    assert.equal(check(xeon, { fileSystem }).of('file-system').result, result);
  });
}

test('maintenance and control groups without controllers are told', () => {
  const { of } = check(xeon, {
    spec: { acceptsGuests: false },
    status: { cgroup: { version: 'v2', controllers: ['pids'], reason: 'cpu: not handed down' } },
  });
  assert.equal(of('maintenance').result, 'note');
  assert.equal(of('cgroups').result, 'warn');
  assert.match(of('cgroups').reason, /without cpu, memory/);
  assert.match(of('cgroups').remedy!, /Delegate=yes/);
});

test('a slow clock and huge pages that are off are warnings', () => {
  const { of } = check(
    changed(xeon, {
      files: {
        '/sys/devices/system/clocksource/clocksource0/current_clocksource': 'hpet',
        '/sys/kernel/mm/transparent_hugepage/enabled': 'always madvise [never]',
        '/proc/sys/vm/overcommit_memory': '2',
      },
    }),
  );
  for (const name of ['clock', 'huge-pages', 'overcommit']) assert.equal(of(name).result, 'warn', name);
});

test('too many vCPUs or too much memory promised is a warning, by the limits of the node', () => {
  const cpus = node.status.cpu.count;
  assert.equal(check(xeon, { guestVcpus: cpus * 4 }).of('promises').result, 'pass');
  const many = check(xeon, { guestVcpus: cpus * 4 + 1 }).of('promises');
  assert.equal(many.result, 'warn');
  assert.match(many.reason, /more than 4 vCPUs for each CPU/);
  const memory = { ...node.status.memory, guestsMib: node.status.memory.totalMib };
  const strict = { acceptsGuests: true, overcommit: { memoryWarningPercent: 50 } };
  const { result, reason } = check(xeon, { status: { memory }, spec: strict }).of('promises');
  assert.equal(result, 'warn');
  assert.match(reason, /more than 50 % of the memory/);
});
