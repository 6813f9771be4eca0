// Address sets: named lists of addresses and prefixes, for the rules of security groups. A change of a set counts at once
// for every rule that names it.
import * as z from 'zod';
import { creation, inProject, listQuery, metadata, page, update } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { addressBlock } from './security-group.ts';

/** Most entries of one set. */
export const maxSetAddresses = 10_000;

export const addressSetSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    addresses: z
      .array(addressBlock)
      .max(maxSetAddresses)
      .default([])
      .describe('Prefixes without host bits, and addresses; IPv4 and IPv6'),
  })
  .meta({ id: 'AddressSetSpec' });
export type AddressSetSpec = z.output<typeof addressSetSpec>;

export const addressSetStatus = z
  .object({ usedBy: z.array(z.string()).describe('What names it, each as its kind and name: security group web') })
  .meta({ id: 'AddressSetStatus' });

export const addressSet = z
  .object({ ...metadata, spec: addressSetSpec, status: addressSetStatus })
  .meta({ id: 'AddressSet' });
export type AddressSet = z.output<typeof addressSet>;

const one = { tag: 'security groups', query: inProject } as const;

export const addressSetRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/address-sets',
    tag: 'security groups',
    summary: 'List address sets',
    permission: 'firewall.read',
    query: listQuery,
    response: page('AddressSetPage', addressSet),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/address-sets',
    tag: 'security groups',
    summary: 'Create an address set',
    permission: 'firewall.update',
    body: creation('AddressSetCreate', addressSetSpec),
    status: 201,
    response: addressSet,
    errors: ['name_taken', 'idempotency_conflict'],
    isIdempotentByKey: true,
  }),
  get: route({
    ...one,
    method: 'GET',
    path: '/v1/address-sets/{addressSet}',
    summary: 'Read an address set',
    permission: 'firewall.read',
    response: addressSet,
    errors: ['not_found'],
  }),
  update: route({
    ...one,
    method: 'PUT',
    path: '/v1/address-sets/{addressSet}',
    summary: 'Change an address set',
    permission: 'firewall.update',
    body: update('AddressSetUpdate', addressSetSpec),
    response: addressSet,
    errors: ['not_found', 'revision_conflict', 'host_failed'],
  }),
  delete: route({
    ...one,
    method: 'DELETE',
    path: '/v1/address-sets/{addressSet}',
    summary: 'Delete an address set that no group names',
    permission: 'firewall.update',
    response: addressSet,
    errors: ['not_found', 'in_use'],
  }),
} as const satisfies RouteTable;
