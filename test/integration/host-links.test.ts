// Links, foreign firewalls and user-mode networks on the real kernel, in network namespaces. Needs root.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { ensureFirewall, firewallTableName } from '../../src/host/network/firewall.ts';
import {
  changeLink,
  createBridge,
  createTap,
  deleteLink,
  deriveLinkName,
  findLink,
  LinkError,
  listMarkedLinks,
} from '../../src/host/network/link.ts';
import { compareTable } from '../../src/host/network/nftables.ts';
import { findDrops, readRuleset, remedyFor, type TestPacket } from '../../src/host/network/packet-path.ts';
import { buildUserNetdev } from '../../src/host/network/user-network.ts';
import { startBareQemu } from '../support/bare-qemu.ts';
import { atEnd } from '../support/cleanup.ts';
import { networkNamespace } from '../support/namespace.ts';
import { eventually } from '../support/wait.ts';
import { makeWorld } from '../support/network-world.ts';

describe('links', () => {
  it('taps are made as asked: owner, queues, MAC address, bridge, isolation, mark', async (t) => {
    const { scope, instance, host } = await makeWorld(t);
    await createBridge(
      { name: 'br1', mark: { instance, kind: 'bridge', id: 'n' }, macAddress: '0a:00:00:00:00:01' },
      scope,
    );
    const name = deriveLinkName('lt', instance, 'vm-1', '0');
    const mark = { instance, kind: 'tap', id: 'vm-1:0' };
    const tap = {
      name,
      mark,
      ownerUid: 61234,
      isMultiQueue: true,
      master: 'br1',
      mtu: 1400,
      macAddress: 'fe:54:00:00:00:01',
      isIsolated: true,
    };
    await createTap(tap, scope);
    const link = await findLink(name, scope);
    assert.deepEqual(
      { ...link, index: 0, addresses: [] },
      {
        index: 0,
        name,
        kind: 'tun',
        mtu: 1400,
        macAddress: tap.macAddress,
        isEthernet: true,
        isUp: true,
        hasCarrier: false,
        master: 'br1',
        alias: `lodge:${instance}:tap:vm-1:0`,
        mark,
        addresses: [],
        tap: { isMultiQueue: true, isPersistent: true },
        isIsolatedPort: true,
      },
    );
    assert.deepEqual(link?.addresses, []);
    const { stdout } = await host.run(['ip', '-json', 'tuntap', 'show']);
    assert.deepEqual(JSON.parse(stdout), [
      { ifname: name, flags: ['tap', 'multi_queue', 'vnet_hdr', 'persist'], user: 61234 },
    ]);
    // The bridge keeps its own address whatever its ports have.
    assert.equal((await findLink('br1', scope))?.macAddress, '0a:00:00:00:00:01');
    await changeLink(name, { master: null, isUp: false, mtu: 1500 }, instance, scope);
    const { master, isUp, mtu, isIsolatedPort } = (await findLink(name, scope))!;
    assert.deepEqual(
      { master, isUp, mtu, isIsolatedPort },
      { master: null, isUp: false, mtu: 1500, isIsolatedPort: null },
    );
    assert.deepEqual(
      (await listMarkedLinks(instance, 'tap', scope)).map((found) => found.name),
      [name],
    );
    assert.deepEqual(await listMarkedLinks('other', undefined, scope), []);
  });

  it('are made once, and a tap that can not become a port of its bridge is not left behind', async (t) => {
    const { scope, instance } = await makeWorld(t);
    const mark = { instance, kind: 'tap', id: 'x' };
    await createTap({ name: 'tap1', mark }, scope);
    await assert.rejects(createTap({ name: 'tap1', mark }, scope), {
      name: 'LinkError',
      reason: 'exists',
      link: 'tap1',
    });
    await assert.rejects(createBridge({ name: 'tap1', mark, macAddress: '0a:00:00:00:00:01' }, scope), {
      reason: 'exists',
    });
    assert.ok(await findLink('tap1', scope));
    await assert.rejects(createTap({ name: 'tap2', mark, master: 'absent' }, scope), (error: unknown) => {
      assert.ok(error instanceof LinkError);
      assert.equal(error.reason, 'missing');
      return true;
    });
    assert.equal(await findLink('tap2', scope), null);
  });

  it('of others are never changed or deleted', async (t) => {
    const { scope, instance, host } = await makeWorld(t);
    await host.run(['ip', 'link', 'add', 'other0', 'type', 'bridge']);
    await host.run(['ip', 'link', 'set', 'other0', 'alias', `lodge:${instance}x:bridge:1`]);
    await assert.rejects(deleteLink('other0', instance, scope), { name: 'LinkError', reason: 'foreign' });
    await assert.rejects(changeLink('other0', { isUp: true }, instance, scope), { reason: 'foreign' });
    await assert.rejects(deleteLink('lo', instance, scope), { reason: 'foreign' });
    assert.equal((await findLink('other0', scope))?.isUp, false);
    assert.equal(await deleteLink('absent', instance, scope), false);
    await assert.rejects(changeLink('absent', { isUp: true }, instance, scope), { reason: 'missing' });
  });
});

