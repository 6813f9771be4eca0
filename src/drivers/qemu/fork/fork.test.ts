import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import { frozenFile } from '../../../../test/support/frozen-file.ts';
import { temporaryFolder } from '../../../../test/support/temporary.ts';
import { eventually } from '../../../../test/support/wait.ts';
import { LodgeError } from '../../../api/errors.ts';
import { type Guest, type GuestDefinition } from '../../driver.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { forkGuest, type ForkParts, type FrozenFile, type WaitingCopy } from './fork.ts';
import { type Freeze, type FreezeRequest } from './freeze.ts';

const pages = ['a', null, 'c', null];

interface Scene {
  /** What happened, in its order. */
  seen: string[];
  /** The guest runs on, or could not be frozen. */
  freezing: PromiseWithResolvers<Freeze>;
  outcome: ReturnType<typeof forkGuest>;
}

/** A fork into so many copies, whose processes are words in a list. `failAt`: the copy that can't load its devices. */
async function fork(context: TestContext, count: number, failAt = Infinity): Promise<Scene> {
  const folder = await temporaryFolder(context);
  const seen: string[] = [];
  const freezing = Promise.withResolvers<Freeze>();
  const makeFile = async (name: string): Promise<FrozenFile> => {
    const path = join(folder, name);
    await writeFile(path, '');
    const descriptor = openSync(path, 'r+');
    const seal = async (): Promise<void> => void seen.push('sealed');
    return { path, descriptor, seal, close: () => closeSync(descriptor) };
  };
  const launch = async ({ name }: GuestDefinition): Promise<WaitingCopy> => {
    seen.push(`${name} starts`);
    const execute = async (command: string): Promise<unknown> => {
      if (command === 'migrate-incoming') {
        seen.push(`${name} loads`);
        if (name === `copy ${failAt}`) throw new LodgeError('hypervisor_failed', 'Its devices are not those.');
      }
      return { status: 'paused' };
    };
    return {
      guest: { name } as unknown as Guest,
      qmp: { execute } as unknown as QmpConnection,
      streamUri: 'file:stream',
      run: async () => void seen.push(`${name} runs`),
      giveUp: async (error) => {
        seen.push(`${name} is given up`);
        return error instanceof LodgeError ? error : new LodgeError('cancelled', 'It was given up.');
      },
    };
  };
  const parts: ForkParts<Guest> = {
    name: 'web1',
    freeze: async ({ path }: FreezeRequest) => {
      seen.push('freezing');
      const freeze = await freezing.promise;
      await writeFile(path, frozenFile([{ name: 'pc.ram', pages }]));
      seen.push('the guest runs on');
      return freeze;
    },
    files: async () => [await makeFile('memory'), await makeFile('stream')],
    block: { name: 'pc.ram', size: pages.length * 4096 },
    launch,
  };
  const outcome = forkGuest(parts, {
    copies: Array.from(
      { length: count },
      (_, index) => async () => ({ name: `copy ${index}` }) as unknown as GuestDefinition,
    ),
    deadline: new AbortController().signal,
  });
  outcome.catch(() => {});
  return { seen, freezing, outcome };
}

/** Waits until the guest is being frozen and the first copy starts. */
function untilBegun({ seen }: Scene): Promise<unknown> {
  return eventually(async () => seen.includes('freezing') && seen.includes('copy 0 starts'), {
    describe: 'a copy starts while the guest is frozen',
    timeoutMs: 60_000,
  });
}

const frozen: Freeze = { pauseMs: 4, settled: Promise.resolve() };

void suite('fork', () => {
  void test('only one copy starts before the guest runs on, however many there are', async (context) => {
    const scene = await fork(context, 20);
    await untilBegun(scene);
    scene.freezing.resolve(frozen);
    const { copies, pauseMs } = await scene.outcome;
    assert.equal(copies.length, 20);
    assert.equal(pauseMs, 4);
    const runsOn = scene.seen.indexOf('the guest runs on');
    const starts = scene.seen.flatMap((what, at) => (what.endsWith(' starts') && what !== 'copy 0 starts' ? [at] : []));
    assert.equal(starts.length, 19);
    assert.ok(
      starts.every((at) => at > runsOn),
      scene.seen.join(', '),
    );
  });

  void test('no copy runs before its memory is sealed', async (context) => {
    const scene = await fork(context, 3);
    scene.freezing.resolve(frozen);
    await scene.outcome;
    const sealed = scene.seen.indexOf('sealed');
    assert.ok(sealed > 0);
    assert.ok(scene.seen.every((what, at) => !what.endsWith(' runs') || at > sealed));
  });

  void test('when the guest can’t be frozen, the copy that has started is given up and no other starts', async (context) => {
    const scene = await fork(context, 5);
    await untilBegun(scene);
    scene.freezing.reject(new LodgeError('unsupported', 'Its memory can’t be saved.'));
    await assert.rejects(scene.outcome, { code: 'unsupported' });
    assert.deepEqual(scene.seen.toSorted(), ['copy 0 is given up', 'copy 0 starts', 'freezing']);
  });

  void test('when one copy fails, none is left', async (context) => {
    const scene = await fork(context, 4, 2);
    scene.freezing.resolve(frozen);
    await assert.rejects(scene.outcome, { code: 'hypervisor_failed', message: /Its devices are not those/ });
    const starts = scene.seen.filter((what) => what.endsWith(' starts')).length;
    assert.equal(scene.seen.filter((what) => what.endsWith(' is given up')).length, starts);
  });
});
