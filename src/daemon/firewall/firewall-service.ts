// Security groups, address sets and policies as objects: what is refused, what names what, and what counts for whom.
//
// Invariants:
// - A reference is made and an object is given up under the lock of references: nothing names what is not there.
// - A change is answered when the node enforces it; where that fails, the object is as it was before.
// - What a group's members and addresses are follows from VMs, networks and leases at the moment they are asked for.
import { invalidField, LodgeError } from '../../api/errors.ts';
import { type AddressSet } from '../../api/address-set.ts';
import { type FirewallPolicy } from '../../api/firewall-policy.ts';
import { type EffectiveNic, type Explanation, type FirewallStatus, type ProjectFirewall } from '../../api/firewall.ts';
import { type Network } from '../../api/network.ts';
import { type RuleProtocol, type SecurityGroup } from '../../api/security-group.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmNic } from '../../api/vm-spec.ts';
import { type Collection } from '../store/collection.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import {
  dnsNamesOf,
  effectiveNics,
  filterSets,
  protocolNumber,
  type FirewallWorld,
  type NicRules,
} from './effective-rules.ts';
import { explainConnection, findEndpoint, toEffectiveNic, type RuleCounts } from './explain.ts';
import { checkAddressSet, checkGroup, checkNetworkPolicy, checkNic, checkPolicy } from './firewall-check.ts';

/** The policy of a project, as an object of its own; there is one a project at most, called `default`. */
export interface ProjectPolicy {
  id: string;
  name: string;
  project: string;
  labels: Record<string, string>;
  spec: FirewallPolicy;
  status: Record<string, never>;
  revision: number;
  createdAt: string;
}

/** Brings the kernel in step with what was written. */
export interface FirewallEnforcement {
  /** Ends when what is written now is enforced. Rejects when it can't be. */
  apply(): Promise<void>;
  /** How it is enforced now. */
  status(): Pick<FirewallStatus, 'state' | 'reason' | 'method' | 'nicCount' | 'problems'>;
  /** What the rules of NICs have decided on since they were loaded, by the NIC’s link; without those that have none. */
  counters(links: readonly string[]): Promise<ReadonlyMap<string, RuleCounts>>;
}

export interface FirewallServiceParts {
  groups: Collection<SecurityGroup>;
  addressSets: Collection<AddressSet>;
  policies: Collection<ProjectPolicy>;
  networks: Collection<Network>;
  vms: Collection<Vm>;
  references: ReferenceLock;
  linkOf: FirewallWorld['linkOf'];
  /** Addresses that DHCP servers gave, by MAC address. */
  leases: () => ReadonlyMap<string, readonly string[]>;
  /** Addresses of DNS names. */
  names: () => ReadonlyMap<string, readonly string[]>;
  enforcement: () => FirewallEnforcement;
}

type Change<Spec> = { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: Spec };
type Named = { id: string; name: string; project: string };

const policyName = 'default';
/** What counts for a project that has no policy of its own. */
const noPolicy: FirewallPolicy = { securityGroups: [] };

export function initialSecurityGroupStatus(): SecurityGroup['status'] {
  return { members: [], addresses: [], usedBy: [] };
}

export class FirewallService {
  readonly #parts: FirewallServiceParts;

  constructor(parts: FirewallServiceParts) {
    this.#parts = parts;
  }

  /** Everything that has a say now. */
  world(): FirewallWorld {
    const { groups, addressSets, policies, networks, vms, linkOf, leases, names } = this.#parts;
    return {
      groups: [...groups.all()],
      addressSets: [...addressSets.all()],
      policies: new Map([...policies.all()].map(({ project, spec }) => [project, spec])),
      networks: [...networks.all()],
      vms: [...vms.all()],
      leases: leases(),
      names: names(),
      linkOf,
    };
  }

  requireGroup(project: string, reference: string): SecurityGroup {
    return this.#parts.groups.require(project, reference);
  }

