import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Command } from 'commander';
import { optionsOfVerb } from '../src/cli/command.ts';
import { wholeProgram } from '../src/cli/program.ts';
import { cliReference, referencePath } from './generate-cli-docs.ts';

function verbsOf(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(verbsOf);
}

test('docs/cli.md is what the commands say; if not: node tools/generate-cli-docs.ts', async () => {
  assert.equal(readFileSync(referencePath, 'utf8'), await cliReference());
});

test('every verb has an example, and every option says what it does', async () => {
  const verbs = verbsOf(await wholeProgram());
  assert.ok(verbs.length > 60, `${verbs.length} verbs`);
  const withoutExample = verbs.filter((verb) => (optionsOfVerb(verb).examples ?? []).length === 0);
  assert.deepEqual(
    withoutExample.map((verb) => verb.name()),
    [],
  );
  const silent = verbs.flatMap((verb) =>
    verb.options.filter((option) => option.description === '').map((option) => `${verb.name()} ${option.flags}`),
  );
  assert.deepEqual(silent, []);
});

test('no verb has two options with the same flag', async () => {
  for (const verb of verbsOf(await wholeProgram())) {
    const flags = verb.options.flatMap((option) => [option.short, option.long]).filter((flag) => flag !== undefined);
    assert.deepEqual(
      flags.filter((flag, index) => flags.indexOf(flag) !== index),
      [],
      verb.name(),
    );
  }
});
