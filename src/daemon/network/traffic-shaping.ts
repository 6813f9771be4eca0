// Rates of NICs and ceilings of networks as objects ask for them, made so on this node and kept so.
//
// Invariants:
// - A NIC with rates is shaped before its guest runs, by `shapeNew`; everything else is done by a pass over all of them, one
//   at a time, which begins from what the kernel has.
// - What a kernel can't do keeps nobody from starting: it is told in the status, with what is done instead.
import { isDeepStrictEqual } from 'node:util';
import { type Network } from '../../api/network.ts';
import { type NetworkLimitStatus, type NicLimitStatus, type NicLimits, type NicRate } from '../../api/nic-limits.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmNic } from '../../api/vm-spec.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { ensurePacketRates, type PacketRate } from '../../host/network/packet-rates.ts';
import {
  ensureShapes,
  shapeNewLink,
  type Ceiling,
  type LinkShape,
  type Shape,
  type ShapeOutcome,
} from '../../host/network/shaping.ts';
import { Passes } from '../../lib/passes.ts';
import { type EventService } from '../event/event-service.ts';
import { type Log } from '../store/informer.ts';
import { describeHostProblem } from './host-problem.ts';
import { requireLimits } from './limit-refusals.ts';
import { isRouterOf } from './router-networks.ts';

interface Followed<Item> {
  all: () => Iterable<Item>;
  get: (id: string) => Item | null;
  onChange: (listener: (change: { object: Item; previous: Item | null }) => void) => () => void;
}

export interface TrafficShapingParts {
  instance: string;
  networks: Followed<Network>;
  vms: Followed<Vm>;
  /** Addresses of a VM's NICs, those too that it gets at its next start. */
  macsOf: (vm: Vm) => string[];
  setVm: (id: string, limits: NicLimitStatus[]) => Promise<unknown>;
  setNetwork: (id: string, limits: NetworkLimitStatus | null) => Promise<unknown>;
  events: EventService;
  log: Log;
  /** How often all of it is looked at, milliseconds. */
  checkIntervalMs: number;
}

/** A NIC of a guest that is up, with rates. */
interface LimitedNic {
  vm: Vm;
  mac: string;
  link: string;
  limits: NicLimits;
  network: Network;
}

export class TrafficShaping {
  readonly #parts: TrafficShapingParts;
  readonly #passes = new Passes(() => this.#pass());
  readonly #stopFollowing: (() => void)[] = [];
  #timer: NodeJS.Timeout | null = null;
  /** What was asked for at the last look, whether it was made, and when that was. */
  #last = { text: '', atMs: -Infinity };

  constructor(parts: TrafficShapingParts) {
    this.#parts = parts;
  }

