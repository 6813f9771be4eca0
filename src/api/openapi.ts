// The contract as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1.html), made from the route tables. A named
// schema that looks different to the one who sends it than to the one who reads it (defaults make fields optional) is
// there twice: `VmSpec` as it is answered, `VmSpecInput` as it is sent. The order is stable: docs/openapi.json is
// compared in the tests.
import * as z from 'zod';
import { allRoutes } from './contract.ts';
import { errorBody, errorCodes, type ErrorCode } from './errors.ts';
import { commonErrors, isSchema, type Route, type Schema } from './route.ts';

/** A JSON document. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };
type JsonObject = { [key: string]: Json };
type Direction = 'input' | 'output';

/** Requests to show, by route. The tests hold them to the schemas. */
export const examples: Readonly<Record<string, JsonObject>> = {
  'vm.create': { name: 'web1', spec: { image: 'debian-12', cpu: { count: 2 }, memoryMib: 2048 } },
  'vm.stop': { timeoutS: 30 },
  'vm.act': { action: { type: 'stop', timeoutS: 30 }, vms: { selector: 'role=web' }, parallelism: 4 },
  'vm.planAction': { action: { type: 'delete' }, vms: { names: ['web1', 'web2'] } },
  'vm.sendKeys': { combinations: [['ctrl', 'alt', 'delete']] },
  'vm.exec': { command: ['uname', '-a'] },
  'vm.openConsole': { type: 'serial' },
  'group.create': {
    name: 'shop',
    spec: {
      members: [
        { vm: 'db1', ready: { type: 'port', port: 5432 } },
        { vm: 'web1', delayS: 5, order: 2 },
        { vm: 'web2', order: 2 },
      ],
    },
  },
  'group.stop': { timeoutS: 60 },
  'snapshot.create': { name: 'before-upgrade', withMemory: true },
  'template.create': { name: 'base', vm: 'web1' },
  'profile.create': { name: 'web', spec: { autostart: true, restartPolicy: { mode: 'on-failure' } } },
  'instanceType.create': { name: 'db', spec: { cpu: { count: 4 }, memoryMib: 16_384 } },
  'image.create': {
    name: 'alpine',
    spec: { source: { type: 'url', url: 'https://example.org/alpine.qcow2', checksum: `sha256:${'0'.repeat(64)}` } },
  },
  'volume.create': { name: 'data', spec: { sizeMib: 10_240 } },
  'network.create': { name: 'lab', spec: { mode: 'nat', ipv4Cidr: '10.80.0.0/24' } },
  'token.create': { name: 'ci', role: 'viewer', expiresInS: 2_592_000 },
  'session.create': { code: 'Z3p0Qm9YcGxhY2VIb2xkZXI' },
};

const description = `Lodge hosts virtual machines. This is its whole interface: the command line and the web console use nothing else.

**Credentials.** Over HTTPS send an access token as \`Authorization: Bearer …\`. The daemon's unix socket needs none: who may open it is an admin. Every operation names the permission it needs in \`x-permission\`.

**Objects** are \`{id, name, project, labels, spec, status, revision, createdAt}\`: \`spec\` is what you asked for, \`status\` what was observed. An update carries the \`revision\` it was based on; a stale one is refused with \`revision_conflict\`.

**Tasks.** What takes longer than a request answers with status 202 and a task: read it, or follow it in the event stream.

**Errors** have one format, \`Error\`, with a code for programs, a sentence for people and what to do next.

**HEAD.** Whatever answers GET also answers HEAD, with the same status and headers and without the body.

**Idempotency.** Creations take the header \`Idempotency-Key\`: the same key and request give the same answer for 24 hours, made once.`;

