// Recorded machines: version 2 only, hybrid, version 1, a container; and what is written into which file.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  bfqWeightOf,
  isGroupName,
  limitWrites,
  parseCgroupLayout,
  parseFlatKeyed,
  parseProcessCgroups,
  planHierarchies,
  sharesOfWeight,
} from './cgroup-layout.ts';

// Debian 12 with systemd 252.
const V2_MOUNTINFO = `24 29 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
31 24 0:27 / /sys/fs/pstore rw,nosuid,nodev,noexec,relatime shared:10 - pstore pstore rw
`;
// Debian 10 with systemd 241 in its hybrid mode.
const HYBRID_MOUNTINFO = `28 20 0:23 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
29 28 0:24 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw
30 28 0:25 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
33 28 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:14 - cgroup cgroup rw,cpu,cpuacct
34 28 0:29 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,memory
35 28 0:30 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,net_cls,net_prio
36 28 0:31 / /sys/fs/cgroup/blkio rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,blkio
37 28 0:32 / /sys/fs/cgroup/cpuset rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,cpuset
38 28 0:33 / /sys/fs/cgroup/freezer rw,nosuid,nodev,noexec,relatime shared:19 - cgroup cgroup rw,freezer
39 28 0:34 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:20 - cgroup cgroup rw,pids
`;
// A machine without systemd whose version 2 has no controller but hugetlb.
const V1_MOUNTINFO = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`;

test('a machine with version 2 only has one hierarchy with its controllers', () => {
  const layout = parseCgroupLayout(V2_MOUNTINFO, () => 'cpuset cpu io memory hugetlb pids rdma misc\n');
  assert.equal(layout.kind, 'v2');
  assert.deepEqual(planHierarchies(layout, '0::/system.slice/lodge.service/daemon\n', 'auto'), [
    {
      version: 2,
      mountPoint: '/sys/fs/cgroup',
      controllers: ['cpu', 'cpuset', 'memory', 'io', 'pids', 'freezer'],
      hasCpuAccounting: false,
      ownDirectory: '/sys/fs/cgroup/system.slice/lodge.service/daemon',
      rootDirectory: '/sys/fs/cgroup/system.slice/lodge.service/lodge',
    },
  ]);
});

test('the groups go where guests can outlive the daemon', () => {
  const layout = parseCgroupLayout(V2_MOUNTINFO, () => 'cpu memory');
  const rootFor = (own: string, root: 'auto' | `/${string}` = 'auto'): string | undefined =>
    planHierarchies(layout, `0::${own}\n`, root)[0]?.rootDirectory;
  assert.equal(rootFor('/'), '/sys/fs/cgroup/lodge');
  assert.equal(rootFor('/user.slice/user-0.slice/session-3.scope'), '/sys/fs/cgroup/lodge');
  assert.equal(rootFor('/system.slice/lodge.service'), '/sys/fs/cgroup/lodge');
  assert.equal(rootFor('/docker/0123abc'), '/sys/fs/cgroup/docker/0123abc/lodge');
  assert.equal(rootFor('/docker/0123abc', '/machine/lodge'), '/sys/fs/cgroup/machine/lodge');
});

test('a hybrid machine is used through version 1, co-mounted controllers as one hierarchy', () => {
  const layout = parseCgroupLayout(HYBRID_MOUNTINFO, () => '');
  assert.equal(layout.kind, 'hybrid');
  const own = `12:pids:/system.slice/cron.service
