// The daemon's configuration file: YAML, every key optional, described in docs/configuration.md (a test holds the page
// to this schema). Unknown keys and wrong values are refused with file, line and field before anything is started.
import { readFile } from 'node:fs/promises';
import { isMap, isPair, isScalar, LineCounter, parseDocument, type Document } from 'yaml';
import * as z from 'zod';
import { LodgeError, shorten, type FieldProblem } from '../api/errors.ts';
import { closestWord } from '../lib/closest-word.ts';
import { formatPath, type PathPart } from '../lib/field-path.ts';

/** Where the file is looked for when neither --config nor LODGE_CONFIG names one; it need not exist. */
export const defaultConfigPath = '/etc/lodge/lodge.yaml';

const maxConfigBytes = 1024 * 1024;

const absolutePath = z
  .string('must be an absolute path')
  .max(4096, 'must be at most 4096 characters long')
  .regex(/^\/[^\0\n]*$/, 'must be an absolute path')
  .transform((path) => (path.length > 1 ? path.replace(/\/+$/, '') : path));

const wholeNumber = (least: number, most: number): z.ZodInt =>
  z
    .int('must be a whole number')
    .min(least, `must be from ${least} to ${most}`)
    .max(most, `must be from ${least} to ${most}`);

function oneOf<const Values extends readonly [string, ...string[]]>(values: Values) {
  return z.enum(values, `must be one of ${values.join(', ')}`);
}

const listenAddress = z.strictObject({
  address: z
    .union([z.ipv4(), z.ipv6()], 'must be an IP address; 0.0.0.0 or "::" for all')
    .default('127.0.0.1')
    .describe('Address to listen on for HTTPS; 0.0.0.0 or "::" for all'),
  port: wholeNumber(0, 65_535).default(7443).describe('TCP port; 0 takes a free one'),
});

/** `127.0.0.1:7443`, `[::1]:7443` and `none` are short for the same as a map. */
const listen = z.preprocess((value) => {
  if (value === 'none') return null;
  const match = typeof value === 'string' ? /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(value) : null;
  return match === null ? value : { address: match[1] ?? match[2], port: Number(match[3]) };
}, listenAddress.nullable());

const qemu = z.strictObject({
  binary: absolutePath.optional().describe('QEMU to run; without it, qemu-system-x86_64 is looked for'),
  virtiofsd: absolutePath
    .optional()
    .describe('virtiofsd to run, for shared folders; without it, it is looked for where distributions put it'),
  uidBase: wholeNumber(1000, 4_293_000_000)
    .default(1_900_000_000)
    .describe('First of 65,536 user and group ids that guests run as, one each; nothing else may use them'),
  accelerator: oneOf(['auto', 'kvm', 'tcg'])
    .default('auto')
    .describe('auto takes the best that a probe guest ran in; kvm and tcg allow only that one'),
});

const sharedFolders = z.strictObject({
  allowedRoots: z
    .array(absolutePath)
    .max(64)
    .optional()
    .describe('Folders that VMs may share, with all in them; without it, shared in dataDir; none: []'),
});

const networks = z.strictObject({
  checkIntervalS: wholeNumber(1, 3600)
    .default(20)
    .describe('How often networks are looked at, and put right where somebody has changed them, seconds'),
});

const limits = z.strictObject({
  maxConnections: wholeNumber(16, 100_000).default(1024).describe('Connections to each listener at once'),
  maxRequests: wholeNumber(8, 100_000).default(512).describe('Requests being served at once'),
  maxStreams: wholeNumber(8, 100_000).default(256).describe('Event streams, uploads and downloads at once'),
  maxConsoles: wholeNumber(1, 10_000).default(256).describe('Open consoles at once'),
  maxUploadMib: wholeNumber(1, 16_777_216).default(16_777_216).describe('Largest upload, MiB'),
  shutdownGraceS: wholeNumber(0, 600)
    .default(10)
    .describe('How long requests under way may take when the daemon stops, seconds'),
});

