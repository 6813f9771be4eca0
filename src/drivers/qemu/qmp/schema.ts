// What the installed QEMU says of its own monitor (`query-qmp-schema`), as questions that can be asked: does it have
// this command, this argument, this value? Features are decided by these answers, never by version numbers.
// Type names are masked by QEMU (they are numbers, and change), so types are followed, never named.
// https://www.qemu.org/docs/master/devel/qapi-code-gen.html#client-json-protocol-introspection

export interface SchemaMember {
  readonly name: string;
  readonly type: string;
  /** Present, whatever its value, when the member is optional. */
  readonly default?: unknown;
  readonly features?: readonly string[];
}

export type SchemaType =
  | { readonly 'meta-type': 'builtin'; readonly 'json-type': string }
  | { readonly 'meta-type': 'enum'; readonly members: readonly { readonly name: string }[] }
  | { readonly 'meta-type': 'array'; readonly 'element-type': string }
  | { readonly 'meta-type': 'alternate'; readonly members: readonly { readonly type: string }[] }
  | SchemaObject;

export interface SchemaObject {
  readonly 'meta-type': 'object';
  readonly members: readonly SchemaMember[];
  readonly tag?: string;
  readonly variants?: readonly { readonly case: string; readonly type: string }[];
}

export interface SchemaCommand {
  readonly 'meta-type': 'command';
  readonly 'arg-type': string;
  readonly 'ret-type': string;
  readonly 'allow-oob'?: boolean;
  readonly features?: readonly string[];
}

export interface SchemaEvent {
  readonly 'meta-type': 'event';
  readonly 'arg-type': string;
  readonly features?: readonly string[];
}

type SchemaEntry = SchemaType | SchemaCommand | SchemaEvent;

const META_TYPES = new Set(['builtin', 'enum', 'array', 'alternate', 'object', 'command', 'event']);

/** A member as seen from outside its type: those of a union's cases are there only for some values of its tag. */
export interface ResolvedMember {
  readonly type: string;
  readonly isOptional: boolean;
  readonly isDeprecated: boolean;
}

export class QmpSchema {
  readonly #entries = new Map<string, SchemaEntry>();

  /** `answer` is what `query-qmp-schema` returned. Throws if it isn't such a list. */
  constructor(answer: unknown) {
    if (!Array.isArray(answer)) throw new TypeError('the answer to query-qmp-schema is not a list');
    for (const entry of answer as unknown[]) {
      const { name, 'meta-type': metaType } = (entry ?? {}) as Record<string, unknown>;
      // A kind of type that a later QEMU adds is left out; what refers to it then counts as missing.
      if (typeof name !== 'string' || typeof metaType !== 'string' || !META_TYPES.has(metaType)) continue;
      this.#entries.set(name, entry as SchemaEntry);
    }
  }

  command(name: string): SchemaCommand | null {
    const entry = this.#entries.get(name);
    return entry?.['meta-type'] === 'command' ? entry : null;
  }

  event(name: string): SchemaEvent | null {
    const entry = this.#entries.get(name);
    return entry?.['meta-type'] === 'event' ? entry : null;
  }

  type(name: string): SchemaType | null {
    const entry = this.#entries.get(name);
    return !entry || entry['meta-type'] === 'command' || entry['meta-type'] === 'event' ? null : entry;
  }

  /**
   * Whether QEMU has the command and, with `path`, an argument or a value of it: names joined by dots, lists and union
   * cases passed through silently. Examples: `has('blockdev-add', 'driver.nbd')` (a value of an enumeration),
   * `has('blockdev-add', 'aio.io_uring')`, `has('migrate-set-capabilities', 'capabilities.capability.mapped-ram')`.
   */
  has(commandName: string, path?: string): boolean {
    const command = this.command(commandName);
    if (!command) return false;
    return path === undefined || this.#hasPath(command['arg-type'], path.split('.'));
  }

  #hasPath(typeName: string, path: readonly string[]): boolean {
    const [head, ...tail] = path;
    if (head === undefined) return true;
    const type = this.type(typeName);
    switch (type?.['meta-type']) {
      case 'array':
        return this.#hasPath(type['element-type'], path);
      case 'alternate':
        return type.members.some((choice) => this.#hasPath(choice.type, path));
      case 'enum':
        return tail.length === 0 && type.members.some((value) => value.name === head);
      case 'object':
        return this.memberTypes(type, head).some((member) => this.#hasPath(member.type, tail));
      default:
        return false;
    }
  }

  /** Every member of that name that values of the type can have, the type's own first, then those of union cases. */
  memberTypes(object: SchemaObject, name: string): ResolvedMember[] {
    const own = object.members.find((member) => member.name === name);
    if (own) {
      const isDeprecated = own.features?.includes('deprecated') ?? false;
      return [{ type: own.type, isOptional: 'default' in own, isDeprecated }];
    }
    const found: ResolvedMember[] = [];
    for (const variant of object.variants ?? []) {
      const type = this.type(variant.type);
      if (type?.['meta-type'] !== 'object') continue;
      for (const member of this.memberTypes(type, name)) found.push({ ...member, isOptional: true });
    }
    return found;
  }
}
