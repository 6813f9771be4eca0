// Compares the tables of commands and events with the schema of the installed QEMU, member by member. What Lodge sends
// must be something QEMU takes, with everything it insists on; what Lodge reads must be something QEMU always tells.
import type { CommandDescriptor, EventDescriptor } from './command.ts';
import type { QmpSchema, SchemaObject } from './schema.ts';
import { memberOf, type Members, type Shape } from './shape.ts';

export interface Disagreement {
  /** Where: `migrate arguments.channels[].addr`, `SHUTDOWN data.reason`. */
  readonly where: string;
  /**
   * `missing`: QEMU does not have it. `mandatory`: QEMU insists on what we may leave out, or may leave out what we rely
   * on. `type`: another JSON type. `value`: QEMU does not know the value. `unlisted`: QEMU knows a value that the table,
   * which claims to list all, does not. `deprecated`: QEMU will remove it. `oob`: may not be sent out of band.
   */
  readonly kind: 'missing' | 'mandatory' | 'type' | 'value' | 'unlisted' | 'deprecated' | 'oob';
  readonly message: string;
}

type Direction = 'send' | 'receive';

/** JSON types of QEMU's built-in types that a simple shape stands for. A number may well be whole. */
const BUILTIN = {
  string: ['string'],
  integer: ['int'],
  number: ['number', 'int'],
  boolean: ['boolean'],
  null: ['null'],
} as const satisfies Partial<Record<Shape['kind'], readonly string[]>>;

/** All disagreements between the tables and the schema; none is the good answer. */
export function checkTables(
  schema: QmpSchema,
  commands: Readonly<Record<string, CommandDescriptor>>,
  events: Readonly<Record<string, EventDescriptor>>,
): Disagreement[] {
  const check = new Check(schema);
  for (const [name, descriptor] of Object.entries(commands)) check.command(name, descriptor);
  for (const [name, descriptor] of Object.entries(events)) check.event(name, descriptor);
  return check.found;
}

class Check {
  readonly found: Disagreement[] = [];
  readonly #schema: QmpSchema;

  constructor(schema: QmpSchema) {
    this.#schema = schema;
  }

