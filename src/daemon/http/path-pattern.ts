// Paths of routes: as Fastify spells them, and as patterns for what Fastify doesn't route: WebSocket upgrades, and the
// question which methods a path has.
import type { Method, Route } from '../../api/route.ts';

/** `/v1/vms/{vm}` as `/v1/vms/:vm`. */
export function fastifyPath(path: string): string {
  return path.replace(/\{(\w+)\}/g, ':$1');
}

/** The path of a request target, without its query. */
export function pathOf(url: string): string {
  const end = url.search(/[?#]/);
  return end === -1 ? url : url.slice(0, end);
}

/** The query of a request target, without "?". */
export function queryOf(url: string): string {
  const start = url.indexOf('?');
  if (start === -1) return '';
  const end = url.indexOf('#', start);
  return url.slice(start + 1, end === -1 ? undefined : end);
}

export interface RouteMatch<T> {
  item: T;
  params: Record<string, string>;
}

/** Finds routes by path. */
export class PathTable<T extends { route: Pick<Route, 'path' | 'method'> }> {
  readonly #rows: { pattern: RegExp; names: string[]; item: T }[];

  constructor(items: readonly T[]) {
    this.#rows = items.map((item) => {
      const names = [...item.route.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? '');
      const text = item.route.path.replace(/[.*+?^$()|[\]\\]/g, String.raw`\$&`).replace(/\{\w+\}/g, '([^/]+)');
      return { pattern: new RegExp(`^${text}$`), names, item };
    });
  }

  /** Methods the path has, in alphabetical order; what can be read can also be asked for its headers. */
  methods(path: string): (Method | 'HEAD')[] {
    const found = this.#rows.filter((row) => row.pattern.test(path)).map((row) => row.item.route.method);
    return [...new Set(found.flatMap((method) => (method === 'GET' ? [method, 'HEAD' as const] : [method])))].sort();
  }

  /** The route of a method and path; null when there is none, or the path is not well-formed. */
  find(method: string, path: string): RouteMatch<T> | null {
    for (const { pattern, names, item } of this.#rows) {
      if (item.route.method !== method) continue;
      const match = pattern.exec(path);
      if (match === null) continue;
      try {
        const values = match.slice(1).map((part) => decodeURIComponent(part));
        return { item, params: Object.fromEntries(names.map((name, index) => [name, values[index] ?? ''])) };
      } catch {
        return null;
      }
    }
    return null;
  }
}
