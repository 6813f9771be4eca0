// The nouns of the console in the order of the navigation: address, icon, word, and the key that leads there after "g".
import {
  Activity,
  Boxes,
  Disc3,
  HardDrive,
  KeyRound,
  LayoutTemplate,
  ListChecks,
  MonitorPlay,
  Network,
  Ruler,
  Server,
  Settings,
  Shield,
  SlidersHorizontal,
  type LucideIcon,
} from 'lucide-react';
import { type Permission } from '../../src/api/permission.ts';
import { type TextKey } from '../i18n/language.ts';

export interface NounEntry {
  path: string;
  label: TextKey;
  icon: LucideIcon;
  key: string;
  permission: Permission;
}

export interface NounGroup {
  label: TextKey | null;
  entries: readonly NounEntry[];
}

export const nounGroups: readonly NounGroup[] = [
  {
    label: null,
    entries: [
      { path: '/vms', label: 'nav.vms', icon: MonitorPlay, key: 'v', permission: 'vm.read' },
      { path: '/groups', label: 'nav.groups', icon: Boxes, key: 'g', permission: 'group.read' },
      { path: '/networks', label: 'nav.networks', icon: Network, key: 'n', permission: 'network.read' },
      { path: '/firewall', label: 'nav.firewall', icon: Shield, key: 'f', permission: 'firewall.read' },
      { path: '/volumes', label: 'nav.volumes', icon: HardDrive, key: 'd', permission: 'volume.read' },
      { path: '/nodes/self', label: 'nav.node', icon: Server, key: 'h', permission: 'node.read' },
    ],
  },
  {
    label: 'nav.library',
    entries: [
      { path: '/images', label: 'nav.images', icon: Disc3, key: 'i', permission: 'image.read' },
      { path: '/templates', label: 'nav.templates', icon: LayoutTemplate, key: 'l', permission: 'template.read' },
      { path: '/profiles', label: 'nav.profiles', icon: SlidersHorizontal, key: 'p', permission: 'profile.read' },
      {
        path: '/instance-types',
        label: 'nav.instance-types',
        icon: Ruler,
        key: 'y',
        permission: 'instance-type.read',
      },
    ],
  },
  {
    label: 'nav.activity',
    entries: [
      { path: '/tasks', label: 'nav.tasks', icon: ListChecks, key: 't', permission: 'task.read' },
      { path: '/events', label: 'nav.events', icon: Activity, key: 'e', permission: 'event.read' },
    ],
  },
  {
    label: 'nav.access',
    entries: [
      { path: '/tokens', label: 'nav.tokens', icon: KeyRound, key: 'k', permission: 'token.read' },
      { path: '/settings', label: 'nav.settings', icon: Settings, key: 's', permission: 'server.read' },
    ],
  },
];

export const allNouns: readonly NounEntry[] = nounGroups.flatMap((group) => group.entries);
