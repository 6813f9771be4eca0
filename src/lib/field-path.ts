// Paths of fields in plain JSON documents: "cpu.count", "disks.0.sizeMib" ("disks[0].sizeMib" is read as well),
// "disks.root.cache" (an element of a list by its `name`), 'labels["app.kubernetes.io/name"]'. Documents are changed in copies, never in place.

/** A document, or a part of one. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** One step of a path: a key, or an index of a list. */
export type PathPart = string | number;

/** A path that can not be understood, or that leads nowhere. `message` says why. */
export class FieldPathError extends Error {
  override name = 'FieldPathError';
}

const partPattern = /(?:^|\.)([^.[\]"]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]/y;

/** Splits a path into its parts. */
export function parsePath(text: string): PathPart[] {
  const parts: PathPart[] = [];
  let offset = 0;
  while (offset < text.length) {
    partPattern.lastIndex = offset;
    const match = partPattern.exec(text);
    if (!match) break;
    const [whole, key, index, quoted] = match;
    if (key !== undefined) parts.push(/^\d+$/.test(key) ? Number(key) : key);
    else if (index !== undefined) parts.push(Number(index));
    else parts.push(JSON.parse(`"${quoted ?? ''}"`) as string);
    offset += whole.length;
  }
  if (offset < text.length || parts.length === 0) {
    throw new FieldPathError(
      `"${text.slice(0, 80)}" is not the path of a field: write cpu.count, disks.0.cache, disks.root.cache or labels["a.b/c"]`,
    );
  }
  return parts;
}

/** A path as people write it; the reverse of {@link parsePath}. */
export function formatPath(parts: readonly PathPart[]): string {
  let text = '';
  for (const part of parts) {
    if (typeof part === 'number') text += text === '' ? String(part) : `.${part}`;
    else if (/^[^.[\]"]+$/.test(part) && !/^\d+$/.test(part)) text += text === '' ? part : `.${part}`;
    else text += `[${JSON.stringify(part)}]`;
  }
  return text;
}

/** The value at a path, or undefined. */
export function valueAt(document: Json, parts: readonly PathPart[]): Json | undefined {
  let current: Json | undefined = document;
  for (const part of parts) {
    if (Array.isArray(current)) current = current[elementIndex(current, part) ?? -1];
    else if (isRecord(current)) current = Object.hasOwn(current, String(part)) ? current[String(part)] : undefined;
    else return undefined;
  }
  return current;
}

/**
 * A copy with the value at a path set; records on the way are made. An index one behind the end of a list adds an
 * element.
 */
export function withValueAt(document: Json, parts: readonly PathPart[], value: Json): Json {
  return change(document, parts, 0, () => value);
}

/** A copy without the field at a path; a list closes the gap. A field that isn't there is fine. */
export function withoutValueAt(document: Json, parts: readonly PathPart[]): Json {
  if (valueAt(document, parts) === undefined) return document;
  return change(document, parts, 0, () => undefined);
}

function change(
  document: Json | undefined,
  parts: readonly PathPart[],
  depth: number,
  make: () => Json | undefined,
): Json {
  const part = parts[depth];
  if (part === undefined) return make() ?? null;
  const isLast = depth === parts.length - 1;
  const where = formatPath(parts.slice(0, depth));
  if (Array.isArray(document)) {
    const index = elementIndex(document, part);
    if (index === undefined || index > document.length) {
      const names = document.flatMap((element) =>
        isRecord(element) && typeof element['name'] === 'string' ? [element['name']] : [],
      );
      throw new FieldPathError(
        `${where} has no element ${typeof part === 'number' ? part : `"${part}"`}: it has ${document.length} (${
          document.length === 0
            ? `use ${where}.0 to add one`
            : `0 to ${document.length - 1}${names.length > 0 ? `, or by name: ${names.join(', ')}` : ''}`
        })`,
      );
    }
    const copy = [...document];
    if (isLast) {
      const value = make();
      if (value === undefined) copy.splice(index, 1);
      else copy[index] = value;
    } else copy[index] = change(document[index], parts, depth + 1, make);
    return copy;
  }
  if (document !== undefined && document !== null && !isRecord(document)) {
    throw new FieldPathError(`${where} is ${JSON.stringify(document)} and has no fields`);
  }
  if (document === undefined && typeof part === 'number') return [change(undefined, parts, depth + 1, make)];
  const copy: { [key: string]: Json } = { ...document };
  const key = String(part);
  const value = isLast ? make() : change(Object.hasOwn(copy, key) ? copy[key] : undefined, parts, depth + 1, make);
  if (value === undefined) delete copy[key];
  else Object.defineProperty(copy, key, { value, enumerable: true, configurable: true, writable: true });
  return copy;
}

function elementIndex(list: readonly Json[], part: PathPart): number | undefined {
  if (typeof part === 'number') return part;
  const index = list.findIndex((element) => isRecord(element) && element['name'] === part);
  return index === -1 ? undefined : index;
}

function isRecord(value: Json | undefined): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
