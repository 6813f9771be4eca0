import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRefusal, FakeAgent, SILENCE } from '../../../../test/support/fake-agent.ts';
import { LodgeError, type ErrorCode } from '../../../api/errors.ts';
import { AgentError, type AgentFailure } from './errors.ts';
import { QemuGuestAgent, toLodgeError } from './guest-agent.ts';

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const failsWith =
  (code: ErrorCode) =>
  (error: unknown): boolean =>
    error instanceof LodgeError && error.code === code && error.hint !== '';

const address = (slot: number, more: object = {}): object => ({
  'pci-controller': { domain: 0, bus: 1, slot, function: 0 },
  'bus-type': 'virtio',
  bus: 0,
  target: 0,
  unit: 0,
  ...more,
});

test('everything a guest tells of itself arrives in the contract’s words', async () => {
  await using fake = await FakeAgent.listen({
    'guest-get-osinfo': () => ({
      id: 'debian',
      'pretty-name': 'Debian 13',
      'version-id': '13',
      'kernel-release': '6.12',
    }),
    'guest-get-host-name': () => ({ 'host-name': 'web1' }),
    'guest-get-timezone': () => ({ zone: 'CEST', offset: 7200 }),
    'guest-get-time': () => (Date.now() - 90_000) * 1e6,
    'guest-get-vcpus': () => [
      { 'logical-id': 0, online: true },
      { 'logical-id': 1, online: false },
    ],
    'guest-network-get-interfaces': () => [
      {
        name: 'eth0',
        'hardware-address': '52:54:00:AB:CD:EF',
        'ip-addresses': [
          { 'ip-address': '10.0.0.5', 'ip-address-type': 'ipv4', prefix: 24 },
          { 'ip-address': 'not an address', 'ip-address-type': 'ipv4', prefix: 24 },
        ],
      },
      { name: 'tun0', 'hardware-address': 'none' },
    ],
    'guest-get-fsinfo': () => [
      { name: 'vda1', mountpoint: '/', type: 'ext4', 'used-bytes': 10, 'total-bytes': 100, disk: [address(1)] },
      { name: 'vda1', mountpoint: '/srv', type: 'ext4', 'used-bytes': 10, 'total-bytes': 100, disk: [address(1)] },
      { name: 'vda2', mountpoint: '/boot', type: 'ext2', 'used-bytes': 1, 'total-bytes': 9, disk: [address(1)] },
      {
        name: 'dm-0',
        mountpoint: '/both',
        type: 'xfs',
        'used-bytes': 7,
        'total-bytes': 70,
        disk: [address(1), address(2)],
      },
      { name: 'sr0', mountpoint: '/cdrom', type: 'iso9660', disk: [] },
    ],
    'guest-get-disks': () => [
      { name: '/dev/vda1', partition: true, dependencies: ['/dev/vda'] },
      { name: '/dev/vda', partition: false, dependencies: [], address: address(1) },
      { name: '/dev/sda', partition: false, address: address(3, { 'bus-type': 'sata', unit: 2 }) },
      { name: '/dev/dm-0', partition: false, dependencies: ['/dev/vda3'] },
      { name: '/dev/sr0', partition: false },
    ],
    'guest-get-users': () => [
      { user: 'root', 'login-time': 1_700_000_000.5 },
      { user: 'odd\u001b[31m\n', 'login-time': 1e300 },
    ],
  });
  const agent = new QemuGuestAgent(fake.path);
  agent.findDisks = () =>
    Promise.resolve([
      { disk: 'root', pci: { bus: 1, slot: 1 }, isCdrom: false, at: null },
      { disk: 'data', pci: { bus: 1, slot: 2 }, isCdrom: false, at: null },
      { disk: 'old', pci: { bus: 1, slot: 3 }, isCdrom: false, at: { port: 2 } },
    ]);
  const { clock, ...told } = await agent.info();
  assert.ok(clock && Math.abs(clock.behindMs - 90_000) < 5000, JSON.stringify(clock));
  const system = { name: 'vda1', type: 'ext4', totalBytes: 100, usedBytes: 10, disks: ['root'] };
  assert.deepEqual(told, {
    agentVersion: '7.2.0',
    hostname: 'web1',
    os: { id: 'debian', name: 'Debian 13', version: '13', kernel: '6.12', machine: null },
    timeZone: { name: 'CEST', offsetS: 7200 },
    interfaces: [
      { name: 'eth0', mac: '52:54:00:ab:cd:ef', addresses: [{ address: '10.0.0.5', prefix: 24, family: 'ipv4' }] },
      { name: 'tun0', mac: null, addresses: [] },
    ],
    fileSystems: [
      { mountPoint: '/', ...system },
      { mountPoint: '/srv', ...system },
      { mountPoint: '/boot', name: 'vda2', type: 'ext2', totalBytes: 9, usedBytes: 1, disks: ['root'] },
      { mountPoint: '/both', name: 'dm-0', type: 'xfs', totalBytes: 70, usedBytes: 7, disks: ['root', 'data'] },
      { mountPoint: '/cdrom', name: 'sr0', type: 'iso9660', totalBytes: null, usedBytes: null, disks: [] },
    ],
    disks: [
      {
        disk: 'root',
        device: '/dev/vda',
        mountPoints: ['/', '/srv', '/boot', '/both'],
        usedBytes: 11,
        totalBytes: 109,
      },
      { disk: 'old', device: '/dev/sda', mountPoints: [], usedBytes: null, totalBytes: null },
      { disk: null, device: '/dev/sr0', mountPoints: [], usedBytes: null, totalBytes: null },
    ],
    vcpus: { online: 1, total: 2 },
    users: [
      { name: 'root', loginAt: '2023-11-14T22:13:20.500Z' },
      { name: 'odd', loginAt: null },
    ],
    missing: [],
  });
  agent.close();
});

