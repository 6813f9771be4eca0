// Routes of the daemon itself.
import { type NounHandlers } from '../../api/contract.ts';
import { LodgeError } from '../../api/errors.ts';
import { byteAnswer, type ByteSource, type RequestContext } from '../http/context.ts';
import { type HttpMetrics } from '../http/metrics.ts';
import { documentHandlers } from '../http/documents.ts';

/** Where the daemon is in its life. */
export type DaemonPhase = 'starting' | 'ok' | 'stopping';

export interface ServerHandlersParts {
  version: string;
  instance: string;
  node: () => string;
  problems: () => string[];
  revision: () => Promise<number>;
  caCertificate: string | null;
  httpsAddress: () => string | null;
  httpsAddresses: () => string[];
  metrics: HttpMetrics;
  phase: () => DaemonPhase;
}

export function serverHandlers(parts: ServerHandlersParts): NounHandlers<'server', RequestContext, ByteSource> {
  return {
    get: async (_request, { caller }) => ({
      version: parts.version,
      apiVersion: 'v1',
      instance: parts.instance,
      node: parts.node(),
      revision: await parts.revision(),
      caCertificate: parts.caCertificate,
      httpsAddress: parts.httpsAddress(),
      httpsAddresses: parts.httpsAddresses(),
      caller: caller.name,
      role: caller.role ?? 'none',
    }),
    healthz: async () => ({ status: parts.phase(), problems: [] }),
    readyz: async () => {
      const status = parts.phase();
      if (status !== 'ok') throw new LodgeError('unavailable', `The daemon is ${status}.`);
      return { status, problems: parts.problems() };
    },
    metrics: async () => byteAnswer(await parts.metrics.text(), { contentType: parts.metrics.contentType }),
    ...documentHandlers(),
  };
}
