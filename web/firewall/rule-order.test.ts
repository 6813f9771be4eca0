import assert from 'node:assert/strict';
import { test } from 'node:test';
import { securityRule, type SecurityRuleInput } from '../../src/api/security-group.ts';
import { inOrder, portsText } from './rule-order.ts';

const rule = (given: SecurityRuleInput) => securityRule.parse(given);

test('rules stand in the order in which they are looked at', () => {
  const rules = [
    rule({ name: 'out', direction: 'egress', priority: 1 }),
    rule({ name: 'late', priority: 2000 }),
    rule({ name: 'allow' }),
    rule({ name: 'deny', action: 'deny' }),
    rule({ name: 'first', priority: 10 }),
  ];
  assert.deepEqual(
    inOrder(rules).map(({ name }) => name),
    ['first', 'deny', 'allow', 'late', 'out'],
  );
  assert.equal(rules[0]?.name, 'out', 'what was given stays as it was');
});

test('ports and ICMP types are named, and neither means all', () => {
  assert.equal(portsText(rule({ name: 'web', protocol: 'tcp', ports: ['80', '8000-8080'] })), '80, 8000-8080');
  assert.equal(
    portsText(rule({ name: 'ping', protocol: 'icmp', icmpTypes: ['echo-request', 13] })),
    'echo-request, 13',
  );
  assert.equal(portsText(rule({ name: 'all' })), null);
});
