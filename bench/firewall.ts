// Other rules for one VM while many run with rules of their own: how long until they count, and what of a flow that is
// allowed all the time gets lost meanwhile; against `nft -f` of the whole ruleset by hand. The daemon is the real one with
// the fake driver, in a namespace that plays the host: bridge and taps are real, guests of the flow are namespaces.
// Run: node bench/firewall.ts [vms] [rules of each] [rounds]
import { once } from 'node:events';
import { loadavg } from 'node:os';
import { type SecurityRuleInput } from '../src/api/security-group.ts';
import { type Vm } from '../src/api/vm.ts';
import { filterTableName } from '../src/host/firewall/filter-tables.ts';
import { makeVm, startFakeLodge } from '../test/support/fake-lodge.ts';
import { GUEST_LINK } from '../test/support/guest-namespace.ts';
import { networkNamespace, serveIn, type NetworkNamespace } from '../test/support/namespace.ts';
import { benchmark, median, percentile } from './measure.ts';

const vms = Number(process.argv[2] ?? 200);
const rulesEach = Number(process.argv[3] ?? 50);
const rounds = Number(process.argv[4] ?? 20);
const flowPort = 7;
const flowIntervalMs = 2;
/** VMs made at the same time. */
const atOnce = 4;

/** The rules of a VM; the first allows the flow, the others are new ones in each round. */
function rulesOf(vm: number, round: number): SecurityRuleInput[] {
  const flow: SecurityRuleInput = { name: 'flow', protocol: 'udp', ports: [`${flowPort}`] };
  const others = Array.from({ length: rulesEach - 1 }, (_, index): SecurityRuleInput => {
    const protocol = index % 2 === 0 ? 'tcp' : 'udp';
    const port = 1000 + ((vm * rulesEach + index + round * 7) % 60_000);
    return { name: `r${index}`, protocol, ports: [`${port}`], peers: [{ cidr: `10.${index}.0.0/16` }] };
  });
  return [flow, ...others];
}

function addressOf(vm: number): string {
  return `10.232.${1 + (vm >> 7)}.${10 + (vm & 127)}`;
}

await benchmark(async (scope) => {
  const { daemon, namespace: host } = await startFakeLodge(scope);
  const { client } = daemon;
  const network = await client.network.create({ body: { name: 'lan', spec: { ipv4Cidr: '10.232.0.0/16' } } });
  let next = 0;
  const made: Vm[] = [];
  const make = async (): Promise<void> => {
    while (next < vms) {
      const number = next++;
      await client.securityGroup.create({ body: { name: `group-${number}`, spec: { rules: rulesOf(number, 0) } } });
      const nics = [{ network: 'lan', ipv4Address: addressOf(number), securityGroups: [`group-${number}`] }];
      made[number] = await makeVm(daemon, `vm-${number}`, { memoryMib: 64, nics }, { start: true });
    }
  };
  await Promise.all(Array.from({ length: atOnce }, make));

  // The guests of the flow: behind ports that bear the names of their taps.
  const guest = async (number: number): Promise<NetworkNamespace> => {
    const { mac, hostInterface } = made[number]!.status.nics[0]!;
    const namespace = await networkNamespace(scope);
    await host.run(['ip', 'link', 'delete', hostInterface!]);
    await host.run(['ip', '-batch', '-'], {
      input: `link add name ${hostInterface} type veth peer name ${GUEST_LINK} address ${mac} netns ${namespace.name}
link set dev ${hostInterface} master ${network.status.bridge} up\n`,
    });
    await namespace.run(['ip', 'link', 'set', 'dev', GUEST_LINK, 'up']);
    await namespace.run(['ip', 'address', 'add', `${addressOf(number)}/16`, 'dev', GUEST_LINK]);
    return namespace;
  };
  const [from, to] = [await guest(0), await guest(1)];
  const echo = `
    const { createSocket } = await import('node:dgram');
    const socket = createSocket('udp4');
    socket.on('message', (text, { port, address }) => socket.send(text, port, address));
    socket.bind(${flowPort}, () => console.log('ready'));`;
  await once(serveIn(scope, to, echo).stdout, 'data', { signal: AbortSignal.timeout(20_000) });
  const talk = `
    const { createSocket } = await import('node:dgram');
    const socket = createSocket('udp4');
    let sent = 0;
    let got = 0;
    socket.on('message', () => { if (got++ === 0) console.log('ready'); });
    const timer = setInterval(() => socket.send(String(sent++), ${flowPort}, '${addressOf(1)}'), ${flowIntervalMs});
    process.on('SIGTERM', () => {
      clearInterval(timer);
      setTimeout(() => { console.log(JSON.stringify({ sent, got })); process.exit(); }, 2000);
    });`;
  const talking = serveIn(scope, from, talk);
  await once(talking.stdout, 'data', { signal: AbortSignal.timeout(20_000) });

  const elsewhere = await networkNamespace(scope);
  const own: number[] = [];
  const whole: number[] = [];
  const loads: number[] = [];
  let text = '';
  const params = { securityGroup: 'group-1' };
  for (let round = 0; round <= rounds; round++) {
    const began = performance.now();
    await client.securityGroup.update({ params, body: { spec: { rules: rulesOf(1, round + 1) } } });
    const ownMs = performance.now() - began;
    if (text === '') text = await wholeText(host, filterTableName(daemon.instance));
    const beganWhole = performance.now();
    await elsewhere.run(['nft', '-f', '-'], { input: text });
    const wholeMs = performance.now() - beganWhole;
    loads.push(loadavg()[0]!);
    // The first of each warms up.
    if (round === 0) continue;
    own.push(ownMs);
    whole.push(wholeMs);
  }
  const ended = once(talking.stdout, 'data', { signal: AbortSignal.timeout(20_000) });
  talking.kill('SIGTERM');
  const { sent, got } = JSON.parse(String((await ended)[0])) as { sent: number; got: number };

  const { status } = await client.firewall.get();
  console.log(
    `\nOther rules for one of ${status.nicCount} NICs with ${rulesEach} rules each (${status.method}), ${rounds} rounds in turn, load average ${median(loads).toFixed(1)}\n`,
  );
  console.log('| | median | p99 | ratio |\n|---|---|---|---|');
  const row = (name: string, values: readonly number[]): void =>
    console.log(
      `| ${name} | ${median(values).toFixed(0)} ms | ${percentile(values, 0.99).toFixed(0)} ms | ${(median(values) / median(whole)).toFixed(3)} |`,
    );
  row('Lodge, from the request until the rules count', own);
  row('`nft -f` of the whole ruleset by hand', whole);
  console.log(`\nOf ${sent} packets of an allowed flow, ${sent - got} got no answer.`);
});

/** The tables as somebody would keep them in a file, to be replaced as a whole. */
async function wholeText(host: NetworkNamespace, name: string): Promise<string> {
  const parts = await Promise.all(
    ['bridge', 'inet'].map(async (family) => {
      const { stdout } = await host.run(['nft', '--stateless', 'list', 'table', family, name]);
      return `table ${family} ${name}\ndelete table ${family} ${name}\n${stdout}`;
    }),
  );
  return parts.join('');
}
