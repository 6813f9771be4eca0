// Lists: selectors, filters, order and pages.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import * as fc from 'fast-check';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { knownPaths, readField } from './field-path.ts';
import { parseFilter } from './filter.ts';
import { listObjects, type ListRequest } from './query.ts';
import { parseSelector } from './selector.ts';

const refusedField =
  (field: string) =>
  (error: unknown): boolean =>
    error instanceof LodgeError && error.code === 'invalid_request' && error.fields?.[0]?.field === field;

suite('A label selector', () => {
  const labels = { app: 'web', tier: 'front', 'lodge.example/node': 'n1', empty: '', weight: '7' };
  const cases: [string, boolean][] = [
    ['', true],
    ['app=web', true],
    ['app==web', true],
    ['app=db', false],
    ['app!=web', false],
    ['app!=db', true],
    ['missing!=x', true],
    ['missing=x', false],
    ['app', true],
    ['!app', false],
    ['missing', false],
    ['!missing', true],
    ['app in (web,db)', true],
    ['app in (db)', false],
    ['missing in (web)', false],
    ['app notin (db, x)', true],
    ['app notin (web)', false],
    ['missing notin (web)', true],
    ['empty=', true],
    ['empty', true],
    ['app=', false],
    ['empty in (,x)', true],
    ['lodge.example/node=n1', true],
    [' app = web , tier != back ,!gone', true],
    ['app=web,tier=back', false],
    ['weight>5', true],
    ['weight>7', false],
    ['weight<8', true],
    ['app>5', false],
    ['missing<5', false],
    ['constructor', false],
    ['toString!=x', true],
  ];
  for (const [selector, expected] of cases) {
    test(`"${selector}" ${expected ? 'selects' : 'does not select'}`, () => {
      assert.equal(parseSelector(selector)(labels), expected);
    });
  }

  test('what is no selector is refused with the parameter’s name', () => {
    for (const bad of [
      ',',
      'a,',
      ',a',
      '=x',
      'a=b=c',
      'a b',
      'a in',
      'a in x',
      'a in (x',
      'a in (x y)',
      '!',
      '!!a',
      'a=!',
      'a>x',
      '-a',
      'a=b c',
      'a in (x),',
      '(',
      'ä=1',
      `${'k'.repeat(64)}=1`,
      `a=${'v'.repeat(64)}`,
    ]) {
      assert.throws(() => parseSelector(bad), refusedField('query.selector'), bad);
    }
  });

  test('any text is either refused or gives a test', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('a', 'in', 'notin', '=', '!', ',', '(', ')', ' ', '<', '1') }),
        (text) => {
          try {
            assert.equal(typeof parseSelector(text)(labels), 'boolean');
          } catch (error) {
            assert.ok(refusedField('query.selector')(error), String(error));
          }
        },
      ),
    );
  });
});

