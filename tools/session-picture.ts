// Draws docs/session.svg, the picture of a terminal session in the README, from docs/session.txt, the recording of a real
// one. Without arguments it draws; with recordings it writes docs/session.txt from them first:
//
//   script -qe -O one.log -c 'lodge vm list'                   records a command with its colours (util-linux)
//   node tools/session-picture.ts 'lodge vm list=one.log' …    each recording with the line that was typed
//
// A recording is reduced to what stood on the screen at its end: progress that was drawn over is gone. Lines that are
// not worth their place are deleted from docs/session.txt by hand.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const root = join(import.meta.dirname, '..');
export const recordingPath = join(root, 'docs/session.txt');
export const picturePath = join(root, 'docs/session.svg');

/** How text looks: of the colours, one of the eight by its number. */
interface Look {
  isBold: boolean;
  isDim: boolean;
  color: number | null;
}

/** Text that looks the same all along. */
interface Run extends Look {
  column: number;
  text: string;
}

/** The character that control sequences begin with. */
const escapeCharacter = '\u001B';
const sequence = new RegExp(`${escapeCharacter}\\[([0-9;?]*)([A-Za-z])|${escapeCharacter}[()][A-Z0-9]|.`, 'gsu');
const looks = new RegExp(`(${escapeCharacter}\\[[0-9;]*m)`);

const plain: Look = { isBold: false, isDim: false, color: null };

const fontSize = 13;
const columnWidth = 7.8;
const lineHeight = 18;
const margin = 16;
const barHeight = 30;
const prompt = '$ ';

/**
 * What a terminal shows at the end of an output, with its colours. Follows what progress displays use: carriage return,
 * cursor up, erasing to the end of the line (K) or of the screen (J); other control sequences are passed over.
 */
export function finalLines(output: string): string[] {
  const rows: { character: string; look: Look }[][] = [[]];
  let row = 0;
  let column = 0;
  let look = plain;
  for (const [piece, values = '', command] of output.matchAll(sequence)) {
    const cells = (rows[row] ??= []);
    if (command === 'm') look = changeLook(look, values);
    else if (command === 'A') row = Math.max(0, row - Number(values || 1));
    else if (command === 'K' || command === 'J') {
      cells.length = Math.min(values === '2' ? 0 : column, cells.length);
      if (command === 'J') rows.length = row + 1;
    } else if (piece === '\n') rows[++row] ??= [];
    else if (piece === '\r') column = 0;
    else if (!piece.startsWith('\u001B') && piece >= ' ') {
      while (cells.length < column) cells.push({ character: ' ', look: plain });
      cells[column++] = { character: piece, look };
    }
  }
  return rows.map((cells) => {
    let last = plain;
    const parts = cells.map(({ character, look: own }) => {
      if (isSame(own, last)) return character;
      last = own;
      return `\u001B[${codesOf(own)}m${character}`;
    });
    const text = parts.join('').trimEnd();
    return isSame(last, plain) ? text : `${text}\u001B[0m`;
  });
}

function isSame(one: Look, other: Look): boolean {
  return one.isBold === other.isBold && one.isDim === other.isDim && one.color === other.color;
}

/** The SGR codes (ECMA-48) that make a look out of any other. */
function codesOf({ isBold, isDim, color }: Look): string {
  return ['0', ...(isBold ? ['1'] : []), ...(isDim ? ['2'] : []), ...(color === null ? [] : [`${30 + color}`])].join(
    ';',
  );
}

function changeLook(look: Look, values: string): Look {
  return values.split(';').reduce((before, value) => {
    const code = Number(value || 0);
    if (code === 0) return plain;
    if (code === 1) return { ...before, isBold: true };
    if (code === 2) return { ...before, isDim: true };
    if (code === 22) return { ...before, isBold: false, isDim: false };
    if (code === 39) return { ...before, color: null };
    if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) return { ...before, color: code % 10 };
    return before;
  }, look);
}

