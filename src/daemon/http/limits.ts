// Every bound of the HTTP server, and what of them the configuration sets.
import type { Config } from '../config.ts';
import type { AdmissionLimits } from './admission.ts';
import type { BodyLimits } from './request-body.ts';
import type { StreamLimits } from './response-stream.ts';

export interface HttpLimits extends BodyLimits, StreamLimits {
  /** Connections to each listener. */
  maxConnections: number;
  admission: AdmissionLimits;
  /** Longest a handler of an ordinary request may take, and the first bytes of an answer of bytes, milliseconds. */
  handlerTimeoutMs: number;
  /** How long an answer waits for an event stream's first event, so that a failure at its start is an ordinary answer. */
  firstItemMs: number;
  /** How often a WebSocket is asked whether it is alive, milliseconds; one that hasn't answered by the next is cut off. */
  pingMs: number;
}

export const defaultHttpLimits: HttpLimits = {
  maxConnections: 1024,
  admission: {
    request: { total: 512, perCaller: 256 },
    stream: { total: 256, perCaller: 128 },
    websocket: { total: 256, perCaller: 256 },
  },
  maxJsonBytes: 1024 * 1024,
  // 16 TiB, the largest file of ext4.
  maxUploadBytes: 16 * 1024 ** 4,
  jsonTimeoutMs: 30_000,
  uploadIdleMs: 60_000,
  handlerTimeoutMs: 120_000,
  firstItemMs: 20,
  keepAliveMs: 15_000,
  stalledMs: 60_000,
  pingMs: 30_000,
};

/** What the configuration sets; one caller may have half of the requests and streams. */
export function configuredLimits(limits: Config['limits']): Partial<HttpLimits> {
  const half = (total: number): number => Math.ceil(total / 2);
  return {
    maxConnections: limits.maxConnections,
    maxUploadBytes: limits.maxUploadMib * 1024 ** 2,
    admission: {
      request: { total: limits.maxRequests, perCaller: half(limits.maxRequests) },
      stream: { total: limits.maxStreams, perCaller: half(limits.maxStreams) },
      // A ticket is the credential of a console, so all consoles of remote clients have one caller.
      websocket: { total: limits.maxConsoles, perCaller: limits.maxConsoles },
    },
  };
}
