// Networks: all of them; and one with its leases and what a look for trouble finds.
import { Code, List, Stack, Table, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { Network as NetworkIcon } from 'lucide-react';
import { type Network } from '../../src/api/network.ts';
import { client } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { Failure } from '../ui/failure.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { TextLink } from '../ui/link.tsx';
import { ObjectPage } from '../ui/object-page.tsx';
import { Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';

export function NetworkListPage() {
  const t = useText();
  const { name, state, text, created } = useColumns<Network>('/networks');
  return (
    <ListPage<Network>
      kind="network"
      title={t('nav.networks')}
      read={(query) => client.network.list({ query })}
      columns={[
        name,
        state((row) => row.status.state),
        text('mode', t('network.mode'), (row) => row.spec.mode, { sort: 'spec.mode' }),
        text('cidr', 'IPv4', (row) => row.status.ipv4Cidr ?? '–'),
        text('leases', t('network.leases'), (row) => row.status.leaseCount, { from: 900, width: '90px' }),
        text('used', t('column.used-by'), (row) => row.status.usedBy.join(', '), { from: 1100 }),
        created,
      ]}
      empty={<Empty icon={<NetworkIcon size={44} />} title={t('network.empty')} text={t('network.empty-text')} />}
    />
  );
}

export function NetworkPage() {
  const t = useText();
  return (
    <ObjectPage<Network>
      kind="network"
      read={(ref) => client.network.get({ params: { network: ref } })}
      state={(item) => item.status.state}
      subtitle={(item) => item.spec.description || item.status.reason}
      facts={({ spec, status }) => [
        [t('network.mode'), spec.mode],
        [t('vm.why'), status.reason],
        [t('network.problems'), status.problems.join('; ')],
        ['IPv4', status.ipv4Cidr],
        ['IPv6', status.ipv6Cidr],
        [t('network.gateway'), status.gateway],
        [t('network.bridge'), status.bridge],
        ['DHCP', status.dhcpRange === null ? null : `${status.dhcpRange.first} – ${status.dhcpRange.last}`],
        ['DNS', spec.dnsDomain],
        [
          t('column.used-by'),
          status.usedBy.map((one) => (
            <TextLink key={one} href={`/vms/${one}`} mr={8}>
              {one}
            </TextLink>
          )),
        ],
      ]}
      remove={{
        run: (item) => client.network.delete({ params: { network: item.id } }),
        permission: 'network.delete',
        usedBy: ({ status }) => status.usedBy.join(', '),
        listPath: '/networks',
      }}
      more={(item) => (
        <>
          <Leases network={item} />
          <Diagnosis network={item} />
        </>
      )}
    />
  );
}

function Leases({ network }: { network: Network }) {
  const t = useText();
  const { data, error } = useQuery({
    queryKey: ['network', 'leases', network.id, network.status.leaseCount],
    queryFn: () => client.network.leases({ params: { network: network.id } }),
  });
  return (
    <Section title={t('network.leases')}>
      {error !== null && <Failure failure={error} />}
      {data?.items.length === 0 && (
        <Text fz="sm" c="dimmed">
          {t('network.no-leases')}
        </Text>
      )}
      {data !== undefined && data.items.length > 0 && (
        <Table.ScrollContainer minWidth={480}>
          <Table>
            <Table.Tbody>
              {data.items.map((lease) => (
                <Table.Tr key={lease.address}>
                  <Table.Td className="mono">{lease.address}</Table.Td>
                  <Table.Td className="mono">{lease.mac}</Table.Td>
                  <Table.Td>
                    {lease.vm === null ? lease.hostname : <TextLink href={`/vms/${lease.vm}`}>{lease.vm}</TextLink>}
                  </Table.Td>
                  <Table.Td>
                    <Ago at={lease.expiresAt} />
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
    </Section>
  );
}

/** Follows packets through the host's rules; only when it is asked for, as it takes a moment. */
function Diagnosis({ network }: { network: Network }) {
  const t = useText();
  const look = useAction(() => client.network.diagnose({ params: { network: network.id } }));
  return (
    <Section
      title={t('network.diagnosis')}
      actions={
        <ActionButton reason={null} loading={look.isPending} onClick={() => look.mutate(undefined)}>
          {t('network.diagnose')}
        </ActionButton>
      }
    >
      <Text fz="sm" c="dimmed">
        {t('network.diagnosis-text')}
      </Text>
      <Stack gap="xs" mt="sm" role="status">
        {look.data?.items.map((finding) => (
          <div key={finding.message}>
            <State state={finding.severity} /> {finding.message}
            <List fz="sm">
              {finding.remedies.map((remedy) => (
                <List.Item key={remedy}>
                  <Code>{remedy}</Code>
                </List.Item>
              ))}
            </List>
          </div>
        ))}
      </Stack>
    </Section>
  );
}
