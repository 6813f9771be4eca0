// What must hold when everything has settled after a crash: every task has ended, and objects, files, processes, links,
// rules and groups fit each other, with nothing left over. Looks at the machine with its own eyes.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { finalTaskStates } from '../../../src/api/task.ts';
import { type Image } from '../../../src/api/image.ts';
import { type Network } from '../../../src/api/network.ts';
import { type Vm } from '../../../src/api/vm.ts';
import { type Snapshot } from '../../../src/api/snapshot.ts';
import { type Template } from '../../../src/api/template.ts';
import { type Volume } from '../../../src/api/volume.ts';
import { findProcesses } from '../../../src/host/process.ts';
import { type TestDaemon } from '../daemon.ts';
import { findLeaks } from '../leaks.ts';
import { type NetworkNamespace } from '../namespace.ts';
import { findLayerProblems } from './layer-invariants.ts';

export interface Settled {
  vms: Vm[];
  volumes: Volume[];
  images: Image[];
  networks: Network[];
  templates: Template[];
}

interface Place {
  daemon: TestDaemon;
  namespace: NetworkNamespace;
  driver: 'fake' | 'qemu';
}

const restStates = new Set(['stopped', 'running', 'paused', 'suspended', 'crashed']);
const upStates = new Set(['running', 'paused', 'crashed']);
const all = { query: { limit: 500 } };

/** Everything that is wrong, in words; none when all is as it should be. */
export async function findProblems(place: Place): Promise<string[]> {
  const { client } = place.daemon;
  const [tasks, vms, volumes, images, networks, templates] = await Promise.all([
    client.task.list({ query: { limit: 500, sort: '-createdAt' } }),
    client.vm.list(all),
    client.volume.list(all),
    client.image.list(all),
    client.network.list(all),
    client.template.list(all),
  ]);
  const problems: string[] = [];
  for (const task of tasks.items) {
    const about = `task ${task.type} ${task.target.name} (${task.id})`;
    if (!finalTaskStates.has(task.state)) problems.push(`${about} is ${task.state}`);
    if (task.error?.code === 'internal') problems.push(`${about} failed with a mistake: ${task.error.message}`);
    if (task.steps.some((step) => step.state === 'undo-failed'))
      problems.push(`${about} could not be undone: ${task.error?.message}`);
  }
  const settled = {
    vms: vms.items,
    volumes: volumes.items,
    images: images.items,
    networks: networks.items,
    templates: templates.items,
  };
  const found = await Promise.all([
    checkVms(place, settled),
    checkVolumes(place, settled),
    checkImages(place, settled),
    checkLinks(place, settled),
    checkServices(place, settled),
    checkTemplates(place, settled),
    checkFolders(place),
    checkGroups(place, settled),
  ]);
  return [...problems, ...found.flat()];
}

/** Tells what is in one list and not in the other. */
function differences(what: string, found: Iterable<string>, wanted: Iterable<string>): string[] {
  const [foundSet, wantedSet] = [new Set(found), new Set(wanted)];
  return [
    ...[...foundSet].filter((item) => !wantedSet.has(item)).map((item) => `${what} ${item} is left over`),
    ...[...wantedSet].filter((item) => !foundSet.has(item)).map((item) => `${what} ${item} is missing`),
  ];
}

async function filesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => []);
}

