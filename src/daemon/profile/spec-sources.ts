// Where VMs look up what they name: profiles of their project, and instance types of their project or else of `default`.
import { type InstanceType } from '../../api/instance-type.ts';
import { invalidField, LodgeError } from '../../api/errors.ts';
import { expandSpec, hasOtherSources, type SpecSource } from '../../api/expand-spec.ts';
import { type Profile } from '../../api/profile.ts';
import { type VmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { type Collection } from '../store/collection.ts';

/** The project whose instance types are there for all. */
export const sharedProject = 'default';

type Names = Pick<VmSpecInput, 'profiles' | 'instanceType'>;

export class SpecSources {
  readonly profiles: Collection<Profile>;
  readonly instanceTypes: Collection<InstanceType>;

  constructor(profiles: Collection<Profile>, instanceTypes: Collection<InstanceType>) {
    this.profiles = profiles;
    this.instanceTypes = instanceTypes;
  }

  /** An instance type that VMs of a project may name. */
  instanceType(project: string, reference: string): InstanceType | null {
    return this.instanceTypes.find(project, reference) ?? this.instanceTypes.find(sharedProject, reference);
  }

  /** Whether any profile, or any type, is named. */
  areNamed({ profiles, instanceType }: Names): boolean {
    return instanceType !== undefined || (profiles !== undefined && profiles.length > 0);
  }

  /** What is named, in the order in which it counts. Throws not_found with the field that names what isn't there. */
  require(project: string, { profiles = [], instanceType }: Names): SpecSource[] {
    const sources = profiles.map((name, index): SpecSource => {
      if (profiles.indexOf(name) !== index) throw invalidField(`spec.profiles.${index}`, 'is named twice', name);
      const found = this.profiles.find(project, name);
      if (!found) throw missing('profile', name, project, `spec.profiles.${index}`);
      return { kind: 'profile', name, spec: found.spec };
    });
    if (instanceType === undefined) return sources;
    const type = this.instanceType(project, instanceType);
    if (!type) throw missing('instance type', instanceType, project, 'spec.instanceType');
    return [...sources, { kind: 'instance-type', name: instanceType, spec: type.spec }];
  }

  /** As {@link require}; null where something isn't there any more. */
  find(project: string, names: Names): SpecSource[] | null {
    try {
      return this.require(project, names);
    } catch (error) {
      if (error instanceof LodgeError) return null;
      throw error;
    }
  }

  /**
   * The whole spec of what somebody says of a VM. What it names is looked up where it wasn't named before, or with
   * `isRefreshed`; else what the VM took over before counts.
   */
  expand(project: string, given: VmSpecInput, previous: VmSpec | null, isRefreshed = false): VmSpec {
    const isLookedUp = isRefreshed || previous === null || hasOtherSources(given, previous);
    return expandSpec(given, { previous, sources: isLookedUp ? this.require(project, given) : null });
  }
}

function missing(noun: string, name: string, project: string, field: string): LodgeError {
  const message = `there is no ${noun} "${name}" in project "${project}"`;
  return new LodgeError('not_found', `${field}: ${message}`, {
    hint: `lodge ${noun.replace(' ', '-')} list shows what there is.`,
    fields: [{ field, message, value: name }],
  });
}
