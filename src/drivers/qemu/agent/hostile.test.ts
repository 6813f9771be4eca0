// Agents that hang and lie, over a real socket: each gets an error that says what it did, costs bounded memory and time,
// and the next call works.
import assert from 'node:assert/strict';
import { type Socket } from 'node:net';
import { test } from 'node:test';
import { AgentRefusal, FakeAgent, SILENCE } from '../../../../test/support/fake-agent.ts';
import { AgentChannel } from './channel.ts';
import { AgentClient } from './client.ts';
import { AgentError } from './errors.ts';
import { execInGuest } from './exec.ts';
import { QemuGuestAgent } from './guest-agent.ts';

const mib = 2 ** 20;

async function failure(work: Promise<unknown>): Promise<Error> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof Error, 'it fails');
  return error;
}

/** A channel to an agent of which one command does something odd; `guest-ping` is as it should be. */
async function withOdd(
  odd: (agent: FakeAgent) => unknown,
  check: (channel: AgentChannel, agent: FakeAgent) => Promise<void>,
): Promise<void> {
  await using agent: FakeAgent = await FakeAgent.listen({
    'guest-get-osinfo': () => odd(agent),
    'guest-ping': () => ({}),
  });
  const channel = new AgentChannel(agent.path, { syncTimeoutMs: 2000 });
  await check(channel, agent);
  assert.deepEqual(await channel.execute('guest-ping', undefined), {}, 'the next call works');
  channel.close();
}

/** Sends as long as somebody takes it. */
function flood(socket: Socket, piece: Buffer): { sent: () => number } {
  let bytes = 0;
  const pump = (): void => {
    while (!socket.destroyed) {
      bytes += piece.length;
      if (!socket.write(piece)) {
        socket.once('drain', pump);
        return;
      }
    }
  };
  pump();
  return { sent: () => bytes };
}

test('gigabytes of answer are cut off after what an answer may have', async () => {
  for (const piece of [Buffer.alloc(256 * 1024, 'x'), Buffer.from('{"half": 1}\n'.repeat(20_000))]) {
    let socket: Socket | undefined;
    let flow = { sent: () => 0 };
    await withOdd(
      () => {
        flow = flood(socket!, piece);
        return SILENCE;
      },
      async (channel, agent) => {
        agent.peer.onConnect = (one) => (socket = one);
        const error = await failure(channel.execute('guest-get-osinfo', undefined));
        assert.match(error.message, /the guest sent more than the 1048576 bytes allowed/);
        await agent.peer.until(() => !agent.peer.isConnected, 'the end of the connection');
        // What sockets hold on their way comes on top.
        assert.ok(flow.sent() < 16 * mib, `${flow.sent()} bytes were taken`);
      },
    );
  }
});

test('an answer that never ends is given up at the deadline, which says so', async () => {
  await withOdd(
    (agent) => {
      agent.peer.send('{"return": {"id": "aaaaaaaaaaaaaaaa');
      return SILENCE;
    },
    async (channel) => {
      const error = await failure(channel.execute('guest-get-osinfo', undefined, { timeoutMs: 1500 }));
      assert.match(error.message, /did not answer within 1500 ms; it sent 35 bytes of an answer that has no end/);
    },
  );
});

test('invalid UTF-8 and what is no JSON are no answers, and are named when none comes', async () => {
  const lines: [Buffer, RegExp][] = [
    [Buffer.from([...Buffer.from('{"return": {"id": "'), 0xc3, 0x28, ...Buffer.from('"}}\n')]), /not valid UTF-8/],
    [Buffer.from('{"return": {"id": }}\n'), /not valid JSON/],
    [Buffer.from('["return"]\n'), /no JSON object/],
    [Buffer.from(`{"return": ${'['.repeat(50_000)}${']'.repeat(50_000)}}\n`), /more than 32 deep/],
    [Buffer.from(`{"return": [${'1,'.repeat(300_000)}1]}\n`), /more than 200000 values/],
  ];
  const check = ([line, words]: [Buffer, RegExp]): Promise<void> =>
    withOdd(
      (agent) => {
        agent.peer.send(line);
        return SILENCE;
      },
      async (channel) => {
        const error = await failure(channel.execute('guest-get-osinfo', undefined, { timeoutMs: 1500 }));
        assert.match(error.message, words);
        assert.match(error.message, /it sent 1 lines that are no answer/);
      },
    );
  await Promise.all(lines.map(check));
});