suite('A field filter', () => {
  const object = {
    name: 'Web-1',
    createdAt: '2026-03-01T10:00:00Z',
    spec: {
      memoryMib: 2048,
      isOn: true,
      note: 'a,b "c"',
      empty: '',
      nothing: null,
      disks: [
        { volume: 'd1', sizeMib: 10 },
        { volume: 'd2', sizeMib: 30 },
      ],
    },
    status: { state: 'running', addresses: ['10.0.0.1', 'fd00::1'], none: [] },
  };
  const cases: [string, boolean][] = [
    ['', true],
    ['status.state=running', true],
    ['status.state==running', true],
    ['status.state=stopped', false],
    ['status.state!=running', false],
    ['status.state!=stopped', true],
    ['spec.memoryMib=2048', true],
    ['spec.memoryMib=2048.0', true],
    ['spec.memoryMib>=2048', true],
    ['spec.memoryMib>2048', false],
    ['spec.memoryMib<10000', true],
    ['spec.memoryMib<=1024', false],
    ['spec.memoryMib>abc', false],
    ['spec.isOn=true', true],
    ['spec.isOn!=true', false],
    ['name~web', true],
    ['name~WEB-', true],
    ['name!~db', true],
    ['name!~web', false],
    ['status.addresses=10.0.0.1', true],
    ['status.addresses=10.0.0.2', false],
    ['status.addresses!=10.0.0.1', false],
    ['status.addresses~fd00', true],
    ['spec.disks.volume=d2', true],
    ['spec.disks.sizeMib>20', true],
    ['spec.disks.sizeMib>30', false],
    ['spec.note="a,b \\"c\\""', true],
    ['spec.note~","', true],
    ['spec.empty=', true],
    ['spec.empty', true],
    ['spec.nothing', false],
    ['!spec.nothing', true],
    ['spec.missing', false],
    ['!spec.missing', true],
    ['spec.missing=', false],
    ['spec.missing!=x', true],
    ['status.none', false],
    ['createdAt>2026-02-28', true],
    ['createdAt<2026-02-28T00:00:00Z', false],
    [' status.state = running , name ~ web ', true],
    ['status.state=running,name~db', false],
    ['constructor', false],
    ['spec.toString', false],
    ['spec=x', false],
  ];
  for (const [filter, expected] of cases) {
    test(`"${filter}" ${expected ? 'holds' : 'does not hold'}`, () => {
      assert.equal(parseFilter(filter)(object), expected);
    });
  }

  test('what is no filter is refused with the parameter’s name', () => {
    for (const bad of [
      ',',
      'a=1,',
      '=1',
      'a="x',
      'a="x"y',
      'a=x"y"',
      'a="\\n"',
      '!a=1',
      'a b',
      'a.=1',
      '.a',
      'a..b',
      'a?1',
      '!',
      `${'a=1,'.repeat(40)}a=1`,
    ]) {
      assert.throws(() => parseFilter(bad), refusedField('query.filter'), bad);
    }
  });

  test('a field that no object can have is refused when the schema is known', () => {
    const inner = z.object({ volume: z.string() }).meta({ id: 'Inner' });
    const schema = z.object({
      name: z.string(),
      labels: z.record(z.string(), z.string()),
      disks: z.array(inner),
      maybe: inner.nullable(),
      either: z.discriminatedUnion('kind', [
        z.object({ kind: z.literal('a'), a: z.int() }),
        z.object({ kind: z.literal('b'), b: z.int() }),
      ]),
      free: z.unknown(),
    });
    const isKnown = knownPaths(schema);
    for (const path of [
      'name',
      'labels',
      'labels.any',
      'disks.volume',
      'maybe.volume',
      'either.a',
      'either.b',
      'either.kind',
      'free.of.rules',
    ]) {
      assert.ok(isKnown(path), path);
    }
    for (const path of ['nme', 'name.x', 'disks.x', 'either.c', 'maybe.x', 'toString', 'disks.volume.x'])
      assert.ok(!isKnown(path), path);
    parseFilter('name=x', isKnown);
    assert.throws(() => parseFilter('nme=x', isKnown), refusedField('query.filter'));
    assert.throws(() => listObjects([], { sort: 'nme' }, { isKnownPath: isKnown }), refusedField('query.sort'));
  });

  test('a path is read through lists and not through prototypes', () => {
    assert.deepEqual(readField(object, ['spec', 'disks', 'volume']), ['d1', 'd2']);
    assert.equal(readField(object, ['__proto__', 'x']), undefined);
    assert.equal(readField('text', ['length']), undefined);
  });
});