test('a disk that its guest can not tell from another at the same controller is told to be unknown', async () => {
  const scsi = (dev: string): object => address(5, { 'bus-type': 'scsi', dev });
  const systems = [
    { name: 'sda1', mountpoint: '/srv', type: 'ext4', disk: [scsi('/dev/sda1')] },
    { name: 'sr0', mountpoint: '/cdrom', type: 'iso9660', disk: [scsi('/dev/sr0')] },
  ];
  await using fake = await FakeAgent.listen({ 'guest-get-fsinfo': () => systems });
  const agent = new QemuGuestAgent(fake.path);
  const pci = { bus: 1, slot: 5 };
  const one = { disk: 'one', pci, isCdrom: false, at: { target: 1 } };
  const cd = { disk: 'cd', pci, isCdrom: true, at: { target: 2 } };
  agent.findDisks = () => Promise.resolve([one, cd]);
  assert.deepEqual(await agent.mountPoints('one'), ['/srv']);
  assert.deepEqual(await agent.mountPoints('cd'), ['/cdrom']);
  assert.equal(await agent.mountPoints('no such disk'), null);
  agent.findDisks = () => Promise.resolve([one, { ...one, disk: 'two', at: { target: 3 } }, cd]);
  assert.equal(await agent.mountPoints('one'), null);
  assert.deepEqual(await agent.mountPoints('cd'), ['/cdrom']);
  systems.shift();
  assert.deepEqual(await agent.mountPoints('one'), []);
  agent.close();
});

test('what a guest measures arrives with its units, memory from the balloon', async () => {
  const traffic = { 'rx-bytes': 1, 'rx-packets': 2, 'rx-errs': 3, 'rx-dropped': 4 };
  await using fake = await FakeAgent.listen({
    'guest-get-load': () => ({ load1m: 0.5, load5m: 0.25, load15m: 0.125 }),
    'guest-get-cpustats': () => [{ type: 'linux', cpu: 0, user: 10, nice: 0, system: 20, idle: 30, steal: 4 }],
    'guest-get-diskstats': () => [
      { name: 'vda', major: 254, minor: 0, stats: { 'read-ios': 3, 'read-sectors': 8, 'read-ticks': 5 } },
    ],
    'guest-network-get-interfaces': () => [
      { name: 'lo' },
      {
        name: 'eth0',
        statistics: { ...traffic, 'tx-bytes': 5, 'tx-packets': 6, 'tx-errs': 7, 'tx-dropped': 8 },
      },
    ],
  });
  const agent = new QemuGuestAgent(fake.path);
  const metrics = await agent.metrics();
  assert.deepEqual(metrics.load, { oneMinute: 0.5, fiveMinutes: 0.25, fifteenMinutes: 0.125 });
  assert.deepEqual([metrics.cpus?.[0]?.systemMs, metrics.cpus?.[0]?.stealMs, metrics.cpus?.[0]?.irqMs], [20, 4, null]);
  assert.deepEqual([metrics.disks?.[0]?.readBytes, metrics.disks?.[0]?.writtenBytes], [4096, null]);
  assert.deepEqual(
    metrics.interfaces?.map(({ name, traffic: { sentErrors } }) => [name, sentErrors]),
    [['eth0', 7]],
  );
  assert.equal(metrics.memory, null);
  assert.deepEqual(
    metrics.missing.map(({ what }) => what),
    ['memory'],
  );
  agent.close();
});

