// How much goes through links: rates of single NICs, and ceilings of whole networks that their NICs share, by queueing
// disciplines of the kernel (tc of iproute2). A link's own queue shapes what this machine sends by it; what comes in by it is
// led through an intermediate link (ifb), whose queue shapes it.
//
//   to a guest:    … ─▶ [queue of its tap] ─▶ guest             all guests: [queue of the bridge] ─▶ taps
//   from a guest:  guest ─▶ tap ─▶ [queue of the tap’s ifb] ─▶ … all guests: bridge ─▶ [queue of its ifb] ─▶ this machine
//
// Promises: a queue's handle is a hash of what it is to do, so that what is there is compared by one look and without a record
// of it, and queues that are as they should be are not touched; only queues with such handles, on links with Lodge's mark, are
// changed or removed. Kinds that a kernel lacks are found out by trying, and what is done instead is told in words.
import { createHash } from 'node:crypto';
import { CommandError, run } from '../command.ts';
import { deleteLink, deriveLinkName, formatMark, isLinkName, LinkError, listMarkedLinks } from './link.ts';
import { inScope, ipCommand, type NetworkScope } from './netns.ts';

/** Bytes a second; bytes. */
export interface Rate {
  readonly bytesPerSecond: number;
  /** What may go at once after a pause. Default: what 20 ms carry, at least 64 KiB. */
  readonly burstBytes?: number | undefined;
  /** The rate at which a burst goes. Default: as fast as it can. */
  readonly peakBytesPerSecond?: number | undefined;
}

/** A ceiling that many share. */
export interface Ceiling {
  readonly bytesPerSecond: number;
  readonly members: readonly CeilingMember[];
}

export interface CeilingMember {
  readonly mac: string;
  /** What it has in any case; 0: what the others leave. */
  readonly guaranteedBytesPerSecond: number;
  /** Who is served first with what is left. */
  readonly priority: 'high' | 'normal' | 'low';
}

export type Shape =
  | { readonly kind: 'rate'; readonly rate: Rate }
  | { readonly kind: 'ceiling'; readonly ceiling: Ceiling };

/** What a link is to be shaped to, as this machine sees it. */
export interface LinkShape {
  readonly link: string;
  /** What is sent out by the link; of a tap that is what its guest receives. */
  readonly egress: Shape | null;
  /** What comes in by it. */
  readonly ingress: Shape | null;
}

/** What came of it. */
export interface ShapeOutcome {
  /** What was changed, in words; empty: it was so already. */
  readonly changed: readonly string[];
  /** What could not be done, and what is done instead. */
  readonly problems: readonly string[];
  /** Why the link is not shaped; null: it is. Another link is shaped all the same. */
  readonly failure: string | null;
}

const priorities = { high: 1, normal: 3, low: 5 } as const;
/** A packet with segmentation offload may have as many bytes; smaller buckets would cut it into pieces. */
const largestPacket = 66_000;
const tcTimeoutMs = 20_000;

/** What a queue is recognized by: 1000 to 7fff, hexadecimal. */
function handleOf(shape: Shape, side: 'egress' | 'ingress'): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([side, shape]))
    .digest();
  return (0x1000 + (hash.readUInt16BE() % 0x7000)).toString(16);
}

function isOurHandle(handle: string): boolean {
  const value = Number.parseInt(handle, 16);
  return value >= 0x1000 && value < 0x8000;
}

/** Name of the link that what comes in by another is led through. */
export function ifbName(instance: string, link: string): string {
  return deriveLinkName('li', instance, link);
}

interface Qdisc {
  dev: string;
  kind: string;
  handle: string;
  root?: boolean;
  parent?: string;
}

/** What of a link's queues is there, without the handle's colon. */
interface Observed {
  root: { kind: string; handle: string } | null;
  hasIngress: boolean;
}

async function observe(scope: NetworkScope): Promise<Map<string, Observed>> {
  const { stdout } = await run(inScope(scope, ['tc', '-j', 'qdisc', 'show']), { timeoutMs: tcTimeoutMs });
  return parseQdiscs(stdout);
}

