// Address sets: all of them, and one with its addresses and the groups whose rules name it.
import { Group, Text } from '@mantine/core';
import { ListTree } from 'lucide-react';
import { type AddressSet } from '../../src/api/address-set.ts';
import { client } from '../data/client.ts';
import { formatNumber } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { ObjectPage } from '../ui/object-page.tsx';
import { Section } from '../ui/page.tsx';
import { FirewallTabs } from './firewall-tabs.tsx';
import { useFreshUse } from './firewall-links.tsx';

const listPath = '/firewall/address-sets';
/** Most addresses that are drawn; all of them stand in the YAML. */
const mostShown = 500;

export function AddressSetListPage() {
  const t = useText();
  useFreshUse();
  const { name, text, created } = useColumns<AddressSet>(listPath);
  return (
    <ListPage<AddressSet>
      kind="address-set"
      title={t('firewall.sets')}
      subtitle={t('firewall.sets-text')}
      tabs={<FirewallTabs current="address-sets" />}
      read={(query) => client.addressSet.list({ query })}
      columns={[
        name,
        text('description', t('column.description'), (row) => row.spec.description, { width: 'minmax(120px, 3fr)' }),
        text('addresses', t('firewall.addresses'), (row) => formatNumber(row.spec.addresses.length), {
          from: 0,
          width: '110px',
        }),
        text('used', t('column.used-by'), (row) => row.status.usedBy.join(', ')),
        created,
      ]}
      empty={
        <Empty icon={<ListTree size={44} />} title={t('firewall.sets-empty')} text={t('firewall.sets-empty-text')} />
      }
    />
  );
}

export function AddressSetPage() {
  const t = useText();
  useFreshUse();
  return (
    <ObjectPage<AddressSet>
      kind="address-set"
      read={(ref) => client.addressSet.get({ params: { addressSet: ref } })}
      subtitle={({ spec }) => spec.description}
      facts={({ spec, status }) => [
        [t('firewall.addresses'), formatNumber(spec.addresses.length)],
        [t('column.used-by'), status.usedBy.join(', ') || '–'],
      ]}
      more={({ spec: { addresses } }) => (
        <Section title={t('firewall.addresses')}>
          {addresses.length === 0 && (
            <Text fz="sm" c="dimmed">
              {t('firewall.no-addresses')}
            </Text>
          )}
          <Group gap="xs" component="ul" p={0} m={0} style={{ listStyle: 'none' }}>
            {addresses.slice(0, mostShown).map((address) => (
              <li key={address} className="mono break">
                {address}
              </li>
            ))}
          </Group>
          {addresses.length > mostShown && (
            <Text fz="sm" c="dimmed" mt="sm">
              {t('common.more', { count: formatNumber(addresses.length - mostShown) })}
            </Text>
          )}
        </Section>
      )}
      remove={{
        run: (item) => client.addressSet.delete({ params: { addressSet: item.id } }),
        permission: 'firewall.update',
        usedBy: ({ status }) => status.usedBy.join(', '),
        listPath,
      }}
    />
  );
}
