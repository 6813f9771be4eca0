// Works out what `lodge apply` would do: for each object, whether it is made, changed or as it should be, field by
// field. Pure, but for reading the objects as they are; everything is checked before anything is changed.
import type { AddressSet } from '../../api/address-set.ts';
import type { Group } from '../../api/group.ts';
import type { Image } from '../../api/image.ts';
import { LodgeError } from '../../api/errors.ts';
import { expandSpec, hasOtherSources, type SpecSource } from '../../api/expand-spec.ts';
import type { InstanceType } from '../../api/instance-type.ts';
import type { Network } from '../../api/network.ts';
import type { Profile } from '../../api/profile.ts';
import type { SecurityGroup } from '../../api/security-group.ts';
import type { Template } from '../../api/template.ts';
import type { Volume } from '../../api/volume.ts';
import type { Vm } from '../../api/vm.ts';
import type { VmSpec, VmSpecInput } from '../../api/vm-spec.ts';
import { differences, type Difference } from '../../lib/difference.ts';
import { valueAt, withoutValueAt, withValueAt, type Json, type PathPart } from '../../lib/field-path.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { manifestKinds, type Manifest, type ManifestKind, type ManifestNoun } from './manifest.ts';

/** An object that apply knows. */
export type Existing =
  | AddressSet
  | SecurityGroup
  | Vm
  | Image
  | Volume
  | Network
  | Profile
  | InstanceType
  | Template
  | Group;

export type PlannedAction = 'create' | 'update' | 'unchanged';

/** What is to be done for one object. */
export interface PlannedObject {
  manifest: Manifest;
  action: PlannedAction;
  existing: Existing | null;
  /** The spec that it is to have. */
  spec: Json;
  /** The spec to send: for a VM without what it has from elsewhere. */
  sent: Json;
  labels: Record<string, string>;
  /** What differs, with paths that begin with spec or labels. For a new object all that it says. */
  changes: Difference[];
}

/**
 * Fields that stay as they are when a file doesn't name them, because the daemon chose them or they were changed by a
 * command of their own.
 */
const keptWhenAbsent: Readonly<Record<ManifestNoun, readonly PathPart[][]>> = {
  addressSet: [],
  securityGroup: [],
  volume: [['sizeMib']],
  network: [['ipv4Cidr'], ['bridge']],
  vm: [['cloudInit', 'password']],
  image: [],
  profile: [],
  instanceType: [],
  template: [],
  group: [],
};

/** The profiles and the instance type that a VM of a project names, as they are to be, in the order in which they count. */
export type FindSources = (project: string, given: VmSpecInput) => SpecSource[];

/** The plan for one object. */
export function planObject(
  manifest: Manifest,
  existing: Existing | null,
  findSources: FindSources = () => [],
): PlannedObject {
  const labels = manifest.labels ?? existing?.labels ?? {};
  const isVm = manifest.noun === 'vm';
  const given = withoutValueAt(manifest.given, ['inherited']);
  if (existing === null) {
    const changes = differences({}, { spec: given, ...(Object.keys(labels).length > 0 ? { labels } : {}) });
    const spec = isVm ? expanded(manifest, given, null, findSources) : manifest.spec;
    return { manifest, action: 'create', existing, spec, sent: isVm ? given : spec, labels, changes };
  }
  const current = plainJson(existing.spec);
  let spec = isVm ? given : manifest.spec;
  for (const path of keptWhenAbsent[manifest.noun]) {
    const kept = valueAt(current, path);
    if (valueAt(spec, path) === undefined && kept !== undefined) spec = withValueAt(spec, path, kept);
  }
  // The daemon keeps a password as a hash alone, so one in plain text can't be compared. It was for the first boot.
  const password = valueAt(spec, ['cloudInit', 'password']);
  const hash = valueAt(current, ['cloudInit', 'password']);
  if (isVm && typeof password === 'string' && !password.startsWith('$6$') && hash !== undefined) {
    spec = withValueAt(spec, ['cloudInit', 'password'], hash);
  }
  const sent = spec;
  if (isVm) spec = expanded(manifest, spec, existing.spec as VmSpec, findSources);
  const isWritten = ({ path }: Difference): boolean => path[1] !== 'inherited';
  const changes = [
    ...differences(existing.labels, labels, ['labels']),
    ...differences(current, spec, ['spec']).filter(isWritten),
  ];
  return { manifest, action: changes.length === 0 ? 'unchanged' : 'update', existing, spec, sent, labels, changes };
}

/** What the daemon makes of a VM's spec: what a file leaves out comes from profiles and instance type, or is the default. */
function expanded(manifest: Manifest, given: Json, previous: VmSpec | null, findSources: FindSources): Json {
  const said = given as VmSpecInput;
  const isLookedUp = previous === null || hasOtherSources(said, previous);
  const sources = isLookedUp ? findSources(manifest.project, said) : null;
  try {
    return plainJson(expandSpec(said, { previous, sources }));
  } catch (failure) {
    if (!(failure instanceof LodgeError)) throw failure;
    throw new LodgeError(failure.code, `${manifest.kind} ${manifest.name} (${manifest.where}): ${failure.message}`, {
      hint: failure.hint,
      fields: failure.fields,
    });
  }
}

/** A document as JSON has it: without what is undefined. */
function plainJson(value: unknown): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}