/** Reads `tc -j qdisc show`. */
export function parseQdiscs(json: string): Map<string, Observed> {
  const found = new Map<string, Observed>();
  for (const qdisc of JSON.parse(json.trim() === '' ? '[]' : json) as Qdisc[]) {
    const link = found.get(qdisc.dev) ?? { root: null, hasIngress: false };
    found.set(qdisc.dev, link);
    if (qdisc.root) link.root = { kind: qdisc.kind, handle: qdisc.handle.replace(/:$/, '') };
    else if (qdisc.kind === 'ingress') link.hasIngress = true;
  }
  return found;
}

/**
 * Makes links have these shapes, and takes away what earlier calls made of `links`, all links of the instance that could have
 * one, that are not among them. Answers for each link that was to be shaped. A link that goes meanwhile is passed over.
 */
export async function ensureShapes(
  instance: string,
  shapes: readonly LinkShape[],
  links: readonly string[],
  scope: NetworkScope = {},
): Promise<Map<string, ShapeOutcome>> {
  const observed = await observe(scope);
  const ifbs = new Set((await listMarkedLinks(instance, 'ifb', scope)).map(({ name }) => name));
  const outcomes = new Map<string, ShapeOutcome>();
  const kept = new Set<string>();
  for (const shape of shapes) {
    if (shape.ingress) kept.add(ifbName(instance, shape.link));
    const outcome = ensureOne(instance, shape, { observed, ifbs }, scope).catch((error: unknown): ShapeOutcome => {
      if (error instanceof LinkError) return { changed: [], problems: [], failure: error.message };
      throw error;
    });
    outcomes.set(shape.link, await outcome);
  }
  const wanted = new Map(shapes.map((shape) => [shape.link, shape]));
  for (const link of links) {
    const shape = wanted.get(link);
    const there = observed.get(link);
    if (!there) continue;
    if (!shape?.egress && there.root && isOurHandle(there.root.handle))
      await remove(['qdisc', 'del', 'dev', link, 'root'], scope);
    if (!shape?.ingress && there.hasIngress) await remove(['qdisc', 'del', 'dev', link, 'ingress'], scope);
  }
  for (const ifb of ifbs) if (!kept.has(ifb)) await deleteLink(ifb, instance, scope);
  return outcomes;
}

/** The same for one link that has just been made, and so has no shape yet. */
export async function shapeNewLink(
  instance: string,
  shape: LinkShape,
  scope: NetworkScope = {},
): Promise<ShapeOutcome> {
  // Made anew under the same name, it may have one left of it.
  if (shape.ingress) await deleteLink(ifbName(instance, shape.link), instance, scope);
  return ensureOne(instance, shape, { observed: new Map(), ifbs: new Set() }, scope);
}

async function ensureOne(
  instance: string,
  { link, egress, ingress }: LinkShape,
  { observed, ifbs }: { observed: ReadonlyMap<string, Observed>; ifbs: ReadonlySet<string> },
  scope: NetworkScope,
): Promise<ShapeOutcome> {
  if (!isLinkName(link)) throw new RangeError(`${JSON.stringify(link)} is no name of a link`);
  const changed: string[] = [];
  const problems: string[] = [];
  if (egress) {
    const handle = handleOf(egress, 'egress');
    if (observed.get(link)?.root?.handle !== handle) {
      await setRoot(link, handle, egress, 'destination', problems, scope);
      changed.push(`what is sent by ${link} had another rate`);
    } else problems.push(...lasting(observed.get(link)?.root?.kind, egress));
  }
  if (ingress) {
    const ifb = ifbName(instance, link);
    const handle = handleOf(ingress, 'ingress');
    const isThere = ifbs.has(ifb) && observed.get(link)?.hasIngress === true;
    if (!isThere || observed.get(ifb)?.root?.handle !== handle) {
      if (!ifbs.has(ifb)) await addIfb(instance, link, ifb, scope);
      await setRoot(ifb, handle, ingress, 'source', problems, scope);
      if (!isThere) await redirect(link, ifb, scope);
      changed.push(`what comes by ${link} had another rate`);
    } else problems.push(...lasting(observed.get(ifb)?.root?.kind, ingress));
  }
  return { changed, problems, failure: null };
}

