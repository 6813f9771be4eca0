// The dnsmasq of a network as a process: started, found again, reloaded, and in trouble. Needs root.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { chmod, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { isAlive, terminateProcess } from '../../src/host/process.ts';
import {
  DnsmasqError,
  forgetLeases,
  listDnsmasqs,
  observeDnsmasq,
  stopDnsmasq,
} from '../../src/host/network/dnsmasq.ts';
import { dnsmasqServiceOf, ensureNatDnsmasq } from '../../src/host/network/nat-network.ts';
import { atEnd } from '../support/cleanup.ts';
import { askDhcp, guestNamespace, lookUp, takeAddress } from '../support/guest-namespace.ts';
import { eventually } from '../support/wait.ts';
import { makeWorld, web1, db1, stranger, noMembers } from '../support/network-world.ts';

describe('the dnsmasq of a network', () => {
  it('is started again after it was killed, and knows its leases', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    const { address } = await takeAddress(guest, web1);
    await world.leases(network, 1);
    const service = dnsmasqServiceOf(network, noMembers, world.runtimeFolder);
    const { process: first } = await observeDnsmasq(service, world.scope);
    await terminateProcess(first!, { termTimeoutMs: 0 });
    assert.deepEqual(await world.differences(network), ['dnsmasq: no dnsmasq runs for br1']);
    assert.deepEqual(await world.ensure(network), ['dnsmasq started']);
    assert.deepEqual(
      (await world.leases(network, 1)).map((lease) => lease.address),
      [address],
    );
    assert.equal((await askDhcp(guest, 4, web1)).address, address);
  });

  it('runs as an unprivileged user in a session of its own, and is found again without its process id file', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const folder = join(world.runtimeFolder, network.id);
    const service = dnsmasqServiceOf(network, noMembers, world.runtimeFolder);
    const { process: running } = await observeDnsmasq(service, world.scope);
    const status = await readFile(`/proc/${running!.pid}/status`, 'utf8');
    assert.doesNotMatch(status, /^Uid:\s+0\s/m);
    const session = Number((await readFile(`/proc/${running!.pid}/stat`, 'utf8')).split(') ')[1]!.split(' ')[3]);
    const own = Number((await readFile('/proc/self/stat', 'utf8')).split(') ')[1]!.split(' ')[3]);
    assert.notEqual(session, own);

    await rm(join(folder, 'dnsmasq.pid'));
    assert.deepEqual(await world.ensure(network), []);
    // A stale file that names another process is not believed.
    await writeFile(join(folder, 'dnsmasq.pid'), `${process.pid}\n`);
    assert.deepEqual((await observeDnsmasq(service, world.scope)).process, running);
    assert.deepEqual(
      (await listDnsmasqs(world.runtimeFolder)).map((found) => found.folder),
      [folder],
    );
    assert.equal(await stopDnsmasq(folder), true);
    assert.equal(isAlive(running!), false);
    assert.equal(await stopDnsmasq(folder), false);
  });

  it('reads new reservations and names without a restart, and restarts for a new configuration', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const service = dnsmasqServiceOf(network, noMembers, world.runtimeFolder);
    const { process: running } = await observeDnsmasq(service, world.scope);
    const members = {
      reservations: [{ macAddress: web1, ipv4: '10.88.1.7', hostName: 'web1' }],
      records: [{ name: 'extra', addresses: ['10.88.1.8'] }],
    };
    assert.deepEqual(await world.differences(network, members), [
      'dnsmasq: the dnsmasq of br1 has other reservations or names',
    ]);
    assert.deepEqual(await world.ensure(network, members), ['dnsmasq reloaded']);
    assert.equal(isAlive(running!), true);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    await eventually(async () => {
      assert.equal((await askDhcp(guest, 4, web1)).address, '10.88.1.7');
      return true;
    });
    await takeAddress(guest, web1);
    assert.deepEqual(await lookUp(guest, '10.88.1.1', 'extra.lodge.internal'), ['10.88.1.8']);
    // Told to read, but it is not known whether it did: once more.
    await rm(join(world.runtimeFolder, network.id, 'read.json'));
    assert.deepEqual(await world.ensure(network, members), ['dnsmasq reloaded']);

    const changed = { ...network, leaseSeconds: 600 };
    assert.deepEqual(await world.differences(changed, members), [
      'dnsmasq: the dnsmasq of br1 runs with another configuration',
    ]);
    assert.deepEqual(await world.ensure(changed, members), ['dnsmasq restarted']);
    assert.equal(isAlive(running!), false);
    assert.equal((await askDhcp(guest, 4, web1)).leaseSeconds, '600');
    const configurations = readdirSync(join(world.runtimeFolder, network.id)).filter((name) => name.endsWith('.conf'));
    assert.equal(configurations.length, 1);
  });

  it('forgets the leases of guests that are gone, so that their names and addresses are free', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    const members = {
      reservations: [
        { macAddress: web1, ipv4: '10.88.1.5', hostName: 'web1' },
        { macAddress: db1, ipv4: '10.88.1.6', hostName: 'db1' },
      ],
      records: [],
    };
    await world.ensure(network, members);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    const other = await guestNamespace(t, world.host, 'br1', db1);
    await takeAddress(guest, web1);
    await takeAddress(other, db1);
    await world.leases(network, 2);
    const folder = join(world.runtimeFolder, network.id);
    assert.equal(await forgetLeases(folder, ({ macAddress }) => macAddress === stranger), 0);
    assert.equal(await forgetLeases(folder, ({ macAddress }) => macAddress === web1), 1);
    const remaining = { reservations: members.reservations.slice(1), records: [] };
    assert.deepEqual(await world.ensure(network, remaining), ['dnsmasq started']);
    assert.deepEqual(
      (await world.leases(network, 1)).map(({ hostName }) => hostName),
      ['db1'],
    );
    assert.equal(await lookUp(other, '10.88.1.1', 'web1.lodge.internal'), 'ENOTFOUND');
    assert.deepEqual(await lookUp(other, '10.88.1.1', 'db1.lodge.internal'), ['10.88.1.6']);
  });

  it('names the program that holds its port', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    const argv = world.host.command([
      process.execPath,
      '--input-type=module',
      '-e',
      `(await import('node:net')).createServer().listen(53, '0.0.0.0', () => console.log('ready'));`,
    ]);
    const holder = spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
    atEnd(t, async () => {
      const ended = once(holder, 'exit');
      holder.kill('SIGKILL');
      await ended;
    });
    await once(holder.stdout, 'data', { signal: AbortSignal.timeout(10_000) });
    await assert.rejects(world.ensure(network), (error: unknown) => {
      assert.ok(error instanceof DnsmasqError, String(error));
      assert.equal(error.reason, 'address-in-use');
      assert.match(error.message, new RegExp(`10\\.88\\.1\\.1.*in use.*process ${holder.pid}`));
      return true;
    });
    assert.deepEqual(await listDnsmasqs(world.runtimeFolder), []);
  });

  it('is refused a folder that it could not read later, and a link that is not there', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await chmod(world.runtimeFolder, 0o700);
    await assert.rejects(world.ensure(network), (error: unknown) => {
      assert.ok(error instanceof DnsmasqError);
      assert.equal(error.reason, 'folder');
      assert.match(error.message, new RegExp(`chmod o\\+x ${world.runtimeFolder}$`));
      return true;
    });
    await assert.rejects(
      ensureNatDnsmasq({ ...network, bridgeName: 'absent' }, noMembers, world.runtimeFolder, world.scope),
      { name: 'DnsmasqError', reason: 'missing-link' },
    );
  });
});
