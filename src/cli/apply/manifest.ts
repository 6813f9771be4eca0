// Reads what `lodge apply` takes: YAML or JSON, several documents a file, each an object with kind, name and spec. Every
// complaint names file, document, line and field; nothing is read half.
import { readFile, stat } from 'node:fs/promises';
import type * as z from 'zod';
import { isAlias, isCollection, LineCounter, parseAllDocuments, type Document } from 'yaml';
import { contract } from '../../api/contract.ts';
import { LodgeError, shorten } from '../../api/errors.ts';
import { isSchema } from '../../api/route.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { formatPath, type Json, type PathPart } from '../../lib/field-path.ts';
import { parseMib } from '../../lib/quantity.ts';
import { readStdin } from '../confirm.ts';
import { fieldNamesAt, issueText } from '../schema-fields.ts';
import { usageError } from '../usage-error.ts';

/** Kinds in the order in which they need each other; deletion goes the other way. */
export const manifestKinds = [
  'AddressSet',
  'SecurityGroup',
  'Network',
  'Image',
  'Volume',
  'Profile',
  'InstanceType',
  'Vm',
  'Group',
  'Template',
] as const;
export type ManifestKind = (typeof manifestKinds)[number];

export type ManifestNoun =
  | 'addressSet'
  | 'securityGroup'
  | 'network'
  | 'image'
  | 'volume'
  | 'profile'
  | 'instanceType'
  | 'vm'
  | 'group'
  | 'template';
export const nounOfKind: Readonly<Record<ManifestKind, ManifestNoun>> = {
  AddressSet: 'addressSet',
  SecurityGroup: 'securityGroup',
  Network: 'network',
  Image: 'image',
  Volume: 'volume',
  Profile: 'profile',
  InstanceType: 'instanceType',
  Vm: 'vm',
  Template: 'template',
  Group: 'group',
};

/** One object as a file describes it, checked against the contract. */
export interface Manifest {
  kind: ManifestKind;
  noun: ManifestNoun;
  name: string;
  project: string;
  /** Without it, labels stay as they are. */
  labels: Record<string, string> | undefined;
  /** With the contract's defaults filled in. */
  spec: Json;
  /** As the file has it. */
  given: Json;
  /** What a template is made of; for other kinds, and where the file doesn't say it, nothing. */
  source: TemplateSource;
  /** "web.yaml, document 2, line 7". */
  where: string;
}

/** Of which VM a template is made, when it is made. */
export interface TemplateSource {
  vm?: string;
  snapshot?: string;
  isSealed?: boolean;
}

/** A file's text and how messages call it. */
export interface SourceText {
  name: string;
  text: string;
}

const maxFileBytes = 10 * 1024 * 1024;
const maxDocuments = 2000;
/** What an export has beside what can be applied. */
const readOnlyFields = new Set(['id', 'revision', 'createdAt', 'status']);
const knownFields = ['kind', 'name', 'project', 'labels', 'spec'] as const;
const sourceFields = ['vm', 'snapshot', 'isSealed'] as const;

/** Reads files; "-" is standard input. */
export async function readSources(paths: readonly string[]): Promise<SourceText[]> {
  const sources: SourceText[] = [];
  for (const path of paths) {
    if (path === '-') {
      sources.push({ name: 'stdin', text: await readStdin(maxFileBytes, 'the input') });
      continue;
    }
    try {
      if ((await stat(path)).size > maxFileBytes) {
        throw usageError(`${path} is larger than ${maxFileBytes / 1024 / 1024} MiB`);
      }
      sources.push({ name: path, text: await readFile(path, 'utf8') });
    } catch (cause) {
      if (cause instanceof LodgeError) throw cause;
      const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
      throw usageError(`${path} can not be read: ${code === 'ENOENT' ? 'there is no such file' : code}`, {
        hint: 'Give files with -f, or - for standard input.',
        cause,
      });
    }
  }
  return sources;
}

interface Complaint {
  field: string;
  message: string;
}

