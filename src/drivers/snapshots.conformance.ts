// What every driver must keep of the promises about layers of disks and saved memory in driver.ts (GuestSnapshots).
import assert from 'node:assert/strict';
import { access, mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext } from 'node:test';
import { run } from '../host/command.ts';
import { createLayer, readLayerSize } from '../host/image/layer.ts';
import { createVolume } from '../host/image/volume.ts';
import { driverSuite, failure, Messages, type DriverSubject, type Subject } from './conformance-subject.ts';
import { plainHardware } from './driver.conformance.ts';
import { type DiskLayer, type FreshLayer, type Guest, type GuestDefinition, type LayerMerge } from './driver.ts';

const mib = 2 ** 20;
const sizeMib = 8;
const disks = ['root', 'data'] as const;

/** A guest with two disks, each of a layer that holds an `a`. */
class Scene {
  readonly definition: GuestDefinition;
  readonly #folder: string;
  readonly #tops = new Map<string, DiskLayer>();

  private constructor(definition: GuestDefinition, folder: string) {
    this.definition = definition;
    this.#folder = folder;
  }

  static async make(subject: Subject): Promise<Scene> {
    const plain = await subject.given.define();
    const folder = join(dirname(plain.directory), `disks-${plain.id}`);
    await mkdir(folder, { recursive: true });
    const given: GuestDefinition['disks'] = [];
    for (const name of disks) {
      const base: DiskLayer = { path: join(folder, `${name}-base.qcow2`), format: 'qcow2' };
      await createVolume({ ...base, sizeBytes: sizeMib * mib });
      await write(base, 0, 'a');
      given.push({ name, device: 'disk', bus: 'virtio', cache: 'writeback', isReadOnly: false, layers: [base] });
    }
    const hardware = plainHardware(plain.spec, { firmware: plain.firmware, disks: given });
    const scene = new Scene({ ...plain, disks: given, hardware }, folder);
    for (const { name, layers } of given) scene.#tops.set(name, layers[0]!);
    return scene;
  }

