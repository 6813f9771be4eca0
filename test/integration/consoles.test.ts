// Consoles over the API: tickets that open one connection, bytes both ways, and what is refused.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { type WebSocketConnection } from '../../src/client/node-transport.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { rawRequest } from '../support/stub-http.ts';
import { eventually } from '../support/wait.ts';
import { assertRefused, done, makeVm, sharedFakeLodge, startFakeLodge } from '../support/fake-lodge.ts';

const lodge = sharedFakeLodge();

async function open(daemon: TestDaemon, vm: string, type: 'serial' | 'vnc'): Promise<WebSocketConnection> {
  const ticket = await daemon.client.vm.openConsole({ params: { vm }, body: { type } });
  assert.equal(ticket.type, type);
  assert.ok(Date.parse(ticket.expiresAt) > Date.now());
  return daemon.connection.openWebSocket(ticket.path);
}

/** Reads until the text has come. */
async function readUntil({ stream }: WebSocketConnection, text: string): Promise<string> {
  let seen = '';
  // Two pieces may come in one turn, so that nothing but a listener that stays gets both.
  const take = (piece: Buffer): void => void (seen += piece.toString());
  stream.on('data', take);
  try {
    await eventually(() => seen.includes(text), { describe: `the console shows ${text}`, timeoutMs: 30_000 });
  } finally {
    stream.off('data', take);
  }
  return seen;
}

