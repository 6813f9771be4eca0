// The links (network interfaces) of this machine, through iproute2: what is there, and making, changing and deleting
// the ones that are Lodge's.
//
// Promises: every link made here carries a mark in its alias (`lodge:<instance>:<kind>:<id>`), set by the same process
// that makes it, so that what a crash left behind is found by whoever looks; a link without the caller's mark is never
// changed or deleted; and each call is one `ip` process, which either did everything or left nothing.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { CommandError, run } from '../command.ts';
import { ipCommand, type NetworkScope } from './netns.ts';

/** What Lodge writes into the alias of a link: whose it is and what for. */
export interface LinkMark {
  /** The Lodge on this machine that made it; several can live side by side. */
  readonly instance: string;
  /** `bridge`, `tap`, … */
  readonly kind: string;
  /** The id of the object it belongs to. */
  readonly id: string;
}

export interface LinkAddress {
  readonly family: 4 | 6;
  /** Without the prefix length. */
  readonly address: string;
  readonly prefixLength: number;
  /** `global`, `link`, `host`. */
  readonly scope: string;
}

export interface Link {
  readonly index: number;
  readonly name: string;
  /** The kernel's name of its kind (`bridge`, `tun`, `veth`, `vxlan`, …); null for a physical interface and the loopback. */
  readonly kind: string | null;
  readonly mtu: number;
  readonly macAddress: string | null;
  /** Whether it carries Ethernet frames. */
  readonly isEthernet: boolean;
  /** Whether it is switched on (IFF_UP). */
  readonly isUp: boolean;
  /** Whether something at its other end makes it usable (IFF_LOWER_UP): a bridge without ports has none. */
  readonly hasCarrier: boolean;
  /** The bridge or bond that it is a port of. */
  readonly master: string | null;
  readonly alias: string | null;
  /** The alias, when it is a mark of Lodge, of whatever instance. */
  readonly mark: LinkMark | null;
  readonly addresses: readonly LinkAddress[];
  /** Only of a tap. */
  readonly tap: { readonly isMultiQueue: boolean; readonly isPersistent: boolean } | null;
  /** Whether it is a bridge port that may not speak to other such ports; null when it is no bridge port. */
  readonly isIsolatedPort: boolean | null;
}

export interface BridgeDefinition {
  readonly name: string;
  readonly mark: LinkMark;
  /** A bridge without a MAC address of its own takes the lowest of its ports', and changes it as they come and go. */
  readonly macAddress: string;
  /** In bytes. Default 1500. */
  readonly mtu?: number;
}

export interface TapDefinition {
  readonly name: string;
  readonly mark: LinkMark;
  /** The user that may attach to it without privileges. Default: only root. */
  readonly ownerUid?: number;
  /** Needed for more than one queue; who attaches has to say the same. Default false. */
  readonly isMultiQueue?: boolean;
  /** The bridge that it becomes a port of. */
  readonly master?: string;
  /** In bytes. Default 1500. */
  readonly mtu?: number;
  readonly macAddress?: string;
  /** A port that reaches only the bridge itself and ports that are not isolated. Default false. */
  readonly isIsolated?: boolean;
  /** Default true. */
  readonly isUp?: boolean;
}

export interface MacvtapDefinition {
  readonly name: string;
  readonly mark: LinkMark;
  /** The interface whose wire it shares. */
  readonly lower: string;
  /** Who reaches whom among those of one interface: linux/if_link.h, macvlan_mode. */
  readonly mode: 'bridge' | 'private' | 'vepa';
  readonly macAddress: string;
  /** In bytes; not above that of the interface. */
  readonly mtu: number;
}

/** A change of a link; what is not named stays. */
export interface LinkChange {
  readonly isUp?: boolean;
  readonly mtu?: number;
  readonly macAddress?: string;
  /** Null takes it out of its bridge. */
  readonly master?: string | null;
  readonly isIsolated?: boolean;
  readonly mark?: LinkMark;
}

/** A link could not be made, changed or deleted. */
export class LinkError extends Error {
  override name = 'LinkError';
  readonly link: string;
  readonly reason: 'exists' | 'missing' | 'busy' | 'denied' | 'foreign' | 'other';

