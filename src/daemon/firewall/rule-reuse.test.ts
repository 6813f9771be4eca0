import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AddressSet } from '../../api/address-set.ts';
import { type FirewallPolicy } from '../../api/firewall-policy.ts';
import { networkSpec, type Network } from '../../api/network.ts';
import { securityGroupSpec, type SecurityGroup, type SecurityRuleInput } from '../../api/security-group.ts';
import { type Vm } from '../../api/vm.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { buildRuleset, type FilterMethod, type Ruleset } from '../../host/firewall/filter-ruleset.ts';
import { emptyRuleset, renderChange } from '../../host/firewall/filter-tables.ts';
import { initialNetworkStatus } from '../network/network-status.ts';
import { initialVmStatus } from '../vm/vm-records.ts';
import { effectiveNics, filterPlan, type FirewallWorld, type NicRules } from './effective-rules.ts';
import { initialSecurityGroupStatus } from './firewall-service.ts';

const meta = { project: 'default', labels: {}, revision: 1, createdAt: '2026-01-01T00:00:00.000Z' };
const linkOf: FirewallWorld['linkOf'] = (_network, id) => `tap-${id}`;

/** The same numbers each time, from a seed: mulberry32. */
function numbersFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

type Pick = (below: number) => number;

const names = ['a', 'b', 'c', 'd'] as const;

function someRule(pick: Pick, index: number): SecurityRuleInput {
  const one = <Item>(items: readonly Item[]): Item => items[pick(items.length)]!;
  const protocol = one(['tcp', 'udp', 'icmp', 'any'] as const);
  const peers = one([
    [],
    [{ cidr: one(['10.0.0.0/8', 'fd00::/8']) }],
    [{ addressSet: 'office' }],
    [{ securityGroup: one(names) }],
    [{ selector: 'tier=web' }],
  ]);
  return {
    name: `r${index}`,
    direction: one(['ingress', 'ingress', 'egress'] as const),
    action: one(['allow', 'allow', 'deny'] as const),
    priority: 1000 + pick(3),
    protocol,
    ports: protocol === 'tcp' || protocol === 'udp' ? [`${1 + pick(100)}`] : [],
    peers,
    isEnabled: pick(8) > 0,
    ...(protocol === 'tcp' && pick(6) === 0 ? { connectionLimit: 3 } : {}),
  };
}

function someGroup(pick: Pick, name: string): SecurityGroup {
  const rules = Array.from({ length: pick(14) }, (_, index) => someRule(pick, index));
  const includes = name === 'a' && pick(2) === 0 ? ['b'] : [];
  const spec = securityGroupSpec.parse({ rules, includes });
  return { ...meta, id: `id-${name}-${pick(2)}`, name, spec, status: initialSecurityGroupStatus() };
}

function someVm(pick: Pick, number: number): Vm {
  const securityGroups = names.filter(() => pick(3) === 0);
  const nics = [
    {
      network: 'lan',
      mac: `52:54:00:00:00:0${number}`,
      ipv4Address: `10.0.0.${10 + pick(3) * 10 + number}`,
      securityGroups,
      hasAntiSpoofing: pick(5) > 0,
    },
  ];
  const labels: Record<string, string> = pick(2) === 0 ? { tier: 'web' } : {};
  const status = initialVmStatus(meta.createdAt);
  return { ...meta, labels, id: `v${number}`, name: `v${number}`, spec: vmSpec.parse({ nics }), status };
}

function someSet(pick: Pick): AddressSet {
  const addresses = ['192.0.2.0/24', '192.0.2.7', '2001:db8::/32', '198.51.100.1'].filter(() => pick(2) === 0);
  return {
    ...meta,
    id: `id-set-${pick(2)}`,
    name: 'office',
    spec: { description: '', addresses },
    status: { usedBy: [] },
  };
}

function somePolicy(pick: Pick): FirewallPolicy {
  const ingress = (['allow', 'deny', undefined] as const)[pick(3)];
  const securityGroups = names.filter(() => pick(4) === 0);
  return {
    securityGroups,
    ...(ingress ? { ingress } : {}),
    ...(pick(2) === 0 ? { isHostAllowed: pick(2) === 0 } : {}),
  };
}

