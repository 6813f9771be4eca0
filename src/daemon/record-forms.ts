// Which form each kind of record has today, for what an earlier version kept (store/upgrade.ts): specs are what their
// schema makes of them, so that a field that has come since has its default; status is laid over that of an object of
// which nothing was observed yet.
import * as z from 'zod';
import { group, groupSpec } from '../api/group.ts';
import { addressSet, addressSetSpec } from '../api/address-set.ts';
import { image, imageSpec } from '../api/image.ts';
import { network, networkSpec } from '../api/network.ts';
import { securityGroup, securityGroupSpec } from '../api/security-group.ts';
import { snapshot } from '../api/snapshot.ts';
import { template, templateSpec } from '../api/template.ts';
import { vm, vmStatus } from '../api/vm.ts';
import { vmSpec } from '../api/vm-spec.ts';
import { volume, volumeSpec } from '../api/volume.ts';
import { initialSecurityGroupStatus } from './firewall/firewall-service.ts';
import { initialGroupStatus } from './group/group-service.ts';
import { initialImageStatus } from './image/image-service.ts';
import { initialNetworkStatus } from './network/network-status.ts';
import { initialSnapshotStatus } from './snapshot/snapshot-records.ts';
import { type RecordForm } from './store/upgrade.ts';
import { initialTemplateStatus } from './template/template-records.ts';
import { initialVmStatus } from './vm/vm-records.ts';
import { initialVolumeStatus } from './volume/volume-service.ts';

type Fields = Record<string, unknown>;

const fields = z.record(z.string(), z.unknown());

/** What an object of a noun consists of, in its two records. */
function objectForms(
  plural: string,
  { schema, spec, initialStatus }: { schema: z.ZodType; spec?: z.ZodType; initialStatus: object },
): RecordForm[] {
  const status = (schema as z.ZodObject<{ status: z.ZodType }>).shape.status;
  return [
    {
      prefix: `/lodge/${plural}/`,
      schema,
      complete: (value) => (spec ? withParts(value, { spec }) : value),
    },
    {
      prefix: `/lodge/${plural}-status/`,
      schema: status,
      complete: (value) => completeStatus(status, { ...initialStatus, ...fields.parse(value) }),
    },
  ];
}

/** What the schema doesn't know of a status is kept: some keep more than they show. */
function completeStatus(schema: z.ZodType, value: Fields): Fields {
  const result = z.safeParse(schema, value);
  return result.success ? { ...value, ...fields.parse(result.data) } : value;
}

/** The value with some of its fields in the form of their schemas. */
function withParts(value: unknown, parts: Record<string, z.ZodType>): Fields {
  const given = fields.parse(value);
  const completed = Object.entries(parts)
    .filter(([name]) => given[name] !== undefined && given[name] !== null)
    .map(([name, schema]) => [name, z.parse(schema, given[name])]);
  return { ...given, ...(Object.fromEntries(completed) as Fields) };
}

/** Status of a VM as it was once: only some of its fields, which are brought into the form that a VM's have. */
const pastStatus = vmStatus.partial();

/** Those of all nouns whose form may change. Profiles have no defaults: what they don't say is not theirs. */
export const recordForms: readonly RecordForm[] = [
  ...objectForms('vms', { schema: vm, spec: vmSpec, initialStatus: initialVmStatus(new Date(0).toISOString()) }),
  ...objectForms('images', { schema: image, spec: imageSpec, initialStatus: initialImageStatus() }),
  ...objectForms('volumes', { schema: volume, spec: volumeSpec, initialStatus: initialVolumeStatus() }),
  ...objectForms('networks', { schema: network, spec: networkSpec, initialStatus: initialNetworkStatus() }),
  ...objectForms('templates', { schema: template, spec: templateSpec, initialStatus: initialTemplateStatus() }),
  ...objectForms('groups', { schema: group, spec: groupSpec, initialStatus: initialGroupStatus() }),
  ...objectForms('security-groups', {
    schema: securityGroup,
    spec: securityGroupSpec,
    initialStatus: initialSecurityGroupStatus(),
  }),
  ...objectForms('address-sets', { schema: addressSet, spec: addressSetSpec, initialStatus: { usedBy: [] } }),
  ...objectForms('snapshots', { schema: snapshot, initialStatus: initialSnapshotStatus() }),
  {
    prefix: '/lodge/snapshot-origins/',
    schema: z.object({ spec: vmSpec, status: pastStatus }),
    complete: (value) => withParts(value, { spec: vmSpec, status: pastStatus }),
  },
  {
    prefix: '/lodge/template-origins/',
    schema: vmSpec,
    complete: (value) => withParts(value, { spec: vmSpec }),
  },
];