  async start(): Promise<void> {
    const { vms, networks, checkIntervalMs } = this.#parts;
    this.#stopFollowing.push(
      vms.onChange(({ object, previous }) => {
        if (object.spec.nics.length > 0 || previous) this.#passes.plan();
      }),
      networks.onChange(() => this.#passes.plan()),
    );
    await this.settle();
    if (!this.#passes.isClosed) this.#timer = setInterval(() => this.#passes.plan(), checkIntervalMs).unref();
  }

  async close(): Promise<void> {
    const closed = this.#passes.close();
    if (this.#timer) clearInterval(this.#timer);
    for (const stop of this.#stopFollowing) stop();
    await closed;
  }

  /** Refuses rates that can't be. */
  checkReferences(vm: Pick<Vm, 'spec'> & { id: string | null }, networkAt: (index: number) => Network): void {
    for (const [index, nic] of vm.spec.nics.entries())
      if (nic.limits)
        requireLimits(networkAt(index), nic, `spec.nics.${index}`, { vm: { id: vm.id }, vms: this.#parts.vms.all() });
  }

  /** Shapes a NIC that has just been connected; what fails is tried again, and told, by the next pass. */
  async shapeNew(network: Network, nic: Pick<VmNic, 'limits'>, attachment: NicAttachment): Promise<void> {
    if (!nic.limits || attachment.kind !== 'tap') return;
    const shape = shapeOf(network, attachment.hostInterface, nic.limits);
    if (!shape.egress && !shape.ingress) return;
    await this.#passes.run(async () => {
      await shapeNewLink(this.#parts.instance, shape).catch((error: unknown) =>
        this.#parts.log.warn({ err: error, link: shape.link }, 'a NIC could not be limited'),
      );
    });
  }

  /** Resolves when what is asked for now is made. Doesn't reject: what failed stands in status. */
  settle(): Promise<void> {
    return this.#passes.settle();
  }

  async #pass(): Promise<void> {
    const nics = this.#limitedNics();
    const ceilings = this.#ceilings();
    const shapes = [
      ...nics
        .map(({ network, link, limits }) => shapeOf(network, link, limits))
        .filter(({ egress, ingress }) => egress ?? ingress),
      ...ceilings.map(({ shape }) => shape),
    ];
    const rates = nics.map(packetRateOf).filter(({ sent, received }) => sent !== null || received !== null);
    const text = JSON.stringify([shapes, rates]);
    const isDue = performance.now() - this.#last.atMs >= this.#parts.checkIntervalMs - 50;
    const isNothing = shapes.length + rates.length === 0;
    if (text === this.#last.text && (!isDue || isNothing)) return;
    const isRepair = text === this.#last.text;
    try {
      const outcomes = await ensureShapes(this.#parts.instance, shapes, this.#links());
      const packets = await this.#makeRates(rates);
      if (isRepair)
        await this.#tellRepaired(
          [...packets.changed, ...[...outcomes.values()].flatMap(({ changed }) => [...changed])],
          nics,
        );
      await this.#showVms(nics, outcomes, packets.failure);
      await this.#showNetworks(ceilings, outcomes);
      const isWhole = packets.failure === null && [...outcomes.values()].every(({ failure }) => failure === null);
      this.#last = { text: isWhole ? text : '', atMs: performance.now() };
    } catch (error) {
      // Where nothing is asked for, there is nothing to try again.
      this.#last = { text: isNothing ? text : '', atMs: performance.now() };
      this.#parts.log.warn({ err: error }, 'rates of NICs could not be set');
    }
  }

  async #makeRates(rates: PacketRate[]): Promise<{ changed: string[]; failure: string | null }> {
    try {
      return { changed: await ensurePacketRates(this.#parts.instance, rates), failure: null };
    } catch (error) {
      return { changed: [], failure: describeHostProblem(error, 'spec.nics').message };
    }
  }

  async #tellRepaired(changes: string[], nics: readonly LimitedNic[]): Promise<void> {
    const [first] = nics;
    if (changes.length === 0 || !first) return;
    const { id, name, project } = first.network;
    await this.#parts.events.record({
      type: 'network.repaired',
      severity: 'warning',
      subject: { kind: 'network', id, name, project },
      message: `Rates of NICs were not as they should be and have been repaired: ${changes.join('; ')}.`,
      details: { changes },
    });
  }

  #limitedNics(): LimitedNic[] {
    const found: LimitedNic[] = [];
    for (const vm of this.#parts.vms.all()) {
      if (!isUp(vm) || !vm.spec.nics.some(({ limits }) => limits)) continue;
      const macs = this.#parts.macsOf(vm);
      for (const { mac, hostInterface, network: reference } of vm.status.nics) {
        const limits = vm.spec.nics[macs.indexOf(mac)]?.limits;
        const network = this.#networkOf(vm, reference);
        if (limits && hostInterface !== null && network) found.push({ vm, mac, link: hostInterface, limits, network });
      }
    }
    return found.sort((one, other) => (one.link < other.link ? -1 : 1));
  }