async function checkVms({ daemon, driver }: Place, { vms, networks }: Settled): Promise<string[]> {
  const problems = differences(
    'VM folder',
    await filesIn(join(daemon.folder, 'data/vms')),
    vms.map((vm) => vm.id),
  );
  for (const { name, id, status, spec } of vms) {
    if (!restStates.has(status.state)) problems.push(`VM ${name} is ${status.state}: ${status.reason}`);
    if (status.taskId !== null) problems.push(`VM ${name} still has task ${status.taskId}`);
    if (upStates.has(status.state) !== (status.startedSpec !== null) && status.state !== 'suspended')
      problems.push(`VM ${name} is ${status.state} and ${status.startedSpec ? 'has' : 'lacks'} a started spec`);
    const folder = await filesIn(join(daemon.folder, 'data/vms', id));
    for (const file of folder) if (/^seed\.iso\.(new|work)/.test(file)) problems.push(`VM ${name} has ${file}`);
    const now = status.startedSpec ?? spec;
    for (const nic of now.nics)
      if (!networks.some((network) => network.name === nic.network))
        problems.push(`VM ${name} has lost ${nic.network}`);
  }
  const up = vms.filter((vm) => upStates.has(vm.status.state));
  if (driver === 'fake') {
    const guests = await filesIn(join(daemon.folder, 'data/fake-guests'));
    return [
      ...problems,
      ...differences(
        'guest',
        guests,
        up.map((vm) => `${vm.id}.json`),
      ),
    ];
  }
  const processes = await findProcesses({ environmentVariable: 'LODGE_VM' });
  const own = processes.filter(({ mark }) => mark?.startsWith(`${daemon.instance}/`));
  problems.push(
    ...differences(
      'process',
      own.map(({ mark, identity }) => `${mark} ${identity.pid}`),
      up.map((vm) => `${daemon.instance}/${vm.id} ${vm.status.pid}`),
    ),
  );
  const leaks = await findLeaks(daemon.instance, new Set());
  const groups = new Set(
    leaks.filter(({ kind, isMarked }) => kind === 'cgroup' && isMarked).map(({ name }) => name.split('/').at(-1) ?? ''),
  );
  groups.delete(daemon.instance);
  return [
    ...problems,
    ...differences(
      'cgroup',
      groups,
      up.map((vm) => vm.id),
    ),
  ];
}

async function checkVolumes({ daemon, driver }: Place, { vms, volumes, templates }: Settled): Promise<string[]> {
  const files = await filesIn(join(daemon.folder, 'data/volumes'));
  const problems: string[] = [];
  const snapshots: Snapshot[] = [];
  for (const { id, name } of vms) {
    const { items } = await daemon.client.snapshot.list({ params: { vm: id }, query: { limit: 500 } });
    snapshots.push(...items);
    const files = await filesIn(join(daemon.folder, 'data/vms', id, 'snapshots'));
    const kept = (ending: string): string[] =>
      files.filter((file) => file.endsWith(ending)).map((file) => file.slice(0, -ending.length));
    const known = items.map((one) => one.id);
    problems.push(
      ...differences(
        `saved memory of VM ${name}:`,
        kept('.memory'),
        items.filter(({ status }) => status.memoryBytes !== null).map((one) => one.id),
      ),
      ...kept('.firmware')
        .filter((snapshotId) => !known.includes(snapshotId))
        .map((snapshotId) => `the variables of the firmware at snapshot ${snapshotId} of VM ${name} are left over`),
      ...items
        .filter((one) => one.status.state === 'ready' && !kept('.firmware').includes(one.id))
        .map((one) => `the variables of the firmware at snapshot ${one.name} of VM ${name} are missing`),
    );
    if (items.length > 0 && items.filter(({ status }) => status.isCurrent).length > 1)
      problems.push(`VM ${name} goes on from two snapshots`);
  }
  for (const { name, status } of snapshots) {
    // One whose deletion was cancelled can only be deleted.
    const isGivenUp = status.state === 'deleting' && status.reason.includes('delete it again');
    if (status.state !== 'ready' && !isGivenUp)
      problems.push(`snapshot ${name} of VM ${status.vm} is ${status.state}: ${status.reason}`);
    if (!isGivenUp && status.disks.some(({ sizeBytes }) => sizeBytes === null))
      problems.push(`snapshot ${name} of VM ${status.vm} has lost a layer`);
    if (status.parentId !== null && !snapshots.some(({ id }) => id === status.parentId))
      problems.push(`snapshot ${name} of VM ${status.vm} has a parent that is gone`);
  }
  problems.push(...(await findLayerProblems({ folder: daemon.folder, driver, vms, volumes, snapshots, templates })));
  for (const file of files)
    if (!/^[0-9a-f-]{36}\.(qcow2|raw)$/.test(file)) problems.push(`volume file ${file} is left over`);
  for (const { name, status, id } of volumes) {
    if (status.state !== 'ready') problems.push(`volume ${name} is ${status.state}`);
    const user = vms.find((vm) => vm.id === status.usedBy?.id && vm.name === status.usedBy.name);
    if (status.usedBy !== null && !user?.status.disks.some((disk) => disk.volume === id))
      problems.push(
        `volume ${name} is used by ${status.usedBy.name}, which ${user ? 'has no such disk' : 'does not exist'}`,
      );
    if (status.isOwnedByVm && status.usedBy === null) problems.push(`volume ${name} is owned by no VM`);
  }
  for (const vm of vms) {
    for (const disk of vm.status.disks) {
      const volume = volumes.find((candidate) => candidate.id === disk.volume);
      if (disk.volume !== null && volume?.status.usedBy?.id !== vm.id)
        problems.push(`disk ${disk.name} of VM ${vm.name} has a volume that ${volume ? 'is not its own' : 'is gone'}`);
    }
  }
  return problems;
}

