// Sessions: what a browser signs in with. A session is made from an access token or a one-time link, lives in a cookie that
// no script can read, and may do what the token, or whoever made the link, may do.
//
//   token ──────────┐
//                   ├─▶ POST /v1/sessions ─▶ cookie + csrfToken ─▶ requests of the page
//   link, once ─────┘
import * as z from 'zod';
import { timestamp } from './object.ts';
import { role } from './permission.ts';
import { noContent, route, type RouteTable } from './route.ts';

/** The header in which a page repeats the session's `csrfToken` with everything that is more than reading. */
export const csrfHeader = 'x-lodge-csrf';

/** Where the console takes a one-time code; it stands behind "#", so that it is never sent as part of an address. */
export const signInPath = '/sign-in';

export const session = z
  .object({
    caller: z.string().describe('Who you are to the daemon'),
    role,
    createdAt: timestamp,
    expiresAt: timestamp.describe('It ends by itself then'),
    csrfToken: z
      .string()
      .describe(`Goes with every request of the session that is more than reading, in the header ${csrfHeader}`),
  })
  .meta({ id: 'Session' });
export type Session = z.output<typeof session>;

const sessionCreate = z
  .union([
    z.strictObject({ token: z.string().min(1).max(500).describe('An access token') }),
    z.strictObject({ code: z.string().min(1).max(100).describe('The code of a one-time link') }),
  ])
  .meta({ id: 'SessionCreate' });

export const sessionLink = z
  .object({
    code: z.string().describe('Good for one sign-in'),
    path: z.string().describe('Of the console, on any of the daemon’s HTTPS addresses'),
    expiresAt: timestamp.describe('It must be used before'),
  })
  .meta({ id: 'SessionLink' });

export const sessionRoutes = {
  create: route({
    method: 'POST',
    path: '/v1/sessions',
    tag: 'sessions',
    summary: 'Sign a browser in, with an access token or the code of a one-time link',
    description:
      'The answer sets a cookie that scripts can not read and that is sent to no other site. It counts over HTTPS only.',
    permission: 'public',
    body: sessionCreate,
    status: 201,
    response: session,
    errors: [],
  }),
  get: route({
    method: 'GET',
    path: '/v1/session',
    tag: 'sessions',
    summary: 'Read the session that the request came with',
    permission: 'server.read',
    response: session,
    errors: ['not_found'],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/session',
    tag: 'sessions',
    summary: 'Sign this browser out',
    permission: 'session.delete',
    status: 204,
    response: noContent,
    errors: ['not_found'],
  }),
  deleteAll: route({
    method: 'DELETE',
    path: '/v1/sessions',
    tag: 'sessions',
    summary: 'Sign out everywhere: end all sessions of the caller',
    permission: 'session.delete',
    status: 204,
    response: noContent,
    errors: [],
  }),
  createLink: route({
    method: 'POST',
    path: '/v1/session-links',
    tag: 'sessions',
    summary: 'Make a one-time link for signing a browser in',
    description: 'Whoever opens it within ten minutes may do what the caller may. Later it opens nothing.',
    permission: 'token.create',
    status: 201,
    response: sessionLink,
    errors: [],
  }),
} as const satisfies RouteTable;
