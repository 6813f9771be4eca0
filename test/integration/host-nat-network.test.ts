// NAT networks on the real kernel: bridges, nftables and dnsmasq in network namespaces that play the host, its guests
// and the internet. Nothing touches the machine's own network. Needs root.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { listDnsmasqs } from '../../src/host/network/dnsmasq.ts';
import { ensureFirewall, firewallTableName } from '../../src/host/network/firewall.ts';
import { restoreSysctls } from '../../src/host/network/forwarding.ts';
import { createTap, deleteLink, deriveLinkName, findLink, listLinks } from '../../src/host/network/link.ts';
import {
  BridgeInUseError,
  BridgeNameTakenError,
  defaultDhcpAddresses,
  ensureAddresses,
  ensureBridge,
  removeBridge,
  removeNatDnsmasq,
  type NatNetworkObservation,
} from '../../src/host/network/nat-network.ts';
import { SubnetOverlapError } from '../../src/host/network/subnet.ts';
import { atEnd } from '../support/cleanup.ts';
import {
  askDhcp,
  connectTo,
  evaluate,
  GUEST_LINK,
  guestNamespace,
  lookUp,
  takeAddress,
  tellAddresses,
} from '../support/guest-namespace.ts';
import { eventually } from '../support/wait.ts';
import { makeWorld, makeInternet, web1, db1, stranger, noMembers } from '../support/network-world.ts';

