// Running copies of a running guest. Its memory and devices are frozen into a file in memory (freeze.ts) while the first
// copy's QEMU process starts already; each copy maps the frozen memory privately, so that what no copy writes to is
// there once for all of them, and loads the devices' state beside it.
//
//   guest          running ──────── saving ──── still ── running ────────────────────────►
//   first copy         QEMU starts ───────────────────── loads devices ── runs, links as defined
//   all others                                           QEMU starts ──── loads devices ── runs
//
// Invariants:
// - The guest stands still no longer for many copies than for one: the others start when it runs on.
// - All or nothing: when one copy fails, none is left, and the guest runs on.
// - No copy runs before the frozen memory is sealed: from then on nobody can change it, not even the guest's own process.
// - The frozen memory has no name. It goes with the last copy that uses it.
import { fstatSync, readSync, writeSync } from 'node:fs';
import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../../api/errors.ts';
import { type MemoryFile, MemoryFileError, punchUnmarkedPages } from '../../../host/memory-file.ts';
import { type Guest, type GuestDefinition } from '../../driver.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { type Freeze, type FreezeRequest } from './freeze.ts';
import { requireSavable } from '../machine-devices.ts';
import { addedMemory, memoryDevice } from '../slots.ts';
import type { VmPinned } from '../../../api/vm.ts';
import {
  FrozenImageError,
  hasPage,
  deviceStream,
  readFrozenLayout,
  type FrozenBlock,
  type ReadAt,
} from './frozen-image.ts';

/** Where a copy's QEMU finds what it is made from. */
export interface IncomingMemory {
  /** Name of the block of memory that is mapped, and where in the file its pages begin. */
  block: string;
  path: string;
  offset: number;
  /** The devices' state. */
  streamPath: string;
}

/** A copy whose QEMU waits for its devices' state. */
export interface WaitingCopy<G extends Guest = Guest> {
  guest: G;
  qmp: QmpConnection;
  /** Name of the devices' state for this QEMU. */
  streamUri: string;
  /** The vCPUs run from here on. */
  run: () => Promise<void>;
  /** Ends it, and says why as an error for people. */
  giveUp: (error: unknown) => Promise<LodgeError>;
}

/** A file in memory as far as it is needed here. */
export type FrozenFile = Pick<MemoryFile, 'path' | 'descriptor' | 'seal' | 'close'>;

export interface ForkParts<G extends Guest> {
  name: string;
  freeze: (request: FreezeRequest) => Promise<Freeze>;
  /** Two files in memory. */
  files: () => Promise<FrozenFile[]>;
  /** Block of memory that is mapped, bytes. */
  block: { name: string; size: number };
  /** Starts the process of a copy. Throws, and then leaves nothing. */
  launch: (
    definition: GuestDefinition,
    incoming: Promise<IncomingMemory>,
    deadline: AbortSignal,
  ) => Promise<WaitingCopy<G>>;
}

export interface ForkWork<G extends Guest> {
  copies: readonly (() => Promise<GuestDefinition>)[];
  deadline: AbortSignal;
  onStopped?: (() => Promise<void>) | undefined;
  onCopy?: ((guest: G, definition: GuestDefinition) => Promise<void>) | undefined;
}

const mib = 2 ** 20;
/** QEMU begins each block's pages at a multiple of this (migration/ram.c: MAPPED_RAM_FILE_OFFSET_ALIGNMENT). */
const alignment = mib;
/** More than what is before the first block's bitmap. */
const streamStartBytes = 1024;
const pageBytes = 4096;
/**
 * Processes that start at a time. Many: a guest that runs already takes the processor from those that still start, so all of
 * twenty copies answer a third sooner when none of them runs before the others have started.
 */
const copiesAtOnce = 24;
/**
 * Processes that may start before the guest runs on: one, which is what a single copy gains. Starting them takes both
 * processors and the daemon; with twenty at once a guest stood still for 250 to 410 ms, with one for 5.
 */
const copiesMeanwhile = 1;

/**
 * Where QEMU will put the pages of the first block, which is the largest: the guest's memory, unless more than that can be
 * added to it. Nearly always right, and checked afterwards.
 */
export function expectedPagesOffset(size: number): number {
  const bitmapBytes = Math.ceil(size / pageBytes / 64) * 8;
  return Math.ceil((streamStartBytes + bitmapBytes) / alignment) * alignment;
}

