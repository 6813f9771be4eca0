// The unprivileged users that hypervisor processes run as: one a VM, so that a process that was taken over can't touch
// another's. They have numbers only, no names, from a range that no distribution gives out.
import { LodgeError } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';

/** systemd's table of users leaves 1879048192 to 2147483647 unused: https://systemd.io/UIDS-GIDS/ */
export const defaultUidBase = 1_900_000_000;
const poolSize = 65_536;

export class UidPool {
  readonly #base: number;
  #next: number;
  /** Given out, perhaps not yet to be seen in a VM's status. */
  readonly #recent = new Set<number>();

  constructor(base = defaultUidBase) {
    this.#base = base;
    this.#next = base;
  }

  /** A user that none of these VMs has. */
  take(vms: Iterable<Vm>): number {
    const used = new Set<number | null>(this.#recent);
    for (const vm of vms) used.add(vm.status.uid);
    for (let tries = 0; tries < poolSize; tries++) {
      const uid = this.#next;
      this.#next = uid + 1 < this.#base + poolSize ? uid + 1 : this.#base;
      if (used.has(uid)) continue;
      this.#recent.add(uid);
      if (this.#recent.size > 1000) this.#recent.delete(this.#recent.values().next().value!);
      return uid;
    }
    throw new LodgeError('insufficient_resources', `All ${poolSize} users for VMs are taken.`);
  }
}
