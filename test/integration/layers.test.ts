// The layer store with its real store and real files: what freezing, holding, copying and giving up leave behind, and what
// a daemon finds that begins where another has died. Guests are played, as lists of the files they have open.
import assert from 'node:assert/strict';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type Volume } from '../../src/api/volume.ts';
import { silentLog } from '../../src/daemon/store/informer.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { type LayerHolder } from '../../src/daemon/volume/layer.ts';
import { LayerFiles } from '../../src/daemon/volume/layer-files.ts';
import { LayerMerging } from '../../src/daemon/volume/layer-merging.ts';
import { LayerRecords } from '../../src/daemon/volume/layer-records.ts';
import { VolumeLayers, type LayerUse } from '../../src/daemon/volume/volume-layers.ts';
import { initialVolumeStatus } from '../../src/daemon/volume/volume-service.ts';
import { FakeLayers } from '../../src/drivers/fake/fake-layers.ts';
import { run } from '../../src/host/command.ts';
import { createVolume } from '../../src/host/image/volume.ts';
import { atEnd } from '../support/cleanup.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const mib = 2 ** 20;
const snapshot = (id: string): LayerHolder => ({ kind: 'snapshot', id });

class World {
  readonly folder: string;
  readonly volumes = new Map<string, Volume>();
  /** The files that the guest of a volume has open; without it, there is no guest. */
  readonly open = new Map<string, string[]>();
  readonly unreachable = new Set<string>();
  #records: LayerRecords | null = null;
  #merging: LayerMerging | null = null;
  #store: SqliteStore | null = null;
  layers!: VolumeLayers;
  merging!: LayerMerging;
  records!: LayerRecords;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** Begins as a new daemon does; called again, the one before is gone. */
  async begin(): Promise<void> {
    await this.end();
    this.#store = await SqliteStore.open({ file: join(this.folder, 'lodge.db') });
    const records = new LayerRecords(this.#store, silentLog);
    await records.load();
    const files = new LayerFiles(join(this.folder, 'volumes'));
    const useOf = (id: string): LayerUse => this.#useOf(id);
    const parts = { records, files, useOf, log: silentLog };
    const imageLayer = (): never => assert.fail('there is no image');
    this.layers = new VolumeLayers({ ...parts, imageLayer, volume: (id) => this.volumes.get(id) ?? null });
    this.merging = new LayerMerging({ ...parts, store: this.layers, retryMs: 10 });
    this.#records = this.records = records;
    this.#merging = this.merging;
  }

  async end(): Promise<void> {
    await this.#merging?.close();
    await this.#records?.close();
    await this.#store?.close();
  }

  async add(name: string): Promise<Volume> {
    const spec = { description: '', sizeMib: 4, format: 'qcow2' as const };
    const common = { project: 'default', labels: {}, revision: 1, createdAt: '' };
    const volume: Volume = { ...common, id: name, name, spec, status: { ...initialVolumeStatus(), state: 'ready' } };
    this.volumes.set(name, volume);
    await createVolume({ path: join(this.folder, 'volumes', `${name}.qcow2`), format: 'qcow2', sizeBytes: 4 * mib });
    return volume;
  }

  /** A volume without a file, for a copy. */
  announce(name: string): Volume {
    const volume = { ...[...this.volumes.values()][0]!, id: name, name };
    this.volumes.set(name, volume);
    return volume;
  }

  freeze(key: string, ...volumes: Volume[]): Promise<ReadonlyMap<string, { id: string }>> {
    const isOn = volumes.some(({ id }) => this.open.has(id));
    return this.layers.freeze({
      key,
      targets: volumes.map((volume) => ({ volume, disk: volume.name })),
      onSwitch: isOn
        ? async (fresh) => {
            for (const { disk, layer } of fresh) this.open.set(disk, [layer.path, ...this.open.get(disk)!]);
          }
        : null,
    });
  }

  /** Begins a freeze that stops for ever where the guest is to switch over. The path of the fresh layer. */
  beginFreeze(volume: Volume): Promise<string> {
    const reached = Promise.withResolvers<string>();
    void this.layers.freeze({
      key: 'k',
      targets: [{ volume, disk: volume.name }],
      onSwitch: ([fresh]) => {
        reached.resolve(fresh!.layer.path);
        return new Promise(() => {});
      },
    });
    return reached.promise;
  }

  /** The frozen layer of a snapshot that is made of one volume and held. */
  async snapshot(key: string, volume: Volume): Promise<string> {
    const { id } = (await this.freeze(key, volume)).get(volume.id)!;
    await this.layers.hold([id], snapshot(key));
    return id;
  }

  async switchOn(volume: Volume): Promise<void> {
    const files = await this.layers.forStart(volume);
    this.open.set(
      volume.id,
      files.map(({ path }) => path),
    );
  }

  #graph(volume: Volume): [path: string, format: string][] {
    return this.layers.filesOf(this.layers.topOf(volume)).map(({ path, format }) => [path, format]);
  }