/** In the order in which kinds need each other; within a kind, as they stand in the files. */
export function inOrder<Item extends { manifest: Manifest }>(items: readonly Item[]): Item[] {
  return manifestKinds.flatMap((kind) => items.filter((item) => item.manifest.kind === kind));
}

/** What an object refers to. */
export interface Reference {
  kind: ManifestKind;
  name: string;
  path: string;
}

/** The objects that one needs. */
export function referencesOf(manifest: Manifest): Reference[] {
  const references: Reference[] = [];
  const add = (kind: ManifestKind, path: PathPart[], label: string): void => {
    const name = valueAt(manifest.spec, path);
    if (typeof name === 'string') references.push({ kind, name, path: `spec.${label}` });
  };
  if (manifest.kind === 'Volume' || manifest.kind === 'Vm') add('Image', ['image'], 'image');
  const { vm } = manifest.source;
  if (vm !== undefined) references.push({ kind: 'Vm', name: vm, path: 'vm' });
  if (manifest.kind === 'Group') {
    const members = valueAt(manifest.spec, ['members']);
    for (let index = 0; Array.isArray(members) && index < members.length; index += 1)
      add('Vm', ['members', index, 'vm'], `members.${index}.vm`);
  }
  const addEach = (kind: ManifestKind, path: PathPart[]): void => {
    const names = valueAt(manifest.spec, path);
    for (let index = 0; Array.isArray(names) && index < names.length; index += 1)
      add(kind, [...path, index], [...path, index].join('.'));
  };
  if (manifest.kind === 'Network') addEach('SecurityGroup', ['firewall', 'securityGroups']);
  if (manifest.kind === 'SecurityGroup') {
    addEach('SecurityGroup', ['includes']);
    const rules = valueAt(manifest.spec, ['rules']);
    for (let rule = 0; Array.isArray(rules) && rule < rules.length; rule += 1) {
      const peers = valueAt(manifest.spec, ['rules', rule, 'peers']);
      for (let index = 0; Array.isArray(peers) && index < peers.length; index += 1) {
        const path = ['rules', rule, 'peers', index];
        add('SecurityGroup', [...path, 'securityGroup'], `${path.join('.')}.securityGroup`);
        add('AddressSet', [...path, 'addressSet'], `${path.join('.')}.addressSet`);
      }
    }
  }
  if (manifest.kind !== 'Vm') return references;
  add('InstanceType', ['instanceType'], 'instanceType');
  addEach('Profile', ['profiles']);
  for (const list of ['disks', 'nics'] as const) {
    const items = valueAt(manifest.spec, [list]);
    for (let index = 0; Array.isArray(items) && index < items.length; index += 1) {
      if (list === 'nics') {
        add('Network', [list, index, 'network'], `nics.${index}.network`);
        addEach('SecurityGroup', [list, index, 'securityGroups']);
      } else {
        add('Image', [list, index, 'image'], `disks.${index}.image`);
        add('Volume', [list, index, 'volume'], `disks.${index}.volume`);
      }
    }
  }
  return references;
}

/** What can't be changed, and references that lead nowhere: what the daemon would refuse half-way. */
export function complaintsAbout(
  planned: readonly PlannedObject[],
  existingNames: (kind: ManifestKind, project: string) => readonly { name: string; id: string }[],
): { field: string; message: string }[] {
  const complaints: { field: string; message: string }[] = [];
  for (const { manifest, existing, spec } of planned) {
    if (existing === null && manifest.kind === 'Template' && manifest.source.vm === undefined)
      complaints.push({ field: manifest.where, message: 'says not of which VM it is to be made: vm: web1' });
    // What a template was made of may be gone.
    const source = existing === null ? manifest.source : {};
    for (const reference of referencesOf({ ...manifest, spec, source })) {
      const inFiles = planned.filter(
        (one) => one.manifest.kind === reference.kind && one.manifest.project === manifest.project,
      );
      const onDaemon = existingNames(reference.kind, manifest.project);
      const isKnown =
        inFiles.some((one) => one.manifest.name === reference.name) ||
        onDaemon.some((one) => one.name === reference.name || one.id === reference.name);
      if (isKnown) continue;
      const near = closestWord(reference.name, [
        ...inFiles.map((one) => one.manifest.name),
        ...onDaemon.map((one) => one.name),
      ]);
      complaints.push({
        field: `${manifest.where}: ${reference.path}`,
        message: `there is no ${reference.kind.replace(/(?<=.)[A-Z]/, (letter) => ` ${letter}`).toLowerCase()} ${reference.name}, neither here nor in these files${near === null ? '' : ` (did you mean ${near}?)`}`,
      });
    }
    if (existing === null) continue;
    if (
      manifest.kind === 'Image' &&
      differences(plainJson((existing as Image).spec.source), valueAt(spec, ['source'])).length > 0
    ) {
      complaints.push({
        field: `${manifest.where}: spec.source`,
        message: `the source of an image can not be changed: delete image ${manifest.name} first, or take another name`,
      });
    }
    if (manifest.kind === 'Volume') {
      const present = (existing as Volume).status.virtualSizeMib;
      const wanted = valueAt(spec, ['sizeMib']);
      if (typeof wanted === 'number' && present !== null && wanted < present) {
        complaints.push({
          field: `${manifest.where}: spec.sizeMib`,
          message: `volume ${manifest.name} has ${present} MiB and can not shrink to ${wanted} MiB`,
        });
      }
    }
  }
  return complaints;
}
