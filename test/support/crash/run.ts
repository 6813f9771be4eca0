// Cycles of: random operations, SIGKILL of the daemon at a random moment, restart, and a look at everything. Stops at the
// first cycle after which something is not as it must be, and says what, with the seed that does it again.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../../src/api/errors.ts';
import { type Cleanup } from '../cleanup.ts';
import { prepareDaemon, type TestDaemon } from '../daemon.ts';
import { networkNamespace } from '../namespace.ts';
import { eventually } from '../wait.ts';
import { findMistakes, findProblems } from './invariants.ts';
import { anyOperation, type World } from './operations.ts';
import { Random } from './random.ts';

export interface CrashOptions {
  driver: 'fake' | 'qemu';
  cycles: number;
  seed: number;
  /** See {@link World.only}. */
  only?: readonly string[] | undefined;
  /** Told after each cycle. */
  onCycle?: (line: string) => void;
}

export interface CrashResult {
  cycles: number;
  /** Operations asked for, and how many of them were answered before the daemon died. */
  operations: number;
  answered: number;
  /** Tasks that were under way when the daemon was killed. */
  interrupted: number;
  /** Restarts that were killed before they were ready. */
  doubleKills: number;
}

const settledLine = '"everything is as it should be"';
/** How long after a restart all may take to settle: cancelled steps and adopted guests included. */
const settleMs = 45_000;
const imageMib = 2;

export async function runCrashCycles(test: Cleanup, options: CrashOptions): Promise<CrashResult> {
  const { driver, cycles, seed, only, onCycle = () => {} } = options;
  const random = new Random(seed);
  const namespace = await networkNamespace(test);
  const daemon = await prepareDaemon(test, {
    driver,
    // Not by `ip netns exec`, which mounts another /sys: without control groups.
    namespace: {
      ...namespace,
      command: (argv) => ['nsenter', `--net=/run/netns/${namespace.name}`, '--', ...argv],
    },
    // The look at networks by interval would put right what a crash left: a restart alone must do it.
    config: { isDevelopment: true, logLevel: 'info', networks: { checkIntervalS: 3600 } },
    readyTimeoutMs: 60_000,
  });
  const imagePath = join(daemon.folder, 'small.raw');
  const imageBytes = await smallImage();
  await writeFile(imagePath, imageBytes);
  const result: CrashResult = { cycles: 0, operations: 0, answered: 0, interrupted: 0, doubleKills: 0 };
  const history: string[] = [];
  await start(daemon);
  await settle({ daemon, namespace, driver });
  for (let cycle = 1; cycle <= cycles; cycle++) {
    const known = await readNames(daemon);
    const world: World = { client: daemon.client, random, driver, only, imagePath, imageBytes, known };
    const ran = await operate(daemon, world);
    result.operations += ran.names.length;
    result.answered += ran.answered;
    result.interrupted += ran.interrupted;
    if (random.chance(0.25)) {
      result.doubleKills++;
      await startAndKill(daemon, random.below(1500));
    }
    await start(daemon);
    history.push(`cycle ${cycle}: ${ran.names.join('; ')}`);
    try {
      await settle({ daemon, namespace, driver });
      await checkLog(daemon);
    } catch (error) {
      const told = history.slice(-3).join('\n');
      throw new Error(`cycle ${cycle} of seed ${seed}: ${(error as Error).message}\nafter\n${told}`, { cause: error });
    }
    result.cycles = cycle;
    const what = only ? ` (${ran.names.join('; ')})` : '';
    onCycle(`cycle ${cycle}/${cycles}: ${ran.names.length} operations${what}, ${ran.interrupted} tasks interrupted`);
  }
  await clear(daemon);
  await settle({ daemon, namespace, driver });
  return result;
}

async function readNames({ client }: TestDaemon): Promise<World['known']> {
  const [vms, volumes, networks, images, groups, templates] = await Promise.all([
    client.vm.list(),
    client.volume.list(),
    client.network.list(),
    client.image.list(),
    client.group.list(),
    client.template.list(),
  ]);
  const names = ({ items }: { items: { name: string }[] }): string[] => items.map(({ name }) => name);
  return {
    vms: new Map(vms.items.map((vm) => [vm.name, vm.status.state])),
    volumes: names(volumes),
    networks: names(networks),
    images: names(images),
    groups: names(groups),
    templates: names(templates),
  };
}

/** A blank disk image whose first bytes are a boot sector that does nothing. */
async function smallImage(): Promise<Uint8Array> {
  const bytes = new Uint8Array(imageMib * 2 ** 20);
  bytes.set([0xf4, 0xeb, 0xfd], 0);
  bytes.set([0x55, 0xaa], 510);
  return bytes;
}

