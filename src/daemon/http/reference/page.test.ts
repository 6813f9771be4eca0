import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allRoutes } from '../../../api/contract.ts';
import { errorCodes } from '../../../api/errors.ts';
import { permissions } from '../../../api/permission.ts';
import { inline, markup, prose } from './markup.ts';
import { referencePage } from './page.ts';

const page = referencePage();

test('every operation, error and permission is on the page', () => {
  for (const { id, route } of allRoutes()) {
    assert.ok(page.includes(`<article class="operation" id="${id}"`), id);
    assert.ok(page.includes(route.summary.replaceAll("'", '&#39;')), route.summary);
  }
  for (const code of Object.keys(errorCodes)) assert.ok(page.includes(`id="error-${code}"`), code);
  for (const permission of permissions) assert.ok(page.includes(`<code>${permission}</code>`), permission);
});

test('every link within the page leads somewhere, and no id is there twice', () => {
  const ids = [...page.matchAll(/\sid="([^"]+)"/g)].map((match) => match[1] ?? '');
  assert.equal(new Set(ids).size, ids.length);
  const known = new Set(ids);
  for (const [, target] of page.matchAll(/href="#([^"]+)"/g)) assert.ok(known.has(target ?? ''), `#${target}`);
});

test('nothing on the page needs an exception from its strict content security policy', () => {
  assert.ok(!/\sstyle=/.test(page));
  assert.ok(!/\son[a-z]+=/.test(page));
  assert.ok(!/<style/.test(page));
  assert.ok(!/<script(?! src="\/docs\/)/.test(page));
  assert.ok(!/(?:src|href)="https?:/.test(page));
});

test('text is escaped, markup is not', () => {
  assert.equal(markup`<p>${'<b>&"\''}</p>`.text, '<p>&lt;b&gt;&amp;&quot;&#39;</p>');
  assert.equal(markup`${[markup`<i>`, 'a<', 3, null, false]}`.text, '<i>a&lt;3');
});

test('prose has paragraphs, bold and code', () => {
  const text = prose('One **two** `a<b`.\n\nThree')
    .map((part) => part.text)
    .join('');
  assert.equal(text, '<p>One <strong>two</strong> <code>a&lt;b</code>.</p><p>Three</p>');
  assert.equal(
    inline('2 * 3 ` 4')
      .map((part) => part.text)
      .join(''),
    '2 * 3 ` 4',
  );
});