  async write(volume: Volume, atMib: number, letter: string): Promise<void> {
    const [[path] = ['']] = this.#graph(volume);
    const pattern = letter.charCodeAt(0);
    await run(['qemu-io', '-f', 'qcow2', '-c', `write -P ${pattern} ${atMib}M 1M`, path]);
  }

  /** The letters of a volume's MiBs, by the record alone. */
  async read(volume: Volume): Promise<string> {
    let below: object | null = null;
    for (const [path, format] of this.#graph(volume).toReversed())
      below = { driver: format, file: { driver: 'file', filename: path }, backing: below };
    const target = join(this.folder, `raw-${volume.name}`);
    await run(['qemu-img', 'convert', '-O', 'raw', `json:${JSON.stringify(below)}`, target]);
    const { stdout } = await run(['od', '-An', '-c', '-w1', '-v', `-j0`, '-N1', target]);
    let letters = stdout.trim();
    for (const at of [1, 2, 3])
      letters += (await run(['od', '-An', '-c', `-j${at * mib}`, '-N1', target])).stdout.trim();
    return letters.replaceAll('\\0', '-');
  }

  async files(): Promise<number> {
    return (await readdir(join(this.folder, 'volumes'))).length;
  }

  /** Waits until nothing is left to be merged. */
  settled(files: number): Promise<unknown> {
    return eventually(async () => (await this.files()) === files, { describe: `${files} files are left` });
  }

  #useOf(id: string): LayerUse {
    if (this.unreachable.has(id)) return { state: 'unknown', vm: id };
    if (!this.open.has(id)) return { state: 'off' };
    const snapshots = new FakeLayers({
      name: id,
      read: async () => ({ [id]: [...this.open.get(id)!] }),
      holdsMerges: () => Promise.resolve(false),
      write: async (disks) => void this.open.set(id, disks[id]!),
    });
    return { state: 'on', disk: id, snapshots, grow: () => Promise.reject(new Error('nobody grows it here')) };
  }
}

async function world(t: TestContext): Promise<World> {
  const folder = await temporaryFolder(t);
  await mkdir(join(folder, 'volumes'));
  const made = new World(folder);
  atEnd(t, () => made.end());
  await made.begin();
  return made;
}