/** Makes the copies. */
export async function forkGuest<G extends Guest>(
  parts: ForkParts<G>,
  work: ForkWork<G>,
): Promise<{ copies: G[]; pauseMs: number; frozenBytes: number }> {
  const files = parts.files() as Promise<[FrozenFile, FrozenFile]>;
  const failed = new AbortController();
  const signal = AbortSignal.any([work.deadline, failed.signal]);
  const expected = expectedPagesOffset(parts.block.size);
  // The copies' processes may start before there is anything in the file: they take one that is shorter than where the
  // memory begins, and its whole length is there before any memory is.
  const freeze = async (): Promise<Freeze> => {
    const [memory] = await files;
    return parts.freeze({ path: memory.path, signal, onStopped: work.onStopped });
  };
  const runsOn = freeze();
  const finish = async (): Promise<Freeze & FinishedImage> => {
    const [freeze, [memory, stream]] = await Promise.all([runsOn, files]);
    return { ...freeze, ...(await finishImage(parts, memory, stream)) };
  };
  const frozen = finish();
  frozen.catch(() => {});
  const waiting: WaitingCopy<G>[] = [];
  const incoming = async (offset: number): Promise<IncomingMemory> => {
    const [memory, stream] = await files;
    return { block: parts.block.name, path: memory.path, offset, streamPath: stream.path };
  };
  try {
    const copies = await inPool(work.copies, copiesAtOnce, async (define, index) => {
      if (index >= copiesMeanwhile) await runsOn;
      signal.throwIfAborted();
      const definition = await define();
      const isMeanwhile = index < copiesMeanwhile;
      const found = isMeanwhile ? incoming(expected) : frozen.then(({ pagesOffset }) => incoming(pagesOffset));
      let copy = await parts.launch(definition, found, signal);
      waiting.push(copy);
      await keepQuiet(copy.qmp);
      const { pagesOffset, sealed } = await frozen;
      if (isMeanwhile && pagesOffset !== expected) {
        await copy.giveUp(new Error('the memory is elsewhere'));
        waiting.splice(waiting.indexOf(copy), 1);
        copy = await parts.launch(definition, incoming(pagesOffset), signal);
        waiting.push(copy);
      }
      await load(copy.qmp, copy.streamUri, signal);
      await sealed;
      await copy.run();
      await work.onCopy?.(copy.guest, definition);
      return copy.guest;
    });
    const { pauseMs, frozenBytes, settled } = await frozen;
    await settled;
    return { copies, pauseMs, frozenBytes };
  } catch (error) {
    failed.abort(error);
    await frozen.catch(() => {});
    const reasons = await Promise.all(waiting.map((copy) => copy.giveUp(error)));
    throw reasons.find(({ code }) => code !== 'cancelled' && code !== 'internal') ?? error;
  } finally {
    // Copies that run have it mapped; their own state they have read.
    for (const file of await files.catch(() => [])) file.close();
  }
}

interface FinishedImage {
  pagesOffset: number;
  frozenBytes: number;
  /** Resolves when nobody can change it any more. */
  sealed: Promise<void>;
}

/** Makes what QEMU has written ready for copies: pages that became zeros are zeros, and the rest is a stream. */
async function finishImage(
  { name, block }: Pick<ForkParts<Guest>, 'name' | 'block'>,
  memory: FrozenFile,
  stream: FrozenFile,
): Promise<FinishedImage> {
  try {
    const { main, pieces } = await readImage(block, memory);
    for (const piece of pieces) {
      for (let at = 0; at < piece.length;) at += writeSync(stream.descriptor, piece, at);
      // Memory that was added may be much of it; others have their turn in between.
      if (piece.length > pageBytes) await nextTurn();
    }
    const sealed = memory.seal().catch((error: unknown) => {
      throw unusable(name, error);
    });
    // Whoever lets a copy run waits for it; others may have failed before.
    sealed.catch(() => {});
    return { pagesOffset: main.pagesOffset, frozenBytes: fstatSync(memory.descriptor).blocks * 512, sealed };
  } catch (error) {
    throw unusable(name, error);
  }
}

/**
 * What lies where in a file that QEMU has written, with nothing in it but what counts, and the stream of the rest in pieces.
 * Memory that was added while the guest ran is in the stream: what can be taken away again can't be mapped from a file.
 */
export async function readImage(
  block: ForkParts<Guest>['block'],
  memory: { path: string; descriptor: number },
): Promise<{ main: FrozenBlock; pieces: Iterable<Buffer> }> {
  const readAt = reader(memory.descriptor);
  const layout = readFrozenLayout(readAt);
  const main = layout.blocks.find((candidate) => candidate.name === block.name);
  if (!main || main.size !== block.size)
    throw new FrozenImageError(`its memory ${block.name} is not the ${block.size / mib} MiB that were expected`);
  const { size, blocks } = fstatSync(memory.descriptor);
  if (blocks * 512 > mostBytes(layout.blocks, layout.devicesOffset, size, readAt))
    await punchUnmarkedPages(memory.path, { ...main, count: main.size / main.pageSize });
  const parts = { mapped: new Set([block.name]), added: new Set([addedMemory]) };
  return { main, pieces: deviceStream(layout, readAt, size, parts) };
}

