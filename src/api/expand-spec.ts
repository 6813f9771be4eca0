// What a VM's spec is, from what somebody says of it and what its profiles and instance type give. Pure.
//
//   defaults ◀ first profile ◀ … ◀ last profile ◀ instance type ◀ the VM's own fields      (what stands right wins)
//
// The whole of it is written into the spec, with `inherited` saying where each field came from. It is looked up anew when
// a VM is made, when it names other profiles or another type, and when they are applied; otherwise what was taken over
// counts, so that no other change of a VM brings something along that nobody asked for.
import { isEqual } from '../lib/difference.ts';
import { formatPath, parsePath, valueAt, withValueAt, type Json, type PathPart } from '../lib/field-path.ts';
import { LodgeError, shorten } from './errors.ts';
import type { InheritedField, ProfileChange, SourceKind } from './vm-inherited.ts';
import { vmSpec, type VmSpec, type VmSpecInput } from './vm-spec.ts';

/** A profile or an instance type with the fields that it sets. */
export interface SpecSource {
  kind: SourceKind;
  /** As the VM names it. */
  name: string;
  spec: object;
}

interface Leaf {
  path: PathPart[];
  value: Json;
}

/** What names another profile or type than before, and so has them looked up. */
export function hasOtherSources(given: VmSpecInput, previous: Pick<VmSpec, 'profiles' | 'instanceType'>): boolean {
  return (
    given.instanceType !== previous.instanceType ||
    (given.profiles ?? []).length !== (previous.profiles ?? []).length ||
    (given.profiles ?? []).some((name, index) => name !== previous.profiles?.[index])
  );
}

/**
 * The whole spec. `previous`: what the VM was; null for a new one, all of whose given fields are its own. A field that is
 * given as the VM has it from elsewhere, or by default, stays so: whoever sends back what they have read, with one field
 * changed, changes one field. `sources`: what the profiles and the type are now, in the order in which they count; null:
 * what was taken over before counts.
 *
 * Throws invalid_request when a field is given otherwise than the instance type says.
 */
export function expandSpec(
  given: VmSpecInput,
  { previous, sources }: { previous: VmSpec | null; sources: readonly SpecSource[] | null },
): VmSpec {
  const { inherited: _ignored, instanceType, profiles, ...said } = given;
  const remembered = (previous?.inherited ?? []).filter((one) => isNamed(one, given));
  const baseline = plain(vmSpec.parse(laidOver(remembered.map(leafOf))));
  const overridden = new Set(previous?.inherited?.flatMap(({ field, isOverridden }) => (isOverridden ? [field] : [])));
  const whole = plain(vmSpec.parse(said));
  const own = new Map<string, Leaf>();
  for (const { path, value } of leavesOf(plain(said))) {
    const field = formatPath(path);
    const before = valueAt(baseline, path);
    // Says only that it is there.
    if (isEmptyRecord(value) && before !== undefined) continue;
    // With what the schema fills in in elements of lists, so that it can be compared.
    const wanted = valueAt(whole, path) ?? value;
    if (previous === null || overridden.has(field) || !isEqual(before, wanted)) own.set(field, { path, value: wanted });
  }
  const laid = sources === null ? remembered : inheritedFrom(sources);
  for (const { kind, name, field, value } of laid) {
    const mine = kind === 'instance-type' ? own.get(field) : undefined;
    if (!mine) continue;
    const isAsBefore =
      previous !== null && sources !== null && isEqual(valueAt(plain(previous), mine.path), mine.value);
    if (!isAsBefore && !isEqual(mine.value, value as Json)) throw conflict(name, field, value, mine.value);
    own.delete(field);
  }
  const inherited = laid.map((one) => ({ ...one, isOverridden: own.has(one.field) }));
  const spec = vmSpec.parse(laidOver([...inherited.map(leafOf), ...own.values()]));
  return {
    ...spec,
    ...(instanceType === undefined ? {} : { instanceType }),
    ...(profiles === undefined || profiles.length === 0 ? {} : { profiles }),
    ...(inherited.length === 0 ? {} : { inherited }),
  };
}

