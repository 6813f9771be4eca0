// How a template and its version are typed: NAME, or NAME@VERSION.
import { usageError } from '../usage-error.ts';

/** "base@3": a template and one of its versions. */
export function parseTemplateName(text: string): { name: string; version: number | undefined } {
  const [name = '', version, ...rest] = text.split('@');
  if (rest.length > 0 || (version !== undefined && !/^[1-9]\d{0,8}$/.test(version)))
    throw usageError(`${JSON.stringify(text)} is not the name of a template`, {
      hint: 'Write NAME, or NAME@VERSION with a number: base@3.',
    });
  return { name, version: version === undefined ? undefined : Number(version) };
}
