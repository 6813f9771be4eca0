// The parsers of /proc on recorded text, and the decisions that hang on them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  environmentValue,
  isAlive,
  isEnded,
  parseProcessStat,
  parseSchedstat,
  parseSmapsRollup,
  parseZeroEnded,
  readBootId,
} from './process.ts';

// Recorded from QEMU 10.0 on kernel 6.18.
const QEMU_STAT =
  '5012 (qemu-system-x86) S 4998 5012 5012 0 -1 4194624 9911 0 12 0 172 31 0 0 20 0 5 0 104477 1140281344 11034 ' +
  '18446744073709551615 94210342772736 94210352431461 140722894093408 0 0 0 268444224 4096 16963 0 0 0 17 1 0 0 0 0 0 ' +
  '94210357223472 94210358757168 94210366447616 140722894098313 140722894098453 140722894098453 140722894102499 0\n';

test('a stat line gives identity, state and processor time', () => {
  assert.deepEqual(parseProcessStat(QEMU_STAT), {
    pid: 5012,
    name: 'qemu-system-x86',
    state: 'S',
    parentPid: 4998,
    processGroup: 5012,
    session: 5012,
    userMicroseconds: 1_720_000,
    systemMicroseconds: 310_000,
    threads: 5,
    startTicks: 104477,
    residentBytes: 45_195_264,
    processor: 1,
  });
});

test('a process name with spaces, parentheses and what looks like a state does not shift the fields', () => {
  const stat = parseProcessStat(QEMU_STAT.replace('(qemu-system-x86)', '(evil) Z 1 (x)'));
  assert.equal(stat.name, 'evil) Z 1 (x');
  assert.equal(stat.state, 'S');
  assert.equal(stat.parentPid, 4998);
  assert.equal(stat.startTicks, 104477);
});

test('a text that is no stat line is an error that shows it', () => {
  assert.throws(() => parseProcessStat('hello'), /not a line of \/proc\/PID\/stat: hello/);
  assert.throws(() => parseProcessStat('12 (x) S 1 2'), /not a line/);
});

test('a zombie has ended, but not a leader that left while its threads run on', () => {
  assert.equal(isEnded({ state: 'Z', threads: 1 }), true);
  assert.equal(isEnded({ state: 'Z', threads: 0 }), true);
  assert.equal(isEnded({ state: 'Z', threads: 4 }), false);
  assert.equal(isEnded({ state: 'X', threads: 1 }), true);
  for (const state of ['R', 'S', 'D', 'T', 't', 'I']) assert.equal(isEnded({ state, threads: 1 }), false);
});

test('smaps_rollup gives resident, proportional, swapped and huge-page memory in bytes', () => {
  const text = `55d1c4a5b000-7ffd7a9f2000 ---p 00000000 00:00 0                          [rollup]
Rss:               44136 kB
Pss:               30021 kB
Pss_Dirty:         19000 kB
Pss_Anon:          18920 kB
Pss_File:          11021 kB
Pss_Shmem:            80 kB
Shared_Clean:      20444 kB
Private_Dirty:     18920 kB
Swap:                128 kB
SwapPss:             128 kB
KSM:                  12 kB
AnonHugePages:      8192 kB
ShmemPmdMapped:     2048 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
Locked:                0 kB
`;
  assert.deepEqual(parseSmapsRollup(text), {
    rssBytes: 44136 * 1024,
    pssBytes: 30021 * 1024,
    privateBytes: 18920 * 1024,
    sharedBytes: 20444 * 1024,
    swapBytes: 128 * 1024,
    hugetlbBytes: 6144 * 1024,
    transparentHugeBytes: 10_240 * 1024,
    ksmBytes: 12 * 1024,
  });
  assert.equal(parseSmapsRollup('Rss: 1 kB\n').ksmBytes, null, 'older kernels have no such line');
});

test('zero-ended strings keep empty arguments and lose only the last zero', () => {
  assert.deepEqual(parseZeroEnded(''), []);
  assert.deepEqual(parseZeroEnded('qemu\0-name\0\0web 1\0'), ['qemu', '-name', '', 'web 1']);
  assert.deepEqual(parseZeroEnded('no zero'), ['no zero']);
});

test('an environment variable is found by its whole name', () => {
  const environ = 'XLODGE_VM=no\0LODGE_VM_ID=no\0LODGE_VM=a=b\0';
  assert.equal(environmentValue(environ, 'LODGE_VM'), 'a=b');
  assert.equal(environmentValue(environ, 'LODGE'), null);
  assert.equal(environmentValue('EMPTY=\0', 'EMPTY'), '');
});

test('schedstat gives nanoseconds, and other text is an error', () => {
  assert.deepEqual(parseSchedstat('123456789 42 7\n'), { runNanoseconds: 123456789, waitNanoseconds: 42 });
  assert.throws(() => parseSchedstat('\n'), /not a schedstat/);
});

test('a process of another boot is not alive, whatever runs under its id now', () => {
  const bootId = readBootId();
  const self = parseProcessStat(QEMU_STAT.replace('5012', String(process.pid)));
  assert.equal(isAlive({ pid: process.pid, startTicks: self.startTicks, bootId: 'another-boot' }), false);
  assert.equal(isAlive({ pid: process.pid, startTicks: -1, bootId }), false);
});
