// Keeps what is shown of profiles, instance types and the VMs that name them in step: who uses which, and which VM has not
// taken what has changed.
//
// Invariants:
// - One look at a time; what changes during one is looked at by the next, and several changes make one look.
// - Nothing but status is written: a VM is changed by whoever applies a profile.
import { profileChangesOf } from '../../api/expand-spec.ts';
import { LodgeError } from '../../api/errors.ts';
import { type InstanceType } from '../../api/instance-type.ts';
import { type Profile, type SourceStatus } from '../../api/profile.ts';
import { type Vm } from '../../api/vm.ts';
import { type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { type SpecSources } from './spec-sources.ts';

export function initialSourceStatus(): SourceStatus {
  return { usedBy: [], outdated: [] };
}

export interface SourceStatusesParts {
  vms: Collection<Vm>;
  sources: SpecSources;
  log: Log;
}

export class SourceStatuses {
  readonly #parts: SourceStatusesParts;
  #running: Promise<void> | null = null;
  #isDue = false;
  #isClosed = false;
  #unfollow: (() => void)[] = [];

  constructor(parts: SourceStatusesParts) {
    this.#parts = parts;
  }

  /** Looks at everything, and from then on whenever something has changed. */
  async start(): Promise<void> {
    const { vms, sources } = this.#parts;
    this.#unfollow = [
      vms.onChange(({ type, object, previous }) => {
        const isOther = type !== 'updated' || object.revision !== previous?.revision;
        const isNamed = sources.areNamed(object.spec) || (previous !== null && sources.areNamed(previous.spec));
        if (isOther && isNamed) void this.refresh();
      }),
      ...[sources.profiles, sources.instanceTypes].map((each) =>
        each.onChange(({ type, object, previous }) => {
          if (type !== 'updated' || object.revision !== previous?.revision) void this.refresh();
        }),
      ),
    ];
    await this.refresh();
  }

  /** Ends when everything that was so at this moment is shown. */
  refresh(): Promise<void> {
    this.#isDue = true;
    this.#running ??= this.#work().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const unfollow of this.#unfollow) unfollow();
    await this.#running;
  }

  async #work(): Promise<void> {
    while (this.#isDue && !this.#isClosed) {
      this.#isDue = false;
      try {
        await this.#look();
      } catch (error) {
        this.#parts.log.warn({ err: error }, 'what profiles and instance types are used by could not be shown');
      }
    }
  }

  async #look(): Promise<void> {
    const { vms, sources } = this.#parts;
    const uses = new Map<string, SourceStatus>();
    for (const { id } of [...vms.all()]) {
      const vm = vms.get(id);
      if (!vm || (!sources.areNamed(vm.spec) && vm.status.profileChanges.length === 0)) continue;
      const found = sources.find(vm.project, vm.spec);
      const profileChanges = found === null ? [] : profileChangesOf(vm.spec, found);
      await unlessGone(vms.setStatus(id, (status) => ({ ...status, profileChanges })));
      for (const used of this.#named(vm)) {
        const use = uses.get(used) ?? initialSourceStatus();
        use.usedBy.push(vm.name);
        if (profileChanges.length > 0) use.outdated.push(vm.name);
        uses.set(used, use);
      }
    }
    await this.#show(sources.profiles, uses);
    await this.#show(sources.instanceTypes, uses);
  }

  /** Ids of what a VM names. */
  #named({ project, spec: { profiles = [], instanceType } }: Vm): string[] {
    const { sources } = this.#parts;
    return [
      ...profiles.map((name) => sources.profiles.find(project, name)),
      instanceType === undefined ? null : sources.instanceType(project, instanceType),
    ].flatMap((found) => (found ? [found.id] : []));
  }

  async #show(
    items: Collection<Profile> | Collection<InstanceType>,
    uses: ReadonlyMap<string, SourceStatus>,
  ): Promise<void> {
    for (const { id } of [...items.all()]) {
      const { usedBy, outdated } = uses.get(id) ?? initialSourceStatus();
      await unlessGone(items.setStatus(id, { usedBy: usedBy.toSorted(), outdated: outdated.toSorted() }));
    }
  }
}

/** What was deleted meanwhile needs no status. */
async function unlessGone(write: Promise<unknown>): Promise<void> {
  try {
    await write;
  } catch (error) {
    if (!(error instanceof LodgeError && error.code === 'not_found')) throw error;
  }
}
