// A small language for the shape of QMP data. One description is both the TypeScript type (`ValueOf`) and data at run
// time that schema.ts compares with what the installed QEMU says of itself. It has what QAPI has and nothing more.
// QAPI: https://www.qemu.org/docs/master/devel/qapi-code-gen.html

export type Shape =
  | { readonly kind: 'string' | 'integer' | 'number' | 'boolean' | 'null' | 'any' }
  | { readonly kind: 'enumeration'; readonly values: readonly string[]; readonly isPartial: boolean }
  | { readonly kind: 'array'; readonly element: Shape }
  | { readonly kind: 'object'; readonly members: Members; readonly isOpen: boolean }
  | { readonly kind: 'union'; readonly tag: string; readonly common: Members; readonly cases: Cases }
  | { readonly kind: 'alternate'; readonly choices: readonly Shape[] };

export interface Member {
  readonly shape: Shape;
  readonly isOptional: boolean;
}
export type Members = Readonly<Record<string, Shape | Member>>;
export type Cases = Readonly<Record<string, Members>>;

/** A shape that remembers the TypeScript type of its values; `value` never exists at run time. */
export type Typed<Value> = Shape & { readonly value?: Value };
type TypedOptional<Value> = Member & { readonly isOptional: true; readonly value?: Value };

/** The TypeScript type of the values that a shape describes. */
export type ValueOf<S> = S extends { readonly value?: infer Value } ? Exclude<Value, undefined> : never;

type Flatten<T> = { [K in keyof T]: T[K] };
type OptionalKeys<M> = { [K in keyof M]: M[K] extends { readonly isOptional: true } ? K : never }[keyof M];
export type ObjectOf<M> = Flatten<
  { -readonly [K in Exclude<keyof M, OptionalKeys<M>>]: ValueOf<M[K]> } & {
    -readonly [K in OptionalKeys<M>]?: ValueOf<M[K]>;
  }
>;
type UnionOf<Tag extends string, Common, C> = {
  [K in keyof C]: Flatten<{ [T in Tag]: K } & ObjectOf<Common> & ObjectOf<C[K]>>;
}[keyof C];

export const string: Typed<string> = { kind: 'string' };
/** A whole number. JSON.parse rounds above 2^53, which for QMP concerns only nanosecond counters older than 104 days. */
export const integer: Typed<number> = { kind: 'integer' };
export const number: Typed<number> = { kind: 'number' };
export const boolean: Typed<boolean> = { kind: 'boolean' };
export const nothing: Typed<null> = { kind: 'null' };
export const any: Typed<unknown> = { kind: 'any' };

/** All values of an enumeration: the schema check reports a value that QEMU knows and this table does not. */
export function enumeration<const V extends readonly string[]>(...values: V): Typed<V[number]> {
  return { kind: 'enumeration', values, isPartial: false };
}

/** The values of an enumeration that Lodge uses, out of more that QEMU knows. Only for what Lodge sends. */
export function oneOf<const V extends readonly string[]>(...values: V): Typed<V[number]> {
  return { kind: 'enumeration', values, isPartial: true };
}

export function array<V>(element: Typed<V>): Typed<V[]> {
  return { kind: 'array', element };
}

export function object<const M extends Members>(members: M): Typed<ObjectOf<M>> {
  return { kind: 'object', members, isOpen: false };
}

/** An object of which only these members are known here; others may be passed along unchecked. */
export function openObject<const M extends Members>(members: M): Typed<ObjectOf<M> & { [more: string]: unknown }> {
  return { kind: 'object', members, isOpen: true };
}

/** A QAPI union: the member `tag` decides which further members there are. Cases not listed are not used here. */
export function union<const Tag extends string, const Common extends Members, const C extends Cases>(
  tag: Tag,
  common: Common,
  cases: C,
): Typed<UnionOf<Tag, Common, C>> {
  return { kind: 'union', tag, common, cases };
}

/** A QAPI alternate: a value of one of several JSON types. */
export function alternate<const C extends readonly Typed<unknown>[]>(...choices: C): Typed<ValueOf<C[number]>> {
  return { kind: 'alternate', choices };
}

/** Marks a member that may be absent. */
export function optional<V>(shape: Typed<V>): TypedOptional<V> {
  return { shape, isOptional: true };
}

/** The member with its two properties, whether or not it was written with {@link optional}. */
export function memberOf(entry: Shape | Member): Member {
  return 'shape' in entry ? entry : { shape: entry, isOptional: false };
}
