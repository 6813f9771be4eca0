// Access tokens: what remote clients sign in with. Lodge keeps only a hash; the secret is shown once.
import * as z from 'zod';
import { objectName, timestamp } from './object.ts';
import { role } from './permission.ts';
import { noContent, route, type RouteTable } from './route.ts';

export const token = z
  .object({
    id: z.uuid(),
    name: objectName,
    role,
    createdAt: timestamp,
    expiresAt: timestamp.nullable(),
    lastUsedAt: timestamp.nullable(),
  })
  .meta({ id: 'Token' });
export type Token = z.output<typeof token>;

export const tokenCreate = z
  .strictObject({
    name: objectName,
    role: role.default('viewer'),
    expiresInS: z.int().min(60).max(315_360_000).optional().describe('Seconds it is valid; without it, until deleted'),
  })
  .meta({ id: 'TokenCreate' });

export const tokenRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/tokens',
    tag: 'tokens',
    summary: 'List access tokens',
    permission: 'token.read',
    response: z.object({ items: z.array(token) }).meta({ id: 'TokenList' }),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/tokens',
    tag: 'tokens',
    summary: 'Create an access token; its secret is shown only now',
    permission: 'token.create',
    body: tokenCreate,
    status: 201,
    response: token
      .extend({ secret: z.string().describe('Send it as Authorization: Bearer …') })
      .meta({ id: 'TokenWithSecret' }),
    errors: ['name_taken'],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/tokens/{token}',
    tag: 'tokens',
    summary: 'Delete an access token; it is refused from now on',
    permission: 'token.delete',
    status: 204,
    response: noContent,
    errors: ['not_found'],
  }),
} as const satisfies RouteTable;