  #report(where: string, kind: Disagreement['kind'], message: string): void {
    this.found.push({ where, kind, message });
  }

  command(name: string, descriptor: CommandDescriptor): void {
    const command = this.#schema.command(name);
    if (!command) {
      if (descriptor.since === null) this.#report(name, 'missing', 'QEMU has no such command');
      return;
    }
    if (command.features?.includes('deprecated')) this.#report(name, 'deprecated', 'the command is deprecated');
    if (descriptor.allowsOutOfBand && !command['allow-oob']) {
      this.#report(name, 'oob', 'QEMU does not take this command out of band');
    }
    this.#compare(`${name} arguments`, descriptor.arguments, command['arg-type'], 'send');
    this.#compare(`${name} returns`, descriptor.returns, command['ret-type'], 'receive');
  }

  event(name: string, descriptor: EventDescriptor): void {
    const event = this.#schema.event(name);
    if (!event) {
      if (descriptor.since === null) this.#report(name, 'missing', 'QEMU has no such event');
      return;
    }
    if (event.features?.includes('deprecated')) this.#report(name, 'deprecated', 'the event is deprecated');
    this.#compare(`${name} data`, descriptor.data, event['arg-type'], 'receive');
  }

  #compare(where: string, shape: Shape, typeName: string, direction: Direction): void {
    if (shape.kind === 'any') return;
    const type = this.#schema.type(typeName);
    if (!type) {
      this.#report(where, 'missing', 'its type is not in the schema');
      return;
    }
    if (type['meta-type'] === 'alternate' || shape.kind === 'alternate') {
      const theirs = type['meta-type'] === 'alternate' ? type.members.map((choice) => choice.type) : [typeName];
      const ours = shape.kind === 'alternate' ? shape.choices : [shape];
      this.#alternate(where, ours, theirs, direction);
      return;
    }
    switch (shape.kind) {
      case 'array':
        if (type['meta-type'] === 'array') this.#compare(`${where}[]`, shape.element, type['element-type'], direction);
        else this.#differs(where, 'a list', type['meta-type']);
        return;
      case 'enumeration':
        if (type['meta-type'] === 'enum') {
          this.#values(where, shape.values, type.members, shape.isPartial);
        } else {
          this.#differs(where, 'an enumeration', type['meta-type']);
        }
        return;
      case 'object':
        if (type['meta-type'] === 'object') this.#members(where, shape.members, type, direction);
        else this.#differs(where, 'an object', type['meta-type']);
        return;
      case 'union':
        if (type['meta-type'] === 'object') this.#union(where, shape, type, direction);
        else this.#differs(where, 'a union', type['meta-type']);
        return;
      default: {
        // On the wire an enumeration is a string; the table may choose not to care which values there are.
        if (type['meta-type'] === 'enum' && shape.kind === 'string') return;
        const jsonType = type['meta-type'] === 'builtin' ? type['json-type'] : type['meta-type'];
        const accepted: readonly string[] = BUILTIN[shape.kind];
        if (!accepted.includes(jsonType)) this.#differs(where, shape.kind, jsonType);
      }
    }
  }

  #differs(where: string, ours: string, theirs: string): void {
    this.#report(where, 'type', `the table says ${ours}, QEMU says ${theirs}`);
  }

  #values(where: string, ours: readonly string[], theirs: readonly { name: string }[], isPartial: boolean): void {
    const known = new Set(theirs.map((value) => value.name));
    for (const value of ours) if (!known.has(value)) this.#report(where, 'value', `QEMU does not know "${value}"`);
    if (isPartial) return;
    for (const value of known) {
      if (!ours.includes(value)) this.#report(where, 'unlisted', `QEMU knows "${value}", the table does not`);
    }
  }

  /** Every choice of the one that speaks must be one that the other understands. */
  #alternate(where: string, ours: readonly Shape[], theirs: readonly string[], direction: Direction): void {
    const fits = (shape: Shape, typeName: string): boolean => {
      const trial = new Check(this.#schema);
      trial.#compare(where, shape, typeName, direction);
      return trial.found.length === 0;
    };
    if (direction === 'send') {
      for (const shape of ours) {
        if (!theirs.some((type) => fits(shape, type))) this.#report(where, 'type', `QEMU takes no ${shape.kind} here`);
      }
      return;
    }
    for (const typeName of theirs) {
      if (ours.some((shape) => fits(shape, typeName))) continue;
      this.#report(where, 'type', 'QEMU may answer with a type that the table does not have');
    }
  }

  #members(where: string, members: Members, type: SchemaObject, direction: Direction, without?: string): void {
    for (const [name, entry] of Object.entries(members)) {
      const { shape, isOptional } = memberOf(entry);
      const path = `${where}.${name}`;
      const found = this.#schema.memberTypes(type, name);
      if (found.length === 0) {
        this.#report(path, 'missing', 'QEMU has no such member');
        continue;
      }
      if (found.every((member) => member.isDeprecated)) {
        this.#report(path, 'deprecated', 'the member is deprecated');
      }
      if (direction === 'receive' && !isOptional && found.some((member) => member.isOptional)) {
        this.#report(path, 'mandatory', 'QEMU may leave it out, the table relies on it');
      }
      this.#anyOf(
        path,
        shape,
        found.map((member) => member.type),
        direction,
      );
    }
    if (direction === 'receive') return;
    for (const theirs of type.members) {
      if ('default' in theirs || theirs.name === without) continue;
      const ours = members[theirs.name];
      if (ours === undefined || memberOf(ours).isOptional) {
        this.#report(`${where}.${theirs.name}`, 'mandatory', 'QEMU insists on it, the table does not');
      }
    }
  }

  /** Union cases may use one name for different types; what is described is then one of them. */
  #anyOf(where: string, shape: Shape, typeNames: readonly string[], direction: Direction): void {
    const trials = typeNames.map((typeName) => {
      const trial = new Check(this.#schema);
      trial.#compare(where, shape, typeName, direction);
      return trial.found;
    });
    const best = trials.sort((a, b) => a.length - b.length)[0];
    if (best) this.found.push(...best);
  }

  #union(where: string, shape: Extract<Shape, { kind: 'union' }>, type: SchemaObject, direction: Direction): void {
    if (type.tag !== shape.tag) {
      this.#differs(where, `a union by "${shape.tag}"`, type.tag === undefined ? 'no union' : `one by "${type.tag}"`);
      return;
    }
    this.#members(where, shape.common, type, direction, shape.tag);
    const variants = new Map(type.variants?.map((variant) => [variant.case, variant.type]));
    for (const [name, members] of Object.entries(shape.cases)) {
      const path = `${where}(${shape.tag}=${name})`;
      const variantType = variants.get(name);
      const variant = variantType === undefined ? null : this.#schema.type(variantType);
      if (variant?.['meta-type'] === 'object') this.#members(path, members, variant, direction);
      else this.#report(path, 'value', 'QEMU does not have this case');
    }
    if (direction === 'send') return;
    for (const name of variants.keys()) {
      if (!Object.hasOwn(shape.cases, name)) {
        this.#report(where, 'unlisted', `QEMU has the case "${name}", the table does not`);
      }
    }
  }
}
