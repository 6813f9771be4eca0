import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import * as fc from 'fast-check';
import { vmState } from '../../api/vm-state.ts';
import { groupStateOf, orderMembers, stagesOf } from './group-order.ts';

const names = (stages: { vm: string }[][]): string[] => stages.map((stage) => stage.map(({ vm }) => vm).join('+'));
const stagesFor = (members: { vm: string; order?: number }[]): string[] => names(stagesOf(orderMembers(members)));

suite('the order of a group', () => {
  test('is that of the list where nothing is said, and the same order is one stage', () => {
    assert.deepEqual(stagesFor([{ vm: 'a' }, { vm: 'b' }, { vm: 'c' }]), ['a', 'b', 'c']);
    assert.deepEqual(
      stagesFor([
        { vm: 'a', order: 2 },
        { vm: 'b', order: 1 },
        { vm: 'c', order: 2 },
      ]),
      ['b', 'a+c'],
    );
    assert.deepEqual(stagesFor([{ vm: 'a', order: 5 }, { vm: 'b' }, { vm: 'c', order: 5 }, { vm: 'd' }]), [
      'a+c',
      'b+d',
    ]);
    assert.deepEqual(stagesFor([]), []);
  });

  test('has every member once, those with a lower order before, whatever the orders are', () => {
    const orders = fc.array(fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }), { maxLength: 30 });
    fc.assert(
      fc.property(orders, (given) => {
        const members = orderMembers(given.map((order, index) => ({ vm: `vm${index}`, order })));
        const stages = stagesOf(members);
        assert.deepEqual(
          stages
            .flat()
            .map(({ vm }) => vm)
            .toSorted(),
          members.map(({ vm }) => vm).toSorted(),
        );
        const stageOf = new Map(stages.flatMap((stage, index) => stage.map(({ vm }) => [vm, index] as const)));
        for (const one of members)
          for (const other of members)
            assert.equal(
              Math.sign(one.order - other.order),
              Math.sign((stageOf.get(one.vm) ?? -1) - (stageOf.get(other.vm) ?? -1)),
            );
        for (const [index, order] of given.entries())
          if (order !== undefined) assert.equal(members[index]?.order, order);
      }),
    );
  });
});

test('a group runs when all of it runs, is stopped when nothing of it is up, and is partial otherwise', () => {
  assert.equal(groupStateOf([]).state, 'stopped');
  assert.deepEqual(groupStateOf(['running', 'running']), { state: 'running', reason: '2 of 2 members run.' });
  assert.equal(groupStateOf(['stopped', 'suspended']).state, 'stopped');
  assert.equal(groupStateOf(['running', 'paused']).state, 'partial');
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...vmState.options), { minLength: 1 }), (states) => {
      const { state } = groupStateOf(states);
      assert.equal(
        state === 'running',
        states.every((one) => one === 'running'),
      );
      if (states.includes('running')) assert.notEqual(state, 'stopped');
    }),
  );
});