for (const isOn of [false, true]) {
  const how = isOn ? 'while its guest runs' : 'at rest';
  test(`a volume is frozen ${how}, and what snapshots don’t need any more becomes one again`, async (t) => {
    const here = await world(t);
    const volume = await here.add('disk');
    if (isOn) await here.switchOn(volume);
    const kept: string[] = [];
    for (const [index, letter] of ['a', 'b', 'c'].entries()) {
      await here.write(volume, index, letter);
      kept.push(await here.snapshot(`s${index}`, volume));
    }
    await here.write(volume, 3, 'd');
    assert.equal(await here.read(volume), 'abcd');
    assert.deepEqual(here.layers.lineOf(volume).length, 4);
    if (isOn) assert.equal(here.open.get('disk')?.length, 4);

    await here.layers.release(snapshot('s1'));
    await here.settled(3);
    assert.equal(await here.read(volume), 'abcd');
    assert.deepEqual(
      here.layers.lineOf(volume).map(({ id }) => id),
      [here.layers.topOf(volume).id, kept[2], kept[0]],
      'a layer keeps its name when it is merged with the one below',
    );
    for (const key of ['s2', 's0']) await here.layers.release(snapshot(key));
    await here.settled(1);
    assert.equal(await here.read(volume), 'abcd');
    if (isOn) assert.equal(here.open.get('disk')?.length, 1);
    await here.begin();
    await here.layers.recover();
    assert.equal(await here.read(volume), 'abcd');
    here.open.clear();
    await here.layers.removeTop(volume);
    assert.equal(await here.files(), 0);
    assert.deepEqual([...here.records.all()], []);
  });
}

test('asked for again under the same key, a freeze answers with what it has done', async (t) => {
  const here = await world(t);
  const [one, two] = [await here.add('one'), await here.add('two')];
  const first = await here.freeze('k', one, two);
  assert.deepEqual([...(await here.freeze('k', one, two))], [...first]);
  await here.begin();
  assert.deepEqual([...(await here.freeze('k', one, two))], [...first]);
  assert.equal(await here.files(), 4);
});

test('a freeze whose answer was lost counts when the guest writes to the fresh layer, and only then', async (t) => {
  const here = await world(t);
  const volume = await here.add('disk');
  await here.switchOn(volume);
  const before = [...here.open.get('disk')!];
  const broken = (isDone: boolean): Promise<unknown> =>
    here.layers.freeze({
      key: `broken ${isDone}`,
      targets: [{ volume, disk: 'disk' }],
      onSwitch: async ([fresh]) => {
        if (isDone) here.open.set('disk', [fresh!.layer.path, ...before]);
        throw new Error('no answer');
      },
    });
  await assert.rejects(broken(false), /no answer/);
  assert.equal(await here.files(), 1);
  await broken(true);
  assert.deepEqual(
    here.layers.filesOf(here.layers.topOf(volume)).map(({ path }) => path),
    here.open.get('disk'),
  );
});

for (const [how, look] of [
  ['the guest runs and writes to it', { isOpen: true, isWritten: true }],
  ['the guest runs and has never seen it', { isOpen: false, isWritten: false }],
  ['there is no guest any more, and it was written to', { isOpen: null, isWritten: true }],
  ['there is no guest any more, and it is empty', { isOpen: null, isWritten: false }],
] as const) {
  test(`a daemon that died in a freeze leaves no half of it: ${how}`, async (t) => {
    const here = await world(t);
    const volume = await here.add('disk');
    await here.write(volume, 0, 'a');
    await here.switchOn(volume);
    const before = here.open.get('disk')!;
    const path = await here.beginFreeze(volume);
    if (look.isWritten) await run(['qemu-io', '-f', 'qcow2', '-c', 'write -P 98 1M 1M', path]);
    if (look.isOpen) here.open.set('disk', [path, ...before]);
    if (look.isOpen === null) here.open.clear();
    await here.begin();
    await here.layers.recover();
    assert.deepEqual([...here.records.changes()], []);
    // Nobody holds what was frozen, so it is merged at once; what is read meanwhile would be in the way of that.
    await here.settled(1);
    assert.equal(await here.read(volume), look.isWritten ? 'ab--' : 'a---');
  });
}

test('a freeze that was cut off waits for a guest that does not answer, and its files are kept', async (t) => {
  const here = await world(t);
  const volume = await here.add('disk');
  await here.switchOn(volume);
  const path = await here.beginFreeze(volume);
  here.open.set('disk', [path, ...here.open.get('disk')!]);
  here.unreachable.add('disk');
  await here.begin();
  await here.layers.recover();
  assert.ok(here.layers.isKnownFile(path.split('/').at(-1)!));
  await assert.rejects(here.freeze('k', volume), { code: 'busy' });
  here.unreachable.clear();
  await here.freeze('k', volume);
  assert.equal(here.layers.lineOf(volume).length, 2);
});

