// The routes of sessions, and the cookie in which a session lives.
import type { NounHandlers } from '../../api/contract.ts';
import { LodgeError } from '../../api/errors.ts';
import { signInPath } from '../../api/session.ts';
import type { ByteSource, CallerSession, RequestContext } from '../http/context.ts';
import { sessionCookie } from '../http/session-cookie.ts';
import { shown, type OpenedSession, type SessionService } from './session-service.ts';

export function sessionHandlers(sessions: SessionService): NounHandlers<'session', RequestContext, ByteSource> {
  return {
    create: async ({ body }, context) => {
      const opened = 'code' in body ? await sessions.openByLink(body.code) : await sessions.openByToken(body.token);
      return answer(opened, context);
    },
    get: async (_request, { caller }) => shown(sessionOf(caller.session)),
    delete: async (_request, context) => {
      await sessions.close(sessionOf(context.caller.session).key);
      context.setHeader('set-cookie', `${sessionCookie}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0`);
    },
    deleteAll: async (_request, { caller }) => {
      await sessions.closeAll(caller.name);
    },
    createLink: async (_request, { caller }) => {
      const { code, expiresAt } = sessions.createLink(caller);
      return { code, path: `${signInPath}#code=${code}`, expiresAt };
    },
  };
}

function answer({ session, secret }: OpenedSession, context: RequestContext): OpenedSession['session'] {
  const seconds = Math.floor((Date.parse(session.expiresAt) - Date.parse(session.createdAt)) / 1000);
  context.setHeader(
    'set-cookie',
    `${sessionCookie}=${secret}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=${seconds}`,
  );
  return session;
}

function sessionOf(session: CallerSession | undefined): CallerSession {
  if (session === undefined) {
    throw new LodgeError('not_found', 'the request came without a session', {
      hint: 'Sessions are for browsers; with a token or over the unix socket there is none.',
    });
  }
  return session;
}