/** Reads all objects; throws one error with every complaint about every file. */
export function parseManifests(sources: readonly SourceText[], defaultProject: string): Manifest[] {
  const complaints: Complaint[] = [];
  const manifests = sources.flatMap((source) => parseSource(source, defaultProject, complaints));
  const seen = new Map<string, string>();
  for (const { kind, project, name, where } of manifests) {
    const key = `${kind} ${project}/${name}`;
    const first = seen.get(key);
    if (first === undefined) seen.set(key, where);
    else complaints.push({ field: where, message: `${kind} ${name} was described before, in ${first}` });
  }
  if (complaints.length > 0) {
    throw usageError(complaints.length === 1 ? 'one thing is not valid' : `${complaints.length} things are not valid`, {
      fields: complaints.slice(0, 50),
      hint: 'Nothing was changed. lodge vm show NAME -o yaml shows a document as it should be.',
    });
  }
  if (manifests.length === 0) {
    throw usageError(`there is no object in ${sources.map((source) => source.name).join(', ')}`, {
      hint: 'An object begins with "kind: Vm", "name: web1" and "spec:".',
    });
  }
  return manifests;
}

function firstLine(failure: unknown): string {
  return (failure instanceof Error ? failure.message : String(failure)).split('\n')[0] ?? '';
}

