// Streams on a real socket with stub handlers: events, bytes and WebSockets, with slow, broken and vanishing clients.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectSocket } from 'node:net';
import { suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { LodgeError } from '../../src/api/errors.ts';
import { type ByteSource } from '../../src/daemon/http/context.ts';
import { rawRequest, startStub, errorOf, failureOf, sendRaw } from '../support/stub-http.ts';
import { eventually } from '../support/wait.ts';

const json = { 'content-type': 'application/json' };

suite('event streams', () => {
  const event = { type: 'stdout', data: 'eA==' } as const;

  test('a failure at the start is an ordinary answer, also that of a generator', async (t) => {
    const own = {
      'vm.exec': () =>
        (async function* () {
          await delay(1);
          if (event.type === 'stdout') throw new LodgeError('agent_unavailable', 'no agent');
          yield event;
        })(),
    };
    const { client } = await startStub(t, own, { limits: { firstItemMs: 10_000 } });
    const failure = await failureOf(client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } }));
    assert.equal(failure.code, 'agent_unavailable');
  });

  test('a failure in the middle comes after what was sent before it', async (t) => {
    const { client } = await startStub(t, {
      'vm.exec': () =>
        (async function* () {
          yield event;
          throw new TypeError('secret');
        })(),
    });
    const stream = (await client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } }))[Symbol.asyncIterator]();
    assert.deepEqual((await stream.next()).value, event);
    const failure = await failureOf(stream.next());
    assert.equal(failure.code, 'internal');
    assert.ok(!failure.message.includes('secret'));
  });

  test('revisions are ids, and Last-Event-ID stands for since', async (t) => {
    const seen: unknown[] = [];
    const change = { revision: 7, type: 'updated', kind: 'vm', id: 'x', object: null } as const;
    const { socketPath, client } = await startStub(t, {
      'event.stream': (request) => {
        seen.push(request.query['since']);
        return (async function* () {
          yield change;
        })();
      },
    });
    const { text } = await rawRequest(socketPath, 'GET', '/v1/events/stream', { headers: { 'last-event-id': '6' } });
    assert.equal(text, `id: 7\ndata: ${JSON.stringify(change)}\n\n`);
    for await (const item of await client.event.stream({ query: { since: 3 } }, { lastEventId: '6' }))
      assert.deepEqual(item, change);
    assert.deepEqual(seen, [6, 3]);
    assert.equal(
      (await rawRequest(socketPath, 'GET', '/v1/events/stream', { headers: { 'last-event-id': 'x' } })).status,
      400,
    );
  });

  test('as many as are followed leave connections for calls', async (t) => {
    const end = new AbortController();
    const { client } = await startStub(t, {
      'event.stream': () =>
        (async function* () {
          yield { revision: 7, type: 'updated', kind: 'vm', id: 'x', object: null } as const;
          await new Promise((resolve) => end.signal.addEventListener('abort', resolve, { once: true }));
        })(),
    });
    const followed = Array.from({ length: 60 }, async () => {
      const stream = (await client.event.stream({}, { signal: end.signal }))[Symbol.asyncIterator]();
      await stream.next();
      return stream;
    });
    const streams = await Promise.all(followed);
    assert.ok(await client.server.get({}, { timeoutMs: 30_000 }));
    end.abort();
    await Promise.allSettled(streams.map((stream) => stream.next()));
  });

  test('a silent stream is kept alive by comments', async (t) => {
    const end = new AbortController();
    const { client } = await startStub(
      t,
      {
        'vm.exec': () =>
          (async function* () {
            yield event;
            await delay(1500, undefined, { signal: end.signal });
            yield event;
          })(),
      },
      { limits: { keepAliveMs: 10 } },
    );
    const stream = await client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } }, { idleTimeoutMs: 1000 });
    let count = 0;
    for await (const _item of stream) count += 1;
    assert.equal(count, 2);
  });

  test('when the client goes away the handler hears of it and its source is released', async (t) => {
    let isReleased = false;
    let signal: AbortSignal | null = null;
    const { client } = await startStub(t, {
      'vm.exec': (_request, context) => {
        signal = context.signal;
        return (async function* () {
          try {
            for (;;) {
              yield event;
              await delay(5, undefined, { signal: context.signal });
            }
          } finally {
            isReleased = true;
          }
        })();
      },
    });
    for await (const _item of await client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } })) break;
    await eventually(() => isReleased && signal?.aborted, { describe: 'the source is released' });
  });

  test('a client that takes nothing holds back the source, and is cut off', async (t) => {
    let produced = 0;
    let isOver = false;
    const { socketPath } = await startStub(
      t,
      {
        'vm.exec': () =>
          (async function* () {
            try {
              for (;;) {
                produced += 1;
                yield { type: 'stdout', data: 'A'.repeat(65_536) };
              }
            } finally {
              isOver = true;
            }
          })(),
      },
      { limits: { stalledMs: 300 }, isOutputChecked: false },
    );
    const socket = connectSocket(socketPath);
    const body = '{"command":["x"]}';
    socket.write(
      `POST /v1/vms/a/exec HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    socket.pause();
    await eventually(() => isOver, { describe: 'the stream is cut off' });
    socket.destroy();
    assert.ok(produced < 100, `${produced} events of 64 KiB were made for a client that took none`);
  });
});

suite('bytes', () => {
  const upload = { params: { vm: 'a' }, query: { path: '/x' } };

  async function* chunks(count: number, size = 65_536): AsyncGenerator<Uint8Array> {
    for (let index = 0; index < count; index += 1) yield new Uint8Array(size).fill(index);
  }

  test('large uploads and downloads arrive whole, in every form a client may send', async (t) => {
    let received = 0;
    const { client } = await startStub(t, {
      'vm.writeFile': async (request) => {
        received = 0;
        for await (const chunk of request.body as ByteSource) received += chunk.length;
      },
      'vm.readFile': () => chunks(160),
    });
    const whole = new Uint8Array(10_000_000).fill(7);
    for (const body of [whole, new Blob([whole]), new Blob([whole]).stream(), chunks(160, 62_500)]) {
      await client.vm.writeFile({ ...upload, body: body as Uint8Array });
      assert.equal(received, 10_000_000);
    }
    const answer = await client.vm.readFile({ params: { vm: 'a' }, query: { path: '/x' } });
    assert.equal((await answer.bytes()).length, 160 * 65_536);
  });

  test('a handler that refuses while the client still sends is heard', async (t) => {
    const { client } = await startStub(t, {
      'vm.writeFile': async (request) => {
        for await (const _chunk of request.body as ByteSource) throw new LodgeError('agent_unavailable', 'no agent');
      },
    });
    const failure = await failureOf(client.vm.writeFile({ ...upload, body: chunks(400) }));
    assert.equal(failure.code, 'agent_unavailable');
  });

  test('an upload over the limit is refused, announced or counted', async (t) => {
    const own = {
      'vm.writeFile': async (request: { body: unknown }) => {
        for await (const chunk of request.body as ByteSource) void chunk;
      },
    };
    const { client } = await startStub(t, own, { limits: { maxUploadBytes: 100_000 } });
    assert.equal(
      (await failureOf(client.vm.writeFile({ ...upload, body: new Uint8Array(100_001) }))).code,
      'body_too_large',
    );
    assert.equal((await failureOf(client.vm.writeFile({ ...upload, body: chunks(3) }))).code, 'body_too_large');
    await client.vm.writeFile({ ...upload, body: new Uint8Array(100_000) });
  });

  test('a silent upload times out, and one that breaks off is not taken for whole', async (t) => {
    const ends: unknown[] = [];
    let begins = 0;
    const { client } = await startStub(
      t,
      {
        'vm.writeFile': async (request) => {
          try {
            for await (const _chunk of request.body as ByteSource) begins += 1;
            ends.push('whole');
          } catch (failure) {
            ends.push((failure as LodgeError).code);
            throw failure;
          }
        },
      },
      { limits: { uploadIdleMs: 50 } },
    );
    const silent = (async function* () {
      yield new Uint8Array(10);
      await delay(3_000, undefined, { ref: false });
    })();
    assert.equal((await failureOf(client.vm.writeFile({ ...upload, body: silent }))).code, 'timeout');
    const controller = new AbortController();
    const broken = (async function* () {
      yield new Uint8Array(10);
      await eventually(() => begins === 2, { describe: 'the second upload has begun' });
      controller.abort(new Error('gone'));
    })();
    await assert.rejects(client.vm.writeFile({ ...upload, body: broken }, { signal: controller.signal }));
    await eventually(() => ends.length === 2, { describe: 'both uploads have ended' });
    assert.equal(ends[0], 'timeout');
    assert.notEqual(ends[1], 'whole');
  });

  test('a form or JSON where bytes belong is refused', async (t) => {
    const { socketPath } = await startStub(t);
    const answer = await rawRequest(socketPath, 'PUT', '/v1/vms/a/files?path=/x', { headers: json, body: '{}' });
    assert.equal(answer.status, 415);
  });

  test('an answer that breaks off, or is shorter than announced, is an error for the client', async (t) => {
    const { client } = await startStub(t, {
      'vm.readFile': () => ({
        byteLength: 1000,
        async *[Symbol.asyncIterator]() {
          yield new Uint8Array(10);
        },
      }),
      'vm.log': () =>
        (async function* () {
          yield new Uint8Array(10);
          await delay(30);
          throw new Error('disk on fire');
        })(),
    });
    // Where it breaks before anything has left, there is not even a head.
    const short = client.vm.readFile({ params: { vm: 'a' }, query: { path: '/x' } }).then((answer) => answer.bytes());
    assert.equal((await failureOf(short)).code, 'unavailable');
    const broken = await client.vm.log({ params: { vm: 'a' } });
    assert.equal((await failureOf(broken.text())).code, 'unavailable');
  });

  test('a failure before the first bytes is an ordinary answer, however late it comes', async (t) => {
    const own = {
      'vm.readFile': () =>
        (async function* () {
          await delay(100);
          if (own) throw new LodgeError('not_found', 'there is no such file');
          yield new Uint8Array(1);
        })(),
    };
    const { client } = await startStub(t, own, { limits: { firstItemMs: 1 } });
    const failure = await failureOf(client.vm.readFile({ params: { vm: 'a' }, query: { path: '/x' } }));
    assert.equal(failure.code, 'not_found');
  });

  test('a source that gives nothing is a timeout, and is released', async (t) => {
    let isReleased = false;
    const own = {
      'vm.readFile': () => ({
        [Symbol.asyncIterator]: () => ({
          next: () => new Promise<never>(() => {}),
          return: () => {
            isReleased = true;
            return Promise.resolve({ done: true, value: undefined });
          },
        }),
      }),
    };
    const { client } = await startStub(t, own, { limits: { handlerTimeoutMs: 50 } });
    const failure = await failureOf(client.vm.readFile({ params: { vm: 'a' }, query: { path: '/x' } }));
    assert.equal(failure.code, 'timeout');
    assert.ok(isReleased);
  });
});

suite('WebSockets', () => {
  test('bytes go both ways, and the end of the handler closes in order', async (t) => {
    const { connection } = await startStub(t, {
      'vm.attachConsole': async (request, context) => {
        const stream = await context.acceptWebSocket();
        stream.write(`welcome ${request.params['ticket']}`);
        for await (const chunk of stream) {
          if (String(chunk) === 'bye') break;
          stream.write(chunk);
        }
      },
    });
    const { stream, closed } = await connection.openWebSocket('/v1/consoles/t1');
    let text = '';
    stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
    stream.write('hello');
    await eventually(() => text === 'welcome t1hello');
    stream.write('bye');
    assert.equal((await closed).code, 1000);
  });

  test('a refusal before the upgrade is an ordinary answer', async (t) => {
    const { connection } = await startStub(t, {
      'vm.attachConsole': () => {
        throw new LodgeError('not_found', 'this ticket is not known');
      },
    });
    assert.equal((await failureOf(connection.openWebSocket('/v1/consoles/t1'))).code, 'not_found');
    assert.equal((await failureOf(connection.openWebSocket('/v1/consoles/a%00b'))).code, 'invalid_request');
    assert.equal((await failureOf(connection.openWebSocket('/v1/nowhere'))).code, 'not_found');
    assert.equal((await failureOf(connection.openWebSocket('/v1/server'))).code, 'unavailable');
  });

  test('a failure after the upgrade is the reason of the close', async (t) => {
    const { connection } = await startStub(t, {
      'vm.attachConsole': async (_request, context) => {
        await context.acceptWebSocket();
        throw new LodgeError('hypervisor_failed', `QEMU has died: ${'ä'.repeat(200)}`);
      },
    });
    const { stream, closed } = await connection.openWebSocket('/v1/consoles/t1');
    stream.resume();
    const { code, reason } = await closed;
    assert.equal(code, 1011);
    assert.match(reason, /^hypervisor_failed: QEMU has died: ä+$/);
  });

  test('when the client goes away, in order or not, the handler hears of it', async (t) => {
    let ends = 0;
    const { connection, socketPath } = await startStub(t, {
      'vm.attachConsole': async (_request, context) => {
        const stream = await context.acceptWebSocket();
        stream.resume();
        await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
        ends += 1;
      },
    });
    const { stream } = await connection.openWebSocket('/v1/consoles/t1');
    stream.end();
    await eventually(() => ends === 1, { describe: 'the first console has ended' });
    const rude = new WebSocket(`ws+unix:${socketPath}:/v1/consoles/t2`);
    await once(rude, 'open');
    rude.terminate();
    await eventually(() => ends === 2, { describe: 'the second console has ended' });
  });

  test('a peer that is gone without a word is found by pings', async (t) => {
    let isOver = false;
    const { socketPath } = await startStub(
      t,
      {
        'vm.attachConsole': async (_request, context) => {
          await context.acceptWebSocket();
          await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
          isOver = true;
        },
      },
      { limits: { pingMs: 30 } },
    );
    const dead = new WebSocket(`ws+unix:${socketPath}:/v1/consoles/t1`, { autoPong: false });
    dead.on('error', () => undefined);
    await once(dead, 'open');
    await eventually(() => isOver, { describe: 'the dead peer is cut off' });
  });

  test('a client that takes nothing holds back the handler', async (t) => {
    let written = 0;
    const { socketPath } = await startStub(t, {
      'vm.attachConsole': async (_request, context) => {
        const stream = await context.acceptWebSocket();
        while (!context.signal.aborted) {
          written += 65_536;
          if (!stream.write(Buffer.alloc(65_536)))
            await Promise.race([once(stream, 'drain'), once(context.signal, 'abort')]);
        }
      },
    });
    const slow = new WebSocket(`ws+unix:${socketPath}:/v1/consoles/t1`);
    slow.on('open', () => slow.pause());
    await once(slow, 'open');
    let before = -1;
    await eventually(
      () => {
        const isStill = before === written && written > 0;
        before = written;
        return isStill;
      },
      { intervalMs: 100, describe: 'the handler waits' },
    );
    assert.ok(written < 8_000_000, `${written} bytes were written for a client that took none`);
    slow.terminate();
  });

  test('a plain request to a WebSocket, and a wrong handshake, are refused', async (t) => {
    const { socketPath } = await startStub(t, { 'vm.attachConsole': (_request, context) => context.acceptWebSocket() });
    const answer = await rawRequest(socketPath, 'GET', '/v1/consoles/t1');
    assert.equal(answer.status, 400);
    assert.match(errorOf(answer).message, /is a WebSocket/);
    const wrong = await sendRaw(
      socketPath,
      'GET /v1/consoles/t1 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: short\r\n\r\n',
    );
    assert.match(wrong, /^HTTP\/1\.1 400 /);
    assert.match(wrong, /handshake/);
  });
});