suite('a console', () => {
  test('shows what was before, takes what is typed, and closes when the client goes', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    const serial = await open(daemon, 'web1', 'serial');
    await readUntil(serial, 'lodge: ready');
    serial.stream.write('hello\r');
    await readUntil(serial, 'hello\r');
    serial.stream.end();
    const { code } = await serial.closed;
    assert.ok([1000, 1005].includes(code), `closed with ${code}`);
    const log = await daemon.client.vm.serialLog({ params: { vm: 'web1' } });
    assert.match(await log.text(), /lodge: ready[^]*hello/);
    const display = await open(daemon, 'web1', 'vnc');
    assert.match(await readUntil(display, '\n'), /^RFB 003\.008/);
    display.stream.destroy();
  });

  test('is opened once by a ticket, and by no other text', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    const ticket = await daemon.client.vm.openConsole({ params: { vm: 'web1' } });
    const first = await daemon.connection.openWebSocket(ticket.path);
    await assertRefused(daemon, daemon.connection.openWebSocket(ticket.path), 'not_found');
    await assertRefused(daemon, daemon.connection.openWebSocket('/v1/consoles/nonsense'), 'not_found');
    first.stream.destroy();
  });

  test('needs a VM that is up, when the ticket is given and when it is used', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    const ticket = await daemon.client.vm.openConsole({ params: { vm: 'web1' } });
    await done(daemon, daemon.client.vm.forceOff({ params: { vm: 'web1' } }));
    await assertRefused(daemon, daemon.connection.openWebSocket(ticket.path), 'wrong_state');
    const again = daemon.client.vm.openConsole({ params: { vm: 'web1' } });
    assert.match((await assertRefused(daemon, again, 'wrong_state')).hint, /lodge vm start/);
    const log = await daemon.client.vm.serialLog({ params: { vm: 'web1' }, query: { bytes: 7 } });
    assert.equal((await log.text()).length, 7, 'the log is there all the same');
  });

  test('takes pictures, keys and an NMI', async (t) => {
    const { daemon } = await lodge(t);
    const params = { vm: 'web1' };
    await makeVm(daemon, 'web1', {}, { start: true });
    const picture = await daemon.client.vm.screenshot({ params });
    assert.deepEqual([...(await picture.bytes()).subarray(0, 4)], [0x89, 0x50, 0x4e, 0x47]);
    await daemon.client.vm.sendKeys({ params, body: { combinations: [['ctrl', 'alt', 'delete']] } });
    await daemon.client.vm.injectNmi({ params });
    assert.match(await (await daemon.client.vm.serialLog({ params })).text(), /keys: ctrl-alt-delete[^]*nmi/);
    const noKeys = daemon.client.vm.sendKeys({ params, body: { combinations: [] } });
    await assertRefused(daemon, noKeys, 'invalid_request', /combinations/);
  });

  test('is searched as plain lines, also when the VM is off', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    const params = { vm: 'web1' };
    const serial = await open(daemon, 'web1', 'serial');
    serial.stream.write('\u001b[31mError: disk\u001b[0m\r\nfine\r\n');
    await readUntil(serial, 'fine');
    serial.stream.end();
    await done(daemon, daemon.client.vm.forceOff({ params }));
    const found = await daemon.client.vm.searchSerialLog({ params, query: { contains: 'error', ignoreCase: true } });
    assert.deepEqual(
      found.lines.map(({ text }) => text),
      ['Error: disk'],
    );
    assert.equal(found.matches, 1);
    const at = Date.parse(found.lines[0]?.at ?? '');
    assert.ok(at > Date.now() - 120_000 && at <= Date.now(), `it was printed at ${found.lines[0]?.at}`);
    const since = new Date(Date.now() + 1000).toISOString();
    assert.deepEqual((await daemon.client.vm.searchSerialLog({ params, query: { since } })).matches, 0);
    const last = await daemon.client.vm.searchSerialLog({ params, query: { tail: 1 } });
    assert.deepEqual([last.lines.at(-1)?.text, last.lines.at(-1)?.number], ['fine', last.total]);
    await assertRefused(daemon, daemon.client.vm.searchSerialLog({ params, query: { tail: 0 } }), 'invalid_request');
  });

  test('takes pictures at most once a second, at any size, and tells when nothing has changed', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    const path = '/v1/vms/web1/screenshot?project=default';
    const startedAt = performance.now();
    // Each picture that a fake guest takes is another one.
    const answers = await Promise.all(
      [16, 100, 16, 5, 100].map((width) =>
        rawRequest(daemon.socketPath, 'GET', width < 16 ? path : `${path}&width=${width}`),
      ),
    );
    const tags = answers.map(({ headers }) => String(headers['etag']));
    const pictures = new Set(tags.map((tag) => tag.slice(1, 23)));
    const most = 1 + Math.floor((performance.now() - startedAt) / 1000);
    assert.ok(pictures.size <= most, `${pictures.size} pictures`);
    for (const [index, width] of [16, 100, 16, 640, 100].entries())
      assert.match(tags[index]!, new RegExp(`-${width}"$`));
    for (const { status, headers } of answers) {
      assert.equal(status, 200);
      assert.ok(Date.parse(String(headers['last-modified'])) <= Date.now());
      assert.equal(headers['cache-control'], 'private, no-cache');
    }
    // Whoever has the present one is not sent it again; asked until it was the present one.
    let tag = tags[0]!;
    await eventually(async () => {
      const answer = await rawRequest(daemon.socketPath, 'GET', `${path}&width=16`, {
        headers: { 'if-none-match': tag },
      });
      tag = String(answer.headers['etag']);
      if (answer.status === 304) assert.equal(answer.text, '');
      return answer.status === 304;
    });
    await assertRefused(
      daemon,
      daemon.client.vm.screenshot({ params: { vm: 'web1' }, query: { width: 8 } }),
      'invalid_request',
    );
  });

  test('closes with the daemon, and the guest is not disturbed', async (t) => {
    const { daemon } = await startFakeLodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    const serial = await open(daemon, 'web1', 'serial');
    serial.stream.on('error', () => {});
    await daemon.kill();
    await serial.closed;
    await daemon.start();
    const ticket = await daemon.client.vm.openConsole({ params: { vm: 'web1' } });
    const again = await daemon.connection.openWebSocket(ticket.path);
    await readUntil(again, 'lodge: ready');
    again.stream.destroy();
  });
});