  requireSet(project: string, reference: string): AddressSet {
    return this.#parts.addressSets.require(project, reference);
  }

  /** Groups as they are now, with their members. */
  viewGroups(groups: readonly SecurityGroup[]): SecurityGroup[] {
    const nics = effectiveNics(this.world());
    return groups.map((group) => this.#viewGroup(group, nics));
  }

  viewSet(set: AddressSet): AddressSet {
    return { ...set, status: { usedBy: this.#usersOfSet(set) } };
  }

  async createGroup(given: Pick<SecurityGroup, 'name' | 'project' | 'labels' | 'spec'>): Promise<SecurityGroup> {
    const { groups, references } = this.#parts;
    const created = await references.hold(async () => {
      checkGroup({ ...given, id: null }, given.spec, this.#around(given.project, null));
      return groups.create(given);
    });
    return this.viewGroups([created])[0]!;
  }

  async updateGroup(given: SecurityGroup, change: Change<SecurityGroup['spec']>): Promise<SecurityGroup> {
    const { groups, references } = this.#parts;
    const updated = await references.hold(async () => {
      checkGroup(given, change.spec, this.#around(given.project, given.id));
      return groups.update(given.id, change.revision, (draft) => {
        draft.spec = change.spec;
        if (change.labels) draft.labels = change.labels;
      });
    });
    await this.#enforce(() => this.#putBack(groups, given, updated));
    return this.viewGroups([updated])[0]!;
  }

  async deleteGroup(given: SecurityGroup): Promise<SecurityGroup> {
    const { groups, references } = this.#parts;
    return references.hold(async () => {
      requireUnused('Security group', given, this.#usersOfGroup(given));
      return groups.delete(given.id);
    });
  }

  async createSet(given: Pick<AddressSet, 'name' | 'project' | 'labels' | 'spec'>): Promise<AddressSet> {
    checkAddressSet(given.spec);
    return this.#parts.addressSets.create(given);
  }

  async updateSet(given: AddressSet, change: Change<AddressSet['spec']>): Promise<AddressSet> {
    const { addressSets } = this.#parts;
    checkAddressSet(change.spec);
    const updated = await addressSets.update(given.id, change.revision, (draft) => {
      draft.spec = change.spec;
      if (change.labels) draft.labels = change.labels;
    });
    await this.#enforce(() => this.#putBack(addressSets, given, updated));
    return this.viewSet(updated);
  }

  async deleteSet(given: AddressSet): Promise<AddressSet> {
    const { addressSets, references } = this.#parts;
    return references.hold(async () => {
      requireUnused('Address set', given, this.#usersOfSet(given));
      return addressSets.delete(given.id);
    });
  }

  policyOf(project: string): FirewallPolicy {
    return this.#parts.policies.byName(project, policyName)?.spec ?? noPolicy;
  }

  /** A project's policy, and how it is enforced. */
  project(project: string): ProjectFirewall {
    const stored = this.#parts.policies.byName(project, policyName);
    const unfiltered = effectiveNics(this.world()).flatMap(({ vm, index, unfiltered: reason }) =>
      vm.project === project && reason !== null ? [{ vm: vm.name, nic: index, reason }] : [],
    );
    return {
      project,
      revision: stored?.revision ?? 0,
      spec: stored?.spec ?? noPolicy,
      status: { ...this.#parts.enforcement().status(), unfiltered },
    };
  }

  async updateProject(
    project: string,
    change: { revision?: number | undefined; spec: FirewallPolicy },
  ): Promise<ProjectFirewall> {
    const { policies, references } = this.#parts;
    const before = policies.byName(project, policyName);
    await references.hold(async () => {
      checkPolicy(change.spec, 'spec', { project, groups: this.#groupsOf(project) });
      const stored = policies.byName(project, policyName);
      if (stored) {
        await policies.update(stored.id, change.revision, (draft) => {
          draft.spec = change.spec;
        });
        return;
      }
      if (change.revision !== undefined && change.revision !== 0)
        throw new LodgeError('revision_conflict', `Project ${project} has no policy, and this write was based on one.`);
      await policies.create({ name: policyName, project, labels: {}, spec: change.spec });
    });
    await this.#enforce(async () => {
      const now = policies.byName(project, policyName);
      if (now && before) await this.#putBack(policies, before, now);
      else if (now) await policies.delete(now.id);
    });
    return this.project(project);
  }

  /** Refuses what a NIC of a VM can't ask of the firewall. */
  checkNic(project: string, nic: VmNic, network: Network, field: string): void {
    checkNic(nic, network, field, {
      project,
      groups: this.#groupsOf(project),
      policy: this.#parts.policies.byName(project, policyName)?.spec,
    });
  }

  /** Refuses what a network can't give to its NICs. */
  checkNetwork(project: string, spec: Network['spec']): void {
    checkNetworkPolicy({ spec });
    if (spec.firewall) checkPolicy(spec.firewall, 'spec.firewall', { project, groups: this.#groupsOf(project) });
  }

  /** What counts for each NIC of a VM, and, where that is asked for, what each rule has decided on. */
  async rulesOf(vm: Vm, hasCounters: boolean): Promise<EffectiveNic[]> {
    const nics = effectiveNics(this.world()).filter((nic) => nic.vm.id === vm.id);
    if (!hasCounters) return nics.map((nic) => toEffectiveNic(nic, null));
    const links = nics.flatMap(({ link }) => (link === null ? [] : [link]));
    const counters = await this.#parts.enforcement().counters(links);
    return nics.map((nic) => toEffectiveNic(nic, counters.get(nic.link ?? '') ?? null));
  }

  /** What becomes of a connection, and why. */
  explain(asked: {
    project: string;
    from: string;
    to: string;
    protocol: string;
    port?: number | undefined;
    icmpType?: number | undefined;
  }): Explanation {
    const { project, protocol: protocolName, port = null } = asked;
    const protocol = numberOf(protocolName);
    const isIcmp = protocol === 1 || protocol === 58;
    if (port !== null && protocol !== 6 && protocol !== 17 && protocol !== 132)
      throw invalidField('query.port', `goes with protocol tcp, udp or sctp, not ${protocolName}`, port);
    if (asked.icmpType !== undefined && !isIcmp)
      throw invalidField('query.icmpType', `goes with protocol icmp or icmpv6, not ${protocolName}`, asked.icmpType);
    const icmpType = isIcmp ? (asked.icmpType ?? (protocol === 1 ? 8 : 128)) : null;
    const world = this.world();
    const nics = effectiveNics(world);
    const gateways = new Set(
      world.networks.flatMap(({ status }) => [status.gateway, status.ipv6Gateway].filter((one) => one !== null)),
    );
    const from = findEndpoint(asked.from, asked.to, project, nics, gateways);
    const to = findEndpoint(asked.to, asked.from, project, nics, gateways);
    const keys = new Set<string>();
    for (const end of [from, to])
      if (end.kind === 'nic')
        for (const { peers } of [...end.nic.ingress.rules, ...end.nic.egress.rules])
          for (const peer of peers ?? []) if (peer.kind === 'set') keys.add(peer.set);
    const sets = new Map(filterSets(world, nics, keys).map((set) => [set.key, set]));
    return explainConnection(from, to, { protocolName, protocol, port, icmpType }, sets);
  }

  async #enforce(putBack: () => Promise<void>): Promise<void> {
    try {
      await this.#parts.enforcement().apply();
    } catch (error) {
      await putBack();
      throw error;
    }
  }

  /** Gives an object its spec of before, unless somebody has changed it once more. */
  async #putBack<Item extends ProjectPolicy | SecurityGroup | AddressSet>(
    collection: Collection<Item>,
    before: Item,
    failed: Item,
  ): Promise<void> {
    await collection.update(failed.id, failed.revision, (draft) => {
      draft.spec = before.spec;
      draft.labels = before.labels;
    });
  }

  #around(project: string, exceptId: string | null): Parameters<typeof checkGroup>[2] {
    const { groups, addressSets, networks } = this.#parts;
    const others = [...groups.all()].filter(({ id }) => id !== exceptId);
    return {
      groups: others.filter((group) => group.project === project),
      addressSets: [...addressSets.all()].filter((set) => set.project === project),
      networks: [...networks.all()],
      isHostAllowed: this.policyOf(project).isHostAllowed ?? true,
      otherNames: dnsNamesOf(others),
    };
  }

  #groupsOf(project: string): SecurityGroup[] {
    return [...this.#parts.groups.all()].filter((group) => group.project === project);
  }

  #viewGroup(group: SecurityGroup, nics: readonly NicRules[]): SecurityGroup {
    const own = nics.filter(({ groups }) => groups.some((one) => one.group.id === group.id));
    return {
      ...group,
      status: {
        members: own.map(({ vm, index, mac }) => ({ vm: vm.name, nic: index, mac })),
        addresses: [...new Set(own.flatMap(({ addresses }) => addresses))],
        usedBy: this.#usersOfGroup(group),
      },
    };
  }

  #usersOfGroup(group: SecurityGroup): string[] {
    const { vms, networks, policies } = this.#parts;
    const isNamed = (names: readonly string[] | undefined): boolean => names?.some(isNameOf(group)) ?? false;
    const users: string[] = [];
    for (const { project, name, spec, status } of vms.all()) {
      const nics = [...spec.nics, ...(status.startedSpec?.nics ?? [])];
      if (project === group.project && nics.some(({ securityGroups }) => isNamed(securityGroups)))
        users.push(`VM ${name}`);
    }
    for (const { project, name, spec } of networks.all())
      if (project === group.project && isNamed(spec.firewall?.securityGroups)) users.push(`network ${name}`);
    for (const { project, spec } of policies.all())
      if (project === group.project && isNamed(spec.securityGroups)) users.push('the policy of the project');
    for (const other of this.#groupsOf(group.project)) {
      if (other.id === group.id) continue;
      const peers = other.spec.rules.flatMap((rule) => rule.peers);
      const isPeer = peers.some(({ securityGroup }) => securityGroup !== undefined && isNameOf(group)(securityGroup));
      if (isPeer || isNamed(other.spec.includes)) users.push(`security group ${other.name}`);
    }
    return users.toSorted();
  }

  #usersOfSet(set: AddressSet): string[] {
    return this.#groupsOf(set.project)
      .filter(({ spec }) =>
        spec.rules.some(({ peers }) =>
          peers.some(({ addressSet }) => addressSet !== undefined && isNameOf(set)(addressSet)),
        ),
      )
      .map(({ name }) => `security group ${name}`)
      .toSorted();
  }
}

function isNameOf({ id, name }: Named): (reference: string) => boolean {
  return (reference) => reference === name || reference === id;
}

function requireUnused(label: string, { name }: Named, users: readonly string[]): void {
  if (users.length === 0) return;
  const shown = users.slice(0, 8).join(', ');
  const more = users.length > 8 ? ` and ${users.length - 8} more` : '';
  throw new LodgeError('in_use', `${label} ${name} is named by ${shown}${more}.`, {
    hint: 'Take it out of these first.',
  });
}

function numberOf(protocol: string): number {
  const number = /^\d+$/.test(protocol) ? Number(protocol) : protocolNumber(protocol as RuleProtocol);
  if (number === null || number > 255)
    throw invalidField('query.protocol', 'is tcp, udp, icmp, icmpv6, sctp, or a number from 0 to 255', protocol);
  return number;
}
