import assert from 'node:assert/strict';
import { test } from 'node:test';
import { displayWidth } from '../../lib/terminal-text.ts';
import { plainStyle, styleFor } from './style.ts';
import { painted, renderDetails, renderTable, type Column } from './table.ts';

interface Row {
  name: string;
  size: string;
}
const columns: Column<Row>[] = [
  { header: 'NAME', value: (row) => row.name, minWidth: 4 },
  { header: 'SIZE', value: (row) => row.size, side: 'right' },
  { header: 'ID', value: () => 'x1', isWide: true },
];

test('columns are as wide as their widest cell, numbers stand right', () => {
  assert.deepEqual(
    renderTable(
      columns,
      [
        { name: 'web1', size: '2 GiB' },
        { name: 'database', size: '' },
      ],
      { width: null },
    ),
    ['NAME       SIZE', 'web1      2 GiB', 'database      -'],
  );
});

test('wide columns show only in wide output', () => {
  assert.match(renderTable(columns, [], { width: null, isWide: true })[0] ?? '', /NAME {2}SIZE {2}ID/);
});

test('a table is cut to the terminal in the columns that may be cut', () => {
  const lines = renderTable(columns, [{ name: 'a-very-long-name', size: '10 GiB' }], { width: 16 });
  assert.deepEqual(lines, ['NAME        SIZE', 'a-very-…  10 GiB']);
});

test('columns are left out where a terminal is too narrow for all, those that matter least first', () => {
  const many: Column<Row>[] = [
    { header: 'NAME', value: (row) => row.name },
    { header: 'STATE', value: () => 'running' },
    { header: 'WHAT', value: () => 'settle identity', minWidth: 6, isOptional: true },
    { header: 'AGE', value: () => '12s' },
    { header: 'MESSAGE', value: () => 'it was started', minWidth: 7 },
  ];
  const at = (width: number): string | undefined => renderTable(many, [{ name: 'web1', size: '' }], { width })[1];
  assert.equal(at(80), 'web1  running  settle identity  12s  it was started');
  assert.equal(at(37), 'web1  running  settle…  12s  it was …');
  assert.equal(at(30), 'web1  running  12s  it was st…');
  assert.equal(at(24), 'web1  running  it was s…');
  assert.match(renderTable(many, [{ name: 'web1', size: '' }], { width: 24, isWide: true })[1] ?? '', /12s/);
});

test('wide characters keep the columns aligned', () => {
  const lines = renderTable(
    columns,
    [
      { name: '网络', size: '1' },
      { name: 'abcd', size: '2' },
    ],
    { width: null },
  );
  assert.equal(new Set(lines.map(displayWidth)).size, 1);
});

test('a cell can neither steer the terminal nor break the line', () => {
  const [, line] = renderTable(columns, [{ name: '\u001b]0;owned\u0007\n', size: '1' }], { width: null });
  assert.equal(line, '\\x1b]0;owned\\x07\\n     1');
});

test('details are aligned, and leave out what is not known', () => {
  const lines = renderDetails([
    ['Name', 'web1'],
    ['State', painted('ru\u0007n', (text) => `<${text}>`)],
    ['Address', ''],
    ['Image', null],
    ['Disks', ['NAME', 'root']],
  ]);
  assert.deepEqual(lines, ['Name:   web1', 'State:  <ru\\x07n>', '', 'Disks:', '  NAME', '  root']);
});

test('long values are broken to the terminal, and stand below each other', () => {
  assert.deepEqual(renderDetails([['Reason', 'one two three four five six']], { style: plainStyle, width: 30 }), [
    'Reason:  one two three four',
    '         five six',
  ]);
});

test('colours come on a terminal only, and never against NO_COLOR', () => {
  assert.equal(styleFor({ isTTY: true }, {}).hasColor, true);
  assert.equal(styleFor({ isTTY: true }, { TERM: 'dumb' }).hasColor, false);
  assert.equal(styleFor({ isTTY: true }, { NO_COLOR: '1' }).hasColor, false);
  assert.equal(styleFor({ isTTY: false }, {}).hasColor, false);
  assert.equal(styleFor({ isTTY: false }, { FORCE_COLOR: '1' }).hasColor, true);
  assert.equal(styleFor({ isTTY: true }, { FORCE_COLOR: '1', NO_COLOR: '1' }).hasColor, false);
});
