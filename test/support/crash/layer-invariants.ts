// What must hold of the layers of disks when everything has settled: the files are exactly those of the record, each layer
// is needed by somebody who is there, and every guest has exactly the layers open that the record gives its disks.
import { copyFile, mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type Snapshot } from '../../../src/api/snapshot.ts';
import { type Template } from '../../../src/api/template.ts';
import { type Vm } from '../../../src/api/vm.ts';
import { type Volume } from '../../../src/api/volume.ts';
import { type FakeProcess } from '../../../src/drivers/fake/fake-guest.ts';

/** A layer as the store has it. */
interface Layer {
  id: string;
  file: string;
  parentId: string | null;
  volumeId: string | null;
  holders: { kind: string; id: string }[];
}

/** What is kept of a version of a template. */
interface Origin {
  /** ID@VERSION */
  version: string;
  /** Ids of layers by the name of the disk. */
  layers: Record<string, string>;
}

export interface LayerWorld {
  /** The daemon's folder. */
  folder: string;
  driver: 'fake' | 'qemu';
  vms: readonly Vm[];
  volumes: readonly Volume[];
  snapshots: readonly Snapshot[];
  templates: readonly Template[];
}

const upStates = new Set(['running', 'paused', 'crashed']);

/** Everything that is wrong, in words. */
export async function findLayerProblems(world: LayerWorld): Promise<string[]> {
  const { layers, changes, origins } = await readLayers(join(world.folder, 'data'));
  const byId = new Map(layers.map((layer) => [layer.id, layer]));
  const tops = new Map(layers.flatMap((layer) => (layer.volumeId === null ? [] : [[layer.volumeId, layer] as const])));
  const problems = changes.map((key) => `a change of layers is left over: ${key}`);

  const files = await readdir(join(world.folder, 'data/volumes')).catch(() => []);
  const wanted = [
    ...layers.map(({ file }) => file),
    ...world.volumes.filter(({ id }) => !tops.has(id)).map(({ id, spec }) => `${id}.${spec.format}`),
  ];
  problems.push(...compare('volume file', files, wanted));

  for (const { id, parentId, volumeId } of layers) {
    if (parentId !== null && !byId.has(parentId)) problems.push(`layer ${id} has lost its parent`);
    if (volumeId !== null && !world.volumes.some((volume) => volume.id === volumeId))
      problems.push(`layer ${id} is the top of a volume that is gone`);
  }
  problems.push(...checkHolders(world, layers, origins), ...checkMerged(world, layers));

  const lineOf = (volumeId: string): string[] => {
    const top = tops.get(volumeId);
    if (!top) return world.volumes.filter(({ id }) => id === volumeId).map(({ id, spec }) => `${id}.${spec.format}`);
    const line: string[] = [];
    for (let layer: Layer | undefined = top; layer; layer = byId.get(layer.parentId ?? '')) line.push(layer.file);
    return line;
  };
  for (const vm of world.vms.filter(({ status }) => upStates.has(status.state))) {
    const lines = vm.status.disks.flatMap(({ name, volume }) =>
      volume === null ? [] : [{ name, line: lineOf(volume) }],
    );
    problems.push(...(await (world.driver === 'fake' ? checkFake : checkQemu)(world, vm, lines)));
  }
  return problems;
}

