// Permissions and the roles that give them. A route names one permission; a role is a set of them.
import * as z from 'zod';

/** Every permission, `noun.verb`. */
export const permissions = [
  'server.read',
  'node.read',
  'node.update',
  'vm.read',
  'vm.create',
  'vm.update',
  'vm.delete',
  'vm.power',
  'vm.console',
  'vm.guest',
  'group.read',
  'group.create',
  'group.update',
  'group.delete',
  'snapshot.read',
  'snapshot.create',
  'snapshot.update',
  'snapshot.revert',
  'snapshot.delete',
  'template.read',
  'template.create',
  'template.update',
  'template.delete',
  'profile.read',
  'profile.create',
  'profile.update',
  'profile.delete',
  'instance-type.read',
  'instance-type.create',
  'instance-type.update',
  'instance-type.delete',
  'image.read',
  'image.create',
  'image.update',
  'image.delete',
  'volume.read',
  'volume.create',
  'volume.update',
  'volume.delete',
  'network.read',
  'network.create',
  'network.update',
  'network.delete',
  'firewall.read',
  'firewall.update',
  'task.read',
  'task.cancel',
  'event.read',
  'token.read',
  'token.create',
  'token.delete',
  'session.delete',
] as const;

/** What a caller may be allowed to do. `vm.console` covers consoles, screenshots and keys; `vm.guest` covers what the guest agent runs, reads and writes. */
export type Permission = (typeof permissions)[number];

/** admin may do everything; viewer may read, but sees no console, no guest data and no token, and may end its own sessions. */
export const role = z.enum(['admin', 'viewer']).meta({ id: 'Role' });
export type Role = z.output<typeof role>;

const viewerPermissions: ReadonlySet<Permission> = new Set<Permission>([
  'server.read',
  'node.read',
  'vm.read',
  'group.read',
  'snapshot.read',
  'template.read',
  'profile.read',
  'instance-type.read',
  'image.read',
  'volume.read',
  'network.read',
  'firewall.read',
  'task.read',
  'event.read',
  'session.delete',
]);

/** Whether a role gives a permission. */
export function roleAllows(given: Role, permission: Permission): boolean {
  return given === 'admin' || viewerPermissions.has(permission);
}