/** What is shown for each tag, in the order of the document. */
export const tagDescriptions: Readonly<Record<string, string>> = {
  server: 'The daemon itself: version, health, metrics, and the documents that describe this interface.',
  nodes: 'The machines that run guests: what they have, and what they can do with the reasons.',
  vms: 'Virtual machines: their hardware, disks and NICs, and their power.',
  consoles: 'Serial console and display of a VM: through a WebSocket with a single-use ticket, as a picture, by keys.',
  'guest agent': 'What the agent in the guest tells and does. All of it answers agent_unavailable where none runs.',
  snapshots: 'A VM as it was in one moment, to go back to: its disks, and if wanted its memory.',
  templates: 'Disks and spec of a VM, kept in versions, for new VMs to begin with.',
  profiles: 'Named sets of fields of a VM’s spec, which VMs take over.',
  'instance types': 'Named sizes of VMs: vCPUs and memory.',
  images: 'What disks and guests are made from: built here, imported, or uploaded.',
  volumes: 'Disks that guests write to.',
  groups: 'VMs that are started together in an order, and stopped in the opposite one.',
  networks: 'What guests are connected to.',
  'security groups': 'The virtual firewall: which connections of guests are allowed, by which rule, and why.',
  tasks: 'Operations that take longer than a request.',
  events: 'What happened, and a stream of every change to every object.',
  tokens: 'Access tokens: what remote clients sign in with.',
  sessions: 'Sessions: what a browser signs in with, by a token or a one-time link.',
};

/** Converts schemas and collects the named ones. */
class SchemaCollector {
  readonly #named: Record<Direction, Map<string, JsonObject>> = { input: new Map(), output: new Map() };

  /** The schema in JSON Schema; named ones are references that {@link finish} corrects. */
  convert(schema: Schema, direction: Direction): JsonObject {
    // Wrapped, so that a named schema comes as a reference like any other.
    const whole = z.toJSONSchema(z.object({ root: schema }), {
      io: direction,
      target: 'draft-2020-12',
      unrepresentable: 'any',
      override: ({ jsonSchema }) => tidy(jsonSchema as JsonObject, direction),
    }) as unknown as { properties: { root: JsonObject }; $defs?: Record<string, JsonObject> };
    for (const [id, definition] of Object.entries(whole.$defs ?? {})) {
      const { id: _id, ...rest } = definition;
      this.#named[direction].set(id, marked(rest, direction) as JsonObject);
    }
    return marked(whole.properties.root, direction) as JsonObject;
  }

  /** All named schemas by their final names, and a function that corrects references. */
  finish(): { schemas: JsonObject; correct: (value: Json) => Json } {
    const { input, output } = this.#named;
    const differing = new Set<string>();
    for (const [id, schema] of input) {
      const other = output.get(id);
      if (other !== undefined && unmarked(schema) !== unmarked(other)) differing.add(id);
    }
    // What refers to a schema with two faces has two faces itself.
    for (let size = -1; size !== differing.size;) {
      size = differing.size;
      for (const [id, schema] of input) {
        if (output.has(id) && referencesOf(schema).some((reference) => differing.has(reference))) differing.add(id);
      }
    }
    const nameOf = (id: string, direction: Direction): string =>
      direction === 'input' && differing.has(id) ? `${id}Input` : id;
    const correct = (value: Json): Json => mapReferences(value, nameOf);
    const schemas: JsonObject = {};
    for (const direction of ['input', 'output'] as const) {
      for (const [id, schema] of this.#named[direction]) {
        const name = nameOf(id, direction);
        if (schemas[name] !== undefined && direction === 'output' && differing.has(id)) {
          throw new Error(`two schemas would be called ${name}`);
        }
        schemas[name] = correct(schema);
      }
    }
    const sorted = Object.entries(schemas).sort(([left], [right]) => (left < right ? -1 : 1));
    return { schemas: Object.fromEntries(sorted), correct };
  }
}

const referencePrefix = '#/$defs/';

/** Notes in each reference from which direction it comes. */
function marked(value: Json, direction: Direction): Json {
  if (Array.isArray(value)) return value.map((item) => marked(item, direction));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key,
      key === '$ref' && typeof item === 'string' && item.startsWith(referencePrefix)
        ? `${direction}:${item.slice(referencePrefix.length)}`
        : marked(item, direction),
    ]),
  );
}

function unmarked(value: Json): string {
  return JSON.stringify(mapReferences(value, (id) => id));
}

function mapReferences(value: Json, nameOf: (id: string, direction: Direction) => string): Json {
  if (Array.isArray(value)) return value.map((item) => mapReferences(item, nameOf));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => {
      const match = key === '$ref' && typeof item === 'string' ? /^(input|output):(.*)$/.exec(item) : null;
      if (match === null) return [key, mapReferences(item, nameOf)];
      return [key, `#/components/schemas/${nameOf(match[2] ?? '', match[1] as Direction)}`];
    }),
  );
}

