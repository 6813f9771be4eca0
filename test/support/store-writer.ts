// A process that writes to a store as fast as it can until it is killed, and tells each write once it is acknowledged.
// Usage: node store-writer.ts <database file> <first number>
//
// Write n puts /left/n and /right/n, both with n, and raises /counter. It prints "n revision" when that resolved.
import { writeSync } from 'node:fs';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';

const [file = '', first = '0'] = process.argv.slice(2);
const store = await SqliteStore.open({ file, historyRevisions: 100 });
writeSync(1, 'open\n');

let next = Number(first);
const lane = async (): Promise<never> => {
  for (;;) {
    const number = next++;
    const value = JSON.stringify({ number, padding: 'x'.repeat(number % 3000) });
    const { revision } = await store.transact({
      success: [
        { put: `/left/${number}`, value },
        { put: `/right/${number}`, value },
        { put: '/counter', value: String(number) },
      ],
    });
    writeSync(1, `${number} ${revision}\n`);
  }
};
await Promise.all(Array.from({ length: 5 }, lane));
