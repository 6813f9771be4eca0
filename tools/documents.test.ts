import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { vmState } from '../src/api/vm-state.ts';
import { nodeOptions } from '../src/daemon/node-options.ts';
import { apiGuidePath, withErrorTable } from './generate-error-table.ts';
import { finalLines, picturePath, recordingPath, sessionPicture } from './session-picture.ts';

const root = join(import.meta.dirname, '..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const documents = globSync(['*.md', 'docs/**/*.md'], { cwd: root }).toSorted();

/** The anchors that a Markdown file has, as its headings give them. */
function anchorsOf(text: string): Set<string> {
  const withoutCode = text.replaceAll(/^```[\s\S]*?^```/gm, '');
  return new Set(
    [...withoutCode.matchAll(/^#+ (.*)$/gm)].map(([, title = '']) =>
      title
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );
}

test('every link to a file of the repository leads there, and to a heading that is there', () => {
  const broken: string[] = [];
  for (const path of documents) {
    const text = read(path)
      .replaceAll(/^```[\s\S]*?^```/gm, '')
      .replaceAll(/`[^`\n]*`/g, '');
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file = '', anchor] = target.split('#');
      const to = file === '' ? path : join(dirname(path), file);
      if (!existsSync(join(root, to))) broken.push(`${path}: ${target}`);
      else if (anchor !== undefined && !anchorsOf(read(to)).has(anchor)) broken.push(`${path}: ${target}`);
    }
  }
  assert.deepEqual(broken, []);
});

test('every file and folder of the source that a document names is there', () => {
  const missing: string[] = [];
  for (const path of documents) {
    for (const [, name = ''] of read(path).matchAll(/`((?:src|test|tools|docs|guest|bench|bin)\/[\w./-]+)`/g))
      if (!existsSync(join(root, name))) missing.push(`${path}: ${name}`);
  }
  assert.deepEqual(missing, []);
});

test('systemd, and whoever reads how to do without it, starts the daemon with the options of Node that it is started with elsewhere', () => {
  const command = `node_modules/.bin/node ${nodeOptions.join(' ')}`;
  assert.match(
    read('docs/lodge.service'),
    new RegExp(`^ExecStart=/opt/lodge/${command} /opt/lodge/src/daemon/main.ts$`, 'm'),
  );
  assert.ok(read('docs/running-as-a-service.md').includes(`\`${command} src/daemon/main.ts\``));
});

test('the errors in docs/api.md are those of the code; if not: node tools/generate-error-table.ts', () => {
  const guide = readFileSync(apiGuidePath, 'utf8');
  assert.equal(guide, withErrorTable(guide));
});

test('docs/vms.md names every state of a VM', () => {
  const page = read('docs/vms.md');
  assert.deepEqual(
    vmState.options.filter((state) => !page.includes(state)),
    [],
  );
});

test('the picture in the README is drawn from its recording; if not: node tools/session-picture.ts', () => {
  assert.equal(readFileSync(picturePath, 'utf8'), sessionPicture(readFileSync(recordingPath, 'utf8')));
});

test('a recording is reduced to what stood on the screen at its end', () => {
  const output =
    '\u001B[36m⠙\u001B[39m wait\r\n  part\r\n\u001B[2A\u001B[0J\u001B[32m✓\u001B[39m done\r\n50 %\r\u001B[Kall\r\n';
  assert.deepEqual(finalLines(output), ['\u001B[0;32m✓\u001B[0m done', 'all', '']);
});

test('the README in Chinese has the commands and the links of the English one', () => {
  const english = read('README.md');
  const chinese = read('README.zh-CN.md');
  const commands = (text: string): string[] =>
    [...text.matchAll(/^```(?:sh|console|yaml)\n([\s\S]*?)^```/gm)].map(([, code = '']) =>
      code.replaceAll(/\s*#.*$/gm, ''),
    );
  assert.deepEqual(commands(chinese), commands(english));
  const links = (text: string): string[] => [...text.matchAll(/\]\(([^)]+)\)/g)].map(([, to = '']) => to);
  const isOther = (to: string): boolean => !to.startsWith('README');
  assert.deepEqual(links(chinese).filter(isOther).toSorted(), links(english).filter(isOther).toSorted());
});
