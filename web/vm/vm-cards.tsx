// VMs as cards with what their displays show. Only cards in sight ask for pictures.
import { Box, Button, Group, SimpleGrid, Text } from '@mantine/core';
import { useInViewport } from '@mantine/hooks';
import { MonitorOff } from 'lucide-react';
import { type Vm } from '../../src/api/vm.ts';
import { useMay } from '../data/client.ts';
import { formatMib } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { refOf } from '../ui/list-page.tsx';
import { TextLink } from '../ui/link.tsx';
import { State } from '../ui/state.tsx';
import { Screenshot } from './screenshot.tsx';
import { VmMenu } from './vm-menu.tsx';
import { hasDisplay } from './vm-power.ts';

interface VmCardsProps {
  vms: readonly Vm[];
  total: number;
  isLoadingMore: boolean;
  onEnd: () => void;
}

/** A picture on a card is renewed this often, milliseconds: many are shown at once. */
const pictureMs = 10_000;
const pictureWidthPixels = 320;

export function VmCards({ vms, total, isLoadingMore, onEnd }: VmCardsProps) {
  const t = useText();
  return (
    <>
      <SimpleGrid component="ul" cols={{ base: 1, xs: 2, md: 3, xl: 4 }} m={0} p={0} style={{ listStyle: 'none' }}>
        {vms.map((vm) => (
          <VmCard key={vm.id} vm={vm} />
        ))}
      </SimpleGrid>
      {vms.length < total && (
        <Group justify="center">
          <Button variant="default" loading={isLoadingMore} onClick={onEnd}>
            {t('list.read-more')}
          </Button>
        </Group>
      )}
    </>
  );
}

function VmCard({ vm }: { vm: Vm }) {
  const mayLook = useMay('vm.console');
  const { ref, inViewport } = useInViewport<HTMLLIElement>();
  return (
    <li className="card vm-card" ref={ref}>
      <Box className="vm-card-display">
        {mayLook && hasDisplay(vm) ? (
          inViewport && <Screenshot vm={vm} everyMs={pictureMs} widthPixels={pictureWidthPixels} />
        ) : (
          <MonitorOff size={28} strokeWidth={1.3} aria-hidden />
        )}
      </Box>
      <Group justify="space-between" wrap="nowrap" gap="xs" px="sm" pt="xs">
        <TextLink href={`/vms/${refOf(vm)}`} fw={550} truncate>
          {vm.name}
        </TextLink>
        <VmMenu vm={vm} />
      </Group>
      <Group justify="space-between" wrap="nowrap" gap="xs" px="sm" pb="xs">
        <State state={vm.status.state} />
        <Text span fz="xs" c="dimmed">
          {vm.spec.cpu.count} × CPU · {formatMib(vm.spec.memoryMib)}
        </Text>
      </Group>
    </li>
  );
}
