// The virtual firewall by real traffic: the real daemon with the fake driver in a namespace that plays the host, guests as
// namespaces behind the ports of its VMs. What is allowed is seen to arrive, and what is denied not to, by what is sent
// after it on the same way.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test, type TestContext } from 'node:test';
import { type EffectiveRule } from '../../src/api/firewall.ts';
import { type SecurityRuleInput } from '../../src/api/security-group.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { buildRuleset } from '../../src/host/firewall/filter-ruleset.ts';
import { FilterTables } from '../../src/host/firewall/filter-tables.ts';
import {
  type FilterDirection,
  type FilterPlan,
  type FilterRule,
  type NicFilter,
} from '../../src/host/firewall/nic-filter.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { assertRefused, makeVm, startFakeLodge, untilEvent } from '../support/fake-lodge.ts';
import {
  arpFrame,
  neighbourAdvertisement,
  openFrames,
  routerAdvertisement,
  tagged,
  udpFrame,
  type Ends,
  type FrameLink,
} from '../support/frames.ts';
import { connectTo, GUEST_LINK, tellAddresses } from '../support/guest-namespace.ts';
import { networkNamespace, serveIn, type NetworkNamespace } from '../support/namespace.ts';
import { eventually } from '../support/wait.ts';

const network = { ipv4Cidr: '10.232.0.0/24', ipv6Cidr: 'fd00:232::/64' } as const;

interface Guest {
  vm: Vm;
  mac: string;
  address: string;
  address6: string;
  namespace: NetworkNamespace;
  frames: FrameLink;
}

interface Host {
  daemon: TestDaemon;
  host: NetworkNamespace;
  bridge: string;
}

interface World extends Omit<Host, 'bridge'> {
  guests: Guest[];
}

/** The host, and three guests in no group. */
async function openWorld(t: TestContext): Promise<World> {
  const { daemon, namespace: host } = await startFakeLodge(t, { config: { networks: { checkIntervalS: 1 } } });
  const made = await daemon.client.network.create({ body: { name: 'lan', spec: network } });
  const bridge = made.status.bridge!;
  const guests = [];
  for (const number of [1, 2, 3]) guests.push(await joinGuest(t, { daemon, host, bridge }, number));
  return { daemon, host, guests };
}

type NicInput = Partial<NonNullable<VmSpecInput['nics']>[number]>;

/** A VM that runs, with a namespace as its guest: behind a port that bears the name of its tap. */
async function joinGuest(t: TestContext, { daemon, host, bridge }: Host, number: number): Promise<Guest> {
  const address = `10.232.0.${100 + number}`;
  const nics = [{ network: 'lan', ipv4Address: address }];
  const vm = await makeVm(daemon, `guest${number}`, { nics }, { start: true, labels: { number: `n${number}` } });
  const { mac, hostInterface } = vm.status.nics[0]!;
  const namespace = await networkNamespace(t);
  const port = hostInterface!;
  await host.run(['ip', 'link', 'delete', port]);
  await host.run(['ip', '-batch', '-'], {
    input: `link add name ${port} type veth peer name ${GUEST_LINK} address ${mac} netns ${namespace.name}
link set dev ${port} master ${bridge} up\n`,
  });
  const address6 = `fd00:232::${100 + number}`;
  // Else it would have another address by router advertisements, and perhaps speak from that.
  await namespace.run(['sysctl', '-q', '-w', `net.ipv6.conf.${GUEST_LINK}.accept_ra=0`]);
  await namespace.run(['ip', 'link', 'set', 'dev', GUEST_LINK, 'up']);
  await namespace.run(['ip', 'address', 'add', `${address}/24`, 'dev', GUEST_LINK]);
  await namespace.run(['ip', 'address', 'add', `${address6}/64`, 'dev', GUEST_LINK, 'nodad']);
  return { vm, mac, address, address6, namespace, frames: await openFrames(t, namespace, GUEST_LINK) };
}

function endsOf(from: Guest, to: Guest): Ends {
  return { from: from.mac, to: to.mac, source: from.address, destination: to.address };
}

