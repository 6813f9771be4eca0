// What goes through the NICs of guests, counted and captured on their links on this node.
//
// Invariants: a capture begins before its answer does, so that what keeps it from beginning is an error and no empty file; a VM
// has at most `maxPerVm` at once, and one that has ended, whichever way, counts no more.
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type NicCounters } from '../../api/vm-network.ts';
import { type Vm } from '../../api/vm.ts';
import { captureLink, CaptureError, CaptureFilterError, checkFilter } from '../../host/network/capture.ts';
import { readLinkStatistics } from '../../host/network/tap-usage.ts';

export interface CaptureRequest {
  nic: number;
  filter: string;
  packets?: number | undefined;
  timeS: number;
  maxBytes: number;
  snapLength: number;
}

const maxPerVm = 2;

export class NicTraffic {
  /** Whether a network's links are the guest's own side, as macvtaps are, and not the host's end of it. */
  readonly #isGuestSide: (vm: Vm, network: string) => boolean;
  readonly #captures = new Map<string, number>();

  constructor(isGuestSide: (vm: Vm, network: string) => boolean) {
    this.#isGuestSide = isGuestSide;
  }

  counters(vm: Vm): NicCounters[] {
    const links = readLinkStatistics();
    return vm.status.nics.flatMap(({ mac, network, hostInterface }, index) => {
      const link = hostInterface === null ? undefined : links.get(hostInterface);
      if (!link || hostInterface === null) return [];
      // What the host's end of a tap sends is what its guest receives.
      const [to, from] = this.#isGuestSide(vm, network) ? [link.received, link.sent] : [link.sent, link.received];
      return [
        {
          index,
          mac,
          network,
          hostInterface,
          receivedBytes: to.bytes,
          receivedPackets: to.packets,
          receivedDropped: to.dropped,
          receivedErrors: to.errors,
          sentBytes: from.bytes,
          sentPackets: from.packets,
          sentDropped: from.dropped,
          sentErrors: from.errors,
        },
      ];
    });
  }

  /** Begins a capture. Throws `invalid_request` for the filter, `unsupported` for a NIC without a link. */
  async capture(vm: Vm, request: CaptureRequest, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const { nic: index, filter, packets, timeS, maxBytes, snapLength } = request;
    const nic = vm.status.nics[index];
    if (!nic)
      throw invalidField('nic', `VM ${vm.name} has ${vm.status.nics.length} NICs; their numbers begin with 0`, index);
    if (vm.status.state !== 'running' && vm.status.state !== 'paused')
      throw new LodgeError('wrong_state', `VM ${vm.name} is ${vm.status.state}: nothing goes through its NICs.`, {
        hint: `Start it: lodge vm start ${vm.name}`,
      });
    if (nic.hostInterface === null)
      throw new LodgeError(
        'unsupported',
        `NIC ${index} of VM ${vm.name} is on network ${nic.network} inside QEMU, and has no link that packets could be captured on.`,
        { hint: 'Put it on a network of another mode, or capture inside the guest.' },
      );
    const open = this.#captures.get(vm.id) ?? 0;
    if (open >= maxPerVm)
      throw new LodgeError(
        'rate_limited',
        `VM ${vm.name} has ${maxPerVm} captures at once, and that many are under way.`,
      );
    this.#captures.set(vm.id, open + 1);
    const leave = (): void => {
      const left = (this.#captures.get(vm.id) ?? 1) - 1;
      if (left === 0) this.#captures.delete(vm.id);
      else this.#captures.set(vm.id, left);
    };
    try {
      await checkFilter(filter);
      const stream = captureLink({
        link: nic.hostInterface,
        filter,
        snapLength,
        maxPackets: packets ?? null,
        maxBytes,
        maxMs: timeS * 1000,
        signal,
      });
      const first = await stream.next();
      return rest(first.done ? null : first.value, stream, leave);
    } catch (error) {
      leave();
      if (error instanceof CaptureFilterError) throw invalidField('filter', error.message, filter);
      if (error instanceof CaptureError)
        throw new LodgeError('host_failed', `${error.message}.`, {
          hint: 'Install tcpdump on the node; see its log for more.',
          cause: error,
        });
      throw error;
    }
  }
}

async function* rest(
  first: Uint8Array | null,
  stream: AsyncGenerator<Uint8Array, void, undefined>,
  leave: () => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    if (first) yield first;
    yield* stream;
  } finally {
    await stream.return();
    leave();
  }
}
