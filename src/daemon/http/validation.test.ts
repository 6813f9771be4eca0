import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import * as fc from 'fast-check';
import * as z from 'zod';
import { LodgeError, type FieldProblem } from '../../api/errors.ts';
import { listQuery, objectName } from '../../api/object.ts';
import { tokenCreate } from '../../api/token.ts';
import { execRequest } from '../../api/vm-guest.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { checkParams, maxJsonDepth, parseJson, parseQuery, validate, validateQuery } from './validation.ts';

function refusal(act: () => unknown): LodgeError {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof LodgeError, String(error));
    assert.equal(error.code, 'invalid_request');
    return error;
  }
  throw new Error('it was accepted');
}
function problems(act: () => unknown): FieldProblem[] {
  return refusal(act).fields ?? [];
}
const json = (text: string): unknown => parseJson(new TextEncoder().encode(text));

suite('fields', () => {
  test('each problem has its path, what is allowed, and what was given', () => {
    const spec = { cpu: { count: 0 }, disks: [{ name: 'Root' }], memoryMib: '2GiB', machine: 'q53', firmware: null };
    assert.deepEqual(
      problems(() => validate(vmSpec, spec, 'body')),
      [
        { field: 'cpu.count', message: 'must be at least 1', value: '0' },
        { field: 'memoryMib', message: 'must be a number of MiB, without a unit', value: '"2GiB"' },
        { field: 'machine', message: 'must be one of q35, pc, microvm: did you mean q35?', value: '"q53"' },
        { field: 'firmware', message: 'must be an object', value: 'null' },
        {
          field: 'disks.0.name',
          message: 'takes a-z, 0-9 and "-", and starts and ends with a letter or digit',
          value: '"Root"',
        },
      ],
    );
  });

  test('a missing field is called missing', () => {
    assert.deepEqual(
      problems(() => validate(tokenCreate, {}, 'body')),
      [{ field: 'name', message: 'is missing' }],
    );
  });

  test('unknown fields are each named', () => {
    const found = problems(() => validate(tokenCreate, { name: 'a', roel: 'admin', 'x y': 1 }, 'body'));
    assert.deepEqual(
      found.map(({ field }) => field),
      ['roel', '"x y"'],
    );
  });

  test('absurd numbers are refused', () => {
    const beyond = problems(() => validate(vmSpec, { memoryMib: 2 ** 63 }, 'body'));
    assert.deepEqual(
      beyond.map(({ message }) => message),
      ['must be at most 16777216'],
    );
    const lookAlike = problems(() => validate(z.strictObject({ name: objectName }), { name: 'w\u0435b1' }, 'body'));
    assert.match(lookAlike[0]?.message ?? '', /takes a-z, 0-9 .*U\+0435, which is not ASCII$/);
    for (const memoryMib of [0, -1, 1.5, 2 ** 63, Number.MAX_SAFE_INTEGER, '512']) {
      assert.equal(problems(() => validate(vmSpec, { memoryMib }, 'body'))[0]?.field, 'memoryMib', String(memoryMib));
    }
  });

  test('names that are no names are refused', () => {
    for (const name of ['', '../x', 'a\nb', 'A', 'ａbc', 'a'.repeat(64), '-a', 'a-', 'a.b', 'а']) {
      assert.equal(problems(() => validate(tokenCreate, { name }, 'body'))[0]?.field, 'name', JSON.stringify(name));
    }
  });

  test('secrets are not shown again', () => {
    const error = refusal(() => validate(vmSpec, { cloudInit: { password: 'x'.repeat(300) } }, 'body'));
    assert.ok(!JSON.stringify(error.toBody()).includes('xxxx'));
    const input = refusal(() => validate(execRequest, { command: ['a'], input: 'not base64!' }, 'body'));
    assert.ok(!JSON.stringify(input.toBody()).includes('not base64!'));
  });

  test('of alternatives, the problems of the one that was meant are shown', () => {
    const source = z.discriminatedUnion('type', [
      z.strictObject({ type: z.literal('url'), url: z.url() }),
      z.strictObject({ type: z.literal('file'), path: z.string().min(3) }),
    ]);
    assert.deepEqual(
      problems(() => validate(z.object({ source }), { source: { type: 'file', path: '/' } }, 'body')),
      [{ field: 'source.path', message: 'must be at least 3 characters long', value: '"/"' }],
    );
    const [unknown] = problems(() => validate(z.object({ source }), { source: { type: 'ftp' } }, 'body'));
    assert.equal(unknown?.field, 'source.type');
  });

  test('a long list of problems is cut', () => {
    const body = { name: 'a', ...Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`f${index}`, 1])) };
    const error = refusal(() => validate(tokenCreate, body, 'body'));
    assert.equal(error.fields?.length, 50);
    assert.match(error.message, /and 499 more$/);
  });
});

