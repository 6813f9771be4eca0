// What can be done with a VM, as a menu: in the table and on its page. Nothing is hidden; what can't be done says why.
import { ActionIcon, Menu } from '@mantine/core';
import {
  Copy,
  Ellipsis,
  MoonStar,
  Pause,
  Play,
  Power,
  PowerOff,
  RotateCcw,
  RotateCw,
  Split,
  Trash2,
  type LucideIcon,
} from 'lucide-react';
import { Suspense, useState, type ReactNode } from 'react';
import { lazyPart } from '../data/part.ts';
import { type VmAction } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import { useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText, type TextKey } from '../i18n/language.ts';
import { ActionItem } from '../ui/action-button.tsx';
import { powerVm, reasonAgainst, type PowerAction } from './vm-power.ts';

// Loaded when they are opened: few pages need them, and the first is to be there quickly.
const CopyVmDialog = lazyPart(async () => (await import('./copy-vm-dialog.tsx')).CopyVmDialog);
const DeleteVmDialog = lazyPart(async () => (await import('./delete-vm-dialog.tsx')).DeleteVmDialog);

const power: readonly (readonly [PowerAction, TextKey, LucideIcon])[] = [
  ['start', 'vm.action.start', Play],
  ['stop', 'vm.action.stop', Power],
  ['restart', 'vm.action.restart', RotateCw],
  ['pause', 'vm.action.pause', Pause],
  ['resume', 'vm.action.resume', Play],
  ['suspend', 'vm.action.suspend', MoonStar],
  ['reset', 'vm.action.reset', RotateCcw],
  ['forceOff', 'vm.action.forceOff', PowerOff],
];

type Dialog = 'delete' | 'clone' | 'fork' | null;

export function VmMenu({ vm, target, onDeleted }: { vm: Vm; target?: ReactNode; onDeleted?: () => void }) {
  const t = useText();
  const { session } = useSignIn();
  const [dialog, setDialog] = useState<Dialog>(null);
  const act = useAction((action: PowerAction) => powerVm(vm, action));
  const reason = (action: VmAction): string | null => reasonAgainst(vm, action, session?.role ?? null);
  return (
    <>
      <Menu position="bottom-end" width={280} withinPortal>
        <Menu.Target>
          {target ?? (
            <ActionIcon variant="subtle" color="gray" aria-label={t('vm.actions-of', { name: vm.name })}>
              <Ellipsis size={17} />
            </ActionIcon>
          )}
        </Menu.Target>
        <Menu.Dropdown>
          {power.map(([action, label, Icon]) => (
            <ActionItem
              key={action}
              reason={reason(action)}
              icon={<Icon size={15} />}
              onClick={() => act.mutate(action)}
              color={action === 'forceOff' ? 'red' : undefined}
            >
              {t(label)}
            </ActionItem>
          ))}
          <Menu.Divider />
          <ActionItem reason={reason('clone')} icon={<Copy size={15} />} onClick={() => setDialog('clone')}>
            {t('vm.action.clone')}
          </ActionItem>
          <ActionItem reason={reason('fork')} icon={<Split size={15} />} onClick={() => setDialog('fork')}>
            {t('vm.action.fork')}
          </ActionItem>
          <Menu.Divider />
          <ActionItem
            reason={
              reason('delete') !== null && reason('stop') !== null && reason('forceOff') !== null
                ? reason('delete')
                : null
            }
            icon={<Trash2 size={15} />}
            color="red"
            onClick={() => setDialog('delete')}
          >
            {t('vm.action.delete')}
          </ActionItem>
        </Menu.Dropdown>
      </Menu>
      <Suspense>
        {dialog === 'delete' && (
          <DeleteVmDialog
            vms={[vm]}
            onClose={() => setDialog(null)}
            {...(onDeleted === undefined ? {} : { onDeleted })}
          />
        )}
        {(dialog === 'clone' || dialog === 'fork') && (
          <CopyVmDialog vm={vm} kind={dialog} onClose={() => setDialog(null)} />
        )}
      </Suspense>
    </>
  );
}
