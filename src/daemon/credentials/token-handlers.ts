// The routes of access tokens.
import type { NounHandlers } from '../../api/contract.ts';
import type { ByteSource, RequestContext } from '../http/context.ts';
import type { TokenService } from './token-service.ts';

export function tokenHandlers(tokens: TokenService): NounHandlers<'token', RequestContext, ByteSource> {
  return {
    list: async () => ({ items: await tokens.list() }),
    create: ({ body }, { caller }) => tokens.create(body, caller.name),
    delete: ({ params }, { caller }) => tokens.delete(params.token, caller.name),
  };
}