  constructor(link: string, reason: LinkError['reason'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.link = link;
    this.reason = reason;
  }
}

/** The longest name of a link, in bytes: IFNAMSIZ of linux/if.h less the final zero. */
export const maxLinkNameLength = 15;

/** Whether the kernel takes this as the name of a link (dev_valid_name in net/core/dev.c), less what quoting could get wrong. */
export function isLinkName(name: string): boolean {
  return /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/.test(name);
}

/**
 * A name for the link of an object, always the same for the same parts: the prefix (at most 3 letters), then 60 bits
 * of a hash in lower case. So the link of an object is found without a table, and two objects don't meet.
 */
export function deriveLinkName(prefix: string, ...parts: readonly [string, ...string[]]): string {
  if (!/^[a-z]{1,3}$/.test(prefix)) throw new RangeError(`the prefix ${JSON.stringify(prefix)} must be 1 to 3 letters`);
  const hash = createHash('sha256').update(JSON.stringify(parts)).digest();
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
  let bits = hash.readBigUInt64BE();
  let text = '';
  for (let count = 0; count < 12; count++) {
    text += alphabet[Number(bits & 31n)];
    bits >>= 5n;
  }
  return prefix + text;
}

export function formatMark({ instance, kind, id }: LinkMark): string {
  // 255: IFALIASZ of linux/if.h, less the final zero.
  const text = `lodge:${instance}:${kind}:${id}`;
  if (
    ![instance, kind].every((part) => /^[A-Za-z0-9_.-]+$/.test(part)) ||
    !/^[A-Za-z0-9_.:-]+$/.test(id) ||
    text.length > 255
  ) {
    throw new RangeError(
      `${JSON.stringify(text)} is no mark of a link: use letters, digits, "-", "_" and ".", 255 bytes at most`,
    );
  }
  return text;
}

export function parseMark(alias: string | null | undefined): LinkMark | null {
  const match = /^lodge:([A-Za-z0-9_.-]+):([A-Za-z0-9_.-]+):([A-Za-z0-9_.:-]+)$/.exec(alias ?? '');
  return match ? { instance: match[1]!, kind: match[2]!, id: match[3]! } : null;
}

/** All links of the scope, with their addresses. */
export async function listLinks(scope: NetworkScope = {}): Promise<Link[]> {
  const { stdout } = await run(ipCommand(scope, '-json', '-details', 'address', 'show'));
  return parseLinks(stdout);
}

/** One link, or null when there is none of this name. */
export async function findLink(name: string, scope: NetworkScope = {}): Promise<Link | null> {
  const argv = ipCommand(scope, '-json', '-details', 'address', 'show', 'dev', checkedName(name));
  try {
    return parseLinks((await run(argv)).stdout)[0] ?? null;
  } catch (error) {
    const explained = explain(name, error);
    if (explained instanceof LinkError && explained.reason === 'missing') return null;
    throw explained;
  }
}

/** The names of all links, without starting a program: from /proc/net/dev, which shows this process's namespace. */
export async function listLinkNames(): Promise<Set<string>> {
  const text = await readFile('/proc/net/dev', 'utf8');
  return new Set([...text.matchAll(/^\s*(\S+?):/gm)].map(([, name]) => name!));
}

/** The links that carry a mark of this instance (and kind), to find what an earlier run left. */
export async function listMarkedLinks(instance: string, kind?: string, scope: NetworkScope = {}): Promise<Link[]> {
  const links = await listLinks(scope);
  return links.filter(({ mark }) => mark?.instance === instance && (kind === undefined || mark.kind === kind));
}

/** Makes a bridge without any address, marks it and switches it on. Rejects with reason `exists` when the name is taken. */
export async function createBridge(bridge: BridgeDefinition, scope: NetworkScope = {}): Promise<void> {
  const name = checkedName(bridge.name);
  // No spanning tree and no delay before a port forwards: guests are leaves, and DHCP would time out.
  await batch(name, scope, [
    `link add name ${name} address ${checkedMac(bridge.macAddress)} type bridge stp_state 0 forward_delay 0`,
    // The kernel's own IPv6 address would stay tentative until the first port comes and a second has passed. Before the
    // MTU, since below IPv6's least of 1280 a link has no IPv6 that could be set.
    `link set dev ${name} alias ${formatMark(bridge.mark)} addrgenmode none`,
    `link set dev ${name} mtu ${checkedMtu(bridge.mtu ?? 1500)} up`,
  ]);
}

/** Makes a persistent tap (with virtio-net headers), marks it, makes it a port of its bridge and switches it on. */
export async function createTap(tap: TapDefinition, scope: NetworkScope = {}): Promise<void> {
  const name = checkedName(tap.name);
  if (tap.ownerUid !== undefined && !(Number.isInteger(tap.ownerUid) && tap.ownerUid >= 0)) {
    throw new RangeError(`the owner ${tap.ownerUid} of ${name} must be a user id`);
  }
  const owner = tap.ownerUid === undefined ? '' : ` user ${tap.ownerUid}`;
  await batch(name, scope, [
    `tuntap add dev ${name} mode tap${owner} vnet_hdr${tap.isMultiQueue ? ' multi_queue' : ''}`,
    // Its far end is the guest: the host has no business with an address of its own on it.
    `link set dev ${name} alias ${formatMark(tap.mark)} addrgenmode none`,
    ...changeLines(name, { ...tap, mark: undefined, mtu: tap.mtu ?? 1500, isUp: tap.isUp ?? true }),
  ]);
}

/** Makes a macvtap on an interface, marks it and switches it on. Rejects with reason `busy` where that is a bridge's port. */
export async function createMacvtap(macvtap: MacvtapDefinition, scope: NetworkScope = {}): Promise<void> {
  const name = checkedName(macvtap.name);
  const { lower, macAddress, mode, mtu } = macvtap;
  await batch(name, scope, [
    `link add link ${checkedName(lower)} name ${name} address ${checkedMac(macAddress)} type macvtap mode ${mode}`,
    `link set dev ${name} alias ${formatMark(macvtap.mark)} addrgenmode none`,
    `link set dev ${name} mtu ${checkedMtu(mtu)} up`,
  ]);
}

/** Changes a link that carries a mark of `instance`. Rejects with reason `missing` or `foreign` otherwise. */
export async function changeLink(
  name: string,
  change: LinkChange,
  instance: string,
  scope: NetworkScope = {},
): Promise<void> {
  await requireMarked(name, instance, scope);
  const lines = changeLines(name, change);
  if (lines.length > 0) await batch(name, scope, lines, { keeps: true });
}

/** Deletes a link that carries a mark of `instance`; false when there is none of this name. Rejects with reason `foreign`. */
export async function deleteLink(name: string, instance: string, scope: NetworkScope = {}): Promise<boolean> {
  const link = await findLink(name, scope);
  if (!link) return false;
  await requireMarked(name, instance, scope, link);
  try {
    await run(ipCommand(scope, 'link', 'delete', 'dev', name));
  } catch (error) {
    const explained = explain(name, error);
    if (explained instanceof LinkError && explained.reason === 'missing') return false;
    throw explained;
  }
  return true;
}

/** Gives a marked link an address (`10.0.0.1/24`); false when it has it already. */
export async function addLinkAddress(
  name: string,
  cidr: string,
  instance: string,
  scope: NetworkScope = {},
): Promise<boolean> {
  await requireMarked(name, instance, scope);
  // Nobody else is on a bridge of ours: an IPv6 address need not wait a second for a duplicate to show itself.
  const options = cidr.includes(':') ? ['nodad'] : ['broadcast', '+'];
  return changeAddress(
    name,
    scope,
    ['address', 'add', cidr, ...options, 'dev', name],
    /Address already assigned|File exists/,
  );
}

/** Takes an address from a marked link; false when it has none such. */
export async function removeLinkAddress(
  name: string,
  cidr: string,
  instance: string,
  scope: NetworkScope = {},
): Promise<boolean> {
  await requireMarked(name, instance, scope);
  return changeAddress(
    name,
    scope,
    ['address', 'delete', cidr, 'dev', name],
    /Address not found|Cannot assign requested/,
  );
}

async function changeAddress(name: string, scope: NetworkScope, args: string[], isNothing: RegExp): Promise<boolean> {
  try {
    await run(ipCommand(scope, ...args));
    return true;
  } catch (error) {
    if (error instanceof CommandError && isNothing.test(error.stderr)) return false;
    throw explain(name, error);
  }
}

async function requireMarked(name: string, instance: string, scope: NetworkScope, known?: Link): Promise<Link> {
  const link = known ?? (await findLink(name, scope));
  if (!link) throw new LinkError(name, 'missing', `there is no link ${name}`);
  if (link.mark?.instance === instance) return link;
  const whose = link.alias === null ? 'has no alias' : `has the alias ${JSON.stringify(link.alias)}`;
  throw new LinkError(name, 'foreign', `the link ${name} is not this Lodge's (it ${whose}) and is left as it is`);
}

function changeLines(name: string, change: LinkChange): string[] {
  const words: string[] = [];
  if (change.mark !== undefined) words.push('alias', formatMark(change.mark));
  if (change.mtu !== undefined) words.push('mtu', String(checkedMtu(change.mtu)));
  if (change.macAddress !== undefined) words.push('address', checkedMac(change.macAddress));
  if (change.master === null) words.push('nomaster');
  else if (change.master !== undefined) words.push('master', checkedName(change.master));
  if (change.isUp !== undefined) words.push(change.isUp ? 'up' : 'down');
  const lines = words.length > 0 ? [`link set dev ${name} ${words.join(' ')}`] : [];
  if (change.isIsolated !== undefined) {
    lines.push(`link set dev ${name} type bridge_slave isolated ${change.isIsolated ? 'on' : 'off'}`);
  }
  return lines;
}

/** Runs lines in one `ip`. It stops at the first that fails; a link that the first line made is then deleted again. */
async function batch(name: string, scope: NetworkScope, lines: string[], { keeps = false } = {}): Promise<void> {
  try {
    await run(ipCommand(scope, '-batch', '-'), { input: `${lines.join('\n')}\n` });
  } catch (error) {
    const said = error instanceof CommandError ? error.stderr : '';
    // Of a device that is missing (a bridge to be the master) it complains without the number of the line.
    const isMade = /^Command failed -:(?!1$)/m.test(said) || /Device does not exist/.test(said);
    if (isMade && !keeps) await run(ipCommand(scope, 'link', 'delete', 'dev', name), { okExitCodes: [0, 1] });
    throw explain(name, error);
  }
}

function explain(link: string, error: unknown): unknown {
  if (!(error instanceof CommandError) || error.reason !== 'exit') return error;
  const said = error.stderr.replace(/^Command failed -:\d+$/m, '').trim();
  const options = { cause: error };
  if (/File exists/.test(said)) return new LinkError(link, 'exists', `there is a link ${link} already`, options);
  // `ip tuntap add` on an existing link of any kind.
  if (/resource busy|Invalid argument/.test(said) && /TUNSETIFF/.test(said)) {
    return new LinkError(link, 'exists', `there is a link ${link} already`, options);
  }
  if (/Cannot find device|does not exist|No such device/.test(said)) {
    const missing = /(?:device|Device|argument) "([^"]+)"/.exec(said)?.[1] ?? link;
    return new LinkError(missing, 'missing', `there is no link ${missing}`, options);
  }
  if (/Operation not permitted|Permission denied/.test(said)) {
    return new LinkError(link, 'denied', `the link ${link} can't be changed without the capability NET_ADMIN`, options);
  }
  if (/resource busy/.test(said)) return new LinkError(link, 'busy', `the link ${link} is in use`, options);
  return new LinkError(link, 'other', `the link ${link} could not be changed: ${said}`, options);
}