describe('other firewalls on the machine', () => {
  it('that drop by default are found, with what to do about them', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const own = firewallTableName(world.instance);
    const out: TestPacket = {
      hook: 'forward',
      family: 4,
      inputLink: 'br1',
      outputLink: 'eth0',
      protocol: 'tcp',
      source: '10.88.1.10',
      destination: '203.0.113.1',
      destinationPort: 443,
      state: 'new',
    };
    const dns: TestPacket = { ...out, hook: 'input', outputLink: null, protocol: 'udp', destinationPort: 53 };
    const remedies = async (): Promise<string[]> => {
      const ruleset = await readRuleset(world.scope);
      const found = [out, dns].map((packet) =>
        findDrops(ruleset, packet, own).map((drop) => remedyFor(drop, packet, 'br1')[0]!),
      );
      return found.flat();
    };
    assert.deepEqual(await remedies(), []);
    const rules = `
      add table ip filter
      add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }
      add chain ip filter INPUT { type filter hook input priority filter; policy accept; }
      add table inet firewalld
      add chain inet firewalld filter_INPUT { type filter hook input priority 10; policy drop; }
      add table inet mine
      add chain inet mine out { type filter hook output priority 0; policy drop; }
      add chain inet mine fw { type filter hook forward priority 5; policy drop; }\n`;
    await world.host.run(['nft', '-f', '-'], { input: rules });
    assert.deepEqual(await remedies(), [
      'iptables -I FORWARD -i br1 -j ACCEPT',
      'nft insert rule inet mine fw iifname "br1" accept',
      'firewall-cmd --permanent --zone=trusted --add-interface=br1',
    ]);
    const element = 'add rule inet mine fw iifname { "br0", "br1" } counter accept';
    await world.host.run(['nft', element]);
    assert.equal((await remedies()).length, 2, 'what lets guests pass is seen');
    // They are left alone, also when the network goes.
    await ensureFirewall(world.instance, [], world.scope);
    const { stdout } = await world.host.run(['nft', 'list', 'tables']);
    assert.deepEqual(stdout.trim().split('\n').sort(), ['table inet firewalld', 'table inet mine', 'table ip filter']);
  });

  it('a table that is not there differs in one thing only', async (t) => {
    const { scope } = await makeWorld(t);
    assert.deepEqual(await compareTable({ name: 'absent', maps: [], chains: [] }, scope), [
      'the table inet absent is missing',
    ]);
  });
});

describe('a user-mode network', () => {
  it('is one that QEMU takes, and forwards its port', async (t) => {
    const netdev = buildUserNetdev({
      id: 'net0',
      hostName: 'web1',
      domain: 'lodge.internal',
      forwards: [{ protocol: 'tcp', hostPort: 42022, guestPort: 22 }],
    });
    const host = await networkNamespace(t);
    const argv = host.command([
      'qemu-system-x86_64',
      '-M',
      'none',
      '-nodefaults',
      '-display',
      'none',
      '-netdev',
      JSON.stringify(netdev),
    ]);
    const qemu = spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
    atEnd(t, async () => {
      if (qemu.exitCode !== null) return;
      const ended = once(qemu, 'exit');
      qemu.kill('SIGKILL');
      await ended;
    });
    let said = '';
    qemu.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await eventually(async () => {
      assert.equal(qemu.exitCode, null, said);
      return (await host.run(['ss', '-Hltn'])).stdout.includes('127.0.0.1:42022');
    });
    await startBareQemu(t, [
      '-M',
      'none',
      '-netdev',
      JSON.stringify(buildUserNetdev({ id: 'net0', isRestricted: true, hasIpv6: false })),
    ]);
  });
});