8:cpu,cpuacct:/
7:memory:/box/a
1:name=systemd:/system.slice/cron.service
0::/system.slice/cron.service
`;
  const plans = planHierarchies(layout, own, 'auto');
  assert.deepEqual(
    plans.map((plan) => [plan.version, plan.controllers.join(), plan.rootDirectory]),
    [
      [1, 'cpu', '/sys/fs/cgroup/cpu,cpuacct/lodge'],
      [1, 'memory', '/sys/fs/cgroup/memory/box/a/lodge'],
      [1, 'io', '/sys/fs/cgroup/blkio/lodge'],
      [1, 'cpuset', '/sys/fs/cgroup/cpuset/lodge'],
      [1, 'freezer', '/sys/fs/cgroup/freezer/lodge'],
      [1, 'pids', '/sys/fs/cgroup/pids/lodge'],
    ],
  );
  assert.equal(plans[0]?.hasCpuAccounting, true);
});

test('a hybrid machine that has memory in version 2 is used through both', () => {
  const layout = parseCgroupLayout(V1_MOUNTINFO.replace(/^35.*\n/m, ''), () => 'memory hugetlb\n');
  const plans = planHierarchies(layout, '0::/\n', 'auto');
  assert.deepEqual(
    plans.map((plan) => [plan.version, plan.controllers.join()]),
    [
      [1, 'cpu'],
      [1, ''],
      [2, 'memory'],
    ],
  );
});

test('version 2 without a controller of ours is left alone, and cpuacct may be mounted by itself', () => {
  const plans = planHierarchies(
    parseCgroupLayout(V1_MOUNTINFO, () => 'hugetlb'),
    '4:memory:/api/x\n1:cpu:/\n',
    'auto',
  );
  assert.deepEqual(
    plans.map((plan) => [plan.mountPoint, plan.controllers.join(), plan.hasCpuAccounting, plan.ownDirectory]),
    [
      ['/sys/fs/cgroup/cpu', 'cpu', false, '/sys/fs/cgroup/cpu'],
      ['/sys/fs/cgroup/cpuacct', '', true, '/sys/fs/cgroup/cpuacct'],
      ['/sys/fs/cgroup/memory', 'memory', false, '/sys/fs/cgroup/memory/api/x'],
    ],
  );
});

test('in a container that sees only its part of a hierarchy, paths start at that part', () => {
  const mountinfo = '700 699 0:30 /docker/0123abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n';
  const layout = parseCgroupLayout(mountinfo, () => '');
  assert.equal(planHierarchies(layout, '9:memory:/docker/0123abc\n', 'auto')[0]?.ownDirectory, '/sys/fs/cgroup/memory');
  assert.equal(
    planHierarchies(layout, '9:memory:/docker/0123abc/sub\n', 'auto')[0]?.rootDirectory,
    '/sys/fs/cgroup/memory/sub/lodge',
  );
  assert.equal(planHierarchies(layout, '9:memory:/../other\n', 'auto')[0]?.ownDirectory, '/sys/fs/cgroup/memory');
});

test('a mount point with a space is read, and a second mount of a hierarchy is ignored', () => {
  const line = '32 31 0:29 / /mnt/my\\040groups rw - cgroup cgroup rw,cpu\n';
  const layout = parseCgroupLayout(line + line.replace('my\\040groups', 'again'), () => '');
  assert.deepEqual(
    layout.mounts.map((mount) => mount.mountPoint),
    ['/mnt/my groups'],
  );
  assert.equal(parseCgroupLayout('', () => '').kind, 'none');
});

test('the groups of a process are read by the controllers of each hierarchy', () => {
  const paths = parseProcessCgroups('3:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/x\n');
  assert.deepEqual(
    [...paths],
    [
      ['cpu,cpuacct', '/a:b'],
      ['name=systemd', '/'],
      ['', '/x'],
    ],
  );
});

test('a limit becomes the files of each version', () => {
  const limits = { cpuWeight: 200, cpuMaxProcessors: 1.5, memoryMaxBytes: 1 << 30, pidsMax: null, ioWeight: 500 };
  const shown = (version: 1 | 2): string[] =>
    limitWrites(version, limits).map((write) => write.files.map((file) => `${file.name}=${file.value}`).join(' | '));
  assert.deepEqual(shown(2), [
    'cpu.weight=200',
    'cpu.max=150000 100000',
    'memory.max=1073741824',
    'pids.max=max',
    'io.weight=default 500 | io.bfq.weight=136',
  ]);
  assert.deepEqual(shown(1), [
    'cpu.shares=2048',
    'cpu.cfs_period_us=100000',
    'cpu.cfs_quota_us=150000',
    'memory.limit_in_bytes=1073741824',
    'pids.max=max',
    'blkio.bfq.weight=136 | blkio.weight=136',
  ]);
});

test('taking limits away writes the word of each version', () => {
  const limits = { cpuMaxProcessors: null, memoryMaxBytes: null, memorySwapMaxBytes: null };
  const values = (version: 1 | 2): string[] => limitWrites(version, limits).map((write) => write.files[0]?.value ?? '');
  assert.deepEqual(values(2), ['max 100000', 'max', 'max']);
  assert.deepEqual(values(1), ['100000', '-1', '-1', '-1']);
});

test('version 1 limits swap as the sum with memory', () => {
  const [, swap] = limitWrites(1, { memoryMaxBytes: 1000, memorySwapMaxBytes: 24 });
  assert.deepEqual(swap?.files, [{ name: 'memory.memsw.limit_in_bytes', value: '1024' }]);
});

test('weights convert at their ends and in the middle', () => {
  assert.deepEqual([1, 100, 10_000].map(sharesOfWeight), [10, 1024, 102_400]);
  assert.deepEqual([1, 100, 10_000].map(bfqWeightOf), [1, 100, 1000]);
});

test('a value the kernel would not take is refused with its name and what is allowed', () => {
  assert.throws(() => limitWrites(2, { cpuWeight: 0 }), /cpuWeight is 0; it must be a whole number from 1 to 10000/);
  assert.throws(() => limitWrites(2, { cpuMaxProcessors: 0.001 }), /cpuMaxProcessors is 0.001/);
  assert.throws(() => limitWrites(2, { memoryMaxBytes: -1 }), /memoryMaxBytes is -1/);
  assert.throws(() => limitWrites(2, { memoryMaxBytes: 2 ** 63 }), /memoryMaxBytes is/);
  assert.throws(() => limitWrites(2, { pidsMax: 1.5 }), /pidsMax is 1.5/);
  assert.throws(() => limitWrites(2, { processors: '0-3\n' }), /processors is/);
});

test('a group name is one path component and no file of the kernel', () => {
  for (const name of ['web1', '0190b3b0-7d3e', 'a.b_c']) assert.equal(isGroupName(name), true, name);
  for (const name of ['', '.', '..', 'a/b', '-a', 'a\nb', 'cgroup.procs', 'memory.max', 'x'.repeat(129), 'ä']) {
    assert.equal(isGroupName(name), false, name);
  }
});

test('a file of names and values is read', () => {
  const text = 'oom_kill_disable 0\nunder_oom 0\noom_kill 3\n';
  assert.equal(parseFlatKeyed(text).get('oom_kill'), 3);
});
