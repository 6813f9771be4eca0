// JSON schemas as tables to read: a row a field, with its type, what is allowed, its default and its meaning.
import type { Json } from '../../../api/openapi.ts';
import { inline, markup, type Markup } from './markup.ts';

export type JsonObject = { [key: string]: Json };

const referencePrefix = '#/components/schemas/';

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The named schema that this one refers to, or null. */
function referenceOf(schema: JsonObject): string | null {
  const reference = schema['$ref'];
  if (typeof reference === 'string' && reference.startsWith(referencePrefix))
    return reference.slice(referencePrefix.length);
  const [only, ...others] = Array.isArray(schema['allOf']) ? schema['allOf'] : [];
  return others.length === 0 && isObject(only) ? referenceOf(only) : null;
}

/** All named schemas that some part of a document refers to, directly or through others. */
export function reachable(from: Json, named: Readonly<Record<string, JsonObject>>): Set<string> {
  const found = new Set<string>();
  const walk = (value: Json): void => {
    if (Array.isArray(value)) value.forEach(walk);
    else if (isObject(value)) {
      const reference = value['$ref'];
      if (typeof reference === 'string' && reference.startsWith(referencePrefix)) {
        const name = reference.slice(referencePrefix.length);
        if (found.has(name)) return;
        found.add(name);
        walk(named[name] ?? {});
      } else Object.values(value).forEach(walk);
    }
  };
  walk(from);
  return found;
}

/** A link to a named schema. */
export function schemaLink(name: string): Markup {
  return markup`<a class="ref" href="#schema-${name}">${name}</a>`;
}

/** Type of a schema, in a few words. */
export function typeOf(schema: JsonObject): Markup {
  const name = referenceOf(schema);
  if (name !== null) return schemaLink(name);
  const alternatives = schema['anyOf'] ?? schema['oneOf'];
  if (Array.isArray(alternatives)) {
    const shown = alternatives.filter(isObject).map((alternative) => typeOf(alternative));
    return markup`${shown.flatMap((part, index) => (index === 0 ? [part] : [markup` or `, part]))}`;
  }
  if ('const' in schema) return markup`<code>${JSON.stringify(schema['const'])}</code>`;
  const { type } = schema;
  if (type === 'array' && isObject(schema['items'])) return markup`list of ${typeOf(schema['items'])}`;
  if (type === 'object' && isObject(schema['additionalProperties']) && !isObject(schema['properties'])) {
    return markup`map of ${typeOf(schema['additionalProperties'])}`;
  }
  if (schema['format'] === 'binary') return markup`bytes`;
  if (type === 'integer') return markup`whole number`;
  if (type === 'string') return markup`${typeof schema['format'] === 'string' ? schema['format'] : 'text'}`;
  return markup`${typeof type === 'string' ? type : 'anything'}`;
}

/** What is allowed beyond the type, as short texts. */
function limitsOf(schema: JsonObject): Markup[] {
  const limits: Markup[] = [];
  const { minimum, maximum, exclusiveMinimum, minLength, maxLength, minItems, maxItems, pattern } = schema;
  const range = (least: Json | undefined, most: Json | undefined, unit: string): void => {
    if (least !== undefined && most !== undefined) limits.push(markup`${shown(least)} to ${shown(most)}${unit}`);
    else if (least !== undefined) limits.push(markup`at least ${shown(least)}${unit}`);
    else if (most !== undefined) limits.push(markup`at most ${shown(most)}${unit}`);
  };
  range(minimum, maximum, '');
  if (exclusiveMinimum !== undefined) limits.push(markup`more than ${shown(exclusiveMinimum)}`);
  range(minLength, maxLength, ' characters');
  range(minItems, maxItems, ' entries');
  if (Array.isArray(schema['enum'])) {
    limits.push(
      markup`${schema['enum'].flatMap((value, index) => [index === 0 ? markup`` : markup` · `, markup`<code>${shown(value)}</code>`])}`,
    );
  }
  if (typeof pattern === 'string') limits.push(markup`<code class="pattern">${pattern}</code>`);
  return limits;
}