function lan(firewall: FirewallPolicy | undefined): Network {
  const status = { ...initialNetworkStatus(), ipv4Cidr: '10.0.0.0/24', gateway: '10.0.0.1', bridge: 'br0' };
  return { ...meta, id: 'id-lan', name: 'lan', spec: networkSpec.parse(firewall ? { firewall } : {}), status };
}

/** A world, and what becomes of it by one change after the other: everything else stays the very same objects. */
function history(seed: number, changes: number): FirewallWorld[] {
  const pick = numbersFrom(seed);
  const numbers = [1, 2, 3, 4, 5];
  let world: FirewallWorld = {
    groups: names.map((name) => someGroup(pick, name)),
    addressSets: [someSet(pick)],
    policies: new Map(),
    networks: [lan(undefined)],
    vms: numbers.map((number) => someVm(pick, number)),
    leases: new Map(),
    names: new Map(),
    linkOf,
  };
  const worlds = [world];
  const swap = <Item extends { name: string }>(all: readonly Item[], item: Item): Item[] =>
    all.some(({ name }) => name === item.name)
      ? all.map((one) => (one.name === item.name ? item : one))
      : [...all, item];
  for (let count = 0; count < changes; count++) {
    const number = numbers[pick(numbers.length)]!;
    const change = [
      () => ({ groups: swap(world.groups, someGroup(pick, names[pick(names.length)]!)) }),
      () => ({ vms: swap(world.vms, someVm(pick, number)) }),
      () => ({ vms: world.vms.filter(({ name }) => name !== `v${number}`) }),
      () => ({ addressSets: [someSet(pick)] }),
      () => ({ policies: new Map([['default', somePolicy(pick)]]) }),
      () => ({ networks: [lan(somePolicy(pick))] }),
      () => ({ leases: new Map([[`52:54:00:00:00:0${number}`, [`10.0.0.${100 + pick(9)}`]]]) }),
      () => ({ groups: world.groups.filter(({ name }) => name !== 'd') }),
    ][pick(8)]!;
    world = { ...world, ...change() };
    worlds.push(world);
  }
  return worlds;
}

interface Outcome {
  nics: NicRules[];
  ruleset: Ruleset;
}

function outcomeOf(world: FirewallWorld, method: FilterMethod): Outcome {
  const nics = effectiveNics(world);
  return { nics, ruleset: buildRuleset(filterPlan(world, nics), { method, bridges: ['br0'] }) };
}

/** The same in other objects, for which nothing can have been made before. */
function copyOf({ linkOf: of, ...data }: FirewallWorld): FirewallWorld {
  return { ...structuredClone(data), linkOf: of };
}

/** The order of chains counts for nothing but what refers to what. */
function contentOf({ bridge, inet }: Ruleset): unknown {
  return [bridge, inet].map(({ sets, maps, chains }) =>
    [sets, maps, chains].map((all) =>
      Object.fromEntries([...all].toSorted(([one], [other]) => (one < other ? -1 : 1))),
    ),
  );
}

for (const method of ['bridge-conntrack', 'br-netfilter'] as const)
  test(`what was made before and is used again is what would be made anew (${method})`, () => {
    for (const seed of [1, 2, 3]) {
      const worlds = history(seed, 40);
      const step = worlds.map((world) => outcomeOf(world, method));
      const anew = worlds.map((world) => {
        // The world that was looked at last has nothing to be used again either.
        effectiveNics({ ...world, vms: [] });
        return outcomeOf(copyOf(world), method);
      });
      for (const [index, { nics, ruleset }] of step.entries()) {
        assert.deepEqual(nics, anew[index]!.nics, `seed ${seed}, change ${index}`);
        assert.deepEqual(contentOf(ruleset), contentOf(anew[index]!.ruleset), `seed ${seed}, change ${index}`);
      }
    }
  });

