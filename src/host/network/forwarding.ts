// Whether this machine passes packets on between its links: a setting of the whole machine (or network namespace) that
// NAT networks need. Promises: what was there before is told, so that the last network to go can put it back, and
// that is only done where nobody else changed it since.
import { run } from '../command.ts';
import { ipCommand, readKernelFile, writeKernelFile, type NetworkScope } from './netns.ts';

/** A kernel setting that was changed: the file below /proc/sys, its value before and after. */
export interface SysctlChange {
  readonly key: string;
  readonly before: string;
  readonly after: string;
}

export type ForwardingFamilies = { readonly ipv4: boolean; readonly ipv6: boolean };

/** The kernel lacks a setting that is needed: IPv6 is switched off there. */
export class SysctlMissingError extends Error {
  override name = 'SysctlMissingError';
  readonly key: string;
  constructor(key: string) {
    super(`the kernel has no setting ${key}: is IPv6 disabled on this machine?`);
    this.key = key;
  }
}

const forwardingKeys = { ipv4: 'net/ipv4/ip_forward', ipv6: 'net/ipv6/conf/all/forwarding' } as const;

/** Which of the needed settings are not on, in words. */
export async function observeForwarding(families: ForwardingFamilies, scope: NetworkScope = {}): Promise<string[]> {
  const differences: string[] = [];
  for (const key of neededKeys(families)) {
    const value = (await readKernelFile(scope, `/proc/sys/${key}`))?.trim();
    if (value !== '1') differences.push(`${key} is ${value ?? 'missing'}, not 1`);
  }
  return differences;
}

/** Switches forwarding on where it is off. Returns what was changed, for {@link restoreSysctls}. */
export async function ensureForwarding(
  families: ForwardingFamilies,
  scope: NetworkScope = {},
): Promise<SysctlChange[]> {
  const changes: SysctlChange[] = [];
  for (const key of neededKeys(families)) {
    const before = (await readKernelFile(scope, `/proc/sys/${key}`))?.trim();
    if (before === undefined) throw new SysctlMissingError(key);
    if (before === '1') continue;
    // A forwarding machine ignores router advertisements unless told otherwise (2): it would lose its own way out.
    if (key === forwardingKeys.ipv6) changes.push(...(await keepAdvertisedRoutes(scope)));
    await writeKernelFile(scope, `/proc/sys/${key}`, '1');
    changes.push({ key, before, after: '1' });
  }
  return changes;
}

/** Puts settings back, last first, except those that have another value by now. Returns the keys that were put back. */
export async function restoreSysctls(changes: readonly SysctlChange[], scope: NetworkScope = {}): Promise<string[]> {
  const restored: string[] = [];
  for (const { key, before, after } of [...changes].reverse()) {
    if (!/^net\/[a-z0-9_]+\/[A-Za-z0-9_./-]+$/.test(key) || key.includes('..')) {
      throw new RangeError(`${JSON.stringify(key)} is no network setting of the kernel`);
    }
    if ((await readKernelFile(scope, `/proc/sys/${key}`))?.trim() !== after) continue;
    await writeKernelFile(scope, `/proc/sys/${key}`, before);
    restored.push(key);
  }
  return restored;
}

function neededKeys({ ipv4, ipv6 }: ForwardingFamilies): string[] {
  return [...(ipv4 ? [forwardingKeys.ipv4] : []), ...(ipv6 ? [forwardingKeys.ipv6] : [])];
}

async function keepAdvertisedRoutes(scope: NetworkScope): Promise<SysctlChange[]> {
  const { stdout } = await run(ipCommand(scope, '-6', '-json', 'route', 'show', 'proto', 'ra'));
  const routes = JSON.parse(stdout || '[]') as { dev?: string }[];
  const changes: SysctlChange[] = [];
  for (const link of new Set(routes.map(({ dev }) => dev))) {
    if (link === undefined || !/^[A-Za-z0-9_.@-]{1,15}$/.test(link)) continue;
    const key = `net/ipv6/conf/${link}/accept_ra`;
    const before = (await readKernelFile(scope, `/proc/sys/${key}`))?.trim();
    if (before !== '1') continue;
    await writeKernelFile(scope, `/proc/sys/${key}`, '2');
    changes.push({ key, before, after: '2' });
  }
  return changes;
}