  /** Networks with ceilings, whose NICs are classes of them, those too of VMs that are not up: so starts change nothing. */
  #ceilings(): { network: Network; shape: LinkShape }[] {
    return [...this.#parts.networks.all()].flatMap((network) => {
      const { inboundBytesPerSecond: inbound, outboundBytesPerSecond: outbound } = network.spec.limits ?? {};
      const { bridge, state } = network.status;
      const isThere = bridge !== null && isRouterOf(network) && (state === 'ready' || state === 'degraded');
      if (!isThere || (inbound === undefined && outbound === undefined)) return [];
      const nics = [...this.#parts.vms.all()]
        .filter(({ project }) => project === network.project)
        .flatMap((vm) => {
          const macs = this.#parts.macsOf(vm);
          return vm.spec.nics.flatMap((nic, index) =>
            nic.network === network.name || nic.network === network.id
              ? [{ mac: macs[index] ?? '', limits: nic.limits }]
              : [],
          );
        })
        .filter(({ mac }) => mac !== '')
        .sort((one, other) => (one.mac < other.mac ? -1 : 1));
      const ceilingOf = (bytesPerSecond: number | undefined, direction: 'inbound' | 'outbound'): Shape | null => {
        if (bytesPerSecond === undefined) return null;
        const members: Ceiling['members'] = nics.map(({ mac, limits }) => ({
          mac,
          guaranteedBytesPerSecond: limits?.[direction]?.guaranteedBytesPerSecond ?? 0,
          priority: limits?.priority ?? 'normal',
        }));
        return { kind: 'ceiling', ceiling: { bytesPerSecond, members } };
      };
      return [
        {
          network,
          shape: { link: bridge, egress: ceilingOf(inbound, 'inbound'), ingress: ceilingOf(outbound, 'outbound') },
        },
      ];
    });
  }

  /** All links that could have a rate: those that have one and are to have none any more are among them. */
  #links(): string[] {
    const taps = [...this.#parts.vms.all()].flatMap(({ status }) =>
      status.nics.flatMap(({ hostInterface }) => hostInterface ?? []),
    );
    const bridges = [...this.#parts.networks.all()].flatMap((network) =>
      isRouterOf(network) && network.status.bridge ? [network.status.bridge] : [],
    );
    return [...new Set([...taps, ...bridges])];
  }

  #networkOf({ project }: Vm, reference: string): Network | null {
    for (const network of this.#parts.networks.all())
      if (network.project === project && (network.id === reference || network.name === reference)) return network;
    return null;
  }

  async #showVms(
    nics: readonly LimitedNic[],
    outcomes: ReadonlyMap<string, ShapeOutcome>,
    packetFailure: string | null,
  ): Promise<void> {
    for (const vm of [...this.#parts.vms.all()]) {
      const limits = nics
        .filter((nic) => nic.vm.id === vm.id)
        .map((nic): NicLimitStatus => {
          const failures =
            packetRateOf(nic).sent !== null || packetRateOf(nic).received !== null ? [packetFailure] : [];
          const unheld = unheldGuarantees(nic);
          return {
            mac: nic.mac,
            ...statusOf(outcomes.get(nic.link), [...failures.filter((one) => one !== null)], unheld),
          };
        });
      if (isDeepStrictEqual(limits, vm.status.nicLimits) || !this.#parts.vms.get(vm.id)) continue;
      await this.#parts
        .setVm(vm.id, limits)
        .catch((error: unknown) => this.#parts.log.warn({ err: error, vm: vm.name }, 'rates could not be shown'));
    }
  }

  async #showNetworks(
    ceilings: readonly { network: Network; shape: LinkShape }[],
    outcomes: ReadonlyMap<string, ShapeOutcome>,
  ): Promise<void> {
    for (const network of [...this.#parts.networks.all()]) {
      const mine = ceilings.find((one) => one.network.id === network.id);
      const limits = mine ? statusOf(outcomes.get(mine.shape.link), [], []) : null;
      if (isDeepStrictEqual(limits, network.status.limits) || !this.#parts.networks.get(network.id)) continue;
      await this.#parts
        .setNetwork(network.id, limits)
        .catch((error: unknown) =>
          this.#parts.log.warn({ err: error, network: network.name }, 'ceilings could not be shown'),
        );
    }
  }
}

function isUp({ status }: Vm): boolean {
  return status.state === 'running' || status.state === 'paused';
}

function statusOf(outcome: ShapeOutcome | undefined, failures: string[], problems: string[]): NetworkLimitStatus {
  const failed = [...(outcome?.failure ? [outcome.failure] : []), ...failures];
  const all = [...failed, ...(outcome?.problems ?? []), ...problems];
  return { state: failed.length > 0 ? 'failed' : all.length > 0 ? 'partial' : 'active', problems: all };
}

/** What the network has no ceiling for, since that was taken away. */
function unheldGuarantees({ limits, network }: LimitedNic): string[] {
  const { inboundBytesPerSecond, outboundBytesPerSecond } = network.spec.limits ?? {};
  const has = { inbound: inboundBytesPerSecond, outbound: outboundBytesPerSecond };
  return (['inbound', 'outbound'] as const).flatMap((direction) =>
    limits[direction]?.guaranteedBytesPerSecond !== undefined && has[direction] === undefined
      ? [`Network ${network.name} has no ceiling any more, and so nothing ${direction} is guaranteed.`]
      : [],
  );
}

/** The rates of a NIC as its link sees them: a tap sends what its guest receives; a macvtap is the guest's own side. */
function shapeOf({ spec }: Network, link: string, { inbound, outbound }: NicLimits): LinkShape {
  const [toGuest, fromGuest] = [rateShape(inbound), rateShape(outbound)];
  return spec.mode === 'macvtap'
    ? { link, egress: fromGuest, ingress: toGuest }
    : { link, egress: toGuest, ingress: fromGuest };
}

function rateShape(rate: NicRate | undefined): Shape | null {
  if (rate?.bytesPerSecond === undefined) return null;
  const { bytesPerSecond, burstBytes, peakBytesPerSecond } = rate;
  return { kind: 'rate', rate: { bytesPerSecond, burstBytes, peakBytesPerSecond } };
}

function packetRateOf({ link, limits }: LimitedNic): PacketRate {
  return { link, sent: limits.inbound?.packetsPerSecond ?? null, received: limits.outbound?.packetsPerSecond ?? null };
}
