// Carries a plan out: address sets, security groups and networks first, then images, volumes and VMs, because each may need those before it. What is
// started is followed to its end; after a failure nothing more is begun, and a second run goes on where it stopped.
import type { SpecSource } from '../../api/expand-spec.ts';
import type { InstanceType } from '../../api/instance-type.ts';
import type { Profile } from '../../api/profile.ts';
import type { Task } from '../../api/task.ts';
import { collect, type FetchPage } from '../list.ts';
import type { Session } from '../connect/session.ts';
import { followTasks } from '../output/follow.ts';
import { AlreadyPrinted, describeError, exitCodeFor } from '../output/print-error.ts';
import { printDocument } from '../output/print.ts';
import { fetchAddressSets } from '../noun/address-set.ts';
import { fetchGroups } from '../noun/group.ts';
import { fetchImages } from '../noun/image.ts';
import { fetchInstanceTypes } from '../noun/instance-type.ts';
import { fetchNetworks } from '../noun/network.ts';
import { fetchProfiles } from '../noun/profile.ts';
import { fetchSecurityGroups } from '../noun/security-group.ts';
import { outdatedLines } from '../noun/source-verbs.ts';
import { fetchTemplates } from '../noun/template.ts';
import { fetchVolumes } from '../noun/volume.ts';
import { fetchVms, pendingText } from '../vm/view.ts';
import { formatPath } from '../../lib/field-path.ts';
import { differenceLine, planLines } from './diff-text.ts';
import { deletionOrder, writeSteps, type WriteStep } from './group-order.ts';
import { manifestKinds, nounOfKind, type Manifest, type ManifestKind, type ManifestNoun } from './manifest.ts';
import { complaintsAbout, inOrder, planObject, type Existing, type FindSources, type PlannedObject } from './plan.ts';
import { usageError } from '../usage-error.ts';

const fetchers: Readonly<Record<ManifestNoun, FetchPage<Existing>>> = {
  addressSet: fetchAddressSets,
  securityGroup: fetchSecurityGroups,
  network: fetchNetworks,
  image: fetchImages,
  volume: fetchVolumes,
  profile: fetchProfiles,
  instanceType: fetchInstanceTypes,
  vm: fetchVms,
  template: fetchTemplates,
  group: fetchGroups,
};

/** The objects of the projects that the files speak of, by kind, project and name. */
export class Inventory {
  readonly #lists = new Map<string, Existing[]>();

  static async read(session: Session, manifests: readonly Manifest[]): Promise<Inventory> {
    const inventory = new Inventory();
    // The instance types of the project default are there for all.
    const projects = [...new Set([...manifests.map((manifest) => manifest.project), 'default'])];
    await Promise.all(
      projects.flatMap((project) =>
        manifestKinds.map(async (kind) => {
          const fetch = fetchers[nounOfKind[kind]];
          inventory.#lists.set(
            `${kind} ${project}`,
            await collect((query) => fetch(session.client, query), { project }),
          );
        }),
      ),
    );
    return inventory;
  }

  of(kind: ManifestKind, project: string): readonly Existing[] {
    return this.#lists.get(`${kind} ${project}`) ?? [];
  }

  /** Those that objects of a project may name. */
  usable(kind: ManifestKind, project: string): readonly Existing[] {
    const own = this.of(kind, project);
    return kind === 'InstanceType' && project !== 'default' ? [...own, ...this.of(kind, 'default')] : own;
  }

  /** What VMs name, as the files or else the daemon have it; what neither has is left out. */
  sources(manifests: readonly Manifest[]): FindSources {
    const find = (kind: 'Profile' | 'InstanceType', project: string, name: string): object | undefined => {
      const isMeant = (one: Manifest): boolean => one.kind === kind && one.name === name && one.project === project;
      const written = manifests.find(isMeant)?.spec as object | undefined;
      return written ?? this.usable(kind, project).find((one) => one.name === name || one.id === name)?.spec;
    };
    return (project, { profiles = [], instanceType }) => [
      ...profiles.flatMap((name): SpecSource[] => {
        const spec = find('Profile', project, name);
        return spec ? [{ kind: 'profile', name, spec }] : [];
      }),
      ...[instanceType ?? []].flat().flatMap((name): SpecSource[] => {
        const spec = find('InstanceType', project, name);
        return spec ? [{ kind: 'instance-type', name, spec }] : [];
      }),
    ];
  }

  find(manifest: Manifest): Existing | null {
    return this.of(manifest.kind, manifest.project).find((one) => one.name === manifest.name) ?? null;
  }
}

export interface ApplyOptions {
  dryRun?: boolean;
  exitCode?: boolean;
  start?: boolean;
}