/** Changes what the firewall is told of a guest's NIC, while it runs; ends when that counts. */
async function changeNic({ daemon }: World, { vm: { name } }: Guest, nic: NicInput): Promise<void> {
  const params = { vm: name };
  const { spec } = await daemon.client.vm.get({ params });
  const nics = spec.nics.map((one) => ({ ...one, ...nic }));
  const { status } = await daemon.client.vm.update({ params, body: { spec: { ...spec, nics } } });
  assert.deepEqual(status.pendingChanges, []);
  // A policy is answered when everything that was written before it counts.
  await daemon.client.firewall.update({ body: { spec: {} } });
}

async function makeGroup({ daemon }: World, name: string, rules: SecurityRuleInput[]): Promise<void> {
  await daemon.client.securityGroup.create({ body: { name, spec: { rules } } });
}

/** The rules of a guest's NIC by their ids, with what they have decided on. */
async function ruleCounts({ daemon }: World, { vm }: Guest): Promise<Map<string, EffectiveRule>> {
  const { items } = await daemon.client.firewall.rules({ params: { vm: vm.name }, query: { counters: true } });
  return new Map(items[0]!.rules.map((rule) => [rule.id, rule]));
}

/** Frames of TCP over IPv4 that a guest has heard. */
function tcpFrames({ frames }: Guest): number {
  return frames.count((frame) => frame.readUInt16BE(12) === 0x0800 && frame[23] === 6);
}

/** Which of these datagrams arrive; `open` is a port by which one that is sent last surely does. */
async function arriving(
  from: Guest,
  to: Guest,
  frames: ReadonlyMap<string, Buffer>,
  open: number,
): Promise<Set<string>> {
  for (const frame of frames.values()) from.frames.send(frame);
  const last = `last-${Math.random()}`;
  from.frames.send(udpFrame(endsOf(from, to), [40_000, open], last));
  await to.frames.untilHeard(last);
  return new Set([...frames.keys()].filter((name) => to.frames.hasHeard(name)));
}

