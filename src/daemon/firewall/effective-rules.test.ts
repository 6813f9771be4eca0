import assert from 'node:assert/strict';
import { test } from 'node:test';
import { networkSpec, type Network, type NetworkSpec } from '../../api/network.ts';
import { securityGroupSpec, type SecurityGroup, type SecurityGroupSpecInput } from '../../api/security-group.ts';
import { type Vm } from '../../api/vm.ts';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { initialNetworkStatus } from '../network/network-status.ts';
import { initialVmStatus } from '../vm/vm-records.ts';
import { decide, type FirstPacket } from './decide.ts';
import { effectiveNics, filterSets, ruleText, type FirewallWorld, type NicRules } from './effective-rules.ts';
import { checkGroup } from './firewall-check.ts';
import { initialSecurityGroupStatus } from './firewall-service.ts';

const meta = { project: 'default', labels: {}, revision: 1, createdAt: '2026-01-01T00:00:00.000Z' };

function group(name: string, spec: SecurityGroupSpecInput): SecurityGroup {
  return { ...meta, id: `id-${name}`, name, spec: securityGroupSpec.parse(spec), status: initialSecurityGroupStatus() };
}

function lan(spec: Partial<NetworkSpec> = {}): Network {
  const status = { ...initialNetworkStatus(), ipv4Cidr: '10.0.0.0/24', gateway: '10.0.0.1', bridge: 'br0' };
  return { ...meta, id: 'id-lan', name: 'lan', spec: networkSpec.parse(spec), status };
}

function vm(name: string, number: number, nic: Partial<NonNullable<VmSpecInput['nics']>[number]> = {}): Vm {
  const mac = `52:54:00:00:00:0${number}`;
  const nics = [{ network: 'lan', mac, ipv4Address: `10.0.0.1${number}`, ...nic }];
  const labels = { app: name };
  return {
    ...meta,
    labels,
    id: `id-${name}`,
    name,
    spec: vmSpec.parse({ nics }),
    status: initialVmStatus(meta.createdAt),
  };
}

function world(more: Partial<FirewallWorld>): FirewallWorld {
  return {
    groups: [],
    addressSets: [],
    policies: new Map(),
    networks: [lan()],
    vms: [],
    leases: new Map(),
    names: new Map(),
    linkOf: (_network, id) => `tap-${id}`,
    ...more,
  };
}

const idsOf = (nic: NicRules | undefined): string[] => nic?.ingress.rules.map(({ id }) => id) ?? [];

test('rules of all groups are sorted by priority, and of equals those that deny come first', () => {
  const groups = [
    group('one', { rules: [{ name: 'late', priority: 2000 }, { name: 'allow' }, { name: 'off', isEnabled: false }] }),
    group('two', {
      rules: [
        { name: 'deny', action: 'deny' },
        { name: 'first', priority: 1 },
      ],
    }),
    group('base', { rules: [{ name: 'included' }] }),
    group('three', { includes: ['base'] }),
  ];
  const [nic] = effectiveNics(world({ groups, vms: [vm('web', 1, { securityGroups: ['one', 'two', 'three'] })] }));
  assert.deepEqual(idsOf(nic), ['two/first', 'two/deny', 'one/allow', 'base/included', 'one/late']);
});

test('what no rule decides is said by the network, else by the project, else follows from the groups', () => {
  const groups = [group('in', {}), group('out', { rules: [{ name: 'dns', direction: 'egress' }] })];
  const defaults = (names: string[], more: Partial<FirewallWorld> = {}): string[] => {
    const [nic] = effectiveNics(world({ groups, vms: [vm('web', 1, { securityGroups: names })], ...more }));
    return [nic!.ingress.otherwise, nic!.egress.otherwise];
  };
  assert.deepEqual(defaults([]), ['allow', 'allow']);
  assert.deepEqual(defaults(['in']), ['deny', 'allow']);
  assert.deepEqual(defaults(['out']), ['deny', 'deny']);
  assert.deepEqual(defaults(['gone']), ['deny', 'allow'], 'a group that is not there closes');
  const policies = new Map([['default', { securityGroups: [], ingress: 'deny' as const }]]);
  assert.deepEqual(defaults([], { policies }), ['deny', 'allow']);
  const networks = [lan({ firewall: { ingress: 'allow', egress: 'deny', securityGroups: ['in'] } })];
  assert.deepEqual(defaults([], { policies, networks }), ['allow', 'deny']);
});

