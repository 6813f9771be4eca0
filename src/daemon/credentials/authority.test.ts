import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { pino } from 'pino';
import { LodgeError } from '../../api/errors.ts';
import { openAuthority, serverLifeMs, type Authority, type AuthorityOptions } from './authority.ts';

const log = pino({ level: 'silent' });
const dayMs = 86_400_000;

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-tls-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return join(folder, 'tls');
}

async function open(t: TestContext, folder: string, options: Partial<AuthorityOptions> = {}): Promise<Authority> {
  const authority = await openAuthority({
    folder,
    instance: 'test',
    hostnames: [],
    log,
    machineNames: () => ['node1', 'localhost', '127.0.0.1', '::1', '10.0.0.5'],
    ...options,
  });
  t.after(() => authority.close());
  return authority;
}

/** The server's certificate, the first of the chain. */
function leaf(authority: Authority): X509Certificate {
  return new X509Certificate(authority.current().cert);
}

test('a new authority signs a server certificate for all names and addresses of the machine', async (t) => {
  const authority = await open(t, await folderOf(t), { hostnames: ['lodge.example.org'] });
  const server = leaf(authority);
  const ca = new X509Certificate(authority.certificate);
  assert.ok(ca.ca);
  assert.ok(!server.ca);
  assert.ok(server.verify(ca.publicKey));
  assert.ok(server.checkIssued(ca));
  for (const name of ['node1', 'localhost', 'lodge.example.org']) assert.equal(server.checkHost(name), name);
  for (const address of ['127.0.0.1', '::1', '10.0.0.5']) assert.ok(server.checkIP(address), address);
  assert.equal(server.checkHost('other.example.org'), undefined);
  assert.match(authority.fingerprint, /^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
});

test('the files are for the daemon’s user only', async (t) => {
  const folder = await folderOf(t);
  await open(t, folder);
  assert.equal((await stat(folder)).mode & 0o777, 0o700);
  for (const name of ['ca.key', 'ca.crt', 'server.key', 'server.crt']) {
    assert.equal((await stat(join(folder, name))).mode & 0o777, 0o600, name);
  }
});

test('it is the same after a restart', async (t) => {
  const folder = await folderOf(t);
  const first = await open(t, folder);
  const second = await open(t, folder);
  assert.equal(second.fingerprint, first.fingerprint);
  assert.deepEqual(second.current(), first.current());
});

test('after two thirds of its life the server certificate is renewed, and listeners hear of it', async (t) => {
  let now = Date.now();
  const authority = await open(t, await folderOf(t), { now: () => now });
  const before = leaf(authority).fingerprint256;
  let renewals = 0;
  authority.onRenewal(() => (renewals += 1));
  now += (serverLifeMs * 2) / 3 - 2 * 3_600_000;
  assert.equal(await authority.check(), false);
  now += 2 * 3_600_000;
  assert.equal(await authority.check(), true);
  assert.equal(renewals, 1);
  assert.notEqual(leaf(authority).fingerprint256, before);
  const left = (authority.validUntil?.getTime() ?? 0) - now;
  assert.ok(Math.abs(left - serverLifeMs) < dayMs);
});

test('a new address of the machine gets a new certificate; one that went does not', async (t) => {
  let names = ['node1', '10.0.0.5'];
  const authority = await open(t, await folderOf(t), { machineNames: () => names });
  names = ['node1'];
  assert.equal(await authority.check(), false);
  names = ['node1', '10.0.0.6'];
  assert.equal(await authority.check(), true);
  assert.ok(leaf(authority).checkIP('10.0.0.6'));
});

test('a server key that does not fit its certificate is made anew', async (t) => {
  const folder = await folderOf(t);
  const first = await open(t, folder);
  await writeFile(join(folder, 'server.key'), await readFile(join(folder, 'ca.key')));
  const second = await open(t, folder);
  assert.notEqual(leaf(second).fingerprint256, leaf(first).fingerprint256);
  assert.equal(second.fingerprint, first.fingerprint);
});

test('a damaged authority is refused and not replaced', async (t) => {
  const folder = await folderOf(t);
  await open(t, folder);
  const cert = await readFile(join(folder, 'ca.crt'), 'utf8');
  await writeFile(join(folder, 'ca.key'), await readFile(join(folder, 'server.key')));
  await assert.rejects(open(t, folder), (error) => error instanceof LodgeError && /is damaged/.test(error.message));
  await writeFile(join(folder, 'ca.key'), 'nonsense');
  await assert.rejects(open(t, folder), (error) => error instanceof LodgeError && error.code === 'host_conflict');
  assert.equal(await readFile(join(folder, 'ca.crt'), 'utf8'), cert);
});
