// An own identity for a guest that goes on from the memory or the disks of another: clock, host name, addresses, machine
// id, ssh host keys, random numbers. The guest does it to itself, asked through its agent, by guest/linux/take-identity.
//
// Promise: when `giveIdentity` has answered, nothing is left in the guest that would make it be taken for its original on
// a network. Until then its cables are to be pulled out.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { LodgeError } from '../../api/errors.ts';
import { type Guest } from '../../drivers/driver.ts';

export interface NewIdentity {
  hostname: string;
  /** Address of each NIC, as the guest has it now and as it is to be. */
  macs: readonly { before: string; now: string }[];
}

const script = readFileSync(new URL('../../../guest/linux/take-identity', import.meta.url), 'utf8');
const identityMs = 120_000;

/** Gives a running guest its identity. Throws `agent_unavailable` where no agent answers, `unsupported` where none could. */
export async function giveIdentity(
  guest: Guest,
  identity: NewIdentity,
  { signal, timeoutMs = identityMs }: { signal?: AbortSignal; timeoutMs?: number } = {},
): Promise<void> {
  const options = { timeoutMs, ...(signal ? { signal } : {}) };
  // A guest that was saved for a while has the time of then. One that can't be told keeps it, as after any long pause.
  await guest.agent.setTime(Date.now(), options).catch((error: unknown) => {
    if (!(error instanceof LodgeError && error.code === 'unsupported')) throw error;
  });
  const environment = [
    `LODGE_HOSTNAME=${identity.hostname}`,
    `LODGE_MACHINE_ID=${randomBytes(16).toString('hex')}`,
    `LODGE_SEED=${randomBytes(64).toString('hex')}`,
    `LODGE_MACS=${identity.macs.map(({ before, now }) => `${before}=${now}`).join(' ')}`,
  ];
  const request = { command: ['/bin/sh', '-s'], environment, input: Buffer.from(script), timeoutMs };
  let said = '';
  for await (const output of guest.agent.exec(request, options)) {
    if (output.type === 'stderr' || output.type === 'stdout') said += Buffer.from(output.data, 'base64').toString();
    if (output.type !== 'exit' || output.code === 0) continue;
    throw new LodgeError(
      'hypervisor_failed',
      `The guest could not be given its own identity: ${said.trim().slice(-500) || `its script ended with ${output.code ?? 'a signal'}`}.`,
    );
  }
}