const noPeak = 'This kernel has no queue of kind tbf: bursts go as fast as they can (htb in its place).';
const noClasses = 'This kernel has no queue of kind htb: the ceiling holds, guaranteed rates and priorities do not.';

/** What is missing of a shape that was made of another kind of queue; known by that kind later on. */
function lasting(kind: string | undefined, shape: Shape): string[] {
  if (shape.kind === 'ceiling') return kind === 'tbf' ? [noClasses] : [];
  return kind === 'htb' && shape.rate.peakBytesPerSecond !== undefined ? [noPeak] : [];
}

/** Puts a queue on a link; where the kernel lacks its kind, the next best. */
async function setRoot(
  link: string,
  handle: string,
  shape: Shape,
  side: 'source' | 'destination',
  problems: string[],
  scope: NetworkScope,
): Promise<void> {
  const [first, second] =
    shape.kind === 'rate'
      ? [[tbf(link, handle, shape.rate)], single(link, handle, shape.rate)]
      : [tree(link, handle, shape.ceiling, side), [tbf(link, handle, shape.ceiling)]];
  try {
    await batch(first, scope);
  } catch (error) {
    if (!isUnknownKind(error)) throw error;
    await batch(second, scope);
    problems.push(...lasting(shape.kind === 'rate' ? 'htb' : 'tbf', shape));
  }
}

/** tc-tbf(8). A word `bps` of tc means bytes a second. */
function tbf(link: string, handle: string, { bytesPerSecond, burstBytes, peakBytesPerSecond }: Rate): string {
  const burst = burstOf(bytesPerSecond, burstBytes);
  // Room for what waits: 50 ms of it, and two of the largest packets.
  const limit = Math.round(Math.max(2 * largestPacket, bytesPerSecond / 20 + burst));
  const peak = peakBytesPerSecond === undefined ? '' : ` peakrate ${peakBytesPerSecond}bps mtu ${largestPacket}`;
  return `qdisc replace dev ${link} root handle ${handle}: tbf rate ${bytesPerSecond}bps burst ${burst} limit ${limit}${peak}`;
}

function burstOf(bytesPerSecond: number, given?: number): number {
  return given === undefined ? Math.round(Math.max(65_536, bytesPerSecond / 50)) : Math.max(given, 1600);
}

/** One class of htb, as a plain rate. */
function single(link: string, handle: string, { bytesPerSecond, burstBytes }: Rate): string[] {
  const burst = burstOf(bytesPerSecond, burstBytes);
  return [
    `qdisc replace dev ${link} root handle ${handle}: htb default 1`,
    `class add dev ${link} parent ${handle}: classid ${handle}:1 htb rate ${bytesPerSecond}bps burst ${burst} quantum 60000`,
  ];
}

