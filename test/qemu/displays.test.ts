// Displays of real guests: pictures of them, another size, and a clipboard, as far as they show without a desktop.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readPng } from '../support/png.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { rawRequest } from '../support/stub-http.ts';
import { VncViewer } from '../support/vnc-viewer.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;

/** A message of SPICE's agent as it goes through the port: VDIChunkHeader, VDAgentMessage (spice-protocol, vd_agent.h). */
function agentMessage(type: number, data: Buffer): Buffer {
  const head = Buffer.alloc(28);
  head.writeUInt32LE(1, 0);
  head.writeUInt32LE(20 + data.length, 4);
  head.writeUInt32LE(1, 8);
  head.writeUInt32LE(type, 12);
  head.writeUInt32LE(data.length, 24);
  return Buffer.concat([head, data]);
}

/** Words of 32 bits. */
const words = (...values: number[]): Buffer => {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeUInt32LE(value, 4 * index));
  return bytes;
};

test('displays', { timeout: 300_000 }, async (context) => {
  const host = await qemuDaemon(context, { images: ['tiny-pc'] });
  const { client, daemon } = host;
  const web1 = { params: { vm: 'web1' }, query };
  const spec = { image: 'tiny-pc', memoryMib: 320, display: 'vnc', keyboardLayout: 'de', hasClipboard: true } as const;
  await host.create('web1', spec);
  await host.untilUp('web1');
  const ticket = await client.vm.openConsole({ ...web1, body: { type: 'vnc' } });
  const { stream } = await daemon.connection.openWebSocket(ticket.path);
  stream.on('error', () => {});
  context.after(() => stream.destroy());
  const viewer = new VncViewer(stream);
  await viewer.begin();

  await context.test('pictures are as small as they are wanted, and those of one second are one', async () => {
    const startedAt = performance.now();
    const path = `/v1/vms/web1/screenshot?project=default&width=320`;
    const [first, second] = [
      await rawRequest(daemon.socketPath, 'GET', path),
      await rawRequest(daemon.socketPath, 'GET', path),
    ];
    const isOneSecond = performance.now() - startedAt < 1000;
    if (isOneSecond) assert.equal(first.headers['etag'], second.headers['etag']);
    const small = readPng(await (await client.vm.screenshot({ ...web1, query: { ...query, width: 320 } })).bytes());
    assert.equal(small.width, 320);
    const whole = readPng(await (await client.vm.screenshot(web1)).bytes());
    assert.ok(whole.width >= 640, `${whole.width} pixels wide`);
    assert.equal(small.height, Math.round((whole.height * 320) / whole.width));
    const since = String(first.headers['last-modified']);
    assert.ok(Date.parse(since) <= Date.now(), since);
  });

  await context.test('a viewer that wants another size gets it, and the guest has it too', async () => {
    await viewer.until(() => viewer.canResize, 'that it can resize');
    viewer.resize(1000, 700);
    await viewer.until(() => viewer.size.width === 1000 && viewer.size.height === 700, 'the new size');
    assert.deepEqual(viewer.resizeAnswers, [4], 'passed on to the guest');
    // What the guest's kernel takes for the best mode of its screen.
    await eventually(
      async () => (await host.exec('web1', ['sh', '-c', 'cat /sys/class/drm/*/modes'])).output.startsWith('1000x700\n'),
      { timeoutMs: 60_000, describe: 'the guest’s screen has the new size' },
    );
    await eventually(
      async () => {
        const { width, height } = readPng(await (await client.vm.screenshot(web1)).bytes());
        return width === 1000 && height === 700;
      },
      { timeoutMs: 60_000, describe: 'pictures have the new size' },
    );
  });

  await context.test('text that the guest copies can be pasted in the viewer', async () => {
    await viewer.until(() => viewer.hasClipboard, 'a clipboard');
    const text = 'grüße from the guest';
    const messages = Buffer.concat([
      // What it can do: clipboard on demand, with selections. Then: it has text, and this is it.
      agentMessage(6, words(0, (1 << 5) | (1 << 6))),
      agentMessage(7, words(0, 1)),
      agentMessage(4, Buffer.concat([words(0, 1), Buffer.from(text)])),
    ]);
    const write = await host.exec('web1', ['tee', '/tmp/messages'], messages);
    assert.equal(write.code, 0);
    // The port is held open: whoever closes it has no clipboard any more.
    const hold = 'exec 3<>/dev/virtio-ports/com.redhat.spice.0; cat /tmp/messages >&3; sleep 600';
    assert.equal((await host.exec('web1', ['sh', '-c', `setsid sh -c '${hold}' & exit 0`])).code, 0);
    await viewer.until(() => viewer.text !== null, 'the text');
    assert.equal(viewer.text, text);
  });

  await context.test('what QEMU can not save with a clipboard is refused with what to do, and it runs on', async () => {
    const error = await host.failed(client.vm.suspend(web1));
    assert.equal(error.code, 'unsupported');
    assert.match(error.hint, /hasClipboard=false/);
    await eventually(async () => (await host.vm('web1')).status.state === 'running', { describe: 'it runs on' });
    assert.equal((await host.exec('web1', ['true'])).code, 0);
    assert.ok((await host.vm('web1')).status.pinned?.arguments.join(' ').includes('-k de '));
  });
});
