// The NICs of a VM: network, model, addresses; link up and down; new ones, also while it runs.
import { Select, Switch, Table } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { Network, Plus } from 'lucide-react';
import { useState } from 'react';
import { nicModel } from '../../src/api/vm-hardware.ts';
import { type VmNic } from '../../src/api/vm-spec.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client, useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { Empty } from '../ui/empty.tsx';
import { TextLink } from '../ui/link.tsx';
import { Section } from '../ui/page.tsx';
import { reasonAgainst } from './vm-power.ts';
import { changeSpec } from './vm-queries.ts';
import { FormDialog } from '../ui/form-dialog.tsx';

export function NicsTab({ vm }: { vm: Vm }) {
  const t = useText();
  const { session } = useSignIn();
  const [isAdding, setAdding] = useState(false);
  const reason = reasonAgainst(vm, 'update', session?.role ?? null);
  const change = useAction((make: (nics: VmNic[]) => VmNic[]) =>
    changeSpec(vm, (spec) => ({ ...spec, nics: make(spec.nics) })),
  );
  const add = (
    <ActionButton variant="filled" leftSection={<Plus size={15} />} reason={reason} onClick={() => setAdding(true)}>
      {t('nics.add')}
    </ActionButton>
  );
  return (
    <>
      {vm.spec.nics.length === 0 ? (
        <Empty
          icon={<Network size={44} strokeWidth={1.4} />}
          title={t('nics.none')}
          text={t('nics.none-text')}
          action={add}
        />
      ) : (
        <Section title={t('vm.tab.nics')} actions={add}>
          <Table.ScrollContainer minWidth={640}>
            <Table>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>{t('nics.network')}</Table.Th>
                  <Table.Th>{t('hardware.model')}</Table.Th>
                  <Table.Th>MAC</Table.Th>
                  <Table.Th>{t('vm.address')}</Table.Th>
                  <Table.Th>{t('nics.host')}</Table.Th>
                  <Table.Th>{t('nics.link')}</Table.Th>
                  <Table.Th />
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {vm.spec.nics.map((nic, index) => {
                  const seen = vm.status.nics[index];
                  return (
                    // A NIC has no name: it is told by its place.
                    <Table.Tr key={`${index}-${nic.network}`}>
                      <Table.Td>
                        <TextLink href={`/networks/${nic.network}`}>{nic.network}</TextLink>
                      </Table.Td>
                      <Table.Td className="mono">{seen?.model ?? nic.model ?? '–'}</Table.Td>
                      <Table.Td className="mono">{seen?.mac ?? nic.mac ?? '–'}</Table.Td>
                      <Table.Td className="mono break">{seen?.addresses.join(', ') ?? '–'}</Table.Td>
                      <Table.Td className="mono">{seen?.hostInterface ?? '–'}</Table.Td>
                      <Table.Td>
                        <Switch
                          size="sm"
                          aria-label={t('nics.link')}
                          checked={nic.isConnected}
                          disabled={reason !== null}
                          onChange={(event) => {
                            const isConnected = event.currentTarget.checked;
                            change.mutate((nics) =>
                              nics.map((one, at) => (at === index ? { ...one, isConnected } : one)),
                            );
                          }}
                        />
                      </Table.Td>
                      <Table.Td ta="right">
                        <ActionButton
                          size="compact-xs"
                          reason={reason}
                          onClick={() => change.mutate((nics) => nics.filter((_one, at) => at !== index))}
                        >
                          {t('disks.remove')}
                        </ActionButton>
                      </Table.Td>
                    </Table.Tr>
                  );
                })}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </Section>
      )}
      {isAdding && <AddNic vm={vm} onClose={() => setAdding(false)} />}
    </>
  );
}

function AddNic({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const t = useText();
  const [network, setNetwork] = useState<string | null>(null);
  const [model, setModel] = useState<string | null>(null);
  const networks = useQuery({
    queryKey: ['network', 'choice'],
    queryFn: async () => (await client.network.list({ query: { limit: 500 } })).items,
  });
  const add = useAction(
    () => {
      const nic = { network: network ?? 'default', isConnected: true, ...(model === null ? {} : { model }) } as VmNic;
      return changeSpec(vm, (spec) => ({ ...spec, nics: [...spec.nics, nic] }));
    },
    { onDone: onClose, isShownElsewhere: true },
  );
  return (
    <FormDialog title={t('nics.add')} submit={t('nics.add')} action={add} onClose={onClose} isReady={network !== null}>
      <Select
        label={t('nics.network')}
        data={(networks.data ?? []).filter((one) => one.project === vm.project).map((one) => one.name)}
        value={network}
        onChange={setNetwork}
        required
        data-autofocus
      />
      <Select
        label={t('hardware.model')}
        placeholder={t('nics.model-default')}
        data={[...nicModel.options]}
        value={model}
        onChange={setModel}
        clearable
        clearButtonProps={{ 'aria-label': t('common.clear') }}
      />
    </FormDialog>
  );
}
