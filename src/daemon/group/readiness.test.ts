import assert from 'node:assert/strict';
import { createServer, type AddressInfo } from 'node:net';
import { suite, test } from 'node:test';
import { LodgeError } from '../../api/errors.ts';
import { type GroupReadiness } from '../../api/group.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { waitUntilReady, type ReadinessParts } from './readiness.ts';

const member = { id: 'v1', name: 'web1' };

function vmIn(state: Vm['status']['state']): Vm {
  return { status: { state } } as Vm;
}

/** A guest of which only the agent counts. */
function guestWith(agent: Partial<Guest['agent']>): Guest {
  return { agent } as Guest;
}

function parts(change: Partial<ReadinessParts> = {}): ReadinessParts {
  return { vm: () => vmIn('running'), guest: () => null, addresses: () => [], isComing: () => false, ...change };
}

function wait(given: ReadinessParts, ready: GroupReadiness, timeoutMs = 60_000): Promise<void> {
  return waitUntilReady(given, member, ready, { timeoutMs, signal: AbortSignal.timeout(60_000) });
}

async function* nothing(): AsyncGenerator<never, void, void> {}

const silentAgent = {
  readFile: () => {
    throw new LodgeError('agent_unavailable', 'The agent in VM web1 does not answer.');
  },
};

suite('a member is ready', () => {
  test('when its vCPUs run, and not before', async () => {
    const states = ['starting', 'starting', 'running'] as const;
    let looks = 0;
    await wait(parts({ vm: () => vmIn(states[Math.min(looks++, 2)]!) }), { type: 'running' });
    assert.ok(looks >= 3);
  });

  test('when a connection to its port is accepted, with no agent in it', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const reachable = parts({ addresses: () => ['127.0.0.1'], guest: () => guestWith(silentAgent) });
    try {
      await wait(reachable, { type: 'port', port });
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
    await assert.rejects(wait(reachable, { type: 'port', port }, 0), /nothing listens on port/);
  });

  test('when its program has ended well, after it has not', async () => {
    const codes = [1, 1, 0];
    let runs = 0;
    const agent = {
      exec: async function* () {
        yield { type: 'stdout' as const, data: 'eA==' };
        yield { type: 'exit' as const, code: codes[runs++] ?? 1, signal: null };
      },
    };
    await wait(parts({ guest: () => guestWith(agent) }), { type: 'command', command: ['ready'] });
    assert.equal(runs, 3);
  });
});

suite('waiting for a member ends', () => {
  const refused = async (given: ReadinessParts, ready: GroupReadiness, timeoutMs?: number): Promise<LodgeError> => {
    const failure = await wait(given, ready, timeoutMs).then(
      () => null,
      (error: unknown) => error,
    );
    assert.ok(failure instanceof LodgeError, String(failure));
    return failure;
  };

  test('at its deadline, with what was missing', async () => {
    const agent = { isAnswering: async () => false };
    const error = await refused(parts({ guest: () => guestWith(agent) }), { type: 'agent' }, 0);
    assert.equal(error.code, 'timeout');
    assert.match(error.message, /VM web1 was not ready within 0 s: its agent does not answer\.$/);
    const port = await refused(parts({ guest: () => guestWith(silentAgent) }), { type: 'port', port: 80 }, 0);
    assert.match(port.message, /nothing listens on port 80 that this host can see: The agent in VM web1 does not/);
    const command = { type: 'command', command: ['x'] } as GroupReadiness;
    assert.match(
      (await refused(parts({ guest: () => guestWith({ exec: nothing }) }), command, 0)).message,
      /x did not end/,
    );
  });

  test('when it ends or is deleted, unless it is about to come back', async () => {
    assert.equal((await refused(parts({ vm: () => vmIn('stopped') }), { type: 'agent' })).code, 'wrong_state');
    assert.equal((await refused(parts({ vm: () => null }), { type: 'agent' })).code, 'not_found');
    let looks = 0;
    const restarting = parts({ vm: () => vmIn(looks++ === 0 ? 'stopped' : 'running'), isComing: () => true });
    await wait(restarting, { type: 'running' });
  });

  test('when it is told to', async () => {
    const abort = new AbortController();
    const waiting = waitUntilReady(
      parts({ vm: () => vmIn('starting') }),
      member,
      { type: 'running' },
      {
        timeoutMs: 60_000,
        signal: abort.signal,
      },
    );
    abort.abort(new Error('enough'));
    await assert.rejects(waiting, /enough|abort/i);
  });
});