/** A line with colours as runs of the same look. */
function runsOf(line: string): Run[] {
  const runs: Run[] = [];
  let look = plain;
  let column = 0;
  for (const part of line.split(looks)) {
    if (part.startsWith(escapeCharacter)) look = changeLook(look, part.slice(2, -1));
    else {
      if (part.trim() !== '') runs.push({ column, text: part, ...look });
      column += widthOf(part);
    }
  }
  return runs;
}

/** Columns of a text without wide characters, which recordings of Lodge don't have. */
const widthOf = (text: string): number => Array.from(text).length;
const escape = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
const number = (value: number): string => String(Math.round(value * 10) / 10);

function draw(line: string, y: number): string {
  return runsOf(line)
    .map(({ column, text, isBold, isDim, color }) => {
      const start = text.length - text.trimStart().length;
      const shown = text.trim();
      const x = margin + (column + start) * columnWidth;
      const names = [isBold ? 'b' : '', isDim ? 'd' : '', color === null ? '' : `c${color}`].filter(Boolean);
      const style = names.length > 0 ? ` class="${names.join(' ')}"` : '';
      // The length is given, so that columns stand below each other in every font.
      const length = number(widthOf(shown) * columnWidth);
      return `<text x="${number(x)}" y="${number(y)}" textLength="${length}"${style}>${escape(shown)}</text>`;
    })
    .join('');
}

/** The picture of a recording. It is dark where the reader's system is dark. */
export function sessionPicture(recording: string): string {
  const lines = recording.replace(/\n+$/, '').split('\n');
  const columns = Math.max(...lines.map((line) => widthOf(stripVTControlCharacters(line))));
  const width = Math.ceil(columns * columnWidth + 2 * margin);
  const height = barHeight + lines.length * lineHeight + margin;
  const body = lines.map((line, index) => draw(line, barHeight + (index + 0.8) * lineHeight)).filter(Boolean);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="A terminal: npm start brings up a guest; lodge creates another, lists both, and opens a console">
<style>
.w{fill:#fbfbfa;stroke:#d8d8d4}.o{fill:#d0d0cb}text{fill:#24292f;font:${fontSize}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}
.b{font-weight:700}.d{fill:#6e7781}.c1{fill:#b42318}.c2{fill:#1a7f37}.c3{fill:#8a6100}.c4{fill:#0757ba}.c5{fill:#7a35b8}.c6{fill:#0b7285}
@media(prefers-color-scheme:dark){.w{fill:#161a1f;stroke:#30363d}.o{fill:#3d444d}text{fill:#d7dde4}.d{fill:#8b949e}.c1{fill:#ff7b72}.c2{fill:#56d364}.c3{fill:#e3b341}.c4{fill:#79c0ff}.c5{fill:#d2a8ff}.c6{fill:#76e3ea}}
</style>
<rect class="w" x=".5" y=".5" width="${width - 1}" height="${height - 1}" rx="8"/>
<circle class="o" cx="20" cy="16" r="5"/><circle class="o" cx="36" cy="16" r="5"/><circle class="o" cx="52" cy="16" r="5"/>
${body.join('\n')}
</svg>
`;
}

if (process.argv[1] === import.meta.filename) {
  const recordings = process.argv.slice(2);
  if (recordings.length > 0) {
    const parts = recordings.map((argument) => {
      const [, typed = '', path = ''] = /^(.*)=([^=]+)$/.exec(argument) ?? [];
      const output = readFileSync(path, 'utf8').replaceAll(/^Script (started|done) .*\r?\n/gm, '');
      const lines = finalLines(output);
      return `\u001B[2m${prompt}\u001B[22m\u001B[1m${typed}\u001B[22m\n${lines.join('\n').replaceAll(/^\n+|\n+$/g, '')}\n`;
    });
    writeFileSync(recordingPath, parts.join('\n'));
  }
  writeFileSync(picturePath, sessionPicture(readFileSync(recordingPath, 'utf8')));
  process.stdout.write(`${picturePath} is drawn.\n`);
}
