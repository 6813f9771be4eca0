// Objects refer to each other: a VM to networks, images and volumes, a volume to an image. Making a reference to an
// object and giving that object up exclude each other: whoever does either looks and writes under this one lock, so that
// no VM is made with a network that is being deleted, and nothing is deleted that a VM has just been made with.
//
// Invariant: under the lock only the store is read and written. Work on the host comes before or after.
import { SerialQueues } from '../../lib/serial-queues.ts';

const only = 'references';

export class ReferenceLock {
  readonly #queue = new SerialQueues();

  /** Runs `work` while no other reference is made or given up. Not to be nested. */
  hold<T>(work: () => Promise<T>): Promise<T> {
    return this.#queue.run(only, work);
  }
}