test('an answer that nobody asked for makes the conversation begin anew, and is never taken for another’s', async () => {
  await withOdd(
    (agent) => {
      // One too many: it would be taken for the answer to whatever comes next.
      agent.peer.send('{"return": {"id": "first"}}\n{"return": {"id": "second"}}\n');
      return SILENCE;
    },
    async (channel, agent) => {
      assert.deepEqual(await channel.execute('guest-get-osinfo', undefined), { id: 'first' });
      await agent.peer.until(() => !agent.peer.isConnected, 'the end of the connection');
      agent.commands['guest-get-host-name'] = () => ({ 'host-name': 'web1' });
      assert.deepEqual(await channel.execute('guest-get-host-name', undefined), { 'host-name': 'web1' });
      assert.equal(agent.synchronizations, 2);
    },
  );
});

test('wrong types, negative and absurd numbers are named with their place', async () => {
  const wrong: [command: string, answer: unknown, what: string, words: RegExp][] = [
    ['guest-get-osinfo', 5, 'os', /guest-get-osinfo: .*answer: Invalid input: expected object/],
    ['guest-get-osinfo', { id: { deep: 1 } }, 'os', /id: Invalid input: expected string/],
    ['guest-get-host-name', { 'host-name': 'x'.repeat(5000) }, 'hostname', /host-name: Too big/],
    [
      'guest-get-fsinfo',
      [{ name: 'a', mountpoint: '/', type: 'x', 'used-bytes': -1 }],
      'fileSystems',
      /0\.used-bytes: Too small/,
    ],
    [
      'guest-get-fsinfo',
      [{ name: 'a', mountpoint: '/', type: 'x', 'total-bytes': 1e300 }],
      'fileSystems',
      /0\.total-bytes/,
    ],
    ['guest-get-users', { length: 3 }, 'users', /expected array/],
    ['guest-get-users', [{ user: 'root', 'login-time': 'now' }], 'users', /0\.login-time/],
    ['guest-get-vcpus', [{ 'logical-id': 0.5, online: 1 }], 'vcpus', /0\.logical-id/],
    ['guest-get-time', null, 'clock', /guest-get-time/],
    ['guest-get-timezone', { offset: 1e9 }, 'timeZone', /offset: Too big/],
    ['guest-get-disks', [{ name: '/dev/vda' }], 'disks', /0\.partition/],
    ['guest-network-get-interfaces', [{ name: 7 }], 'interfaces', /0\.name/],
  ];
  for (const [command, answer, what, words] of wrong) {
    await using fake = await FakeAgent.listen({
      'guest-get-host-name': () => ({ 'host-name': 'web1' }),
      'guest-get-vcpus': () => [{ 'logical-id': 0, online: true }],
      [command]: () => answer,
    });
    const agent = new QemuGuestAgent(fake.path);
    const info = await agent.info();
    const reason = info.missing.find((entry) => entry.what === what)?.reason ?? '';
    assert.match(reason, words, command);
    assert.ok(reason.length < 500);
    // What it told rightly is told.
    if (what !== 'vcpus') assert.deepEqual(info.vcpus, { online: 1, total: 1 });
    agent.close();
  }
});