/** From a copy: the daemon lets nobody else open its database. */
async function readLayers(data: string): Promise<{ layers: Layer[]; changes: string[]; origins: Origin[] }> {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-look-'));
  try {
    const copy = join(folder, 'lodge.db');
    await copyFile(join(data, 'lodge.db'), copy);
    await copyFile(join(data, 'lodge.db-wal'), `${copy}-wal`).catch(() => {});
    const database = new DatabaseSync(copy);
    try {
      const rows = database
        .prepare(
          "select key, value from current where key >= '/lodge/layer' and key < '/lodge/layes' or key >= '/lodge/template-origins/' and key < '/lodge/template-origins0'",
        )
        .all() as { key: string; value: string }[];
      const under = (prefix: string): typeof rows => rows.filter(({ key }) => key.startsWith(prefix));
      return {
        layers: under('/lodge/layers/').map(({ value }) => JSON.parse(value) as Layer),
        changes: under('/lodge/layer-changes/').map(({ key }) => key),
        origins: under('/lodge/template-origins/').map(({ key, value }) => {
          const [id = '', version = ''] = key.split('/').slice(-2);
          return {
            version: `${id}@${version}`,
            layers: (JSON.parse(value) as { layers: Record<string, string> }).layers,
          };
        }),
      };
    } finally {
      database.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function compare(what: string, found: readonly string[], wanted: readonly string[]): string[] {
  return [
    ...found.filter((item) => !wanted.includes(item)).map((item) => `${what} ${item} is left over`),
    ...wanted.filter((item) => !found.includes(item)).map((item) => `${what} ${item} is missing`),
  ];
}

/** Snapshots hold exactly the layers that they show, templates those that they were made of; nothing else is at work. */
function checkHolders(
  { snapshots, templates }: LayerWorld,
  layers: readonly Layer[],
  origins: readonly Origin[],
): string[] {
  const found = layers.flatMap(({ id, holders }) => holders.map((holder) => `${holder.kind} ${holder.id} of ${id}`));
  const kept = new Set(layers.map(({ id }) => id));
  const wanted = snapshots.flatMap(({ id, status }) =>
    status.disks
      // What was merged before its deletion was cancelled is gone.
      .filter(({ layerId }) => status.state === 'ready' || kept.has(layerId))
      .map(({ layerId }) => `snapshot ${id} of ${layerId}`),
  );
  const versions = templates.flatMap(({ id, status }) => status.versions.map(({ version }) => `${id}@${version}`));
  const held = origins.flatMap(({ version, layers: of }) =>
    Object.values(of).map((layer) => `template ${version} of ${layer}`),
  );
  return [
    ...compare('the hold by', found, [...wanted, ...held]),
    ...compare(
      'what is kept of template',
      origins.map(({ version }) => version),
      versions,
    ),
  ];
}

/** A layer that nobody needs by itself is there only while several others are based on it, or several guests read it. */
function checkMerged({ vms, volumes }: LayerWorld, layers: readonly Layer[]): string[] {
  const childrenOf = (id: string): Layer[] => layers.filter(({ parentId }) => parentId === id);
  const readersOf = (layer: Layer): string[] => [
    ...volumes.filter(({ id }) => id === layer.volumeId).flatMap(({ status }) => status.usedBy?.id ?? []),
    ...childrenOf(layer.id).flatMap(readersOf),
  ];
  const problems: string[] = [];
  for (const layer of layers) {
    if (layer.volumeId !== null || layer.holders.length > 0) continue;
    const children = childrenOf(layer.id);
    if (children.length === 0) problems.push(`layer ${layer.id} is needed by nobody`);
    const up = readersOf(layer).filter((id) => upStates.has(vms.find((vm) => vm.id === id)?.status.state ?? ''));
    if (children.length === 1 && up.length < 2) problems.push(`layer ${layer.id} was not merged with the one on it`);
  }
  return problems;
}

type Line = { name: string; line: string[] };

async function checkFake({ folder }: LayerWorld, vm: Vm, lines: readonly Line[]): Promise<string[]> {
  const text = await readFile(join(folder, 'data/fake-guests', `${vm.id}.json`), 'utf8').catch(() => '{}');
  const { disks = {} } = JSON.parse(text) as Partial<FakeProcess>;
  return lines.flatMap(({ name, line }) => {
    const open = (disks[name] ?? []).map((path) => basename(path)).filter((file) => !file.startsWith('disk.'));
    return open.join() === line.join()
      ? []
      : [`disk ${name} of VM ${vm.name} has ${open.join(', ')} open, not ${line.join(', ')}`];
  });
}

async function checkQemu({ folder }: LayerWorld, vm: Vm, lines: readonly Line[]): Promise<string[]> {
  const volumes = `${join(folder, 'data/volumes')}/`;
  const descriptors = `/proc/${vm.status.pid}/fd`;
  const open = new Set<string>();
  for (const descriptor of await readdir(descriptors).catch(() => [])) {
    const path = await readlink(join(descriptors, descriptor)).catch(() => '');
    if (path.startsWith(volumes)) open.add(path.slice(volumes.length));
  }
  return compare(
    `VM ${vm.name} has open:`,
    [...open],
    lines.flatMap(({ line }) => line),
  );
}
