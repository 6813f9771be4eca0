// Layers of the disks of a running QEMU: fresh ones put on top, two made into one, all while the guest goes on.
//
// QEMU is confined and opens no file by itself: descriptors are handed to it over its second monitor, and a layer that is
// read only has none that could be written to, but while something is merged into it.
//
// A merge is a block job named after the upper layer. Merging into the layer that the guest writes, or into any other
// above the lower one, is block-stream. Merging downwards is block-commit; where the upper one is written, it goes like
// this:
//
//   running ─▶ ready ─▶ (job-complete) ─▶ pending ─▶ (onSwitch, job-finalize) ─▶ concluded ─▶ (job-dismiss)
//
// From `pending` on both layers are equal and the guest's writes wait (mirror_run in QEMU's block/mirror.c keeps the node
// drained), so what onSwitch writes down is true before the first write goes to the lower layer.
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { sendDescriptors, SendDescriptorsError, type MonitorCommand } from '../../host/launch/send-descriptors.ts';
import {
  type CallOptions,
  type CaptureOptions,
  type FreshLayer,
  type GuestSnapshots,
  type LayerMerge,
  type LayerMergeOptions,
  type MemoryCapture,
} from '../driver.ts';
import { readBlockGraph, type BlockGraph, type OpenLayer } from './block-graph.ts';
import { layerMode, layerNode, layerNodes } from './device-arguments.ts';
import { type VmPinned } from '../../api/vm.ts';
import { requireSavable } from './machine-devices.ts';
import { type VmFolder } from './folder.ts';
import { captureMemory } from './memory-capture.ts';
import { asking } from './qmp-failure.ts';
import { type QmpConnection } from './qmp/connection.ts';
import { QmpError } from './qmp/errors.ts';
import { type QmpReturn } from './qmp/commands.ts';

export interface QemuLayersParts {
  name: string;
  pinned: VmPinned;
  qmp: QmpConnection;
  folder: VmFolder;
  /** Runs work that stops and continues the guest without telling so. */
  withoutTellingState: <T>(work: () => Promise<T>) => Promise<T>;
}

/** What puts a layer that is open on a disk, as a part of a transaction. */
interface SwitchAction {
  type: 'blockdev-snapshot';
  data: { node: string; overlay: string };
}

type Job = QmpReturn<'query-jobs'>[number];

const jobPrefix = 'merge-';
const mergeMs = 6 * 3_600_000;
const settleMs = 60_000;
/** A job that was told to end does so when the requests it has under way have ended. */
const endingMs = 60_000;

export class QemuLayers implements GuestSnapshots {
  readonly #parts: QemuLayersParts;

  constructor(parts: QemuLayersParts) {
    this.#parts = parts;
  }

