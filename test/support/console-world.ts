// What the console is shown with in tests and pictures: some of everything, in many states; and all its pages.
import { type Task } from '../../src/api/task.ts';
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { type LodgeClient } from '../../src/client/client.ts';
import { waitForTaskEnd } from '../../src/client/follow.ts';

/** Pages of the console, with something on each of them. */
export const consolePages: readonly { name: string; path: string }[] = [
  { name: 'vms', path: '/vms' },
  { name: 'create', path: '/vms/new' },
  { name: 'vm-overview', path: '/vms/db1' },
  { name: 'vm-console', path: '/vms/db1/console' },
  { name: 'vm-metrics', path: '/vms/db1/metrics' },
  { name: 'vm-hardware', path: '/vms/db1/hardware' },
  { name: 'vm-disks', path: '/vms/db1/disks' },
  { name: 'vm-nics', path: '/vms/db1/nics' },
  { name: 'vm-snapshots', path: '/vms/db1/snapshots' },
  { name: 'vm-lineage', path: '/vms/db1/lineage' },
  { name: 'vm-activity', path: '/vms/db1/activity' },
  { name: 'vm-spec', path: '/vms/db1/spec' },
  { name: 'networks', path: '/networks' },
  { name: 'network', path: '/networks/user' },
  { name: 'firewall', path: '/firewall' },
  { name: 'firewall-explain', path: '/firewall/explain?from=internet&to=cache1&protocol=tcp&detail=443' },
  { name: 'security-groups', path: '/firewall/security-groups' },
  { name: 'security-group', path: '/firewall/security-groups/web' },
  { name: 'address-sets', path: '/firewall/address-sets' },
  { name: 'address-set', path: '/firewall/address-sets/office' },
  { name: 'volumes', path: '/volumes' },
  { name: 'volume', path: '/volumes/data' },
  { name: 'images', path: '/images' },
  { name: 'templates', path: '/templates' },
  { name: 'template', path: '/templates/base' },
  { name: 'profiles', path: '/profiles' },
  { name: 'profile', path: '/profiles/web' },
  { name: 'instance-types', path: '/instance-types' },
  { name: 'groups', path: '/groups' },
  { name: 'group', path: '/groups/shop' },
  { name: 'node', path: '/nodes/self' },
  { name: 'node-metrics', path: '/nodes/self/metrics' },
  { name: 'node-checks', path: '/nodes/self/checks' },
  { name: 'node-hardware', path: '/nodes/self/hardware' },
  { name: 'tokens', path: '/tokens' },
  { name: 'tasks', path: '/tasks' },
  { name: 'events', path: '/events' },
  { name: 'settings', path: '/settings' },
];

const taskMs = 60_000;

/** Makes some of everything. Guests need no image: the fake driver boots nothing. */
export async function fillConsole(client: LodgeClient): Promise<void> {
  const done = async (started: Promise<Task>): Promise<Task> =>
    waitForTaskEnd(client, (await started).id, { timeoutMs: taskMs });
  await client.network.create({ body: { name: 'user', spec: { mode: 'user', description: 'Without privileges' } } });
  await client.network.create({
    body: { name: 'lab', spec: { mode: 'isolated', ipv4Cidr: '10.90.0.0/24', description: 'Nothing leads outside' } },
  });
  await client.addressSet.create({
    body: {
      name: 'office',
      spec: { description: 'Where administrators sit', addresses: ['192.0.2.0/24', '2001:db8:7::/48'] },
    },
  });
  await client.securityGroup.create({
    body: {
      name: 'web',
      spec: {
        description: 'What may reach web servers',
        rules: [
          { name: 'https', protocol: 'tcp', ports: ['80', '443'] },
          { name: 'ping', protocol: 'icmp', icmpTypes: ['echo-request'], connectionLimit: 10 },
          {
            name: 'ssh',
            description: 'Administrators, from their desks',
            protocol: 'tcp',
            ports: ['22'],
            peers: [{ addressSet: 'office' }, { securityGroup: 'web' }, { selector: 'app=web,tier!=db' }],
          },
          { name: 'no-lab', action: 'deny', priority: 100, peers: [{ cidr: '10.66.0.0/16' }], isLogged: true },
          { name: 'updates', direction: 'egress', peers: [{ dnsName: 'deb.debian.org' }] },
        ],
      },
    },
  });
  await done(client.volume.create({ body: { name: 'data', spec: { sizeMib: 64 } } }));
  await client.profile.create({
    body: { name: 'web', spec: { autostart: true, restartPolicy: { mode: 'on-failure' }, description: 'Web servers' } },
  });
  const make = async (
    name: string,
    spec: VmSpecInput,
    labels: Record<string, string>,
    start: boolean,
  ): Promise<void> => {
    await done(client.vm.create({ query: { start }, body: { name, labels, spec: { memoryMib: 256, ...spec } } }));
  };
  const nics = [{ network: 'user' }];
  await make(
    'web1',
    { nics, profiles: ['web'], description: 'Shop, first server' },
    { app: 'web', tier: 'front' },
    true,
  );
  await make('web2', { nics, profiles: ['web'] }, { app: 'web', tier: 'front' }, true);
  await make(
    'db1',
    { nics, cpu: { count: 4 }, memoryMib: 4096, disks: [{ name: 'root', sizeMib: 32 }] },
    { app: 'db' },
    true,
  );
  await make(
    'cache1',
    { nics: [{ network: 'lab', securityGroups: ['web'] }], memoryMib: 1024 },
    { app: 'cache' },
    true,
  );
  await make('old-mail', { nics }, { legacy: 'yes' }, false);
  await make('builder', { nics: [], cpu: { count: 2 } }, {}, false);
  await client.vm.pause({ params: { vm: 'cache1' } });
  for (const name of ['installed', 'before-upgrade']) {
    await done(
      client.snapshot.create({ params: { vm: 'db1' }, body: { name, spec: { description: `State ${name}` } } }),
    );
  }
  await client.group.create({
    body: { name: 'shop', spec: { members: [{ vm: 'db1' }, { vm: 'web1' }, { vm: 'web2' }] } },
  });
  await done(
    client.template.create({ body: { name: 'base', vm: 'builder', spec: { description: 'Start of everything' } } }),
  );
  await done(client.vm.clone({ params: { vm: 'db1' }, body: { name: 'db-test', count: 2 } }));
  await client.token.create({ body: { name: 'ci', role: 'viewer', expiresInS: 86_400 } });
}
