// Where guests run and what they may take, as the kernel says of their real threads: pinning, cores of their own, caps,
// changed while they run and kept over a restart of the daemon.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type VmCpus } from '../../src/api/vm-placement.ts';
import { formatNumberList, parseNumberList } from '../../src/lib/number-list.ts';
import { atEnd } from '../support/cleanup.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const waitMs = 90_000;
const online = parseNumberList(readFileSync('/sys/devices/system/cpu/online', 'utf8'));
const all = formatNumberList(online);

/** Names and allowed CPUs of a process's threads, straight from the kernel. */
function threadsOf(pid: number): { name: string; cpus: string }[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((id) => {
    try {
      const status = readFileSync(`/proc/${pid}/task/${id}/status`, 'utf8');
      return {
        name: /^Name:\t(.*)$/m.exec(status)?.[1] ?? '',
        cpus: /^Cpus_allowed_list:\t(.*)$/m.exec(status)?.[1] ?? '',
      };
    } catch {
      // It ended meanwhile.
      return [];
    }
  });
}

/** CPUs of the vCPUs in their order, and of all other threads together. */
function whereIs(pid: number): { vcpus: string[]; others: string[] } {
  const threads = threadsOf(pid);
  const vcpus = threads.filter(({ name }) => /^CPU \d+\//.test(name)).toSorted((a, b) => a.name.localeCompare(b.name));
  const others = new Set(threads.filter(({ name }) => !/^CPU \d+\//.test(name)).map(({ cpus }) => cpus));
  return { vcpus: vcpus.map(({ cpus }) => cpus), others: [...others] };
}

async function untilWhere(
  pid: number,
  what: string,
  isSo: (where: ReturnType<typeof whereIs>) => boolean,
): Promise<void> {
  await eventually(() => isSo(whereIs(pid)) || null, {
    timeoutMs: waitMs,
    describe: `threads of ${pid} ${what}; all CPUs are ${all}`,
  });
}

function cpusOf(host: QemuDaemon, name: string): Promise<VmCpus> {
  return host.client.vm.cpus({ params: { vm: name }, query });
}

async function pidOf(host: QemuDaemon, name: string): Promise<number> {
  const { pid } = (await host.vm(name)).status;
  assert.ok(pid);
  return pid;
}

test('guests run and have their memory where they were told to, within their caps', async (t) => {
  const host = await qemuDaemon(t);
  await host.create('open', { cpu: { count: 2, capPercent: 60, weight: 300 } });
  const open = await pidOf(host, 'open');
  // It takes a while to find equal pages: it looks for them meanwhile.
  const ksmFile = '/sys/kernel/mm/ksm/run';
  const ksmBefore = readFileSync(ksmFile, 'utf8').trim();
  atEnd(t, () => writeFileSync(ksmFile, ksmBefore));
  const setKsm = async (ksm: 'on' | 'off'): Promise<void> => {
    const { spec } = await host.node();
    await host.client.node.update({ params: { node: 'self' }, body: { spec: { ...spec, ksm } } });
  };
  await setKsm('on');
  await eventually(() => readFileSync(ksmFile, 'utf8').trim() === '1' || null, {
    timeoutMs: waitMs,
    describe: 'KSM runs',
  });

  await t.test('one that asks for nothing may run anywhere, within its cap', async () => {
    assert.deepEqual(whereIs(open), { vcpus: [all, all], others: [all] });
    const { limits } = await cpusOf(host, 'open');
    const cap = limits.find(({ limit }) => limit === 'cpu.capPercent');
    const { controllers } = (await host.node()).status.cgroup;
    assert.ok(controllers.includes('cpu'), 'the machine that runs these tests has the cpu controller');
    assert.ok(cap?.file, JSON.stringify(limits));
    assert.match(readFileSync(cap.file, 'utf8'), /^60000\b/);
  });

  await t.test('a dedicated one has its core alone, and the others leave it', async () => {
    const { status } = await host.create('own', { cpu: { count: 1, policy: 'dedicated' } });
    const { placement } = status;
    assert.ok(placement && status.pid);
    const own = parseNumberList(placement.exclusiveCpus);
    assert.ok(own.length > 0 && own.length < online.length);
    assert.deepEqual(whereIs(status.pid), { vcpus: [placement.vcpus[0]!.cpus], others: [placement.emulator] });
    const rest = formatNumberList(online.filter((id) => !own.includes(id)));
    await untilWhere(
      open,
      `run on ${rest}`,
      ({ vcpus, others }) => vcpus.every((cpus) => cpus === rest) && others.every((cpus) => cpus === rest),
    );
    const { threads } = await cpusOf(host, 'own');
    assert.ok(threads.length > 1 && threads.every(({ isAsWanted }) => isAsWanted));
    assert.equal(threads[0]?.kind, 'vcpu');
  });

  await t.test('a CPU that is another VM’s own, or not there, is refused with what there is', async () => {
    const own = (await host.vm('own')).status.placement!.exclusiveCpus;
    const pin = (cpus: string): Promise<unknown> =>
      host.change('open', (spec) => ({ ...spec, cpu: { ...spec.cpu, pinning: [{ vcpu: 0, cpus }] } }));
    await assert.rejects(pin(own), /belongs to VM own alone/);
    await assert.rejects(pin('4097'), { code: 'invalid_request', message: /CPU 4097 does not exist; the node has/ });
  });

  await t.test('a restarted daemon leaves all where it is, and goes on', async () => {
    const before = (await host.vm('own')).status.placement;
    const own = await pidOf(host, 'own');
    const where = whereIs(own);
    await host.daemon.restart('kill');
    await host.until('own', 'is adopted', ({ status }) => status.state === 'running' && status.pid === own);
    assert.deepEqual((await host.vm('own')).status.placement, before);
    assert.deepEqual(whereIs(own), where);
    const first = formatNumberList(parseNumberList(before!.emulator).slice(0, 1));
    await host.change('open', (spec) => ({
      ...spec,
      cpu: { ...spec.cpu, capPercent: 80, pinning: [{ vcpu: 1, cpus: first }] },
    }));
    await untilWhere(open, `have vCPU 1 on ${first}`, ({ vcpus }) => vcpus[1] === first);
    const cap = await eventually(
      async () => {
        const { limits } = await cpusOf(host, 'open');
        const found = limits.find(({ limit }) => limit === 'cpu.capPercent');
        return found?.observed?.startsWith('80000') ? found : null;
      },
      { timeoutMs: waitMs, describe: 'the cap is 80 %' },
    );
    assert.match(readFileSync(cap.file!, 'utf8'), /^80000\b/);
    assert.deepEqual((await host.vm('open')).status.pendingChanges, []);
  });

  await t.test('when a dedicated one ends, its core is for all again', async () => {
    await host.done(host.client.vm.forceOff({ params: { vm: 'own' }, query }));
    assert.equal((await host.vm('own')).status.placement, null);
    await untilWhere(open, `have vCPU 0 on ${all}`, ({ vcpus }) => vcpus[0] === all);
  });

  await t.test('memory comes from the NUMA nodes that the spec names, and the guest sees its own', async () => {
    const nodes = readFileSync('/sys/devices/system/node/has_memory', 'utf8').trim();
    const [first] = parseNumberList(nodes);
    const cells = [
      { vcpus: '0', memoryMib: 64, hostNode: first! },
      { vcpus: '1', memoryMib: 128 },
    ];
    await host.create('numa', {
      memoryMib: 192,
      cpu: { count: 2 },
      numa: { policy: 'strict', nodes: String(first), cells },
    });
    const maps = readFileSync(`/proc/${await pidOf(host, 'numa')}/numa_maps`, 'utf8');
    assert.ok(maps.split('\n').some((line) => line.includes(` bind:${first} `) && line.includes('anon=')));
    await host.untilUp('numa');
    const { output } = await host.exec('numa', ['sh', '-c', 'dmesg | grep -c "ACPI: SRAT: Node"']);
    assert.ok(Number(output) >= 2, output);
    await assert.rejects(host.create('nowhere', { numa: { nodes: '1023' } }), /NUMA node 1023 does not exist/);
  });

  await t.test('huge pages are reserved for a guest that asks for them, and given back after it', async () => {
    const poolOf = (): number => Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages', 'utf8'));
    const before = poolOf();
    await host.create('huge', { memoryMib: 128, memoryBacking: { pageSize: '2MiB', isMergeable: false } });
    const status = readFileSync(`/proc/${await pidOf(host, 'huge')}/status`, 'utf8');
    assert.equal(Number(/^HugetlbPages:\s+(\d+) kB/m.exec(status)?.[1]), 128 * 1024);
    const pools = async (): Promise<string[]> =>
      ((await host.node()).status.hostSettings ?? [])
        .map(({ path }) => path)
        .filter((path) => path.endsWith('nr_hugepages'));
    assert.match((await pools()).join(), /hugepages-2048kB\/nr_hugepages$/);
    await host.done(host.client.vm.forceOff({ params: { vm: 'huge' }, query }));
    const left = async (): Promise<true | null> => (poolOf() <= before && (await pools()).length === 0) || null;
    await eventually(left, { timeoutMs: waitMs, describe: `the pool has ${before} pages again` });

    const odd = { memoryMib: 129, memoryBacking: { pageSize: '1GiB' as const } };
    await assert.rejects(host.create('odd', odd), /129 MiB are no whole number of pages of 1GiB/);
    await host.create('anyway', { ...odd, onShortage: 'start' });
    const { status: after } = await host.until('anyway', 'has a warning', (vm) => vm.status.warnings.length > 0);
    const { warnings } = after;
    assert.deepEqual(
      warnings.map(({ code }) => code),
      ['shortage'],
    );
    await host.done(host.client.vm.forceOff({ params: { vm: 'anyway' }, query }));
  });

  await t.test('KSM is switched on for the node, merges pages of guests, and is as it was after that', async () => {
    const merged = (pid: number): number =>
      Number(/^ksm_merging_pages (\d+)/m.exec(readFileSync(`/proc/${pid}/ksm_stat`, 'utf8'))?.[1] ?? 0);
    // ksmd looks at some thousand pages a second when it gets a processor, and goes over all guests twice.
    await eventually(() => merged(open) > 0 || null, { timeoutMs: 240_000, describe: 'pages of a guest are merged' });
    await setKsm('off');
    await eventually(() => readFileSync(ksmFile, 'utf8').trim() === ksmBefore || null, {
      timeoutMs: waitMs,
      describe: `KSM is ${ksmBefore} again`,
    });
  });
});