test('thousands of interfaces, users and file systems are refused, or told as long as they are within bounds', async () => {
  const many = <T>(count: number, one: (index: number) => T): T[] => Array.from({ length: count }, (_, n) => one(n));
  await using fake = await FakeAgent.listen({
    'guest-network-get-interfaces': () => many(20_000, (n) => ({ name: `e${n}` })),
    'guest-get-users': () => many(9000, (n) => ({ user: `u${n}`, 'login-time': n })),
    'guest-get-fsinfo': () => many(9000, (n) => ({ name: 'a', mountpoint: `/m${n}`, type: 'x', disk: [] })),
    'guest-get-vcpus': () => many(5000, (n) => ({ 'logical-id': n, online: true })),
    'guest-get-disks': () => many(100_000, (n) => ({ name: `/dev/d${n}`, partition: false })),
  });
  const agent = new QemuGuestAgent(fake.path);
  const info = await agent.info({ timeoutMs: 30_000 });
  assert.equal(info.users.length, 9000);
  assert.equal(info.fileSystems.length, 9000);
  const reasons = new Map(info.missing.map(({ what, reason }) => [what, reason]));
  assert.match(reasons.get('interfaces') ?? '', /Too big: expected array to have <=1000 items/);
  assert.match(reasons.get('vcpus') ?? '', /Too big: expected array to have <=4096 items/);
  assert.match(reasons.get('disks') ?? '', /more than the 1048576 bytes allowed/);
  agent.close();
});

test('a program whose status never comes to an end, and a file that announces what it does not hold', async () => {
  let pid = 0;
  await using fake = await FakeAgent.listen({
    'guest-get-osinfo': () => ({ id: 'mswindows' }),
    'guest-exec': () => ({ pid: --pid }),
    // What is run to end it does end.
    'guest-exec-status': (args) =>
      args['pid'] === -1
        ? { exited: false, 'out-data': Buffer.alloc(1000).toString('base64') }
        : { exited: true, exitcode: -300 },
    'guest-file-open': () => -1,
    'guest-file-read': () => ({ count: 2 ** 40, 'buf-b64': '!!!!', eof: false }),
    'guest-file-close': () => ({}),
  });
  const agent = new QemuGuestAgent(fake.path);
  const client = new AgentClient(fake.path);
  let bytes = 0;
  const run = async (): Promise<void> => {
    const request = { command: ['x'], timeoutMs: 1500, endGraceMs: 20 };
    for await (const output of execInGuest(client, request)) if (output.type === 'stdout') bytes += output.data.length;
  };
  const late = await failure(run());
  assert.ok(late instanceof AgentError && late.reason === 'timeout', String(late));
  assert.match(late.message, /ran longer than 1500 ms and was ended/);
  assert.ok(bytes > 0);
  client.close();
  const read = async (): Promise<void> => {
    for await (const chunk of agent.readFile('/etc/hostname')) assert.fail(`${chunk.length} bytes came`);
  };
  const lie = await failure(read());
  assert.match(lie.message, /announced 1099511627776 bytes and sent 0/);
  agent.close();
});

test('an error with the words of the guest is one line of bounded length', async () => {
  await using fake = await FakeAgent.listen({
    'guest-get-osinfo': () => {
      throw new AgentRefusal(`\u001b[2J${'bad\n'.repeat(5000)}`);
    },
  });
  const agent = new QemuGuestAgent(fake.path);
  const { missing } = await agent.info();
  const reason = missing.find(({ what }) => what === 'os')?.reason ?? '';
  assert.match(reason, /refused: bad bad/);
  assert.ok(reason.length < 1200 && !/\p{Cc}/u.test(reason));
  agent.close();
});

test('an agent that hangs up on every command is told as such each time', async () => {
  await using fake: FakeAgent = await FakeAgent.listen({
    'guest-get-osinfo': () => {
      fake.peer.hangUp();
      return SILENCE;
    },
    'guest-ping': () => ({}),
  });
  const channel = new AgentChannel(fake.path);
  for (let round = 0; round < 5; round++) {
    const error = await failure(channel.execute('guest-get-osinfo', undefined));
    assert.ok(error instanceof AgentError && error.reason === 'stopped', String(error));
  }
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  channel.close();
});