/** The schema of the file. */
export const configSchema = z.strictObject({
  instance: z
    .string('must be a text')
    .regex(/^[a-z][a-z0-9-]{0,9}$/, 'must begin with a letter and have at most 10 of a-z, 0-9 and "-"')
    .default('lodge')
    .describe('Name of this installation: marks what it makes on the host, so that two of them can share one'),
  dataDir: absolutePath.default('/var/lib/lodge').describe('Database, images, volumes, keys'),
  runDir: absolutePath.default('/run/lodge').describe('Sockets and what is only true until the next boot'),
  logDir: absolutePath
    .default('/var/log/lodge')
    .describe('Log of a daemon that npm start runs; under systemd it goes to the journal'),
  socketPath: absolutePath.optional().describe('The unix socket for local clients; without it, lodge.sock in runDir'),
  socketGroup: z
    .string('must be a text')
    .regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'must be the name of a group')
    .nullable()
    .default('lodge')
    .describe('Group that may use the socket, as admin; null: only the daemon’s own user'),
  listen: listen.prefault({}).describe('HTTPS for remote clients; null: none'),
  hostnames: z
    .array(z.string('must be a text').regex(/^[A-Za-z0-9.:-]{1,253}$/, 'must be a host name or an address'))
    .max(64)
    .default([])
    .describe('Further names and addresses for the server’s certificate'),
  driver: oneOf(['qemu', 'fake']).default('qemu').describe('Hypervisor; fake only pretends, for tests'),
  logLevel: oneOf(['trace', 'debug', 'info', 'warn', 'error'])
    .default('info')
    .describe('Least severe lines that are logged'),
  isDevelopment: z
    .boolean('must be true or false')
    .default(false)
    .describe('Checks every answer against the contract, at three times the cost'),
  qemu: qemu.prefault({}),
  sharedFolders: sharedFolders.prefault({}),
  networks: networks.prefault({}),
  limits: limits.prefault({}),
});

/** The configuration with all defaults filled in. */
export type Config = Omit<z.output<typeof configSchema>, 'socketPath' | 'sharedFolders'> & {
  socketPath: string;
  sharedFolders: { allowedRoots: string[] };
};

/** The file that counts: --config, else LODGE_CONFIG, else the default one. */
export function configPath(
  option: string | undefined,
  environment: NodeJS.ProcessEnv,
): { path: string; isRequired: boolean } {
  const named = option ?? (environment['LODGE_CONFIG'] === '' ? undefined : environment['LODGE_CONFIG']);
  return named === undefined ? { path: defaultConfigPath, isRequired: false } : { path: named, isRequired: true };
}

/** Reads the configuration. Only the default file may be missing; then all defaults hold. */
export async function loadConfig(option: string | undefined, environment: NodeJS.ProcessEnv): Promise<Config> {
  const { path, isRequired } = configPath(option, environment);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
    if (code === 'ENOENT' && !isRequired) return parseConfig('', path);
    const why =
      { ENOENT: 'it does not exist', EACCES: 'this user may not read it', EISDIR: 'it is a folder' }[code] ?? code;
    throw new LodgeError('invalid_request', `the configuration ${path} can not be read: ${why}`, {
      hint: 'Give the file with --config or LODGE_CONFIG; docs/configuration.md describes it.',
      cause,
    });
  }
  return parseConfig(text, path);
}

