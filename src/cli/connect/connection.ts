// Which daemon to talk to and with what credentials. Decided in this order, the first that says something:
// options of the command line, LODGE_SERVER or LODGE_SOCKET, LODGE_CONTEXT or the configuration's current context, and
// at last the local socket.
import { readFile } from 'node:fs/promises';
import { LodgeError } from '../../api/errors.ts';
import type { Config, Context } from './config.ts';
import { usageError } from '../usage-error.ts';

export const defaultSocket = '/run/lodge/lodge.sock';

/** Options of the command line that say which daemon and project. */
export interface ConnectionOptions {
  socket?: string;
  server?: string;
  token?: string;
  tokenFile?: string;
  ca?: string;
  context?: string;
  project?: string;
}

/** What was decided; files are named, not yet read. */
export interface ConnectionChoice {
  socketPath?: string;
  server?: string;
  token?: string;
  tokenFile?: string;
  caFile?: string;
  caCertificate?: string;
  project: string | undefined;
  /** What decided it, for `lodge context show`. */
  origin: string;
}

/** Decides; pure. */
export function chooseConnection(
  options: ConnectionOptions,
  environment: NodeJS.ProcessEnv,
  config: Config,
): ConnectionChoice {
  const variable = (name: string): string | undefined => {
    const value = environment[name];
    return value === undefined || value === '' ? undefined : value;
  };
  if (options.socket !== undefined && options.server !== undefined) {
    throw usageError('both --socket and --server are given', { hint: 'Give one of them.' });
  }
  if (options.token !== undefined && options.tokenFile !== undefined) {
    throw usageError('both --token and --token-file are given', { hint: 'Give one of them.' });
  }
  const project = options.project ?? variable('LODGE_PROJECT');
  const credentials = {
    token: options.token ?? (options.tokenFile === undefined ? variable('LODGE_TOKEN') : undefined),
    tokenFile: options.tokenFile ?? (options.token === undefined ? variable('LODGE_TOKEN_FILE') : undefined),
    caFile: options.ca ?? variable('LODGE_CA'),
  };
  if (options.socket !== undefined) return { socketPath: options.socket, project, origin: '--socket' };
  if (options.server !== undefined) return { server: options.server, ...credentials, project, origin: '--server' };

  const name = options.context ?? variable('LODGE_CONTEXT') ?? config.current;
  if (options.context === undefined) {
    const server = variable('LODGE_SERVER');
    const socketPath = variable('LODGE_SOCKET');
    if (server !== undefined && socketPath !== undefined) {
      throw usageError('both LODGE_SERVER and LODGE_SOCKET are set', {
        hint: 'Unset one of them.',
      });
    }
    if (server !== undefined) return { server, ...credentials, project, origin: 'LODGE_SERVER' };
    if (socketPath !== undefined) return { socketPath, project, origin: 'LODGE_SOCKET' };
  }
  if (name === undefined) return { socketPath: defaultSocket, project, origin: 'the local socket' };

  const context = findContext(config, name);
  const origin = `context ${name}`;
  const inContext = project ?? context.project;
  if (context.server === undefined) {
    return { socketPath: context.socket ?? defaultSocket, project: inContext, origin };
  }
  return {
    server: context.server,
    token: credentials.token ?? (credentials.tokenFile === undefined ? context.token : undefined),
    tokenFile: credentials.tokenFile ?? (credentials.token === undefined ? context.tokenFile : undefined),
    caFile: credentials.caFile,
    caCertificate: credentials.caFile === undefined ? context.caCertificate : undefined,
    project: inContext,
    origin,
  };
}

/** The context of a name, or an error that lists what there is. */
export function findContext(config: Config, name: string): Context {
  const found = Object.hasOwn(config.contexts, name) ? config.contexts[name] : undefined;
  if (found !== undefined) return found;
  const names = Object.keys(config.contexts);
  throw new LodgeError('not_found', `there is no context ${JSON.stringify(name)}`, {
    hint:
      names.length === 0
        ? 'Make one: lodge context add NAME --server https://host:7443 --token-stdin'
        : `There are: ${names.join(', ')} (lodge context list).`,
  });
}

/** A connection with its files read. */
export interface ResolvedConnection {
  socketPath?: string;
  baseUrl?: string;
  token?: string;
  ca?: string;
}

/** Reads the token and the certificate from their files. */
export async function resolveConnection(choice: ConnectionChoice): Promise<ResolvedConnection> {
  if (choice.server === undefined) return { socketPath: choice.socketPath ?? defaultSocket };
  const token =
    choice.token ?? (choice.tokenFile === undefined ? undefined : (await read(choice.tokenFile, 'token file')).trim());
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) {
    throw usageError('the access token is empty or has characters that no token has', {
      hint: 'Give the secret as lodge token create printed it.',
    });
  }
  const ca =
    choice.caCertificate ?? (choice.caFile === undefined ? undefined : await read(choice.caFile, 'certificate'));
  if (ca !== undefined && !ca.includes('-----BEGIN CERTIFICATE-----')) {
    throw usageError(`${choice.caFile ?? 'the context’s caCertificate'} is not a PEM certificate`);
  }
  return { baseUrl: choice.server, token, ca };
}

async function read(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'it can not be read';
    throw usageError(`the ${what} ${path} can not be read: ${code}`, { cause });
  }
}
