// Forwarded ports as people write them.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseForward, publishedText, withForward, withoutForward } from './publish.ts';

suite('A forwarded port', () => {
  test('is read with address, range, guest port and protocol', () => {
    assert.deepEqual(parseForward('8080:80'), { protocol: 'tcp', port: 8080, guestPort: 80 });
    assert.deepEqual(parseForward('8080'), { protocol: 'tcp', port: 8080 });
    assert.deepEqual(parseForward('127.0.0.1:5353:53/udp'), {
      protocol: 'udp',
      listenAddress: '127.0.0.1',
      port: 5353,
      guestPort: 53,
    });
    assert.deepEqual(parseForward('[::]:8000-8010:9000-9010'), {
      protocol: 'tcp',
      listenAddress: '::',
      port: 8000,
      lastPort: 8010,
      guestPort: 9000,
    });
    for (const wrong of ['', 'web', '1.2.3:80:80', '80:80/icmp', '8000-8010:9000-9001', ':80'])
      assert.throws(() => parseForward(wrong), `${wrong} should be refused`);
  });

  test('replaces the one of the same port, and is taken away by port, protocol and address', () => {
    const nic = { network: 'default', isConnected: true };
    const one = withForward([nic], 0, parseForward('8080:80'));
    const two = withForward(withForward(one, 0, parseForward('8080:81')), 0, parseForward('8080:82/udp'));
    assert.deepEqual(two[0]?.forwards, [parseForward('8080:81'), parseForward('8080:82/udp')]);
    assert.deepEqual(withoutForward(two, '8080/udp')[0]?.forwards, [parseForward('8080:81')]);
    assert.deepEqual(withoutForward(two, '8080'), [nic]);
    assert.throws(() => withoutForward(two, '9090'));
  });

  test('is shown with where it leads to, and why it does not', () => {
    const published = {
      mac: '52:54:00:00:00:01',
      protocol: 'tcp',
      listenAddress: null,
      port: 8000,
      lastPort: 8010,
      guestAddresses: ['10.88.0.9'],
      guestPort: 9000,
      state: 'active',
      reason: '',
    } as const;
    assert.equal(
      publishedText({ ...published, guestAddresses: [...published.guestAddresses] }),
      '*:8000-8010/tcp → 10.88.0.9 port 9000-9010',
    );
    assert.equal(
      publishedText({
        ...published,
        lastPort: null,
        guestAddresses: [],
        state: 'waiting',
        reason: 'The VM is not up.',
      }),
      '*:8000/tcp → the guest port 9000 (waiting: The VM is not up.)',
    );
  });
});
