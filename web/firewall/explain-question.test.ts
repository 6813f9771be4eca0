import assert from 'node:assert/strict';
import { test } from 'node:test';
import { firewallRoutes } from '../../src/api/firewall.ts';
import { commandOf, queryOf, questionOf } from './explain-question.ts';

test('the address asks what was asked, and the daemon takes it', () => {
  // The router reads numbers in an address as numbers.
  const question = questionOf({ from: ' web1 ', to: '10.1.2.3', protocol: 'tcp', detail: 5432 });
  const query = queryOf(question);
  assert.deepEqual(query, { from: 'web1', to: '10.1.2.3', protocol: 'tcp', project: 'default', port: '5432' });
  assert.equal(firewallRoutes.explain.query.parse(query).port, 5432);
  assert.equal(commandOf(question), 'lodge firewall explain web1 10.1.2.3 tcp/5432');
});

test('the number of ICMP is its type, and none is none', () => {
  const icmp = questionOf({ from: 'internet', to: 'web1', protocol: 'icmp', detail: '8', project: 'lab' });
  assert.deepEqual(queryOf(icmp), { from: 'internet', to: 'web1', protocol: 'icmp', project: 'lab', icmpType: '8' });
  assert.equal(commandOf(icmp), 'lodge firewall explain internet web1 icmp/8 --project lab');
  const any = questionOf({ from: 'a', to: 'b' });
  assert.deepEqual(queryOf(any), { from: 'a', to: 'b', protocol: 'tcp', project: 'default' });
  assert.equal(commandOf(any), 'lodge firewall explain a b tcp');
});

test('nothing is asked before both ends are there, and of what is no text', () => {
  assert.equal(queryOf(questionOf({})), null);
  assert.equal(queryOf(questionOf({ from: 'web1', to: '  ' })), null);
  assert.equal(commandOf(questionOf({ to: { no: 'text' } })), '');
});