async function checkImages({ daemon }: Place, { images, volumes }: Settled): Promise<string[]> {
  const folder = join(daemon.folder, 'data/images');
  const ready = images.filter((image) => image.status.state === 'ready');
  const problems = differences(
    'image folder',
    await filesIn(folder),
    ready.map((image) => image.id),
  );
  for (const { name, status } of images) {
    if (status.state !== 'ready' && status.state !== 'waiting-for-upload')
      problems.push(`image ${name} is ${status.state}: ${status.reason}`);
  }
  for (const image of ready) {
    const file = `disk.${image.status.format}`;
    problems.push(...differences(`file of image ${image.name}`, await filesIn(join(folder, image.id)), [file]));
  }
  for (const volume of volumes) {
    if (volume.status.imageId !== null && !ready.some((image) => image.id === volume.status.imageId))
      problems.push(`volume ${volume.name} has lost its image`);
  }
  return problems;
}

/** Members are VMs that there are, by the names that they have, each in one group. */
async function checkGroups({ daemon }: Place, { vms }: Settled): Promise<string[]> {
  const problems: string[] = [];
  const seen = new Set<string>();
  for (const { name, spec, status } of (await daemon.client.group.list(all)).items) {
    if (status.taskId !== null) problems.push(`group ${name} still has task ${status.taskId}`);
    const named = spec.members.map(({ vm }) => vm);
    const found = status.members.map(({ vm }) => vm);
    problems.push(...differences(`member of group ${name}:`, found, named));
    for (const { vm, id, state } of status.members) {
      const is = vms.find((candidate) => candidate.id === id);
      if (is?.name !== vm) problems.push(`member ${vm} of group ${name} is ${is?.name ?? 'gone'}`);
      if (is && is.status.state !== state) problems.push(`member ${vm} of group ${name} is not ${state}`);
      if (seen.has(id)) problems.push(`VM ${vm} is in two groups`);
      seen.add(id);
    }
  }
  return problems;
}

/** Templates have versions, and their folders are those of what is there. */
async function checkTemplates({ daemon }: Place, { templates, vms }: Settled): Promise<string[]> {
  const folder = join(daemon.folder, 'data/templates');
  const problems: string[] = [];
  for (const { name, status } of templates) {
    if (status.state !== 'ready') problems.push(`template ${name} is ${status.state}: ${status.reason}`);
    if (status.versions.length === 0) problems.push(`template ${name} has no version`);
  }
  for (const id of await filesIn(folder)) {
    const template = templates.find((one) => one.id === id);
    const versions = template?.status.versions.map(({ version }) => String(version)) ?? [];
    for (const version of await filesIn(join(folder, id)))
      if (!versions.includes(version))
        problems.push(`folder ${version} of template ${template?.name ?? id} is left over`);
  }
  for (const { name } of vms) if (name.startsWith('seal-')) problems.push(`VM ${name}, which was sealed, is left over`);
  return problems;
}

interface FoundLink {
  ifname: string;
  ifalias?: string;
  master?: string;
  flags: string[];
}

async function checkLinks({ daemon, namespace }: Place, { vms, networks }: Settled): Promise<string[]> {
  const { stdout } = await namespace.run(['ip', '-json', 'link', 'show']);
  const links = (JSON.parse(stdout) as FoundLink[]).filter(({ ifname }) => ifname !== 'lo');
  const nat = networks.filter((network) => network.spec.mode === 'nat');
  const bridges = nat.map((network) => network.status.bridge ?? `of network ${network.name}`);
  const taps = new Map<string, string>();
  const problems: string[] = [];
  for (const vm of vms.filter(({ status }) => upStates.has(status.state))) {
    for (const [index, nic] of (vm.status.startedSpec ?? vm.spec).nics.entries()) {
      const network = nat.find((candidate) => candidate.name === nic.network);
      const observed = vm.status.nics[index];
      if (network && !observed?.hostInterface) problems.push(`NIC ${index} of VM ${vm.name} has no link`);
      if (network && observed?.hostInterface) taps.set(observed.hostInterface, network.status.bridge ?? '');
    }
  }
  problems.push(
    ...differences(
      'link',
      links.map(({ ifname }) => ifname),
      [...bridges, ...taps.keys()],
    ),
  );
  for (const { ifname, ifalias, master } of links) {
    if (!ifalias?.startsWith(`lodge:${daemon.instance}:`)) problems.push(`link ${ifname} has no mark`);
    const wanted = taps.get(ifname);
    if (wanted !== undefined && master !== wanted) problems.push(`tap ${ifname} is a port of ${master}, not ${wanted}`);
  }
  return problems;
}