  layers(): Promise<ReadonlyMap<string, readonly string[]>> {
    return this.#ask('tell the layers of', async () => {
      const { disks } = await this.#graph();
      return new Map([...disks].map(([disk, layers]) => [disk, layers.map(({ path }) => path)]));
    });
  }

  open(fresh: readonly FreshLayer[]): Promise<void> {
    return this.#ask('open fresh layers for', async () => {
      const graph = await this.#graph();
      const missing = fresh.filter(({ disk, layer }) => !graph.layers.has(layerNode(disk, layer.path)));
      if (missing.length === 0) return;
      try {
        const given = await this.#give(
          missing.map(({ disk, layer: { path } }) => ({
            execute: 'add-fd',
            arguments: { opaque: path },
            descriptor: { path, mode: layerMode(cacheMode(graph, this.#topOf(graph, disk)), true) },
          })),
        );
        for (const [index, { disk, layer }] of missing.entries()) {
          const top = this.#topOf(graph, disk);
          const filename = `/dev/fdset/${given[index]!['fdset-id']}`;
          const cache = cacheMode(graph, top);
          // Without a backing node: the snapshot gives it the one that is the top until then.
          const options = { filename, isWritten: true, below: null };
          for (const node of layerNodes({ name: disk, cache }, layer, options))
            await this.#parts.qmp.execute('blockdev-add', node);
        }
      } catch (error) {
        await this.#closeUnused(missing.map(({ disk, layer }) => layerNode(disk, layer.path)));
        throw error;
      }
    });
  }

  async freeze(fresh: readonly FreshLayer[]): Promise<void> {
    await this.open(fresh);
    if (fresh.length > 0) await this.#switchBy(await this.#planSwitch(fresh));
  }

  async #planSwitch(fresh: readonly FreshLayer[]): Promise<SwitchAction[]> {
    const graph = await this.#ask('tell the layers of', () => this.#graph());
    return fresh.map(({ disk, layer }) => ({
      type: 'blockdev-snapshot',
      data: { node: this.#topOf(graph, disk).node, overlay: layerNode(disk, layer.path) },
    }));
  }

  #switchBy(actions: SwitchAction[]): Promise<void> {
    return this.#ask('freeze the disks of', async () => {
      try {
        await this.#parts.qmp.execute('transaction', { actions });
      } catch (error) {
        if (error instanceof QmpError) await this.#closeUnused(actions.map(({ data }) => data.overlay));
        throw error;
      }
    });
  }

  merge(merge: LayerMerge, options: LayerMergeOptions = {}): Promise<void> {
    const { timeoutMs = mergeMs, signal } = options;
    const late = AbortSignal.timeout(timeoutMs);
    const deadline = AbortSignal.any([late, ...(signal ? [signal] : [])]);
    return this.#ask('merge layers of', async () => {
      deadline.throwIfAborted();
      const graph = await this.#graph();
      const node = (layer: LayerMerge['upper']): string => layerNode(merge.disk, layer.path);
      const chain = graph.disks.get(merge.disk) ?? [];
      const at = chain.findIndex((layer) => layer.node === node(merge.upper));
      if (at < 0 || chain[at + 1]?.node !== node(merge.lower)) {
        throw new LodgeError('internal', `Disk ${merge.disk} of VM ${this.#parts.name} has no such layers to merge.`);
      }
      const writable = await this.#makeWritable(
        graph,
        [merge.into === 'lower' ? merge.lower : at > 0 ? merge.upper : null, merge.above]
          .filter((layer) => layer !== null)
          .map((layer) => graph.layers.get(node(layer)))
          .filter((layer) => layer !== undefined),
      );
      const id = jobPrefix + node(merge.upper);
      try {
        await this.#begin(id, merge, chain[0]!, at === 0, node);
        await this.#follow(id, deadline, options);
      } finally {
        for (const [fdset, fd] of writable)
          await this.#parts.qmp.execute('remove-fd', { 'fdset-id': fdset, fd }).catch(() => {});
      }
      await this.#closeUnused([node(merge.into === 'lower' ? merge.upper : merge.lower)]);
    }).catch((error: unknown) => {
      if (signal?.aborted) throw cancelled(this.#parts.name, error);
      if (late.aborted)
        throw new LodgeError(
          'timeout',
          `Merging layers of VM ${this.#parts.name} took longer than ${timeoutMs / 1000} s.`,
          { cause: error },
        );
      throw error;
    });
  }

  settle(layers: ReadonlyMap<string, readonly string[]>, { timeoutMs = settleMs }: CallOptions = {}): Promise<void> {
    const deadline = AbortSignal.timeout(timeoutMs);
    return this.#ask('settle the disks of', async () => {
      const { disks } = await this.#graph();
      const tops = new Map([...layers].map(([disk, [top]]) => [disk, top]));
      for (const job of await this.#jobs()) {
        const upper = job.id.slice(jobPrefix.length);
        const disk = [...disks].find(([, chain]) => chain[0]?.node === upper);
        const isSwitched = disk !== undefined && tops.has(disk[0]) && tops.get(disk[0]) !== disk[1][0]?.path;
        if (job.status === 'pending' && isSwitched) {
          await this.#parts.qmp.execute('job-finalize', { id: job.id });
          await this.#untilConcluded(job.id, deadline);
        } else await this.#cancel(job.id, deadline);
        await this.#parts.qmp.execute('job-dismiss', { id: job.id }).catch(ignoreRefusal);
      }
      const now = await this.#graph();
      const used = new Set([...now.disks.values()].flat().map((layer) => layer.node));
      await this.#closeUnused([...now.layers.keys()].filter((name) => !used.has(name)));
      await this.#forgetGiven(layers);
    });
  }

  /** Closes files of layers that were handed in by somebody who died before they were opened as layers. */
  async #forgetGiven(layers: ReadonlyMap<string, readonly string[]>): Promise<void> {
    const { qmp } = this.#parts;
    const folders = new Set([...layers.values()].flat().map((path) => dirname(path)));
    const graph = await this.#graph();
    const open = new Set([...graph.layers.values()].map(({ fdset }) => fdset));
    for (const { 'fdset-id': fdset, fds } of await qmp.execute('query-fdsets')) {
      const path = fds.find(({ opaque }) => opaque !== undefined)?.opaque;
      if (path === undefined || open.has(fdset) || !folders.has(dirname(path))) continue;
      for (const disk of layers.keys())
        await qmp.execute('blockdev-del', { 'node-name': `${layerNode(disk, path)}-file` }).catch(ignoreRefusal);
      await qmp.execute('remove-fd', { 'fdset-id': fdset }).catch(ignoreRefusal);
    }
  }

  async capture(fresh: readonly FreshLayer[], options: CaptureOptions): Promise<MemoryCapture> {
    const { name, pinned, qmp, folder, withoutTellingState } = this.#parts;
    requireSavable(name, pinned);
    const { uid } = await stat(folder.work);
    await this.open(fresh);
    const actions = await this.#planSwitch(fresh);
    const freeze = actions.length > 0 ? () => this.#switchBy(actions) : null;
    return withoutTellingState(() => captureMemory({ name, uid, qmp, folder }, freeze, options));
  }

  #graph(): Promise<BlockGraph> {
    return readBlockGraph(this.#parts.qmp, this.#parts.name);
  }

  #topOf(graph: BlockGraph, disk: string): OpenLayer {
    const [top] = graph.disks.get(disk) ?? [];
    if (top) return top;
    throw new LodgeError('wrong_state', `VM ${this.#parts.name} runs without the disk ${disk}.`, {
      hint: 'A disk that was added to its spec since the last start is attached by a restart.',
    });
  }

  async #begin(
    id: string,
    { upper, lower, below, above, into }: LayerMerge,
    top: OpenLayer,
    isActive: boolean,
    node: (layer: LayerMerge['upper']) => string,
  ): Promise<void> {
    const common = { 'job-id': id, 'auto-dismiss': false } as const;
    if (into === 'upper') {
      await this.#parts.qmp.execute('block-stream', {
        ...common,
        device: node(upper),
        // What the file says of itself is for people: by default it would name a descriptor.
        ...(below ? { 'base-node': node(below), 'backing-file': below.path } : {}),
      });
      return;
    }
    await this.#parts.qmp.execute('block-commit', {
      ...common,
      device: top.node,
      'top-node': node(upper),
      'base-node': node(lower),
      ...(isActive ? { 'auto-finalize': false } : {}),
      ...(above ? { 'backing-file': lower.path } : {}),
    });
  }

  async #follow(id: string, deadline: AbortSignal, { onProgress, onSwitch }: LayerMergeOptions): Promise<void> {
    const { qmp } = this.#parts;
    let isCompleted = false;
    try {
      for (let pauseMs = 5; ; pauseMs = Math.min(pauseMs * 2, 250)) {
        const job = (await this.#jobs()).find((one) => one.id === id);
        if (!job) throw new LodgeError('internal', `The job ${id} of VM ${this.#parts.name} has vanished.`);
        onProgress?.(job['current-progress'], job['total-progress']);
        if (job.status === 'ready' && !isCompleted) {
          await qmp.execute('job-complete', { id });
          isCompleted = true;
          pauseMs = 2;
        } else if (job.status === 'pending') {
          await onSwitch?.();
          await qmp.execute('job-finalize', { id });
          pauseMs = 2;
        } else if (job.status === 'concluded') {
          await qmp.execute('job-dismiss', { id });
          if (job.error) throw mergeFailure(this.#parts.name, job.error);
          return;
        }
        await delay(pauseMs, undefined, { signal: deadline });
      }
    } catch (error) {
      // It may have come to its end before it was told to.
      const isDone = await this.#cancel(id, AbortSignal.timeout(endingMs)).catch(() => false);
      if (!isDone) throw error;
    }
  }

  async #jobs(): Promise<Job[]> {
    return (await this.#parts.qmp.execute('query-jobs')).filter(({ id }) => id.startsWith(jobPrefix));
  }

  /** Ends a job, whatever it does, and waits until it has. Answers whether it had done its work. */
  async #cancel(id: string, deadline: AbortSignal): Promise<boolean> {
    await this.#parts.qmp.execute('job-cancel', { id }).catch(ignoreRefusal);
    const job = await this.#untilConcluded(id, deadline);
    await this.#parts.qmp.execute('job-dismiss', { id }).catch(ignoreRefusal);
    return job !== undefined && job.error === undefined;
  }

  async #untilConcluded(id: string, deadline: AbortSignal): Promise<Job | undefined> {
    for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 2, 100)) {
      const job = (await this.#jobs()).find((one) => one.id === id);
      if (!job || job.status === 'concluded') return job;
      await delay(pauseMs, undefined, { signal: deadline });
    }
  }

  /** Hands in descriptors for writing into sets that are there. Answers with set and number of each. */
  async #makeWritable(graph: BlockGraph, layers: readonly OpenLayer[]): Promise<[fdset: number, fd: number][]> {
    const given = await this.#give(
      layers.map((layer) => ({
        execute: 'add-fd',
        arguments: { 'fdset-id': layer.fdset, opaque: layer.path },
        descriptor: { path: layer.path, mode: layerMode(cacheMode(graph, layer), true) },
      })),
    );
    return given.map((one) => [one['fdset-id'], one.fd]);
  }

  async #give(commands: readonly MonitorCommand[]): Promise<QmpReturn<'add-fd'>[]> {
    if (commands.length === 0) return [];
    const { folder, name } = this.#parts;
    try {
      return (await sendDescriptors({ socketPath: folder.descriptorSocket, commands })) as QmpReturn<'add-fd'>[];
    } catch (error) {
      if (!(error instanceof SendDescriptorsError)) throw error;
      throw new LodgeError('hypervisor_failed', `QEMU of VM ${name} could not be given a disk: ${error.message}.`, {
        cause: error,
      });
    }
  }

  /** Closes layers that no disk uses, with their descriptors. */
  async #closeUnused(nodes: readonly string[]): Promise<void> {
    const { qmp } = this.#parts;
    const { layers } = await this.#graph();
    for (const node of nodes) {
      // The file alone may be there, where opening the layer on it has failed.
      await qmp.execute('blockdev-del', { 'node-name': node }).catch(ignoreRefusal);
      await qmp.execute('blockdev-del', { 'node-name': `${node}-file` }).catch(ignoreRefusal);
      const fdset = layers.get(node)?.fdset;
      if (fdset !== undefined) await qmp.execute('remove-fd', { 'fdset-id': fdset }).catch(ignoreRefusal);
    }
  }

  #ask<T>(what: string, work: () => Promise<T>): Promise<T> {
    return asking(`${what} VM ${this.#parts.name}`, work);
  }
}

function ignoreRefusal(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}

function mergeFailure(name: string, words: string): LodgeError {
  const message = `QEMU could not merge layers of VM ${name}: ${words}. Both are as they were.`;
  return /No space left|quota/i.test(words)
    ? new LodgeError('storage_full', message)
    : new LodgeError('hypervisor_failed', message);
}

function cancelled(name: string, cause: unknown): LodgeError {
  return new LodgeError('cancelled', `Merging layers of VM ${name} was cancelled; both are as they were.`, { cause });
}

/** How a layer is cached, as a cache mode of a disk: the nodes above and below it are cached alike. */
function cacheMode(graph: BlockGraph, { node }: Pick<OpenLayer, 'node'>): 'none' | 'unsafe' | 'writeback' {
  const { direct, 'no-flush': noFlush } = graph.cacheOf(node);
  return direct ? 'none' : noFlush ? 'unsafe' : 'writeback';
}