/** Does operations until the daemon is killed, at a moment that was chosen before. */
async function operate(
  daemon: TestDaemon,
  world: World,
): Promise<{ names: string[]; answered: number; interrupted: number }> {
  const { random } = world;
  const count = 3 + random.below(10);
  const steps = Array.from({ length: count }, () => ({ ...anyOperation(world), pauseMs: random.below(50) }));
  // Most kills fall into the time in which something is done; what QEMU does takes longer.
  const killAtMs = random.below(count * 30 + (world.driver === 'fake' ? 200 : 2000));
  const names: string[] = [];
  const calls: Promise<unknown>[] = [];
  let answered = 0;
  const began = performance.now();
  const killed = delay(killAtMs).then(() => daemon.kill());
  for (const { name, run, pauseMs } of steps) {
    if (performance.now() - began >= killAtMs) break;
    names.push(name);
    const call = run().then(
      () => void answered++,
      (error: unknown) => {
        if (!(error instanceof LodgeError) || error.code === 'internal') throw error;
        if (error.code !== 'unavailable') answered++;
      },
    );
    calls.push(call);
    await delay(pauseMs);
  }
  await killed;
  await Promise.all(calls);
  return { names, answered, interrupted: await unfinishedTasks(daemon) };
}

/** Tasks that had begun and not ended, counted in the log of the next start; the database is the daemon's own. */
async function unfinishedTasks(daemon: TestDaemon): Promise<number> {
  const { DatabaseSync } = await import('node:sqlite');
  const database = new DatabaseSync(join(daemon.folder, 'data/lodge.db'), { readOnly: true });
  try {
    const tables = database.prepare("select name from sqlite_master where type = 'table'").all() as { name: string }[];
    for (const { name } of tables) {
      const columns = database.prepare(`select name from pragma_table_info('${name}')`).all() as { name: string }[];
      if (!columns.some((column) => column.name === 'key') || !columns.some((column) => column.name === 'value'))
        continue;
      const rows = database
        .prepare(`select value from ${name} where key >= '/lodge/tasks/' and key < '/lodge/tasks0'`)
        .all() as { value: string | Uint8Array }[];
      if (rows.length === 0) continue;
      return rows.filter(({ value }) => /"state":"(running|undoing|cancelling)","steps"/.test(String(value))).length;
    }
    return 0;
  } finally {
    database.close();
  }
}

async function start(daemon: TestDaemon): Promise<void> {
  const before = await settledCount(daemon);
  await daemon.start();
  await eventually(async () => (await settledCount(daemon)) > before, {
    timeoutMs: settleMs,
    describe: 'the daemon has completed its start',
    intervalMs: 50,
  });
}

async function settledCount(daemon: TestDaemon): Promise<number> {
  return (await daemon.log().catch(() => '')).split(settledLine).length;
}

/** Kills the daemon before it has come up, or soon after. */
async function startAndKill(daemon: TestDaemon, afterMs: number): Promise<void> {
  const starting = daemon.start().catch(() => {});
  await delay(afterMs);
  await daemon.kill();
  await starting;
}

async function settle(place: Parameters<typeof findProblems>[0]): Promise<void> {
  const deadline = performance.now() + settleMs;
  let problems = ['not looked at'];
  for (let pauseMs = 50; problems.length > 0; pauseMs = Math.min(pauseMs * 2, 1000)) {
    problems = await findProblems(place);
    if (problems.length > 0 && performance.now() > deadline) throw new Error(problems.join('\n'));
    if (problems.length > 0) await delay(pauseMs);
  }
}

/** The daemon's own mistakes: they may have no visible effect and are mistakes all the same. */
async function checkLog(daemon: TestDaemon): Promise<void> {
  const mistakes = findMistakes(await daemon.log());
  if (mistakes.length > 0) throw new Error(`the daemon logged mistakes:\n${mistakes.slice(0, 5).join('\n')}`);
}

/** Deletes everything there is, so that what then is left was forgotten. */
async function clear(daemon: TestDaemon): Promise<void> {
  const { client } = daemon;
  const empty = async (): Promise<boolean> => {
    const groups = (await client.group.list()).items;
    for (const { id } of groups) await client.group.delete({ params: { group: id } }).catch(ignore);
    const vms = (await client.vm.list()).items;
    for (const { id } of vms) await client.vm.delete({ params: { vm: id }, query: { force: true } }).catch(ignore);
    const templates = (await client.template.list()).items;
    for (const { id } of templates) await client.template.delete({ params: { template: id } }).catch(ignore);
    const volumes = (await client.volume.list()).items;
    for (const { id } of volumes) await client.volume.delete({ params: { volume: id } }).catch(ignore);
    const images = (await client.image.list()).items;
    for (const { id } of images) await client.image.delete({ params: { image: id } }).catch(ignore);
    const networks = (await client.network.list()).items;
    for (const { id } of networks) await client.network.delete({ params: { network: id } }).catch(ignore);
    const left = [groups, vms, templates, volumes, images, networks];
    return left.every((items) => items.length === 0);
  };
  await eventually(empty, { timeoutMs: settleMs, describe: 'everything is deleted', intervalMs: 300 });
}

function ignore(error: unknown): void {
  if (!(error instanceof LodgeError) || error.code === 'internal') throw error;
}
