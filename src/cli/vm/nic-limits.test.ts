// Rates of NICs as they are given and shown.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { limitsFrom, limitsText } from './nic-limits.ts';

suite('Rates of a NIC', () => {
  test('are changed by what is said, and keep the rest', () => {
    const first = limitsFrom(undefined, { inbound: 1000, burst: 5000 });
    assert.deepEqual(first, { inbound: { bytesPerSecond: 1000, burstBytes: 5000 } });
    const second = limitsFrom(first, { outbound: 2000, priority: 'high' });
    assert.deepEqual(second, {
      inbound: { bytesPerSecond: 1000, burstBytes: 5000 },
      outbound: { bytesPerSecond: 2000 },
      priority: 'high',
    });
    assert.deepEqual(limitsFrom(undefined, { packets: 100 }), {
      inbound: { packetsPerSecond: 100 },
      outbound: { packetsPerSecond: 100 },
    });
    assert.equal(limitsFrom(second, { none: true }), undefined);
    assert.throws(() => limitsFrom(second, { none: true, inbound: 1000 }));
    assert.throws(() => limitsFrom(second, {}));
  });

  test('are shown with what this kernel lacks', () => {
    const limits = { inbound: { bytesPerSecond: 2 ** 20, packetsPerSecond: 100 }, priority: 'low' } as const;
    assert.equal(limitsText(limits, undefined), 'in 1 MiB/s, 100 packets/s; low priority');
    const status = { mac: '', state: 'partial', problems: ['No peak.'] } as const;
    assert.equal(limitsText({ inbound: {} }, { ...status, problems: [...status.problems] }), ' (partial: No peak.)');
  });
});