test('a group is its NICs, by their ports and the addresses that are known of them', () => {
  const rules = [{ name: 'sql', protocol: 'tcp' as const, ports: ['5432'], peers: [{ securityGroup: 'web' }] }];
  const vms = [vm('web1', 1, { securityGroups: ['web'] }), vm('db1', 2, { securityGroups: ['db'] }), vm('other', 3)];
  const given = world({ groups: [group('web', {}), group('db', { rules })], vms });
  const nics = effectiveNics(given);
  const sets = filterSets(given, nics, new Set(['group:id-web', 'selector:default:app in (db1,other)']));
  assert.deepEqual(sets, [
    { key: 'group:id-web', blocks: ['10.0.0.11'], links: ['tap-id-web1'] },
    {
      key: 'selector:default:app in (db1,other)',
      blocks: ['10.0.0.12', '10.0.0.13'],
      links: ['tap-id-db1', 'tap-id-other'],
    },
  ]);
  const byKey = new Map(sets.map((set) => [set.key, set]));
  const packet: FirstPacket = { protocol: 6, port: 5432, icmpType: null, peerAddress: null, peerLink: null };
  const verdict = (more: Partial<FirstPacket>): string =>
    decide(nics[1]!.ingress, { ...packet, ...more }, byKey).verdict;
  assert.equal(verdict({ peerLink: 'tap-id-web1' }), 'allow');
  assert.equal(verdict({ peerAddress: '10.0.0.11' }), 'allow');
  assert.equal(verdict({ peerLink: 'tap-id-other', peerAddress: '10.0.0.13' }), 'deny');
  assert.equal(verdict({ peerAddress: '10.0.0.11', port: 5433 }), 'deny');
  assert.equal(verdict({ peerAddress: '10.0.0.11', protocol: 17 }), 'deny');
});

test('a NIC where nothing can be filtered says why', () => {
  const networks = [lan({ mode: 'user' })];
  const [nic] = effectiveNics(world({ networks, vms: [vm('web', 1)] }));
  assert.match(nic!.unfiltered ?? '', /mode user/);
});

test('a rule is told in words', () => {
  const [rule] = group('g', {
    rules: [
      { name: 'r', protocol: 'tcp', ports: ['80', '443'], peers: [{ cidr: '10.0.0.0/8' }, { securityGroup: 'db' }] },
    ],
  }).spec.rules;
  assert.equal(ruleText(rule!), 'tcp 80, 443 from 10.0.0.0/8, group db');
});

test('what can never match, or nobody could mean, is refused with its field', () => {
  const around = { groups: [], addressSets: [], networks: [lan()], isHostAllowed: true, otherNames: new Set<string>() };
  const problem = (rule: NonNullable<SecurityGroupSpecInput['rules']>[number]): string => {
    const { spec } = group('g', { rules: [rule] });
    try {
      checkGroup({ id: null, name: 'g', project: 'default' }, spec, around);
      return 'fine';
    } catch (error) {
      return error instanceof Error ? error.message : '';
    }
  };
  const name = 'r';
  assert.equal(problem({ name, protocol: 'tcp', ports: ['1-65535'], peers: [{ securityGroup: 'g' }] }), 'fine');
  assert.match(problem({ name, ports: ['80'] }), /^spec\.rules\.0\.ports: goes with protocol tcp, udp or sctp/);
  assert.match(problem({ name, protocol: 'tcp', ports: ['90-80'] }), /^spec\.rules\.0\.ports\.0: .*lower first/);
  assert.match(problem({ name, protocol: 'icmp', icmpTypes: ['echo-requst'] }), /did you mean echo-request/);
  assert.match(problem({ name, protocol: 'icmp', peers: [{ cidr: 'fd00::/8' }] }), /has no IPv4 prefix/);
  assert.match(
    problem({ name, peers: [{ cidr: '10.0.0.1/24' }] }),
    /the prefix is 10\.0\.0\.0\/24, the one address 10\.0\.0\.1/,
  );
  assert.match(problem({ name, peers: [{}] }), /has exactly one of/);
  assert.match(problem({ name, peers: [{ selector: 'a in (b' }] }), /^spec\.rules\.0\.peers\.0\.selector:/);
  assert.match(problem({ name, action: 'deny', peers: [{ cidr: '10.0.0.1' }] }), /lock out management/);
  assert.match(problem({ name, action: 'deny', protocol: 'tcp', connectionLimit: 3 }), /goes with action allow/);
});