/** A ceiling over classes, of which each has its guaranteed rate and borrows the rest by its priority: tc-htb(8). */
function tree(
  link: string,
  handle: string,
  { bytesPerSecond, members }: Ceiling,
  side: 'source' | 'destination',
): string[] {
  const burst = burstOf(bytesPerSecond);
  // Somebody has to have something: a class without a rate is refused.
  const least = Math.max(1000, Math.round(bytesPerSecond / 1000));
  const classOf = (id: string, rate: number, prio: number): string =>
    `class add dev ${link} parent ${handle}:1 classid ${handle}:${id} htb rate ${Math.max(rate, least)}bps ceil ${bytesPerSecond}bps burst ${burstOf(rate)} cburst ${burst} prio ${prio} quantum 6000`;
  const lines = [
    `qdisc replace dev ${link} root handle ${handle}: htb default fffe`,
    `class add dev ${link} parent ${handle}: classid ${handle}:1 htb rate ${bytesPerSecond}bps ceil ${bytesPerSecond}bps burst ${burst} cburst ${burst} quantum 60000`,
    classOf('fffe', 0, priorities.normal),
  ];
  for (const [index, { mac, guaranteedBytesPerSecond, priority }] of members.entries()) {
    const id = (index + 0x10).toString(16);
    const digits = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac) ? mac.replaceAll(':', '') : null;
    if (digits === null) throw new RangeError(`${JSON.stringify(mac)} is no MAC address`);
    // Before the network header lie destination (14 bytes) and source (8 bytes): IEEE 802.3.
    const match =
      side === 'destination'
        ? `match u16 0x${digits.slice(0, 4)} 0xffff at -14 match u32 0x${digits.slice(4)} 0xffffffff at -12`
        : `match u32 0x${digits.slice(0, 8)} 0xffffffff at -8 match u16 0x${digits.slice(8)} 0xffff at -4`;
    lines.push(
      classOf(id, guaranteedBytesPerSecond, priorities[priority]),
      `filter add dev ${link} parent ${handle}: protocol all prio 1 u32 ${match} flowid ${handle}:${id}`,
    );
  }
  return lines;
}

async function addIfb(instance: string, link: string, ifb: string, scope: NetworkScope): Promise<void> {
  const mark = formatMark({ instance, kind: 'ifb', id: link });
  const lines = [`link add name ${ifb} txqueuelen 1000 type ifb`, `link set dev ${ifb} alias ${mark} up`];
  try {
    await run(ipCommand(scope, '-batch', '-'), { input: `${lines.join('\n')}\n`, timeoutMs: tcTimeoutMs });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (/File exists/.test(error.stderr)) return;
    throw new LinkError(ifb, 'other', `what ${link} receives can't be shaped: ${said(error)}`, { cause: error });
  }
}

/** Has what comes in by a link go through another one. Both classifiers do the same; kernels may lack either. */
async function redirect(link: string, ifb: string, scope: NetworkScope): Promise<void> {
  const to = `action mirred egress redirect dev ${ifb}`;
  const start = [`qdisc replace dev ${link} ingress`, `filter del dev ${link} ingress`];
  try {
    await batch([...start, `filter add dev ${link} ingress protocol all prio 1 matchall ${to}`], scope);
  } catch (error) {
    if (!isUnknownKind(error)) throw error;
    await batch([...start, `filter add dev ${link} ingress protocol all prio 1 u32 match u32 0 0 ${to}`], scope);
  }
}

async function batch(lines: readonly string[], scope: NetworkScope): Promise<void> {
  try {
    await run(inScope(scope, ['tc', '-batch', '-']), { input: `${lines.join('\n')}\n`, timeoutMs: tcTimeoutMs });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new LinkError('', isGone(error) ? 'missing' : 'other', `tc refused a rate: ${said(error)}`, { cause: error });
  }
}

async function remove(args: string[], scope: NetworkScope): Promise<void> {
  await run(inScope(scope, ['tc', ...args]), { timeoutMs: tcTimeoutMs }).catch((error: unknown) => {
    // It went with its link, or by somebody else's hand.
    if (!(error instanceof CommandError) || error.reason !== 'exit') throw error;
  });
}

function said({ stderr }: CommandError): string {
  return stderr.trim().split('\n').slice(0, 2).join(' ').slice(0, 300);
}

function isGone({ stderr }: CommandError): boolean {
  return /Cannot find device/.test(stderr);
}

/** What tc and the kernel say of a kind that they don't have. */
function isUnknownKind(error: unknown): boolean {
  const cause = error instanceof LinkError ? error.cause : null;
  return (
    cause instanceof CommandError &&
    /qdisc kind is unknown|classifier not found|Failed to load TC (action|classifier)|Unknown (filter|qdisc|classifier)|No such file or directory/i.test(
      cause.stderr,
    )
  );
}
