// lodge vm firmware: what a VM's firmware keeps, made anew.
import type { Command } from 'commander';
import { confirm } from '../confirm.ts';
import { verb, withDaemon } from '../command.ts';
import { withSuggestion } from '../list.ts';
import { usageError } from '../usage-error.ts';
import { fetchVms } from '../vm/view.ts';

/** Adds the verb firmware. */
export function addFirmwareVerb(vm: Command): void {
  verb(vm, 'firmware <action> <vm>', 'Make what the firmware of a stopped VM keeps anew', {
    description:
      'The action is reset: the UEFI variable store of a stopped VM is made anew, with the keys of its firmware.secureBoot. Boot entries and keys that the guest enrolled are gone; its disks stay. For a store that is missing or damaged, or after a change of keys. With --tpm, the TPM is made anew.',
    examples: [
      ['lodge vm firmware reset web1', 'asks first'],
      ['lodge vm firmware reset web1 --tpm', 'a new TPM, when the state of the old one is lost'],
    ],
  })
    .option('--tpm', 'the TPM in place of the variable store; what is sealed in it is lost')
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[action: string, name: string], { yes?: boolean; tpm?: boolean }>(
        async (session, options, action, name) => {
          if (action !== 'reset')
            throw usageError(`there is no action ${action} on firmware`, {
              hint: `Try: lodge vm firmware reset ${name}`,
            });
          await confirm(
            session,
            options.tpm === true
              ? `Make the TPM of VM ${name} anew? Everything sealed in it is lost.`
              : `Make the UEFI variable store of VM ${name} anew, without its boot entries and enrolled keys?`,
            options.yes === true,
          );
          await withSuggestion(session, name, fetchVms, () =>
            session.client.vm.resetFirmware({
              params: { vm: name },
              query: { project: session.project },
              body: { what: options.tpm === true ? 'tpm' : 'variables' },
            }),
          );
          session.terminal.line(`The ${options.tpm === true ? 'TPM' : 'UEFI variable store'} of VM ${name} is new.`);
        },
      ),
    );
}