/** What would change if a VM took its profiles and its type over as they are now. */
export function profileChangesOf(current: VmSpec, sources: readonly SpecSource[]): ProfileChange[] {
  const next = expandSpec(current, { previous: current, sources });
  const from = new Map(next.inherited?.map((one) => [one.field, one]));
  const fields = [...new Set([...(current.inherited ?? []), ...(next.inherited ?? [])].map(({ field }) => field))];
  const [before, after] = [plain(current), plain(next)];
  return fields.flatMap((field): ProfileChange[] => {
    const path = parsePath(field);
    const [old, wanted] = [valueAt(before, path), valueAt(after, path)];
    if (isEqual(old, wanted)) return [];
    const source = from.get(field);
    return [
      {
        field,
        current: shown(field, old),
        wanted: shown(field, wanted),
        from: source && !source.isOverridden ? { kind: source.kind, name: source.name } : null,
      },
    ];
  });
}

/** A spec that names a profile or type no more, and keeps what it has of it. */
export function withoutSource(spec: VmSpec, kind: SourceKind, isGone: (name: string) => boolean): VmSpec {
  const { instanceType, profiles, inherited, ...rest } = spec;
  const keptProfiles = profiles?.filter((name) => kind !== 'profile' || !isGone(name)) ?? [];
  const keptFields = inherited?.filter((one) => one.kind !== kind || !isGone(one.name)) ?? [];
  const isTypeKept = instanceType !== undefined && !(kind === 'instance-type' && isGone(instanceType));
  return {
    ...rest,
    ...(isTypeKept ? { instanceType } : {}),
    ...(keptProfiles.length === 0 ? {} : { profiles: keptProfiles }),
    ...(keptFields.length === 0 ? {} : { inherited: keptFields }),
  };
}

/** Every field that a source sets, by the one that counts; in the order of their names. */
function inheritedFrom(sources: readonly SpecSource[]): Omit<InheritedField, 'isOverridden'>[] {
  const found = new Map<string, Omit<InheritedField, 'isOverridden'>>();
  for (const { kind, name, spec } of sources) {
    for (const { path, value } of leavesOf(plain(spec))) {
      if (path[0] === 'description') continue;
      const field = formatPath(path);
      found.set(field, { field, kind, name, value });
    }
  }
  return [...found.values()].toSorted((one, other) => (one.field < other.field ? -1 : 1));
}

function isNamed({ kind, name }: InheritedField, { profiles, instanceType }: VmSpecInput): boolean {
  return kind === 'profile' ? (profiles?.includes(name) ?? false) : instanceType === name;
}

/** The fields of a document; lists are whole, and a record without fields is a field itself. */
function leavesOf(document: Json, path: PathPart[] = []): Leaf[] {
  if (!isRecord(document) || (path.length > 0 && Object.keys(document).length === 0))
    return [{ path, value: document }];
  return Object.entries(document).flatMap(([key, value]) => leavesOf(value, [...path, key]));
}

function laidOver(leaves: readonly Leaf[]): Json {
  let document: Json = {};
  for (const { path, value } of leaves) {
    if (isEmptyRecord(value) && valueAt(document, path) !== undefined) continue;
    document = withValueAt(document, path, value);
  }
  return document;
}

function leafOf({ field, value }: Pick<InheritedField, 'field' | 'value'>): Leaf {
  return { path: parsePath(field), value: value as Json };
}

function conflict(name: string, field: string, value: unknown, given: Json): LodgeError {
  const message = `is ${shorten(value)} in instance type ${name}, and can not be another beside it`;
  return new LodgeError('invalid_request', `spec.${field}: ${message} (given: ${shorten(given)})`, {
    hint: `Leave spec.${field} out, name another instance type (lodge instance-type list), or none (lodge vm set NAME instanceType-).`,
    fields: [{ field: `spec.${field}`, message, value: shorten(given) }],
  });
}

/** As it is shown to everybody: first-boot data may hold secrets. */
function shown(field: string, value: Json | undefined): ProfileChange['current'] {
  if (value === undefined || value === null) return null;
  if (field === 'cloudInit.userData') return 'given';
  return typeof value === 'object' ? JSON.stringify(value) : value;
}

/** As JSON has it: without what is undefined. */
function plain(value: object): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}

function isRecord(value: Json): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isEmptyRecord(value: Json): boolean {
  return isRecord(value) && Object.keys(value).length === 0;
}
