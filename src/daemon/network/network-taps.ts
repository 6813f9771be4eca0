// The taps (and macvtaps) that guests' NICs are connected by: one for each NIC on a bridge, made when its guest starts and removed when
// it ends. A tap is found by its name, which follows from VM and NIC, and bears both in its mark.
import {
  changeLink,
  createTap,
  deleteLink,
  deriveLinkName,
  LinkError,
  listLinkNames,
  listMarkedLinks,
  type LinkMark,
} from '../../host/network/link.ts';
import { removeMacvtapDevice } from '../../host/network/macvtap.ts';

export interface TapPlace {
  vmId: string;
  /** Address of the NIC, which it has for life. */
  mac: string;
  /** The user that the guest's process runs as. */
  uid: number;
  mtu: number;
  /** Pairs of queues of the NIC. */
  queues: number;
}

export class NetworkTaps {
  readonly #instance: string;
  #guard: (place: Pick<TapPlace, 'vmId' | 'mac'>) => Promise<void> = async () => {};

  constructor(instance: string) {
    this.#instance = instance;
  }

  /** Name of the tap of a VM's NIC; always the same, also when another NIC is taken out before it. */
  nameOf(vmId: string, mac: string): string {
    return deriveLinkName('lt', this.#instance, vmId, mac);
  }

  /** Has something done before a tap is made: its port is to be filtered before the first frame. What it throws keeps the tap from being made. */
  beforeMaking(guard: (place: Pick<TapPlace, 'vmId' | 'mac'>) => Promise<void>): void {
    this.#guard = guard;
  }

  /** Makes a tap as a port of a bridge of Linux, or of none. False: something is in the way, a tap of this name or a bridge that is missing. */
  async make(place: TapPlace, bridge: string | null): Promise<boolean> {
    await this.#guard(place);
    try {
      await createTap({
        name: this.nameOf(place.vmId, place.mac),
        mark: this.markOf(place.vmId, place.mac),
        ownerUid: place.uid,
        isMultiQueue: place.queues > 1,
        mtu: place.mtu,
        ...(bridge === null ? {} : { master: bridge }),
      });
      return true;
    } catch (error) {
      if (error instanceof LinkError && (error.reason === 'exists' || error.reason === 'missing')) return false;
      throw error;
    }
  }

  /** What the tap of a VM's NIC is marked with. */
  markOf(vmId: string, mac: string): LinkMark {
    return { instance: this.#instance, kind: 'tap', id: `${vmId}:${mac.replaceAll(':', '')}` };
  }

  /** Removes the taps of a VM's NICs. */
  async remove(vmId: string, macs: Iterable<string>): Promise<void> {
    const names = [...macs].map((mac) => this.nameOf(vmId, mac));
    if (names.length === 0) return;
    const there = await listLinkNames();
    for (const name of names) {
      if (there.has(name)) await this.#delete(name);
    }
  }

  /** Removes the tap of one NIC, if it is there. */
  async removeOne(vmId: string, mac: string): Promise<void> {
    await this.#delete(this.nameOf(vmId, mac));
  }

  /** Removes the taps of all VMs but those that are wanted; answers with their names. */
  async removeStrays(isWanted: (vmId: string) => boolean): Promise<string[]> {
    const removed: string[] = [];
    for (const { name, vmId } of await this.#list())
      if (!isWanted(vmId) && (await this.#delete(name))) removed.push(name);
    return removed;
  }

  /** Makes the taps that lost their bridge ports of it again, those that `isOn` it. */
  async reattach(bridge: string, isOn: (name: string) => boolean): Promise<void> {
    for (const { name, master } of await this.#list())
      if (master === null && isOn(name)) await changeLink(name, { master: bridge, isUp: true }, this.#instance);
  }

  async #delete(name: string): Promise<boolean> {
    const isDeleted = await deleteLink(name, this.#instance);
    await removeMacvtapDevice(name);
    return isDeleted;
  }

  async #list(): Promise<{ name: string; vmId: string; master: string | null }[]> {
    const links = await listMarkedLinks(this.#instance, 'tap');
    return links.map(({ name, mark, master }) => ({ name, vmId: mark?.id.split(':')[0] ?? '', master }));
  }
}
