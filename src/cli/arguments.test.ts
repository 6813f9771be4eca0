import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command } from 'commander';
import { nextWord, separateCommand } from './arguments.ts';

test('global options before a word are moved behind it, with their values', () => {
  assert.deepEqual(nextWord(['-p', 'shop', '--socket=/s', '-ojson', 'vm', 'list']), {
    moved: ['-p', 'shop', '--socket=/s', '-ojson'],
    word: 'vm',
    rest: ['list'],
  });
});

test('an option that is not global ends the reading', () => {
  assert.deepEqual(nextWord(['--help']), { moved: [], word: null, rest: ['--help'] });
  assert.deepEqual(nextWord(['-q']), { moved: ['-q'], word: null, rest: [] });
});

const exec = new Command('exec')
  .arguments('<vm> <command...>')
  .option('--timeout <duration>', '')
  .option('-q, --quiet', '');

test('the command line for the guest is set apart where it begins', () => {
  const cases: [string[], string[]][] = [
    [
      ['web1', 'ls', '-la'],
      ['web1', '--', 'ls', '-la'],
    ],
    [
      ['--timeout', '5', 'web1', 'ls'],
      ['--timeout', '5', 'web1', '--', 'ls'],
    ],
    [
      ['web1', '--timeout=5', '-q', 'ls', '-q'],
      ['web1', '--timeout=5', '-q', '--', 'ls', '-q'],
    ],
    [
      ['web1', '--', 'ls', '-la'],
      ['web1', '--', 'ls', '-la'],
    ],
    [
      ['web1', '-x'],
      ['web1', '--', '-x'],
    ],
    [['--help'], ['--help']],
    [
      ['web1', '--help'],
      ['web1', '--help'],
    ],
    [['web1'], ['web1']],
  ];
  for (const [words, expected] of cases) assert.deepEqual(separateCommand(exec, words), expected, words.join(' '));
});
