// The consoles of a VM: its display and its serial line. Each is loaded when it is opened, and can be opened in a window of
// its own by its address.
import { Button, Group, SegmentedControl, Stack } from '@mantine/core';
import { ExternalLink, TerminalSquare } from 'lucide-react';
import { Suspense, useState } from 'react';
import { lazyPart } from '../data/part.ts';
import { type Vm } from '../../src/api/vm.ts';
import { useSignIn } from '../data/client.ts';
import { useText } from '../i18n/language.ts';
import { Empty } from '../ui/empty.tsx';
import { refOf } from '../ui/list-page.tsx';
import { reasonAgainst } from './vm-power.ts';
import { Loading } from '../ui/loading.tsx';

const SerialConsole = lazyPart(async () => (await import('./serial-console.tsx')).SerialConsole);
const VncConsole = lazyPart(async () => (await import('./vnc-console.tsx')).VncConsole);

export function ConsoleTab({ vm }: { vm: Vm }) {
  const t = useText();
  const { session } = useSignIn();
  const hasDisplay = vm.status.devices.some((device) => device.name === 'video' && device.model !== 'none');
  const [type, setType] = useState<'serial' | 'vnc'>(hasDisplay ? 'vnc' : 'serial');
  const reason = reasonAgainst(vm, 'console', session?.role ?? null);
  if (reason !== null) {
    return <Empty icon={<TerminalSquare size={44} strokeWidth={1.4} />} title={t('console.none')} text={reason} />;
  }
  return (
    <Stack gap={0} className="card" p="md">
      <Group justify="space-between">
        <SegmentedControl
          aria-label={t('vm.tab.console')}
          value={type}
          onChange={(value) => setType(value === 'vnc' ? 'vnc' : 'serial')}
          data={[
            { value: 'vnc', label: t('console.vnc'), disabled: !hasDisplay },
            { value: 'serial', label: t('console.serial') },
          ]}
        />
        <Button
          variant="subtle"
          color="gray"
          size="compact-sm"
          leftSection={<ExternalLink size={14} />}
          onClick={() => window.open(`/vms/${refOf(vm)}/console`, `lodge-${vm.id}`, 'popup,width=1000,height=760')}
        >
          {t('console.pop-out')}
        </Button>
      </Group>
      <Suspense fallback={<Loading m="md" />}>
        {type === 'serial' ? <SerialConsole vmId={vm.id} /> : <VncConsole vmId={vm.id} />}
      </Suspense>
    </Stack>
  );
}
