// Writes the table of errors in docs/api.md from src/api/errors.ts: node tools/generate-error-table.ts. A test compares.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errorCodes } from '../src/api/errors.ts';

export const apiGuidePath = join(import.meta.dirname, '../docs/api.md');
const begin = '<!-- errors: written by tools/generate-error-table.ts -->';
const end = '<!-- end of errors -->';

/** The guide with the table that the code says. Throws where it has no place for one. */
export function withErrorTable(guide: string): string {
  const from = guide.indexOf(begin);
  const to = guide.indexOf(end);
  if (from === -1 || to < from) throw new Error(`docs/api.md lacks the lines ${begin} and ${end}.`);
  const rows = Object.entries(errorCodes).map(
    ([code, { status, meaning, hint }]) => `| \`${code}\` | ${status} | ${meaning} | ${hint} |`,
  );
  const table = ['| code | status | meaning | what to do |', '|---|---|---|---|', ...rows].join('\n');
  return `${guide.slice(0, from)}${begin}\n\n${table}\n\n${guide.slice(to)}`;
}

if (process.argv[1] === import.meta.filename) {
  writeFileSync(apiGuidePath, withErrorTable(readFileSync(apiGuidePath, 'utf8')));
  process.stdout.write(`${apiGuidePath} is written.\n`);
}
