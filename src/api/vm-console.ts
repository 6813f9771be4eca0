// Consoles of a VM: serial and VNC through a WebSocket with a single-use ticket, screenshots, keys, NMI.
import * as z from 'zod';
import { inProject, timestamp } from './object.ts';
import { bytes, noContent, route, type RouteTable } from './route.ts';

export const consoleTicket = z
  .object({
    ticket: z.string(),
    type: z.enum(['serial', 'vnc']),
    path: z.string().describe('WebSocket path on this daemon: /v1/consoles/…'),
    expiresAt: timestamp.describe('It must be used before; it can be used once'),
  })
  .meta({ id: 'ConsoleTicket' });

export const serialLine = z.object({
  number: z.int().describe('From 1, of what is kept'),
  text: z.string().describe('Plain: without colours, cursor movements and control characters; cut at 4096 characters'),
  at: timestamp.nullable().describe('When its end had been printed, to a quarter of a second; null: not known'),
  isComplete: z.boolean().describe('Whether its end has come'),
});
export type SerialLine = z.output<typeof serialLine>;

export const serialLines = z
  .object({
    lines: z.array(serialLine),
    matches: z.int().describe('Lines that were found, those too that are not in the answer'),
    total: z.int().describe('Lines that are kept'),
  })
  .meta({ id: 'SerialLines' });
export type SerialLines = z.output<typeof serialLines>;

const keyName = z.string().regex(/^[a-z0-9_]{1,20}$/, 'is a key as QEMU names it: ctrl, alt, delete, ret, a, f1');
const errors = ['not_found', 'wrong_state', 'hypervisor_failed', 'unsupported'] as const;

export const vmConsoleRoutes = {
  openConsole: route({
    method: 'POST',
    path: '/v1/vms/{vm}/console-tickets',
    tag: 'consoles',
    summary: 'Get a single-use ticket for a console',
    permission: 'vm.console',
    query: inProject,
    body: z.strictObject({ type: z.enum(['serial', 'vnc']).default('serial') }).meta({ id: 'ConsoleOpen' }),
    status: 201,
    response: consoleTicket,
    errors,
  }),
  attachConsole: route({
    method: 'GET',
    path: '/v1/consoles/{ticket}',
    tag: 'consoles',
    summary: 'Attach to a console',
    description:
      'The ticket is the credential. Serial: binary frames of console bytes, beginning with the last 64 KiB of output. VNC: binary frames of the RFB protocol.',
    permission: 'public',
    response: { kind: 'websocket', description: 'Console bytes in binary frames' },
    errors: ['not_found', 'hypervisor_failed'],
  }),
  serialLog: route({
    method: 'GET',
    path: '/v1/vms/{vm}/serial-log',
    tag: 'consoles',
    summary: 'Read the kept output of the serial console',
    permission: 'vm.console',
    query: inProject.extend({
      bytes: z.coerce
        .number<number | string>()
        .int()
        .min(1)
        .max(4_194_304)
        .default(65_536)
        .describe('At most this many, from the end'),
    }),
    response: bytes('application/octet-stream', 'Console output as it came'),
    errors: ['not_found'],
  }),
  searchSerialLog: route({
    method: 'GET',
    path: '/v1/vms/{vm}/serial-log/lines',
    tag: 'consoles',
    summary: 'Search the kept output of the serial console',
    permission: 'vm.console',
    query: inProject.extend({
      contains: z.string().min(1).max(200).optional().describe('Only lines with this text in them; no pattern'),
      ignoreCase: z.stringbool().or(z.boolean()).default(false).describe('Capital and small letters are the same'),
      tail: z.coerce
        .number<number | string>()
        .int()
        .min(1)
        .max(10_000)
        .default(1000)
        .describe('At most this many lines, the last ones'),
      since: timestamp.optional().describe('Only what was printed then or later'),
    }),
    response: serialLines,
    errors: ['not_found'],
  }),
  screenshot: route({
    method: 'GET',
    path: '/v1/vms/{vm}/screenshot',
    tag: 'consoles',
    summary: 'Take a picture of the display',
    description:
      'A picture is taken at most once a second of each VM; who asks more often gets the last one. The answer has an ETag that stands for the pixels: with If-None-Match, a display that has not changed answers 304.',
    permission: 'vm.console',
    query: inProject.extend({
      width: z.coerce
        .number<number | string>()
        .int()
        .min(16)
        .max(4096)
        .optional()
        .describe('Width in pixels to make a larger display smaller to; without it, as it is'),
    }),
    response: bytes('image/png', 'PNG'),
    errors,
  }),
  sendKeys: route({
    method: 'POST',
    path: '/v1/vms/{vm}/send-keys',
    tag: 'consoles',
    summary: 'Press keys',
    permission: 'vm.console',
    query: inProject,
    body: z
      .strictObject({
        combinations: z
          .array(z.array(keyName).min(1).max(6))
          .min(1)
          .max(200)
          .describe('Pressed one after another; the keys of one together: [["ctrl","alt","delete"]]'),
        holdMs: z.int().min(1).max(10_000).default(100),
      })
      .meta({ id: 'SendKeys' }),
    status: 204,
    response: noContent,
    errors,
  }),
  injectNmi: route({
    method: 'POST',
    path: '/v1/vms/{vm}/nmi',
    tag: 'consoles',
    summary: 'Send a non-maskable interrupt',
    permission: 'vm.power',
    query: inProject,
    status: 204,
    response: noContent,
    errors,
  }),
} as const satisfies RouteTable;