/** Plans, checks everything, and then, unless it is a dry run, does it. Gives the exit code. */
export async function applyManifests(
  session: Session,
  manifests: readonly Manifest[],
  options: ApplyOptions,
): Promise<number> {
  const inventory = await Inventory.read(session, manifests);
  const sources = inventory.sources(manifests);
  const planned = inOrder(manifests.map((manifest) => planObject(manifest, inventory.find(manifest), sources)));
  const complaints = complaintsAbout(planned, (kind, project) => inventory.usable(kind, project));
  if (complaints.length > 0) {
    throw usageError(
      complaints.length === 1 ? 'one thing can not be done' : `${complaints.length} things can not be done`,
      {
        fields: complaints,
        hint: 'Nothing was changed.',
      },
    );
  }
  const isForPeople = session.format === 'table' || session.format === 'wide';
  if (options.dryRun === true) {
    await printDocument(session, planned.map(asDocument), () =>
      planned.flatMap((one) => planLines(one, session.terminal.style)),
    );
    const count = planned.filter((one) => one.action !== 'unchanged').length;
    if (isForPeople)
      session.terminal.note(
        count === 0 ? 'Nothing would be changed.' : `${countText(planned)}. This was a dry run: nothing was changed.`,
      );
    return count > 0 && options.exitCode === true ? 8 : 0;
  }
  const done: PlannedObject[] = [];
  for (const kind of manifestKinds) {
    const stage = planned.filter((one) => one.manifest.kind === kind);
    await runStage(session, stage, options, isForPeople);
    done.push(...stage);
  }
  if (!isForPeople) await printDocument(session, done.map(asDocument), () => []);
  return 0;
}

function countText(planned: readonly PlannedObject[]): string {
  const count = (action: PlannedObject['action']): number => planned.filter((one) => one.action === action).length;
  return `${count('create')} to create, ${count('update')} to change, ${count('unchanged')} as they should be`;
}

function asDocument(planned: PlannedObject): object {
  const { manifest, action, changes } = planned;
  return {
    kind: manifest.kind,
    name: manifest.name,
    project: manifest.project,
    action,
    changes: changes.map(({ path, before, after }) => ({
      field: formatPath(path),
      before: before ?? null,
      after: after ?? null,
    })),
  };
}

const doneWords = { create: 'created', update: 'changed', unchanged: 'unchanged' } as const;

/** Does all of one kind: starts each, then follows what goes on. */
async function runStage(
  session: Session,
  stage: readonly PlannedObject[],
  options: ApplyOptions,
  isForPeople: boolean,
): Promise<void> {
  const { style, noteStyle } = session.terminal;
  const failures: unknown[] = [];
  const fail = (failure: unknown, one: PlannedObject): void => {
    failures.push(failure);
    const prefix = `${one.manifest.kind} ${one.manifest.name} (${one.manifest.where})`;
    for (const line of describeError(failure, noteStyle, prefix)) process.stderr.write(`${line}\n`);
  };
  const say = (one: PlannedObject): void => {
    if (!isForPeople) return;
    const word = doneWords[one.action];
    const colored = one.action === 'create' ? style.green(word) : one.action === 'update' ? style.yellow(word) : word;
    session.terminal.line(`${one.manifest.kind} ${one.manifest.name} ${colored}`);
    if (one.action === 'update')
      for (const change of one.changes) session.terminal.line(`    ${differenceLine(change, style)}`);
  };
  const tasks: { one: PlannedObject; task: Task; title: string }[] = [];
  for (const { one, step } of writeSteps(stage)) {
    try {
      const task = await startOne(session, one, step, options);
      if (step === 'bare') continue;
      if (task === null) say(one);
      else tasks.push({ one, task, title: `create ${one.manifest.kind} ${one.manifest.name}` });
    } catch (failure) {
      fail(failure, one);
    }
  }
  const ended = await followTasks(
    session,
    tasks.map(({ task, title }) => ({ task, title, done: 'created' })),
  );
  for (const [index, { error }] of ended.entries()) {
    const one = tasks[index]?.one;
    if (one === undefined) continue;
    if (error === null) say(one);
    else fail(error, one);
  }
  if (failures.length > 0) {
    session.terminal.note('Stopped here. When the cause is gone, run the same command again: what is done stays done.');
    throw new AlreadyPrinted(exitCodeFor(failures[0]));
  }
}

