// What to type in a guest to install its agent, by operating system.
import * as z from 'zod';
import { type GuestOs } from './vm-hardware.ts';

export const agentCommand = z.object({
  system: z.string().describe('Debian and Ubuntu'),
  command: z.string().describe('As root, in a shell of the guest; on Windows in PowerShell as administrator'),
});

export const agentAdvice = z
  .object({
    reason: z.string().describe('What is known of it'),
    commands: z.array(agentCommand).describe('What installs an agent, by system'),
  })
  .meta({ id: 'AgentAdvice' });

const linux = [
  {
    system: 'Debian and Ubuntu',
    command: 'apt-get install -y qemu-guest-agent && systemctl start qemu-guest-agent',
  },
  {
    system: 'Fedora, RHEL, Rocky and Alma Linux',
    command: 'dnf install -y qemu-guest-agent && systemctl enable --now qemu-guest-agent',
  },
  { system: 'openSUSE', command: 'zypper install -y qemu-guest-agent && systemctl enable --now qemu-guest-agent' },
  {
    system: 'Alpine',
    command: 'apk add qemu-guest-agent && rc-update add qemu-guest-agent && rc-service qemu-guest-agent start',
  },
];
const windows = [
  {
    system: 'Windows, with the disc virtio-win in drive D:',
    command: 'Start-Process msiexec -Wait -ArgumentList "/i D:\\guest-agent\\qemu-ga-x86_64.msi /qn"',
  },
];
const bsd = [
  {
    system: 'FreeBSD',
    command: 'pkg install -y qemu-guest-agent && sysrc qemu_guest_agent_enable=YES && service qemu-guest-agent start',
  },
];

/** Sources: the packages of the distributions; https://docs.fedoraproject.org/en-US/quick-docs/creating-windows-virtual-machines-using-virtio-drivers/ */
export const agentCommands: Readonly<Record<GuestOs, z.output<typeof agentCommand>[]>> = {
  linux,
  windows,
  bsd,
  other: [...linux, ...windows, ...bsd],
};