  layer(disk: string, name: string): DiskLayer {
    return { path: join(this.#folder, `${disk}-${name}.qcow2`), format: 'qcow2' };
  }

  file(name: string): string {
    return join(this.#folder, name);
  }

  /** Makes an empty layer of this name on each disk; with `letter`, one that holds it at that place. */
  async fresh(name: string, content?: { atMib: number; letter: string }): Promise<FreshLayer[]> {
    const made: FreshLayer[] = [];
    for (const disk of disks) {
      const layer = this.layer(disk, name);
      const backing = this.#tops.get(disk)!;
      await createLayer({ path: layer.path, backing, sizeBytes: await readLayerSize(backing) });
      if (content) await write(layer, content.atMib, content.letter);
      this.#tops.set(disk, layer);
      made.push({ disk, layer });
    }
    return made;
  }

  /** The names of the layers that the guest has open on a disk. */
  async chain(guest: Guest, disk: string = 'root'): Promise<string[]> {
    const open = (await guest.snapshots.layers()).get(disk) ?? [];
    return open.map((path) => path.slice(this.#folder.length + disk.length + 2, -'.qcow2'.length));
  }

  /** A merge on the disk `root`, of layers by their names from the lowest up. */
  merge([below, lower, upper, above]: (string | null)[], into: 'upper' | 'lower'): LayerMerge {
    const named = (name: string | null | undefined): DiskLayer | null => (name ? this.layer('root', name) : null);
    return { disk: 'root', upper: named(upper)!, lower: named(lower)!, below: named(below), above: named(above), into };
  }
}

async function write({ path }: DiskLayer, atMib: number, letter: string): Promise<void> {
  // Without what it is based on, which a guest may have open.
  const alone = { driver: 'qcow2', backing: null, file: { driver: 'file', filename: path } };
  await run(['qemu-io', '-c', `write -P ${letter.charCodeAt(0)} ${atMib}M 1M`, `json:${JSON.stringify(alone)}`]);
}

/** Whether layers, top first, read as these letters, one a MiB. */
async function reads(layers: readonly DiskLayer[], letters: string): Promise<void> {
  let below: object | null = null;
  for (const { path, format } of layers.toReversed())
    below = { driver: format, file: { driver: 'file', filename: path }, backing: below };
  const commands = letters.split('').flatMap((letter, at) => ['-c', `read -P ${letter.charCodeAt(0)} ${at}M 1M`]);
  const { stdout } = await run(['qemu-io', '-r', ...commands, `json:${JSON.stringify(below)}`]);
  assert.ok(!stdout.includes('verification failed'), `not ${letters}: ${stdout}`);
}

/** Runs the suite against a driver. `setup` is called for each test. */
export function snapshotsConformance(name: string, setup: (context: TestContext) => Promise<DriverSubject>): void {
  driverSuite(`${name} keeps the promises about layers and saved memory`, setup, (check) => {
    check('all disks are frozen in one step, or none, and the guest runs on', async (subject) => {
      const scene = await Scene.make(subject);
      const { guest } = await subject.start(scene.definition);
      const messages = new Messages(guest);
      assert.deepEqual([...(await guest.snapshots.layers()).keys()].toSorted(), ['data', 'root']);
      assert.deepEqual(await scene.chain(guest), ['base']);
      const fresh = await scene.fresh('one');
      await guest.snapshots.open(fresh);
      await guest.snapshots.open(fresh);
      assert.deepEqual(await scene.chain(guest), ['base'], 'opening them changes nothing');
      await guest.snapshots.freeze(fresh);
      const [root, another] = await scene.fresh('two');
      const unknown = [root!, { ...another!, disk: 'nowhere' }];
      await failure(guest.snapshots.freeze(unknown), ['wrong_state'], 'a disk that is not there');
      for (const disk of disks) assert.deepEqual(await scene.chain(guest, disk), ['one', 'base']);
      await guest.pause();
      await guest.snapshots.freeze([root!, another!]);
      for (const disk of disks) assert.deepEqual(await scene.chain(guest, disk), ['two', 'one', 'base']);
      assert.equal(await guest.state(), 'paused');
      await guest.resume();
      assert.deepEqual(
        messages.all.filter(({ type }) => type !== 'state'),
        [],
      );
    });

    check('two layers become one, whichever they are, and nothing is lost', async (subject) => {
      const scene = await Scene.make(subject);
      const { guest } = await subject.start(scene.definition);
      for (const [index, name] of ['one', 'two', 'three', 'four', 'five'].entries())
        await guest.snapshots.freeze(await scene.fresh(name, { atMib: index + 1, letter: 'bcdef'[index]! }));
      const progress: number[] = [];
      const merge = (names: (string | null)[], into: 'upper' | 'lower'): Promise<void> =>
        guest.snapshots.merge(scene.merge(names, into), { onProgress: (done) => progress.push(done) });
      await merge(['base', 'one', 'two', 'three'], 'lower');
      assert.deepEqual(await scene.chain(guest), ['five', 'four', 'three', 'one', 'base']);
      await merge(['base', 'one', 'three', 'four'], 'upper');
      assert.deepEqual(await scene.chain(guest), ['five', 'four', 'three', 'base']);
      let atSwitch: string[] = [];
      await guest.snapshots.merge(scene.merge(['three', 'four', 'five', null], 'lower'), {
        onSwitch: async () => void (atSwitch = await scene.chain(guest)),
      });
      assert.deepEqual(atSwitch, ['five', 'four', 'three', 'base'], 'it is written down before it is so');
      assert.deepEqual(await scene.chain(guest), ['four', 'three', 'base']);
      await merge([null, 'base', 'three', 'four'], 'upper');
      await merge([null, 'three', 'four', null], 'upper');
      assert.deepEqual(await scene.chain(guest), ['four']);
      assert.deepEqual(await scene.chain(guest, 'data'), ['five', 'four', 'three', 'two', 'one', 'base']);
      assert.ok(progress.length > 0, 'it tells how far it is');
      await guest.end();
      await reads([scene.layer('root', 'four')], 'abcdef');
    });

    check('a merge that fails or is cancelled leaves both layers, and can be done again', async (subject) => {
      const scene = await Scene.make(subject);
      const { guest } = await subject.start(scene.definition);
      await guest.snapshots.freeze(await scene.fresh('one', { atMib: 1, letter: 'b' }));
      const top = scene.merge([null, 'base', 'one', null], 'lower');
      const refused = new Error('it could not be written down');
      await assert.rejects(guest.snapshots.merge(top, { onSwitch: () => Promise.reject(refused) }), refused);
      await failure(guest.snapshots.merge(top, { signal: AbortSignal.abort() }), ['cancelled'], 'cancelled before');
      const cancelling = new AbortController();
      const late = guest.snapshots.merge(top, {
        signal: cancelling.signal,
        onProgress: () => cancelling.abort(),
        onSwitch: () => Promise.reject(refused),
      });
      await late.then(
        () => assert.fail('it was not merged'),
        () => {},
      );
      const strangers = scene.merge([null, 'one', 'two', null], 'lower');
      await failure(guest.snapshots.merge(strangers), ['internal'], 'layers that are not there');
      assert.deepEqual(await scene.chain(guest), ['one', 'base']);
      assert.equal(await guest.state(), 'running');
      await guest.snapshots.merge(top);
      assert.deepEqual(await scene.chain(guest), ['base']);
      await guest.end();
      await reads([scene.layer('root', 'base')], 'ab');
    });

    check('another daemon finds the layers as they are, and can go on', async (subject) => {
      const scene = await Scene.make(subject);
      const { guest } = await subject.start(scene.definition);
      await guest.snapshots.freeze(await scene.fresh('one'));
      const open = await guest.snapshots.layers();
      await guest.snapshots.open(await scene.fresh('never'));
      await subject.driver.close();
      subject.replaceDriver();
      const adopted = await subject.adopt(guest, scene.definition);
      assert.deepEqual(await adopted.snapshots.layers(), open);
      await adopted.snapshots.settle(open);
      await adopted.snapshots.settle(open);
      assert.deepEqual(await adopted.snapshots.layers(), open);
      await adopted.snapshots.merge(scene.merge([null, 'base', 'one', null], 'upper'));
      assert.deepEqual(await scene.chain(adopted), ['one']);
    });

    check(
      'memory is saved of the moment in which the disks are frozen, and a start goes on from it',
      async (subject) => {
        const scene = await Scene.make(subject);
        const { guest, definition } = await subject.start(scene.definition);
        const messages = new Messages(guest);
        const path = scene.file('memory');
        const progress: number[] = [];
        const capture = await guest.snapshots.capture(await scene.fresh('one'), {
          path,
          onProgress: (done) => progress.push(done),
        });
        assert.deepEqual(await scene.chain(guest), ['one', 'base']);
        assert.notEqual(capture.reason, '');
        assert.ok(capture.pauseMs >= 0);
        assert.ok((await capture.finish()) > 0);
        assert.ok(progress.length > 0, 'it tells how far it is');
        assert.equal(await guest.state(), 'running');
        assert.deepEqual(messages.all, [], 'that it stood still for a moment is not told');

        await guest.pause();
        const paused = await guest.snapshots.capture([], { path: scene.file('paused') });
        await paused.finish();
        assert.equal(await guest.state(), 'paused', 'a guest that was paused stays so');
        const { pinned } = guest;
        await guest.end();

        await subject.driver.useSavedState(definition, path);
        assert.ok(await subject.driver.hasSavedState(definition));
        const again = await scene.fresh('two');
        const layersOf = (disk: string): DiskLayer[] => [
          again.find((one) => one.disk === disk)!.layer,
          scene.layer(disk, 'one'),
          scene.layer(disk, 'base'),
        ];
        const restored = await subject.start(
          { ...definition, pinned, disks: definition.disks.map((disk) => ({ ...disk, layers: layersOf(disk.name) })) },
          { isRestoring: true },
        );
        assert.equal(await restored.guest.state(), 'running');
        assert.deepEqual(await scene.chain(restored.guest), ['two', 'one', 'base']);
        await access(path);
      },
    );

    check('saving memory that is cancelled leaves no file, and the guest runs', async (subject) => {
      const scene = await Scene.make(subject);
      const { guest } = await subject.start(scene.definition);
      const path = scene.file('memory');
      const call = guest.snapshots.capture([], { path, signal: AbortSignal.abort() });
      await failure(call, ['cancelled'], 'cancelled');
      await assert.rejects(access(path), { code: 'ENOENT' });
      assert.equal(await guest.state(), 'running');
      const next = await guest.snapshots.capture([], { path });
      await next.finish();
      assert.equal(await guest.state(), 'running', 'and the next one succeeds');
    });
  });
}
