// What tests of the task engine begin with: a store of its own for each, and engines on it that stop when it ends.
import { afterEach, beforeEach } from 'node:test';
import type { SqliteStore } from '../store/sqlite.ts';
import type { Store } from '../store/store.ts';
import type { TaskEngine } from './task-engine.ts';
import { startEngine, temporaryStore } from './task.conformance.ts';
import type { TaskType } from './task.ts';

export interface EngineScene {
  /** The store of the test that runs. */
  readonly store: SqliteStore;
  /** An engine that runs, on that store or another. */
  start: (types: readonly TaskType[], options?: Parameters<typeof startEngine>[2], on?: Store) => Promise<TaskEngine>;
  /** Has an engine that the test made itself stopped at its end. */
  keep: (engine: TaskEngine) => void;
}

/** To be called in a suite: sets up each of its tests and tidies up after it. */
export function engineScene(): EngineScene {
  let current: Awaited<ReturnType<typeof temporaryStore>> | null = null;
  let engines: TaskEngine[] = [];
  beforeEach(async () => {
    current = await temporaryStore();
    engines = [];
  });
  afterEach(async () => {
    for (const engine of engines) await engine.stop();
    await current?.remove();
    current = null;
  });
  const scene: EngineScene = {
    get store() {
      if (current === null) throw new Error('There is a store only while a test runs.');
      return current.store;
    },
    start: async (types, options = {}, on = scene.store) => {
      const engine = await startEngine(on, types, options);
      engines.push(engine);
      return engine;
    },
    keep: (engine) => void engines.push(engine),
  };
  return scene;
}