test('the virtual firewall', async (t) => {
  const world = await openWorld(t);
  const { daemon, host } = world;
  const [one, two, three] = world.guests as [Guest, Guest, Guest];

  await t.test('decides what arrives at a NIC from its neighbours on one bridge, and what leaves it', async (part) => {
    await makeGroup(world, 'clients', []);
    await makeGroup(world, 'web', [
      { name: 'https', protocol: 'tcp', ports: ['80'], peers: [{ securityGroup: 'clients' }] },
      { name: 'probe', protocol: 'udp', ports: ['7000-7009'], peers: [{ selector: 'number=n1' }] },
      { name: 'never', protocol: 'udp', ports: ['7005'], action: 'deny', priority: 10 },
      { name: 'dns-out', direction: 'egress', protocol: 'udp', ports: ['53'] },
    ]);
    const [client, web, other] = [one, two, three];
    await changeNic(world, client, { securityGroups: ['clients'] });
    await changeNic(world, web, { securityGroups: ['web'] });
    await Promise.all([
      tellAddresses(part, web.namespace, 80),
      tellAddresses(part, web.namespace, 81),
      tellAddresses(part, other.namespace, 80),
    ]);
    assert.equal(await connectTo(client.namespace, web.address, 80), client.address, 'a rule with a group');
    assert.equal(await connectTo(client.namespace, web.address6, 80), client.address6, 'the same with IPv6');
    assert.equal(await connectTo(host, web.address, 81), '10.232.0.1', 'programs of the host are let in');
    const denied = await Promise.all([
      connectTo(client.namespace, web.address, 81),
      connectTo(other.namespace, web.address, 80),
      connectTo(web.namespace, other.address, 80),
      connectTo(web.namespace, '10.232.0.1', 53),
    ]);
    assert.deepEqual(denied, ['timeout', 'timeout', 'timeout', 'timeout']);

    const ends = endsOf(client, web);
    const ports = [7000, 7005, 7009, 7010];
    const sent = new Map(ports.map((port) => [`to-${port}`, udpFrame(ends, [40_000, port], `to-${port}`)]));
    const before = await ruleCounts(world, web);
    assert.deepEqual([...(await arriving(client, web, sent, 7001))], ['to-7000', 'to-7009']);

    const after = await ruleCounts(world, web);
    const counted = (id: string): number => after.get(id)!.packets! - before.get(id)!.packets!;
    assert.deepEqual(['web/probe', 'web/never', 'web/dns-out'].map(counted), [3, 1, 0], 'each rule counts its own');
    assert.ok(counted('default-ingress') >= 1);
    assert.ok(before.get('web/https')!.packets! > 0 && before.get('host')!.packets! > 0);
    // One datagram over IPv4: header, UDP header and what it says.
    assert.equal(after.get('web/never')!.bytes, 20 + 8 + 'to-7005'.length);
    const { items: plain } = await daemon.client.firewall.rules({ params: { vm: 'guest2' } });
    assert.ok(
      plain[0]!.rules.every(({ packets, bytes }) => packets === null && bytes === null),
      'where it is asked for',
    );
    assert.equal((await ruleCounts(world, other)).get('default-ingress')!.packets, null, 'a NIC without rules');

    const explain = async (from: string, to: string, protocol: string, port: number): Promise<string[]> => {
      const { verdict, sides } = await daemon.client.firewall.explain({ query: { from, to, protocol, port } });
      return [verdict, ...sides.map(({ rule }) => rule?.id ?? '-')];
    };
    assert.deepEqual(await explain('guest1', 'guest2', 'tcp', 80), ['allowed', 'default-egress', 'web/https']);
    assert.deepEqual(await explain('guest1', 'guest2', 'udp', 7005), ['denied', 'default-egress', 'web/never']);
    assert.deepEqual(await explain('guest3', 'guest2', 'tcp', 80), ['denied', 'default-egress', 'default-ingress']);
    assert.deepEqual(await explain('guest2', 'guest3', 'tcp', 80), ['denied', 'default-egress', 'default-ingress']);
    assert.deepEqual(await explain('host', 'guest2', 'tcp', 81), ['allowed', 'host']);
  });

  await t.test('takes every kind of rule', async () => {
    const addresses = ['198.51.100.0/24', '198.51.101.0/24', '198.51.100.7', '2001:db8::/32'];
    await daemon.client.addressSet.create({ body: { name: 'office', spec: { addresses } } });
    const peers = [
      { addressSet: 'office' },
      { dnsName: 'deb.debian.org' },
      { cidr: '0.0.0.0/0' },
      { cidr: 'fd00::/8' },
    ];
    await makeGroup(world, 'kinds', [
      { name: 'tcp', protocol: 'tcp', ports: ['80', '8000-8080', '8010'], peers, isLogged: true },
      { name: 'few', protocol: 'tcp', ports: ['22'], connectionLimit: 2 },
      { name: 'sctp', protocol: 'sctp', ports: ['5000'] },
      { name: 'ping', protocol: 'icmp', icmpTypes: ['echo-request', 13] },
      { name: 'ping6', protocol: 'icmpv6', icmpTypes: ['echo-request'], peers: [{ cidr: 'fd00:232::/64' }] },
      { name: 'gre', protocol: 47, action: 'deny', isLogged: true },
      { name: 'any', direction: 'egress', peers: [{ securityGroup: 'kinds' }] },
      { name: 'off', isEnabled: false },
    ]);
    await changeNic(world, three, { securityGroups: ['kinds'], allowedAddresses: ['10.232.0.200', 'fd00:232:1::/64'] });
    const { items } = await daemon.client.firewall.rules({ params: { vm: 'guest3' } });
    const ids = items[0]!.rules.map(({ id }) => id);
    const ingress = ['kinds/gre', 'kinds/tcp', 'kinds/few', 'kinds/sctp', 'kinds/ping', 'kinds/ping6'];
    assert.deepEqual(ids, ['host', ...ingress, 'default-ingress', 'kinds/any', 'default-egress']);
    // What an address set has more counts for the rules that name it.
    await daemon.client.addressSet.update({
      params: { addressSet: 'office' },
      body: { spec: { addresses: ['198.51.100.0/23', '10.232.0.0/24'] } },
    });
    const { status } = await daemon.client.firewall.get();
    assert.equal(status.state, 'enforcing', status.reason);
    await changeNic(world, three, { securityGroups: [], allowedAddresses: [] });
  });

  await t.test('cuts a connection that is open when its rule goes', async (part) => {
    const open: SecurityRuleInput = { name: 'open', protocol: 'udp', ports: ['7001'] };
    const echo: SecurityRuleInput = { name: 'echo', protocol: 'tcp', ports: ['7'] };
    await makeGroup(world, 'echo', [open, echo]);
    await changeNic(world, two, { securityGroups: ['echo'] });
    const echoing = `
      const { createServer } = await import('node:net');
      createServer((socket) => { socket.on('error', () => {}); socket.pipe(socket); }).listen(7, '::', () => console.log('ready'));`;
    await once(serveIn(part, two.namespace, echoing).stdout, 'data', { signal: AbortSignal.timeout(20_000) });
    const talk = `
      const { connect } = await import('node:net');
      const socket = connect(7, '${two.address}');
      let count = 0;
      setInterval(() => socket.write('tick' + count++ + '.'), 20);
      socket.on('data', (data) => console.log(String(data)));`;
    const talking = serveIn(part, one.namespace, talk);
    let said = '';
    talking.stdout.on('data', (data) => (said += String(data)));
    await eventually(() => said.includes('tick1.'), { describe: 'the connection is open' });

    const change = (rules: SecurityRuleInput[]): Promise<unknown> =>
      daemon.client.securityGroup.update({ params: { securityGroup: 'echo' }, body: { spec: { rules } } });
    await change([open]);
    const ends = endsOf(one, two);
    const mark = async (text: string): Promise<void> => {
      one.frames.send(udpFrame(ends, [40_000, 7001], text));
      await two.frames.untilHeard(text);
    };
    await mark('after the change');
    const before = tcpFrames(two);
    // Several of what is said every 20 ms: none of it gets through.
    for (let count = 0; count < 20; count++) await mark(`later ${count}`);
    assert.equal(tcpFrames(two), before);
    const length = said.length;
    await change([open, echo]);
    await eventually(() => said.length > length, { describe: 'the connection goes on when its rule is back' });
  });

  await t.test(
    'keeps a guest from speaking as another, as a DHCP server or as a router, unless told otherwise',
    async () => {
      for (const guest of [one, two]) await changeNic(world, guest, { securityGroups: [] });
      const ends = endsOf(one, two);
      const ends6: Ends = { ...ends, source: one.address6, destination: two.address6 };
      const host6 = 'fd00:232::1';
      const frames = new Map<string, Buffer>([
        ['as another MAC address', udpFrame({ ...ends, from: three.mac }, [1, 2], 'as another MAC address')],
        ['as another guest', udpFrame({ ...ends, source: three.address }, [1, 2], 'as another guest')],
        ['as the host', udpFrame({ ...ends, source: '10.232.0.1' }, [1, 2], 'as the host')],
        ['as a free address', udpFrame({ ...ends, source: '10.232.0.77' }, [1, 2], 'as a free address')],
        ['as a stranger', udpFrame({ ...ends, source: '192.0.2.1' }, [1, 2], 'as a stranger')],
        ['as the host by IPv6', udpFrame({ ...ends6, source: host6 }, [1, 2], 'as the host by IPv6')],
        ['as a DHCP server', udpFrame(ends, [67, 68], 'as a DHCP server')],
        ['as a DHCPv6 server', udpFrame(ends6, [547, 546], 'as a DHCPv6 server')],
        ['in a VLAN', tagged(udpFrame(ends, [1, 2], 'in a VLAN'), 5)],
      ]);
      // These say nothing that could be looked for: they are told by all their bytes.
      const exact = {
        'ARP for the host': arpFrame(ends, { mac: one.mac, address: '10.232.0.1' }),
        'ARP with another MAC address': arpFrame(ends, { mac: three.mac, address: one.address }),
        'router advertisement': routerAdvertisement(ends6),
        'neighbour advertisement for the host': neighbourAdvertisement(ends6, host6),
      };
      const send = async (): Promise<string[]> => {
        for (const frame of Object.values(exact)) one.frames.send(frame);
        const arrived = await arriving(one, two, frames, 9);
        const told = Object.entries(exact).filter(([, frame]) => two.frames.hasHeard(frame));
        return [...arrived, ...told.map(([name]) => name)];
      };
      assert.deepEqual(await send(), []);
      const honest = new Map([
        ['its own', udpFrame(ends, [1, 2], 'its own')],
        ['its own by IPv6', udpFrame(ends6, [1, 2], 'its own by IPv6')],
      ]);
      assert.equal((await arriving(one, two, honest, 9)).size, 2);
      const ownArp = arpFrame(ends, { mac: one.mac, address: one.address });
      one.frames.send(ownArp);
      await two.frames.untilHeard(ownArp);

      await changeNic(world, one, { hasAntiSpoofing: false });
      assert.deepEqual(
        (await send()).toSorted(),
        [...frames.keys(), ...Object.keys(exact)].toSorted(),
        'all of it arrives',
      );
      await changeNic(world, one, { hasAntiSpoofing: true });
    },
  );

  await t.test('is kept by the kernel while the daemon is down, and put back when it was flushed', async () => {
    await changeNic(world, two, { securityGroups: ['echo'] });
    let count = 0;
    const isClosed = async (): Promise<boolean> => {
      const name = `closed-${count++}`;
      const frame = udpFrame(endsOf(one, two), [40_000, 7002], name);
      return (await arriving(one, two, new Map([[name, frame]]), 7001)).size === 0;
    };
    assert.ok(await isClosed());
    await daemon.kill();
    assert.ok(await isClosed(), 'while the daemon is down');
    await daemon.start();
    assert.ok(await isClosed(), 'after it was taken over');

    await host.run(['nft', 'flush', 'ruleset']);
    const { message } = await untilEvent(daemon, 'firewall.repaired');
    assert.match(message, /table bridge of the filter is missing/);
    assert.ok(await isClosed(), 'after the repair');
    const { status } = await daemon.client.firewall.get();
    assert.equal(status.state, 'enforcing', status.reason);
    assert.notEqual(status.method, 'none');
  });

  await t.test('refuses what can not be, with its field, before anything changes', async () => {
    const { client } = daemon;
    const create = (...rules: SecurityRuleInput[]): Promise<unknown> =>
      client.securityGroup.create({ body: { name: 'bad', spec: { rules } } });
    const rule = { name: 'bad' } as const;
    const peer = 'spec.rules.0.peers.0';
    await assertRefused(
      daemon,
      create({ ...rule, peers: [{ cidr: '10.1.2.3/8' }] }),
      'invalid_request',
      `${peer}.cidr`,
    );
    const stranger = create({ ...rule, peers: [{ securityGroup: 'wob' }] });
    await assertRefused(daemon, stranger, 'not_found', `${peer}.securityGroup`);
    const lockOut = create({ ...rule, action: 'deny', peers: [{ cidr: '10.232.0.1' }] });
    await assertRefused(daemon, lockOut, 'invalid_request', `${peer}.cidr`);
    const many = Array.from({ length: 20_000 }, (_, index) => ({ name: `r${index}` }));
    await assertRefused(daemon, create(...many), 'invalid_request', 'spec.rules');
    await client.securityGroup.create({ body: { name: 'base', spec: { includes: ['web'] } } });
    const params = { securityGroup: 'web' };
    const circle = client.securityGroup.update({ params, body: { spec: { includes: ['base'] } } });
    await assertRefused(daemon, circle, 'invalid_request', 'spec.includes.0');
    const inUse = await assertRefused(daemon, client.securityGroup.delete({ params }), 'in_use');
    assert.match(inUse.message, /security group base/);
    await client.network.create({ body: { name: 'alone', spec: { mode: 'user' } } });
    const nics = [{ network: 'alone', securityGroups: ['web'] }];
    const unfiltered = client.vm.create({ body: { name: 'v', spec: { nics } } });
    await assertRefused(daemon, unfiltered, 'unsupported', 'spec.nics.0.securityGroups');
    const { items } = await client.securityGroup.list();
    assert.deepEqual(items.map(({ name }) => name).toSorted(), ['base', 'clients', 'echo', 'kinds', 'web']);
  });
});