function referencesOf(value: Json): string[] {
  if (Array.isArray(value)) return value.flatMap(referencesOf);
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, item]) => {
    const match = key === '$ref' && typeof item === 'string' ? /^(?:input|output):(.*)$/.exec(item) : null;
    return match === null ? referencesOf(item) : [match[1] ?? ''];
  });
}

/** Removes what is true but says nothing, and says plainly what zod's own words hide. */
function tidy(json: JsonObject, direction: Direction): void {
  if (json['minimum'] === Number.MIN_SAFE_INTEGER) delete json['minimum'];
  if (json['maximum'] === Number.MAX_SAFE_INTEGER) delete json['maximum'];
  // The format says it; the pattern is a screenful.
  if (json['format'] !== undefined) delete json['pattern'];
  // Answers may get new fields; requests may not have unknown ones.
  if (direction === 'output' && json['additionalProperties'] === false) delete json['additionalProperties'];
}

/** The whole document. */
export function openApiDocument(): JsonObject {
  const collector = new SchemaCollector();
  const errorSchema = collector.convert(errorBody, 'output');
  const errors = new ErrorAnswers(errorSchema);
  const paths: JsonObject = {};
  for (const { id, route } of allRoutes()) {
    const path = (paths[route.path] ??= {}) as JsonObject;
    path[route.method.toLowerCase()] = operation(id, route, collector, errors);
  }
  const { schemas, correct } = collector.finish();
  const usedTags = new Set(allRoutes().map(({ route }) => route.tag));
  const tags = Object.entries(tagDescriptions).filter(([name]) => usedTags.has(name));
  return {
    openapi: '3.1.1',
    info: {
      title: 'Lodge',
      version: 'v1',
      description,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/', description: 'This daemon' }],
    security: [{ accessToken: [] }],
    tags: tags.map(([name, text]) => ({ name, description: text })),
    paths: correct(paths),
    components: {
      schemas,
      responses: correct(errors.responses()),
      securitySchemes: {
        accessToken: {
          type: 'http',
          scheme: 'bearer',
          description: 'An access token (lodge token create). The daemon’s unix socket needs none.',
        },
      },
    },
  };
}

function operation(id: string, route: Route, collector: SchemaCollector, errors: ErrorAnswers): JsonObject {
  const parameters = parametersOf(route, collector);
  return {
    operationId: id,
    tags: [route.tag],
    summary: route.summary,
    ...(route.description === undefined ? {} : { description: route.description }),
    'x-permission': route.permission,
    ...(route.permission === 'public' ? { security: [] } : {}),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...requestBodyOf(id, route, collector),
    responses: { ...successOf(route, collector), ...errors.of(route) },
  };
}

function parametersOf(route: Route, collector: SchemaCollector): Json[] {
  const parameters: Json[] = [...route.path.matchAll(/\{(\w+)\}/g)].map((match) => ({
    name: match[1] ?? '',
    in: 'path',
    required: true,
    description:
      match[1] === 'ticket'
        ? 'The ticket'
        : `Name or id of the ${match[1] === 'vm' ? 'VM' : match[1]?.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}`,
    schema: { type: 'string', maxLength: 200 },
  }));
  if (route.query !== undefined) {
    const query = collector.convert(route.query, 'input') as { properties?: JsonObject; required?: Json[] };
    for (const [name, schema] of Object.entries(query.properties ?? {})) {
      const { description: text, ...rest } = schema as JsonObject;
      const fallback = defaultOf(route.query, name);
      if (fallback !== undefined) rest['default'] = fallback;
      // In a query, true and false are texts that stand for a boolean.
      if (JSON.stringify(rest['type']) === '["string","boolean"]') rest['type'] = 'boolean';
      parameters.push({
        name,
        in: 'query',
        required: query.required?.includes(name) ?? false,
        ...(text === undefined ? {} : { description: text }),
        schema: rest,
      });
    }
  }
  if (route.isIdempotentByKey === true) {
    parameters.push({
      name: 'Idempotency-Key',
      in: 'header',
      required: false,
      description: 'The same key and request give the same answer, made once. Kept for 24 hours',
      schema: { type: 'string', minLength: 1, maxLength: 200 },
    });
  }
  if (!isSchema(route.response) && route.response.kind === 'events' && hasField(route.query, 'since')) {
    parameters.push({
      name: 'Last-Event-ID',
      in: 'header',
      required: false,
      description: 'Stands for ?since=, as browsers send it when they reconnect',
      schema: { type: 'string' },
    });
  }
  return parameters;
}

/** The default of a query's field; zod leaves out that of a field which it converts from text. */
function defaultOf(schema: Schema, name: string): Json | undefined {
  if (!(schema instanceof z.core.$ZodObject)) return undefined;
  const field = schema._zod.def.shape[name];
  return field instanceof z.core.$ZodDefault ? (field._zod.def.defaultValue as Json) : undefined;
}

function hasField(schema: Schema | undefined, name: string): boolean {
  return schema instanceof z.core.$ZodObject && Object.hasOwn(schema._zod.def.shape, name);
}

function requestBodyOf(id: string, route: Route, collector: SchemaCollector): JsonObject {
  if (route.body === undefined) return {};
  if (!isSchema(route.body)) {
    return {
      requestBody: {
        required: true,
        description: route.body.description,
        content: { [route.body.mediaType]: { schema: { type: 'string', format: 'binary' } } },
      },
    };
  }
  const isOptional = z.safeParse(route.body, {}).success;
  const example = examples[id];
  return {
    requestBody: {
      required: !isOptional,
      content: {
        'application/json': {
          schema: collector.convert(route.body, 'input'),
          ...(example === undefined ? {} : { example }),
        },
      },
    },
  };
}

/** Answers that are errors, one for each set of codes that share a status. */
class ErrorAnswers {
  readonly #answers = new Map<string, JsonObject>();
  readonly #schema: JsonObject;

  constructor(schema: JsonObject) {
    this.#schema = schema;
  }

  /** References to the answers a route may give, by status. */
  of(route: Route): JsonObject {
    const byStatus = new Map<number, ErrorCode[]>();
    for (const code of Object.keys(errorCodes) as ErrorCode[]) {
      if (!(commonErrors as readonly ErrorCode[]).includes(code) && !route.errors.includes(code)) continue;
      const { status } = errorCodes[code];
      byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
    }
    const references = [...byStatus].map(([status, codes]) => [
      String(status),
      { $ref: `#/components/responses/${this.#name(codes)}` },
    ]);
    return Object.fromEntries(references) as JsonObject;
  }

  #name(codes: readonly ErrorCode[]): string {
    const name = codes.map(pascalCase).join('Or');
    const [first] = codes;
    if (!this.#answers.has(name) && first !== undefined) {
      this.#answers.set(name, {
        description: codes.map((code) => `\`${code}\`: ${errorCodes[code].meaning}`).join('\n\n'),
        content: {
          'application/json': {
            schema: {
              allOf: [this.#schema],
              properties: { error: { properties: { code: { enum: [...codes] } } } },
            },
            example: { error: { code: first, message: errorCodes[first].meaning, hint: errorCodes[first].hint } },
          },
        },
      });
    }
    return name;
  }

  responses(): JsonObject {
    const sorted = [...this.#answers].sort(([left], [right]) => (left < right ? -1 : 1));
    return Object.fromEntries(sorted);
  }
}

