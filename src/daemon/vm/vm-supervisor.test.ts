import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { vmActions, vmState, vmTransitions, type VmAction } from '../../api/vm-state.ts';
import { ConsoleTickets } from './console-tickets.ts';
import { withAddresses } from './guest-facts.ts';
import { backOffMs, wantsRestart } from './vm-supervisor.ts';

describe('The restart policy', () => {
  it('never restarts what somebody stopped', () => {
    for (const cause of ['stopped', 'forced-off', 'suspended'] as const)
      assert.equal(wantsRestart('always', cause), false);
  });

  it('on-failure restarts what failed and leaves what shut itself down', () => {
    assert.equal(wantsRestart('on-failure', 'hypervisor-died'), true);
    assert.equal(wantsRestart('on-failure', 'out-of-memory'), true);
    assert.equal(wantsRestart('on-failure', 'guest-panicked'), true);
    assert.equal(wantsRestart('on-failure', 'guest-shutdown'), false);
    assert.equal(wantsRestart('always', 'guest-shutdown'), true);
    assert.equal(wantsRestart('never', 'hypervisor-died'), false);
  });

  it('waits twice as long each time, up to five minutes', () => {
    assert.deepEqual(
      [0, 1, 2, 3].map((count) => backOffMs(2, count)),
      [2000, 4000, 8000, 16_000],
    );
    assert.equal(backOffMs(2, 1000), 300_000);
  });
});

describe('The table of states', () => {
  it('lets every action begin only where its states can follow', () => {
    for (const [action, { from, during }] of Object.entries(vmActions) as [VmAction, (typeof vmActions)[VmAction]][]) {
      if (during === null) continue;
      for (const state of from) {
        const isAllowed = state === during || vmTransitions[state].includes(during);
        assert.ok(isAllowed, `${action} from ${state} needs the transition to ${during}`);
      }
    }
  });

  it('leads from every state to an end', () => {
    for (const state of vmState.options) {
      const reached = new Set([state]);
      for (const next of reached) for (const following of vmTransitions[next]) reached.add(following);
      assert.ok(reached.has('deleting'), `${state} never ends`);
    }
  });
});

describe('A console ticket', () => {
  it('opens one connection, within a minute', () => {
    let now = 0;
    const tickets = new ConsoleTickets(() => now);
    const content = { vmId: 'vm', type: 'serial', caller: 'local:root' } as const;
    const first = tickets.issue(content);
    assert.equal(tickets.redeem(first.ticket).vmId, 'vm');
    assert.throws(() => tickets.redeem(first.ticket), { code: 'not_found' });
    const second = tickets.issue(content);
    now = 60_001;
    assert.throws(() => tickets.redeem(second.ticket), { code: 'not_found' });
  });
});

describe('The addresses of a NIC', () => {
  const nic = { network: 'default', model: 'virtio', mac: '52:54:00:00:00:01', hostInterface: null, addresses: [] };

  it('are those the guest tells, without link-local ones', () => {
    const info = {
      agentVersion: '1',
      hostname: null,
      os: null,
      interfaces: [
        {
          name: 'eth0',
          mac: '52:54:00:00:00:01',
          addresses: [
            { address: '10.0.0.5', prefix: 24, family: 'ipv4' as const },
            { address: 'fe80::1', prefix: 64, family: 'ipv6' as const },
          ],
        },
      ],
      fileSystems: [],
      users: [],
      missing: [],
    };
    assert.deepEqual(withAddresses([nic], new Map([[nic.mac, '10.0.0.9']]), info)[0]!.addresses, ['10.0.0.5']);
  });

  it('are the leased one as long as the guest tells nothing', () => {
    assert.deepEqual(withAddresses([nic], new Map([[nic.mac, '10.0.0.9']]), null)[0]!.addresses, ['10.0.0.9']);
    assert.deepEqual(withAddresses([nic], new Map(), null)[0]!.addresses, []);
  });
});
