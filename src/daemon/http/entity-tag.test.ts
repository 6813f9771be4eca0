import assert from 'node:assert/strict';
import { test } from 'node:test';
import { namesTag } from './entity-tag.ts';

test('a tag is found among those that a client has, weak ones too', () => {
  for (const header of ['"a"', 'W/"a"', '"b", "a"', '*', ' "a" ']) assert.equal(namesTag(header, '"a"'), true, header);
  for (const header of [undefined, '', '"b"', 'a', '"a', 'W/"b", "c"'])
    assert.equal(namesTag(header, '"a"'), false, String(header));
});