/** Starts what is to be done for one object; gives the task where it takes longer. */
async function startOne(
  session: Session,
  one: PlannedObject,
  step: WriteStep['step'],
  options: ApplyOptions,
): Promise<Task | null> {
  if (one.action === 'unchanged') return null;
  const { noun, name, project } = one.manifest;
  const { client } = session;
  const query = { project };
  // The specs were checked against these very schemas; here only the compiler has forgotten which is which.
  const spec = one.sent as never;
  const { labels } = one;
  const create = { body: { name, project, labels, spec } };
  const update = { body: { revision: one.existing?.revision, labels, spec } };
  const isNew = one.action === 'create';
  switch (noun) {
    case 'addressSet':
      if (isNew) await client.addressSet.create(create);
      else await client.addressSet.update({ params: { addressSet: name }, query, ...update });
      return null;
    case 'securityGroup':
      if (step === 'bare') await client.securityGroup.create({ body: { name, project, labels, spec: {} } });
      else if (isNew && step === 'whole') await client.securityGroup.create(create);
      else await client.securityGroup.update({ params: { securityGroup: name }, query, ...update });
      return null;
    case 'network':
      if (isNew) await client.network.create(create);
      else await client.network.update({ params: { network: name }, query, ...update });
      return null;
    case 'image':
      if (isNew) return client.image.create(create);
      await client.image.update({ params: { image: name }, query, ...update });
      return null;
    case 'volume':
      if (isNew) return client.volume.create(create);
      await client.volume.update({ params: { volume: name }, query, ...update });
      return null;
    case 'profile': {
      if (isNew) await client.profile.create(create);
      else
        tellOutdated(session, 'profile', await client.profile.update({ params: { profile: name }, query, ...update }));
      return null;
    }
    case 'instanceType': {
      const params = { instanceType: name };
      if (isNew) await client.instanceType.create(create);
      else tellOutdated(session, 'instance-type', await client.instanceType.update({ params, query, ...update }));
      return null;
    }
    case 'template': {
      const { vm = '', ...source } = one.manifest.source;
      if (isNew) return client.template.create({ body: { ...create.body, ...source, vm } });
      await client.template.update({ params: { template: name }, query, ...update });
      return null;
    }
    case 'group':
      if (isNew) await client.group.create(create);
      else await client.group.update({ params: { group: name }, query, ...update });
      return null;
    case 'vm': {
      if (isNew) return client.vm.create({ query: { start: options.start === true }, ...create });
      const { status } = await client.vm.update({ params: { vm: name }, query, ...update });
      for (const change of status.pendingChanges.filter(({ needsRestart }) => needsRestart)) {
        session.terminal.note(`VM ${name}, until lodge vm restart ${name} not in effect: ${pendingText(change)}`);
      }
      return null;
    }
  }
}

function tellOutdated(session: Session, word: string, changed: Profile | InstanceType): void {
  for (const line of outdatedLines(word, changed)) session.terminal.note(line);
}

/** Deletes the objects that files describe, VMs first. What isn't there is fine. */
export async function deleteManifests(
  session: Session,
  manifests: readonly Manifest[],
  isForced: boolean,
): Promise<number> {
  const inventory = await Inventory.read(session, manifests);
  const present = manifests.filter((manifest) => inventory.find(manifest) !== null);
  for (const manifest of manifests) {
    if (!present.includes(manifest)) session.terminal.line(`${manifest.kind} ${manifest.name} is not there`);
  }
  for (const kind of manifestKinds.toReversed()) {
    const stage = deletionOrder(present.filter((manifest) => manifest.kind === kind));
    const tasks: { manifest: Manifest; task: Task }[] = [];
    const failures: unknown[] = [];
    const fail = (failure: unknown, manifest: Manifest): void => {
      failures.push(failure);
      for (const line of describeError(failure, session.terminal.noteStyle, `${manifest.kind} ${manifest.name}`))
        process.stderr.write(`${line}\n`);
    };
    for (const manifest of stage) {
      try {
        const task = await deleteOne(session, manifest, isForced);
        if (task === null) session.terminal.line(`${manifest.kind} ${manifest.name} deleted`);
        else tasks.push({ manifest, task });
      } catch (failure) {
        fail(failure, manifest);
      }
    }
    const ended = await followTasks(
      session,
      tasks.map(({ manifest, task }) => ({ task, title: `delete ${manifest.kind} ${manifest.name}`, done: 'deleted' })),
    );
    for (const [index, { error }] of ended.entries()) {
      const manifest = tasks[index]?.manifest;
      if (manifest === undefined) continue;
      if (error === null) session.terminal.line(`${manifest.kind} ${manifest.name} deleted`);
      else fail(error, manifest);
    }
    if (failures.length > 0) throw new AlreadyPrinted(exitCodeFor(failures[0]));
  }
  return 0;
}

async function deleteOne(session: Session, manifest: Manifest, isForced: boolean): Promise<Task | null> {
  const { name, project } = manifest;
  const query = { project };
  switch (manifest.noun) {
    case 'vm':
      return session.client.vm.delete({ params: { vm: name }, query: { project, force: isForced } });
    case 'volume':
      return session.client.volume.delete({ params: { volume: name }, query });
    case 'image':
      return session.client.image.delete({ params: { image: name }, query });
    case 'template':
      return session.client.template.delete({ params: { template: name }, query });
    case 'group':
      await session.client.group.delete({ params: { group: name }, query });
      return null;
    case 'profile':
      await session.client.profile.delete({ params: { profile: name }, query: { project, force: isForced } });
      return null;
    case 'instanceType':
      await session.client.instanceType.delete({ params: { instanceType: name }, query: { project, force: isForced } });
      return null;
    case 'network':
      await session.client.network.delete({ params: { network: name }, query });
      return null;
    case 'securityGroup':
      await session.client.securityGroup.delete({ params: { securityGroup: name }, query });
      return null;
    case 'addressSet':
      await session.client.addressSet.delete({ params: { addressSet: name }, query });
      return null;
  }
}