describe('a NAT network', () => {
  it('comes up in steps that are told, and a second time nothing is left to do', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1, { ipv6: defaultDhcpAddresses('fd00:88:1::/64') });
    world.networks = [network];
    const parts = new Set((await world.observe(network)).differences.map(({ part }) => part));
    assert.deepEqual(parts, new Set(['bridge', 'forwarding', 'firewall', 'dnsmasq']));

    const done = await world.ensure(network);
    assert.ok(done.includes('made the bridge br1'), done.join('\n'));
    assert.ok(done.includes('dnsmasq started'), done.join('\n'));
    assert.deepEqual(await world.ensure(network), []);
    const { differences, bridge, ports } = await world.observe(network);
    assert.deepEqual({ differences, ports }, { differences: [], ports: [] });
    assert.deepEqual(
      bridge?.addresses
        .filter(({ scope }) => scope === 'global')
        .map(({ address, prefixLength }) => `${address}/${prefixLength}`),
      ['10.88.1.1/24', 'fd00:88:1::1/64'],
    );
    assert.deepEqual(bridge?.mark, { instance: world.instance, kind: 'bridge', id: 'net-1' });
  });

  it('gives its guests addresses and names, and takes no name from a guest that was given none', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1, { mtu: 1400 });
    const members = {
      reservations: [
        { macAddress: web1, ipv4: '10.88.1.5', hostName: 'web1' },
        { macAddress: db1, hostName: 'db1' },
      ],
      records: [{ name: 'registry', addresses: ['10.88.1.1'] }],
    };
    await world.ensure(network, members);
    const [first, second, third] = [
      await guestNamespace(t, world.host, 'br1', web1),
      await guestNamespace(t, world.host, 'br1', db1),
      await guestNamespace(t, world.host, 'br1', stranger),
    ];
    const given = await takeAddress(first, web1);
    const { leaseSeconds, ...rest } = given;
    assert.deepEqual(rest, {
      address: '10.88.1.5',
      prefixLength: '24',
      router: '10.88.1.1',
      nameServer: '10.88.1.1',
      domain: 'lodge.internal',
      hostName: 'web1',
      mtu: '1400',
    });
    assert.equal(leaseSeconds, '3600');
    const other = await takeAddress(second, db1);
    assert.match(other.address, /^10\.88\.1\.(1\d|[2-9]\d|1\d\d|2[0-4]\d|25[0-4])$/);
    // It asks for a name that is another guest's, and for one that is free.
    const unnamed = await takeAddress(third, stranger, 'web1');
    assert.equal(unnamed.hostName, undefined);
    await askDhcp(third, 4, stranger, 'evil');

    const router = '10.88.1.1';
    assert.deepEqual(await lookUp(second, router, 'web1.lodge.internal'), ['10.88.1.5']);
    assert.deepEqual(await lookUp(first, router, 'db1.lodge.internal'), [other.address]);
    assert.deepEqual(await lookUp(first, router, 'registry.lodge.internal'), ['10.88.1.1']);
    assert.deepEqual(await lookUp(first, router, '5.1.88.10.in-addr.arpa', 'PTR'), ['web1.lodge.internal']);
    assert.equal(await lookUp(first, router, 'evil.lodge.internal'), 'ENOTFOUND');

    const leases = await world.leases(network, 3);
    const seen = leases.map(({ family, macAddress, address, hostName }) => ({ family, macAddress, address, hostName }));
    assert.deepEqual(
      seen.sort((one, other) => one.macAddress!.localeCompare(other.macAddress!)),
      [
        { family: 4, macAddress: web1, address: '10.88.1.5', hostName: 'web1' },
        { family: 4, macAddress: db1, address: other.address, hostName: 'db1' },
        { family: 4, macAddress: stranger, address: unnamed.address, hostName: null },
      ],
    );
    for (const { expiresAt } of leases) {
      const secondsLeft = (expiresAt!.getTime() - Date.now()) / 1000;
      assert.ok(secondsLeft > 3500 && secondsLeft <= 3601, String(secondsLeft));
    }
    // Guests reach each other, also where bridged packets pass the packet filter.
    await tellAddresses(t, second, 80);
    assert.equal(await connectTo(first, other.address, 80), '10.88.1.5');
    assert.deepEqual(await world.differences(network, members), []);
  });

  it('gives IPv6 addresses by router advertisement and by DHCPv6, and shows these leases', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1, { ipv6: defaultDhcpAddresses('fd00:88:1::/64') });
    const members = { reservations: [{ macAddress: web1, ipv6: 'fd00:88:1::5', hostName: 'web1' }], records: [] };
    await world.ensure(network, members);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    const other = await guestNamespace(t, world.host, 'br1', db1);
    const addresses = async (scope: string): Promise<string[]> => {
      const link = await findLink(GUEST_LINK, { netns: guest.name });
      return link!.addresses
        .filter((address) => address.family === 6 && address.scope === scope)
        .map(({ address }) => address);
    };
    // RFC 4291, appendix A: the address made of the MAC address 52:54:00:00:00:01.
    await eventually(async () => (await addresses('global')).includes('fd00:88:1:0:5054:ff:fe00:1'), {
      timeoutMs: 20_000,
      describe: 'the guest has made its address of the advertised block',
    });
    const { stdout } = await guest.run(['ip', '-6', 'route', 'show', 'default']);
    assert.match(stdout, /proto ra/);

    // Which is sent only from an address that is known to be nobody else's.
    await eventually(
      async () => !(await guest.run(['ip', '-6', 'address', 'show', 'tentative'])).stdout.includes('inet6'),
    );
    assert.equal((await askDhcp(guest, 6, web1)).address, 'fd00:88:1::5');
    await eventually(
      async () => !(await other.run(['ip', '-6', 'address', 'show', 'tentative'])).stdout.includes('inet6'),
    );
    const free = await askDhcp(other, 6, db1);
    assert.match(free.address, /^fd00:88:1::[0-9a-f]{1,4}$/);
    const leases = await world.leases(network, 2, 6);
    assert.deepEqual(
      leases
        .map(({ macAddress, address, hostName }) => ({ macAddress, address, hostName }))
        .sort((one, two) => one.macAddress!.localeCompare(two.macAddress!)),
      [
        { macAddress: web1, address: 'fd00:88:1::5', hostName: 'web1' },
        { macAddress: db1, address: free.address, hostName: null },
      ],
    );
    assert.deepEqual(await lookUp(other, 'fd00:88:1::1', 'web1.lodge.internal', 'AAAA'), ['fd00:88:1::5']);
  });

  it('takes its guests to the internet under the host address, and lets nobody in from there', async (t) => {
    const world = await makeWorld(t);
    const internet = await makeInternet(t, world);
    const network = world.define(1);
    await world.ensure(network);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    const { address } = await takeAddress(guest, web1);
    assert.equal(await connectTo(guest, '198.51.100.1', 8080), '198.51.100.2');

    await tellAddresses(t, guest, 80);
    await internet.run(['ip', 'route', 'add', '10.88.1.0/24', 'via', '198.51.100.2']);
    assert.match(await connectTo(internet, address, 80), /^E(HOSTUNREACH|ACCES|CONNREFUSED)$/);
    // The host itself reaches its guests.
    assert.equal(await connectTo(world.host, address, 80), '10.88.1.1');
    // A packet with somebody else's source address does not get out.
    await guest.run(['ip', 'address', 'add', '192.0.2.77/32', 'dev', GUEST_LINK]);
    await evaluate(
      guest,
      `(async () => {
        const { createSocket } = await import('node:dgram');
        const socket = createSocket('udp4');
        await new Promise((resolve) => socket.bind(0, '192.0.2.77', resolve));
        await new Promise((resolve) => socket.send('x', 9, '198.51.100.1', resolve));
      })()`,
    );
    const chain = ['nft', 'list', 'chain', 'inet', firewallTableName(world.instance), 'from_net-1'];
    await eventually(async () => {
      assert.match((await world.host.run(chain)).stdout, /counter packets 1 .*forged source/);
      return true;
    });
    assert.deepEqual(await world.differences(network), []);
  });

  it('asks the given servers for names outside its domain, and nobody for those inside', async (t) => {
    const world = await makeWorld(t);
    const internet = await makeInternet(t, world);
    const server = internet.command([
      'dnsmasq',
      '--keep-in-foreground',
      '--conf-file=/dev/null',
      '--pid-file=',
      '--no-resolv',
      '--no-hosts',
      '--user=nobody',
      '--listen-address=198.51.100.1',
      '--bind-interfaces',
      '--address=/example.test/203.0.113.9',
      '--address=/lodge.internal/203.0.113.66',
    ]);
    const upstream = spawn(server[0], server.slice(1), { stdio: 'ignore' });
    atEnd(t, async () => {
      const ended = once(upstream, 'exit');
      upstream.kill('SIGKILL');
      await ended;
    });
    const network = world.define(1, { upstreamServers: ['198.51.100.1'] });
    await world.ensure(network);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    await takeAddress(guest, web1);
    await eventually(async () => {
      assert.deepEqual(await lookUp(guest, '10.88.1.1', 'www.example.test'), ['203.0.113.9']);
      return true;
    });
    assert.equal(await lookUp(guest, '10.88.1.1', 'absent.lodge.internal'), 'ENOTFOUND');
  });

  it('is closed to another network of the same host', async (t) => {
    const world = await makeWorld(t);
    await makeInternet(t, world);
    const [one, two] = [world.define(1), world.define(2)];
    for (const network of [one, two]) await world.ensure(network);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    const other = await guestNamespace(t, world.host, 'br2', db1);
    const { address } = await takeAddress(guest, web1);
    const { address: otherAddress } = await takeAddress(other, db1);
    for (const namespace of [guest, other]) await tellAddresses(t, namespace, 80);
    for (const [from, to] of [
      [guest, otherAddress],
      [other, address],
    ] as const) {
      assert.match(await connectTo(from, to, 80), /^E(HOSTUNREACH|ACCES|CONNREFUSED)$/);
      assert.equal(await connectTo(from, '198.51.100.1', 8080), '198.51.100.2');
    }
    for (const network of [one, two]) assert.deepEqual(await world.differences(network), []);
  });

  it('shows its guests nothing of the host but DHCP, DNS and ping, unless it is told to', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    const { address } = await takeAddress(guest, web1);
    await tellAddresses(t, world.host, 8080);
    assert.match(await connectTo(guest, '10.88.1.1', 8080), /^E(HOSTUNREACH|ACCES|CONNREFUSED)$/);
    const open = { ...network, hostAccess: 'all' as const };
    assert.ok((await world.ensure(open)).some((change) => /nothing else of the host/.test(change)));
    assert.equal(await connectTo(guest, '10.88.1.1', 8080), address);
  });

  it('tells and repairs what others did to its rules', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const table = firewallTableName(world.instance);
    const damages: [string, string[], RegExp][] = [
      ['all rules of the machine were flushed', ['flush', 'ruleset'], /firewall: the table inet \S+ is missing/],
      [
        'one chain was emptied',
        ['flush', 'chain', 'inet', table, 'source_nat'],
        /firewall: the rule "net-1: to the world .*" of the chain source_nat is missing/,
      ],
      [
        'a rule was added',
        ['add', 'rule', 'inet', table, 'forward', 'drop'],
        /firewall: the chain forward has a rule of somebody else/,
      ],
      [
        'a policy was changed',
        ['chain', 'inet', table, 'forward', '{ policy drop; }'],
        /firewall: the chain forward is filter forward 0 drop, not filter forward 0 accept/,
      ],
      [
        'a link was taken from a map',
        ['delete', 'element', 'inet', table, 'forward_to', '{ "br1" }'],
        /firewall: the map forward_to holds \[\], not \[br1 jump to_net-1\]/,
      ],
    ];
    for (const [what, words, difference] of damages) {
      await world.host.run(['nft', ...words]);
      const [found, ...more] = await world.differences(network);
      assert.match(found ?? 'none', difference, what);
      assert.deepEqual(more, [], what);
      assert.notDeepEqual(await world.ensure(network), [], what);
      assert.deepEqual(await world.differences(network), [], what);
    }
    // A rule that somebody replaced by another, comment and all, is the one thing that is not seen; its place is.
    const { stdout } = await world.host.run(['nft', '-a', 'list', 'chain', 'inet', table, 'forward']);
    const handle = /what guests send.*handle (\d+)/.exec(stdout)![1]!;
    await world.host.run(['nft', 'replace', 'rule', 'inet', table, 'forward', 'handle', handle, 'accept']);
    assert.equal((await world.differences(network)).length, 2);
  });

  it('tells and repairs a bridge that lost its address, its state or itself, and forwarding that was switched off', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const damages: [string[], RegExp][] = [
      [['ip', 'link', 'set', 'br1', 'down'], /bridge: the bridge br1 is down/],
      [['ip', 'link', 'set', 'br1', 'mtu', '1300'], /bridge: the MTU of br1 is 1300, not 1500/],
      [['ip', 'address', 'flush', 'dev', 'br1'], /addresses: br1 lacks its address 10\.88\.1\.1\/24/],
      [
        ['ip', 'address', 'add', '10.99.0.1/24', 'dev', 'br1'],
        /addresses: br1 has the address 10\.99\.0\.1\/24 of somebody else/,
      ],
      [['sysctl', '-qw', 'net.ipv4.ip_forward=0'], /forwarding: net\/ipv4\/ip_forward is 0, not 1/],
    ];
    for (const [argv, difference] of damages) {
      await world.host.run(argv);
      assert.match((await world.differences(network)).join('\n'), difference, argv.join(' '));
      await world.ensure(network);
      assert.deepEqual(await world.differences(network), [], argv.join(' '));
    }
    // A new bridge of the same name: the old dnsmasq would listen on one that is gone.
    await world.host.run(['ip', 'link', 'delete', 'br1']);
    assert.match(
      (await world.differences(network)).join('\n'),
      /dnsmasq: the link br1 of the running dnsmasq is missing/,
    );
    assert.ok((await world.ensure(network)).includes('dnsmasq restarted'));
    const guest = await guestNamespace(t, world.host, 'br1', web1);
    assert.equal((await takeAddress(guest, web1)).router, '10.88.1.1');
    assert.deepEqual(await world.differences(network), []);
  });

  it('refuses a bridge name that is taken, and leaves the link that has it', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    const before = async (): Promise<string> =>
      (await world.host.run(['ip', '-details', 'address', 'show', 'br1'])).stdout;
    for (const [argv, owner] of [
      [['ip', 'link', 'add', 'br1', 'type', 'bridge'], /br1 is taken by a link of kind bridge that Lodge did not make/],
      [
        ['ip', 'link', 'set', 'br1', 'alias', 'lodge:other:bridge:net-1'],
        /br1 is taken by .* of Lodge's instance other/,
      ],
      [['ip', 'link', 'set', 'br1', 'alias', `lodge:${world.instance}:bridge:net-2`], /\(bridge net-2\)/],
    ] as const) {
      await world.host.run(argv);
      const state = await before();
      await assert.rejects(ensureBridge(network, world.scope), (error: unknown) => {
        assert.ok(error instanceof BridgeNameTakenError);
        assert.deepEqual([error.field, error.value], ['bridgeName', 'br1']);
        assert.match(error.message, owner);
        return true;
      });
      await assert.rejects(ensureAddresses(network, world.scope), BridgeNameTakenError);
      assert.equal(await removeBridge(network, world.scope), false);
      assert.match((await world.differences(network))[0]!, owner);
      assert.equal(await before(), state);
    }
    await assert.rejects(
      ensureBridge({ ...network, bridgeName: 'lo' }, world.scope),
      /lo is taken by a physical or built-in link/,
    );
  });

  it('refuses a block that the host reaches elsewhere', async (t) => {
    const world = await makeWorld(t);
    await makeInternet(t, world);
    await world.host.run(['ip', 'route', 'add', '10.0.0.0/8', 'via', '198.51.100.1']);
    for (const [block, conflict] of [
      ['198.51.100.128/25', '198.51.100.0/24'],
      ['10.88.1.0/24', '10.0.0.0/8'],
    ] as const) {
      const network = world.define(1, { ipv4: defaultDhcpAddresses(block) });
      await ensureBridge(network, world.scope);
      await assert.rejects(ensureAddresses(network, world.scope), (error: unknown) => {
        assert.ok(error instanceof SubnetOverlapError);
        assert.deepEqual(
          [error.field, error.value, error.conflict],
          ['ipv4.cidr', network.ipv4!.cidr, { cidr: conflict, link: 'uplink' }],
        );
        return true;
      });
      assert.deepEqual(
        (await findLink('br1', world.scope))?.addresses.filter(({ family }) => family === 4),
        [],
      );
    }
  });

  it('stays as long as guests are connected, and then goes without a trace', async (t) => {
    const world = await makeWorld(t);
    const inventory = async (): Promise<unknown> => ({
      links: (await listLinks(world.scope)).map(({ name }) => name),
      rules: (await world.host.run(['nft', 'list', 'ruleset'])).stdout,
      forwarding: (await world.host.run(['sysctl', 'net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'])).stdout,
      files: readdirSync(world.runtimeFolder),
      dnsmasqs: await listDnsmasqs(world.runtimeFolder),
    });
    const before = await inventory();
    const network = world.define(1, { ipv6: defaultDhcpAddresses('fd00:88:1::/64') });
    await world.ensure(network);
    assert.notDeepEqual(await inventory(), before);
    const tap = deriveLinkName('lt', world.instance, 'vm-1', '0');
    await createTap(
      { name: tap, mark: { instance: world.instance, kind: 'tap', id: 'vm-1' }, master: 'br1' },
      world.scope,
    );
    assert.deepEqual((await world.observe(network)).ports, [tap]);
    await assert.rejects(removeBridge(network, world.scope), (error: unknown) => {
      assert.ok(error instanceof BridgeInUseError);
      assert.deepEqual(error.ports, [tap]);
      return true;
    });
    assert.equal(await deleteLink(tap, world.instance, world.scope), true);

    assert.equal(await removeNatDnsmasq(network, world.runtimeFolder), true);
    assert.equal((await ensureFirewall(world.instance, [], world.scope)).length, 1);
    assert.equal(await removeBridge(network, world.scope), true);
    await restoreSysctls(world.sysctls, world.scope);
    assert.deepEqual(await inventory(), before);
    // And once more: nothing to remove is no error.
    assert.equal(await removeNatDnsmasq(network, world.runtimeFolder), false);
    assert.deepEqual(await ensureFirewall(world.instance, [], world.scope), []);
    assert.equal(await removeBridge(network, world.scope), false);
    assert.deepEqual(await restoreSysctls(world.sysctls, world.scope), []);
  });

  it('is the same for a daemon that runs inside the namespace', async (t) => {
    const world = await makeWorld(t);
    const network = world.define(1);
    await world.ensure(network);
    const module = fileURLToPath(new URL('../../src/host/network/nat-network.ts', import.meta.url));
    const args = [network, noMembers, world.firewallNetworks, world.runtimeFolder].map((value) =>
      JSON.stringify(value),
    );
    const seen = await evaluate<NatNetworkObservation>(
      world.host,
      `(await import(${JSON.stringify(module)})).observeNatNetwork(${args.join(', ')})`,
    );
    assert.deepEqual(seen, JSON.parse(JSON.stringify(await world.observe(network))));
    assert.deepEqual(seen.differences, []);
  });
});
