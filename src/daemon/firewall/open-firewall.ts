// Puts the firewall together, over the objects, networks and links of the daemon.
import { isDeepStrictEqual } from 'node:util';
import { type Handlers } from '../../api/contract.ts';
import { type Vm } from '../../api/vm.ts';
import { type Subject } from '../../api/object.ts';
import { objectSource, type ChangeSource } from '../event/change-stream.ts';
import { type EventService } from '../event/event-service.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { type NetworkModes } from '../network/network-modes.ts';
import { type Objects } from '../objects.ts';
import { type Log } from '../store/informer.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { DnsNames } from './dns-names.ts';
import { dnsNamesOf } from './effective-rules.ts';
import { FirewallEnforcer } from './firewall-enforcer.ts';
import { addressSetHandlers, firewallHandlers, securityGroupHandlers } from './firewall-handlers.ts';
import { FirewallService } from './firewall-service.ts';

export interface OpenFirewallParts {
  objects: Pick<
    Objects,
    'securityGroupObjects' | 'addressSetObjects' | 'policyObjects' | 'networkObjects' | 'vmObjects'
  >;
  instance: string;
  modes: NetworkModes;
  references: ReferenceLock;
  events: EventService;
  log: Log;
  node: () => Subject;
  checkIntervalMs: number;
}

/** The firewall: its objects, and what enforces them. */
export class Firewall {
  readonly service: FirewallService;
  readonly #enforcer: FirewallEnforcer;
  readonly #parts: OpenFirewallParts;
  #leases: ReadonlyMap<string, readonly string[]> = new Map();
  readonly #names: DnsNames;
  #unfollow: (() => void)[] = [];

  constructor(parts: OpenFirewallParts) {
    const { objects, instance, modes, references, events, log, node, checkIntervalMs } = parts;
    this.#parts = parts;
    this.service = new FirewallService({
      groups: objects.securityGroupObjects,
      addressSets: objects.addressSetObjects,
      policies: objects.policyObjects,
      networks: objects.networkObjects,
      vms: objects.vmObjects,
      references,
      linkOf: ({ spec }, vmId, mac) => modes.of(spec.mode).hostInterface(vmId, mac),
      leases: () => this.#leases,
      names: () => this.#names.addresses,
      enforcement: () => this.#enforcer,
    });
    this.#enforcer = new FirewallEnforcer({
      instance,
      world: () => this.service.world(),
      events,
      log,
      subject: node,
      checkIntervalMs,
    });
    this.#names = new DnsNames({
      wanted: () => dnsNamesOf([...objects.securityGroupObjects.all()]),
      onChange: () => this.#enforcer.plan(),
    });
    modes.taps.beforeMaking(({ vmId, mac }) => this.#enforcer.guard(vmId, mac));
  }

  /** Enforces what there is, and from then on what changes. */
  async start(hasRebooted: boolean): Promise<void> {
    const { securityGroupObjects, addressSetObjects, policyObjects, networkObjects, vmObjects } = this.#parts.objects;
    const plan = (): void => this.#enforcer.plan();
    this.#unfollow = [
      vmObjects.onChange(({ object, previous }) => {
        if (!previous || !isDeepStrictEqual(partOf(object), partOf(previous))) plan();
      }),
      networkObjects.onChange(({ object, previous }) => {
        const { bridge, ipv4Cidr, ipv6Cidr, gateway, ipv6Gateway } = object.status;
        const now = [object.spec, bridge, ipv4Cidr, ipv6Cidr, gateway, ipv6Gateway];
        const before = previous?.status;
        const then = [
          previous?.spec,
          before?.bridge,
          before?.ipv4Cidr,
          before?.ipv6Cidr,
          before?.gateway,
          before?.ipv6Gateway,
        ];
        if (!isDeepStrictEqual(now, then)) plan();
      }),
      ...[securityGroupObjects, addressSetObjects, policyObjects].map((each) =>
        each.onChange(({ type, object, previous }) => {
          if (type === 'updated' && object.revision === previous?.revision) return;
          this.#names.look();
          plan();
        }),
      ),
    ];
    this.#names.start();
    await this.#enforcer.start(hasRebooted);
  }

  handlers(): Pick<Handlers<RequestContext, ByteSource>, 'securityGroup' | 'addressSet' | 'firewall'> {
    const { securityGroupObjects, addressSetObjects, vmObjects } = this.#parts.objects;
    return {
      securityGroup: securityGroupHandlers(this.service, securityGroupObjects),
      addressSet: addressSetHandlers(this.service, addressSetObjects),
      firewall: firewallHandlers(this.service, vmObjects),
    };
  }

  changeSources(): ChangeSource[] {
    const { securityGroupObjects, addressSetObjects } = this.#parts.objects;
    return [
      objectSource('security-group', securityGroupObjects, (group) => this.service.viewGroups([group])[0] ?? group),
      objectSource('address-set', addressSetObjects, (set) => this.service.viewSet(set)),
    ];
  }

  async close(): Promise<void> {
    for (const unfollow of this.#unfollow) unfollow();
    this.#names.close();
    await this.#enforcer.close();
  }

  /** Told of the addresses that the networks’ DHCP servers gave, by MAC address. */
  setLeases(leases: ReadonlyMap<string, readonly string[]>): void {
    if (isDeepStrictEqual(leases, this.#leases)) return;
    this.#leases = leases;
    this.#enforcer.plan();
  }
}

/** What of a VM has a say in who is filtered how. */
function partOf({ name, labels, spec, status }: Vm): unknown {
  return [name, labels, spec.nics, status.startedSpec?.nics, status.nics.map(({ mac, network }) => [mac, network])];
}