function pascalCase(code: string): string {
  return code.replace(/(?:^|_)([a-z])/g, (_whole, letter: string) => letter.toUpperCase());
}

function successOf(route: Route, collector: SchemaCollector): JsonObject {
  const { response } = route;
  if (isSchema(response)) {
    const status = route.status ?? 200;
    const meaning = { 200: 'Done', 201: 'Made', 202: 'A task goes on', 204: 'Done' }[status];
    return {
      [status]: {
        description: meaning,
        content: { 'application/json': { schema: collector.convert(response, 'output') } },
      },
    };
  }
  switch (response.kind) {
    case 'none':
      return { [route.status ?? 204]: { description: 'Done' } };
    case 'bytes':
      return {
        [route.status ?? 200]: {
          description: response.description,
          content: { [response.mediaType]: { schema: { type: 'string', format: 'binary' } } },
        },
      };
    case 'events':
      return {
        200: {
          description: `${response.description}. Server-sent events; the data of each is one JSON document of this schema. An error in the stream comes as an event of the type \`error\` with \`Error\` as its data.`,
          content: { 'text/event-stream': { schema: collector.convert(response.schema, 'output') } },
        },
      };
    case 'websocket':
      return { 101: { description: `${response.description} (WebSocket, RFC 6455)` } };
  }
}