suite('A list', () => {
  const make = (count: number) =>
    Array.from({ length: count }, (_, index) => ({
      id: `id${String(index).padStart(3, '0')}`,
      name: `n${(index * 37) % 101}`,
      project: index % 2 ? 'odd' : 'even',
      labels: { app: index % 3 ? 'web' : 'db' },
      rank: index % 5 === 0 ? undefined : index % 4,
    }));
  const readAll = (objects: ReturnType<typeof make>, request: ListRequest, between = (): void => {}): string[] => {
    const ids: string[] = [];
    for (let token: string | null | undefined; token !== null;) {
      const result = listObjects(objects, { ...request, continue: token });
      ids.push(...result.items.map(({ id }) => id));
      token = result.continue;
      assert.ok(ids.length <= 10_000);
      between();
    }
    return ids;
  };

  test('is in one project or all, filtered, counted and cut into pages', () => {
    const objects = make(60);
    const result = listObjects(objects, { project: 'odd', selector: 'app=db', filter: 'rank>=1', limit: 3 });
    const expected = objects.filter(
      ({ project, labels, rank }) => project === 'odd' && labels.app === 'db' && (rank ?? 0) >= 1,
    );
    assert.equal(result.total, expected.length);
    assert.equal(result.items.length, 3);
    assert.notEqual(result.continue, null);
    assert.equal(listObjects(objects, {}).total, 60);
    assert.equal(listObjects(objects, { limit: 60 }).continue, null, 'a page that is full and last');
    assert.notEqual(listObjects(objects, { limit: 59 }).continue, null);
    assert.equal(listObjects(objects, { filter: 'name=none' }).continue, null);
  });

  for (const sort of ['name', '-name', 'id', '-id', 'rank', '-rank', 'labels.app', 'missing']) {
    test(`sorted by ${sort}, its pages of any size join up to the whole`, () => {
      const objects = make(101);
      const whole = readAll(objects, { sort, limit: 500 });
      assert.equal(new Set(whole).size, 101);
      for (const limit of [1, 7, 100, 101, 102]) assert.deepEqual(readAll(objects, { sort, limit }), whole);
    });
  }

  test('is in the order of the values, with those that have none last', () => {
    const objects = make(10);
    const ranks = (sort: string) => listObjects(objects, { sort }).items.map(({ rank }) => rank);
    assert.deepEqual(ranks('rank'), [0, 0, 1, 1, 2, 2, 3, 3, undefined, undefined]);
    assert.deepEqual(ranks('-rank'), [3, 3, 2, 2, 1, 1, 0, 0, undefined, undefined]);
    assert.deepEqual(listObjects(objects, {}, { sort: '-id' }).items[0]?.id, 'id009');
  });

  test('shows every object that was there all along exactly once, whatever comes and goes between pages', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(99), fc.boolean()), { maxLength: 20 }),
        fc.integer({ min: 1, max: 30 }),
        (changes, limit) => {
          const objects = make(100);
          const pending = [...changes];
          const removed = new Set<string>();
          const added = new Set<string>();
          const seen = readAll(objects, { limit, sort: 'name' }, () => {
            const [index, isAdding] = pending.pop() ?? [null, false];
            if (index === null) return;
            if (isAdding) {
              const id = `new${index}-${added.size}`;
              added.add(id);
              objects.push({ ...(objects[0] ?? assert.fail()), id, name: `n${index}` });
            } else {
              const id = `id${String(index).padStart(3, '0')}`;
              removed.add(id);
              const place = objects.findIndex((object) => object.id === id);
              if (place >= 0) objects.splice(place, 1);
            }
          });
          assert.equal(new Set(seen).size, seen.length, 'none twice');
          const always = make(100)
            .map(({ id }) => id)
            .filter((id) => !removed.has(id));
          assert.deepEqual(
            always.filter((id) => !seen.includes(id)),
            [],
          );
        },
      ),
      { numRuns: 50 },
    );
  });

  test('sorts long texts by their beginnings and keeps its tokens short', () => {
    const objects = Array.from({ length: 5 }, (_, index) => ({
      id: String(index),
      project: 'p',
      text: `${'x'.repeat(5000)}${index}`,
    }));
    const first = listObjects(objects, { sort: 'text', limit: 2 });
    assert.ok((first.continue?.length ?? 0) < 1000);
    assert.deepEqual(
      listObjects(objects, { sort: 'text', limit: 5, continue: first.continue ?? '' }).items.map(({ id }) => id),
      ['2', '3', '4'],
    );
  });

  test('refuses limits, sorts and tokens that make no sense, each by name', () => {
    const objects = make(10);
    for (const limit of [0, -1, 501, 1.5, Number.NaN])
      assert.throws(() => listObjects(objects, { limit }), refusedField('query.limit'));
    for (const sort of ['', '-', 'a b', 'a..b', '--a', 'a,b'])
      assert.throws(() => listObjects(objects, { sort }), refusedField('query.sort'), sort);
    const token = listObjects(objects, { limit: 1 }).continue ?? assert.fail();
    assert.throws(() => listObjects(objects, { sort: '-name', continue: token }), refusedField('query.continue'));
    const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    for (const bad of [
      '',
      'x',
      'null',
      token.slice(2),
      encode(7),
      encode(['name', {}, 'id']),
      encode(['name', 1, 7]),
      encode(['name', 1]),
    ]) {
      assert.throws(() => listObjects(objects, { continue: bad }), refusedField('query.continue'), bad);
    }
  });
});
