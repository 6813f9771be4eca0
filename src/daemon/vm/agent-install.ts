// How a guest comes by its agent: installed by cloud-init at the first boot where that can be, and told what to type where
// none answers.
import { readFileSync } from 'node:fs';
import { agentCommands } from '../../api/agent-advice.ts';
import { type Image } from '../../api/image.ts';
import { type Vm, type VmStatus } from '../../api/vm.ts';
import { type GuestOs } from '../../api/vm-hardware.ts';
import { type VmSpec } from '../../api/vm-spec.ts';

/** The script that cloud-init runs as vendor-data: beside the user's own data, whatever these are. */
export const installScript = readFileSync(new URL('../../../guest/cloud-init/install-agent', import.meta.url), 'utf8');

/** Whether cloud-init is to install the agent, where the VM has first-boot data at all. */
export function installsAgent(
  spec: Pick<VmSpec, 'guestAgent' | 'hasAgentChannel'>,
  image: { spec: Pick<Image['spec'], 'os'>; status: Pick<Image['status'], 'hasAgent'> } | null,
): boolean {
  if (!spec.hasAgentChannel || spec.guestAgent === 'none') return false;
  if (spec.guestAgent === 'install') return true;
  return image?.status.hasAgent !== true && image?.spec.os !== 'windows';
}

/** What to do about a guest whose agent has not answered for so long; null: nothing yet. */
export function agentAdvice(
  vm: Pick<Vm, 'spec' | 'status'>,
  silentMs: number,
  adviseAfterMs: number,
): VmStatus['agentAdvice'] {
  if (!vm.spec.hasAgentChannel || silentMs < adviseAfterMs) return null;
  const os: GuestOs = vm.status.pinned?.hardware.os ?? vm.spec.os ?? 'linux';
  const { guestAgent, cloudInit } = vm.spec;
  const isLeftToCloudInit = guestAgent === 'install' || (guestAgent === 'auto' && cloudInit !== undefined);
  const installing = isLeftToCloudInit
    ? ' Where cloud-init in it was to install one: that takes package sources that the guest can reach.'
    : '';
  return {
    reason: `No guest agent has answered: none is installed, or it does not run.${installing} The guest runs without one; what is asked of it through its agent does not work.`,
    commands: agentCommands[os],
  };
}