export function unusable(name: string, error: unknown): unknown {
  if (!(error instanceof FrozenImageError) && !(error instanceof MemoryFileError)) return error;
  return new LodgeError('hypervisor_failed', `The frozen memory of VM ${name} can’t be used: ${error.message}.`, {
    cause: error,
  });
}

/** Bytes the file takes when no page but those that count holds anything. */
export function mostBytes(
  blocks: readonly FrozenBlock[],
  devicesOffset: number,
  fileSize: number,
  readAt: ReadAt,
): number {
  let pages = 0;
  let from = 0;
  for (const block of blocks) {
    const count = block.size / block.pageSize;
    const bitmap = readAt(block.bitmapOffset, Math.ceil(count / 8));
    pages += countBits(bitmap, count) * (block.pageSize / pageBytes);
    pages += Math.ceil((block.bitmapOffset + bitmap.length) / pageBytes) - Math.floor(from / pageBytes);
    from = block.pagesOffset + block.size;
  }
  pages += Math.ceil(fileSize / pageBytes) - Math.floor(Math.min(from, devicesOffset) / pageBytes);
  return pages * pageBytes;
}

function countBits(bitmap: Uint8Array, count: number): number {
  let sum = 0;
  for (let page = 0; page < count; page++) if (hasPage(bitmap, page)) sum++;
  return sum;
}

export function reader(descriptor: number): ReadAt {
  return (offset, length) => {
    const bytes = Buffer.allocUnsafe(length);
    let got = 0;
    while (got < length) {
      const count = readSync(descriptor, bytes, got, length - got, offset + got);
      if (count === 0) break;
      got += count;
    }
    return bytes.subarray(0, got);
  };
}

/** A copy has the addresses of its original until it is given its own: it must not announce them. */
export async function keepQuiet(qmp: QmpConnection): Promise<void> {
  await qmp.execute('migrate-set-parameters', { 'announce-rounds': 0 });
}

/** Loads the devices' state. The vCPUs stay stopped. */
export async function load(qmp: QmpConnection, uri: string, signal: AbortSignal): Promise<void> {
  await qmp.execute('migrate-incoming', { uri });
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
    const { status } = await qmp.execute('query-status');
    if (status !== 'inmigrate' && status !== 'prelaunch') return;
    const migration = await qmp.execute('query-migrate');
    if (migration.status === 'failed') {
      throw new LodgeError(
        'hypervisor_failed',
        `The state of its devices can’t be read: ${migration['error-desc'] ?? 'no reason given'}.`,
      );
    }
    signal.throwIfAborted();
    await delay(pauseMs);
  }
}

/** Does `work` on all items, so many at a time, and gives the answers in their order. Ends at the first failure. */
async function inPool<T, R>(
  items: readonly T[],
  width: number,
  work: (item: T, index: number) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const left = items.entries();
  let hasFailed = false;
  const one = async (): Promise<void> => {
    for (const [index, item] of left) {
      if (hasFailed) return;
      results[index] = await work(item, index);
    }
  };
  const workers = await Promise.allSettled(
    Array.from({ length: Math.min(width, items.length) }, () =>
      one().catch((error: unknown) => {
        hasFailed = true;
        throw error;
      }),
    ),
  );
  const failure = workers.find((worker) => worker.status === 'rejected');
  if (failure) throw failure.reason;
  return results;
}

/** Throws `unsupported` for a guest whose state copies could not load. */
export function requireForkable(name: string, pinned: Pick<VmPinned, 'hotplug' | 'arguments'>): void {
  requireSavable(name, pinned);
  // QEMU 10.0.2 has died or stood still while the memory of such guests was frozen for copies.
  if (pinned.hotplug !== undefined && memoryDevice in pinned.hotplug.slots)
    throw new LodgeError('unsupported', `VM ${name} had memory added while it ran, and can not be forked.`, {
      hint: 'Restart it first: it then has all its memory from the beginning.',
    });
  if (pinned.arguments.includes('-numa'))
    throw new LodgeError(
      'unsupported',
      `VM ${name} has NUMA nodes of its own (spec.numa.cells), and can not be forked.`,
      { hint: 'Clone it, or take spec.numa.cells out and restart it.' },
    );
  if (pinned.arguments.some((argument) => argument.includes('"hugetlb":true')))
    throw new LodgeError(
      'unsupported',
      `VM ${name} has huge pages (spec.memoryBacking.pageSize), and can not be forked.`,
      { hint: 'Clone it, or take spec.memoryBacking.pageSize out and restart it.' },
    );
}