test('copies of a frozen layer live on their own, and it stays until they go', async (t) => {
  const here = await world(t);
  const volume = await here.add('disk');
  await here.write(volume, 0, 'a');
  const frozen = await here.snapshot('s', volume);
  const copies = ['c1', 'c2'].map((name) => here.announce(name));
  for (const copy of copies) {
    await here.layers.addTop(copy, frozen);
    await here.layers.addTop(copy, frozen);
    await here.write(copy, 1, copy.name.at(-1)!);
  }
  await here.write(volume, 1, 'z');
  await here.layers.release(snapshot('s'));
  assert.deepEqual(await Promise.all([volume, ...copies].map((one) => here.read(one))), ['az--', 'a1--', 'a2--']);

  await here.layers.removeTop(volume);
  here.volumes.delete(volume.id);
  assert.equal(await here.files(), 3, 'the layer that both copies read is hidden, not gone');
  await here.layers.removeTop(copies[0]!);
  await here.settled(1);
  assert.equal(await here.read(copies[1]!), 'a2--');
});

test('layers that two guests have open are merged when one has ended', async (t) => {
  const here = await world(t);
  const volume = await here.add('disk');
  await here.write(volume, 0, 'a');
  const first = await here.snapshot('s1', volume);
  await here.write(volume, 1, 'b');
  const second = await here.snapshot('s2', volume);
  const copy = here.announce('copy');
  await here.layers.addTop(copy, second);
  await here.switchOn(volume);
  await here.switchOn(copy);
  await here.layers.release(snapshot('s1'));
  assert.equal(await here.merging.run(here.layers.get(first)!.treeId, { signal: AbortSignal.timeout(5000) }), false);
  assert.equal(await here.files(), 4);
  here.open.delete('copy');
  here.merging.planAll();
  await here.settled(3);
  assert.deepEqual([await here.read(volume), await here.read(copy)], ['ab--', 'ab--']);
});

test('a volume goes back to a frozen layer, once for each time it is asked', async (t) => {
  const here = await world(t);
  const volume = await here.add('disk');
  await here.write(volume, 0, 'a');
  const frozen = await here.snapshot('s', volume);
  await here.write(volume, 1, 'b');
  for (let time = 0; time < 2; time++) {
    await here.layers.replaceTops('r1', [{ volume, parentId: frozen }]);
    if (time === 0) {
      assert.equal(await here.read(volume), 'a---');
      await here.write(volume, 2, 'c');
    }
  }
  assert.equal(await here.read(volume), 'a-c-', 'what was written since is not given up by the same request');
  await here.layers.replaceTops('r2', [{ volume, parentId: frozen }]);
  assert.equal(await here.read(volume), 'a---');
  assert.equal(await here.files(), 2);
});

test('a merge makes way for a freeze and for a start, and is done afterwards', async (t) => {
  const here = await world(t);
  const volume = await here.add('disk');
  await here.switchOn(volume);
  const frozen = await here.snapshot('s', volume);
  const { treeId } = here.layers.get(frozen)!;
  const began = Promise.withResolvers<void>();
  const long = here.layers.whenIdle(treeId, async (signal) => {
    began.resolve();
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    return 'made way';
  });
  await began.promise;
  await here.freeze('next', volume);
  assert.equal(await long, 'made way');
  await here.layers.release(snapshot('s'));
  await here.settled(1);
});

test('a chain has an end', async (t) => {
  const here = await world(t);
  const volume = await here.add('disk');
  for (let depth = 1; depth < 64; depth++) await here.snapshot(`s${depth}`, volume);
  await assert.rejects(here.freeze('one too many', volume), { code: 'insufficient_resources' });
  assert.equal(await here.files(), 64);
});