function parseSource(source: SourceText, defaultProject: string, complaints: Complaint[]): Manifest[] {
  const lines = new LineCounter();
  let documents: Document[];
  try {
    const parsed = parseAllDocuments(source.text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
    documents = Array.isArray(parsed) ? parsed : [];
  } catch (failure) {
    // Nesting that is deeper than the parser's stack.
    complaints.push({ field: source.name, message: `is not YAML: ${firstLine(failure)}` });
    return [];
  }
  if (documents.length > maxDocuments) {
    complaints.push({
      field: source.name,
      message: `has ${documents.length} documents; at most ${maxDocuments} are taken`,
    });
    return [];
  }
  return documents.flatMap((document, index): Manifest[] => {
    const place = documents.length > 1 ? `${source.name}, document ${index + 1}` : source.name;
    const [error] = document.errors;
    if (error) {
      const line = lines.linePos(error.pos[0]).line;
      complaints.push({
        field: `${place}, line ${line}`,
        message: `is not YAML: ${error.message.split('\n')[0] ?? ''}`,
      });
      return [];
    }
    let value: unknown;
    try {
      value = document.toJS({ maxAliasCount: 100 });
    } catch (failure) {
      complaints.push({
        field: place,
        message: `is not YAML: ${firstLine(failure)}`,
      });
      return [];
    }
    // Between "---" lines there may be nothing; `list -o json` gives an array.
    if (value === null || value === undefined) return [];
    const isList = Array.isArray(value);
    const objects = isList ? (value as unknown[]) : [value];
    return objects.flatMap((object, position) => {
      const base: PathPart[] = isList ? [position] : [];
      const reader = new ObjectReader(document, lines, place, base, complaints);
      const manifest = reader.read(object, defaultProject);
      return manifest ? [manifest] : [];
    });
  });
}

/** Checks one object and says where in the file each complaint belongs. */
class ObjectReader {
  readonly #document: Document;
  readonly #lines: LineCounter;
  readonly #place: string;
  readonly #base: readonly PathPart[];
  readonly #complaints: Complaint[];

  constructor(
    document: Document,
    lines: LineCounter,
    place: string,
    base: readonly PathPart[],
    complaints: Complaint[],
  ) {
    this.#document = document;
    this.#lines = lines;
    this.#place = place;
    this.#base = base;
    this.#complaints = complaints;
  }

  read(value: unknown, defaultProject: string): Manifest | null {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.#complain([], 'is not an object with kind, name and spec');
      return null;
    }
    const object = value as Record<string, unknown>;
    const kind = this.#kind(object['kind']);
    if (kind === null) return null;
    let isFine = true;
    for (const key of Object.keys(object)) {
      const known: readonly string[] = kind === 'Template' ? [...knownFields, ...sourceFields] : knownFields;
      if (known.includes(key) || readOnlyFields.has(key)) continue;
      const near = closestWord(key, known);
      this.#complain([key], `is not a field of an object${near === null ? '' : ` (did you mean ${near}?)`}`);
      isFine = false;
    }
    const noun = nounOfKind[kind];
    const body = contract[noun].create.body;
    const source = Object.fromEntries(
      sourceFields.flatMap((key) => (object[key] === undefined ? [] : [[key, object[key]]])),
    ) as TemplateSource;
    const document = {
      // One that is there needs none; whether it is, is seen later.
      ...(kind === 'Template' ? { vm: 'any', ...source } : {}),
      name: object['name'],
      project: object['project'] ?? defaultProject,
      ...(object['labels'] === undefined ? {} : { labels: object['labels'] }),
      spec: this.#withSizes(object['spec'] ?? {}, ['spec']),
    };
    if (!isSchema(body)) throw new LodgeError('internal', `${noun}.create has no schema`);
    const schema = body as unknown as z.ZodType<{
      name: string;
      project: string;
      labels: Record<string, string>;
      spec: Json;
    }>;
    const checked = schema.safeParse(document);
    if (!checked.success) {
      for (const issue of checked.error.issues) this.#complainOf(issue, schema);
      return null;
    }
    if (!isFine) return null;
    return {
      kind,
      noun,
      name: checked.data.name,
      project: checked.data.project,
      labels: object['labels'] === undefined ? undefined : checked.data.labels,
      spec: checked.data.spec,
      given: document.spec as Json,
      source: kind === 'Template' ? source : {},
      where: this.#where([]),
    };
  }

  #kind(value: unknown): ManifestKind | null {
    const allowed = `is one of ${manifestKinds.join(', ')}`;
    if (value === undefined) {
      this.#complain([], `has no kind: it ${allowed}`);
      return null;
    }
    // As the command line writes them too: security-group.
    const given = typeof value === 'string' ? value.toLowerCase().replaceAll('-', '') : '';
    const kind = manifestKinds.find((one) => one.toLowerCase() === given);
    if (kind) return kind;
    const near = typeof value === 'string' ? closestWord(value, manifestKinds) : null;
    this.#complain(['kind'], `${allowed} (given: ${shorten(value)})${near === null ? '' : `; did you mean ${near}?`}`);
    return null;
  }

  /** A copy in which sizes with units stand as numbers: "memoryMib: 2GiB" is what people write. */
  #withSizes(value: unknown, path: readonly PathPart[]): unknown {
    if (Array.isArray(value)) return value.map((one: unknown, index) => this.#withSizes(one, [...path, index]));
    if (typeof value === 'object' && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, this.#withSizes(one, [...path, key])]));
    }
    const last = path.at(-1);
    if (typeof value !== 'string' || typeof last !== 'string' || !last.endsWith('Mib')) return value;
    try {
      return parseMib(value, 'MiB');
    } catch {
      // The schema says what a field takes, and its complaint names the line.
      return value;
    }
  }

  #complainOf(issue: z.core.$ZodIssue, schema: z.ZodType): void {
    const path = issue.path as PathPart[];
    if (issue.code === 'unrecognized_keys') {
      const known = fieldNamesAt(schema, path);
      for (const key of issue.keys) {
        const near = closestWord(key, known);
        this.#complain(
          [...path, key],
          `is not a field here${near === null ? `; there are: ${known.join(', ')}` : ` (did you mean ${near}?)`}`,
        );
      }
      return;
    }
    const node = this.#document.getIn([...this.#base, ...path], true);
    const value = this.#document.getIn([...this.#base, ...path]);
    const given = node === undefined || isCollection(node) || isAlias(node) ? '' : ` (given: ${shorten(value)})`;
    this.#complain(path, `${issueText(issue)}${given}`);
  }

  #complain(path: readonly PathPart[], message: string): void {
    const field = path.length === 0 ? '' : `: ${formatPath(path)}`;
    this.#complaints.push({ field: `${this.#where(path)}${field}`, message });
  }

  /** File, document and line of a field, or of the nearest thing around it that is there. */
  #where(path: readonly PathPart[]): string {
    for (let length = path.length; length >= 0; length -= 1) {
      const offset = this.#offset([...this.#base, ...path.slice(0, length)]);
      if (offset !== null) return `${this.#place}, line ${this.#lines.linePos(offset).line}`;
    }
    return this.#place;
  }

  #offset(path: readonly PathPart[]): number | null {
    const last = path.at(-1);
    if (last !== undefined) {
      // The key stands on the line that people look for; a value may begin on the next.
      const parent: unknown =
        path.length === 1 ? this.#document.contents : this.#document.getIn(path.slice(0, -1), true);
      if (isCollection(parent)) {
        for (const item of parent.items as { key?: { value?: unknown; range?: [number, number, number] | null } }[]) {
          if (item.key?.value === last && item.key.range) return item.key.range[0];
        }
      }
    }
    const node: unknown = path.length === 0 ? this.#document.contents : this.#document.getIn(path, true);
    if (typeof node !== 'object' || node === null || !('range' in node)) return null;
    const range = node.range as [number, number, number] | null | undefined;
    return range ? range[0] : null;
  }
}
