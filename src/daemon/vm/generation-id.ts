// The VM generation ID: a random number that a guest sees, and that changes when the guest goes on from a state that
// something else goes on from too, or went on from before: a clone, a fork, a snapshot that is reverted to. Guests that
// see it change make new random seeds and identities of their own. It stays over restarts and suspension.
// Microsoft, “Virtual Machine Generation ID”, 2012.
import { randomUUID } from 'node:crypto';
import { type VmRecords } from './vm-records.ts';

/** One that no VM has, for an object that is only being made. */
export function newGenerationId(): string {
  return randomUUID();
}

/**
 * Gives a VM a new generation ID, which its guest sees from its next start, restore or fork on: a guest that is restored
 * from memory is told by an ACPI notification. For whoever makes a VM from another's state, or sets one back.
 */
async function renewGenerationId(records: VmRecords, id: string): Promise<string> {
  const generationId = newGenerationId();
  await records.patch(id, { generationId });
  return generationId;
}

/** Sees to it that a VM has one. */
export async function provideGenerationId(records: VmRecords, id: string): Promise<string> {
  return records.byId(id).status.generationId ?? renewGenerationId(records, id);
}
