// Security groups: all of them, and one with its rules as a table and the NICs that are in it.
import { Table, Text } from '@mantine/core';
import { Shield } from 'lucide-react';
import { type RulePeer, type SecurityGroup, type SecurityRule } from '../../src/api/security-group.ts';
import { client } from '../data/client.ts';
import { formatNumber } from '../i18n/format.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { ObjectPage } from '../ui/object-page.tsx';
import { Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { FirewallTabs } from './firewall-tabs.tsx';
import { Reference, useFreshUse } from './firewall-links.tsx';
import { inOrder, portsText } from './rule-order.ts';

const listPath = '/firewall/security-groups';

export function SecurityGroupListPage() {
  const t = useText();
  useFreshUse();
  const { name, text, created } = useColumns<SecurityGroup>(listPath);
  return (
    <ListPage<SecurityGroup>
      kind="security-group"
      title={t('firewall.groups')}
      subtitle={t('firewall.groups-text')}
      tabs={<FirewallTabs current="security-groups" />}
      read={(query) => client.securityGroup.list({ query })}
      columns={[
        name,
        text('description', t('column.description'), (row) => row.spec.description, { width: 'minmax(120px, 3fr)' }),
        text('rules', t('firewall.rules'), (row) => formatNumber(row.spec.rules.length), { from: 0, width: '90px' }),
        text('members', t('firewall.nics'), (row) => formatNumber(row.status.members.length), {
          from: 0,
          width: '90px',
        }),
        text('used', t('column.used-by'), (row) => row.status.usedBy.join(', '), { from: 900 }),
        created,
      ]}
      empty={
        <Empty icon={<Shield size={44} />} title={t('firewall.groups-empty')} text={t('firewall.groups-empty-text')} />
      }
    />
  );
}

export function SecurityGroupPage() {
  const t = useText();
  useFreshUse();
  return (
    <ObjectPage<SecurityGroup>
      kind="security-group"
      read={(ref) => client.securityGroup.get({ params: { securityGroup: ref } })}
      subtitle={({ spec }) => spec.description}
      facts={({ project, spec, status }) => [
        [t('firewall.rules'), formatNumber(spec.rules.length)],
        [
          t('firewall.includes'),
          spec.includes.length === 0
            ? null
            : spec.includes.map((one) => (
                <span key={one} style={{ marginRight: 8 }}>
                  <Reference path={listPath} project={project} to={one} />
                </span>
              )),
        ],
        [t('column.used-by'), status.usedBy.join(', ') || '–'],
        [t('firewall.addresses'), status.addresses.join(', ')],
      ]}
      more={(item) => (
        <>
          <Rules group={item} />
          <Members group={item} />
        </>
      )}
      remove={{
        run: (item) => client.securityGroup.delete({ params: { securityGroup: item.id } }),
        permission: 'firewall.update',
        usedBy: ({ status }) => status.usedBy.join(', '),
        listPath,
      }}
    />
  );
}

function Rules({ group: { project, spec } }: { group: SecurityGroup }) {
  const t = useText();
  return (
    <Section title={t('firewall.rules')}>
      <Text fz="sm" c="dimmed" mb="sm">
        {t(spec.rules.length === 0 ? 'firewall.no-rules' : 'firewall.rules-text')}
      </Text>
      {spec.rules.length > 0 && (
        <Table.ScrollContainer minWidth={820}>
          <Table verticalSpacing="sm">
            <Table.Thead>
              <Table.Tr>
                <Table.Th>{t('firewall.direction')}</Table.Th>
                <Table.Th>{t('firewall.action')}</Table.Th>
                <Table.Th>{t('firewall.protocol')}</Table.Th>
                <Table.Th>{t('firewall.ports')}</Table.Th>
                <Table.Th>{t('firewall.peers')}</Table.Th>
                <Table.Th ta="right">{t('firewall.priority')}</Table.Th>
                <Table.Th>{t('column.name')}</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {inOrder(spec.rules).map((rule) => (
                <Table.Tr key={rule.name}>
                  <Table.Td>{sayOr(`firewall.direction.${rule.direction}`, rule.direction)}</Table.Td>
                  <Table.Td>
                    <State state={rule.action} />
                  </Table.Td>
                  <Table.Td className="mono">
                    {rule.protocol === 'any' ? t('firewall.any') : String(rule.protocol)}
                  </Table.Td>
                  <Table.Td className="mono">{portsText(rule) ?? t('firewall.any')}</Table.Td>
                  <Table.Td>
                    {rule.peers.length === 0
                      ? t('firewall.everybody')
                      : rule.peers.map((peer) => <Peer key={JSON.stringify(peer)} peer={peer} project={project} />)}
                  </Table.Td>
                  <Table.Td ta="right">{rule.priority}</Table.Td>
                  <Table.Td>
                    <RuleName rule={rule} />
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

function RuleName({ rule }: { rule: SecurityRule }) {
  const t = useText();
  const remarks = [
    rule.isEnabled ? null : t('firewall.switched-off'),
    rule.connectionLimit === undefined ? null : t('firewall.limit', { count: formatNumber(rule.connectionLimit) }),
    rule.isLogged ? t('firewall.logged') : null,
  ].filter((one) => one !== null);
  return (
    <>
      <span className="mono break">{rule.name}</span>
      {[...remarks, rule.description].filter(Boolean).map((line) => (
        <Text key={line} fz="xs" c="dimmed" className="break">
          {line}
        </Text>
      ))}
    </>
  );
}

/** One that the other side may be. */
function Peer({ peer, project }: { peer: RulePeer; project: string }) {
  const t = useText();
  return (
    <div className="break">
      {peer.cidr !== undefined && <span className="mono">{peer.cidr}</span>}
      {peer.dnsName !== undefined && <span className="mono">{peer.dnsName}</span>}
      {peer.addressSet !== undefined && (
        <>
          {t('firewall.peer-set')}{' '}
          <Reference path="/firewall/address-sets" project={project} to={peer.addressSet} isInText />
        </>
      )}
      {peer.securityGroup !== undefined && (
        <>
          {t('firewall.peer-group')} <Reference path={listPath} project={project} to={peer.securityGroup} isInText />
        </>
      )}
      {peer.selector !== undefined && (
        <>
          {t('nav.vms')} <span className="mono">{peer.selector}</span>
        </>
      )}
    </div>
  );
}

function Members({ group: { project, status } }: { group: SecurityGroup }) {
  const t = useText();
  return (
    <Section title={t('firewall.nics')}>
      {status.members.length === 0 ? (
        <Text fz="sm" c="dimmed">
          {t('firewall.no-nics')}
        </Text>
      ) : (
        <Table.ScrollContainer minWidth={420}>
          <Table>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>{t('firewall.vm')}</Table.Th>
                <Table.Th>{t('firewall.nic')}</Table.Th>
                <Table.Th>MAC</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {status.members.map(({ vm, nic, mac }) => (
                <Table.Tr key={`${vm}-${nic}`}>
                  <Table.Td>
                    <Reference path="/vms" project={project} to={vm} />
                  </Table.Td>
                  <Table.Td>{nic}</Table.Td>
                  <Table.Td className="mono">{mac}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
    </Section>
  );
}