test('where no agent answers, memory is told all the same, and without both it is an error', async () => {
  await using fake = await FakeAgent.listen({});
  fake.isSilent = true;
  const agent = new QemuGuestAgent(fake.path, { syncTimeoutMs: 20 });
  await assert.rejects(agent.metrics(), failsWith('agent_unavailable'));
  const memory = {
    totalBytes: 100,
    freeBytes: 10,
    availableBytes: 50,
    cacheBytes: 40,
    swappedInBytes: 0,
    swappedOutBytes: 0,
    minorFaults: 1,
    majorFaults: 0,
  };
  agent.readMemory = () => Promise.resolve(memory);
  const metrics = await agent.metrics();
  assert.deepEqual(metrics.memory, memory);
  assert.deepEqual(
    metrics.missing.map(({ what }) => what),
    ['load', 'cpus', 'disks', 'interfaces'],
  );
  agent.close();
});

test('what the agent can not tell is named with the reason, and the rest is told', async () => {
  await using fake = await FakeAgent.listen({
    'guest-get-host-name': () => ({ 'host-name': 'tiny' }),
    'guest-get-users': () => {
      throw new AgentRefusal('no utmp');
    },
    'guest-get-fsinfo': () => 'nonsense',
  });
  const agent = new QemuGuestAgent(fake.path);
  const info = await agent.info();
  assert.equal(info.hostname, 'tiny');
  assert.equal(info.os, null);
  const reasons = new Map(info.missing.map(({ what, reason }) => [what, reason]));
  assert.match(reasons.get('os') ?? '', /guest-get-osinfo: the guest agent does not have this command/);
  assert.match(reasons.get('users') ?? '', /refused: no utmp/);
  assert.match(reasons.get('fileSystems') ?? '', /guest-get-fsinfo: the guest agent's answer is not valid/);
  assert.ok(!reasons.has('hostname'));
  agent.close();
});

test('an agent that does not tell its commands is asked each of them', async () => {
  await using fake = await FakeAgent.listen({ 'guest-ping': () => ({}) });
  delete fake.commands['guest-info'];
  const agent = new QemuGuestAgent(fake.path);
  assert.equal(await agent.isAnswering(), true);
  const info = await agent.info();
  assert.deepEqual(
    info.missing.map(({ what }) => what),
    ['os', 'hostname', 'interfaces', 'timeZone', 'clock', 'fileSystems', 'disks', 'vcpus', 'users'],
  );
  await assert.rejects(agent.thaw(), failsWith('unsupported'));
  agent.close();
});

test('whether an agent answers is a yes or a no, never an error', async () => {
  await using fake = await FakeAgent.listen({});
  fake.isSilent = true;
  const agent = new QemuGuestAgent(fake.path, { syncTimeoutMs: 20 });
  assert.equal(await agent.isAnswering(), false);
  await assert.rejects(agent.info(), failsWith('agent_unavailable'));
  fake.isSilent = false;
  assert.equal(await agent.isAnswering(), true);
  agent.notePort(false);
  assert.equal(await agent.isAnswering(), false);
  agent.close();
  assert.equal(await new QemuGuestAgent('/nonexistent/agent.sock').isAnswering(), false);
});

test('an agent that has just repeated a number answers, and is asked nothing more', async () => {
  await using fake = await FakeAgent.listen({});
  const agent = new QemuGuestAgent(fake.path);
  assert.deepEqual(await Promise.all([agent.isAnswering(), agent.isAnswering()]), [true, true]);
  assert.deepEqual([fake.synchronizations, fake.heard], [1, []]);
  agent.close();
});

test('a freeze that was given up is taken back', async () => {
  await using fake = await FakeAgent.listen({
    'guest-fsfreeze-freeze': () => SILENCE,
    'guest-fsfreeze-thaw': () => 2,
    'guest-fsfreeze-status': () => 'thawed',
  });
  const agent = new QemuGuestAgent(fake.path);
  await assert.rejects(agent.freeze({ timeoutMs: 100 }), failsWith('timeout'));
  assert.equal(fake.heard.at(-1), 'guest-fsfreeze-thaw');
  fake.commands['guest-fsfreeze-freeze'] = () => 3;
  assert.equal(await agent.freeze(), 3);
  assert.equal(await agent.thaw(), 2);
  assert.equal(await agent.isFrozen(), false);
  agent.close();
});

test('the clock goes to the guest in nanoseconds, and a shutdown needs no answer', async () => {
  const times: unknown[] = [];
  await using fake = await FakeAgent.listen({
    'guest-set-time': ({ time }) => {
      times.push(time);
      return {};
    },
    'guest-shutdown': () => SILENCE,
  });
  const agent = new QemuGuestAgent(fake.path);
  await agent.setTime(1_700_000_000_123);
  assert.deepEqual(times, [1_700_000_000_123_000_000]);
  const shutdown = agent.shutdown('powerdown');
  await fake.peer.until(() => fake.heard.includes('guest-shutdown'), 'the command');
  fake.peer.hangUp();
  await shutdown;
  agent.close();
});

test('a system’s clock is set also where the program for the machine’s clock is missing', async () => {
  let refusal = "child process has failed to set hardware clock to system time: failed to exec '/sbin/hwclock'";
  await using fake = await FakeAgent.listen({
    'guest-set-time': () => {
      throw new AgentRefusal(refusal);
    },
  });
  const agent = new QemuGuestAgent(fake.path);
  await agent.setTime(1_700_000_000_123);
  refusal = 'Failed to set time to guest: Operation not permitted';
  await assert.rejects(agent.setTime(1_700_000_000_123), /not permitted/);
  agent.close();
});

test('programs and files answer in the contract’s words and errors', async () => {
  await using fake = await FakeAgent.listen({
    'guest-exec': () => ({ pid: 5 }),
    'guest-exec-status': () => ({ exited: true, exitcode: 0, 'out-data': 'aGk=' }),
    'guest-file-open': () => {
      throw new AgentRefusal("failed to open file '/x' (mode: 'r'): No such file or directory");
    },
  });
  const agent = new QemuGuestAgent(fake.path);
  const request = { command: ['x'], environment: [], input: null, timeoutMs: 5000 };
  assert.deepEqual(await collect(agent.exec(request)), [
    { type: 'started', pid: 5 },
    { type: 'stdout', data: 'aGk=' },
    { type: 'exit', code: 0, signal: null },
  ]);
  await assert.rejects(collect(agent.readFile('/x')), failsWith('not_found'));
  agent.close();
  await assert.rejects(collect(agent.exec(request)), failsWith('agent_unavailable'));
});

test('every reason of a failure has a code of the contract', () => {
  const codes: Record<AgentFailure, ErrorCode> = {
    unreachable: 'agent_unavailable',
    silent: 'agent_unavailable',
    stopped: 'agent_unavailable',
    closed: 'agent_unavailable',
    timeout: 'timeout',
    missing: 'unsupported',
    disabled: 'unsupported',
    refused: 'hypervisor_failed',
    protocol: 'hypervisor_failed',
    busy: 'rate_limited',
    cancelled: 'cancelled',
  };
  for (const [reason, code] of Object.entries(codes)) {
    assert.ok(failsWith(code)(toLodgeError(new AgentError(reason as AgentFailure, 'guest-exec', 'words'))), reason);
  }
  const other = new Error('other');
  assert.equal(toLodgeError(other), other);
});