/** All of an instance's tables in a namespace, without what only says when it was made or what it has counted. */
async function listTables(host: NetworkNamespace, name: string): Promise<unknown> {
  const families = await Promise.all(
    ['bridge', 'inet'].map(async (family) => {
      const { stdout } = await host.run(['nft', '-j', 'list', 'table', family, name]);
      const { nftables } = JSON.parse(stdout, (key, value: unknown) =>
        ['handle', 'packets', 'bytes', 'table'].includes(key) ? null : value,
      ) as { nftables: { rule?: { chain: string }; set?: { elem?: unknown[] }; map?: { elem?: unknown[] } }[] };
      const rules = new Map<string, unknown[]>();
      const others: string[] = [];
      for (const object of nftables.slice(1)) {
        if (object.rule) rules.set(object.rule.chain, [...(rules.get(object.rule.chain) ?? []), object]);
        for (const elements of [object.set?.elem, object.map?.elem])
          elements?.sort((one, other) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1));
        if (!object.rule && !('table' in object)) others.push(JSON.stringify(object));
      }
      return { rules, others: others.toSorted() };
    }),
  );
  return families;
}

test('change after change, the kernel comes to have what it is given whole', async (t) => {
  const host = await networkNamespace(t);
  const scope = { netns: host.name };
  const [stepwise, whole] = [new FilterTables('steps', scope), new FilterTables('whole', scope)];
  const rule = (port: number, more: Partial<FilterRule> = {}): FilterRule => ({
    id: `group/r${port}`,
    action: 'allow',
    protocol: port % 2 === 0 ? 6 : 17,
    ports: [{ first: port, last: port + (port % 3) }],
    icmpTypes: [],
    peers: port % 5 === 0 ? [{ kind: 'set', set: 'group:1' }] : [{ kind: 'block', cidr: '10.0.0.0/8' }],
    connectionLimit: null,
    isLogged: false,
    ...more,
  });
  const direction = (from: number, count: number): FilterDirection => ({
    rules: Array.from({ length: count }, (_, index) => rule(from + index)),
    otherwise: 'deny',
  });
  const open: FilterDirection = { rules: [], otherwise: 'allow' };
  const nic = (number: number, ingress: FilterDirection, egress = open): NicFilter => {
    const mac = `52:54:00:00:00:0${number}`;
    const [ipv4Prefix, ipv6Prefix] = ['10.0.0.0/24', 'fd00::/64'];
    const guard = { mac, ipv4Only: null, ipv6Only: null, ipv4Prefix, ipv6Prefix, network: 'lan' };
    return { link: `tap${number}`, addresses: [], ingress, egress, isHostAllowed: true, guard };
  };
  const owners = (...numbers: number[]) => [
    {
      network: 'lan',
      owners: numbers.map((number) => ({ address: `10.0.0.${number}`, mac: `52:54:00:00:00:0${number}` })),
    },
  ];
  const members = (...numbers: number[]) => [
    {
      key: 'group:1',
      blocks: numbers.map((number) => `10.0.0.${number}`),
      links: numbers.map((number) => `tap${number}`),
    },
  ];
  const [few, many, other] = [direction(1000, 4), direction(2000, 20), direction(3000, 12)];
  const plans: FilterPlan[] = [
    { nics: [nic(1, few), nic(2, many)], sets: members(1), owners: owners(1, 2) },
    { nics: [nic(1, few), nic(2, other)], sets: members(1), owners: owners(1, 2) },
    { nics: [nic(1, few), nic(2, other, few), nic(3, many)], sets: members(1, 3), owners: owners(1, 2, 3) },
    { nics: [nic(1, open), nic(2, other, few), nic(3, many)], sets: members(3), owners: owners(2, 3) },
    { nics: [nic(2, other, other), nic(3, open)], sets: members(), owners: owners(2, 3) },
    { nics: [nic(2, direction(1000, 4), many)], sets: members(2), owners: owners(2) },
  ];
  const rulesets = plans.map((plan) => buildRuleset(plan, { method: 'br-netfilter', bridges: ['br0'] }));
  for (const [index, ruleset] of rulesets.entries()) {
    await stepwise.load(ruleset);
    await whole.remove();
    await whole.load(ruleset);
    const [has, wanted] = [await listTables(host, stepwise.name), await listTables(host, whole.name)];
    assert.deepEqual(has, wanted, `change ${index}`);
    assert.equal(await stepwise.load(ruleset), false, 'there is nothing more to be changed');
  }
  // What is loaded is not what was thought: it is replaced.
  await host.run(['nft', 'flush', 'ruleset']);
  await stepwise.load(rulesets[1]!);
  await whole.load(rulesets[1]!);
  assert.deepEqual(await listTables(host, stepwise.name), await listTables(host, whole.name), 'after a flush');
  assert.deepEqual(await stepwise.observe(rulesets[1]!), []);
});
