// The guest agent's client against a real qemu-ga, in the guest `tiny` (busybox).
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { QemuGuestAgent } from '../../src/drivers/qemu/agent/guest-agent.ts';
import { QmpClient } from '../../src/drivers/qemu/qmp/client.ts';
import { TINY_COMMAND_LINE } from '../../src/host/image/tiny.ts';
import { startBareQemu } from '../support/bare-qemu.ts';
import { tinyImage } from '../support/qemu.ts';
import { eventually } from '../support/wait.ts';

let agent: QemuGuestAgent;
let qmp: QmpClient;

/** Boots the guest and waits for its agent. */
async function boot(context: TestContext): Promise<void> {
  const image = await tinyImage();
  const qemu = await startBareQemu(context, (folder) =>
    ['-M', 'q35', '-m', '256', '-accel', 'tcg', '-S'].concat(
      ['-kernel', image.kernelPath, '-initrd', image.initramfsPath, '-append', TINY_COMMAND_LINE],
      ['-chardev', `socket,id=agent0,server=on,wait=off,path=${join(folder, 'agent.sock')}`],
      ['-device', 'virtio-serial-pci'],
      ['-device', 'virtserialport,chardev=agent0,name=org.qemu.guest_agent.0,id=agent-port'],
    ),
  );
  qmp = await QmpClient.connect(qemu.qmpPath);
  agent = new QemuGuestAgent(join(qemu.folder, 'agent.sock'), { syncTimeoutMs: 1000 });
  context.after(() => {
    agent.close();
    qmp.close();
  });
  // Before the guest runs, nobody answers; that is known at once when QEMU says so.
  assert.equal(await agent.isAnswering({ timeoutMs: 200 }), false);
  const opened = qmp.waitForEvent(
    'VSERPORT_CHANGE',
    (event) => event.data.id === 'agent-port' && event.data.open,
    60_000,
  );
  await qmp.execute('cont');
  await opened;
  await eventually(() => agent.isAnswering(), { timeoutMs: 30_000, describe: 'the agent answers' });
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** Runs a program; its output as text, and how it ended. */
async function exec(
  command: readonly string[],
  options: { environment?: string[]; input?: string; timeoutMs?: number } = {},
): Promise<{ stdout: string; stderr: string; exit: string; times: number[] }> {
  const { environment = [], input, timeoutMs = 20_000 } = options;
  const result = { stdout: '', stderr: '', exit: '', times: [] as number[] };
  const request = { command, environment, input: input === undefined ? null : Buffer.from(input), timeoutMs };
  for await (const event of agent.exec(request)) {
    if (event.type === 'stdout' || event.type === 'stderr') {
      result[event.type] += Buffer.from(event.data, 'base64').toString();
      result.times.push(performance.now());
    } else if (event.type === 'exit') {
      result.exit = `${event.code} ${event.signal}`;
    }
  }
  return result;
}

test('a real agent in a real guest', async (context) => {
  await boot(context);

  await context.test('the guest tells of itself', async () => {
    const info = await agent.info();
    assert.match(info.agentVersion, /^\d+\.\d+/);
    assert.equal(info.os?.machine, 'x86_64');
    assert.ok(info.interfaces.some((entry) => entry.name === 'lo'));
    assert.ok(info.hostname);
  });

  await context.test(
    'output is followed while the program runs, and both streams, exit code and signal are right',
    async () => {
      const slow = await exec(['sh', '-c', 'echo one; sleep 1; echo two >&2; sleep 1; echo three; exit 7']);
      assert.equal(slow.stdout, 'one\nthree\n');
      assert.equal(slow.stderr, 'two\n');
      assert.equal(slow.exit, '7 null');
      assert.ok((slow.times.at(-1) ?? 0) - (slow.times[0] ?? 0) > 500, 'the first line came long before the last');
      assert.equal((await exec(['sh', '-c', 'kill -9 $$'])).exit, 'null 9');
      assert.equal((await exec(['no-such-program'])).exit, '127 null');
    },
  );

  await context.test('arguments, environment and input reach the program as they are', async () => {
    const odd = ["it's", '$HOME', 'a  b', '*', '\\', 'ä€', '-n', ''];
    const shown = await exec(['sh', '-c', 'for x in "$@"; do echo "[$x]"; done', 'sh', ...odd]);
    assert.equal(shown.stdout, odd.map((argument) => `[${argument}]\n`).join(''));
    const environment = await exec(['sh', '-c', 'echo "$A|$B"; command -v ls'], { environment: ['A=x y', 'B=$A"'] });
    assert.equal(environment.stdout.split('\n')[0], 'x y|$A"');
    assert.match(environment.stdout, /\bls\n$/);
    assert.equal((await exec(['wc', '-c'], { input: 'x'.repeat(100_000) })).stdout.trim(), '100000');
    assert.equal((await exec(['cat'])).stdout, '');
  });

  await context.test('a program past its time is ended together with what it started, and leaves nothing', async () => {
    await assert.rejects(
      exec(['sh', '-c', 'sleep 1234 & sleep 1234; true'], { timeoutMs: 1000 }),
      (error) => error instanceof LodgeError && error.code === 'timeout',
    );
    await eventually(async () => !(await exec(['ps'])).stdout.includes('sleep 1234'), {
      describe: 'the program is gone',
    });
    const { stdout } = await exec(['sh', '-c', 'ls -a /tmp | grep -c lodge-exec']);
    // The one that looks has a folder itself.
    assert.equal(stdout.trim(), '1');
  });

  await context.test('files go in and out unchanged, with progress', async () => {
    const content = Buffer.from(Array.from({ length: 3_000_000 }, (_, at) => (at * 31 + (at >> 9)) & 0xff));
    const hash = createHash('sha256').update(content).digest('hex');
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < content.length; at += 700_001) yield content.subarray(at, at + 700_001);
    }
    await agent.writeFile('/tmp/data', pieces());
    assert.equal((await exec(['sha256sum', '/tmp/data'])).stdout.split(' ')[0], hash);
    const copy = Buffer.concat(await collect(agent.readFile('/tmp/data')));
    assert.equal(createHash('sha256').update(copy).digest('hex'), hash);
    await assert.rejects(
      collect(agent.readFile('/no/such/file')),
      (error) => error instanceof LodgeError && error.code === 'not_found',
    );
    const none = pieces();
    await assert.rejects(agent.writeFile('/no/such/folder/file', none), { name: 'LodgeError' });
  });

  await context.test(
    'an agent restarted in mid-command fails that command, and the next one finds the new agent',
    async () => {
      const unwatch = qmp.on('VSERPORT_CHANGE', (event) => agent.notePort(event.data.open));
      try {
        const earlier = (await exec(['pidof', 'qemu-ga'])).stdout.trim();
        const running = exec(['sh', '-c', 'kill -9 $(pidof qemu-ga); sleep 60'], { timeoutMs: 30_000 });
        await assert.rejects(
          running,
          (error) =>
            error instanceof LodgeError && (error.code === 'agent_unavailable' || error.code === 'hypervisor_failed'),
        );
        await eventually(() => agent.isAnswering(), { timeoutMs: 20_000, describe: 'the agent is back' });
        const now = (await exec(['pidof', 'qemu-ga'])).stdout.trim();
        assert.notEqual(now, earlier);
      } finally {
        unwatch();
        agent.notePort(null);
      }
    },
  );

  await context.test('what this guest can not do is refused with a reason', async () => {
    await assert
      .rejects(
        agent.freeze().then(() => agent.thaw()),
        (error) => error instanceof LodgeError && ['unsupported', 'hypervisor_failed'].includes(error.code),
      )
      .catch(async (error: unknown) => {
        // An agent with the command on a guest without file systems freezes none; then it must have been thawed.
        assert.equal(await agent.isFrozen(), false, String(error));
      });
  });
});
