// Sealing: a guest takes out of itself what no two systems should have in common (machine id, ssh host keys, cloud-init's
// state, logs, histories …), asked through its agent, by guest/linux/seal. It is good for nothing but a template then.
import { readFileSync } from 'node:fs';
import { LodgeError } from '../../api/errors.ts';
import { type Guest } from '../../drivers/driver.ts';

const script = readFileSync(new URL('../../../guest/linux/seal', import.meta.url), 'utf8');

/** The longest that a guest may take, milliseconds: it waits for its cloud-init first. */
export const sealTimeoutMs = 600_000;
const mostKinds = 50;

/** Seals a running guest. Answers with what was found and taken out. `hasFirstBoot`: its copies run cloud-init. */
export async function sealGuest(
  guest: Guest,
  { hasFirstBoot, signal }: { hasFirstBoot: boolean; signal: AbortSignal },
): Promise<string[]> {
  const request = {
    command: ['/bin/sh', '-s'],
    environment: [`LODGE_HAS_FIRST_BOOT=${hasFirstBoot ? 1 : 0}`],
    input: Buffer.from(script),
    timeoutMs: sealTimeoutMs,
  };
  const said = { stdout: '', stderr: '' };
  for await (const output of guest.agent.exec(request, { timeoutMs: sealTimeoutMs, signal })) {
    if (output.type === 'stdout' || output.type === 'stderr')
      said[output.type] += Buffer.from(output.data, 'base64').toString();
    if (output.type !== 'exit' || output.code === 0) continue;
    const why = said.stderr.trim().slice(-500) || `its script ended with ${output.code ?? 'a signal'}`;
    throw new LodgeError('hypervisor_failed', `The guest could not be sealed: ${why}.`);
  }
  return kindsIn(said.stdout);
}

/** The words that the script prints; a guest may print anything. */
export function kindsIn(text: string): string[] {
  const words = text.split('\n').filter((line) => /^[a-z][a-z-]{2,40}$/.test(line));
  return [...new Set(words)].slice(0, mostKinds);
}
