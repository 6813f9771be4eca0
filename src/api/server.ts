// The daemon itself: version, health, metrics, and the documents that describe this contract.
import * as z from 'zod';
import { bytes, route, type RouteTable } from './route.ts';

export const serverInfo = z
  .object({
    version: z.string(),
    apiVersion: z.literal('v1'),
    instance: z.string().describe('Name of this installation; marks what it makes on the host'),
    node: z.string().describe('Name of the node that answers'),
    revision: z.int().describe('Store revision now'),
    caCertificate: z
      .string()
      .nullable()
      .describe('PEM certificate of Lodge’s own authority, to verify its HTTPS address'),
    httpsAddress: z
      .string()
      .nullable()
      .describe(
        'Where remote clients reach it, https://host:port; by the machine’s name where it listens on all its addresses',
      ),
    httpsAddresses: z.array(z.string()).describe('All names and addresses by which remote clients reach it now'),
    caller: z.string().describe('Who you are to the daemon'),
    role: z.string(),
  })
  .meta({ id: 'ServerInfo' });

const health = z
  .object({ status: z.enum(['ok', 'starting', 'stopping']), problems: z.array(z.string()) })
  .meta({ id: 'Health' });

export const serverRoutes = {
  get: route({
    method: 'GET',
    path: '/v1/server',
    tag: 'server',
    summary: 'Read about this daemon',
    permission: 'server.read',
    response: serverInfo,
    errors: [],
  }),
  healthz: route({
    method: 'GET',
    path: '/healthz',
    tag: 'server',
    summary: 'Whether the process is alive',
    permission: 'public',
    response: health,
    errors: [],
  }),
  readyz: route({
    method: 'GET',
    path: '/readyz',
    tag: 'server',
    summary: 'Whether the daemon can serve requests: 503 while it starts or stops',
    permission: 'public',
    response: health,
    errors: [],
  }),
  metrics: route({
    method: 'GET',
    path: '/metrics',
    tag: 'server',
    summary: 'Metrics in the Prometheus text format',
    permission: 'node.read',
    response: bytes('text/plain; version=0.0.4', 'Prometheus text format'),
    errors: [],
  }),
  openapi: route({
    method: 'GET',
    path: '/openapi.json',
    tag: 'server',
    summary: 'This contract as OpenAPI 3.1',
    permission: 'public',
    response: bytes('application/json', 'OpenAPI 3.1 document'),
    errors: [],
  }),
  reference: route({
    method: 'GET',
    path: '/docs',
    tag: 'server',
    summary: 'This contract as a page to read',
    permission: 'public',
    response: bytes('text/html; charset=utf-8', 'HTML page'),
    errors: [],
  }),
} as const satisfies RouteTable;
