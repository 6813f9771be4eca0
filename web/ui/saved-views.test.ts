import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dropView, keepView, maxViews, readViews } from './saved-views.ts';

function storageOf(kept: Record<string, string> = {}) {
  const items = new Map(Object.entries(kept));
  return {
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (key: string, value: string) => void items.set(key, value),
  };
}

test('a view is kept with its list, replaced by its name, and dropped', () => {
  const storage = storageOf();
  keepView('vm', { name: 'Running', search: { filter: 'status.state=running' } }, storage);
  keepView('vm', { name: 'Web', search: { selector: 'app=web', sort: '-createdAt' } }, storage);
  keepView('vm', { name: 'Running', search: { filter: 'status.state=running', sort: 'name' } }, storage);
  assert.deepEqual(readViews('vm', storage), [
    { name: 'Web', search: { selector: 'app=web', sort: '-createdAt' } },
    { name: 'Running', search: { filter: 'status.state=running', sort: 'name' } },
  ]);
  assert.deepEqual(readViews('network', storage), []);
  assert.deepEqual(
    dropView('vm', 'Web', storage).map(({ name }) => name),
    ['Running'],
  );
  assert.equal(readViews('vm', storage).length, 1);
});

test('what something else has written counts as no views', () => {
  for (const text of ['{', '{}', 'null', '[null, 3, {"name": 4}, {"name": "x", "search": null}]']) {
    assert.deepEqual(readViews('vm', storageOf({ 'lodge-views-vm': text })), [], text);
  }
  const mixed = '[{"name": "x", "search": {"q": "web", "sort": 7, "other": "no"}}]';
  assert.deepEqual(readViews('vm', storageOf({ 'lodge-views-vm': mixed })), [{ name: 'x', search: { q: 'web' } }]);
});

test('the oldest view goes when there are too many', () => {
  const storage = storageOf();
  for (let index = 0; index <= maxViews; index++) keepView('vm', { name: `v${index}`, search: {} }, storage);
  const names = readViews('vm', storage).map(({ name }) => name);
  assert.equal(names.length, maxViews);
  assert.equal(names[0], 'v1');
});