async function checkServices({ daemon, namespace }: Place, { vms, networks }: Settled): Promise<string[]> {
  const nat = networks.filter((network) => network.spec.mode === 'nat');
  const problems: string[] = [];
  for (const network of networks) {
    if (network.status.state !== 'ready')
      problems.push(`network ${network.name} is ${network.status.state}: ${network.status.reason}`);
    const users = vms.filter((vm) =>
      [...vm.spec.nics, ...(vm.status.startedSpec?.nics ?? [])].some((nic) => nic.network === network.name),
    );
    problems.push(
      ...differences(
        `user of network ${network.name}:`,
        network.status.usedBy,
        users.map((vm) => vm.name),
      ),
    );
  }
  const { stdout } = await namespace.run(['nft', '--json', 'list', 'chains']);
  const { nftables } = JSON.parse(stdout) as { nftables: { chain?: { table: string; name: string } }[] };
  const all = nftables.flatMap(({ chain }) => (chain ? [`${chain.table}/${chain.name}`] : []));
  const table = `lodge-${daemon.instance}`;
  // The filter of guests' NICs is a table of its own, which is looked at together with what it is made of elsewhere.
  const chains = all.filter((name) => !name.startsWith(`${table}_filter/`));
  const fixed = nat.length > 0 ? ['forward', 'input', 'source_nat'] : [];
  const wanted = [...nat.flatMap(({ id }) => [`from_${id}`, `to_${id}`, `host_${id}`]), ...fixed];
  problems.push(
    ...differences(
      'nft chain',
      chains,
      wanted.map((name) => `${table}/${name}`),
    ),
  );

  const served = nat.filter((network) => network.spec.dhcp?.isEnabled ?? true);
  const runFolder = join(daemon.folder, 'run/networks');
  problems.push(
    ...differences(
      'DHCP folder',
      await filesIn(runFolder),
      served.map(({ id }) => id),
    ),
  );
  const processes = await findProcesses({
    matchesArguments: (argv) =>
      argv[0]?.endsWith('dnsmasq') === true && argv.some((word) => word.includes(`${runFolder}/`)),
  });
  const ids = processes.map(({ argv }) => argv.join(' ').split(`${runFolder}/`)[1]?.split('/')[0] ?? '');
  problems.push(
    ...differences(
      'DHCP server',
      ids,
      served.map(({ id }) => id),
    ),
  );
  if (ids.length !== new Set(ids).size) problems.push(`a network has two DHCP servers: ${ids.join(', ')}`);
  for (const network of served) {
    const text = await readFile(join(runFolder, network.id, 'hosts'), 'utf8').catch(() => '');
    const known = text.split('\n').flatMap((line) => line.split(',')[0] || []);
    const macs = vms.flatMap((vm) =>
      (vm.status.startedSpec ?? vm.spec).nics.flatMap((nic, index) =>
        nic.network === network.name && vm.status.nics[index] ? [nic.mac ?? vm.status.nics[index].mac] : [],
      ),
    );
    problems.push(...differences(`reservation on ${network.name} for`, known, macs));
  }
  return problems;
}

/** What may lie in the daemon's folders at the top. */
const knownEntries: Readonly<Record<string, RegExp>> = {
  data: /^(lodge\.db(-wal|-shm)?|vms|images|volumes|fake-guests|probe|templates|shared|tls|metrics)$/,
  run: /^(lodge\.sock|networks)$/,
};

async function checkFolders({ daemon }: Place): Promise<string[]> {
  const problems: string[] = [];
  for (const [folder, known] of Object.entries(knownEntries)) {
    for (const entry of await filesIn(join(daemon.folder, folder)))
      if (!known.test(entry)) problems.push(`${folder}/${entry} is left over`);
  }
  return problems;
}

const mistake =
  /"code":"internal"|an error was not handled|a task was lost|could not be handled|could not be completed|could not be settled/;

/** The lines of a daemon's log that tell of a mistake of its own. */
export function findMistakes(log: string): string[] {
  return log.split('\n').filter((line) => mistake.test(line));
}
