// Profiles, and instance types: two nouns of one kind, named sets of fields that VMs take over. A change of one changes no
// VM by itself: it is shown at each VM, and taken over when somebody applies it.
import { LodgeError } from '../../api/errors.ts';
import { firstInstanceTypes, type InstanceType } from '../../api/instance-type.ts';
import { profileChangesOf, withoutSource } from '../../api/expand-spec.ts';
import { type Profile, type SourceApplied } from '../../api/profile.ts';
import { type SourceKind } from '../../api/vm-inherited.ts';
import { type Vm } from '../../api/vm.ts';
import { ConditionFailedError, type Collection } from '../store/collection.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type Log } from '../store/informer.ts';
import { SourceStatuses } from './source-status.ts';
import { sharedProject, type SpecSources } from './spec-sources.ts';

export interface SourceServiceParts<Item extends Profile | InstanceType> {
  kind: SourceKind;
  items: Collection<Item>;
  sources: SpecSources;
  statuses: SourceStatuses;
  references: ReferenceLock;
  vms: Collection<Vm>;
  /** Has a VM take over what it names as that is now. */
  takeOver: (vm: Vm, requestedBy: string) => Promise<Vm>;
}

/** Both nouns, with what shows the use of both. */
export function sourceServices({
  log,
  ...parts
}: Pick<SourceServiceParts<Profile>, 'sources' | 'references' | 'vms' | 'takeOver'> & { log: Log }): {
  statuses: SourceStatuses;
  profiles: SourceService<Profile>;
  instanceTypes: SourceService<InstanceType>;
} {
  const { sources, vms } = parts;
  const statuses = new SourceStatuses({ vms, sources, log });
  return {
    statuses,
    profiles: new SourceService({ ...parts, statuses, kind: 'profile', items: sources.profiles }),
    instanceTypes: new SourceService({ ...parts, statuses, kind: 'instance-type', items: sources.instanceTypes }),
  };
}

/** Names that a message may hold. */
const mostNames = 5;

export class SourceService<Item extends Profile | InstanceType> {
  readonly #parts: SourceServiceParts<Item>;

  constructor(parts: SourceServiceParts<Item>) {
    this.#parts = parts;
  }

  require(project: string, reference: string): Item {
    return this.#parts.items.require(project, reference);
  }

  create(given: Pick<Item, 'name' | 'project' | 'labels' | 'spec'>): Promise<Item> {
    return this.#parts.items.create(given);
  }

  /** Answers when it is shown at the VMs that name it. */
  async update(
    given: Item,
    change: { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: Item['spec'] },
  ): Promise<Item> {
    const { items, statuses } = this.#parts;
    await items.update(given.id, change.revision, (draft) => {
      draft.spec = change.spec;
      if (change.labels) draft.labels = change.labels;
    });
    await statuses.refresh();
    return items.require(given.project, given.id);
  }

  /** With `isForced`, VMs that name it keep what they have of it, and name it no more. */
  async delete(given: Item, isForced: boolean): Promise<Item> {
    const { items, kind, vms, references, statuses } = this.#parts;
    const deleted = await references.hold(async () => {
      const users = this.#usersOf(given);
      if (users.length > 0 && !isForced) {
        const more = users.length > mostNames ? ` and ${users.length - mostNames} more` : '';
        const names = users.slice(0, mostNames).map(({ name }) => name);
        throw new LodgeError('in_use', `${this.#called(given)} is used by VM ${names.join(', ')}${more}.`, {
          hint: `Take it off them first, or delete it all the same: they keep what they have of it (lodge ${kind} delete ${given.name} --force).`,
        });
      }
      for (const { id, project } of users)
        await vms.update(id, undefined, (draft) => {
          draft.spec = withoutSource(draft.spec, kind, (name) => this.#find(project, name)?.id === given.id);
        });
      return items.delete(given.id);
    });
    await statuses.refresh();
    return deleted;
  }

  /** Brings VMs up to date, one after the other. One that can't be changed now doesn't keep the others from it. */
  async apply(given: Item, only: readonly string[] | undefined, requestedBy: string): Promise<SourceApplied> {
    const users = this.#usersOf(given);
    const wanted = only?.map((reference, index) => {
      const vm = this.#parts.vms.require(given.project, reference);
      if (users.some(({ id }) => id === vm.id)) return vm;
      const message = `VM ${vm.name} does not name ${this.#called(given)}`;
      throw new LodgeError('invalid_request', `vms.${index}: ${message}`, {
        hint: `lodge ${this.#parts.kind} show ${given.name} lists those that do.`,
        fields: [{ field: `vms.${index}`, message, value: reference }],
      });
    });
    const items: SourceApplied['items'] = [];
    for (const vm of wanted ?? users) items.push(await this.#applyTo(vm, requestedBy));
    await this.#parts.statuses.refresh();
    return { items };
  }

  /** Makes the instance types that are there from the start, each once: whoever deletes one doesn't get it back. */
  async makeFirst(items: Collection<InstanceType>): Promise<void> {
    for (const [name, { count, memoryMib }] of Object.entries(firstInstanceTypes)) {
      if (items.byName(sharedProject, name)) continue;
      const key = `/lodge/flags/instance-type/${name}`;
      const spec = { description: '', cpu: { count }, memoryMib };
      try {
        await items.create(
          { name, project: sharedProject, labels: {}, spec },
          { compare: [{ key, exists: false }], success: [{ put: key, value: new Date().toISOString() }] },
        );
      } catch (error) {
        if (!(error instanceof ConditionFailedError)) throw error;
      }
    }
  }

  async #applyTo({ id, name }: Vm, requestedBy: string): Promise<SourceApplied['items'][number]> {
    const { vms, sources, takeOver } = this.#parts;
    const result = { id, name, fields: [], taskId: null, error: null };
    try {
      const vm = vms.get(id);
      if (!vm) throw new LodgeError('not_found', `VM ${name} was deleted meanwhile.`);
      const fields = profileChangesOf(vm.spec, sources.require(vm.project, vm.spec)).map(({ field }) => field);
      const { status } = await takeOver(vm, requestedBy);
      return { ...result, result: fields.length > 0 ? 'changed' : 'unchanged', fields, taskId: status.taskId };
    } catch (error) {
      if (!(error instanceof LodgeError) || error.code === 'internal') throw error;
      return { ...result, result: 'failed', error: error.toBody().error };
    }
  }

  #usersOf(item: Item): Vm[] {
    const { kind, vms } = this.#parts;
    return [...vms.all()]
      .filter(({ project, spec: { profiles = [], instanceType = [] } }) =>
        [kind === 'profile' ? profiles : instanceType].flat().some((name) => this.#find(project, name)?.id === item.id),
      )
      .toSorted((one, other) => one.name.localeCompare(other.name, 'en', { numeric: true }));
  }

  /** What a VM of a project means by a name. */
  #find(project: string, name: string): Profile | InstanceType | null {
    const { kind, sources } = this.#parts;
    return kind === 'profile' ? sources.profiles.find(project, name) : sources.instanceType(project, name);
  }

  #called({ name }: Item): string {
    return `${this.#parts.kind === 'profile' ? 'profile' : 'instance type'} ${name}`;
  }
}