interface IpLink {
  ifindex: number;
  ifname: string;
  flags: string[];
  mtu: number;
  link_type?: string;
  master?: string;
  address?: string;
  ifalias?: string;
  linkinfo?: {
    info_kind?: string;
    info_data?: { type?: string; multi_queue?: boolean; persist?: boolean };
    info_slave_data?: { isolated?: boolean };
  };
  addr_info?: { family: string; local: string; prefixlen: number; scope: string }[];
}

/** Reads what `ip -json -details address show` writes. */
export function parseLinks(json: string): Link[] {
  const links = JSON.parse(json) as Partial<IpLink>[];
  // For a device that was given by name, iproute2 6.1 writes an empty object for each other one.
  return links.filter((link): link is IpLink => link.ifname !== undefined).map(toLink);
}

function toLink(link: IpLink): Link {
  const { info_kind: kind, info_data: data, info_slave_data: port } = link.linkinfo ?? {};
  return {
    index: link.ifindex,
    name: link.ifname,
    kind: kind ?? null,
    mtu: link.mtu,
    macAddress: link.address ?? null,
    isEthernet: link.link_type === 'ether',
    isUp: link.flags.includes('UP'),
    hasCarrier: link.flags.includes('LOWER_UP'),
    master: link.master ?? null,
    alias: link.ifalias ?? null,
    mark: parseMark(link.ifalias),
    addresses: (link.addr_info ?? []).map((address) => ({
      family: address.family === 'inet' ? 4 : 6,
      address: address.local,
      prefixLength: address.prefixlen,
      scope: address.scope,
    })),
    tap:
      kind === 'tun' && data?.type === 'tap'
        ? { isMultiQueue: data.multi_queue ?? false, isPersistent: data.persist ?? false }
        : null,
    isIsolatedPort: port?.isolated ?? null,
  };
}

function checkedName(name: string): string {
  if (isLinkName(name)) return name;
  throw new RangeError(
    `${JSON.stringify(name)} is no name of a link: use 1 to ${maxLinkNameLength} letters, digits, "-", "_" and "."`,
  );
}

function checkedMac(mac: string): string {
  if (/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac)) return mac.toLowerCase();
  throw new RangeError(`${JSON.stringify(mac)} is no MAC address such as 52:54:00:12:34:56`);
}

function checkedMtu(mtu: number): number {
  if (Number.isInteger(mtu) && mtu >= 68 && mtu <= 65521) return mtu;
  throw new RangeError(`the MTU ${mtu} must be a whole number of bytes from 68 to 65521`);
}
