// What was measured of leaving a guest on this node: the last of them are kept, so that a new kernel or QEMU can be compared
// with the one before.
import { loadavg } from 'node:os';
import * as z from 'zod';
import { type Node } from '../../api/node.ts';
import { keptMeasurements, nodeMeasurement, rungExits, type NodeMeasurement } from '../../api/node-measurement.ts';
import { type Driver } from '../../drivers/driver.ts';
import { type Store } from '../store/store.ts';
import { defineTask, type TaskType } from '../task/task.ts';

export type MeasureTask = TaskType<Record<never, never>>;

/** Three runs on each rung, each with a deadline. */
const longestMs = 240_000;
const kept = z.array(nodeMeasurement);

export class NodeMeasurements {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** The newest first. */
  async list(nodeId: string): Promise<NodeMeasurement[]> {
    const found = await this.#store.get(keyOf(nodeId));
    return found ? kept.parse(JSON.parse(found.value)) : [];
  }

  /** Adds one, in place of what the same task has added before. */
  async add(nodeId: string, measurement: NodeMeasurement): Promise<void> {
    const others = (await this.list(nodeId)).filter(({ taskId }) => taskId !== measurement.taskId);
    await this.#write(nodeId, [measurement, ...others].slice(0, keptMeasurements));
  }

  async remove(nodeId: string, taskId: string): Promise<void> {
    const all = await this.list(nodeId);
    const rest = all.filter((one) => one.taskId !== taskId);
    if (rest.length < all.length) await this.#write(nodeId, rest);
  }

  // Only the task writes, and there is one of them at a time.
  async #write(nodeId: string, all: readonly NodeMeasurement[]): Promise<void> {
    await this.#store.transact({ success: [{ put: keyOf(nodeId), value: JSON.stringify(all) }] });
  }
}

function keyOf(nodeId: string): string {
  return `/lodge/node-measurements/${nodeId}`;
}

export interface MeasureTaskParts {
  driver: Driver;
  measurements: NodeMeasurements;
  node: () => MeasuredNode;
}

/** What is written down of a node with what was measured on it. */
export type MeasuredNode = Pick<NodeMeasurement, 'kernel' | 'hypervisor' | 'processor'> & { id: string };

export function measuredNode({ id, status: { kernel, driver, cpu } }: Node): MeasuredNode {
  return { id, kernel, hypervisor: `${driver.name} ${driver.version ?? ''}`.trim(), processor: cpu.model };
}

/** Measures, and writes down what was measured. */
export function measureTask({ driver, measurements, node }: MeasureTaskParts): MeasureTask {
  return defineTask({
    type: 'node.measure',
    input: z.strictObject({}),
    state: z.object({ at: z.string(), loadAverage: z.number(), rungs: z.array(rungExits) }),
    // The guests of a node can be shut down meanwhile.
    exclusiveKey: () => 'node-measure',
    steps: [
      {
        name: 'time what leaves a guest',
        weight: 20,
        timeoutMs: longestMs,
        run: async ({ signal, progress, remember }) => {
          const begun = { at: new Date().toISOString(), loadAverage: loadavg()[0] ?? 0 };
          const rungs = await driver.measureExits({ signal, onProgress: (percent) => progress({ percent }) });
          await remember({ ...begun, rungs });
        },
      },
      {
        name: 'keep the result',
        timeoutMs: 10_000,
        run: async ({ taskId, state: { at, loadAverage, rungs } }) => {
          const { id, ...what } = node();
          await measurements.add(id, { at: at!, taskId, ...what, loadAverage: loadAverage!, rungs: rungs! });
        },
        undo: ({ taskId }) => measurements.remove(node().id, taskId),
      },
    ],
  });
}
