// The user's configuration: named contexts (which daemon, with which credentials and project) in
// ~/.config/lodge/config.yaml. It holds tokens, so it is written with mode 0600 and a file that others can read is
// told about. Written whole or not at all.
import { chmod, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import * as z from 'zod';
import { objectName } from '../../api/object.ts';
import { formatPath, type PathPart } from '../../lib/field-path.ts';
import { usageError } from '../usage-error.ts';

const contextName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/, 'takes letters, digits, "_", "." and "-"');

const context = z.strictObject({
  socket: z.string().startsWith('/', 'is an absolute path').optional(),
  server: z.url({ protocol: /^https?$/ }).optional(),
  token: z.string().min(1).optional(),
  tokenFile: z.string().startsWith('/', 'is an absolute path').optional(),
  caCertificate: z.string().optional(),
  project: objectName.optional(),
});

/** How to reach one daemon. */
export type Context = z.output<typeof context>;

const configFile = z.strictObject({
  current: z.string().optional(),
  contexts: z.record(contextName, context).default({}),
});
export type Config = z.output<typeof configFile>;

/** Where the configuration is: LODGE_CONFIG, or lodge/config.yaml in the user's configuration folder. */
export function configPath(environment: NodeJS.ProcessEnv = process.env): string {
  const explicit = environment['LODGE_CONFIG'] ?? '';
  if (explicit !== '') return explicit;
  const base = environment['XDG_CONFIG_HOME'] ?? '';
  return join(base.startsWith('/') ? base : join(homedir(), '.config'), 'lodge', 'config.yaml');
}

/** Reads the configuration; a file that isn't there is an empty one. */
export async function readConfig(path: string): Promise<{ config: Config; warning: string | null }> {
  let text: string;
  let mode: number;
  try {
    text = await readFile(path, 'utf8');
    mode = (await stat(path)).mode;
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') {
      return { config: { contexts: {} }, warning: null };
    }
    throw usageError(`the configuration ${path} can not be read`, {
      hint: 'Check its permissions, or give another one in LODGE_CONFIG.',
      cause,
    });
  }
  const { parse } = await import('yaml');
  let document: unknown;
  try {
    document = parse(text) ?? {};
  } catch (cause) {
    throw usageError(`the configuration ${path} is not YAML: ${firstLine(cause)}`, {
      hint: 'Correct it, or remove it and make it again with lodge context add.',
    });
  }
  const checked = configFile.safeParse(document);
  if (!checked.success) {
    throw usageError(`the configuration ${path} is not valid`, {
      hint: 'Correct the named fields, or remove the file and make it again with lodge context add.',
      fields: checked.error.issues.map((issue) => ({
        field: formatPath(issue.path as PathPart[]),
        message: issue.message,
      })),
    });
  }
  const hasSecret = Object.values(checked.data.contexts).some((one) => one.token !== undefined);
  return {
    config: checked.data,
    warning:
      hasSecret && (mode & 0o077) !== 0
        ? `other users can read the tokens in ${path}; protect it: chmod 600 ${path}`
        : null,
  };
}

/** Writes the configuration, whole, readable only by its owner. */
export async function writeConfig(path: string, config: Config): Promise<void> {
  const { stringify } = await import('yaml');
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.${process.pid}.new`;
  try {
    await writeFile(temporary, stringify(config), { mode: 0o600, flush: true });
    await chmod(temporary, 0o600);
    await rename(temporary, path);
  } catch (failure) {
    await rm(temporary, { force: true });
    throw failure;
  }
}

/** A context as somebody gave it, checked. */
export function checkedContext(name: string, given: Context): Context {
  const checkedName = contextName.safeParse(name);
  if (!checkedName.success) {
    throw usageError(
      `the context name ${JSON.stringify(name.slice(0, 80))} ${checkedName.error.issues[0]?.message ?? ''}`,
    );
  }
  const checked = context.safeParse(given);
  if (checked.success) return checked.data;
  throw usageError(`the context ${name} is not valid`, {
    fields: checked.error.issues.map((issue) => ({
      field: formatPath(issue.path as PathPart[]),
      message: issue.message,
    })),
  });
}

function firstLine(failure: unknown): string {
  return failure instanceof Error ? (failure.message.split('\n')[0] ?? '') : String(failure);
}