function shown(value: Json | undefined): string {
  if (typeof value === 'number') return value.toLocaleString('en-US');
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Whether a schema is shown to somebody who sends it, or who reads it. */
export type Face = 'sent' | 'answered';

/** One field: name, type, limits, default, meaning. */
export interface FieldView {
  name: string;
  schema: JsonObject;
  isRequired: boolean;
  description?: string;
}

/** Fields as a list of definitions, which reads well in narrow windows too. */
export function fieldList(fields: readonly FieldView[], face: Face): Markup {
  return markup`<dl class="fields">${fields.map((field) => fieldRow(field, face))}</dl>`;
}

function fieldRow({ name, schema, isRequired, description }: FieldView, face: Face): Markup {
  const text = description ?? (typeof schema['description'] === 'string' ? schema['description'] : '');
  const limits = limitsOf(schema);
  const fallback = schema['default'];
  const nested = nestedFields(schema, face);
  return markup`<div class="field">
    <dt>
      <code class="name">${name}</code>
      <span class="type">${typeOf(schema)}</span>${isRequired ? markup` <span class="required">required</span>` : null}
    </dt>
    <dd>
      ${text === '' ? null : markup`<span class="meaning">${inline(text)}</span>`}${limits.map((limit) => markup`<span class="limit">${limit}</span>`)}${
        fallback === undefined
          ? null
          : markup`<span class="limit">default <code>${JSON.stringify(fallback)}</code></span>`
      }${nested}
    </dd>
  </div>`;
}

/** Fields of an object that has no name of its own, wherever it is: in a list, or as an alternative. */
function nestedFields(schema: JsonObject, face: Face): Markup | null {
  if (referenceOf(schema) !== null) return null;
  if (isObject(schema['properties'])) return fieldsOf(schema, face);
  if (isObject(schema['items'])) return nestedFields(schema['items'], face);
  const alternatives = schema['anyOf'] ?? schema['oneOf'];
  if (!Array.isArray(alternatives)) return null;
  const parts = alternatives.filter(isObject).map((alternative) => nestedFields(alternative, face));
  return parts.every((part) => part === null) ? null : markup`${parts}`;
}

/** The fields of an object schema. In what is answered, a field that is always there needs no mention. */
function fieldsOf(schema: JsonObject, face: Face): Markup {
  const properties = isObject(schema['properties']) ? schema['properties'] : {};
  const required = Array.isArray(schema['required']) ? schema['required'] : [];
  return fieldList(
    Object.entries(properties).map(([name, value]) => ({
      name,
      schema: isObject(value) ? value : {},
      isRequired: face === 'sent' && required.includes(name),
    })),
    face,
  );
}

/** A whole schema: a link where it has a name, its fields where it is an object, its alternatives where it has some. */
export function schemaView(schema: JsonObject, face: Face, named: Readonly<Record<string, JsonObject>> = {}): Markup {
  const name = referenceOf(schema);
  if (name !== null) {
    const inside = named[name];
    return markup`<p class="typeline">${schemaLink(name)}</p>
      ${inside === undefined ? null : markup`<details class="inside"><summary>Fields</summary>${schemaView(inside, face)}</details>`}`;
  }
  if (isObject(schema['properties'])) return fieldsOf(schema, face);
  const alternatives = schema['anyOf'] ?? schema['oneOf'];
  if (Array.isArray(alternatives) && alternatives.some((part) => isObject(part) && isObject(part['properties']))) {
    return markup`${alternatives.filter(isObject).map((alternative, index) => alternativeView(alternative, index, face))}`;
  }
  const limits = limitsOf(schema);
  return markup`<p class="typeline">
    ${typeOf(schema)} ${limits.map((limit) => markup`<span class="limit">${limit}</span>`)}
  </p>`;
}

function alternativeView(schema: JsonObject, index: number, face: Face): Markup {
  const text = typeof schema['description'] === 'string' ? `: ${schema['description']}` : '';
  return markup`<div class="alternative">
    <p class="typeline">${index === 0 ? 'either' : 'or'}${text}</p>
    ${schemaView(schema, face)}
  </div>`;
}