suite('query', () => {
  test('numbers and defaults come out typed', () => {
    assert.deepEqual(validateQuery(listQuery, 'limit=5&project=lab'), { limit: 5, project: 'lab' });
    assert.deepEqual(validateQuery(listQuery, ''), { limit: 100 });
  });

  test('false means false', () => {
    const schema = z.strictObject({ force: z.stringbool().or(z.boolean()).default(false) });
    assert.deepEqual(validateQuery(schema, 'force=false'), { force: false });
    assert.deepEqual(validateQuery(schema, 'force=true'), { force: true });
  });

  test('a list takes one value or several; what is no list takes one', () => {
    const schema = z.strictObject({ kinds: z.array(z.string()).optional(), name: z.string().optional() });
    assert.deepEqual(validateQuery(schema, 'kinds=a'), { kinds: ['a'] });
    assert.deepEqual(validateQuery(schema, 'kinds=a&kinds=b'), { kinds: ['a', 'b'] });
    assert.match(refusal(() => validateQuery(schema, 'name=a&name=b')).message, /query\.name: is given more than once/);
  });

  test('unknown, malformed and too many parameters are refused', () => {
    assert.equal(problems(() => validateQuery(listQuery, 'limt=5'))[0]?.field, 'query.limt');
    assert.equal(problems(() => validateQuery(undefined, 'a=1'))[0]?.field, 'query.a');
    refusal(() => parseQuery('a=%'));
    refusal(() => parseQuery('a=%ff'));
    refusal(() => parseQuery('a=%00'));
    refusal(() => parseQuery('a=1&'.repeat(200)));
    for (const limit of ['0', '501', '-1', '1.5', 'x', '', '9'.repeat(30)]) {
      const [found] = problems(() => validateQuery(listQuery, `limit=${limit}`));
      assert.equal(found?.field, 'query.limit', limit);
    }
  });

  test('a name that reaches a prototype is only an unknown name', () => {
    assert.equal(problems(() => validateQuery(listQuery, '__proto__=1'))[0]?.field, 'query.__proto__');
    assert.equal(problems(() => validateQuery(listQuery, 'constructor=1'))[0]?.field, 'query.constructor');
    assert.equal(({} as Record<string, unknown>)['polluted'], undefined);
  });

  test('what is encoded comes back as it was', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string({ minLength: 1 }), fc.string({ unit: 'grapheme' })), (values) => {
        const text = new URLSearchParams(values).toString();
        const clean = !JSON.stringify(values).includes('\\u0000');
        if (clean) assert.deepEqual({ ...parseQuery(text) }, { ...values });
      }),
    );
  });
});

suite('path parameters', () => {
  test('names, ids and tickets pass', () => {
    for (const value of ['web1', '0198c0de-1234-7abc-8def-0123456789ab', '_a-B', 'a.b', 'self'])
      checkParams({ vm: value });
  });
  test('what walks a path, or is no name, does not', () => {
    for (const value of ['', '.', '..', '../a', 'a/b', 'a b', 'a\n', '%2e', 'ä', 'a'.repeat(201)]) {
      assert.equal(problems(() => checkParams({ vm: value }))[0]?.field, 'params.vm', JSON.stringify(value));
    }
  });
});

suite('JSON', () => {
  test('any ordinary document comes back as it was', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 5 }), (value) => {
        const text = JSON.stringify(value);
        if (!text.includes('\\u0000') && !/\\ud[89a-f]/i.test(text) && !text.includes('__proto__')) {
          assert.deepEqual(json(text), JSON.parse(text));
        }
      }),
    );
  });

  test('what is not JSON, not UTF-8, or not storable is refused', () => {
    for (const text of ['', '{', '{"a":1,}', 'undefined', '{"a":"\\u0000"}', '{"\\u0000":1}', '["\\ud800"]'])
      refusal(() => json(text));
    refusal(() => parseJson(new Uint8Array([0x22, 0xff, 0x22])));
  });

  test('a key that sets a prototype is refused, at any depth', () => {
    refusal(() => json('{"__proto__":{"a":1}}'));
    refusal(() => json('[{"a":{"__proto__":null}}]'));
  });

  test('depth and number of values are bounded, without running out of stack', () => {
    json('['.repeat(maxJsonDepth) + ']'.repeat(maxJsonDepth));
    refusal(() => json('['.repeat(maxJsonDepth + 1) + ']'.repeat(maxJsonDepth + 1)));
    refusal(() => json('['.repeat(400_000) + ']'.repeat(400_000)));
    refusal(() => json('{"a":'.repeat(100_000) + '1' + '}'.repeat(100_000)));
    refusal(() => json(`[${'1,'.repeat(200_000)}1]`));
  });
});
