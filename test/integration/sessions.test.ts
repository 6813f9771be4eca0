// Sessions of browsers over HTTPS: how one is made, what it may do, from where, and how it ends.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { test, type TestContext } from 'node:test';
import { csrfHeader, type Session } from '../../src/api/session.ts';
import { startDaemon, type TestDaemon } from '../support/daemon.ts';

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: unknown;
}

interface Browser {
  daemon: TestDaemon;
  origin: string;
  /** One request as a page sends it: with the cookie if there is one, and with what is added. */
  send(method: string, path: string, headers?: Record<string, string>, body?: unknown): Promise<Answer>;
  /** Keeps the cookie of an answer as a browser does. */
  keep(answer: Answer): string;
  signIn(credentials: object): Promise<Session>;
  /** The headers of what a page of the daemon changes. */
  own(session: Session): Record<string, string>;
}

/** A browser that knows nothing yet. */
async function openBrowser(daemon: TestDaemon): Promise<Browser> {
  const { httpsAddress, caCertificate } = await daemon.client.server.get();
  assert.ok(httpsAddress !== null && caCertificate !== null);
  let cookie = '';
  const browser: Browser = {
    daemon,
    origin: httpsAddress,
    send: async (method, path, headers = {}, body) => {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const sent = request(`${httpsAddress}${path}`, {
        method,
        ca: caCertificate,
        agent: false,
        headers: {
          ...(cookie === '' ? {} : { cookie }),
          ...(text === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
      });
      sent.end(text);
      const [answer] = (await once(sent, 'response')) as [IncomingMessage];
      let content = '';
      for await (const chunk of answer.setEncoding('utf8')) content += String(chunk);
      const isJson = answer.headers['content-type']?.startsWith('application/json') === true;
      return {
        status: answer.statusCode ?? 0,
        headers: answer.headers,
        body: isJson ? (JSON.parse(content) as unknown) : content,
      };
    },
    keep: (answer) => {
      const [line = ''] = answer.headers['set-cookie'] ?? [];
      cookie = line.split(';', 1)[0] ?? '';
      return line;
    },
    signIn: async (credentials) => {
      const answer = await browser.send('POST', '/v1/sessions', {}, credentials);
      assert.equal(answer.status, 201, JSON.stringify(answer.body));
      browser.keep(answer);
      return answer.body as Session;
    },
    own: (session) => ({ origin: httpsAddress, [csrfHeader]: session.csrfToken }),
  };
  return browser;
}

const newToken = (name: string): object => ({ name, role: 'viewer' });

test('a session', async (t: TestContext) => {
  const daemon = await startDaemon(t, { driver: 'fake', listen: '127.0.0.1:0' });

  await t.test(
    'is made by a token, lives in a cookie that no script reads, and may do what the token may',
    async () => {
      const browser = await openBrowser(daemon);
      const { secret } = await browser.daemon.client.token.create({ body: { name: 'viewer', role: 'viewer' } });
      assert.equal((await browser.send('GET', '/v1/vms')).status, 401);
      assert.equal((await browser.send('POST', '/v1/sessions', {}, { token: 'lodge_wrong' })).status, 401);

      const answer = await browser.send('POST', '/v1/sessions', {}, { token: secret });
      const line = browser.keep(answer);
      assert.match(line, /^__Host-lodge=[\w-]{43}; Path=\/; Secure; HttpOnly; SameSite=Strict; Max-Age=\d+$/);
      const session = answer.body as Session;
      assert.equal(session.caller, 'token:viewer');
      assert.ok(!line.includes(session.csrfToken));
      assert.equal((await browser.send('GET', '/v1/vms')).status, 200);
      assert.deepEqual((await browser.send('GET', '/v1/session')).body, session);
      assert.equal((await browser.send('POST', '/v1/tokens', browser.own(session), newToken('more'))).status, 403);
    },
  );

  await t.test('changes nothing for a page from elsewhere, nor without its token', async () => {
    const browser = await openBrowser(daemon);
    const { code } = await browser.daemon.client.session.createLink();
    const session = await browser.signIn({ code });
    const own = browser.own(session);
    const refused: Record<string, string>[] = [
      {},
      { origin: browser.origin },
      { ...own, origin: 'https://elsewhere.example' },
      { ...own, origin: 'null' },
      { ...own, [csrfHeader]: 'x'.repeat(session.csrfToken.length) },
      { ...own, 'sec-fetch-site': 'same-site' },
    ];
    for (const headers of refused) {
      const answer = await browser.send('POST', '/v1/tokens', headers, newToken('made'));
      assert.equal(answer.status, 403, JSON.stringify(headers));
    }
    assert.equal((await browser.send('GET', '/v1/vms', { 'sec-fetch-site': 'cross-site' })).status, 403);
    const { items } = await browser.daemon.client.token.list();
    assert.ok(items.every(({ name }) => name !== 'made'));
    assert.equal((await browser.send('POST', '/v1/tokens', own, newToken('made'))).status, 201);
  });

  await t.test('is made by a one-time link, once', async () => {
    const browser = await openBrowser(daemon);
    const { code, path } = await browser.daemon.client.session.createLink();
    assert.equal(path, `/sign-in#code=${code}`);
    const session = await browser.signIn({ code });
    assert.match(session.caller, /^local/);
    assert.equal(session.role, 'admin');
    assert.equal((await browser.send('POST', '/v1/sessions', {}, { code })).status, 401);
  });

  await t.test('ends when it is signed out, when all are, and with the token it was made from', async () => {
    const browser = await openBrowser(daemon);
    const { client } = browser.daemon;
    const isIn = async (): Promise<boolean> => (await browser.send('GET', '/v1/vms')).status === 200;

    const one = await browser.signIn({ code: (await client.session.createLink()).code });
    const out = await browser.send('DELETE', '/v1/session', browser.own(one));
    assert.equal(out.status, 204);
    assert.match(String(out.headers['set-cookie']), /__Host-lodge=;.*Max-Age=0/);
    assert.equal(await isIn(), false);

    const first = await browser.signIn({ code: (await client.session.createLink()).code });
    const waiting = await client.session.createLink();
    await browser.signIn({ code: (await client.session.createLink()).code });
    // The cookie is the second session's; the first one's page ends both.
    assert.equal(await isIn(), true);
    const session = (await browser.send('GET', '/v1/session')).body as Session;
    assert.notEqual(session.csrfToken, first.csrfToken);
    assert.equal((await browser.send('DELETE', '/v1/sessions', browser.own(session))).status, 204);
    assert.equal(await isIn(), false);
    assert.equal((await browser.send('POST', '/v1/sessions', {}, { code: waiting.code })).status, 401);

    const { secret } = await client.token.create({ body: { name: 'laptop', role: 'admin' } });
    await browser.signIn({ token: secret });
    assert.equal(await isIn(), true);
    await client.token.delete({ params: { token: 'laptop' } });
    assert.equal(await isIn(), false);
  });
});