/** The text of a configuration file as a configuration. Throws `invalid_request` that names file, line and field. */
export function parseConfig(text: string, file: string): Config {
  if (Buffer.byteLength(text) > maxConfigBytes) {
    throw new LodgeError('invalid_request', `${file} is larger than ${maxConfigBytes} bytes`);
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true, maxAliasCount: 20 } as Parameters<
    typeof parseDocument
  >[1]);
  const [broken] = document.errors;
  if (broken) {
    const { line, col } = lines.linePos(broken.pos[0]);
    throw refusal(file, [
      { line, problem: { field: `column ${col}`, message: broken.message.split(/ at line|\n/)[0] ?? 'is not YAML' } },
    ]);
  }
  const value: unknown = document.toJS({ maxAliasCount: 20 }) ?? {};
  const result = configSchema.safeParse(value);
  if (!result.success) {
    throw refusal(
      file,
      result.error.issues.flatMap((issue) => problemsOf(issue, document, lines, value)),
    );
  }
  const config = result.data;
  return {
    ...config,
    socketPath: config.socketPath ?? `${config.runDir}/lodge.sock`,
    sharedFolders: { allowedRoots: config.sharedFolders.allowedRoots ?? [`${config.dataDir}/shared`] },
  };
}

interface Located {
  line: number;
  problem: FieldProblem;
}

function refusal(file: string, problems: Located[]): LodgeError {
  const sentences = problems.map(({ line, problem }) => {
    const given = typeof problem.value !== 'string' ? '' : ` (given: ${problem.value})`;
    return `${file}:${line}: ${problem.field}: ${problem.message}${given}`;
  });
  return new LodgeError('invalid_request', sentences.join('\n'), {
    fields: problems.map(({ problem }) => problem),
    hint: 'docs/configuration.md describes every key.',
  });
}

function problemsOf(issue: z.core.$ZodIssue, document: Document, lines: LineCounter, root: unknown): Located[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const path = [...issue.path, key] as PathPart[];
      const meant = closestWord(key, knownKeys(issue.path));
      const message = `is not a key that is known here${meant === null ? '' : `: did you mean ${meant}?`}`;
      return { line: lineOf(path, document, lines), problem: { field: formatPath(path), message } };
    });
  }
  const given = valueAt(root, issue.path);
  const message =
    issue.code === 'invalid_type' && issue.expected === 'object' ? 'must be a map of keys' : issue.message;
  return [
    {
      line: lineOf(issue.path, document, lines),
      problem: {
        field: issue.path.length === 0 ? 'the file' : formatPath(issue.path as PathPart[]),
        message,
        ...(given === undefined ? {} : { value: shorten(given) }),
      },
    },
  ];
}

/** Keys of the map at a path of the schema. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let schema: z.core.$ZodType = configSchema;
  for (const part of path) {
    schema = unwrapped(schema);
    if (!(schema instanceof z.ZodObject)) return [];
    schema = schema.shape[String(part)] ?? z.never();
  }
  schema = unwrapped(schema);
  return schema instanceof z.ZodObject ? Object.keys(schema.shape) : [];
}

/** The schema without default, nullable, optional and preprocessing around it. */
export function unwrapped(schema: z.core.$ZodType): z.core.$ZodType {
  const { innerType, out } = schema._zod.def as { innerType?: z.core.$ZodType; out?: z.core.$ZodType };
  const inner = innerType ?? (schema instanceof z.core.$ZodPreprocess ? out : undefined);
  return inner === undefined ? schema : unwrapped(inner);
}

/** The line of the key at a path, or of the nearest part of it that is in the file. */
function lineOf(path: readonly PropertyKey[], document: Document, lines: LineCounter): number {
  let node: unknown = document.contents;
  let offset = 0;
  for (const part of path) {
    if (!isMap(node)) break;
    const pair = node.items.find(
      (item) => isPair(item) && isScalar(item.key) && String(item.key.value) === String(part),
    );
    if (!isPair(pair)) break;
    if (isScalar(pair.key) && pair.key.range) [offset] = pair.key.range;
    node = pair.value;
  }
  return lines.linePos(offset).line;
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let current = root;
  for (const part of path) {
    if (typeof current !== 'object' || current === null) return undefined;
    current = (current as Record<PropertyKey, unknown>)[part];
  }
  return current;
}
