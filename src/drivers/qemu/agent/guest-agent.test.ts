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

test('everything a guest tells of itself arrives in the contract’s words', async () => {
  await using fake = await FakeAgent.listen({
    'guest-get-osinfo': () => ({
      id: 'debian',
      'pretty-name': 'Debian 13',
      'version-id': '13',
      'kernel-release': '6.12',
    }),
    'guest-get-host-name': () => ({ 'host-name': 'web1' }),
    'guest-network-get-interfaces': () => [
      {
        name: 'eth0',
        'hardware-address': '52:54:00:AB:CD:EF',
        'ip-addresses': [{ 'ip-address': '10.0.0.5', 'ip-address-type': 'ipv4', prefix: 24 }],
        statistics: {},
      },
      { name: 'tun0' },
    ],
    'guest-get-fsinfo': () => [
      { name: 'vda1', mountpoint: '/', type: 'ext4', 'used-bytes': 10, 'total-bytes': 100, disk: [] },
      { name: 'sr0', mountpoint: '/cdrom', type: 'iso9660', disk: [] },
    ],
    'guest-get-users': () => [
      { user: 'root', 'login-time': 1_700_000_000.5 },
      { user: 'odd', 'login-time': 1e300 },
    ],
  });
  const agent = new QemuGuestAgent(fake.path);
  assert.deepEqual(await agent.info(), {
    agentVersion: '7.2.0',
    hostname: 'web1',
    os: { id: 'debian', name: 'Debian 13', version: '13', kernel: '6.12', machine: null },
    interfaces: [
      { name: 'eth0', mac: '52:54:00:ab:cd:ef', addresses: [{ address: '10.0.0.5', prefix: 24, family: 'ipv4' }] },
      { name: 'tun0', mac: null, addresses: [] },
    ],
    fileSystems: [
      { mountPoint: '/', name: 'vda1', type: 'ext4', totalBytes: 100, usedBytes: 10 },
      { mountPoint: '/cdrom', name: 'sr0', type: 'iso9660', totalBytes: null, usedBytes: null },
    ],
    users: [
      { name: 'root', loginAt: '2023-11-14T22:13:20.500Z' },
      { name: 'odd', loginAt: null },
    ],
    missing: [],
  });
  agent.close();
});

test('what the agent can not tell is named, and the rest is told', async () => {
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
  assert.deepEqual(info.missing, ['os', 'interfaces', 'fileSystems', 'users']);
  agent.close();
});

test('an agent that does not tell its commands is asked each of them', async () => {
  await using fake = await FakeAgent.listen({ 'guest-ping': () => ({}) });
  delete fake.commands['guest-info'];
  const agent = new QemuGuestAgent(fake.path);
  assert.equal(await agent.isAnswering(), true);
  const info = await agent.info();
  assert.deepEqual(info.missing, ['os', 'hostname', 'interfaces', 'fileSystems', 'users']);
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
