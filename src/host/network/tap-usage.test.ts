import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseLinkStatistics, parseNetDev, parseTapName } from './tap-usage.ts';

test('the name of a tap stands in the fdinfo of its descriptor', () => {
  // Recorded from a QEMU with a tap, kernel 6.18.
  assert.equal(
    parseTapName('pos:\t0\nflags:\t02504002\nmnt_id:\t30\nino:\t113\niff:\tltdzgsnjxbfl0\n'),
    'ltdzgsnjxbfl0',
  );
});

test('a descriptor of something else has none', () => {
  assert.equal(parseTapName('pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1029\n'), null);
});

test('the links of /proc/net/dev are read with what was received and sent', () => {
  const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1234567    9321    0    0    0     0          0         0  7654321    9321    0    0    0     0       0          0
ltap01:2000 1 0 0 0 0 0 0 3000 12 1 7 0 0 0 0
`;
  assert.deepEqual(parseLinkStatistics(text).get('ltap01'), {
    received: { bytes: 2000, packets: 1, errors: 0, dropped: 0 },
    sent: { bytes: 3000, packets: 12, errors: 1, dropped: 7 },
  });
  assert.deepEqual(
    [...parseNetDev(text)],
    [
      ['lo', { receivedBytes: 1_234_567, sentBytes: 7_654_321 }],
      ['ltap01', { receivedBytes: 2000, sentBytes: 3000 }],
    ],
  );
});
