// What `lodge` knows: each noun with its summary, so that help needs no noun's code, and each noun's code is loaded only
// when it is the one that was asked for.
import type { Command } from 'commander';

export interface NounEntry {
  name: string;
  aliases?: readonly string[];
  summary: string;
  group: 'Objects:' | 'Everything at once:' | 'This command line:';
  load: () => Promise<Command>;
  /** The words that are meant when no verb stands there. */
  withoutVerb?: (words: readonly string[]) => string[];
}

export const nouns: readonly NounEntry[] = [
  {
    name: 'vm',
    aliases: ['vms'],
    summary: 'Virtual machines: make, start, stop, look into',
    group: 'Objects:',
    load: async () => (await import('./noun/vm.ts')).vmNoun(),
  },
  {
    name: 'group',
    aliases: ['groups'],
    summary: 'VMs that are started in an order, and stopped in the opposite one',
    group: 'Objects:',
    load: async () => (await import('./noun/group.ts')).groupNoun(),
  },
  {
    name: 'snapshot',
    aliases: ['snapshots'],
    summary: 'VMs as they were in one moment, to go back to',
    group: 'Objects:',
    load: async () => (await import('./noun/snapshot.ts')).snapshotNoun(),
  },
  {
    name: 'template',
    aliases: ['templates'],
    summary: 'Disks and spec of a VM, in versions, for new VMs',
    group: 'Objects:',
    load: async () => (await import('./noun/template.ts')).templateNoun(),
  },
  {
    name: 'profile',
    aliases: ['profiles'],
    summary: 'Named sets of fields that VMs take over',
    group: 'Objects:',
    load: async () => (await import('./noun/profile.ts')).profileNoun(),
  },
  {
    name: 'instance-type',
    aliases: ['instance-types'],
    summary: 'Named sizes of VMs: vCPUs and memory',
    group: 'Objects:',
    load: async () => (await import('./noun/instance-type.ts')).instanceTypeNoun(),
  },
  {
    name: 'security-group',
    aliases: ['security-groups', 'sg'],
    summary: 'Which connections of VMs are allowed',
    group: 'Objects:',
    load: async () => (await import('./noun/security-group.ts')).securityGroupNoun(),
  },
  {
    name: 'address-set',
    aliases: ['address-sets'],
    summary: 'Lists of addresses for security groups',
    group: 'Objects:',
    load: async () => (await import('./noun/address-set.ts')).addressSetNoun(),
  },
  {
    name: 'firewall',
    summary: 'What security groups come to for a VM, and why',
    group: 'Objects:',
    load: async () => (await import('./noun/firewall.ts')).firewallNoun(),
  },
  {
    name: 'image',
    aliases: ['images'],
    summary: 'Images that disks and VMs are made from: build, import',
    group: 'Objects:',
    load: async () => (await import('./noun/image.ts')).imageNoun(),
  },
  {
    name: 'volume',
    aliases: ['volumes'],
    summary: 'Disks that guests write to',
    group: 'Objects:',
    load: async () => (await import('./noun/volume.ts')).volumeNoun(),
  },
  {
    name: 'network',
    aliases: ['networks'],
    summary: 'Networks that VMs are connected to, and their leases',
    group: 'Objects:',
    load: async () => (await import('./noun/network.ts')).networkNoun(),
  },
  {
    name: 'node',
    aliases: ['nodes'],
    summary: 'Machines that run VMs, and what they can do',
    group: 'Objects:',
    load: async () => (await import('./noun/node.ts')).nodeNoun(),
  },
  {
    name: 'task',
    aliases: ['tasks'],
    summary: 'Operations under way and done: follow, cancel',
    group: 'Objects:',
    load: async () => (await import('./noun/task.ts')).taskNoun(),
  },
  {
    name: 'event',
    aliases: ['events'],
    summary: 'What happened, and what happens now',
    group: 'Objects:',
    load: async () => (await import('./noun/event.ts')).eventNoun(),
    withoutVerb: (words) => {
      const others = words.filter((word) => word !== '--follow' && word !== '-f');
      return others.length < words.length ? ['follow', ...others] : ['list', ...words];
    },
  },
  {
    name: 'token',
    aliases: ['tokens'],
    summary: 'Access tokens of remote clients',
    group: 'Objects:',
    load: async () => (await import('./noun/token.ts')).tokenNoun(),
  },
  {
    name: 'server',
    summary: 'The daemon itself',
    group: 'Objects:',
    load: async () => (await import('./noun/server.ts')).serverNoun(),
  },
  {
    name: 'apply',
    summary: 'Make objects as files describe them; repeatable, with a dry run',
    group: 'Everything at once:',
    load: async () => (await import('./noun/apply.ts')).applyCommand(),
  },
  {
    name: 'delete',
    summary: 'Delete the objects that files describe',
    group: 'Everything at once:',
    load: async () => (await import('./noun/apply.ts')).deleteCommand(),
  },
  {
    name: 'top',
    summary: 'Watch what every VM uses',
    group: 'Everything at once:',
    load: async () => (await import('./noun/top.ts')).topCommand(),
  },
  {
    name: 'console',
    summary: 'Sign a browser in to the web console',
    group: 'Everything at once:',
    load: async () => (await import('./noun/console.ts')).consoleCommand(),
  },
  {
    name: 'context',
    aliases: ['contexts'],
    summary: 'Daemons this command line can talk to',
    group: 'This command line:',
    load: async () => (await import('./noun/context.ts')).contextNoun(),
  },
  {
    name: 'completion',
    summary: 'Completion of commands and names for bash, zsh and fish',
    group: 'This command line:',
    load: async () => (await import('./noun/completion.ts')).completionCommand(),
  },
  {
    name: 'api',
    summary: 'Send one request of the API as it is',
    group: 'This command line:',
    load: async () => (await import('./noun/api.ts')).apiCommand(),
  },
  {
    name: 'version',
    summary: 'Versions of this command line and of the daemon',
    group: 'This command line:',
    load: async () => (await import('./noun/version.ts')).versionCommand(),
  },
];

/** The entry of a name or alias. */
export function findNoun(word: string): NounEntry | undefined {
  return nouns.find((entry) => entry.name === word || entry.aliases?.includes(word) === true);
}

/** Words that select a noun. */
export function nounWords(): string[] {
  return nouns.flatMap((entry) => [entry.name, ...(entry.aliases ?? [])]);
}