test('NICs that a change does not touch keep the very objects of their rules', () => {
  const [world] = history(7, 0) as [FirewallWorld];
  const before = effectiveNics(world);
  const [first, ...others] = world.vms as [Vm, ...Vm[]];
  const after = effectiveNics({ ...world, vms: [{ ...first, labels: { tier: 'other' } }, ...others] });
  assert.ok(before.length > 0);
  for (const [index, { ingress, egress }] of after.entries()) {
    assert.equal(ingress, before[index]!.ingress);
    assert.equal(egress, before[index]!.egress);
  }
});

/** A table as the kernel has it, with what it refuses: what is not there, is there already, or is still referred to. */
class Model {
  readonly chains = new Map<string, { base: string; rules: string[] }>();
  readonly sets = new Map<string, Set<string>>();

  apply(line: string): void {
    const [verb = '', kind = '', , , name = ''] = line.split(' ');
    const rest = line.split(' ').slice(5).join(' ');
    const elements = (): string[] => rest.slice(2, -2).split(', ');
    if (kind === 'table') {
      this.chains.clear();
      this.sets.clear();
    } else if (kind === 'rule') {
      this.#checkTargets(rest);
      this.#chain(name).rules.push(rest);
    } else if (kind === 'element') {
      for (const element of elements()) this.#element(verb, name, element);
    } else if (kind === 'chain') {
      if (verb === 'flush') this.#chain(name).rules = [];
      else if (verb === 'add') {
        assert.ok(!this.chains.has(name), line);
        this.chains.set(name, { base: rest.slice(2, -2), rules: [] });
      } else {
        assert.equal(this.#chain(name).rules.length, 0, line);
        this.chains.delete(name);
        const rulesLeft = [...this.chains.values()].flatMap(({ rules }) => rules);
        const everything = [...rulesLeft, ...[...this.sets.values()].flatMap((set) => [...set])];
        assert.ok(!everything.some((text) => new RegExp(`(jump|goto) ${name}\\b`).test(text)), `${line}: in use`);
      }
    } else if (verb === 'add') {
      assert.ok(!this.sets.has(name), line);
      this.sets.set(name, new Set());
    } else if (verb === 'flush') this.#set(name).clear();
    else assert.ok(this.sets.delete(name), line);
  }

  #element(verb: string, name: string, element: string): void {
    const set = this.#set(name);
    if (verb === 'add') {
      this.#checkTargets(element);
      assert.ok(![...set].some((one) => one.split(' : ')[0] === element.split(' : ')[0]), `${name}: ${element} twice`);
      set.add(element);
      return;
    }
    const found = [...set].find((one) => one.split(' : ')[0] === element);
    assert.ok(found !== undefined && set.delete(found), `${name} has no ${element}`);
  }

  #checkTargets(text: string): void {
    for (const [, target = ''] of text.matchAll(/\b(?:jump|goto) (\w+)/g)) this.#chain(target);
    for (const [, set = ''] of text.matchAll(/@(\w+)/g)) if (set !== 'th') this.#set(set);
  }

  #chain(name: string): { base: string; rules: string[] } {
    const chain = this.chains.get(name);
    assert.ok(chain, `there is no chain ${name}`);
    return chain;
  }

  #set(name: string): Set<string> {
    const set = this.sets.get(name);
    assert.ok(set, `there is no set ${name}`);
    return set;
  }
}

test('change after change, what is written makes of each ruleset the next one, and nothing is taken that is in use', () => {
  for (const method of ['bridge-conntrack', 'br-netfilter'] as const) {
    const models = { bridge: new Model(), inet: new Model() };
    let before: Ruleset = emptyRuleset;
    for (const world of history(11, 60)) {
      const { ruleset } = outcomeOf(world, method);
      for (const line of renderChange('t', before, ruleset).split('\n').filter(Boolean))
        models[line.split(' ')[2] === 'bridge' ? 'bridge' : 'inet'].apply(line);
      for (const family of ['bridge', 'inet'] as const) {
        const { sets, maps, chains } = ruleset[family];
        const { chains: has, sets: hasSets } = models[family];
        assert.deepEqual(has, chains);
        const wanted = new Map([...sets, ...maps].map(([name, { elements }]) => [name, new Set(elements)]));
        assert.deepEqual(hasSets, wanted);
      }
      before = ruleset;
    }
  }
});
