// HTTPS: which TLS it speaks, whom it trusts, and that certificates are renewed while it runs.
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { createConnection, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { pino } from 'pino';
import { LodgeError } from '../../src/api/errors.ts';
import { connect, type NodeClient } from '../../src/client/node-transport.ts';
import { openAuthority, serverLifeMs, type Authority } from '../../src/daemon/credentials/authority.ts';
import { atEnd } from '../support/cleanup.ts';
import { startStub } from '../support/stub-http.ts';
import { temporaryFolder } from '../support/temporary.ts';

interface HttpsStub {
  authority: Authority;
  address: string;
  port: number;
  /** Sets the authority's clock forward, milliseconds. */
  pass(milliseconds: number): void;
  client(options?: { token?: string; ca?: string }): NodeClient;
}

async function startHttps(t: TestContext): Promise<HttpsStub> {
  let later = 0;
  const authority = await openAuthority({
    folder: join(await temporaryFolder(t), 'tls'),
    instance: 'test',
    hostnames: [],
    log: pino({ level: 'silent' }),
    now: () => Date.now() + later,
  });
  atEnd(t, () => authority.close());
  const own = {
    'vm.attachConsole': async (_request: unknown, context: { acceptWebSocket(): Promise<NodeJS.WritableStream> }) => {
      (await context.acceptWebSocket()).end('hello');
    },
  };
  const { server } = await startStub(t, own, {
    listen: { https: { address: '127.0.0.1', port: 0, credentials: authority } },
  });
  const { httpsAddress: address, httpsPort: port } = server;
  assert.ok(address !== null && port !== null);
  return {
    authority,
    address,
    port,
    pass: (milliseconds) => {
      later += milliseconds;
    },
    client: (options = {}) => {
      const client = connect({ baseUrl: address, ca: authority.certificate, timeoutMs: 10_000, ...options });
      atEnd(t, () => client.close());
      return client;
    },
  };
}

async function handshake(
  t: TestContext,
  { port, authority }: HttpsStub,
  options: ConnectionOptions = {},
): Promise<TLSSocket> {
  const socket = connectTls({
    host: '127.0.0.1',
    port,
    servername: 'localhost',
    ca: authority.certificate,
    timeout: 10_000,
    ...options,
  });
  atEnd(t, () => socket.destroy());
  await once(socket, 'secureConnect');
  return socket;
}

suite('TLS', () => {
  test('it is 1.3, and nothing older', async (t) => {
    const stub = await startHttps(t);
    assert.equal((await handshake(t, stub)).getProtocol(), 'TLSv1.3');
    await assert.rejects(
      handshake(t, stub, { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }),
      /alert protocol version|ECONNRESET/,
    );
  });

  test('a client that offers X25519MLKEM768 and others gets X25519MLKEM768', async (t) => {
    const stub = await startHttps(t);
    // The group is read off the wire: the key_share extension of the ServerHello (RFC 8446, 4.2.8).
    assert.equal(await negotiatedGroup(stub, 'X25519MLKEM768:X25519:P-256'), 0x11ec);
    assert.equal(
      await negotiatedGroup(stub, 'X25519:X25519MLKEM768'),
      0x11ec,
      'also when the client would rather have another',
    );
    // With only this group a handshake succeeds, so the server really has it.
    const socket = await handshake(t, stub, { ecdhCurve: 'X25519MLKEM768' });
    assert.equal(socket.getProtocol(), 'TLSv1.3');
  });

  test('older clients get X25519 or P-256; unknown groups are refused', async (t) => {
    const stub = await startHttps(t);
    assert.equal(await negotiatedGroup(stub, 'X25519'), 0x001d);
    assert.equal(await negotiatedGroup(stub, 'P-256'), 0x0017);
    await assert.rejects(handshake(t, stub, { ecdhCurve: 'P-521' }));
  });

  test('a client with the authority’s certificate trusts it, and one without is told what to do', async (t) => {
    const stub = await startHttps(t);
    assert.ok(await stub.client().client.server.healthz());
    const failure: unknown = await stub
      .client({ ca: undefined })
      .client.server.healthz()
      .catch((error: unknown) => error);
    assert.ok(failure instanceof LodgeError);
    assert.equal(failure.code, 'unavailable');
    assert.match(failure.hint, /--ca/);
  });

  test('without a token there is no permission; with one that of its role', async (t) => {
    const stub = await startHttps(t);
    const code = async (token: string | undefined, verb: 'list' | 'create'): Promise<string> => {
      const { client } = stub.client({ token });
      const call = verb === 'list' ? client.vm.list() : client.vm.create({ body: { name: 'web1', spec: {} } });
      return call.then(
        () => 'ok',
        (error: unknown) => (error as LodgeError).code,
      );
    };
    assert.equal(await code(undefined, 'list'), 'unauthenticated');
    assert.equal(await code('wrong', 'list'), 'unauthenticated');
    assert.equal(await code('viewer-secret', 'list'), 'ok');
    assert.equal(await code('viewer-secret', 'create'), 'forbidden');
    assert.equal(await code('admin-secret', 'create'), 'ok');
  });

  test('WebSockets work over it', async (t) => {
    const stub = await startHttps(t);
    const { stream, closed } = await stub.client().openWebSocket('/v1/consoles/t1');
    let text = '';
    stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
    assert.equal((await closed).code, 1000);
    assert.equal(text, 'hello');
  });

  test('a renewed certificate is used for new connections, and open ones go on', async (t) => {
    const stub = await startHttps(t);
    const open = await handshake(t, stub);
    const before = open.getPeerX509Certificate()?.fingerprint256;
    stub.pass(serverLifeMs * 0.7);
    assert.equal(await stub.authority.check(), true);
    // By the clock of this test it begins in the future.
    const renewed = (await handshake(t, stub, { rejectUnauthorized: false })).getPeerX509Certificate();
    assert.ok(renewed?.verify(new X509Certificate(stub.authority.certificate).publicKey));
    assert.notEqual(renewed?.fingerprint256, before);
    assert.equal(renewed?.fingerprint256, new X509Certificate(stub.authority.current().cert).fingerprint256);
    open.write('GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n');
    const [answer] = (await once(open, 'data')) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 200 /);
  });

  test('what is not TLS does not disturb it', async (t) => {
    const stub = await startHttps(t);
    const socket = createConnection(stub.port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write('GET / HTTP/1.1\r\nhost: a\r\n\r\n');
    await once(socket.resume(), 'close');
    await stub.client().client.server.healthz();
  });
});

/** The key exchange group that the server chose, from the bytes of its (last) ServerHello: a proxy in between sees them. */
async function negotiatedGroup({ port, authority }: HttpsStub, groups: string): Promise<number> {
  const received: Buffer[] = [];
  const proxy = createServer((near) => {
    const far = createConnection(port, '127.0.0.1');
    far.on('data', (chunk: Buffer) => received.push(chunk));
    for (const socket of [near, far]) socket.on('error', () => undefined);
    near.pipe(far).pipe(near);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const socket = connectTls({
    host: '127.0.0.1',
    port: (proxy.address() as AddressInfo).port,
    servername: 'localhost',
    ca: authority.certificate,
    ecdhCurve: groups,
  });
  try {
    await once(socket, 'secureConnect');
  } finally {
    socket.destroy();
    proxy.close();
  }
  return keyShareGroup(Buffer.concat(received));
}

/** Reads TLS records (RFC 8446, 5.1) up to the last ServerHello, and its key_share. */
function keyShareGroup(bytes: Buffer): number {
  let group = 0;
  for (let at = 0; at + 5 <= bytes.length; at += 5 + bytes.readUInt16BE(at + 3)) {
    const isHandshake = bytes[at] === 22;
    const isServerHello = bytes[at + 5] === 2;
    if (!isHandshake || !isServerHello) continue;
    // Type and length, version, random, session id, cipher suite, compression: then the extensions.
    let position = at + 5 + 4 + 2 + 32;
    position += 1 + (bytes[position] ?? 0) + 2 + 1;
    const end = position + 2 + bytes.readUInt16BE(position);
    for (position += 2; position + 4 <= end; position += 4 + bytes.readUInt16BE(position + 2)) {
      if (bytes.readUInt16BE(position) === 51) group = bytes.readUInt16BE(position + 4);
    }
  }
  return group;
}
